//! Messages of direct methods and twins between this crate's types and AMQP's sections (wire sheet
//! §4.6, §4.7), and the properties of their links (§4.2). Pure.

use super::desired::Ask;
use super::encode::{self, Encoded};
use super::outcome::{Cause, says};
use crate::amqp::Limits;
use crate::amqp::message::{self, Field};
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{MessageId, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};

const CORRELATION: &str = "com.microsoft:channel-correlation-id";
const API: (&str, &str) = ("com.microsoft:api-version", "2020-09-30");
const CLIENT: &str = "com.microsoft:client-version";
const NAME: &str = "IoThub-methodname";
const STATUS: &str = "IoThub-status";
const DESIRED: &str = "/notifications/twin/properties/desired";
const REPORTED: &str = "/properties/reported";
/// What sections take beside their texts, bytes.
const SECTIONS_BYTES: usize = 192;
/// Longest correlation id taken, bytes; the service's have 16.
const ID_BYTES_MAX: usize = 128;

/// What both links of a pair are attached with; `channel` names the pair, and this try of it.
#[must_use]
pub fn attach_properties(channel: &str) -> Fields {
    let client = concat!("iothub-gateway/", env!("CARGO_PKG_VERSION"));
    let pairs = [(CORRELATION, channel), API, (CLIENT, client)];
    let mut fields = Fields::new();
    for (key, value) in pairs {
        fields.insert(Symbol::from(key), Value::String(value.to_owned()));
    }
    fields
}

/// A method call as delivered.
#[derive(Debug, PartialEq)]
pub struct Call {
    /// Goes back with the answer, of the same type.
    pub id: MessageId,
    /// The method.
    pub name: String,
    /// The payload.
    pub body: Bytes,
}

/// Reads a method call; `None`: it could not be answered, or not be passed on.
#[must_use]
pub fn call(payload: &Bytes) -> Option<Call> {
    let limits = Limits::default();
    let (message, sections) = message::decode(payload, &limits).ok()?;
    let body = encode::body(payload, &sections)?;
    let id = message.properties?.correlation_id?;
    let application = message.application_properties?;
    let name = application.0.into_iter().find(|(key, _)| key == NAME);
    match name {
        Some((_, SimpleValue::String(name))) if !name.is_empty() && id_fits(&id) => {
            Some(Call { id, name, body })
        }
        _ => None,
    }
}

fn id_fits(id: &MessageId) -> bool {
    match id {
        MessageId::String(text) => text.len() <= ID_BYTES_MAX,
        MessageId::Binary(bytes) => bytes.len() <= ID_BYTES_MAX,
        MessageId::Ulong(_) | MessageId::Uuid(_) => true,
    }
}

/// The answer to a method call.
#[must_use]
pub fn answer(id: MessageId, status: i32, body: Bytes) -> Encoded {
    let mut head = BytesMut::with_capacity(SECTIONS_BYTES);
    let uuid;
    let id = match &id {
        MessageId::String(text) => Field::String(text),
        MessageId::Ulong(number) => Field::Ulong(*number),
        MessageId::Binary(bytes) => Field::Binary(bytes),
        MessageId::Uuid(bytes) => {
            uuid = bytes.clone().into_inner();
            Field::Uuid(uuid)
        }
    };
    put_correlation(&mut head, id);
    let pairs = [(STATUS, Field::Int(status))];
    message::put_application_properties(&mut head, pairs.into_iter());
    message::put_data_head(&mut head, body.len());
    Encoded { head, body }
}

fn put_correlation(out: &mut BytesMut, id: Field<'_>) {
    let mut fields = [Field::Null; 6];
    fields[5] = id;
    message::put_properties(out, &fields);
}

/// The gateway's own request to a twin, or a device's for the whole of it.
#[must_use]
pub fn twin_ask(ask: Ask, id: &str) -> Encoded {
    let operation = match ask {
        Ask::Get => ("GET", None),
        Ask::Put => ("PUT", Some(DESIRED)),
    };
    twin(operation, None, id, Bytes::from_static(b" "))
}

/// A device's reported properties; `version` is a condition.
#[must_use]
pub fn twin_report(version: Option<i64>, id: &str, body: Bytes) -> Encoded {
    twin(("PATCH", Some(REPORTED)), version, id, body)
}

fn twin(
    (operation, resource): (&str, Option<&str>),
    version: Option<i64>,
    id: &str,
    body: Bytes,
) -> Encoded {
    let mut head = BytesMut::with_capacity(SECTIONS_BYTES);
    let mut pairs = vec![("operation", Field::String(operation))];
    pairs.extend(resource.map(|resource| ("resource", Field::String(resource))));
    pairs.extend(version.map(|version| ("version", Field::Long(version))));
    message::put_annotations(&mut head, pairs.into_iter());
    put_correlation(&mut head, Field::String(id));
    message::put_data_head(&mut head, body.len());
    Encoded { head, body }
}

/// A message of the twin link as delivered.
#[derive(Debug, PartialEq, Eq)]
pub enum TwinMessage {
    /// The answer to a request.
    Answer {
        /// The request's correlation id.
        id: String,
        /// As HTTP has it; an answer without one is a success.
        status: i32,
        /// The version after a report.
        version: Option<i64>,
        /// A twin, or an error; may be empty.
        body: Bytes,
    },
    /// Desired properties that have changed.
    Push(Bytes),
}

/// Reads a message of the twin link.
#[must_use]
pub fn twin_message(payload: &Bytes) -> Option<TwinMessage> {
    let limits = Limits::default();
    let (message, sections) = message::decode(payload, &limits).ok()?;
    let body = encode::body(payload, &sections)?;
    let of = |properties: Properties| properties.correlation_id;
    let Some(id) = message.properties.and_then(of) else {
        return Some(TwinMessage::Push(body));
    };
    let (mut status, mut version) = (200, None);
    for (key, value) in message.message_annotations.into_iter().flat_map(|a| a.0) {
        let OwnedKey::Symbol(key) = key else { continue };
        match key.as_str() {
            "status" => status = i32::try_from(number(&value)?).ok()?,
            "version" => version = number(&value),
            _ => {}
        }
    }
    Some(TwinMessage::Answer {
        id: encode::message_id(id)?,
        status,
        version,
        body,
    })
}

/// An integer of any type (1.6); the service's clients take some types only, this one all.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Ubyte(n) => Some((*n).into()),
        Value::Ushort(n) => Some((*n).into()),
        Value::Uint(n) => Some((*n).into()),
        Value::Ulong(n) => i64::try_from(*n).ok(),
        Value::Byte(n) => Some((*n).into()),
        Value::Short(n) => Some((*n).into()),
        Value::Int(n) => Some((*n).into()),
        Value::Long(n) => Some(*n),
        _ => None,
    }
}

/// Whether the hub says that it has no such links for any device.
#[must_use]
pub fn is_unserved(cause: &Cause) -> bool {
    let says = |words| says(&cause.description, words);
    match cause.condition.as_str() {
        "amqp:not-implemented" => true,
        "amqp:not-found" => says("link address") || says("404006"),
        _ => false,
    }
}

/// The body of an answer given in the hub's place; the service's own errors look alike.
#[must_use]
pub fn error_body(status: i32, text: &str) -> Bytes {
    let body = serde_json::json!({"errorCode": status * 1000 + 1, "message": text});
    body.to_string().into()
}

/// Correlation ids of one device's twin requests: a UUID's form, the request's number at the end.
#[derive(Clone, Copy)]
pub struct Ids(u64);

impl Ids {
    /// Ids no other device has.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The id of a request.
    #[must_use]
    pub fn id(self, number: u64) -> String {
        let Self(seed) = self;
        let (a, b, c) = (seed >> 32, (seed >> 16) & 0xffff, seed & 0xffff);
        let number = number & 0xffff_ffff_ffff;
        format!("{a:08x}-{b:04x}-4000-{c:04x}-{number:012x}")
    }

    /// The request of an id; `None`: it is none of these.
    #[must_use]
    pub fn number(self, id: &str) -> Option<u64> {
        let (_, number) = id.rsplit_once('-')?;
        let number = u64::from_str_radix(number, 16).ok()?;
        (self.id(number) == id.to_ascii_lowercase()).then_some(number)
    }
}

#[cfg(test)]
mod tests;
