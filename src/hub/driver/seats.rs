//! What is under the connection's lock: the engine, and where its events go.

use super::Stage;
use super::link::LinkEvent;
use crate::amqp::performative::Attach;
use crate::amqp::{Closed, Connection, Event, LinkId, Outcome, SessionId};
use crate::hub::encode;
use crate::hub::outcome::words;
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::watch;

/// Why a connection is cut whose peer leaves something unanswered.
const NO_ATTACH: &str = "the hub did not answer an attach within hub.operation_timeout";
const NO_DETACH: &str = "the hub did not answer a detach within hub.operation_timeout";

/// A link as the driver knows it. Its key is the engine's token for it, so that an event finds
/// its link without a search.
#[derive(Debug, Default)]
pub struct Seat {
    /// Not taken by the link yet. A link can be given as many as it has deliveries without
    /// outcome, or credit, and a few more.
    pub inbox: VecDeque<LinkEvent>,
    pub waker: Option<Waker>,
    /// The peer has answered our ATTACH.
    attached: bool,
    /// The link is being detached; the peer must have answered until then.
    answer_by: Option<Mono>,
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
    /// Who waits until no DETACH of ours waits for its answer.
    pub until_detached: Vec<Waker>,
    pub sessions: HashMap<SessionId, watch::Sender<Stage>>,
    pub closed: Option<Closed>,
    pub killed: Option<&'static str>,
    seats: Vec<Option<Seat>>,
    vacant: Vec<usize>,
    /// How long the peer may take to answer a DETACH.
    patience: Duration,
    /// Links that are being detached, by the time the peer's answer is due; those that have ended
    /// are dropped when they are the first.
    due: VecDeque<(Mono, u64)>,
    /// News about the connection that is not told yet.
    stage: Option<Stage>,
}

impl State {
    pub fn new(engine: Connection, patience: Duration) -> Self {
        Self {
            engine,
            task: None,
            woken: Vec::new(),
            until_detached: Vec::new(),
            sessions: HashMap::new(),
            closed: None,
            killed: None,
            seats: Vec::new(),
            vacant: Vec::new(),
            patience,
            due: VecDeque::new(),
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

    /// Detaches a link; messages that nobody took are released first. One whose ATTACH the peer has
    /// not answered is detached when it has: a peer may hold an ATTACH back while it asks its own
    /// house, and find that a DETACH in front of its answer names no link of its.
    pub fn detach(&mut self, token: u64, link: LinkId, error: Option<Error>) {
        let Some(seat) = self.seat(token) else {
            return;
        };
        let mut untaken = Vec::new();
        seat.inbox.retain(|event| match event {
            LinkEvent::Delivery {
                delivery, settled, ..
            } => {
                untaken.extend((!settled).then_some(*delivery));
                false
            }
            _ => true,
        });
        for delivery in untaken {
            // What the peer has settled meanwhile is stale.
            let _ = self.engine.settle(delivery, &Outcome::Released);
        }
        let how = |seat: &mut Seat| (seat.attached, seat.answer_by.is_some());
        match self.seat(token).map(how) {
            None | Some((false, true)) => {}
            Some((false, false)) => self.expect(token),
            Some((true, _)) => {
                // One that is being detached, or has ended, is stale.
                if self.engine.detach(link, error).is_ok() {
                    self.expect(token);
                }
            }
        }
    }

    /// Notes until when a link must have ended.
    fn expect(&mut self, token: u64) {
        let answer_by = clock::mono() + self.patience;
        if let Some(seat) = self.seat(token).filter(|seat| !seat.ended) {
            seat.answer_by = Some(answer_by);
            self.due.push_back((answer_by, token));
        }
    }

    /// When the oldest DETACH of ours must have been answered; none waits for an answer.
    pub fn answer_by(&mut self) -> Option<Mono> {
        while let Some((at, token)) = self.due.front().copied() {
            let waits = |seat: &Seat| seat.answer_by == Some(at) && !seat.ended;
            if self.seat(token).is_some_and(|seat| waits(seat)) {
                return Some(at);
            }
            self.due.pop_front();
        }
        None
    }

    /// What must be done next, and when.
    pub fn deadline(&mut self) -> Mono {
        let engine = self.engine.deadline();
        self.answer_by().map_or(engine, |at| at.min(engine))
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Mono) {
        self.engine.tick(now);
        if self.answer_by().is_some_and(|at| at <= now)
            && let Some((_, token)) = self.due.front().copied()
        {
            let attached = self.seat(token).is_some_and(|seat| seat.attached);
            let why = if attached { NO_DETACH } else { NO_ATTACH };
            self.killed.get_or_insert(why);
        }
    }

    /// Hands every event to whom it concerns; answers news about the connection.
    pub fn dispatch(&mut self) -> Option<Stage> {
        while let Some(event) = self.engine.poll_event() {
            self.on(event);
        }
        if !self.until_detached.is_empty() && self.answer_by().is_none() {
            self.woken.append(&mut self.until_detached);
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
            Event::Ended { session, error } => {
                let cause = error.as_deref().map(encode::cause);
                tracing::debug!(cause = words(cause.as_ref()), "session ended");
                if let Some(stage) = self.sessions.remove(&session) {
                    stage.send_replace(Stage::Over);
                }
            }
            Event::Attaching { link, .. } => {
                let _ = self.engine.refuse(link, uninvited());
            }
            // Only a server is asked.
            Event::SaslInit { .. } => {}
            Event::Attached {
                link,
                token,
                attach,
            } => self.attached(link, token, attach),
            Event::Refused { token, error, .. } => self.end(token, LinkEvent::Refused(error)),
            Event::Detached {
                token,
                error,
                alone: true,
                ..
            } => self.end(token, LinkEvent::Detached(error)),
            Event::Detached { token, .. } => self.end(token, LinkEvent::Stopped),
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

    fn attached(&mut self, link: LinkId, token: u64, attach: Box<Attach>) {
        let Some(seat) = self.seat(token) else {
            return;
        };
        seat.attached = true;
        if seat.answer_by.is_some() {
            self.detach(token, link, None);
        } else {
            self.tell(token, LinkEvent::Attached(attach));
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
