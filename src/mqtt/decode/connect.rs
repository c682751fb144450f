//! CONNECT (MQTT 3.1 §3.1, MQTT 3.1.1 §3.1, MQTT 5 §3.1).

use super::super::packet::{Connect, Glimpse, Protocol, QoS, Will};
use super::super::read::Reader;
use super::super::topic;
use super::super::violation::Violation;
use super::{DecodeLimits, properties};
use bytes::Bytes;

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

/// The names in a CONNECT that is malformed somewhere, up to that place; `None` when not even a
/// client id can be read. `start` is where the fixed header ends, at most the packet's length.
#[must_use]
pub fn glimpse(packet: &Bytes, start: usize) -> Option<Glimpse> {
    let reader = &mut Reader::new(packet, start);
    let past_properties = |reader: &mut Reader<'_>, level: u8| {
        if level == 5 {
            let length = usize::try_from(reader.varint().ok()?).ok()?;
            reader.section(length).ok()?;
        }
        Some(())
    };
    reader.binary().ok()?;
    let (level, flags) = (reader.u8().ok()?, reader.u8().ok()?);
    reader.u16().ok()?;
    past_properties(reader, level)?;
    let mut glimpse = Glimpse {
        client_id: reader.name().ok()?,
        username: None,
        password: None,
    };
    let mut rest = |glimpse: &mut Glimpse| {
        if flags & WILL != 0 {
            past_properties(reader, level)?;
            reader.binary().ok()?;
            reader.binary().ok()?;
        }
        if flags & USERNAME != 0 {
            glimpse.username = Some(reader.name().ok()?);
        }
        if flags & PASSWORD != 0 {
            glimpse.password = Some(reader.binary().ok()?);
        }
        Some(())
    };
    let _whatever_is_left = rest(&mut glimpse);
    Some(glimpse)
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

#[cfg(test)]
mod tests {
    use super::glimpse;
    use bytes::Bytes;

    #[test]
    fn the_names_of_a_malformed_connect_are_read_as_far_as_they_go() {
        let names = |packet: &[u8]| {
            let glimpse = glimpse(&Bytes::copy_from_slice(packet), 0)?;
            let text = |name: Option<&str>| name.unwrap_or("-").to_owned();
            let password = glimpse.password.as_deref().map(|bytes| bytes.len());
            Some((
                glimpse.client_id.to_string(),
                text(glimpse.username.as_deref()),
                password.unwrap_or(0),
            ))
        };
        // A will of QoS 2, as MQTT 3.1.1 and 5 have it.
        let old = b"\0\x04MQTT\x04\xd6\0\x3c\0\x01d\0\x01t\0\x01w\0\x01u\0\x02pw";
        let new = b"\0\x04MQTT\x05\xd6\0\x3c\0\0\x01d\0\0\x01t\0\x01w\0\x01u\0\x02pw";
        let all = Some(("d".to_owned(), "u".to_owned(), 2));
        assert_eq!(names(old), all);
        assert_eq!(names(new), all);
        for end in 0..old.len() {
            let found = names(&old[..end]);
            assert_eq!(found.is_some(), end >= 13, "{end}");
        }
        assert_eq!(names(&old[..22]), Some(("d".to_owned(), "u".to_owned(), 0)));
        assert_eq!(names(&old[..20]), Some(("d".to_owned(), "-".to_owned(), 0)));
    }
}
