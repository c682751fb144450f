//! TRANSFER (2.7.5), read in place and written by hand.

use crate::amqp::Limits;
use crate::amqp::types::{self, Malformed, Read, code};
use bytes::{BufMut, BytesMut};

/// Fields of a TRANSFER; the message's bytes come after it in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The link, by the sender's handle.
    pub handle: u32,
    /// On the first frame of a delivery.
    pub delivery_id: Option<u32>,
    /// On the first frame of a delivery; at most 32 bytes (2.8.7).
    pub delivery_tag: Option<&'a [u8]>,
    /// 0 is the format of part 3.
    pub message_format: Option<u32>,
    /// True on any frame settles the delivery.
    pub settled: Option<bool>,
    /// Another frame of the same delivery follows.
    pub more: bool,
    /// 0 first, 1 second (2.8.3).
    pub rcv_settle_mode: Option<u8>,
    /// The delivery-state, encoded.
    pub state: Option<&'a [u8]>,
    /// Continues a delivery of a link that was attached before.
    pub resume: bool,
    /// The delivery is withdrawn.
    pub aborted: bool,
    /// A hint that the settlement may wait.
    pub batchable: bool,
}

impl<'a> Transfer<'a> {
    /// Reads the fields after the descriptor; `input` goes on with the message's bytes.
    pub fn decode(input: &mut &'a [u8], limits: &Limits) -> Read<Self> {
        let (mut body, count) = types::composite(input, 11)?;
        let fields = &mut body;
        let mut transfer = Self::default();
        let mut seen_handle = false;
        for field in 0..count {
            match field {
                0 => {
                    transfer.handle = types::uint(fields)?.ok_or(HANDLE)?;
                    seen_handle = true;
                }
                1 => transfer.delivery_id = types::uint(fields)?,
                2 => transfer.delivery_tag = types::binary(fields)?,
                3 => transfer.message_format = types::uint(fields)?,
                4 => transfer.settled = types::boolean(fields)?,
                5 => transfer.more = types::boolean(fields)?.unwrap_or(false),
                6 => transfer.rcv_settle_mode = settle_mode(fields)?,
                7 => {
                    let state = types::checked(fields, limits)?;
                    transfer.state = (state != [code::NULL]).then_some(state);
                }
                8 => transfer.resume = types::boolean(fields)?.unwrap_or(false),
                9 => transfer.aborted = types::boolean(fields)?.unwrap_or(false),
                _ => transfer.batchable = types::boolean(fields)?.unwrap_or(false),
            }
        }
        if !body.is_empty() {
            return Err(Malformed("a transfer is longer than its fields"));
        }
        if !seen_handle {
            return Err(HANDLE);
        }
        if transfer.delivery_tag.is_some_and(|tag| tag.len() > 32) {
            return Err(Malformed("a delivery-tag is longer than 32 bytes"));
        }
        Ok(transfer)
    }

    /// Appends the performative, trailing defaults left out.
    pub fn encode(&self, out: &mut BytesMut) {
        let count = self.fields();
        // Everything but the state takes less than 80 bytes.
        let long = self.state.is_some_and(|state| state.len() > 160);
        types::put_list(out, 0x14, long, count, |out| {
            types::put_uint(out, self.handle);
            for field in 1..count {
                self.put_field(out, field);
            }
        });
    }

    fn put_field(&self, out: &mut BytesMut, field: u8) {
        match field {
            1 => types::put_option(out, self.delivery_id),
            2 => put_tag(out, self.delivery_tag),
            3 => types::put_option(out, self.message_format),
            4 => put_optional_bool(out, self.settled),
            5 => types::put_bool(out, self.more),
            6 => match self.rcv_settle_mode {
                Some(mode) => out.put_slice(&[code::UBYTE, mode]),
                None => out.put_u8(code::NULL),
            },
            7 => out.put_slice(self.state.unwrap_or(&[code::NULL])),
            8 => types::put_bool(out, self.resume),
            9 => types::put_bool(out, self.aborted),
            _ => types::put_bool(out, self.batchable),
        }
    }

    /// How many fields must be written.
    fn fields(&self) -> u8 {
        let written = [
            (self.batchable, 11),
            (self.aborted, 10),
            (self.resume, 9),
            (self.state.is_some(), 8),
            (self.rcv_settle_mode.is_some(), 7),
            (self.more, 6),
            (self.settled.is_some(), 5),
            (self.message_format.is_some(), 4),
            (self.delivery_tag.is_some(), 3),
            (self.delivery_id.is_some(), 2),
        ];
        written
            .iter()
            .find(|(set, _)| *set)
            .map_or(1, |(_, fields)| *fields)
    }
}

const HANDLE: Malformed = Malformed("a transfer has no handle");

fn settle_mode(fields: &mut &[u8]) -> Read<Option<u8>> {
    match types::ubyte(fields)? {
        Some(mode) if mode > 1 => Err(Malformed("the receiver-settle-mode is not known")),
        mode => Ok(mode),
    }
}

fn put_tag(out: &mut BytesMut, tag: Option<&[u8]>) {
    match tag {
        Some(tag) => {
            out.put_slice(&[code::BINARY8, tag.len() as u8]);
            out.put_slice(tag);
        }
        None => out.put_u8(code::NULL),
    }
}

fn put_optional_bool(out: &mut BytesMut, yes: Option<bool>) {
    match yes {
        Some(yes) => types::put_bool(out, yes),
        None => out.put_u8(code::NULL),
    }
}
