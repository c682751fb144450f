//! Part 1 of the specification, as far as the hot performatives need it: encodings read in place
//! and written by hand, and the check that everything else passes before a value is built of it.

use super::Limits;
use bytes::{BufMut, BytesMut};

/// Bytes that are not a valid encoding (1.2–1.6), and the rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// What a reader answers.
pub type Read<T> = Result<T, Malformed>;

/// Format codes (1.6) that are named below.
pub mod code {
    #![allow(missing_docs)] // the names are those of clause 1.6
    pub const DESCRIBED: u8 = 0x00;
    pub const NULL: u8 = 0x40;
    pub const TRUE: u8 = 0x41;
    pub const FALSE: u8 = 0x42;
    pub const UINT0: u8 = 0x43;
    pub const ULONG0: u8 = 0x44;
    pub const LIST0: u8 = 0x45;
    pub const UBYTE: u8 = 0x50;
    pub const SMALL_UINT: u8 = 0x52;
    pub const SMALL_ULONG: u8 = 0x53;
    pub const BOOLEAN: u8 = 0x56;
    pub const UINT: u8 = 0x70;
    pub const INT: u8 = 0x71;
    pub const CHAR: u8 = 0x73;
    pub const ULONG: u8 = 0x80;
    pub const LONG: u8 = 0x81;
    pub const TIMESTAMP: u8 = 0x83;
    pub const UUID: u8 = 0x98;
    pub const BINARY8: u8 = 0xa0;
    pub const STRING8: u8 = 0xa1;
    pub const SYMBOL8: u8 = 0xa3;
    pub const BINARY32: u8 = 0xb0;
    pub const STRING32: u8 = 0xb1;
    pub const SYMBOL32: u8 = 0xb3;
    pub const LIST8: u8 = 0xc0;
    pub const MAP8: u8 = 0xc1;
    pub const LIST32: u8 = 0xd0;
    pub const MAP32: u8 = 0xd1;
    pub const ARRAY8: u8 = 0xe0;
    pub const ARRAY32: u8 = 0xf0;
}

const SHORT: Malformed = Malformed("a value ends after the end of its container");

/// Takes `n` bytes.
pub fn take<'a>(input: &mut &'a [u8], n: usize) -> Read<&'a [u8]> {
    let (head, rest) = input.split_at_checked(n).ok_or(SHORT)?;
    *input = rest;
    Ok(head)
}

/// Takes one byte.
pub fn u8(input: &mut &[u8]) -> Read<u8> {
    let (first, rest) = input.split_first().ok_or(SHORT)?;
    *input = rest;
    Ok(*first)
}

/// Takes four bytes, big-endian.
pub fn u32(input: &mut &[u8]) -> Read<u32> {
    let (head, rest) = input.split_first_chunk::<4>().ok_or(SHORT)?;
    *input = rest;
    Ok(u32::from_be_bytes(*head))
}

fn size(input: &mut &[u8], wide: bool) -> Read<usize> {
    if wide {
        u32(input).map(|n| n as usize)
    } else {
        u8(input).map(usize::from)
    }
}

/// A uint (1.6.6) or null.
pub fn uint(input: &mut &[u8]) -> Read<Option<u32>> {
    match u8(input)? {
        code::NULL => Ok(None),
        code::UINT0 => Ok(Some(0)),
        code::SMALL_UINT => u8(input).map(|n| Some(n.into())),
        code::UINT => u32(input).map(Some),
        _ => Err(Malformed("a uint was expected")),
    }
}

/// A boolean (1.6.2) or null.
pub fn boolean(input: &mut &[u8]) -> Read<Option<bool>> {
    match u8(input)? {
        code::NULL => Ok(None),
        code::TRUE => Ok(Some(true)),
        code::FALSE => Ok(Some(false)),
        code::BOOLEAN => match u8(input)? {
            0 => Ok(Some(false)),
            1 => Ok(Some(true)),
            _ => Err(Malformed("a boolean is neither 0 nor 1")),
        },
        _ => Err(Malformed("a boolean was expected")),
    }
}

/// A ubyte (1.6.3) or null.
pub fn ubyte(input: &mut &[u8]) -> Read<Option<u8>> {
    match u8(input)? {
        code::NULL => Ok(None),
        code::UBYTE => u8(input).map(Some),
        _ => Err(Malformed("a ubyte was expected")),
    }
}

/// A binary (1.6.19) or null, in place.
pub fn binary<'a>(input: &mut &'a [u8]) -> Read<Option<&'a [u8]>> {
    let wide = match u8(input)? {
        code::NULL => return Ok(None),
        code::BINARY8 => false,
        code::BINARY32 => true,
        _ => return Err(Malformed("a binary was expected")),
    };
    let n = size(input, wide)?;
    take(input, n).map(Some)
}

/// A descriptor (1.5) after its 0x00: numeric, or the symbol that stands for it.
pub fn descriptor(input: &mut &[u8]) -> Read<u64> {
    match u8(input)? {
        code::ULONG0 => Ok(0),
        code::SMALL_ULONG => u8(input).map(u64::from),
        code::ULONG => {
            let high = u32(input)?;
            Ok(u64::from(high) << 32 | u64::from(u32(input)?))
        }
        narrow @ (code::SYMBOL8 | code::SYMBOL32) => {
            let n = size(input, narrow == code::SYMBOL32)?;
            let name = take(input, n)?;
            NAMES
                .iter()
                .find(|(known, _)| known.as_bytes() == name)
                .map(|(_, number)| *number)
                .ok_or(Malformed("the descriptor's symbol is not known"))
        }
        _ => Err(Malformed("a descriptor is neither ulong nor symbol")),
    }
}

/// Symbolic descriptors of what is dispatched on; the rest is told apart by serde_amqp.
const NAMES: &[(&str, u64)] = &[
    ("amqp:open:list", 0x10),
    ("amqp:begin:list", 0x11),
    ("amqp:attach:list", 0x12),
    ("amqp:flow:list", 0x13),
    ("amqp:transfer:list", 0x14),
    ("amqp:disposition:list", 0x15),
    ("amqp:detach:list", 0x16),
    ("amqp:end:list", 0x17),
    ("amqp:close:list", 0x18),
    ("amqp:received:list", 0x23),
    ("amqp:accepted:list", 0x24),
    ("amqp:rejected:list", 0x25),
    ("amqp:released:list", 0x26),
    ("amqp:modified:list", 0x27),
    ("amqp:sasl-mechanisms:list", 0x40),
    ("amqp:sasl-init:list", 0x41),
    ("amqp:sasl-challenge:list", 0x42),
    ("amqp:sasl-response:list", 0x43),
    ("amqp:sasl-outcome:list", 0x44),
    ("amqp:header:list", 0x70),
    ("amqp:delivery-annotations:map", 0x71),
    ("amqp:message-annotations:map", 0x72),
    ("amqp:properties:list", 0x73),
    ("amqp:application-properties:map", 0x74),
    ("amqp:data:binary", 0x75),
    ("amqp:amqp-sequence:list", 0x76),
    ("amqp:amqp-value:*", 0x77),
    ("amqp:footer:map", 0x78),
];

/// The elements of a composite's list (1.4) and how many they are; `max` is how many its
/// definition has. `input` goes on after the list.
pub fn composite<'a>(input: &mut &'a [u8], max: usize) -> Read<(&'a [u8], usize)> {
    let wide = match u8(input)? {
        code::LIST0 => return Ok((&[], 0)),
        code::LIST8 => false,
        code::LIST32 => true,
        _ => return Err(Malformed("a composite is not a list")),
    };
    let n = size(input, wide)?;
    let mut body = take(input, n)?;
    let count = size(&mut body, wide)?;
    if count > max {
        return Err(Malformed("a composite has more fields than its definition"));
    }
    Ok((body, count))
}

/// Takes one whole value off `input`, checked to the bottom: known format codes, sizes that fit
/// their containers, valid UTF-8, even maps, and no more depth or values than `limits` allow.
/// A decoder that recurses or trusts a count is safe afterwards.
pub fn checked<'a>(input: &mut &'a [u8], limits: &Limits) -> Read<&'a [u8]> {
    let start = *input;
    let mut left = limits.values;
    value(input, limits.depth, &mut left)?;
    Ok(&start[..start.len() - input.len()])
}

fn value(input: &mut &[u8], depth: u32, left: &mut u32) -> Read<()> {
    let code = u8(input)?;
    body(input, code, depth, left)
}

fn spend(left: &mut u32, n: u32) -> Read<()> {
    *left = left
        .checked_sub(n)
        .ok_or(Malformed("more values than are allowed in one frame"))?;
    Ok(())
}

fn body(input: &mut &[u8], code: u8, depth: u32, left: &mut u32) -> Read<()> {
    spend(left, 1)?;
    let deeper = || {
        depth
            .checked_sub(1)
            .ok_or(Malformed("values are nested too deeply"))
    };
    match code {
        code::DESCRIBED => {
            let depth = deeper()?;
            value(input, depth, left)?;
            value(input, depth, left)
        }
        code::NULL..=code::LIST0 => Ok(()),
        code::BOOLEAN => match u8(input)? {
            0 | 1 => Ok(()),
            _ => Err(Malformed("a boolean is neither 0 nor 1")),
        },
        code::UBYTE..=0x55 => take(input, 1).map(drop),
        0x60 | 0x61 => take(input, 2).map(drop),
        code::CHAR => match char::from_u32(u32(input)?) {
            Some(_) => Ok(()),
            None => Err(Malformed("a char is no Unicode scalar value")),
        },
        code::UINT..=0x74 => take(input, 4).map(drop),
        code::ULONG..=0x84 => take(input, 8).map(drop),
        0x94 | 0x98 => take(input, 16).map(drop),
        code::BINARY8 | code::STRING8 | code::SYMBOL8 => variable(input, code, false),
        code::BINARY32 | code::STRING32 | code::SYMBOL32 => variable(input, code & 0xaf, true),
        code::LIST8 | code::MAP8 | code::LIST32 | code::MAP32 => {
            let depth = deeper()?;
            let wide = code >= code::LIST32;
            let n = size(input, wide)?;
            let mut inner = take(input, n)?;
            let count = size(&mut inner, wide)?;
            if code & 1 == 1 && count % 2 == 1 {
                return Err(Malformed("a map has a key without a value"));
            }
            for _ in 0..count {
                value(&mut inner, depth, left)?;
            }
            whole(inner)
        }
        code::ARRAY8 | code::ARRAY32 => {
            let depth = deeper()?;
            let wide = code == code::ARRAY32;
            let n = size(input, wide)?;
            let mut inner = take(input, n)?;
            array(&mut inner, wide, depth, left)?;
            whole(inner)
        }
        _ => Err(Malformed("the format code is not known")),
    }
}

fn whole(rest: &[u8]) -> Read<()> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Malformed("a container is longer than its elements"))
    }
}

fn variable(input: &mut &[u8], kind: u8, wide: bool) -> Read<()> {
    let n = size(input, wide)?;
    let bytes = take(input, n)?;
    match kind {
        code::STRING8 if std::str::from_utf8(bytes).is_err() => {
            Err(Malformed("a string is not UTF-8"))
        }
        code::SYMBOL8 if !bytes.is_ascii() => Err(Malformed("a symbol is not ASCII")),
        _ => Ok(()),
    }
}

fn array(inner: &mut &[u8], wide: bool, depth: u32, left: &mut u32) -> Read<()> {
    let count = size(inner, wide)?;
    let mut code = u8(inner)?;
    let mut depth = depth;
    while code == code::DESCRIBED {
        depth = depth
            .checked_sub(1)
            .ok_or(Malformed("values are nested too deeply"))?;
        value(inner, depth, left)?;
        code = u8(inner)?;
    }
    // Elements may take no bytes at all: it is the count that costs a decoder its memory.
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if count > *left {
        return Err(Malformed("more values than are allowed in one frame"));
    }
    for _ in 0..count {
        body(inner, code, depth, left)?;
    }
    Ok(())
}

/// Appends a uint in its shortest form.
pub fn put_uint(out: &mut BytesMut, n: u32) {
    match n {
        0 => out.put_u8(code::UINT0),
        1..=255 => out.put_slice(&[code::SMALL_UINT, n as u8]),
        _ => {
            let n = n.to_be_bytes();
            out.put_slice(&[code::UINT, n[0], n[1], n[2], n[3]]);
        }
    }
}

/// Appends a boolean.
pub fn put_bool(out: &mut BytesMut, yes: bool) {
    out.put_u8(if yes { code::TRUE } else { code::FALSE });
}

/// Appends a uint or null.
pub fn put_option(out: &mut BytesMut, n: Option<u32>) {
    match n {
        Some(n) => put_uint(out, n),
        None => out.put_u8(code::NULL),
    }
}

/// Appends the head of a variable-width value (1.6.19–1.6.21) of `length` bytes, which follow.
/// `narrow` is its code for at most 255 bytes.
pub fn put_variable(out: &mut BytesMut, narrow: u8, length: usize) {
    match u8::try_from(length) {
        Ok(length) => out.put_slice(&[narrow, length]),
        Err(_) => {
            out.put_u8(narrow | 0x10);
            out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        }
    }
}

/// Appends a string (1.6.20).
pub fn put_string(out: &mut BytesMut, text: &str) {
    put_variable(out, code::STRING8, text.len());
    out.put_slice(text.as_bytes());
}

/// Appends a symbol (1.6.21); `text` is ASCII.
pub fn put_symbol(out: &mut BytesMut, text: &str) {
    put_variable(out, code::SYMBOL8, text.len());
    out.put_slice(text.as_bytes());
}

/// Appends a composite (1.4) of `count` fields that `write` writes. `long` is whether they may take
/// more than 254 bytes.
pub fn put_list(
    out: &mut BytesMut,
    number: u8,
    long: bool,
    count: u8,
    write: impl FnOnce(&mut BytesMut),
) {
    let at = out.len() + 4;
    if long {
        let head = [code::DESCRIBED, code::SMALL_ULONG, number, code::LIST32];
        out.put_slice(&head);
        out.put_u32(0);
        out.put_u32(count.into());
        write(out);
        let size = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    } else {
        let head = [
            code::DESCRIBED,
            code::SMALL_ULONG,
            number,
            code::LIST8,
            0,
            count,
        ];
        out.put_slice(&head);
        write(out);
        out[at] = (out.len() - at - 1) as u8;
    }
}

/// Cursors of clauses 2.5 and 2.6 wrap (RFC 1982): whether `a` is before `b`.
#[must_use]
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
