//! Packets as data.

use bytes::Bytes;
use bytestring::ByteString;
use std::num::NonZeroU16;

/// The protocol version a CONNECT names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0
    AtMostOnce = 0,
    /// 1
    AtLeastOnce = 1,
    /// 2: parsed, and refused by the session as IoT Hub refuses it.
    ExactlyOnce = 2,
}

/// A packet identifier; zero is not one (MQTT-2.3.1-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

/// CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version asked for.
    pub protocol: Protocol,
    /// Client identifier; may be empty only with `clean_session`.
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
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: ByteString,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
}

/// PUBLISH from the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Topic name, without wildcards.
    pub topic: ByteString,
    /// Payload, a slice of the packet.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Duplicate flag.
    pub dup: bool,
    /// Present exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
}

/// One filter of a SUBSCRIBE with the QoS asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Topic filter.
    pub filter: ByteString,
    /// Maximum QoS asked for.
    pub qos: QoS,
}
