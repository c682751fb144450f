//! Bytes → packets, strict: what the specification forbids is refused, and refused as early as
//! the bytes allow.
//!
//! [`header`] looks at the first two to five bytes and says what is coming, so that the session
//! can refuse a packet before anybody buffers it. [`body`] then takes the whole packet; all the
//! fields of the result are slices of it.

mod connect;
mod properties;
mod publish;
mod subscribe;

pub use connect::{glimpse, protocol_level};
pub use publish::packet_id;

use super::packet::{Packet, Protocol};
use super::read::{Reader, varint};
use super::topic::TopicLimits;
use super::violation::Violation;
use bytes::Bytes;

/// Bounds the decoder holds a packet to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bounds of topics and filters.
    pub topic: TopicLimits,
    /// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_max: usize,
    /// Most user properties in one packet.
    pub properties_max: usize,
}

/// What a packet is allowed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing but CONNECT.
    AwaitConnect,
    /// Anything but CONNECT, in the version CONNECT named.
    Open(Protocol),
}

/// The packet types a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1
    Connect,
    /// 3
    Publish,
    /// 4
    PubAck,
    /// 8
    Subscribe,
    /// 10
    Unsubscribe,
    /// 12
    PingReq,
    /// 14
    Disconnect,
}

/// A fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The packet type.
    pub kind: Kind,
    /// The four flag bits.
    pub flags: u8,
    /// Bytes of the fixed header itself, 2 to 5.
    pub length: usize,
    /// Bytes that follow it.
    pub remaining: usize,
}

impl Header {
    /// Bytes of the whole packet.
    #[must_use]
    pub fn total(&self) -> usize {
        self.length + self.remaining
    }

    /// PUBLISH: whether DUP is set; it says nothing on QoS 0, where 3.1 lets it stand.
    #[must_use]
    pub fn dup(&self) -> bool {
        self.flags & 0x08 != 0 && self.qos1()
    }

    /// PUBLISH: whether it is of QoS 1; QoS 2 and 3 do not get past [`header`].
    #[must_use]
    pub fn qos1(&self) -> bool {
        self.flags & 0x06 != 0
    }
}

/// Reads the fixed header at the front of `input`; `None` when it is not all there.
///
/// # Errors
/// Anything the header alone shows to be wrong: the type at this stage, the flags, the length.
pub fn header(input: &[u8], stage: Stage, bytes_max: usize) -> Result<Option<Header>, Violation> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    let flags = first & 0x0F;
    let kind = kind(first >> 4, stage)?;
    match stage {
        Stage::Open(Protocol::V31) => check_flags_v31(kind, flags)?,
        _ => check_flags(kind, flags, stage)?,
    }
    let Some((remaining, bytes)) = varint(&input[1..])? else {
        return Ok(None);
    };
    let header = Header {
        kind,
        flags,
        length: 1 + bytes,
        remaining: remaining as usize,
    };
    check_length(&header, stage)?;
    if header.total() > bytes_max {
        return Err(Violation::PacketTooLarge);
    }
    Ok(Some(header))
}

fn kind(bits: u8, stage: Stage) -> Result<Kind, Violation> {
    if stage == Stage::AwaitConnect {
        return match bits {
            1 => Ok(Kind::Connect),
            _ => Err(Violation::FirstPacketNotConnect),
        };
    }
    match bits {
        1 => Err(Violation::SecondConnect),
        3 => Ok(Kind::Publish),
        4 => Ok(Kind::PubAck),
        5..=7 => Err(Violation::Qos2Flow),
        8 => Ok(Kind::Subscribe),
        10 => Ok(Kind::Unsubscribe),
        12 => Ok(Kind::PingReq),
        14 => Ok(Kind::Disconnect),
        2 | 9 | 11 | 13 => Err(Violation::ServerPacket),
        15 if stage == Stage::Open(Protocol::V5) => Err(Violation::AuthPacket),
        _ => Err(Violation::ReservedType),
    }
}

fn check_flags(kind: Kind, flags: u8, stage: Stage) -> Result<(), Violation> {
    match kind {
        Kind::Publish => match flags & 0x06 {
            0x00 if flags & 0x08 != 0 => Err(Violation::DupQos0),
            0x04 => Err(Violation::Qos2Publish),
            0x06 => Err(Violation::QosReserved),
            _ if flags & 0x01 != 0 && stage == Stage::Open(Protocol::V5) => {
                Err(Violation::RetainUnsupported)
            }
            _ => Ok(()),
        },
        Kind::Subscribe | Kind::Unsubscribe if flags != 0x02 => Err(Violation::FixedHeaderFlags),
        Kind::Subscribe | Kind::Unsubscribe => Ok(()),
        _ if flags != 0 => Err(Violation::FixedHeaderFlags),
        _ => Ok(()),
    }
}

/// 3.1 gives the flags of most packets no meaning and forbids none of them (3.1 §2.1), and lets
/// SUBSCRIBE and UNSUBSCRIBE be sent again with DUP (3.1 §3.8, §3.10).
fn check_flags_v31(kind: Kind, flags: u8) -> Result<(), Violation> {
    match (kind, flags & 0x06) {
        (Kind::Publish, 0x04) => Err(Violation::Qos2Publish),
        (Kind::Publish, 0x06) => Err(Violation::QosReserved),
        (Kind::Subscribe | Kind::Unsubscribe, 0x02) | (Kind::Publish, _) => Ok(()),
        (Kind::Subscribe | Kind::Unsubscribe, _) => Err(Violation::FixedHeaderFlags),
        _ => Ok(()),
    }
}

/// Packets of a fixed length show a wrong one here already.
fn check_length(header: &Header, stage: Stage) -> Result<(), Violation> {
    let bare = matches!(stage, Stage::Open(Protocol::V31 | Protocol::V311));
    let (least, most) = match header.kind {
        Kind::PingReq => (0, 0),
        Kind::Disconnect if bare => (0, 0),
        Kind::PubAck if bare => (2, 2),
        Kind::PubAck => (2, usize::MAX),
        _ => (0, usize::MAX),
    };
    if header.remaining < least {
        return Err(Violation::Truncated);
    }
    if header.remaining > most {
        return Err(Violation::TrailingBytes);
    }
    Ok(())
}

/// Decodes a whole packet; `packet` is exactly `header.total()` bytes. `protocol` is the version
/// of the connection, and of no meaning for CONNECT, which names its own.
///
/// # Errors
/// The first violation found.
pub fn body(
    header: &Header,
    packet: &Bytes,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Packet, Violation> {
    let mut reader = Reader::new(packet, header.length);
    let decoded = match header.kind {
        Kind::Connect => Packet::Connect(connect::read(&mut reader, limits)?),
        Kind::Publish => Packet::Publish(publish::read(header, &mut reader, protocol, limits)?),
        Kind::PubAck => puback(&mut reader, protocol, limits)?,
        Kind::Subscribe => subscribe::subscribe(&mut reader, protocol, limits)?,
        Kind::Unsubscribe => subscribe::unsubscribe(&mut reader, protocol, limits)?,
        Kind::PingReq => Packet::PingReq,
        Kind::Disconnect => disconnect(&mut reader, protocol, limits)?,
    };
    reader.finish()?;
    Ok(decoded)
}

fn puback(
    reader: &mut Reader<'_>,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Packet, Violation> {
    let id = reader.packet_id()?;
    if protocol != Protocol::V5 || reader.left() == 0 {
        return Ok(Packet::PubAck(id, 0));
    }
    // MQTT 5 §3.4.2.1.
    let reason = reader.u8()?;
    if !matches!(
        reason,
        0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
    ) {
        return Err(Violation::ReasonCode);
    }
    if reader.left() > 0 {
        properties::reason(reader, limits)?;
    }
    Ok(Packet::PubAck(id, reason))
}

fn disconnect(
    reader: &mut Reader<'_>,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Packet, Violation> {
    let mut reason = 0;
    let mut session_expiry_s = None;
    if protocol == Protocol::V5 && reader.left() > 0 {
        reason = reader.u8()?;
        // MQTT 5 §3.14.2.1, the codes a client may send.
        if !matches!(
            reason,
            0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x97 | 0x99
        ) {
            return Err(Violation::ReasonCode);
        }
        if reader.left() > 0 {
            session_expiry_s = properties::disconnect(reader, limits)?;
        }
    }
    Ok(Packet::Disconnect {
        reason,
        session_expiry_s,
    })
}
