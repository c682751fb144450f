//! PUBLISH (MQTT 3.1.1 §3.3, MQTT 5 §3.3).

use super::super::packet::{PacketId, Protocol, Publish, QoS};
use super::super::read::Reader;
use super::super::topic;
use super::super::violation::Violation;
use super::{DecodeLimits, Header, properties};
use std::num::NonZeroU16;

pub(super) fn read(
    header: &Header,
    reader: &mut Reader<'_>,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Publish, Violation> {
    let topic = reader.name()?;
    let (qos, packet_id) = match header.qos1() {
        true => (QoS::AtLeastOnce, Some(reader.packet_id()?)),
        false => (QoS::AtMostOnce, None),
    };
    let properties = match protocol {
        Protocol::V31 | Protocol::V311 => None,
        Protocol::V5 => properties::publish(reader, limits)?,
    };
    // Checked after the properties: an empty topic next to a topic alias is named by the alias.
    topic::check_name(topic.as_bytes(), limits.topic)?;
    Ok(Publish {
        topic,
        payload: reader.rest(),
        qos,
        retain: header.flags & 0x01 != 0,
        dup: header.dup(),
        packet_id,
        properties,
    })
}

/// The packet id of a QoS 1 PUBLISH without decoding the rest; `body` begins after the fixed
/// header. `None` when it is cut off or zero.
#[must_use]
pub fn packet_id(body: &[u8]) -> Option<PacketId> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*length))..)?;
    let (id, _) = rest.split_first_chunk::<2>()?;
    NonZeroU16::new(u16::from_be_bytes(*id)).map(PacketId)
}
