//! From an AMQP message to a line of the ledger (wire sheet §4.4).

use crate::emulator::errors::{hex, iso8601};
use crate::emulator::ledger::{Content, Draft};
use crate::runtime::clock::Unix;
use bytes::Bytes;
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp::types::messaging::{Body, Message, MessageId, Properties};
use fe2o3_amqp::types::primitives::SimpleValue;
use serde_amqp::Value;
use serde_amqp::primitives::Timestamp;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// A message as the AMQP library hands it over.
pub(crate) type Received = Message<Body<Value>>;

/// Transfer `message-format` of a batch: each data section is a whole encoded message.
const BATCH: u32 = 0x8001_3700;

/// Application properties the service reads as system properties.
const SYSTEM: [&str; 5] = [
    "iothub-creation-time-utc",
    "iothub-message-schema",
    "iothub-operation",
    "iothub-ack",
    "iothub-outputname",
];

/// Annotations the service knows; a message with others is accepted and never delivered.
const KNOWN_ANNOTATIONS: [&str; 5] = [
    "iothub-",
    "dt-",
    "x-opt-",
    "Diagnostic-Id",
    "Correlation-Context",
];

/// The message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// The encoded size, if it is more than `max` bytes. The library gives no access to the bytes
/// received, so the size is that of the message encoded again, and only when it may matter.
pub(crate) fn larger_than(message: &Received, max: usize) -> Option<usize> {
    if upper_bound(message) <= max {
        return None;
    }
    let size = serde_amqp::serialized_size(&Serializable(message)).unwrap_or(usize::MAX);
    (size > max).then_some(size)
}

/// Never below the encoded size of what it counts; [`usize::MAX`] for what it does not count.
fn upper_bound(message: &Received) -> usize {
    const SECTION: usize = 64;
    let body: usize = match &message.body {
        Body::Data(parts) => parts.iter().map(|part| part.0.len() + SECTION).sum(),
        Body::Empty => SECTION,
        _ => return usize::MAX,
    };
    let mut size = body + 2 * SECTION;
    if message.message_annotations.is_some()
        || message.delivery_annotations.is_some()
        || message.footer.is_some()
    {
        return usize::MAX;
    }
    if let Some(p) = &message.properties {
        let texts = [
            &p.to,
            &p.subject,
            &p.reply_to,
            &p.group_id,
            &p.reply_to_group_id,
        ];
        size += texts.into_iter().flatten().map(String::len).sum::<usize>();
        size += p.user_id.as_ref().map_or(0, |id| id.len());
        let symbols = [&p.content_type, &p.content_encoding];
        size += symbols
            .into_iter()
            .flatten()
            .map(|s| s.as_str().len())
            .sum::<usize>();
        let ids = [&p.message_id, &p.correlation_id];
        size += ids
            .into_iter()
            .flatten()
            .map(|id| match id {
                MessageId::String(text) => text.len(),
                MessageId::Binary(bytes) => bytes.len(),
                _ => 16,
            })
            .sum::<usize>()
            + 4 * SECTION;
    }
    if let Some(properties) = &message.application_properties {
        for (key, value) in properties.0.iter() {
            let value = match value {
                SimpleValue::String(text) => text.len(),
                SimpleValue::Symbol(symbol) => symbol.as_str().len(),
                SimpleValue::Binary(bytes) => bytes.len(),
                _ => 16,
            };
            size += key.len() + value + 16;
        }
    }
    size
}

/// The messages of one transfer: one, or those of a batch.
pub(crate) fn drafts(message: Received, format: u32) -> Result<Vec<Draft>, Undecodable> {
    if format != BATCH {
        return Ok(vec![draft(message)?]);
    }
    let Body::Data(parts) = message.body else {
        return Err(Undecodable);
    };
    parts
        .into_iter()
        .map(|part| {
            let inner: Deserializable<Received> =
                serde_amqp::from_slice(&part.0).map_err(|_| Undecodable)?;
            draft(inner.0)
        })
        .collect()
}

fn draft(message: Received) -> Result<Draft, Undecodable> {
    let mut content = Content {
        body: body(message.body)?,
        ..Content::default()
    };
    if let Some(properties) = message.properties {
        system_properties(properties, &mut content.system);
    }
    if let Some(properties) = message.application_properties {
        for (key, value) in properties.0 {
            // Microsoft's converters drop every value that is no string.
            let SimpleValue::String(value) = value else {
                continue;
            };
            let system = SYSTEM.contains(&key.as_str());
            if system {
                &mut content.system
            } else {
                &mut content.properties
            }
            .push((key, value));
        }
    }
    if let Some(annotations) = message.message_annotations {
        for (key, value) in annotations.0 {
            let OwnedKey::Symbol(key) = key else { continue };
            let known = KNOWN_ANNOTATIONS
                .iter()
                .any(|prefix| key.as_str().starts_with(prefix));
            if !known {
                let warning = "emulator-not-delivered".to_owned();
                content
                    .system
                    .push((warning, format!("unknown annotation {:?}", key.as_str())));
            } else if let Value::String(value) = value {
                content.system.push((key.0, value));
            }
        }
    }
    Ok(Draft {
        sha256: Sha256::digest(&content.body).into(),
        content,
    })
}

/// The bytes of a body.
pub(crate) fn body(body: Body<Value>) -> Result<Bytes, Undecodable> {
    Ok(match body {
        Body::Empty => Bytes::new(),
        Body::Data(parts) => {
            let mut parts = parts.into_iter().map(|part| part.0.into_vec());
            let mut bytes = parts.next().unwrap_or_default();
            parts.for_each(|part| bytes.extend(part));
            bytes.into()
        }
        Body::Value(value) => match value.0 {
            Value::Binary(bytes) => bytes.into_vec().into(),
            Value::String(text) => text.into(),
            other => serde_amqp::to_vec(&other).map_err(|_| Undecodable)?.into(),
        },
        Body::Sequence(_) => return Err(Undecodable),
    })
}

fn system_properties(p: Properties, system: &mut Vec<(String, String)>) {
    let user_id = p.user_id.map(|id| match String::from_utf8(id.into_vec()) {
        Ok(text) => text,
        Err(error) => hex(error.as_bytes()),
    });
    let fields = [
        ("message-id", p.message_id.map(message_id)),
        ("correlation-id", p.correlation_id.map(message_id)),
        ("user-id", user_id),
        ("to", p.to),
        ("content-type", p.content_type.map(|symbol| symbol.0)),
        (
            "content-encoding",
            p.content_encoding.map(|symbol| symbol.0),
        ),
        (
            "absolute-expiry-time",
            p.absolute_expiry_time.map(timestamp),
        ),
        ("creation-time", p.creation_time.map(timestamp)),
        ("subject", p.subject),
        ("reply-to", p.reply_to),
        ("group-id", p.group_id),
    ];
    system.extend(
        fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?))),
    );
}

fn timestamp(at: Timestamp) -> String {
    let millis = u64::try_from(at.milliseconds()).unwrap_or(0);
    iso8601(Unix::default() + Duration::from_millis(millis))
}

/// An id as text; a uuid in its usual form.
pub(crate) fn message_id(id: MessageId) -> String {
    match id {
        MessageId::String(text) => text,
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Binary(bytes) => hex(&bytes),
        MessageId::Uuid(uuid) => {
            let hex = hex(uuid.as_inner());
            let parts = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            parts.join("-")
        }
    }
}

#[cfg(test)]
mod tests;
