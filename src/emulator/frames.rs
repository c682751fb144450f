//! The few AMQP frames the emulator itself takes in hand: those before the connection is open,
//! and command transfers, whose delivery-tag the AMQP library does not let us choose.

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
pub(crate) const TAG_GROWTH: u32 = 12;

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

/// Appends `bytes`, whole frames, to `out`; command transfers get their lock token as tag.
pub(crate) fn copy_frames(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(size) = bytes.first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        if size < 8 || size > bytes.len() {
            break;
        }
        let (frame, rest) = bytes.split_at(size);
        if !copy_command_transfer(frame, out) {
            out.extend_from_slice(frame);
        }
        bytes = rest;
    }
    out.extend_from_slice(bytes);
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
