//! AMQP's encoding as a tree that keeps the encoder's choices, so that a recorded packet with one
//! value changed is the recorded packet but for that value. No code of a library.

/// One value, with its constructor.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Whole, as on the wire: a primitive or an array.
    Leaf(Vec<u8>),
    /// A list or map: its constructor and its elements.
    Compound(u8, Vec<Node>),
    /// Descriptor and value.
    Described(Box<Node>, Box<Node>),
}

use Node::{Compound, Described, Leaf};

/// Takes `count` bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// A big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl Node {
    /// Reads one value off the front (AMQP 1.2); the peer's bytes are taken to be well formed.
    pub fn read(bytes: &mut &[u8]) -> Self {
        let start = *bytes;
        let constructor = split(bytes, 1)[0];
        if constructor == 0 {
            let descriptor = Box::new(Self::read(bytes));
            return Described(descriptor, Box::new(Self::read(bytes)));
        }
        let width = if constructor & 0x10 == 0 { 1 } else { 4 };
        let body = match constructor >> 4 {
            0x4 => 0,
            class @ 0x5..=0x9 => 1 << (class - 5),
            _ => number(split(bytes, width)) as usize,
        };
        let mut inside = split(bytes, body);
        if matches!(constructor, 0xc0 | 0xc1 | 0xd0 | 0xd1) {
            let count = number(split(&mut inside, width));
            let elements = (0..count).map(|_| Self::read(&mut inside)).collect();
            return Compound(constructor, elements);
        }
        Leaf(start[..start.len() - bytes.len()].to_vec())
    }

    /// Appends the value as it was read.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Leaf(bytes) => out.extend_from_slice(bytes),
            Described(descriptor, value) => {
                out.push(0);
                descriptor.write(out);
                value.write(out);
            }
            Compound(constructor, elements) => {
                let mut inside = Vec::new();
                elements
                    .iter()
                    .for_each(|element| element.write(&mut inside));
                out.push(*constructor);
                let count = elements.len();
                if constructor & 0x10 == 0 {
                    let size = u8::try_from(inside.len() + 1).expect("a short list stays short");
                    out.extend([size, count as u8]);
                } else {
                    out.extend((inside.len() as u32 + 4).to_be_bytes());
                    out.extend((count as u32).to_be_bytes());
                }
                out.extend(inside);
            }
        }
    }

    /// The code of a described value.
    pub fn code(&self) -> u64 {
        match self {
            Described(descriptor, _) => descriptor.uint(),
            other => panic!("not described: {other:?}"),
        }
    }

    /// A field of a list, described or not; null where it ends before.
    pub fn field(&self, index: usize) -> Self {
        match self {
            Described(_, value) => value.field(index),
            Compound(_, fields) => fields.get(index).cloned().unwrap_or_else(Self::null),
            Leaf(_) => Self::null(),
        }
    }

    /// Sets a field that is there.
    pub fn set(&mut self, index: usize, value: Self) {
        match self {
            Described(_, inner) => inner.set(index, value),
            Compound(_, fields) => fields[index] = value,
            Leaf(_) => panic!("a leaf has no fields"),
        }
    }

    /// A whole number, 0 for null.
    pub fn uint(&self) -> u64 {
        match self {
            Leaf(bytes) => number(&bytes[1..]),
            other => panic!("no number: {other:?}"),
        }
    }

    /// A flag, false for null.
    pub fn flag(&self) -> bool {
        matches!(self, Leaf(bytes) if bytes[..] == [0x41] || bytes[..] == [0x56, 1])
    }

    /// A text of less than 256 bytes, empty for null.
    pub fn text(&self) -> String {
        match self {
            Leaf(bytes) => String::from_utf8_lossy(bytes.get(2..).unwrap_or_default()).into_owned(),
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn null() -> Self {
        Leaf(vec![0x40])
    }

    /// A `smalluint`.
    pub fn small(value: u64) -> Self {
        Leaf(vec![0x52, u8::try_from(value).expect("small")])
    }
}

/// A frame: its type, channel, performative and what follows it.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub channel: u16,
    pub body: Vec<Node>,
}

impl Frame {
    /// Reads a whole frame, its size first (AMQP 2.3).
    pub fn read(bytes: &[u8]) -> Self {
        let mut rest = &bytes[usize::from(bytes[4]) * 4..];
        let mut body = Vec::new();
        while !rest.is_empty() {
            body.push(Node::read(&mut rest));
        }
        Self {
            kind: bytes[5],
            channel: u16::from_be_bytes([bytes[6], bytes[7]]),
            body,
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 0, 2, self.kind];
        out.extend(self.channel.to_be_bytes());
        self.body.iter().for_each(|node| node.write(&mut out));
        let size = u32::try_from(out.len()).expect("small");
        out[..4].copy_from_slice(&size.to_be_bytes());
        out
    }
}
