//! Performatives (2.7): which one a frame carries. The hot ones are read in place; the others are
//! checked to the bottom first and then built by serde_amqp as the types of `fe2o3-amqp-types`.

mod disposition;
mod flow;
mod transfer;

pub use disposition::Disposition;
pub use fe2o3_amqp_types::performatives::{Attach, Begin, Close, Detach, End, Open};
pub use flow::Flow;
pub use transfer::Transfer;

use super::Limits;
use super::fault::Fault;
use super::frame::{self, Kind};
use super::types::{self, Malformed, code};
use bytes::{BufMut, BytesMut};
use serde_amqp::serde::{Serialize, de::DeserializeOwned};

/// The content of an AMQP frame (2.7).
#[derive(Debug)]
pub enum Performative<'a> {
    /// No performative: an empty frame keeps the connection alive (2.4.5).
    Empty,
    /// 2.7.1
    Open(Box<Open>),
    /// 2.7.2
    Begin(Box<Begin>),
    /// 2.7.3
    Attach(Box<Attach>),
    /// 2.7.4
    Flow(Flow),
    /// 2.7.5, and the message's bytes
    Transfer(Transfer<'a>, &'a [u8]),
    /// 2.7.6
    Disposition(Disposition<'a>),
    /// 2.7.7
    Detach(Box<Detach>),
    /// 2.7.8
    End(Box<End>),
    /// 2.7.9
    Close(Box<Close>),
}

/// Reads the body of an AMQP frame.
pub fn decode<'a>(body: &'a [u8], limits: &Limits) -> Result<Performative<'a>, Fault> {
    if body.is_empty() {
        return Ok(Performative::Empty);
    }
    read(body, limits).map_err(|malformed| Fault::decode(malformed.0))
}

fn read<'a>(body: &'a [u8], limits: &Limits) -> types::Read<Performative<'a>> {
    let mut input = body;
    if types::u8(&mut input)? != code::DESCRIBED {
        return Err(Malformed("a frame's body is not a described value"));
    }
    let number = types::descriptor(&mut input)?;
    let performative = match number {
        0x13 => Performative::Flow(Flow::decode(&mut input, limits)?),
        0x14 => {
            let transfer = Transfer::decode(&mut input, limits)?;
            return Ok(Performative::Transfer(transfer, input));
        }
        0x15 => Performative::Disposition(Disposition::decode(&mut input, limits)?),
        0x10 => return cold(body, limits).map(Performative::Open),
        0x11 => return cold(body, limits).map(Performative::Begin),
        0x12 => return cold(body, limits).map(Performative::Attach),
        0x16 => return cold(body, limits).map(Performative::Detach),
        0x17 => return cold(body, limits).map(Performative::End),
        0x18 => return cold(body, limits).map(Performative::Close),
        _ => return Err(Malformed("the performative is not known")),
    };
    if !input.is_empty() {
        return Err(Malformed("bytes follow a performative that has no payload"));
    }
    Ok(performative)
}

/// Builds a kept type from a whole value.
pub fn cold<T: DeserializeOwned>(body: &[u8], limits: &Limits) -> types::Read<Box<T>> {
    let mut input = body;
    let value = types::checked(&mut input, limits)?;
    if !input.is_empty() {
        return Err(Malformed("bytes follow a performative that has no payload"));
    }
    serde_amqp::from_slice(value)
        .map(Box::new)
        .map_err(|_| Malformed("a field's value does not fit its definition"))
}

/// The performative does not fit into a frame the peer takes, or cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Appends a frame that carries `performative`; appends nothing when it would exceed `max` bytes.
pub fn encode<T: Serialize>(
    out: &mut BytesMut,
    kind: Kind,
    channel: u16,
    performative: &T,
    max: usize,
) -> Result<(), TooLarge> {
    let at = frame::begin(out, kind, channel);
    let mut serializer = serde_amqp::ser::Serializer::new((&mut *out).writer());
    let encoded = performative.serialize(&mut serializer);
    if frame::finish(out, at) > max || encoded.is_err() {
        out.truncate(at);
        return Err(TooLarge);
    }
    Ok(())
}
