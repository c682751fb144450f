//! MQTT 5 properties (§2.2.2): which may come where, how often, and with which values.

use super::super::packet::{ConnectProperties, MessageProperties};
use super::super::read::Reader;
use super::super::topic;
use super::super::violation::Violation;
use super::DecodeLimits;
use bytestring::ByteString;
use std::num::NonZeroU16;

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
const SUBSCRIPTION_ID: u8 = 0x0B;
const SESSION_EXPIRY: u8 = 0x11;
const AUTH_METHOD: u8 = 0x15;
const AUTH_DATA: u8 = 0x16;
const PROBLEM_INFORMATION: u8 = 0x17;
const WILL_DELAY: u8 = 0x18;
const RESPONSE_INFORMATION: u8 = 0x19;
const REASON_STRING: u8 = 0x1F;
const RECEIVE_MAXIMUM: u8 = 0x21;
const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
const TOPIC_ALIAS: u8 = 0x23;
const USER: u8 = 0x26;
const PACKET_MAXIMUM: u8 = 0x27;

type UserProperties = Vec<(ByteString, ByteString)>;

/// Walks over one property section. User properties are collected here; every other property
/// goes to `take`, at most once each.
fn walk(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
    mut take: impl FnMut(u8, &mut Reader<'_>) -> Result<(), Violation>,
) -> Result<UserProperties, Violation> {
    let length = reader.varint()?;
    let mut section = reader.section(length as usize)?;
    let mut user = Vec::new();
    let mut seen = 0_u64;
    while section.left() > 0 {
        // Identifiers are variable byte integers, but none of those defined takes two bytes.
        let id = section.varint()?;
        let id = u8::try_from(id).map_err(|_| Violation::PropertyMisplaced)?;
        if id == USER {
            if user.len() >= limits.properties_max {
                return Err(Violation::TooManyProperties);
            }
            user.push((section.string()?, section.string()?));
            continue;
        }
        if id >= 64 {
            return Err(Violation::PropertyMisplaced);
        }
        if seen & (1 << id) != 0 {
            return Err(Violation::PropertyDuplicate);
        }
        seen |= 1 << id;
        take(id, &mut section)?;
    }
    Ok(user)
}

fn boolean(section: &mut Reader<'_>) -> Result<bool, Violation> {
    match section.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Violation::PropertyValue),
    }
}

/// CONNECT (§3.1.2.11).
pub(super) fn connect(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<ConnectProperties, Violation> {
    let mut properties = ConnectProperties::default();
    let mut method = false;
    let mut data = false;
    properties.user = walk(reader, limits, |id, section| {
        match id {
            SESSION_EXPIRY => properties.session_expiry_s = section.u32()?,
            RECEIVE_MAXIMUM => {
                properties.receive_maximum =
                    NonZeroU16::new(section.u16()?).ok_or(Violation::PropertyValue)?;
            }
            PACKET_MAXIMUM => match section.u32()? {
                0 => return Err(Violation::PropertyValue),
                bytes => properties.packet_bytes_max = Some(bytes),
            },
            // How many aliases we could use towards the client: none are used.
            TOPIC_ALIAS_MAXIMUM => drop(section.u16()?),
            // Asks for response information, which a server may leave out (§3.1.2.11.6).
            RESPONSE_INFORMATION => drop(boolean(section)?),
            PROBLEM_INFORMATION => properties.problem_information = boolean(section)?,
            AUTH_METHOD => method = section.string().map(|_| true)?,
            AUTH_DATA => data = section.binary().map(|_| true)?,
            _ => return Err(Violation::PropertyMisplaced),
        }
        Ok(())
    })?;
    match (method, data) {
        (true, _) => Err(Violation::AuthenticationMethod),
        (false, true) => Err(Violation::AuthenticationData),
        (false, false) => Ok(properties),
    }
}

/// What PUBLISH and will have in common; `other` decides about the rest.
fn message(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
    other: fn(u8, &mut Reader<'_>) -> Result<(), Violation>,
) -> Result<Option<Box<MessageProperties>>, Violation> {
    let mut found = MessageProperties::default();
    found.user = walk(reader, limits, |id, section| {
        match id {
            PAYLOAD_FORMAT => found.payload_utf8 = Some(boolean(section)?),
            MESSAGE_EXPIRY => found.expiry_s = Some(section.u32()?),
            CONTENT_TYPE => found.content_type = Some(section.string()?),
            RESPONSE_TOPIC => {
                let name = section.name()?;
                topic::check_name(name.as_bytes(), limits.topic)
                    .map_err(|_| Violation::ResponseTopic)?;
                found.response_topic = Some(name);
            }
            CORRELATION_DATA => found.correlation_data = Some(section.binary()?),
            id => other(id, section)?,
        }
        Ok(())
    })?;
    // The common message has none: no allocation for it.
    Ok((found != MessageProperties::default()).then(|| Box::new(found)))
}

/// PUBLISH from a client (§3.3.2.3).
pub(super) fn publish(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<Option<Box<MessageProperties>>, Violation> {
    message(reader, limits, |id, _| match id {
        TOPIC_ALIAS => Err(Violation::TopicAlias),
        // Only a server sends it here (MQTT5 MQTT-3.3.4-6).
        SUBSCRIPTION_ID => Err(Violation::PropertyMisplaced),
        _ => Err(Violation::PropertyMisplaced),
    })
}

/// The will (§3.1.3.2). The delay is read and treated as 0.
pub(super) fn will(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<Option<Box<MessageProperties>>, Violation> {
    message(reader, limits, |id, section| match id {
        WILL_DELAY => section.u32().map(drop),
        _ => Err(Violation::PropertyMisplaced),
    })
}

/// SUBSCRIBE (§3.8.2.1).
pub(super) fn subscribe(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<(), Violation> {
    walk(reader, limits, |id, _| match id {
        SUBSCRIPTION_ID => Err(Violation::SubscriptionId),
        _ => Err(Violation::PropertyMisplaced),
    })
    .map(drop)
}

/// UNSUBSCRIBE (§3.10.2.1).
pub(super) fn user_only(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<(), Violation> {
    walk(reader, limits, |_, _| Err(Violation::PropertyMisplaced)).map(drop)
}

/// PUBACK (§3.4.2.2).
pub(super) fn reason(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<(), Violation> {
    walk(reader, limits, |id, section| match id {
        REASON_STRING => section.string().map(drop),
        _ => Err(Violation::PropertyMisplaced),
    })
    .map(drop)
}

/// DISCONNECT from a client (§3.14.2.2): the session expiry interval, when given.
pub(super) fn disconnect(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<Option<u32>, Violation> {
    let mut expiry = None;
    walk(reader, limits, |id, section| {
        match id {
            REASON_STRING => drop(section.string()?),
            SESSION_EXPIRY => expiry = Some(section.u32()?),
            _ => return Err(Violation::PropertyMisplaced),
        }
        Ok(())
    })?;
    Ok(expiry)
}
