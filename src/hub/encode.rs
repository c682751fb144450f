//! Messages between this crate's types and the AMQP library's (wire sheet §4.4, §4.5). Pure.
//!
//! Sends strings only: the hub's converters drop other application properties. Sends no message
//! annotation but the two known ones: an unknown one makes the hub accept a message and lose it.

use super::message::{Command, SystemProperties, Telemetry};
use super::outcome::Cause;
use bytes::Bytes;
use fe2o3_amqp::Sendable;
use fe2o3_amqp::types::definitions::{Error as AmqpError, ErrorCondition};
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Value};

const INTERFACE_ID: &str = "iothub-interface-id";
const COMPONENT: &str = "dt-subject";
const DELIVERY_COUNT: &str = "iothub-deliverycount";

/// A message ready to be sent, again and again if need be. `fallback_id` is its message-id when
/// the device gave none.
pub fn telemetry(message: Telemetry, fallback_id: impl FnOnce() -> String) -> Sendable<Data> {
    let Telemetry {
        system,
        application,
        body,
    } = message;
    let annotations = annotations(&system);
    let mut properties = Properties::new();
    let id = system.message_id.unwrap_or_else(fallback_id);
    properties.message_id = Some(MessageId::String(id));
    properties.correlation_id = system.correlation_id.map(MessageId::String);
    properties.user_id = system.user_id.map(|id| Binary::from(id.into_bytes()));
    properties.to = system.to;
    properties.content_type = system.content_type.map(Symbol::from);
    properties.content_encoding = system.content_encoding.map(Symbol::from);
    properties.absolute_expiry_time = system.expiry_ms.map(Timestamp::from);
    let message = Message {
        header: None,
        delivery_annotations: None,
        message_annotations: annotations,
        properties: Some(properties),
        application_properties: application_properties(application),
        body: Data(Binary::from(Vec::from(body))),
        footer: None,
    };
    Sendable {
        message,
        message_format: 0,
        settled: Some(false),
    }
}

fn annotations(system: &SystemProperties) -> Option<MessageAnnotations> {
    let pairs = [
        (INTERFACE_ID, &system.interface_id),
        (COMPONENT, &system.component),
    ];
    let mut map = OrderedMap::new();
    for (key, value) in pairs {
        if let Some(value) = value {
            map.insert(OwnedKey::from(key), Value::String(value.clone()));
        }
    }
    (!map.is_empty()).then(|| MessageAnnotations(map))
}

/// A key without a value (null in the property bag) is sent as an empty string, so that it still
/// arrives; except for the hub's own `iothub-` keys, where an empty value breaks the message
/// (wire sheet §5, feedback).
fn application_properties(
    application: Vec<(String, Option<String>)>,
) -> Option<ApplicationProperties> {
    let mut map = OrderedMap::with_capacity(application.len());
    for (key, value) in application {
        match value {
            None if key.starts_with("iothub-") => {}
            value => {
                map.insert(key, SimpleValue::String(value.unwrap_or_default()));
            }
        }
    }
    (!map.is_empty()).then(|| ApplicationProperties(map))
}

/// Bytes a message occupies in flight, near enough for back-pressure.
pub fn cost(message: &Sendable<Data>) -> usize {
    let application = message.message.application_properties.as_ref();
    let properties: usize = application.map_or(0, |map| {
        map.iter()
            .map(|(key, value)| key.len() + text_len(value))
            .sum()
    });
    message.message.body.0.len() + properties
}

fn text_len(value: &SimpleValue) -> usize {
    match value {
        SimpleValue::String(text) => text.len(),
        _ => 8,
    }
}

/// A command as delivered; `None` when its body is of no kind a device could be sent.
pub fn command(delivery: u64, message: Message<Body<Value>>) -> Option<Command> {
    let body = body(message.body)?;
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

fn body(body: Body<Value>) -> Option<Bytes> {
    match body {
        Body::Data(sections) => {
            let mut sections = sections.into_inner();
            if sections.len() == 1 {
                return sections.pop().map(|data| Bytes::from(data.0.into_vec()));
            }
            let all: Vec<u8> = sections
                .into_iter()
                .flat_map(|data| data.0.into_vec())
                .collect();
            Some(all.into())
        }
        Body::Value(value) => match value.0 {
            Value::String(text) => Some(text.into_bytes().into()),
            Value::Binary(bytes) => Some(bytes.into_vec().into()),
            Value::Null => Some(Bytes::new()),
            _ => None,
        },
        Body::Empty => Some(Bytes::new()),
        Body::Sequence(_) => None,
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

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

/// An AMQP error as text.
pub fn cause(error: &AmqpError) -> Cause {
    let condition = match &error.condition {
        ErrorCondition::AmqpError(condition) => Symbol::from(condition).as_str().to_owned(),
        ErrorCondition::ConnectionError(condition) => Symbol::from(condition).as_str().to_owned(),
        ErrorCondition::SessionError(condition) => Symbol::from(condition).as_str().to_owned(),
        ErrorCondition::LinkError(condition) => Symbol::from(condition).as_str().to_owned(),
        ErrorCondition::Custom(condition) => condition.as_str().to_owned(),
    };
    Cause {
        condition,
        description: error.description.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::{cause, command, cost, hex, telemetry};
    use crate::hub::message::{SystemProperties, Telemetry};
    use bytes::Bytes;
    use fe2o3_amqp::types::definitions::{Error, LinkError};
    use fe2o3_amqp::types::messaging::annotations::OwnedKey;
    use fe2o3_amqp::types::messaging::{Body, Data, Message, MessageAnnotations, MessageId};
    use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Value};

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
            ],
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn telemetry_carries_strings_and_known_annotations_only() {
        let sendable = telemetry(sample(), || "made-up".into());
        let message = &sendable.message;
        let properties = message.properties.as_ref().unwrap();
        assert_eq!(
            properties.message_id,
            Some(MessageId::String("made-up".into()))
        );
        assert_eq!(
            properties.content_type.as_ref().unwrap().as_str(),
            "application/json"
        );
        let application = message.application_properties.as_ref().unwrap();
        assert_eq!(application.get("a"), Some(&SimpleValue::String("1".into())));
        assert_eq!(
            application.get("null"),
            Some(&SimpleValue::String(String::new()))
        );
        assert_eq!(application.get("iothub-ack"), None);
        let annotations = message.message_annotations.as_ref().unwrap();
        assert_eq!(annotations.0.len(), 1);
        assert_eq!(sendable.settled, Some(false));
        assert!(cost(&sendable) >= 2 + 2 + 4);
    }

    #[test]
    fn a_device_chosen_message_id_stays() {
        let mut message = sample();
        message.system.message_id = Some("mine".into());
        let sendable = telemetry(message, || unreachable!("the device chose one"));
        let id = sendable.message.properties.unwrap().message_id;
        assert_eq!(id, Some(MessageId::String("mine".into())));
    }

    fn plain(body: Body<Value>) -> Message<Body<Value>> {
        Message {
            header: None,
            delivery_annotations: None,
            message_annotations: None,
            properties: None,
            application_properties: None,
            body,
            footer: None,
        }
    }

    #[test]
    fn a_command_is_read_with_its_delivery_count() {
        let mut message = plain(Body::from(Data::from(b"on".to_vec())));
        let mut map = OrderedMap::new();
        map.insert(OwnedKey::from("iothub-deliverycount"), Value::Ubyte(3));
        message.message_annotations = Some(MessageAnnotations(map));
        let command = command(7, message).unwrap();
        assert_eq!((command.delivery, command.delivery_count), (7, 3));
        assert_eq!(&command.body[..], b"on");
    }

    #[test]
    fn a_body_that_is_no_bytes_is_no_command() {
        assert!(command(1, plain(Body::from(Value::Int(5)))).is_none());
        let text = command(1, plain(Body::from(Value::String("hi".into())))).unwrap();
        assert_eq!(&text.body[..], b"hi");
    }

    #[test]
    fn an_amqp_error_becomes_its_symbol_and_words() {
        let error = Error::new(LinkError::Stolen, Some("gone".to_owned()), None);
        let cause = cause(&error);
        assert_eq!(cause.condition, "amqp:link:stolen");
        assert_eq!(cause.description, "gone");
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
