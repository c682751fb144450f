//! DISPOSITION (2.7.6), read in place and written by hand.

use crate::amqp::Limits;
use crate::amqp::types::{self, Malformed, Read, code};
use bytes::{BufMut, BytesMut};

/// Fields of a DISPOSITION.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disposition<'a> {
    /// True: its sender is the receiver of the deliveries (2.8.1).
    pub receiver: bool,
    /// First delivery-id.
    pub first: u32,
    /// Last delivery-id; none when it is `first`.
    pub last: Option<u32>,
    /// Its sender has forgotten the deliveries.
    pub settled: bool,
    /// The delivery-state (3.4), encoded.
    pub state: Option<&'a [u8]>,
    /// A hint that the settlement may wait.
    pub batchable: bool,
}

impl<'a> Disposition<'a> {
    /// Reads the fields after the descriptor.
    pub fn decode(input: &mut &'a [u8], limits: &Limits) -> Read<Self> {
        let (mut body, count) = types::composite(input, 6)?;
        let fields = &mut body;
        if count < 2 {
            return Err(MANDATORY);
        }
        let mut disposition = Self::default();
        for field in 0..count {
            match field {
                0 => disposition.receiver = types::boolean(fields)?.ok_or(MANDATORY)?,
                1 => disposition.first = types::uint(fields)?.ok_or(MANDATORY)?,
                2 => disposition.last = types::uint(fields)?,
                3 => disposition.settled = types::boolean(fields)?.unwrap_or(false),
                4 => {
                    let state = types::checked(fields, limits)?;
                    disposition.state = (state != [code::NULL]).then_some(state);
                }
                _ => disposition.batchable = types::boolean(fields)?.unwrap_or(false),
            }
        }
        if !body.is_empty() {
            return Err(Malformed("a disposition is longer than its fields"));
        }
        Ok(disposition)
    }

    /// Appends the performative, trailing defaults left out.
    pub fn encode(&self, out: &mut BytesMut) {
        let count = match (self.batchable, self.state, self.settled, self.last) {
            (true, ..) => 6,
            (_, Some(_), ..) => 5,
            (_, _, true, _) => 4,
            (_, _, _, Some(_)) => 3,
            _ => 2,
        };
        let state = self.state.unwrap_or(&[code::NULL]);
        // A rejection carries the words of an error.
        let long = state.len() > 200;
        types::put_list(out, 0x15, long, count, |out| {
            types::put_bool(out, self.receiver);
            types::put_uint(out, self.first);
            for field in 2..count {
                match field {
                    2 => types::put_option(out, self.last),
                    3 => types::put_bool(out, self.settled),
                    4 => out.put_slice(state),
                    _ => types::put_bool(out, self.batchable),
                }
            }
        });
    }
}

const MANDATORY: Malformed = Malformed("a disposition lacks a mandatory field");
