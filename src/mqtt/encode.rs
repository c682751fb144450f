//! Packets a server sends → bytes. Each function writes one whole packet or, where the packet
//! might not fit its length fields, says so before it writes a byte.

use super::packet::{PacketId, Protocol, QoS};
use bytes::{BufMut, BytesMut};

/// The largest remaining length (MQTT 3.1.1 §2.2.3), bytes.
pub const REMAINING_MAX: usize = 268_435_455;

/// The longest reason string written, bytes: enough for a sentence, no way to echo a payload.
pub const REASON_STRING_MAX: usize = 256;

/// What a MQTT 5 CONNACK tells beyond its code (MQTT 5 §3.2.2.3).
///
/// Always said with it: Maximum QoS 1, Retain Available 0, Subscription Identifier Available 0,
/// Shared Subscription Available 0. Never said, because the default holds: Topic Alias Maximum
/// 0, Wildcard Subscription Available 1. Assigned Client Identifier does not occur: client ids
/// are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Unacknowledged QoS 1 messages taken at once.
    pub receive_maximum: u16,
    /// Largest packet taken, bytes.
    pub packet_bytes_max: u32,
    /// The keep-alive in force, when it is not the one asked for, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Whether the client asked to keep its session, which is answered with 0.
    pub session_expiry_zero: bool,
}

/// CONNACK of 3.1.1 (§3.2); `code` 0 accepts. Sessions are not kept: session present is 0.
pub fn connack_v311(code: u8, out: &mut BytesMut) {
    out.extend_from_slice(&[0x20, 2, 0, code]);
}

/// CONNACK of MQTT 5 that accepts.
pub fn connack_v5(properties: &ConnackProperties, out: &mut BytesMut) {
    // The largest property section is 24 bytes: every length below fits one byte.
    let mut section = [0_u8; 32];
    let mut rest = &mut section[..];
    if properties.session_expiry_zero {
        rest.put_slice(&[0x11, 0, 0, 0, 0]);
    }
    rest.put_u8(0x21);
    rest.put_u16(properties.receive_maximum);
    rest.put_slice(&[0x24, 1, 0x25, 0]);
    rest.put_u8(0x27);
    rest.put_u32(properties.packet_bytes_max);
    rest.put_slice(&[0x29, 0, 0x2A, 0]);
    if let Some(seconds) = properties.server_keep_alive_s {
        rest.put_u8(0x13);
        rest.put_u16(seconds);
    }
    let free = rest.len();
    let used = section.len() - free;
    out.extend_from_slice(&[0x20, used as u8 + 3, 0, 0, used as u8]);
    out.extend_from_slice(&section[..used]);
}

/// CONNACK of MQTT 5 that refuses, with a reason string when `text` is not empty.
pub fn connack_v5_refused(reason: u8, text: &str, out: &mut BytesMut) {
    with_reason_string(0x20, &[0, reason], text, out);
}

/// PUBACK that accepts, the same bytes in both versions (§3.4).
pub fn puback(id: PacketId, out: &mut BytesMut) {
    let [high, low] = id.0.get().to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// PUBACK of MQTT 5 that refuses; `reason` is 0x80 or more.
pub fn puback_refused(id: PacketId, reason: u8, text: &str, out: &mut BytesMut) {
    let [high, low] = id.0.get().to_be_bytes();
    if text.is_empty() {
        out.extend_from_slice(&[0x40, 3, high, low, reason]);
    } else {
        with_reason_string(0x40, &[high, low, reason], text, out);
    }
}

/// SUBACK with one code per filter (§3.9).
pub fn suback(protocol: Protocol, id: PacketId, codes: &[u8], out: &mut BytesMut) {
    ack_list(0x90, protocol, id, codes, out);
}

/// UNSUBACK (§3.11): MQTT 5 answers each of `count` filters with 0x00, 3.1.1 answers once.
pub fn unsuback(protocol: Protocol, id: PacketId, count: usize, out: &mut BytesMut) {
    match protocol {
        Protocol::V311 => ack_list(0xB0, protocol, id, &[], out),
        Protocol::V5 => ack_list(0xB0, protocol, id, &vec![0; count], out),
    }
}

fn ack_list(first: u8, protocol: Protocol, id: PacketId, codes: &[u8], out: &mut BytesMut) {
    let properties = usize::from(protocol == Protocol::V5);
    out.put_u8(first);
    varint(2 + properties + codes.len(), out);
    out.put_u16(id.0.get());
    out.put_bytes(0, properties);
    out.extend_from_slice(codes);
}

/// PINGRESP (§3.13).
pub fn pingresp(out: &mut BytesMut) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// DISCONNECT of MQTT 5 (§3.14), the only version in which a server sends one.
pub fn disconnect_v5(reason: u8, text: &str, out: &mut BytesMut) {
    if text.is_empty() {
        out.extend_from_slice(&[0xE0, 1, reason]);
    } else {
        with_reason_string(0xE0, &[reason], text, out);
    }
}

/// A packet of `fixed` fields and a property section with at most a reason string.
fn with_reason_string(first: u8, fixed: &[u8], text: &str, out: &mut BytesMut) {
    let text = cap(text, REASON_STRING_MAX);
    let section = match text.len() {
        0 => 0,
        length => 3 + length,
    };
    out.put_u8(first);
    varint(fixed.len() + varint_length(section) + section, out);
    out.extend_from_slice(fixed);
    varint(section, out);
    if section > 0 {
        out.put_u8(0x1F);
        out.put_u16(text.len() as u16);
        out.extend_from_slice(text.as_bytes());
    }
}

/// The front of `text`, at most `bytes_max` long and cut between characters.
#[must_use]
pub fn cap(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Bytes a PUBLISH to the device takes; `None` when its lengths do not fit their fields.
#[must_use]
pub fn publish_length(protocol: Protocol, topic: &str, payload: &[u8], qos: QoS) -> Option<usize> {
    if topic.len() > usize::from(u16::MAX) {
        return None;
    }
    let remaining = publish_remaining(protocol, topic, payload, qos);
    (remaining <= REMAINING_MAX).then(|| 1 + varint_length(remaining) + remaining)
}

fn publish_remaining(protocol: Protocol, topic: &str, payload: &[u8], qos: QoS) -> usize {
    let id = if qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = usize::from(protocol == Protocol::V5);
    2 + topic.len() + id + properties + payload.len()
}

/// PUBLISH to the device: QoS 1 with a packet id, QoS 0 without; never DUP, never retained.
/// The caller asked [`publish_length`] before.
pub fn publish(
    protocol: Protocol,
    topic: &str,
    payload: &[u8],
    id: Option<PacketId>,
    out: &mut BytesMut,
) {
    let (first, qos) = match id {
        Some(_) => (0x32, QoS::AtLeastOnce),
        None => (0x30, QoS::AtMostOnce),
    };
    let remaining = publish_remaining(protocol, topic, payload, qos);
    out.reserve(5 + remaining);
    out.put_u8(first);
    varint(remaining, out);
    out.put_u16(topic.len() as u16);
    out.extend_from_slice(topic.as_bytes());
    if let Some(id) = id {
        out.put_u16(id.0.get());
    }
    if protocol == Protocol::V5 {
        out.put_u8(0);
    }
    out.extend_from_slice(payload);
}

fn varint(mut value: usize, out: &mut BytesMut) {
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

const fn varint_length(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
