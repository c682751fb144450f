//! The state machine of one device's MQTT connection: (packet, now) → event.
//!
//! It owns the rules of the protocol and the acknowledgement windows both ways, and writes
//! answers into a buffer the driver flushes. A PUBACK can be written only for a [`Receipt`].
//!
//! ```text
//! AwaitConnect ──CONNECT──▶ Deciding ──accept──▶ Open ──DISCONNECT, violation, goodbye──▶ Closed
//!       └───violation──────────┴──refuse──────────────────────────────────────────────────▶┘
//! ```
//!
//! A violation closes the session; what it must never do is go on after one.

mod answer;
mod connect;
#[cfg(test)]
mod tests;
mod types;

pub use types::{ConnectRefusal, Deliver, Event, Goodbye, Receipt, SessionLimits, Ticket};

use super::decode::{self, Header, Kind, Stage};
use super::encode;
use super::inflight::{Downlink, Uplink, Verdict};
use super::packet::{Glimpse, Packet, PacketId, Protocol, Publish, QoS, Versions, Will};
use super::violation::Violation;
use crate::runtime::clock::Mono;
use bytes::BytesMut;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitConnect,
    Deciding,
    Open,
    /// This side said goodbye; what the device says about commands still counts.
    Left,
    Closed,
}

/// One device's session.
pub struct Session {
    limits: SessionLimits,
    versions: Versions,
    state: State,
    protocol: Protocol,
    /// When the connection began, later when the last packet came.
    last: Mono,
    /// What CONNECT asked for, seconds.
    keep_alive_s: u16,
    /// Silence after which the connection ends.
    keep_alive_timeout: Duration,
    /// Size of the PUBLISH the full window holds back, bytes.
    held: Option<usize>,
    uplink: Uplink,
    downlink: Downlink,
    will: Option<Will>,
    /// Whether CONNECT was accepted; the will of a refused one is never published.
    accepted: bool,
    /// MQTT 5: the largest packet the client takes, bytes.
    client_bytes_max: u32,
    /// MQTT 5: whether reason strings may come with PUBACK.
    problem_information: bool,
    /// MQTT 5: whether the client asked to keep its session.
    session_expiry: bool,
    /// MQTT 5: whether CONNACK had room for the Receive Maximum, so that it can be held to.
    receive_maximum_said: bool,
    /// What could be read of a malformed CONNECT.
    glimpse: Option<Box<Glimpse>>,
}

impl Session {
    /// A session that waits for CONNECT.
    #[must_use]
    pub fn new(limits: SessionLimits, now: Mono) -> Self {
        Self {
            limits,
            versions: Versions::ALL,
            state: State::AwaitConnect,
            protocol: Protocol::V311,
            last: now,
            keep_alive_s: 0,
            keep_alive_timeout: limits.keep_alive_max,
            held: None,
            uplink: Uplink::new(limits.uplink_messages_max, limits.uplink_bytes_max),
            downlink: Downlink::new(limits.downlink_messages_max),
            will: None,
            accepted: false,
            client_bytes_max: u32::MAX,
            problem_information: true,
            session_expiry: false,
            receive_maximum_said: false,
            glimpse: None,
        }
    }

    /// What could be read of the CONNECT that was malformed; once.
    pub fn glimpse(&mut self) -> Option<Box<Glimpse>> {
        self.glimpse.take()
    }

    /// Serves these versions only, not every one.
    #[must_use]
    pub fn serving(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// The version CONNECT named; `None` before CONNECT.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        (self.state != State::AwaitConnect).then_some(self.protocol)
    }

    /// Takes the next packet out of `input` and says what it means; answers go to `out`.
    /// `Ok(None)`: more bytes are needed, or CONNECT is being decided, or the connection is over,
    /// or the next packet is a PUBLISH that does not fit the uplink window (see
    /// [`Session::paused`]).
    ///
    /// The driver calls it until it answers `Ok(None)`: after every read, after `accept`, and
    /// after an `acknowledge` that ended a pause.
    ///
    /// # Errors
    /// The violation; the driver writes what `out` holds (MQTT 5 DISCONNECT or CONNACK, 3.1.1
    /// CONNACK where there is a code for it) and closes. A violation visible in the fixed header
    /// comes before the rest of the packet does.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        now: Mono,
    ) -> Result<Option<Event>, Violation> {
        let Some(stage) = self.stage() else {
            return Ok(None);
        };
        let result = self.step(stage, input, out, now);
        if let Err(violation) = result {
            if self.state == State::Open && self.protocol == Protocol::V5 {
                let text = violation.to_string();
                encode::disconnect_v5(violation.reason(), &text, self.room(), out);
            }
            self.close();
        }
        result
    }

    fn step(
        &mut self,
        stage: Stage,
        input: &mut BytesMut,
        out: &mut BytesMut,
        now: Mono,
    ) -> Result<Option<Event>, Violation> {
        if self.held.take().is_some() {
            // The device was not allowed to speak; its silence counts from now.
            self.last = now;
        }
        let Some(header) = decode::header(input, stage, self.packet_bytes_max())? else {
            return Ok(None);
        };
        if header.kind == Kind::Publish && !self.admits(&header, input)? {
            return Ok(None);
        }
        if input.len() < header.total() {
            return Ok(None);
        }
        let packet = input.split_to(header.total()).freeze();
        self.last = now;
        let decoded = decode::body(&header, &packet, self.protocol, &self.limits.decode());
        let event = decoded.and_then(|decoded| self.handle(decoded, &header, out));
        if let Err(violation) = event
            && self.state == State::AwaitConnect
        {
            let body = &packet[header.length..];
            connect::refuse_malformed(violation, body, self.room(), out);
            self.glimpse = decode::glimpse(&packet, header.length).map(Box::new);
        }
        event.map(Some)
    }

    fn stage(&self) -> Option<Stage> {
        match self.state {
            State::AwaitConnect => Some(Stage::AwaitConnect),
            State::Open => Some(Stage::Open(self.protocol)),
            State::Deciding | State::Left | State::Closed => None,
        }
    }

    fn packet_bytes_max(&self) -> usize {
        match self.state {
            State::AwaitConnect => self.limits.connect_bytes_max,
            _ => self.limits.packet_bytes_max,
        }
    }

    /// Whether a PUBLISH may be taken out of `input` now, decided on its fixed header so that a
    /// packet that must wait need not be buffered.
    ///
    /// A DUP of a message still in flight needs no slot and passes a full window; to know it, its
    /// packet id must have come.
    fn admits(&mut self, header: &Header, input: &[u8]) -> Result<bool, Violation> {
        if self.uplink.fits(header.total()) {
            return Ok(true);
        }
        if header.dup() {
            if input.len() < header.total() {
                return Ok(true);
            }
            let id = decode::packet_id(&input[header.length..header.total()]);
            if id.is_none_or(|id| self.uplink.contains(id)) {
                return Ok(true);
            }
        } else if self.receive_maximum_said
            && header.qos1()
            && self.uplink.qos1() >= usize::from(self.receive_maximum())
        {
            return Err(Violation::ReceiveMaximumExceeded);
        }
        self.held = Some(header.total());
        Ok(false)
    }

    fn handle(
        &mut self,
        packet: Packet,
        header: &Header,
        out: &mut BytesMut,
    ) -> Result<Event, Violation> {
        Ok(match packet {
            Packet::Connect(connect) => self.connect(connect)?,
            Packet::Publish(publish) => self.publish(publish, header.total())?,
            Packet::PubAck(id, reason) => self.puback(id, reason),
            Packet::Subscribe(id, filters) => Event::Subscribe(id, filters),
            Packet::Unsubscribe(id, filters) => Event::Unsubscribe(id, filters),
            Packet::PingReq => {
                encode::pingresp(out);
                Event::None
            }
            Packet::Disconnect {
                reason,
                session_expiry_s,
            } => {
                if session_expiry_s.is_some_and(|s| s > 0) && !self.session_expiry {
                    return Err(Violation::SessionExpiry);
                }
                if reason == 0 {
                    self.will = None;
                }
                self.close();
                Event::Disconnect
            }
        })
    }

    fn puback(&mut self, id: PacketId, reason: u8) -> Event {
        match self.downlink.take(id) {
            Some(delivery) if reason < 0x80 => Event::Delivered(delivery),
            Some(delivery) => Event::Rejected(delivery),
            // Late, or twice: harmless.
            None => Event::None,
        }
    }

    /// A DUP whose packet id is in flight is the same message sent again: it gets no ticket of
    /// its own, is not sent upstream twice, and is acknowledged with the first (3.1.1 §4.3.2).
    /// Without DUP it is another message under an id in use (MQTT-2.3.1-2).
    fn publish(&mut self, publish: Publish, bytes: usize) -> Result<Event, Violation> {
        if publish.packet_id.is_some_and(|id| self.uplink.contains(id)) {
            return match publish.dup {
                true => Ok(Event::None),
                false => Err(Violation::PacketIdInUse),
            };
        }
        let ticket = self.uplink.push(publish.packet_id, bytes);
        Ok(Event::Publish(ticket, publish))
    }

    /// Whether the next packet is a PUBLISH held back by the full uplink window. The driver
    /// stops reading; the keep-alive clock stands still until `next` is called again.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.held.is_some_and(|bytes| !self.uplink.fits(bytes))
    }

    /// How many bytes the next packet still lacks, as far as `input` tells: what a driver should
    /// reserve before it reads. Zero: reading would not help, because a whole packet (or a
    /// violation) is there, or the session does not take packets now.
    #[must_use]
    pub fn needed(&self, input: &[u8]) -> usize {
        let Some(stage) = self.stage() else {
            return 0;
        };
        if self.paused() {
            return 0;
        }
        match decode::header(input, stage, self.packet_bytes_max()) {
            Ok(Some(header)) => header.total().saturating_sub(input.len()),
            // The shortest packet has two bytes.
            Ok(None) => 2_usize.saturating_sub(input.len()).max(1),
            Err(_) => 0,
        }
    }

    /// The hub accepted `ticket`: writes the PUBACKs that are due, in the order of the PUBLISHes.
    /// A ticket of QoS 0 frees its slot without an answer.
    pub fn acknowledge<R: Receipt>(&mut self, ticket: Ticket, _receipt: R, out: &mut BytesMut) {
        self.decide(ticket, Verdict::Accepted, out);
    }

    /// `ticket` is refused for good. MQTT 5: a PUBACK with `reason` (0x80 or above, MQTT 5
    /// §3.4.2.1) and `text`, in order, and `true`. QoS 0: its slot is free and nobody waits for
    /// an answer, `true`. QoS 1 has no such answer before 5: `false`, the driver closes.
    pub fn refuse_publish(
        &mut self,
        ticket: Ticket,
        reason: u8,
        text: &str,
        out: &mut BytesMut,
    ) -> bool {
        if self.protocol != Protocol::V5 && self.uplink.is_qos1(ticket) == Some(true) {
            return false;
        }
        let text = match self.problem_information {
            true => encode::cap(text, encode::REASON_STRING_MAX),
            false => "",
        };
        self.decide(ticket, Verdict::Refused(reason, text.into()), out);
        true
    }

    fn decide(&mut self, ticket: Ticket, verdict: Verdict, out: &mut BytesMut) {
        self.uplink.decide(ticket, verdict);
        while let Some((id, verdict)) = self.uplink.pop_decided() {
            match (id, verdict) {
                (Some(id), Verdict::Accepted) if self.open() => encode::puback(id, out),
                (Some(id), Verdict::Refused(reason, text)) if self.open() => {
                    encode::puback_refused(id, reason, &text, self.room(), out);
                }
                _ => {}
            }
        }
    }

    /// The largest packet the client takes, bytes.
    fn room(&self) -> usize {
        usize::try_from(self.client_bytes_max).unwrap_or(usize::MAX)
    }

    /// Whether the client takes a packet of `bytes`.
    fn takes(&self, bytes: usize) -> bool {
        bytes <= self.room()
    }

    /// Commands the device takes at once.
    #[must_use]
    pub fn downlink_window(&self) -> usize {
        self.downlink.window()
    }

    /// Commands the device has room for.
    #[must_use]
    pub fn downlink_free(&self) -> usize {
        match self.open() {
            true => self.downlink.free(),
            false => 0,
        }
    }

    /// Whether the device can take this command at all: its topic fits the length field, and the
    /// packet fits the client's Maximum Packet Size (MQTT5 MQTT-3.1.2-24). One that does not fit
    /// is to be refused towards the hub; waiting will not help it.
    #[must_use]
    pub fn fits(&self, command: &Deliver) -> bool {
        let bytes =
            encode::publish_length(self.protocol, &command.topic, &command.payload, command.qos);
        bytes.is_some_and(|bytes| self.takes(bytes))
    }

    /// Writes a command. `false` when no slot is free or the command does not [fit]
    /// (the caller kept to `downlink_free` and `fits`, so this is a bug, answered by giving the
    /// command back). QoS 0 needs no slot.
    ///
    /// [fit]: Session::fits
    pub fn deliver(&mut self, command: &Deliver, out: &mut BytesMut) -> bool {
        if !self.open() || !self.fits(command) {
            return false;
        }
        let id = match command.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => match self.downlink.push(command.delivery) {
                Some(id) => Some(id),
                None => return false,
            },
        };
        encode::publish(self.protocol, &command.topic, &command.payload, id, out);
        true
    }

    /// When `expired` wants to be asked next. Never while CONNECT is being decided (the driver
    /// bounds that) and while paused.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        match self.state {
            State::AwaitConnect => self.last + self.limits.connect_timeout,
            State::Open if self.held.is_none() => self.last + self.keep_alive_timeout,
            State::Open | State::Deciding | State::Left | State::Closed => Mono::far_future(),
        }
    }

    /// Whether a deadline passed: CONNECT late, or keep-alive exceeded 1.5 times.
    #[must_use]
    pub fn expired(&self, now: Mono) -> Option<Violation> {
        if now < self.deadline() {
            return None;
        }
        match self.state {
            State::AwaitConnect => Some(Violation::ConnectTimeout),
            State::Open => Some(Violation::KeepAliveTimeout),
            State::Deciding | State::Left | State::Closed => None,
        }
    }

    /// MQTT 5: writes DISCONNECT with a reason before the server closes; before 5: nothing. While
    /// CONNECT is being decided, `refuse` is the way to say no.
    pub fn goodbye(&mut self, reason: Goodbye, text: &str, out: &mut BytesMut) {
        if self.open() && self.protocol == Protocol::V5 {
            encode::disconnect_v5(reason as u8, text, self.room(), out);
        }
        let open = self.open();
        self.close();
        if open {
            self.state = State::Left;
        }
    }

    /// The will, if the connection ended without DISCONNECT; at most once. To be called when the
    /// connection is over.
    pub fn take_will(&mut self) -> Option<Will> {
        match self.accepted {
            true => self.will.take(),
            false => None,
        }
    }

    fn open(&self) -> bool {
        self.state == State::Open
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.held = None;
    }

    fn receive_maximum(&self) -> u16 {
        u16::try_from(self.limits.uplink_messages_max)
            .unwrap_or(u16::MAX)
            .max(1)
    }
}
