//! Sessions (2.5): windows, transfer-ids, and what a turn has to say.

mod attach;
mod incoming;
mod outgoing;
mod settle;

pub(super) use incoming::Arrival;

use super::delivery::{Outcome, Unsettled};
use super::event::Event;
use super::fault::Fault;
use super::frame::{self, Kind};
use super::link::{FLOWS, Link, Phase, WAITING};
use super::performative::{self, Begin, End, Flow, TooLarge};
use super::slab::{List, Listed, NONE, Node, Slab};
use super::{Limits, Stale};
use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Error, Handle};
use outgoing::Partial;
use settle::Range;
use std::collections::{HashMap, VecDeque};

/// Where the link of a handle has ended.
const GONE: u32 = NONE - 1;

/// Names a session. After its end it names nothing, whoever gets its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub(super) channel: u16,
    pub(super) generation: u32,
}

/// What sessions share with their connection.
#[derive(Debug)]
pub(super) struct Io {
    /// To be written.
    pub out: BytesMut,
    pub events: VecDeque<Event>,
    pub limits: Limits,
    /// Largest frame we may write.
    pub frame_max: usize,
    /// Bytes of deliveries that are not whole yet.
    pub incoming_bytes: usize,
    /// First transfer-id, delivery-id and delivery-count of ours.
    pub first_id: u32,
    generation: u32,
}

impl Io {
    pub fn new(limits: Limits, first_id: u32) -> Self {
        Self {
            first_id,
            out: BytesMut::new(),
            events: VecDeque::new(),
            limits,
            frame_max: frame::SIZE_MIN as usize,
            incoming_bytes: 0,
            generation: 0,
        }
    }

    /// A number that no session or link of the connection had.
    pub fn generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    pub fn output_full(&self) -> bool {
        self.out.len() >= self.limits.output_bytes
    }

    /// Writes a cold performative.
    pub fn put<T>(&mut self, channel: u16, performative: &T) -> Result<(), TooLarge>
    where
        T: serde_amqp::serde::Serialize,
    {
        let max = self.frame_max;
        performative::encode(&mut self.out, Kind::Amqp, channel, performative, max)
    }
}

/// How far a session is (2.5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    BeginSent,
    Mapped,
    /// Frames are discarded until the peer's END.
    EndSent,
}

/// One session endpoint.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub state: State,
    /// The peer's channel, once known.
    pub remote_channel: Option<u16>,
    /// The user knows that it ended.
    pub told: bool,
    remote_handle_max: u32,
    initial_outgoing_id: u32,
    next_outgoing_id: u32,
    /// Transfers we may still send (2.5.6 remote-incoming-window).
    remote_window: u32,
    next_incoming_id: u32,
    /// Transfers the peer may still send.
    incoming_window: u32,
    /// What it was when it was opened last.
    offered: u32,
    links: Slab<Link>,
    /// The peer's handles to slots; [`NONE`] before its first link, [`GONE`] after one.
    remote_handles: Vec<u32>,
    /// Links the peer began, by name: slot where we receive, slot where we send.
    names: HashMap<Box<str>, [u32; 2]>,
    sent: Unsettled,
    received: Unsettled,
    /// The peer sent a first delivery: the ids after it are known.
    received_any: bool,
    partial: Option<Box<Partial>>,
    range: Option<Range>,
    waiting: List,
    flows: List,
    flow_owed: bool,
    echo_owed: bool,
    node: Node,
}

impl Listed for Session {
    fn node(&mut self, _list: usize) -> &mut Node {
        &mut self.node
    }
}

impl Session {
    /// A session of ours, or one the peer began.
    pub fn new(id: SessionId, io: &Io) -> Self {
        let (first_id, limits) = (io.first_id, &io.limits);
        Self {
            id,
            state: State::BeginSent,
            remote_channel: None,
            told: false,
            remote_handle_max: 0,
            initial_outgoing_id: first_id,
            next_outgoing_id: first_id,
            remote_window: 0,
            next_incoming_id: 0,
            incoming_window: limits.session_window,
            offered: limits.session_window,
            links: Slab::default(),
            remote_handles: Vec::new(),
            names: HashMap::new(),
            sent: Unsettled::new(first_id),
            received: Unsettled::new(0),
            received_any: false,
            partial: None,
            range: None,
            waiting: List::new(WAITING),
            flows: List::new(FLOWS),
            flow_owed: false,
            echo_owed: false,
            node: Node::default(),
        }
    }

    /// Writes our BEGIN.
    pub fn put_begin(&self, io: &mut Io) -> Result<(), TooLarge> {
        let begin = Begin {
            remote_channel: self.remote_channel,
            next_outgoing_id: self.next_outgoing_id,
            incoming_window: self.incoming_window,
            outgoing_window: io.limits.session_window,
            handle_max: Handle(io.limits.handle_max),
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        io.put(self.id.channel, &begin)
    }

    /// The peer's BEGIN.
    pub fn on_begin(&mut self, channel: u16, begin: &Begin) {
        self.remote_channel = Some(channel);
        self.remote_handle_max = begin.handle_max.0;
        self.next_incoming_id = begin.next_outgoing_id;
        self.remote_window = begin.incoming_window.min(i32::MAX as u32);
        self.state = State::Mapped;
    }

    /// The link of an id, if it is still that link.
    pub fn link(&self, id: super::LinkId) -> Result<&Link, Stale> {
        let link = self.links.get(id.handle).ok_or(Stale)?;
        if link.id == id { Ok(link) } else { Err(Stale) }
    }

    fn link_mut(&mut self, id: super::LinkId) -> Result<&mut Link, Stale> {
        let link = self.links.get_mut(id.handle).ok_or(Stale)?;
        if link.id == id { Ok(link) } else { Err(Stale) }
    }

    /// The slot of one of the peer's handles.
    fn slot(&self, handle: u32) -> Result<u32, Fault> {
        match self.remote_handles.get(handle as usize) {
            Some(key) if *key < GONE => Ok(*key),
            _ => Err(Fault::unattached(
                "a frame names a handle that is not attached",
            )),
        }
    }

    /// Whether a handle is one whose link has ended. What a peer says about it crossed that end in
    /// its own house, and harms nobody: it is no reason to end a session with all its links.
    fn gone(&self, handle: u32) -> bool {
        self.remote_handles.get(handle as usize) == Some(&GONE)
    }

    /// A FLOW (2.5.6, 2.6.7).
    pub fn on_flow(&mut self, io: &mut Io, flow: &Flow) -> Result<(), Fault> {
        let expected = flow.next_incoming_id.unwrap_or(self.initial_outgoing_id);
        let in_flight = self.next_outgoing_id.wrapping_sub(expected) as i32;
        let window = i64::from(flow.incoming_window) - i64::from(in_flight.max(0));
        self.remote_window = window.clamp(0, i32::MAX.into()) as u32;
        if let Some(handle) = flow.handle.filter(|handle| !self.gone(*handle)) {
            let key = self.slot(handle)?;
            self.on_link_flow(io, key, flow);
        } else if flow.echo {
            self.flow_owed = true;
            self.echo_owed = true;
        }
        self.resume_partial(io);
        self.wake(io);
        Ok(())
    }

    fn on_link_flow(&mut self, io: &mut Io, key: u32, flow: &Flow) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if matches!(link.phase, Phase::DetachSent | Phase::Refusing) {
            return;
        }
        if link.sender {
            if let Some(credit) = flow.link_credit {
                let known = flow.delivery_count.unwrap_or(io.first_id);
                let end = known.wrapping_add(credit.min(i32::MAX as u32));
                link.credit = (end.wrapping_sub(link.delivery_count) as i32).max(0) as u32;
                link.drain = flow.drain;
            }
            if link.wants && link.credit > 0 {
                self.waiting.push(&mut self.links, key);
            }
        } else if let Some(count) = flow.delivery_count {
            let skipped = count.wrapping_sub(link.delivery_count);
            let granted = link.credit_end.wrapping_sub(link.delivery_count);
            // Never beyond what was granted: a peer cannot move the count where it likes.
            if skipped <= granted {
                link.delivery_count = count;
                link.credit = link.credit.saturating_sub(skipped);
            }
            if link.drain && link.credit == 0 {
                link.drain = false;
                let (link, token) = (link.id, link.token);
                io.events.push_back(Event::Drained { link, token });
            }
        }
        let Some(link) = self.links.get(key) else {
            return;
        };
        if flow.echo || (link.sender && link.drain) {
            self.flows.push(&mut self.links, key);
        }
    }

    /// The window we can offer now: bounded by what waits for its outcome.
    fn window(&self, limits: &Limits) -> u32 {
        let unsettled = limits.unsettled.saturating_sub(self.received.len());
        let span = limits.delivery_span.saturating_sub(self.received.span());
        limits.session_window.min(unsettled).min(span)
    }

    /// Whether [`flush`](Self::flush) has something to do.
    pub fn has_work(&self) -> bool {
        self.flow_owed || self.range.is_some() || !self.flows.is_empty() || !self.waiting.is_empty()
    }

    /// Writes what is owed: settlements, FLOWs, and word to those that wait.
    pub fn flush(&mut self, io: &mut Io) {
        if self.state != State::Mapped {
            self.range = None;
            self.flow_owed = false;
            while self.flows.pop(&mut self.links).is_some() {}
            while self.waiting.pop(&mut self.links).is_some() {}
            return;
        }
        self.flush_range(io);
        let mut said = false;
        while let Some(key) = self.flows.pop(&mut self.links) {
            said |= self.put_link_flow(io, key);
        }
        if std::mem::take(&mut self.flow_owed) && !said {
            let opens = self.window(&io.limits) > self.incoming_window;
            if opens || self.echo_owed {
                self.put_flow(io, Flow::default());
            }
        }
        self.echo_owed = false;
    }

    fn put_link_flow(&mut self, io: &mut Io, key: u32) -> bool {
        let Some(link) = self.links.get_mut(key).filter(|link| link.speaks()) else {
            return false;
        };
        if link.sender && link.drain {
            link.delivery_count = link.delivery_count.wrapping_add(link.credit);
            link.credit = 0;
        }
        // The receiver does not know the count before the sender's ATTACH.
        let known = link.sender || link.phase == Phase::Attached;
        let flow = Flow {
            handle: Some(key),
            delivery_count: known.then_some(link.delivery_count),
            link_credit: Some(link.credit),
            drain: link.drain,
            ..Flow::default()
        };
        if link.sender {
            link.drain = false;
        }
        self.put_flow(io, flow);
        true
    }

    fn put_flow(&mut self, io: &mut Io, flow: Flow) {
        self.incoming_window = self.window(&io.limits).max(self.incoming_window);
        self.offered = self.incoming_window;
        let flow = Flow {
            next_incoming_id: Some(self.next_incoming_id),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: io.limits.session_window,
            ..flow
        };
        let at = frame::begin(&mut io.out, Kind::Amqp, self.id.channel);
        flow.encode(&mut io.out);
        frame::finish(&mut io.out, at);
    }

    /// Tells every link that it ended, and forgets them.
    pub fn teardown(&mut self, io: &mut Io, error: Option<&Error>) {
        for key in 0..self.links.end() {
            self.end_link(io, key, error, false);
        }
        self.remote_handles = Vec::new();
        self.partial = None;
        self.range = None;
    }

    /// Tells a link's deliveries and its user that it ended, and forgets it.
    fn end_link(&mut self, io: &mut Io, key: u32, error: Option<&Error>, alone: bool) {
        self.lose(io, key);
        let Some(link) = self.forget(key) else {
            return;
        };
        if !link.told {
            io.events.push_back(Event::Detached {
                link: link.id,
                token: link.token,
                error: error.cloned().map(Box::new),
                alone,
            });
        }
    }

    /// Frees what a link holds; its deliveries without outcome will have none.
    fn lose(&mut self, io: &mut Io, key: u32) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if let Some(incoming) = link.incoming.take() {
            io.incoming_bytes -= incoming.bytes.len();
        }
        if self.partial.as_ref().is_some_and(|p| p.link == key) {
            self.partial = None;
        }
        let store = if link.sender {
            &mut self.sent
        } else {
            &mut self.received
        };
        while let Some(first) = link.unsettled.first() {
            let Some(delivery) = store.remove(&mut link.unsettled, first) else {
                break;
            };
            if link.sender {
                io.events.push_back(Event::Outcome {
                    link: link.id,
                    token: link.token,
                    delivery: delivery.token,
                    outcome: Outcome::Unknown,
                });
            }
        }
    }

    /// Takes a link out of its slot and of every list.
    fn forget(&mut self, key: u32) -> Option<Link> {
        self.waiting.remove(&mut self.links, key);
        self.flows.remove(&mut self.links, key);
        let mut link = self.links.remove(key)?;
        if let Some(name) = link.name.take()
            && let Some(slots) = self.names.get_mut(&name)
        {
            slots[usize::from(link.sender)] = NONE;
            if *slots == [NONE, NONE] {
                self.names.remove(&name);
            }
        }
        if let Some(entry) = self.remote_handles.get_mut(link.remote_handle as usize) {
            *entry = GONE;
        }
        Some(link)
    }

    /// The session after it in the list of those with work.
    pub fn after(&self) -> Option<u32> {
        Some(self.node.next()).filter(|next| *next != NONE)
    }

    /// Writes END once; what the session owed is void.
    pub fn put_end(&mut self, io: &mut Io, error: Option<Error>) {
        if self.state != State::EndSent {
            self.flush_range(io);
            self.state = State::EndSent;
            let end = End { error };
            if io.put(self.id.channel, &end).is_err() {
                // An error with too many words: END without them.
                let _ = io.put(self.id.channel, &End { error: None });
            }
        }
    }
}
