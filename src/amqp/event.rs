//! What the engine tells its driver.

use super::delivery::{DeliveryId, Outcome};
use super::fault::Fault;
use super::link::LinkId;
use super::performative::{Attach, Open};
use super::session::SessionId;
use crate::config::secret::Secret;
use bytes::Bytes;
use fe2o3_amqp_types::definitions::Error;
use fe2o3_amqp_types::sasl::SaslCode;

/// Something happened. Tokens are the driver's own words for its links and deliveries.
#[derive(Debug)]
pub enum Event {
    /// A client asks to be authenticated (5.3.3.2). Input waits for
    /// [`sasl_outcome`](super::Connection::sasl_outcome).
    SaslInit {
        /// Chosen among those offered.
        mechanism: String,
        /// What the mechanism says in its first message.
        response: Secret,
        /// The host the client wants.
        hostname: Option<String>,
    },
    /// Both OPENs were exchanged; the peer's.
    Opened(Box<Open>),
    /// A session is mapped: our [`begin`](super::Connection::begin) was answered, or the peer
    /// began it.
    Begun {
        /// The session.
        session: SessionId,
        /// The peer began it.
        by_peer: bool,
    },
    /// A session ended; its links were told before. The error says why, if anybody did.
    Ended {
        /// The session; of no use any more.
        session: SessionId,
        /// The peer's reason, or the fault it was told.
        error: Option<Box<Error>>,
    },
    /// The peer attaches a link: [`accept`](super::Connection::accept) or
    /// [`refuse`](super::Connection::refuse) it.
    Attaching {
        /// The link.
        link: LinkId,
        /// The peer's ATTACH.
        attach: Box<Attach>,
    },
    /// Our ATTACH was answered.
    Attached {
        /// The link.
        link: LinkId,
        /// Its token.
        token: u64,
        /// The peer's ATTACH.
        attach: Box<Attach>,
    },
    /// Our ATTACH was refused (2.6.3).
    Refused {
        /// The link; of no use any more.
        link: LinkId,
        /// Its token.
        token: u64,
        /// Why.
        error: Option<Box<Error>>,
    },
    /// A link is no longer attached: the peer, its session or its connection ended it, or our
    /// [`detach`](super::Connection::detach) was answered. Deliveries without outcome were told
    /// before.
    Detached {
        /// The link; of no use any more.
        link: LinkId,
        /// Its token.
        token: u64,
        /// Why.
        error: Option<Box<Error>>,
        /// The link alone; else its session or connection ended, and the reason is theirs.
        alone: bool,
    },
    /// A link whose [`send`](super::Connection::send) had to wait may try again.
    Credit {
        /// The link.
        link: LinkId,
        /// Its token.
        token: u64,
        /// Deliveries it may send.
        credit: u32,
    },
    /// The peer used up, or gave back, the credit of a link that was told to drain (2.6.7).
    Drained {
        /// The link.
        link: LinkId,
        /// Its token.
        token: u64,
    },
    /// A delivery we sent has its outcome. There is exactly one for each unsettled send.
    Outcome {
        /// The link.
        link: LinkId,
        /// Its token.
        token: u64,
        /// The delivery's token.
        delivery: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// A message arrived whole.
    Delivery {
        /// The link.
        link: LinkId,
        /// Its token.
        token: u64,
        /// For [`settle`](super::Connection::settle).
        delivery: DeliveryId,
        /// The message's sections.
        payload: Bytes,
        /// 0 is the format of part 3.
        message_format: u32,
        /// Its sender does not wait for an outcome.
        settled: bool,
    },
    /// The connection is over; sessions and links were told before. What
    /// [`write`](super::Connection::write) still gives is the CLOSE: send it, then shut down.
    Closed(Closed),
}

/// How a connection ended.
#[derive(Debug)]
pub enum Closed {
    /// We closed, the peer answered.
    Local,
    /// The peer closed.
    Peer(Option<Box<Error>>),
    /// The peer broke a rule and was told so.
    Fault(Box<Fault>),
    /// SASL ended with this code (5.3.3.6).
    Sasl(SaslCode),
    /// The peer does not offer our SASL mechanism; what it offers.
    Mechanism(String),
    /// The peer's protocol header is for something else.
    Header([u8; 8]),
    /// Nothing was heard for the idle time-out.
    Idle,
    /// The handshake, or the answer to our CLOSE, took too long.
    Timeout,
    /// The driver said that the transport is gone.
    Lost,
}
