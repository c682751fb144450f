//! CONNECT (MQTT 3.1 §3.1, MQTT 3.1.1 §3.1, MQTT 5 §3.1).

use super::super::packet::{Connect, Protocol, QoS, Will};
use super::super::read::Reader;
use super::super::topic;
use super::super::violation::Violation;
use super::{DecodeLimits, properties};

const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

pub(super) fn read(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<Box<Connect>, Violation> {
    let name = reader.binary()?;
    let old = name == b"MQIsdp"[..];
    if !old && name != b"MQTT"[..] {
        return Err(Violation::ProtocolName);
    }
    let protocol = match (reader.u8()?, old) {
        (3, true) => Protocol::V31,
        (4, false) => Protocol::V311,
        (5, false) => Protocol::V5,
        _ => return Err(Violation::ProtocolLevel),
    };
    let flags = reader.u8()?;
    check_flags(flags, protocol)?;
    let keep_alive_s = reader.u16()?;
    let properties = match protocol {
        Protocol::V31 | Protocol::V311 => None,
        Protocol::V5 => Some(Box::new(properties::connect(reader, limits)?)),
    };
    let client_id = reader.name()?;
    let clean_session = flags & CLEAN != 0;
    let id_required = match protocol {
        // Its upper bound of 23 bytes is not held to: ids of the hub are longer (3.1 §3.1).
        Protocol::V31 => true,
        Protocol::V311 => !clean_session,
        Protocol::V5 => false,
    };
    if client_id.is_empty() && id_required {
        return Err(Violation::ClientIdRequired);
    }
    let will = match flags & WILL {
        0 => None,
        _ => Some(will(reader, flags, protocol, limits)?),
    };
    // "The Remaining Length field takes precedence over the User Name flag": in 3.1 a name or a
    // password that is announced may be missing (3.1 §3.1).
    let may_lack = protocol == Protocol::V31;
    let lacks = |reader: &Reader<'_>| may_lack && reader.left() == 0;
    let username = match flags & USERNAME {
        0 => None,
        _ if lacks(reader) => None,
        _ => Some(reader.name()?),
    };
    let password = match flags & PASSWORD {
        0 => None,
        _ if lacks(reader) => None,
        _ => Some(reader.binary()?),
    };
    Ok(Box::new(Connect {
        protocol,
        client_id,
        clean_session,
        keep_alive_s,
        username,
        password,
        will,
        properties,
    }))
}

fn check_flags(mut flags: u8, protocol: Protocol) -> Result<(), Violation> {
    if protocol == Protocol::V31 {
        // Bit 0 is "not used", and the will's bits count only with the will flag (3.1 §3.1).
        flags &= match flags & WILL {
            0 => !(0x01 | WILL_QOS | WILL_RETAIN),
            _ => !0x01,
        };
    }
    if flags & 0x01 != 0 {
        return Err(Violation::ConnectReservedFlag);
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(Violation::WillFlags);
    }
    match flags & WILL_QOS {
        0x10 => return Err(Violation::WillQos2),
        0x18 => return Err(Violation::WillQos),
        _ => {}
    }
    if flags & WILL_RETAIN != 0 && protocol == Protocol::V5 {
        return Err(Violation::RetainUnsupported);
    }
    // MQTT 5 dropped this rule (§3.1.2.9).
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && protocol != Protocol::V5 {
        return Err(Violation::PasswordWithoutUsername);
    }
    Ok(())
}

fn will(
    reader: &mut Reader<'_>,
    flags: u8,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Will, Violation> {
    let properties = match protocol {
        Protocol::V31 | Protocol::V311 => None,
        Protocol::V5 => properties::will(reader, limits)?,
    };
    let topic = reader.name()?;
    topic::check_name(topic.as_bytes(), limits.topic)?;
    Ok(Will {
        topic,
        payload: reader.binary()?,
        qos: match flags & WILL_QOS {
            0 => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        },
        retain: flags & WILL_RETAIN != 0,
        properties,
    })
}

/// The protocol level of a CONNECT that may be malformed further on, to know in which version to
/// say no. `packet` begins after the fixed header; `None` when the protocol is not MQTT at all.
#[must_use]
pub fn protocol_level(packet: &[u8]) -> Option<u8> {
    // 3.1 called itself MQIsdp; its CONNACK is that of 3.1.1.
    let rest = packet
        .strip_prefix(b"\x00\x04MQTT")
        .or_else(|| packet.strip_prefix(b"\x00\x06MQIsdp"))?;
    rest.first().copied()
}
