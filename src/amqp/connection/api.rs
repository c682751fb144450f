//! What users of a connection ask of it.

use super::{Connection, Stage};
use crate::amqp::delivery::{DeliveryId, Outcome};
use crate::amqp::link::{LinkId, Message, SendError, Stale};
use crate::amqp::performative::Attach;
use crate::amqp::session::{Session, SessionId, State};
use fe2o3_amqp_types::definitions::Error;
use std::fmt;

/// Why no session was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginError {
    /// The connection is not open (any more).
    NotOpen,
    /// The peer's channel-max allows no more sessions.
    ChannelMax,
}

/// Why no link was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The session is not mapped (any more).
    NotMapped,
    /// The peer's handle-max allows no more links in this session.
    HandleMax,
    /// The ATTACH does not fit into a frame that the peer takes.
    TooLarge,
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOpen => "the connection is not open",
            Self::ChannelMax => "the peer's channel-max allows no more sessions",
        })
    }
}

impl std::error::Error for BeginError {}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMapped => "the session is not mapped",
            Self::HandleMax => "the peer's handle-max allows no more links in this session",
            Self::TooLarge => "the attach does not fit into the peer's frames",
        })
    }
}

impl std::error::Error for AttachError {}

impl Connection {
    /// Begins a session (2.5.1); [`Event::Begun`](crate::amqp::Event::Begun) follows.
    pub fn begin(&mut self) -> Result<SessionId, BeginError> {
        if self.stage != Stage::Up {
            return Err(BeginError::NotOpen);
        }
        let key = self.sessions.next_key();
        if key > u32::from(self.remote_channel_max) {
            return Err(BeginError::ChannelMax);
        }
        let id = SessionId {
            channel: key as u16,
            generation: self.io.generation(),
        };
        let session = Session::new(id, &self.io);
        if session.put_begin(&mut self.io).is_err() {
            return Err(BeginError::NotOpen);
        }
        self.sessions.insert(session);
        Ok(id)
    }

    /// Ends a session (2.5.3). Its links are told now, [`Event::Ended`](crate::amqp::Event::Ended)
    /// follows when the peer has answered.
    pub fn end(&mut self, id: SessionId, error: Option<Error>) -> Result<(), Stale> {
        let (session, io) = self.session(id)?;
        if session.state == State::EndSent {
            return Err(Stale);
        }
        session.put_end(io, error);
        session.teardown(io, None);
        Ok(())
    }

    /// Attaches a link (2.6.3) made by [`sender`](crate::amqp::sender) or
    /// [`receiver`](crate::amqp::receiver): any number at once, without waiting.
    /// [`Event::Attached`](crate::amqp::Event::Attached) or
    /// [`Event::Refused`](crate::amqp::Event::Refused) follows. `attach.name` is the beginning of
    /// the name; what follows makes it fresh. `credit` is a receiver's first.
    pub fn attach(
        &mut self,
        id: SessionId,
        attach: Attach,
        credit: u32,
        token: u64,
    ) -> Result<LinkId, AttachError> {
        let (session, io) = self.session(id).map_err(|Stale| AttachError::NotMapped)?;
        if session.state != State::Mapped {
            return Err(AttachError::NotMapped);
        }
        let handle = session.next_handle().ok_or(AttachError::HandleMax)?;
        let link = LinkId {
            channel: id.channel,
            handle,
            generation: io.generation(),
        };
        session
            .attach(io, link, attach, credit, token)
            .map_err(|_| AttachError::TooLarge)?;
        self.touch(id.channel.into());
        Ok(link)
    }

    /// Accepts a link of [`Event::Attaching`](crate::amqp::Event::Attaching). `attach` is the
    /// peer's, with what shall differ: settle modes, source, target, max-message-size, properties.
    pub fn accept(
        &mut self,
        link: LinkId,
        attach: Attach,
        credit: u32,
        token: u64,
    ) -> Result<(), Stale> {
        self.on_link(link, |session, io| {
            session.accept(io, link, attach, credit, token)
        })
    }

    /// Refuses a link of [`Event::Attaching`](crate::amqp::Event::Attaching).
    pub fn refuse(&mut self, link: LinkId, error: Error) -> Result<(), Stale> {
        self.on_link(link, |session, io| {
            let name = session.link(link)?.name.clone().unwrap_or_default();
            session.refuse(io, link, &name, error)
        })
    }

    /// Detaches and closes a link (2.6.6);
    /// [`Event::Detached`](crate::amqp::Event::Detached) follows. Its handle stays reserved until
    /// the peer's answer.
    pub fn detach(&mut self, link: LinkId, error: Option<Error>) -> Result<(), Stale> {
        self.on_link(link, |session, io| session.detach(io, link, error))
    }

    /// Sends a message, at once and whole as far as the session's window allows. Exactly one
    /// [`Event::Outcome`](crate::amqp::Event::Outcome) follows, unless it is settled.
    pub fn send(&mut self, link: LinkId, message: &Message<'_>) -> Result<DeliveryId, SendError> {
        if self.stage != Stage::Up {
            return Err(SendError::Stale);
        }
        let Some(session) = self.sessions.get_mut(link.channel.into()) else {
            return Err(SendError::Stale);
        };
        let sent = session.send(&mut self.io, link, message);
        if sent == Err(SendError::WouldBlock) {
            self.touch(link.channel.into());
        }
        sent
    }

    /// Withdraws a message of which the peer's window has not let out every frame; its outcome is
    /// [`Outcome::Unknown`]. False when it is out.
    pub fn abort(&mut self, delivery: DeliveryId) -> bool {
        match self.sessions.get_mut(delivery.link.channel.into()) {
            Some(session) => session.abort(&mut self.io, delivery),
            None => false,
        }
    }

    /// Says how a received delivery ended. Deliveries that end alike leave as ranges, with the
    /// next write. One that its sender has settled, or whose link has ended, is [`Stale`].
    pub fn settle(&mut self, delivery: DeliveryId, outcome: &Outcome) -> Result<(), Stale> {
        self.on_link(delivery.link, |session, io| {
            session.settle(io, delivery, outcome)
        })
    }

    /// Sets how many deliveries a receiver may get from now on (2.6.7 link-credit).
    pub fn set_credit(&mut self, link: LinkId, credit: u32) -> Result<(), Stale> {
        self.on_link(link, |session, _| session.set_credit(link, credit, false))
    }

    /// Asks the sender to use up `credit` or give it back (2.6.7 drain);
    /// [`Event::Drained`](crate::amqp::Event::Drained) follows.
    pub fn drain(&mut self, link: LinkId, credit: u32) -> Result<(), Stale> {
        self.on_link(link, |session, _| session.set_credit(link, credit, true))
    }

    /// Deliveries that a sender may send, or that a receiver may still get.
    pub fn credit(&self, link: LinkId) -> Result<u32, Stale> {
        let session = self.sessions.get(link.channel.into()).ok_or(Stale)?;
        Ok(session.link(link)?.credit)
    }

    fn on_link<T>(
        &mut self,
        link: LinkId,
        act: impl FnOnce(&mut Session, &mut crate::amqp::session::Io) -> Result<T, Stale>,
    ) -> Result<T, Stale> {
        if self.stage != Stage::Up {
            return Err(Stale);
        }
        let key = link.channel.into();
        let session = self.sessions.get_mut(key).ok_or(Stale)?;
        let done = act(session, &mut self.io);
        self.touch(key);
        done
    }
}
