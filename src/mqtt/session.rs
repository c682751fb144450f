//! The state machine of one device's MQTT connection: (packet, now) → event.
//!
//! It owns the rules of the protocol and the acknowledgement windows both ways, and writes
//! answers into a buffer the driver flushes. A PUBACK can be written only for a [`Receipt`].

use super::packet::{Connect, Filter, PacketId, Publish, Will};
use crate::runtime::clock::Mono;
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// The proof that the hub accepted a message. `hub::outcome::HubAccepted` is the only
/// implementor; `tests/tidy.rs` asserts it.
pub trait Receipt {}

/// Numbers the messages of one connection, in the order the device sent them. QoS 0 included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Bounds of a session, from `config::limits`.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Time from accept to a whole CONNECT.
    pub connect_timeout: Duration,
    /// Largest keep-alive granted; also applied to a client that asked for none.
    pub keep_alive_max: Duration,
    /// Uplink messages not yet accepted by the hub.
    pub uplink_messages_max: usize,
    /// Commands sent and not yet acknowledged by the device.
    pub downlink_messages_max: usize,
    /// Largest packet before CONNECT, in bytes.
    pub connect_bytes_max: usize,
    /// Largest packet after CONNECT, in bytes.
    pub packet_bytes_max: usize,
}

/// What a packet asks of the driver.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing further; an answer may have been written.
    None,
    /// Authenticate, then call `accept` or `refuse`.
    Connect(Box<Connect>),
    /// Send upstream; `acknowledge` (QoS 1 and 0 alike) or close when it is decided.
    Publish(Ticket, Publish),
    /// Decide each filter, then call `suback`.
    Subscribe(PacketId, Vec<Filter>),
    /// Drop the subscriptions, then call `unsuback`.
    Unsubscribe(PacketId, Vec<bytestring::ByteString>),
    /// The device acknowledged the command delivered under this number.
    Delivered(u64),
    /// The device said goodbye; the will is void (or, MQTT 5 reason 0x04, not).
    Disconnect,
}

/// A command on its way to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// 0 or 1.
    pub qos: super::packet::QoS,
    /// Names the command in `Event::Delivered`.
    pub delivery: u64,
}

/// One device's session.
pub struct Session {
    limits: SessionLimits,
}

impl Session {
    /// A session that waits for CONNECT.
    #[must_use]
    pub fn new(limits: SessionLimits, _now: Mono) -> Self {
        Self { limits }
    }

    /// Takes the next packet out of `input` and says what it means; answers go to `out`.
    /// `Ok(None)`: more bytes are needed, or the next packet is a PUBLISH that does not fit the
    /// uplink window (see [`Session::paused`]).
    ///
    /// # Errors
    /// The violation; the driver writes what `out` holds (MQTT 5 DISCONNECT) and closes.
    pub fn next(
        &mut self,
        _input: &mut BytesMut,
        _out: &mut BytesMut,
        _now: Mono,
    ) -> Result<Option<Event>, super::violation::Violation> {
        let _ = self.limits;
        Ok(None)
    }

    /// Whether the next packet is a PUBLISH held back by the full uplink window. The driver
    /// stops reading; the keep-alive clock stands still.
    #[must_use]
    pub fn paused(&self) -> bool {
        false
    }

    /// Answers CONNECT positively.
    pub fn accept(&mut self, _out: &mut BytesMut, _now: Mono) {}

    /// Answers CONNECT negatively with a 3.1.1 return code (mapped for MQTT 5) and a text for
    /// MQTT 5's reason string; the driver then closes.
    pub fn refuse(&mut self, _code: ConnectRefusal, _text: &str, _out: &mut BytesMut) {}

    /// The hub accepted `ticket`: writes the PUBACKs that are due, in the order of the PUBLISHes.
    pub fn acknowledge<R: Receipt>(&mut self, _ticket: Ticket, _receipt: R, _out: &mut BytesMut) {}

    /// The hub refused `ticket` for good. MQTT 5: a PUBACK with a reason, in order, and `true`;
    /// 3.1.1 has no such answer: `false`, the driver closes.
    pub fn refuse_publish(&mut self, _ticket: Ticket, _text: &str, _out: &mut BytesMut) -> bool {
        false
    }

    /// Answers SUBSCRIBE; `None` = refused (0x80).
    pub fn suback(
        &mut self,
        _id: PacketId,
        _granted: &[Option<super::packet::QoS>],
        _out: &mut BytesMut,
    ) {
    }

    /// Answers UNSUBSCRIBE with `count` results.
    pub fn unsuback(&mut self, _id: PacketId, _count: usize, _out: &mut BytesMut) {}

    /// Commands the device has room for.
    #[must_use]
    pub fn downlink_free(&self) -> usize {
        0
    }

    /// Writes a command. `false` when no slot is free (the caller kept to `downlink_free`, so
    /// this is a bug, answered by giving the command back). QoS 0 needs no slot.
    pub fn deliver(&mut self, _command: &Deliver, _out: &mut BytesMut) -> bool {
        false
    }

    /// When `expired` wants to be asked next.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        Mono::far_future()
    }

    /// Whether a deadline passed: CONNECT late, or keep-alive exceeded 1.5 times.
    #[must_use]
    pub fn expired(&self, _now: Mono) -> Option<super::violation::Violation> {
        None
    }

    /// MQTT 5: writes DISCONNECT with a reason before the server closes; 3.1.1: nothing.
    pub fn goodbye(&mut self, _reason: Goodbye, _text: &str, _out: &mut BytesMut) {}

    /// The will, if the connection ended without DISCONNECT; at most once.
    pub fn take_will(&mut self) -> Option<Will> {
        None
    }
}

/// CONNACK return codes of 3.1.1 (MQTT-3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectRefusal {
    /// 1
    ProtocolVersion = 1,
    /// 2
    ClientId = 2,
    /// 3
    ServerUnavailable = 3,
    /// 4
    BadCredentials = 4,
    /// 5
    NotAuthorized = 5,
}

/// Why the server ends a connection; MQTT 5 reason codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Goodbye {
    /// 0x87: rights were lost, or the token ended.
    NotAuthorized = 0x87,
    /// 0x89: overload.
    ServerBusy = 0x89,
    /// 0x8B: the gateway stops.
    ShuttingDown = 0x8B,
    /// 0x8D: silent for too long.
    KeepAliveTimeout = 0x8D,
    /// 0x8E: the same client id connected again.
    TakenOver = 0x8E,
    /// 0x98: an operator or the hub ended it.
    Administrative = 0x98,
}
