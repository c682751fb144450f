//! Messages between this crate's types and AMQP's sections (wire sheet §4.4, §4.5). Pure.
//!
//! Sends strings only: the hub's converters drop other application properties. Sends no message
//! annotation but the two known ones: an unknown one makes the hub accept a message and lose it.

use super::message::{Command, SystemProperties, Telemetry};
use super::outcome::{Cause, Settled};
use crate::amqp::message::{self, Field, Kind, Section};
use crate::amqp::{Limits, Outcome, fault};
use crate::runtime::hex::hex;
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Error as AmqpError;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{AmqpValue, MessageId, Properties};
use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue, Timestamp, Value};

const INTERFACE_ID: &str = "iothub-interface-id";
const COMPONENT: &str = "dt-subject";
const DELIVERY_COUNT: &str = "iothub-deliverycount";
/// What sections take beside their texts, bytes: nearly always one allocation.
const SECTIONS_BYTES: usize = 160;

/// A message as it is sent, again and again if need be.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Every section, up to the first byte of the payload.
    pub head: BytesMut,
    /// The payload.
    pub body: Bytes,
}

impl Encoded {
    /// Bytes of both.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Encodes a message. `fallback_id` is its message-id when the device gave none.
pub fn telemetry(message: Telemetry, fallback_id: impl FnOnce() -> String) -> Encoded {
    let Telemetry {
        mut system,
        application,
        body,
    } = message;
    let id = system.message_id.take().unwrap_or_else(fallback_id);
    let texts = application.iter().map(|(key, value)| {
        let value = value.as_ref().map_or(0, String::len);
        key.len() + value + 4
    });
    let mut head = BytesMut::with_capacity(SECTIONS_BYTES + id.len() + texts.sum::<usize>());
    put_annotations(&mut head, &system);
    put_properties(&mut head, &id, &system);
    put_application(&mut head, &application);
    message::put_data_head(&mut head, body.len());
    Encoded { head, body }
}

fn put_annotations(out: &mut BytesMut, system: &SystemProperties) {
    let pairs = [
        (INTERFACE_ID, &system.interface_id),
        (COMPONENT, &system.component),
    ];
    let given = pairs.iter().filter_map(|(key, value)| {
        let value = value.as_deref()?;
        Some((*key, value))
    });
    let given: Vec<_> = given.collect();
    message::put_annotations(out, given.into_iter());
}

fn put_properties(out: &mut BytesMut, id: &str, system: &SystemProperties) {
    fn text(text: &Option<String>) -> Field<'_> {
        text.as_deref().map_or(Field::Null, Field::String)
    }
    fn symbol(text: &Option<String>) -> Field<'_> {
        text.as_deref().map_or(Field::Null, Field::Symbol)
    }
    let user = system.user_id.as_deref().map(str::as_bytes);
    let fields = [
        Field::String(id),
        user.map_or(Field::Null, Field::Binary),
        text(&system.to),
        Field::Null, // subject
        Field::Null, // reply-to
        text(&system.correlation_id),
        symbol(&system.content_type),
        symbol(&system.content_encoding),
        system.expiry_ms.map_or(Field::Null, Field::Timestamp),
    ];
    message::put_properties(out, &fields);
}

/// A key without a value (null in the property bag) is sent as an empty string, so that it still
/// arrives; except for the hub's own `iothub-` keys, where an empty value breaks the message
/// (wire sheet §5, feedback). Of a key given twice the last value counts.
fn put_application(out: &mut BytesMut, application: &[(String, Option<String>)]) {
    if application.is_empty() {
        return;
    }
    let mut map = OrderedMap::with_capacity(application.len());
    for (key, value) in application {
        match value {
            None if key.starts_with("iothub-") => {}
            value => {
                map.insert(key.as_str(), value.as_deref().unwrap_or_default());
            }
        }
    }
    let pairs: Vec<_> = map.into_iter().collect();
    message::put_application_properties(out, pairs.into_iter());
}

/// A command as delivered; `None` when its body is of no kind a device could be sent, or it is no
/// message at all.
pub fn command(delivery: u64, payload: &Bytes) -> Option<Command> {
    let limits = Limits::default();
    let (message, sections) = message::decode(payload, &limits).ok()?;
    let body = body(payload, &sections)?;
    let mut system = message.properties.map(system).unwrap_or_default();
    let mut delivery_count = message.header.map_or(0, |header| header.delivery_count);
    for (key, value) in message.message_annotations.into_iter().flat_map(|a| a.0) {
        match (key, value) {
            (OwnedKey::Symbol(key), Value::Ubyte(count)) if key.as_str() == DELIVERY_COUNT => {
                delivery_count = u32::from(count);
            }
            (OwnedKey::Symbol(key), Value::String(text)) if key.as_str() == INTERFACE_ID => {
                system.interface_id = Some(text);
            }
            (OwnedKey::Symbol(key), Value::String(text)) if key.as_str() == COMPONENT => {
                system.component = Some(text);
            }
            _ => {}
        }
    }
    let application = message.application_properties.into_iter().flat_map(|p| p.0);
    Some(Command {
        delivery,
        system,
        application: application
            .filter_map(|(k, v)| Some((k, text(v)?)))
            .collect(),
        body,
        delivery_count,
    })
}

/// The bytes of a body, which are `payload`'s where that is possible.
pub fn body(payload: &Bytes, sections: &[Section<'_>]) -> Option<Bytes> {
    match sections {
        [] => Some(Bytes::new()),
        [one] if one.kind == Kind::Data => Some(payload.slice_ref(one.data().ok()?)),
        [first, ..] if first.kind == Kind::Data => {
            let mut all = BytesMut::new();
            for section in sections {
                all.extend_from_slice(section.data().ok()?);
            }
            Some(all.freeze())
        }
        [value] if value.kind == Kind::AmqpValue => match value.decode().ok()? {
            AmqpValue(Value::String(text)) => Some(text.into_bytes().into()),
            AmqpValue(Value::Binary(bytes)) => Some(bytes.into_vec().into()),
            AmqpValue(Value::Null) => Some(Bytes::new()),
            AmqpValue(_) => None,
        },
        _ => None,
    }
}

fn system(properties: Properties) -> SystemProperties {
    SystemProperties {
        message_id: properties.message_id.and_then(message_id),
        correlation_id: properties.correlation_id.and_then(message_id),
        user_id: properties
            .user_id
            .and_then(|id| String::from_utf8(id.into_vec()).ok()),
        to: properties.to,
        content_type: properties.content_type.map(|s| s.as_str().to_owned()),
        content_encoding: properties.content_encoding.map(|s| s.as_str().to_owned()),
        expiry_ms: properties.absolute_expiry_time.map(Timestamp::into_inner),
        interface_id: None,
        component: None,
    }
}

/// The text of a message-id. SDKs send strings, numbers and UUIDs.
pub fn message_id(id: MessageId) -> Option<String> {
    match id {
        MessageId::String(text) => Some(text),
        MessageId::Ulong(number) => Some(number.to_string()),
        MessageId::Uuid(uuid) => {
            let hex = hex(&uuid.into_inner());
            let parts = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            Some(parts.join("-"))
        }
        MessageId::Binary(bytes) => String::from_utf8(bytes.into_vec()).ok(),
    }
}

/// Outer `None`: no text form. Inner `None`: null.
fn text(value: SimpleValue) -> Option<Option<String>> {
    Some(match value {
        SimpleValue::Null => None,
        SimpleValue::String(text) => Some(text),
        SimpleValue::Symbol(symbol) => Some(symbol.as_str().to_owned()),
        SimpleValue::Bool(flag) => Some(flag.to_string()),
        SimpleValue::Ubyte(n) => Some(n.to_string()),
        SimpleValue::Ushort(n) => Some(n.to_string()),
        SimpleValue::Uint(n) => Some(n.to_string()),
        SimpleValue::Ulong(n) => Some(n.to_string()),
        SimpleValue::Byte(n) => Some(n.to_string()),
        SimpleValue::Short(n) => Some(n.to_string()),
        SimpleValue::Int(n) => Some(n.to_string()),
        SimpleValue::Long(n) => Some(n.to_string()),
        _ => return None,
    })
}

/// An AMQP error as text.
pub fn cause(error: &AmqpError) -> Cause {
    Cause {
        condition: fault::condition(&error.condition),
        description: error.description.clone().unwrap_or_default(),
    }
}

/// An outcome in our terms; `None`: nobody knows it, because the link ended before.
pub fn settled(outcome: &Outcome) -> Option<Settled> {
    Some(match outcome {
        Outcome::Accepted => Settled::Accepted,
        Outcome::Rejected(error) => Settled::Rejected(error.as_deref().map(cause)),
        Outcome::Released => Settled::Released,
        Outcome::Modified { .. } => Settled::Modified,
        Outcome::Settled => Settled::Unknown,
        Outcome::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{cause, command, settled, telemetry};
    use crate::amqp::message::{decode, put_string_head};
    use crate::amqp::{Limits, Outcome};
    use crate::hub::message::{SystemProperties, Telemetry};
    use crate::runtime::hex::hex;
    use bytes::{BufMut, Bytes, BytesMut};
    use fe2o3_amqp_types::definitions::{Error, LinkError};
    use fe2o3_amqp_types::messaging::annotations::OwnedKey;
    use fe2o3_amqp_types::messaging::{AmqpValue, Data, MessageAnnotations, MessageId};
    use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Value};
    use serde_amqp::to_vec;

    fn sample() -> Telemetry {
        Telemetry {
            system: SystemProperties {
                content_type: Some("application/json".into()),
                component: Some("pump".into()),
                expiry_ms: Some(1000),
                ..SystemProperties::default()
            },
            application: vec![
                ("a".into(), Some("1".into())),
                ("null".into(), None),
                ("iothub-ack".into(), None),
                ("a".into(), Some("2".into())),
            ],
            body: Bytes::from_static(b"{}"),
        }
    }

    /// Everything, as the peer gets it.
    fn wire(message: Telemetry, id: impl FnOnce() -> String) -> Bytes {
        let encoded = telemetry(message, id);
        let whole = [&encoded.head[..], &encoded.body[..]].concat();
        assert_eq!(encoded.len(), whole.len());
        whole.into()
    }

    #[test]
    fn telemetry_carries_strings_and_known_annotations_only() {
        let bytes = wire(sample(), || "made-up".into());
        let limits = Limits::default();
        let (message, body) = decode(&bytes, &limits).unwrap();
        let properties = message.properties.unwrap();
        assert_eq!(
            properties.message_id,
            Some(MessageId::String("made-up".into()))
        );
        assert_eq!(
            properties.content_type.unwrap().as_str(),
            "application/json"
        );
        assert_eq!(properties.absolute_expiry_time.unwrap().into_inner(), 1000);
        let application = message.application_properties.unwrap();
        assert_eq!(application.get("a"), Some(&SimpleValue::String("2".into())));
        assert_eq!(
            application.get("null"),
            Some(&SimpleValue::String(String::new()))
        );
        assert_eq!(application.get("iothub-ack"), None);
        assert_eq!(application.0.len(), 2);
        let annotations = message.message_annotations.unwrap();
        let component = OwnedKey::from("dt-subject");
        let pump = Value::String("pump".into());
        assert_eq!(
            annotations.0.into_iter().collect::<Vec<_>>(),
            [(component, pump)]
        );
        assert_eq!(body.len(), 1);
        assert_eq!(body[0].data(), Ok(&b"{}"[..]));
    }

    #[test]
    fn a_device_chosen_message_id_stays_and_nothing_is_added() {
        let message = Telemetry {
            system: SystemProperties {
                message_id: Some("mine".into()),
                ..SystemProperties::default()
            },
            body: vec![7; 300].into(),
            ..Telemetry::default()
        };
        let bytes = wire(message, || unreachable!("the device chose one"));
        let limits = Limits::default();
        let (message, body) = decode(&bytes, &limits).unwrap();
        let id = message.properties.unwrap().message_id;
        assert_eq!(id, Some(MessageId::String("mine".into())));
        assert_eq!(message.message_annotations, None);
        assert_eq!(message.application_properties, None);
        assert_eq!(body[0].data().unwrap().len(), 300);
    }

    #[test]
    fn a_command_is_read_with_its_delivery_count_and_its_bytes_are_not_copied() {
        let mut map = OrderedMap::new();
        map.insert(OwnedKey::from("iothub-deliverycount"), Value::Ubyte(3));
        let mut bytes = to_vec(&MessageAnnotations(map)).unwrap();
        bytes.extend(to_vec(&Data(Binary::from(b"on".to_vec()))).unwrap());
        let payload = Bytes::from(bytes);
        let command = command(7, &payload).unwrap();
        assert_eq!((command.delivery, command.delivery_count), (7, 3));
        assert_eq!(&command.body[..], b"on");
        let end = payload.len();
        assert_eq!(command.body.as_ptr(), payload.slice(end - 2..).as_ptr());
    }

    #[test]
    fn a_body_that_is_no_bytes_is_no_command() {
        let number = to_vec(&AmqpValue(Value::Int(5))).unwrap();
        assert!(command(1, &number.into()).is_none());
        assert!(command(1, &Bytes::from_static(b"nonsense")).is_none());
        let mut text = BytesMut::new();
        put_string_head(&mut text, 2);
        text.put_slice(b"hi");
        assert_eq!(&command(1, &text.freeze()).unwrap().body[..], b"hi");
        assert!(command(1, &Bytes::new()).unwrap().body.is_empty());
        let part = to_vec(&Data(Binary::from(b"ab".to_vec()))).unwrap();
        let two = [&part[..], &part[..]].concat();
        assert_eq!(&command(1, &two.into()).unwrap().body[..], b"abab");
    }

    #[test]
    fn an_amqp_error_becomes_its_symbol_and_words() {
        let error = Error::new(LinkError::Stolen, Some("gone".to_owned()), None);
        let cause = cause(&error);
        assert_eq!(cause.condition, "amqp:link:stolen");
        assert_eq!(cause.description, "gone");
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }

    #[test]
    fn an_outcome_nobody_knows_is_none() {
        assert_eq!(settled(&Outcome::Unknown), None);
        assert!(settled(&Outcome::Settled).is_some());
    }
}
