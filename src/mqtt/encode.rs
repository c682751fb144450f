//! Packets a server sends → bytes. Each function writes one whole packet or, where the packet
//! might not fit its length fields, says so before it writes a byte.

use super::packet::{PacketId, Protocol, QoS};
use bytes::{BufMut, BytesMut};

/// The largest remaining length (MQTT 3.1.1 §2.2.3), bytes.
pub const REMAINING_MAX: usize = 268_435_455;

/// The longest reason string written, bytes: enough for a sentence, no way to echo a payload.
pub const REASON_STRING_MAX: usize = 256;

/// The least a CONNACK of MQTT 5 takes, bytes.
pub const CONNACK_BYTES_MIN: usize = 5;

/// What a Server Keep Alive adds to it, bytes.
pub const KEEP_ALIVE_BYTES: usize = 3;

/// What the longest Assigned Client Identifier adds to it, bytes: `device/module`, and up to two
/// more for the longer lengths.
pub const ASSIGNED_ID_BYTES_MAX: usize = 3 + 2 * 128 + 1 + 2;

/// What a MQTT 5 CONNACK tells beyond its code (MQTT 5 §3.2.2.3).
///
/// Always said with it where there is room: Maximum QoS 1, Retain Available 0, Subscription
/// Identifier Available 0, Shared Subscription Available 0. Never said, because the default
/// holds: Topic Alias Maximum 0, Wildcard Subscription Available 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// The client id the client did not send and has now.
    pub assigned_client_id: Option<&'a str>,
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

/// CONNACK of MQTT 5 that accepts, in at most `room` bytes: what is needed most comes first, and
/// what has no room is left out. The caller saw to it that there is room for an assigned client id
/// and a keep-alive.
/// Whether the client was told the Receive Maximum, without which it cannot be held to it.
pub fn connack_v5(properties: &ConnackProperties<'_>, room: usize, out: &mut BytesMut) -> bool {
    // All of these but the id have 24 bytes at most.
    let mut section = [0_u8; 32];
    let mut used = 0;
    let id = properties.assigned_client_id.unwrap_or_default();
    let id_bytes = if id.is_empty() { 0 } else { 3 + id.len() };
    let mut add = |property: &[u8]| {
        let longer = used + property.len();
        let length = longer + id_bytes;
        let remaining = 2 + varint_length(length) + length;
        let fits = 1 + varint_length(remaining) + remaining <= room;
        if fits {
            section[used..longer].copy_from_slice(property);
            used = longer;
        }
        fits
    };
    if let Some(seconds) = properties.server_keep_alive_s {
        let [high, low] = seconds.to_be_bytes();
        add(&[0x13, high, low]);
    }
    let [high, low] = properties.receive_maximum.to_be_bytes();
    let receive_maximum = add(&[0x21, high, low]);
    add(&[0x24, 1]);
    add(&[0x25, 0]);
    if properties.session_expiry_zero {
        add(&[0x11, 0, 0, 0, 0]);
    }
    let [a, b, c, d] = properties.packet_bytes_max.to_be_bytes();
    add(&[0x27, a, b, c, d]);
    add(&[0x29, 0]);
    add(&[0x2A, 0]);
    let length = used + id_bytes;
    out.put_u8(0x20);
    varint(2 + varint_length(length) + length, out);
    out.extend_from_slice(&[0, 0]);
    varint(length, out);
    out.extend_from_slice(&section[..used]);
    if !id.is_empty() {
        out.put_u8(0x12);
        out.put_u16(id.len() as u16);
        out.extend_from_slice(id.as_bytes());
    }
    receive_maximum
}

/// CONNACK of MQTT 5 that refuses, with a reason string when `text` is not empty and the packet
/// has at most `room` bytes with it.
pub fn connack_v5_refused(reason: u8, text: &str, room: usize, out: &mut BytesMut) {
    with_reason_string(0x20, &[0, reason], text, room, out);
}

/// PUBACK that accepts, the same bytes in both versions (§3.4).
pub fn puback(id: PacketId, out: &mut BytesMut) {
    let [high, low] = id.0.get().to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// PUBACK of MQTT 5 that refuses; `reason` is 0x80 or more, `text` is left out where it makes
/// more than `room` bytes.
pub fn puback_refused(id: PacketId, reason: u8, text: &str, room: usize, out: &mut BytesMut) {
    let [high, low] = id.0.get().to_be_bytes();
    with_reason_string(0x40, &[high, low, reason], text, room, out);
}

/// Bytes of a SUBACK or UNSUBACK with `codes` codes.
#[must_use]
pub fn ack_list_length(protocol: Protocol, codes: usize) -> usize {
    let remaining = 2 + usize::from(protocol == Protocol::V5) + codes;
    1 + varint_length(remaining) + remaining
}

/// SUBACK with one code per filter (§3.9).
pub fn suback(protocol: Protocol, id: PacketId, codes: &[u8], out: &mut BytesMut) {
    ack_list(0x90, protocol, id, codes, out);
}

/// UNSUBACK (§3.11): MQTT 5 has a code for each filter, the versions before none.
pub fn unsuback(protocol: Protocol, id: PacketId, codes: &[u8], out: &mut BytesMut) {
    let codes = match protocol {
        Protocol::V31 | Protocol::V311 => &[],
        Protocol::V5 => codes,
    };
    ack_list(0xB0, protocol, id, codes, out);
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

/// DISCONNECT of MQTT 5 (§3.14), the only version in which a server sends one; `text` is left
/// out where it makes more than `room` bytes.
pub fn disconnect_v5(reason: u8, text: &str, room: usize, out: &mut BytesMut) {
    with_reason_string(0xE0, &[reason], text, room, out);
}

/// A packet of `fixed` fields and, where `room` bytes take it, a reason string. A property
/// section that would be empty is left out, but for CONNACK, which must have one.
fn with_reason_string(first: u8, fixed: &[u8], text: &str, room: usize, out: &mut BytesMut) {
    let text = cap(text, REASON_STRING_MAX);
    let section = 3 + text.len();
    let remaining = fixed.len() + varint_length(section) + section;
    out.put_u8(first);
    if !text.is_empty() && 1 + varint_length(remaining) + remaining <= room {
        varint(remaining, out);
        out.extend_from_slice(fixed);
        varint(section, out);
        out.put_u8(0x1F);
        out.put_u16(text.len() as u16);
        out.extend_from_slice(text.as_bytes());
    } else if first == 0x20 {
        varint(fixed.len() + 1, out);
        out.extend_from_slice(fixed);
        out.put_u8(0);
    } else {
        varint(fixed.len(), out);
        out.extend_from_slice(fixed);
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
