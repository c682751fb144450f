//! A cursor over one whole packet: every field it hands out is a slice of the packet, checked.

use super::packet::PacketId;
use super::violation::Violation;
use bytes::Bytes;
use bytestring::ByteString;
use std::num::NonZeroU16;

/// The cursor. It never reads past its end, so a length inside a packet cannot reach the next.
pub(super) struct Reader<'a> {
    packet: &'a Bytes,
    at: usize,
    end: usize,
    /// What running past `end` means: a short packet, or a short property section.
    past_end: Violation,
}

impl<'a> Reader<'a> {
    /// A cursor over `packet` from `start` to its end; `start` is at most its length.
    pub(super) fn new(packet: &'a Bytes, start: usize) -> Self {
        Self {
            packet,
            at: start,
            end: packet.len(),
            past_end: Violation::Truncated,
        }
    }

    /// Splits off the next `length` bytes as a property section of its own.
    pub(super) fn section(&mut self, length: usize) -> Result<Self, Violation> {
        let at = self.advance(length)?;
        Ok(Self {
            packet: self.packet,
            at,
            end: self.at,
            past_end: Violation::PropertyLength,
        })
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    /// Asserts that everything was read.
    pub(super) fn finish(&self) -> Result<(), Violation> {
        match self.left() {
            0 => Ok(()),
            _ => Err(Violation::TrailingBytes),
        }
    }

    /// Moves past `count` bytes and returns where they begin.
    fn advance(&mut self, count: usize) -> Result<usize, Violation> {
        if count > self.left() {
            return Err(self.past_end);
        }
        let start = self.at;
        self.at += count;
        Ok(start)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let start = self.advance(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.packet[start..start + N]);
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer (MQTT 5 §1.5.5).
    pub(super) fn varint(&mut self) -> Result<u32, Violation> {
        match varint(&self.packet[self.at..self.end])? {
            Some((value, length)) => {
                self.at += length;
                Ok(value)
            }
            None => Err(self.past_end),
        }
    }

    /// A packet identifier, which is not zero (MQTT-2.3.1-1).
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        NonZeroU16::new(self.u16()?)
            .map(PacketId)
            .ok_or(Violation::PacketIdZero)
    }

    /// Binary data: two bytes of length, then the bytes.
    pub(super) fn binary(&mut self) -> Result<Bytes, Violation> {
        let length = usize::from(self.u16()?);
        let start = self.advance(length)?;
        Ok(self.packet.slice(start..start + length))
    }

    /// A string (MQTT-1.5.3): well-formed UTF-8 without U+0000.
    pub(super) fn string(&mut self) -> Result<ByteString, Violation> {
        let text = ByteString::try_from(self.binary()?).map_err(|_| Violation::Utf8)?;
        if text.as_bytes().contains(&0) {
            return Err(Violation::NulCharacter);
        }
        Ok(text)
    }

    /// A string that names something: also without control characters and non-characters,
    /// which §1.5.3 lets a server refuse.
    pub(super) fn name(&mut self) -> Result<ByteString, Violation> {
        let text = self.string()?;
        let plain = |b: &u8| (0x20..0x7F).contains(b);
        if !text.as_bytes().iter().all(plain) && text.chars().any(is_control) {
            return Err(Violation::ControlCharacter);
        }
        Ok(text)
    }

    /// The rest of the packet.
    pub(super) fn rest(&mut self) -> Bytes {
        let start = std::mem::replace(&mut self.at, self.end);
        self.packet.slice(start..self.end)
    }
}

fn is_control(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// Reads a variable byte integer: its value and its length in bytes, `None` when it is cut off.
///
/// # Errors
/// More than four bytes, or more than needed (MQTT5 MQTT-1.5.5-1).
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(Violation::RemainingLengthOverlong);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    match bytes.len() {
        0..4 => Ok(None),
        _ => Err(Violation::RemainingLength),
    }
}
