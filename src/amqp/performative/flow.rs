//! FLOW (2.7.4), read in place and written by hand.

use crate::amqp::Limits;
use crate::amqp::types::{self, Malformed, Read};
use bytes::BytesMut;

/// Fields of a FLOW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The transfer-id its sender expects next; none before it saw our BEGIN.
    pub next_incoming_id: Option<u32>,
    /// Transfer frames its sender can take.
    pub incoming_window: u32,
    /// The transfer-id its sender will use next.
    pub next_outgoing_id: u32,
    /// Transfer frames its sender could send.
    pub outgoing_window: u32,
    /// The link it speaks of, by its sender's handle; none for the session alone.
    pub handle: Option<u32>,
    /// Deliveries sent on the link so far (2.6.7).
    pub delivery_count: Option<u32>,
    /// Deliveries the receiver can take.
    pub link_credit: Option<u32>,
    /// Deliveries the sender has waiting.
    pub available: Option<u32>,
    /// The sender shall use up its credit.
    pub drain: bool,
    /// An answer is asked for.
    pub echo: bool,
}

impl Flow {
    /// Reads the fields after the descriptor.
    pub fn decode(input: &mut &[u8], limits: &Limits) -> Read<Self> {
        let (mut body, count) = types::composite(input, 11)?;
        let fields = &mut body;
        let mut flow = Self::default();
        if count < 4 {
            return Err(MANDATORY);
        }
        for field in 0..count {
            match field {
                0 => flow.next_incoming_id = types::uint(fields)?,
                1 => flow.incoming_window = types::uint(fields)?.ok_or(MANDATORY)?,
                2 => flow.next_outgoing_id = types::uint(fields)?.ok_or(MANDATORY)?,
                3 => flow.outgoing_window = types::uint(fields)?.ok_or(MANDATORY)?,
                4 => flow.handle = types::uint(fields)?,
                5 => flow.delivery_count = types::uint(fields)?,
                6 => flow.link_credit = types::uint(fields)?,
                7 => flow.available = types::uint(fields)?,
                8 => flow.drain = types::boolean(fields)?.unwrap_or(false),
                9 => flow.echo = types::boolean(fields)?.unwrap_or(false),
                _ => types::checked(fields, limits).map(drop)?,
            }
        }
        if !body.is_empty() {
            return Err(Malformed("a flow is longer than its fields"));
        }
        Ok(flow)
    }

    /// Appends the performative, trailing defaults left out.
    pub fn encode(&self, out: &mut BytesMut) {
        let count = self.fields();
        types::put_list(out, 0x13, false, count, |out| {
            types::put_option(out, self.next_incoming_id);
            types::put_uint(out, self.incoming_window);
            types::put_uint(out, self.next_outgoing_id);
            types::put_uint(out, self.outgoing_window);
            for field in 4..count {
                match field {
                    4 => types::put_option(out, self.handle),
                    5 => types::put_option(out, self.delivery_count),
                    6 => types::put_option(out, self.link_credit),
                    7 => types::put_option(out, self.available),
                    8 => types::put_bool(out, self.drain),
                    _ => types::put_bool(out, self.echo),
                }
            }
        });
    }

    fn fields(&self) -> u8 {
        let written = [
            (self.echo, 10),
            (self.drain, 9),
            (self.available.is_some(), 8),
            (self.link_credit.is_some(), 7),
            (self.delivery_count.is_some(), 6),
            (self.handle.is_some(), 5),
        ];
        written
            .iter()
            .find(|(set, _)| *set)
            .map_or(4, |(_, fields)| *fields)
    }
}

const MANDATORY: Malformed = Malformed("a flow lacks a mandatory field");
