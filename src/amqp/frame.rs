//! Protocol headers (2.2) and the frame header (2.3.1).

use super::fault::Fault;
use bytes::{BufMut, BytesMut};

/// The protocol header of AMQP 1.0.
pub const AMQP: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// The protocol header of the SASL security layer (5.3.1).
pub const SASL: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// Every peer takes frames of this size (2.8.19 MIN-MAX-FRAME-SIZE).
pub const SIZE_MIN: u32 = 512;

/// Which frames there are (2.3.1 TYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0x00
    Amqp,
    /// 0x01
    Sasl,
}

/// The first eight bytes of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the whole frame.
    pub size: usize,
    /// Where the body begins; an extended header before it is skipped.
    pub body: usize,
    /// AMQP or SASL.
    pub kind: Kind,
    /// Of an AMQP frame; a SASL frame's is ignored (5.3.1).
    pub channel: u16,
}

/// Reads a frame's head, as soon as its eight bytes are there. A size above `max` is refused
/// before anything of it is waited for.
pub fn head(input: &[u8], max: u32) -> Result<Option<Head>, Fault> {
    let Some(size) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes(*size);
    if size < 8 {
        return Err(Fault::framing("a frame is shorter than its header"));
    }
    if size > max {
        return Err(Fault::framing("a frame exceeds max-frame-size"));
    }
    let Some(rest) = input.get(4..8) else {
        return Ok(None);
    };
    let (size, body) = (size as usize, usize::from(rest[0]) * 4);
    if !(8..=size).contains(&body) {
        return Err(Fault::framing("a frame's data offset is out of its bounds"));
    }
    let kind = match rest[1] {
        0 => Kind::Amqp,
        1 => Kind::Sasl,
        _ => return Err(Fault::framing("the frame type is not known")),
    };
    Ok(Some(Head {
        size,
        body,
        kind,
        channel: u16::from_be_bytes([rest[2], rest[3]]),
    }))
}

/// Begins a frame; answers what [`finish`] needs.
pub fn begin(out: &mut BytesMut, kind: Kind, channel: u16) -> usize {
    let at = out.len();
    let [high, low] = channel.to_be_bytes();
    let kind = u8::from(kind == Kind::Sasl);
    out.put_slice(&[0, 0, 0, 8, 2, kind, high, low]);
    at
}

/// Fills in the size of the frame begun at `at`; answers it.
pub fn finish(out: &mut BytesMut, at: usize) -> usize {
    let size = out.len() - at;
    out[at..at + 4].copy_from_slice(&(size as u32).to_be_bytes());
    size
}
