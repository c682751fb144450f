//! Packets as data: what a device can say, after every check the bytes alone allow.

use bytes::Bytes;
use bytestring::ByteString;
use std::fmt;
use std::num::NonZeroU16;

/// The protocol version a CONNECT names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1 (`MQIsdp`), protocol level 3.
    V31,
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

impl Protocol {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];

    /// The version as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// The versions a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions(u8);

impl Versions {
    /// Every version.
    pub const ALL: Self = Self(0b111);
    /// No version; add some.
    pub const NONE: Self = Self(0);

    /// These and `protocol`.
    #[must_use]
    pub const fn and(self, protocol: Protocol) -> Self {
        Self(self.0 | 1 << protocol as u8)
    }

    /// Whether `protocol` is among them.
    #[must_use]
    pub const fn has(self, protocol: Protocol) -> bool {
        self.0 & 1 << protocol as u8 != 0
    }
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0
    AtMostOnce = 0,
    /// 1
    AtLeastOnce = 1,
    /// 2: a filter may ask for it and is granted 1; a PUBLISH or a will with it is refused.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of two bits; `None` for 3.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier; zero is not one (MQTT-2.3.1-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

/// A packet a client may send, decoded and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH of QoS 0 or 1.
    Publish(Publish),
    /// PUBACK with its reason code; before 5 there is none, which reads as 0.
    PubAck(PacketId, u8),
    /// SUBSCRIBE with at least one filter.
    Subscribe(PacketId, Vec<Filter>),
    /// UNSUBSCRIBE with at least one filter.
    Unsubscribe(PacketId, Vec<ByteString>),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT; before 5 it reads as reason 0.
    Disconnect {
        /// Reason code: 0 voids the will.
        reason: u8,
        /// MQTT 5: the session expiry interval, when given, in seconds.
        session_expiry_s: Option<u32>,
    },
}

/// CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version asked for.
    pub protocol: Protocol,
    /// Client identifier; may be empty only with `clean_session` (3.1.1), or in 5.
    pub client_id: ByteString,
    /// Clean session (3.1.1) or clean start (5).
    pub clean_session: bool,
    /// Keep-alive in seconds, 0 = none asked for.
    pub keep_alive_s: u16,
    /// User name.
    pub username: Option<ByteString>,
    /// Password: bytes, and a secret; never print it.
    pub password: Option<Bytes>,
    /// The will, published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// What MQTT 5 adds; `None` before.
    pub properties: Option<Box<ConnectProperties>>,
}

/// The names in a CONNECT that is malformed elsewhere. No `Debug`: it holds a secret.
pub struct Glimpse {
    /// Client identifier.
    pub client_id: ByteString,
    /// User name.
    pub username: Option<ByteString>,
    /// Password: bytes, and a secret; never print it.
    pub password: Option<Bytes>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .field("clean_session", &self.clean_session)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field(
                "password",
                &self.password.as_ref().map_or("absent", |_| "present"),
            )
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish()
    }
}

/// The properties of an MQTT 5 CONNECT (MQTT 5 §3.1.2.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session expiry interval asked for, seconds; sessions are not kept, CONNACK answers 0.
    pub session_expiry_s: u32,
    /// Unacknowledged messages the client takes at once.
    pub receive_maximum: NonZeroU16,
    /// Largest packet the client takes, bytes.
    pub packet_bytes_max: Option<u32>,
    /// Whether reason strings may come with more than CONNACK and DISCONNECT.
    pub problem_information: bool,
    /// User properties.
    pub user: Vec<(ByteString, ByteString)>,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_s: 0,
            receive_maximum: NonZeroU16::MAX,
            packet_bytes_max: None,
            problem_information: true,
            user: Vec::new(),
        }
    }
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: ByteString,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service, 0 or 1.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// MQTT 5 properties, when any were given. The will delay is not kept: it is treated as 0.
    pub properties: Option<Box<MessageProperties>>,
}

/// PUBLISH from the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Topic name, without wildcards.
    pub topic: ByteString,
    /// Payload, a slice of the packet.
    pub payload: Bytes,
    /// Quality of service, 0 or 1.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Duplicate flag.
    pub dup: bool,
    /// Present exactly for QoS 1.
    pub packet_id: Option<PacketId>,
    /// MQTT 5 properties, when any were given.
    pub properties: Option<Box<MessageProperties>>,
}

/// The MQTT 5 properties of a message: PUBLISH (§3.3.2.3) and will (§3.1.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// Payload format indicator: `Some(true)` = the sender says the payload is UTF-8.
    pub payload_utf8: Option<bool>,
    /// Message expiry interval, seconds.
    pub expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<ByteString>,
    /// Response topic.
    pub response_topic: Option<ByteString>,
    /// Correlation data.
    pub correlation_data: Option<Bytes>,
    /// User properties, in order.
    pub user: Vec<(ByteString, ByteString)>,
}

/// One filter of a SUBSCRIBE with the QoS asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Topic filter.
    pub filter: ByteString,
    /// Maximum QoS asked for.
    pub qos: QoS,
}
