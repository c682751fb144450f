//! Links (2.6): names, credit, phases.

use super::delivery::BY_LINK;
use super::performative::Attach;
use super::slab::{List, Listed, NONE, Node};
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use std::fmt;

/// Names a link. After the link's end it names nothing, whoever gets its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId {
    pub(super) channel: u16,
    pub(super) handle: u32,
    pub(super) generation: u32,
}

/// The id is of a session, link or delivery that has ended, or is not far enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session, link or delivery has ended")
    }
}

impl std::error::Error for Stale {}

/// A message to send: its sections, in two pieces so that a body need not be copied to stand
/// behind its header.
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    /// Sections before the body, and the body's own head.
    pub head: &'a [u8],
    /// The rest.
    pub body: Bytes,
    /// No outcome is wanted.
    pub settled: bool,
    /// Comes back with the outcome.
    pub token: u64,
}

/// Why a message was not taken. Nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Not now: no credit, session window closed, too much unsettled or unwritten. An
    /// [`Event::Credit`](super::Event::Credit) follows when it is worth another try.
    WouldBlock,
    /// The link is not attached, or has ended.
    Stale,
    /// Larger than the peer's max-message-size.
    TooLarge {
        /// What the peer takes, bytes.
        limit: u64,
    },
    /// The link is a receiver, or its settle mode forbids it (2.8.2).
    NotAllowed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("no credit, or the session is full"),
            Self::Stale => f.write_str("the link is not attached"),
            Self::TooLarge { limit } => write!(f, "the peer takes at most {limit} bytes"),
            Self::NotAllowed => f.write_str("role or settle mode of the link forbid it"),
        }
    }
}

impl std::error::Error for SendError {}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Our ATTACH is out.
    AttachSent,
    /// The peer's ATTACH waits for the user's answer.
    Offered,
    /// Both are exchanged.
    Attached,
    /// The peer's ATTACH names no terminus: its DETACH will say why (2.6.3).
    Refusing,
    /// Our DETACH is out; the handle stays reserved until the peer's.
    DetachSent,
}

/// List of links that wait to send.
pub(super) const WAITING: usize = 0;
/// List of links that owe a FLOW.
pub(super) const FLOWS: usize = 1;

/// One link endpoint.
#[derive(Debug)]
pub(super) struct Link {
    pub id: LinkId,
    pub token: u64,
    pub phase: Phase,
    /// We send.
    pub sender: bool,
    /// The user knows that it ended.
    pub told: bool,
    /// A send was refused; the user waits for `Event::Credit`.
    pub wants: bool,
    /// Sender: the peer wants it drained. Receiver: we do.
    pub drain: bool,
    /// `mixed`, or what the sender committed itself to (2.8.2).
    pub snd_settle_mode: SenderSettleMode,
    /// 2.8.3
    pub second: bool,
    /// The peer's handle, or [`NONE`].
    pub remote_handle: u32,
    /// 2.6.7
    pub delivery_count: u32,
    /// Sender: deliveries it may send. Receiver: what the peer was told last, less what came.
    pub credit: u32,
    /// Receiver: the delivery-count up to which credit was ever granted.
    pub credit_end: u32,
    /// Sender: the peer's. Receiver: ours. 0 is no limit.
    pub max_message_size: u64,
    /// Without outcome.
    pub unsettled: List,
    /// A delivery that is not whole yet.
    pub incoming: Option<Box<Incoming>>,
    /// The name of a link that the peer began.
    pub name: Option<Box<str>>,
    pub waiting: Node,
    pub flows: Node,
}

/// A delivery that arrives in several frames.
#[derive(Debug)]
pub(super) struct Incoming {
    pub key: u32,
    pub id: u32,
    pub message_format: u32,
    pub settled: bool,
    pub bytes: BytesMut,
}

impl Listed for Link {
    fn node(&mut self, list: usize) -> &mut Node {
        if list == WAITING {
            &mut self.waiting
        } else {
            &mut self.flows
        }
    }
}

impl Link {
    pub fn new(id: LinkId, token: u64, phase: Phase, sender: bool) -> Self {
        Self {
            id,
            token,
            phase,
            sender,
            told: false,
            wants: false,
            drain: false,
            snd_settle_mode: SenderSettleMode::Mixed,
            second: false,
            remote_handle: NONE,
            delivery_count: 0,
            credit: 0,
            credit_end: 0,
            max_message_size: 0,
            unsettled: List::new(BY_LINK),
            incoming: None,
            name: None,
            waiting: Node::default(),
            flows: Node::default(),
        }
    }

    /// Whether we may still say something about it on the wire.
    pub fn speaks(&self) -> bool {
        matches!(self.phase, Phase::AttachSent | Phase::Attached)
    }
}

/// The name of a link we attach: no other link of the connection has or had it. Its tail finds
/// the slot again when the peer answers.
pub(super) fn fresh_name(stem: &str, id: LinkId) -> String {
    format!("{stem}#{:x}.{:x}", id.handle, id.generation)
}

/// Handle and generation of a name that [`fresh_name`] made.
pub(super) fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (_, tail) = name.rsplit_once('#')?;
    let (handle, generation) = tail.split_once('.')?;
    let parse = |hex| u32::from_str_radix(hex, 16).ok();
    Some((parse(handle)?, parse(generation)?))
}

fn attach(stem: &str, role: Role, source: Option<Source>, target: Option<Target>) -> Attach {
    Attach {
        name: stem.to_owned(),
        handle: 0.into(),
        role,
        snd_settle_mode: SenderSettleMode::Mixed,
        rcv_settle_mode: ReceiverSettleMode::First,
        source: source.map(Box::new),
        target: target.map(|target| Box::new(TargetArchetype::Target(target))),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: None,
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

/// The ATTACH of a link that sends to `address`. `stem` begins its name.
#[must_use]
pub fn sender(stem: &str, address: &str) -> Attach {
    let target = Target {
        address: Some(address.to_owned()),
        ..Target::default()
    };
    attach(stem, Role::Sender, Some(Source::default()), Some(target))
}

/// The ATTACH of a link that receives from `address`. `stem` begins its name.
#[must_use]
pub fn receiver(stem: &str, address: &str) -> Attach {
    let source = Source {
        address: Some(address.to_owned()),
        ..Source::default()
    };
    attach(stem, Role::Receiver, Some(source), Some(Target::default()))
}
