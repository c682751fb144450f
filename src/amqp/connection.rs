//! Connections (2.4): the engine's whole interface.

mod api;
mod handshake;
mod input;
mod time;

pub use api::{AttachError, BeginError};

use super::event::{Closed, Event};
use super::fault::Fault;
use super::frame;
use super::performative::{Close, Open};
use super::sasl::Sasl;
use super::session::{Io, Session, State};
use super::slab::{List, NONE, Slab};
use super::{Limits, Stale};
use crate::runtime::clock::Mono;
use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Error, Fields};
use serde_amqp::primitives::{Array, Symbol};
use std::time::Duration;

/// Who opened the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We did: we speak first.
    Client,
    /// The peer did.
    Server,
}

/// What is decided before the first byte.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who speaks first.
    pub side: Side,
    /// Unique to this connection (2.7.1): link names are scoped by it.
    pub container_id: String,
    /// The host the client wants.
    pub hostname: Option<String>,
    /// The connection is closed after this time without a frame from the peer.
    pub idle_time_out: Option<Duration>,
    /// What the peer is told of it, so that a frame that is a little late costs nothing (2.4.5);
    /// if it is not said, half.
    pub idle_announced: Option<Duration>,
    /// SASL layer.
    pub sasl: Sasl,
    /// OPEN's properties.
    pub properties: Option<Fields>,
    /// OPEN's desired-capabilities.
    pub desired_capabilities: Option<Array<Symbol>>,
    /// First transfer-id, delivery-id and delivery-count; any, they wrap.
    pub first_id: u32,
    /// What the peer may make us hold or do.
    pub limits: Limits,
}

impl Config {
    /// A client or server without SASL layer and idle time-out.
    #[must_use]
    pub fn new(side: Side, container_id: impl Into<String>) -> Self {
        Self {
            side,
            container_id: container_id.into(),
            hostname: None,
            idle_time_out: None,
            idle_announced: None,
            sasl: Sasl::None,
            properties: None,
            desired_capabilities: None,
            first_id: 0,
            limits: Limits::default(),
        }
    }
}

/// How far the connection is (2.4.6, 5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The peer's protocol header is awaited; a server does not know yet which.
    FirstHeader,
    /// Client: the server's mechanisms.
    SaslMechanisms,
    /// Client: the server's verdict.
    SaslOutcome,
    /// Server: the client's choice.
    SaslInit,
    /// Server: the user's verdict.
    SaslVerdict,
    /// The AMQP header, after SASL.
    AmqpHeader,
    /// The peer's OPEN.
    Open,
    Up,
    /// Our CLOSE is out; all but the peer's is discarded.
    Closing,
    Over,
}

/// What [`Connection::feed`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// More bytes.
    Hungry,
    /// First take the events and write what there is; then feed again, with what is left.
    Busy,
    /// Nothing any more: the connection is over.
    Over,
}

/// One AMQP connection.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    stage: Stage,
    io: Io,
    sessions: Slab<Session>,
    /// The peer's channels to ours, [`NONE`] where there is no session.
    remote_channels: Vec<u32>,
    /// Sessions with something to say.
    dirty: List,
    remote_channel_max: u16,
    /// Between two frames of ours, at most.
    ping: Option<Duration>,
    /// When the handshake, or the answer to our CLOSE, must have come.
    limit: Mono,
    heard: Mono,
    spoke: Mono,
    challenged: bool,
}

impl Connection {
    /// A connection whose transport has just been opened.
    #[must_use]
    pub fn new(config: Config, now: Mono) -> Self {
        let mut limits = config.limits.clone();
        limits.frame_size = limits.frame_size.max(frame::SIZE_MIN);
        let mut connection = Self {
            stage: Stage::FirstHeader,
            io: Io::new(limits, config.first_id),
            sessions: Slab::default(),
            remote_channels: Vec::new(),
            dirty: List::new(0),
            remote_channel_max: 0,
            ping: None,
            limit: now + config.limits.handshake,
            heard: now,
            spoke: now,
            challenged: false,
            config,
        };
        connection.start();
        connection
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.io.events.pop_front()
    }

    /// Highest channel number the peer takes; known once the connection is open.
    #[must_use]
    pub fn remote_channel_max(&self) -> u16 {
        self.remote_channel_max
    }

    /// Whether nothing more will come or go.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Appends everything there is to say to `out`; answers how many bytes. Ask for events again
    /// afterwards: links that waited for the room may send now.
    pub fn write(&mut self, out: &mut BytesMut, now: Mono) -> usize {
        self.flush();
        let size = self.io.out.len();
        if size > 0 {
            self.spoke = now;
            if out.is_empty() {
                // The buffers change places: neither is copied nor allocated again.
                std::mem::swap(out, &mut self.io.out);
                self.io.out.clear();
            } else {
                out.extend_from_slice(&self.io.out);
                self.io.out.clear();
            }
        }
        self.wake();
        size
    }

    /// Writes what sessions owe; after CLOSE nothing may follow (2.4.3).
    fn flush(&mut self) {
        if self.stage != Stage::Up {
            return;
        }
        let mut key = self.dirty.first();
        while let Some(at) = key {
            let Some(session) = self.sessions.get_mut(at) else {
                break;
            };
            session.flush(&mut self.io);
            let more = session.has_work();
            key = session.after();
            if !more {
                self.dirty.remove(&mut self.sessions, at);
            }
        }
    }

    /// After a turn: whoever still waits, and could send, is told.
    fn wake(&mut self) {
        let mut key = self.dirty.first();
        while let Some(at) = key {
            let Some(session) = self.sessions.get_mut(at) else {
                break;
            };
            session.wake(&mut self.io);
            key = session.after();
        }
    }

    /// Lists a session that has something to say.
    fn touch(&mut self, key: u32) {
        if self.sessions.get(key).is_some_and(Session::has_work) {
            self.dirty.push(&mut self.sessions, key);
        }
    }

    /// Closes the connection; [`Closed::Local`] follows when the peer has answered.
    pub fn close(&mut self, error: Option<Error>, now: Mono) {
        match self.stage {
            Stage::Up => {
                self.flush();
                self.put_close(error);
                self.stage = Stage::Closing;
                self.limit = now + self.io.limits.closing;
            }
            Stage::Closing | Stage::Over => {}
            _ => self.finish(Closed::Local, None),
        }
    }

    /// The transport is gone: everything ends now.
    pub fn lost(&mut self) {
        self.finish(Closed::Lost, None);
    }

    fn put_close(&mut self, error: Option<Error>) {
        if self.io.put(0, &Close { error }).is_err() {
            // An error with too many words: CLOSE without them.
            let _ = self.io.put(0, &Close { error: None });
        }
    }

    /// Tells the peer what it did wrong, and ends.
    fn fail(&mut self, fault: Fault) {
        let error = fault.error();
        match self.stage {
            Stage::Up => {
                self.flush();
                self.put_close(Some(error.clone()));
            }
            Stage::Open => self.put_close(Some(error.clone())),
            // Before OPEN there is no frame to say it with.
            _ => {}
        }
        self.finish(Closed::Fault(Box::new(fault)), Some(&error));
    }

    /// Tells sessions, links and deliveries that it is over, then the user.
    fn finish(&mut self, closed: Closed, error: Option<&Error>) {
        if self.stage == Stage::Over {
            return;
        }
        self.stage = Stage::Over;
        for key in 0..self.sessions.end() {
            self.end_session(key, error);
        }
        self.io.events.push_back(Event::Closed(closed));
    }

    /// Tells a session's links and its user that it ended, and forgets it.
    fn end_session(&mut self, key: u32, error: Option<&Error>) {
        self.dirty.remove(&mut self.sessions, key);
        let Some(mut session) = self.sessions.remove(key) else {
            return;
        };
        session.teardown(&mut self.io, error);
        if let Some(channel) = session.remote_channel
            && let Some(entry) = self.remote_channels.get_mut(usize::from(channel))
        {
            *entry = NONE;
        }
        if !session.told {
            self.io.events.push_back(Event::Ended {
                session: session.id,
                error: error.cloned().map(Box::new),
            });
        }
    }

    /// Ends a session because of the peer's fault; its users are told now.
    fn fail_session(&mut self, key: u32, fault: &Fault) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.state == State::EndSent {
            return;
        }
        session.put_end(&mut self.io, Some(fault.error()));
        session.teardown(&mut self.io, Some(&fault.error()));
        session.told = true;
        self.io.events.push_back(Event::Ended {
            session: session.id,
            error: Some(Box::new(fault.error())),
        });
    }

    /// Our OPEN.
    fn open(&self) -> Open {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Open {
            container_id: self.config.container_id.clone(),
            hostname: self.config.hostname.clone(),
            max_frame_size: self.io.limits.frame_size.into(),
            channel_max: self.io.limits.channel_max.into(),
            idle_time_out: self
                .config
                .idle_announced
                .or(self.config.idle_time_out.map(|time| time / 2))
                .map(millis),
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: self.config.desired_capabilities.clone(),
            properties: self.config.properties.clone(),
        }
    }

    fn session(&mut self, id: super::SessionId) -> Result<(&mut Session, &mut Io), Stale> {
        if self.stage != Stage::Up {
            return Err(Stale);
        }
        let session = self.sessions.get_mut(id.channel.into()).ok_or(Stale)?;
        if session.id == id {
            Ok((session, &mut self.io))
        } else {
            Err(Stale)
        }
    }
}
