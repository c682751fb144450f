//! What is under the connection's lock: the engine, and where its events go.

use super::Stage;
use super::link::LinkEvent;
use crate::amqp::{Closed, Connection, Event, SessionId};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use tokio::sync::watch;

/// A link as the driver knows it. Its key is the engine's token for it, so that an event finds
/// its link without a search.
#[derive(Debug, Default)]
pub struct Seat {
    /// Not taken by the link yet. A link can be given as many as it has deliveries without
    /// outcome, or credit, and a few more.
    pub inbox: VecDeque<LinkEvent>,
    pub waker: Option<Waker>,
    /// The engine has forgotten the link.
    pub ended: bool,
    /// Nobody reads the inbox any more.
    pub abandoned: bool,
}

/// Everything under the lock.
#[derive(Debug)]
pub struct State {
    pub engine: Connection,
    /// How to wake the task; none while it is awake, or is going to be.
    pub task: Option<Waker>,
    /// Who is to be woken once the lock is free.
    pub woken: Vec<Waker>,
    pub sessions: HashMap<SessionId, watch::Sender<Stage>>,
    pub closed: Option<Closed>,
    pub killed: Option<&'static str>,
    seats: Vec<Option<Seat>>,
    vacant: Vec<usize>,
    /// News about the connection that is not told yet.
    stage: Option<Stage>,
}

impl State {
    pub fn new(engine: Connection) -> Self {
        Self {
            engine,
            task: None,
            woken: Vec::new(),
            sessions: HashMap::new(),
            closed: None,
            killed: None,
            seats: Vec::new(),
            vacant: Vec::new(),
            stage: None,
        }
    }

    /// A seat for a link that is going to be attached; its token. Never 0, which is the token of
    /// links that the peer attached.
    pub fn take_seat(&mut self) -> u64 {
        let key = self.vacant.pop().unwrap_or(self.seats.len());
        match self.seats.get_mut(key) {
            Some(place) => *place = Some(Seat::default()),
            None => self.seats.push(Some(Seat::default())),
        }
        key as u64 + 1
    }

    pub fn seat(&mut self, token: u64) -> Option<&mut Seat> {
        let key = usize::try_from(token).ok()?.checked_sub(1)?;
        self.seats.get_mut(key)?.as_mut()
    }

    /// Gives a seat back. Only when the engine has forgotten its link: it names it until then.
    pub fn leave_seat(&mut self, token: u64) {
        let key = usize::try_from(token).ok().and_then(|t| t.checked_sub(1));
        if let Some(key) = key
            && self.seats.get_mut(key).is_some_and(|p| p.take().is_some())
        {
            self.vacant.push(key);
        }
    }

    /// How many links there are.
    pub fn seated(&self) -> usize {
        self.seats.len() - self.vacant.len()
    }

    /// Hands every event to whom it concerns; answers news about the connection.
    pub fn dispatch(&mut self) -> Option<Stage> {
        while let Some(event) = self.engine.poll_event() {
            self.on(event);
        }
        self.stage.take()
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Opened(_) => self.stage = Some(Stage::Open),
            Event::Closed(closed) => {
                self.stage = Some(Stage::Over);
                self.closed = Some(closed);
            }
            Event::Begun { session, by_peer } => {
                if by_peer {
                    let _ = self.engine.end(session, Some(uninvited()));
                } else if let Some(stage) = self.sessions.get(&session) {
                    stage.send_replace(Stage::Open);
                }
            }
            Event::Ended { session, .. } => {
                if let Some(stage) = self.sessions.remove(&session) {
                    stage.send_replace(Stage::Over);
                }
            }
            Event::Attaching { link, .. } => {
                let _ = self.engine.refuse(link, uninvited());
            }
            // Only a server is asked.
            Event::SaslInit { .. } => {}
            Event::Attached { token, attach, .. } => {
                self.tell(token, LinkEvent::Attached(attach));
            }
            Event::Refused { token, error, .. } => self.end(token, LinkEvent::Refused(error)),
            Event::Detached { token, error, .. } => self.end(token, LinkEvent::Detached(error)),
            Event::Credit { token, credit, .. } => self.tell(token, LinkEvent::Credit(credit)),
            Event::Drained { token, .. } => self.tell(token, LinkEvent::Drained),
            Event::Outcome {
                token,
                delivery,
                outcome,
                ..
            } => self.tell(token, LinkEvent::Outcome(delivery, outcome)),
            Event::Delivery {
                token,
                delivery,
                payload,
                settled,
                ..
            } => {
                let event = LinkEvent::Delivery {
                    delivery,
                    payload,
                    settled,
                };
                self.tell(token, event);
            }
        }
    }

    fn tell(&mut self, token: u64, event: LinkEvent) {
        let Some(seat) = self.seat(token).filter(|seat| !seat.abandoned) else {
            return;
        };
        seat.inbox.push_back(event);
        if let Some(waker) = seat.waker.take() {
            self.woken.push(waker);
        }
    }

    fn end(&mut self, token: u64, event: LinkEvent) {
        self.tell(token, event);
        let Some(seat) = self.seat(token) else {
            return;
        };
        seat.ended = true;
        if seat.abandoned {
            self.leave_seat(token);
        }
    }
}

/// What a peer is told that begins sessions or attaches links by itself.
fn uninvited() -> Error {
    let words = "only the client begins sessions and attaches links".to_owned();
    Error::new(AmqpError::NotAllowed, Some(words), None)
}
