//! The few AMQP frames the emulator itself takes in hand: those before the connection is open,
//! command transfers, whose delivery-tag the AMQP library does not let us choose, and those whose last
//! fields the library leaves out: the service writes every field, and some clients count on it.

use crate::emulator::queue::LockToken;
use serde::Serialize;

/// Protocol header of plain AMQP 1.0.
pub(crate) const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// Protocol header of the SASL layer.
pub(crate) const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// Frame type byte of AMQP frames.
pub(crate) const AMQP_FRAME: u8 = 0;
/// Frame type byte of SASL frames.
pub(crate) const SASL_FRAME: u8 = 1;

/// Bytes a GUID delivery-tag is longer than the library's.
const TAG_GROWTH: u32 = 12;

/// Bytes a frame may grow by on its way through [`copy_frames`]: the tag, nulls, a longer list.
pub(crate) const GROWTH: u32 = TAG_GROWTH + 14 + 6;

/// Annotation that carries a command's lock token; always the first of its message.
pub(crate) const LOCK_TOKEN: &str = "x-opt-lock-token";

/// A whole frame on channel 0 around `performative`.
pub(crate) fn frame<T: Serialize>(
    kind: u8,
    performative: &T,
) -> Result<Vec<u8>, serde_amqp::Error> {
    let body = serde_amqp::to_vec(performative)?;
    // A performative made here is some hundred bytes long.
    let size = u32::try_from(body.len() + 8).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(body.len() + 8);
    frame.extend_from_slice(&size.to_be_bytes());
    frame.extend_from_slice(&[2, kind, 0, 0]);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Appends `bytes`, whole frames, to `out`; command transfers get their lock token as tag, and the
/// fields that are left out at the end of a performative are null.
pub(crate) fn copy_frames(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(size) = bytes.first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        if size < 8 || size > bytes.len() {
            break;
        }
        let (frame, rest) = bytes.split_at(size);
        let whole = with_every_field(frame);
        let frame = whole.as_deref().unwrap_or(frame);
        if !copy_command_transfer(frame, out) {
            out.extend_from_slice(frame);
        }
        bytes = rest;
    }
    out.extend_from_slice(bytes);
}

/// Fields of a performative, by its descriptor. Dispositions, the most frequent, lack nothing that
/// anybody looks for.
const fn fields(descriptor: u8) -> Option<usize> {
    Some(match descriptor {
        0x10 => 10,        // open
        0x11 => 8,         // begin
        0x12 => 14,        // attach
        0x13 | 0x14 => 11, // flow, transfer
        0x16 => 3,         // detach
        0x17 | 0x18 => 1,  // end, close
        _ => return None,
    })
}

/// The frame with nulls for the fields left out; `None` when there are none.
fn with_every_field(frame: &[u8]) -> Option<Vec<u8>> {
    // size(4) doff type channel(2) | 00 53 descriptor | list
    let head = frame.get(..12)?;
    if head[4] != 2 || head[5] != AMQP_FRAME || head[8..10] != [0x00, 0x53] {
        return None;
    }
    let full = fields(head[10])?;
    let number = |at: usize| {
        let bytes = frame.get(at..at + 4)?.first_chunk::<4>()?;
        usize::try_from(u32::from_be_bytes(*bytes)).ok()
    };
    let (count, start, end) = match head[11] {
        0x45 => (0, 12, 12),
        0xc0 => {
            let (size, count) = (*frame.get(12)?, *frame.get(13)?);
            (usize::from(count), 14, 13 + usize::from(size))
        }
        0xd0 => (number(16)?, 20, 16usize.checked_add(number(12)?)?),
        _ => return None,
    };
    let present = frame.get(start..end)?;
    let missing = full.checked_sub(count).filter(|missing| *missing > 0)?;
    let mut whole = head[..11].to_vec();
    let length = present.len() + missing;
    match u8::try_from(length + 1) {
        Ok(size) => whole.extend([0xc0, size, u8::try_from(full).ok()?]),
        Err(_) => {
            whole.push(0xd0);
            whole.extend(u32::try_from(length + 4).ok()?.to_be_bytes());
            whole.extend(u32::try_from(full).ok()?.to_be_bytes());
        }
    }
    whole.extend_from_slice(present);
    whole.resize(whole.len() + missing, 0x40);
    whole.extend_from_slice(&frame[end..]);
    let size = u32::try_from(whole.len()).ok()?;
    whole[..4].copy_from_slice(&size.to_be_bytes());
    Some(whole)
}

/// Writes `frame` with the GUID tag if it begins the transfer of a command.
fn copy_command_transfer(frame: &[u8], out: &mut Vec<u8>) -> bool {
    // size(4) doff type channel(2) | 00 53 14 c0 size count | handle delivery-id delivery-tag …
    let Some(fixed) = frame.get(8..14) else {
        return false;
    };
    if frame[4] != 2 || frame[5] != AMQP_FRAME || fixed[..4] != [0x00, 0x53, 0x14, 0xc0] {
        return false;
    }
    let (list_size, performative_end) = (fixed[4], 13 + usize::from(fixed[4]));
    let Some(tag) = [uint(frame, 14)]
        .into_iter()
        .flatten()
        .find_map(|at| uint(frame, at))
    else {
        return false;
    };
    let is_tag = frame.get(tag..tag + 2) == Some(&[0xa0, 4]) && tag + 6 <= performative_end;
    let Some(token) = frame
        .get(performative_end..)
        .and_then(lock_token)
        .filter(|_| is_tag)
    else {
        return false;
    };
    let Some(list_size) = list_size.checked_add(12) else {
        return false;
    };
    let size = (frame.len() as u32).saturating_add(TAG_GROWTH);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&frame[4..12]);
    out.push(list_size);
    out.extend_from_slice(&frame[13..tag]);
    out.extend_from_slice(&[0xa0, 16]);
    out.extend_from_slice(&token.0);
    out.extend_from_slice(&frame[tag + 6..]);
    true
}

/// The position after the uint at `at`.
fn uint(frame: &[u8], at: usize) -> Option<usize> {
    match frame.get(at)? {
        0x43 => Some(at + 1),
        0x52 => Some(at + 2),
        0x70 => Some(at + 5),
        _ => None,
    }
}

/// The token, if `payload` begins as the command messages made here do.
fn lock_token(payload: &[u8]) -> Option<LockToken> {
    let map = payload.strip_prefix(&[0x00, 0x53, 0x72])?;
    let entries = match map.first()? {
        0xc1 => map.get(3..)?,
        0xd1 => map.get(9..)?,
        _ => return None,
    };
    let value = entries
        .strip_prefix(&[0xa3, 16])?
        .strip_prefix(LOCK_TOKEN.as_bytes())?;
    let text = value.strip_prefix(&[0xa1, 36])?.get(..36)?;
    let mut digits = text.iter().filter(|byte| **byte != b'-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let (high, low) = (hex_digit(*digits.next()?)?, hex_digit(*digits.next()?)?);
        *byte = high << 4 | low;
    }
    // The text is in reading order, the tag in .NET's.
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(LockToken(bytes))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fe2o3_amqp::types::definitions::{DeliveryTag, Handle};
    use fe2o3_amqp::types::messaging::message::__private::Serializable;
    use fe2o3_amqp::types::messaging::{Message, MessageAnnotations};
    use fe2o3_amqp::types::performatives::Transfer;
    use serde_amqp::Value;

    fn transfer(tag: &[u8]) -> Transfer {
        Transfer {
            handle: Handle(300),
            delivery_id: Some(7),
            delivery_tag: Some(DeliveryTag::from(tag.to_vec())),
            message_format: Some(0),
            settled: Some(false),
            more: false,
            rcv_settle_mode: None,
            state: None,
            resume: false,
            aborted: false,
            batchable: true,
        }
    }

    fn framed(tag: &[u8], annotation: &str, token: &str) -> Vec<u8> {
        let annotations = MessageAnnotations::builder()
            .insert(annotation, Value::String(token.to_owned()))
            .insert("x-opt-sequence-number", Value::Ulong(1))
            .build();
        let message = Message::builder()
            .message_annotations(annotations)
            .data(vec![1, 2, 3])
            .build();
        let payload = serde_amqp::to_vec(&Serializable(message)).unwrap();
        let mut frame = frame(AMQP_FRAME, &transfer(tag)).unwrap();
        frame.extend_from_slice(&payload);
        let size = u32::try_from(frame.len()).unwrap();
        frame[..4].copy_from_slice(&size.to_be_bytes());
        frame
    }

    #[test]
    fn a_command_transfer_gets_its_lock_token_as_tag_and_others_stay_as_they_are() {
        let token = LockToken(std::array::from_fn(|i| u8::try_from(i * 11).unwrap()));
        let command = framed(&[0, 0, 0, 9], LOCK_TOKEN, &token.to_string());
        let other = framed(&[0, 0, 0, 9], "x-opt-other-token", &token.to_string());
        let mut out = Vec::new();
        copy_frames(
            &[other.clone(), command.clone(), other.clone()].concat(),
            &mut out,
        );
        assert_eq!(out.len(), 2 * other.len() + command.len() + 12);
        assert!(out.starts_with(&other) && out.ends_with(&other));
        let changed = &out[other.len()..out.len() - other.len()];
        assert_eq!(
            changed[..4],
            u32::try_from(changed.len()).unwrap().to_be_bytes()
        );
        let decoded: Transfer = serde_amqp::from_slice(&changed[8..]).unwrap();
        assert_eq!(decoded.delivery_tag.unwrap().as_slice(), token.0);
        assert_eq!(
            (decoded.delivery_id, decoded.handle),
            (Some(7), Handle(300))
        );
        assert!(decoded.batchable);
    }

    #[test]
    fn fields_left_out_are_written_as_null() {
        use fe2o3_amqp::types::performatives::{Detach, End, Open};
        let mut name = "x".to_owned();
        for _ in 0..3 {
            let open = Open {
                container_id: name.clone(),
                hostname: None,
                max_frame_size: 65_536.into(),
                channel_max: 10.into(),
                idle_time_out: None,
                outgoing_locales: None,
                incoming_locales: None,
                offered_capabilities: None,
                desired_capabilities: None,
                properties: None,
            };
            let written = frame(AMQP_FRAME, &open).unwrap();
            let mut out = Vec::new();
            copy_frames(&[written.clone(), written].concat(), &mut out);
            let (one, other) = out.split_at(out.len() / 2);
            assert_eq!(one, other);
            assert_eq!(one[..4], u32::try_from(one.len()).unwrap().to_be_bytes());
            let count = if one[11] == 0xc0 { one[13] } else { one[19] };
            assert_eq!(count, 10);
            let read: Open = serde_amqp::from_slice(&one[8..]).unwrap();
            assert_eq!(read.container_id, name);
            // The next names need the list's longer form, before or only after.
            name = "x".repeat(if name.len() == 1 { 228 } else { 300 });
        }
        let mut out = Vec::new();
        copy_frames(&frame(AMQP_FRAME, &End { error: None }).unwrap(), &mut out);
        assert_eq!(out[8..], [0x00, 0x53, 0x17, 0xc0, 2, 1, 0x40]);
        let detach = Detach {
            handle: Handle(1),
            closed: true,
            error: None,
        };
        out.clear();
        copy_frames(&frame(AMQP_FRAME, &detach).unwrap(), &mut out);
        let again = out.clone();
        out.clear();
        copy_frames(&again, &mut out);
        assert_eq!(out, again, "what has every field stays as it is");
    }

    #[test]
    fn odd_bytes_pass_unchanged() {
        let whole = framed(
            &[0, 0, 0, 9],
            LOCK_TOKEN,
            "not a guid at all, but of that size!",
        );
        for bytes in [
            &b"AMQP\x00\x01\x00\x00"[..],
            &whole,
            &whole[..40],
            &[0, 0, 0, 3],
            &[],
        ] {
            let mut out = Vec::new();
            copy_frames(bytes, &mut out);
            assert_eq!(out, bytes);
        }
    }
}
