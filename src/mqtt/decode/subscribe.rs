//! SUBSCRIBE and UNSUBSCRIBE (MQTT 3.1.1 §3.8 and §3.10, MQTT 5 the same).

use super::super::packet::{Filter, Packet, Protocol, QoS};
use super::super::read::Reader;
use super::super::topic;
use super::super::violation::Violation;
use super::{DecodeLimits, properties};
use bytestring::ByteString;

pub(super) fn subscribe(
    reader: &mut Reader<'_>,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Packet, Violation> {
    let id = reader.packet_id()?;
    if protocol == Protocol::V5 {
        properties::subscribe(reader, limits)?;
    }
    let mut filters = Vec::new();
    while reader.left() > 0 {
        let filter = filter(reader, filters.len(), limits)?;
        let options = reader.u8()?;
        let qos = qos(options, protocol)?;
        if protocol == Protocol::V5 && filter.starts_with("$share/") {
            return Err(Violation::SharedSubscription);
        }
        filters.push(Filter { filter, qos });
    }
    match filters.is_empty() {
        true => Err(Violation::SubscribeEmpty),
        false => Ok(Packet::Subscribe(id, filters)),
    }
}

pub(super) fn unsubscribe(
    reader: &mut Reader<'_>,
    protocol: Protocol,
    limits: &DecodeLimits,
) -> Result<Packet, Violation> {
    let id = reader.packet_id()?;
    if protocol == Protocol::V5 {
        properties::user_only(reader, limits)?;
    }
    let mut filters = Vec::new();
    while reader.left() > 0 {
        filters.push(filter(reader, filters.len(), limits)?);
    }
    match filters.is_empty() {
        true => Err(Violation::UnsubscribeEmpty),
        false => Ok(Packet::Unsubscribe(id, filters)),
    }
}

fn filter(
    reader: &mut Reader<'_>,
    already: usize,
    limits: &DecodeLimits,
) -> Result<ByteString, Violation> {
    if already >= limits.filters_max {
        return Err(Violation::TooManyFilters);
    }
    let filter = reader.name()?;
    topic::check_filter(filter.as_bytes(), limits.topic)?;
    Ok(filter)
}

/// The options of a subscription. MQTT 5 adds No Local, Retain As Published and Retain Handling
/// (§3.8.3.1); a gateway without retained messages and without other publishers on the filter
/// has nothing to do for them.
fn qos(options: u8, protocol: Protocol) -> Result<QoS, Violation> {
    let reserved = match protocol {
        Protocol::V31 | Protocol::V311 => 0xFC,
        Protocol::V5 => 0xC0,
    };
    if options & reserved != 0 || options & 0x30 == 0x30 {
        return Err(Violation::SubscribeOptions);
    }
    QoS::from_bits(options & 0x03).ok_or(Violation::SubscribeOptions)
}
