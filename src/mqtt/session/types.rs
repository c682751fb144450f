//! What a session and its driver say to each other.

use crate::config::limits::Limits;
use crate::mqtt::decode::DecodeLimits;
use crate::mqtt::packet::{Connect, Filter, PacketId, Publish, QoS};
use crate::mqtt::topic::TopicLimits;
use bytes::Bytes;
use bytestring::ByteString;
use std::time::Duration;

/// The proof that a message may be acknowledged: the hub accepted it (`hub::outcome::HubAccepted`),
/// or the device's rule gave up or kept what the hub refused (`router::refused::RefusedByRule`).
/// There is no third implementor; `tests/tidy` asserts it.
pub trait Receipt {}

/// Numbers the messages of one connection, in the order the device sent them. QoS 0 included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Bounds of a session; made from `config::limits` by `SessionLimits::from`.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Time from accept to a whole CONNECT.
    pub connect_timeout: Duration,
    /// Largest keep-alive granted; also applied to a client that asked for none.
    pub keep_alive_max: Duration,
    /// Uplink messages not yet accepted by the hub; at least one is always admitted.
    pub uplink_messages_max: usize,
    /// Their bytes, each counted as its whole packet, because that is the memory it holds; one
    /// message alone is always admitted.
    pub uplink_bytes_max: usize,
    /// Commands sent and not yet acknowledged by the device.
    pub downlink_messages_max: usize,
    /// Largest packet before CONNECT is answered, in bytes.
    pub connect_bytes_max: usize,
    /// Largest packet after it, in bytes.
    pub packet_bytes_max: usize,
    /// Longest topic or filter, in bytes.
    pub topic_bytes_max: usize,
    /// Most levels of a topic or filter.
    pub topic_levels_max: usize,
    /// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_max: usize,
    /// Most MQTT 5 user properties in one packet.
    pub properties_max: usize,
}

impl SessionLimits {
    pub(super) fn decode(&self) -> DecodeLimits {
        DecodeLimits {
            topic: TopicLimits {
                bytes_max: self.topic_bytes_max,
                levels_max: self.topic_levels_max,
            },
            filters_max: self.filters_max,
            properties_max: self.properties_max,
        }
    }
}

impl From<&Limits> for SessionLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            connect_timeout: limits.connect_timeout,
            keep_alive_max: limits.keep_alive_max,
            uplink_messages_max: limits.uplink_messages,
            uplink_bytes_max: limits.uplink_bytes,
            downlink_messages_max: limits.downlink_messages,
            connect_bytes_max: limits.connect_bytes,
            packet_bytes_max: limits.packet_bytes,
            topic_bytes_max: limits.topic_bytes,
            topic_levels_max: limits.topic_levels,
            filters_max: limits.filters_per_packet,
            properties_max: limits.properties,
        }
    }
}

/// What a packet asks of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Unsubscribe(PacketId, Vec<ByteString>),
    /// The device acknowledged the command delivered under this number.
    Delivered(u64),
    /// The device (MQTT 5) refused the command delivered under this number.
    Rejected(u64),
    /// The device said goodbye; the will is void (or, MQTT 5 with a reason other than 0, not).
    Disconnect,
}

/// A command on its way to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// 0 or 1; 2 is sent as 1.
    pub qos: QoS,
    /// Names the command in `Event::Delivered`.
    pub delivery: u64,
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

impl ConnectRefusal {
    /// The reason code MQTT 5 has for it (MQTT 5 §3.2.2.2).
    #[must_use]
    pub const fn reason(self) -> u8 {
        match self {
            Self::ProtocolVersion => 0x84,
            Self::ClientId => 0x85,
            Self::ServerUnavailable => 0x88,
            Self::BadCredentials => 0x86,
            Self::NotAuthorized => 0x87,
        }
    }
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
    /// 0x95: an answer is larger than the client takes.
    PacketTooLarge = 0x95,
    /// 0x97: there is no room for the device.
    QuotaExceeded = 0x97,
    /// 0x98: an operator or the hub ended it.
    Administrative = 0x98,
}
