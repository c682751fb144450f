//! What is written here is read as the library reads it, and the reverse.

use super::*;
use crate::amqp::message::decode;
use fe2o3_amqp_types::messaging::{ApplicationProperties, Data, MessageAnnotations};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, Uuid};
use serde_amqp::to_vec;

fn wire(encoded: &Encoded) -> Bytes {
    [&encoded.head[..], &encoded.body[..]].concat().into()
}

fn properties(id: MessageId) -> Vec<u8> {
    let properties = Properties {
        correlation_id: Some(id),
        ..Properties::default()
    };
    to_vec(&properties).unwrap()
}

fn data(body: &str) -> Vec<u8> {
    to_vec(&Data(Binary::from(body.as_bytes().to_vec()))).unwrap()
}

fn method(id: MessageId, name: Option<SimpleValue>, body: &str) -> Bytes {
    let mut map = OrderedMap::new();
    if let Some(name) = name {
        map.insert(NAME.to_owned(), name);
    }
    let named = to_vec(&ApplicationProperties(map)).unwrap();
    [properties(id), named, data(body)].concat().into()
}

fn uuid() -> MessageId {
    MessageId::Uuid(Uuid::from([7; 16]))
}

#[test]
fn a_call_is_answered_under_its_id_of_the_same_type_with_an_int() {
    let ids = [
        uuid(),
        MessageId::String("a".to_owned()),
        MessageId::Ulong(5),
        MessageId::Binary(Binary::from(vec![1, 2])),
    ];
    for id in ids {
        let name = SimpleValue::String("blink".to_owned());
        let read = call(&method(id.clone(), Some(name), "{\"a\":1}")).unwrap();
        assert_eq!((&read.id, read.name.as_str()), (&id, "blink"));
        assert_eq!(&read.body[..], b"{\"a\":1}");
        let bytes = wire(&answer(read.id, -3, Bytes::from_static(b"{}")));
        let limits = Limits::default();
        let (message, body) = decode(&bytes, &limits).unwrap();
        assert_eq!(message.properties.unwrap().correlation_id, Some(id));
        let status = message.application_properties.unwrap();
        assert_eq!(status.get(STATUS), Some(&SimpleValue::Int(-3)));
        assert_eq!(body[0].data(), Ok(&b"{}"[..]));
    }
}

#[test]
fn a_call_without_name_or_id_is_none() {
    let name = || Some(SimpleValue::String("m".to_owned()));
    assert_eq!(call(&method(uuid(), None, "")), None);
    assert_eq!(call(&method(uuid(), Some(SimpleValue::Int(1)), "")), None);
    let endless = MessageId::String("x".repeat(ID_BYTES_MAX + 1));
    assert_eq!(call(&method(endless, name(), "")), None);
    assert_eq!(call(&Bytes::from_static(b"nonsense")), None);
    assert_eq!(call(&data("").into()), None);
    assert!(call(&method(uuid(), name(), "")).is_some());
}

#[test]
fn twin_requests_have_what_the_service_looks_at() {
    let limits = Limits::default();
    let annotations = |encoded: &Encoded| {
        let bytes = wire(encoded);
        let (message, _) = decode(&bytes, &limits).unwrap();
        let id = message.properties.unwrap().correlation_id;
        assert_eq!(id, Some(MessageId::String("i".to_owned())));
        let pairs = message.message_annotations.unwrap().0.into_iter();
        let pairs = pairs.map(|(key, value)| (format!("{key:?}"), value));
        pairs.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let text = |text: &str| Value::String(text.to_owned());
    assert_eq!(annotations(&twin_ask(Ask::Get, "i")), [text("GET")]);
    assert_eq!(
        annotations(&twin_ask(Ask::Put, "i")),
        [text("PUT"), text(DESIRED)]
    );
    let report = twin_report(Some(4), "i", Bytes::from_static(b"{}"));
    assert_eq!(
        annotations(&report),
        [text("PATCH"), text(REPORTED), Value::Long(4)]
    );
}

fn answered(pairs: &[(&str, Value)], body: &str) -> Bytes {
    let mut map = OrderedMap::new();
    for (key, value) in pairs {
        map.insert(OwnedKey::from(*key), value.clone());
    }
    let annotations = to_vec(&MessageAnnotations(map)).unwrap();
    let id = properties(MessageId::String("q".to_owned()));
    [annotations, id, data(body)].concat().into()
}

#[test]
fn an_answer_of_the_twin_is_told_from_a_push_by_its_id() {
    let answer = |status, version, body: &'static str| {
        Some(TwinMessage::Answer {
            id: "q".to_owned(),
            status,
            version,
            body: Bytes::from_static(body.as_bytes()),
        })
    };
    let patched = answered(
        &[("status", Value::Int(204)), ("version", Value::Long(7))],
        "",
    );
    assert_eq!(twin_message(&patched), answer(204, Some(7), ""));
    let bare = answered(&[], "{}");
    assert_eq!(twin_message(&bare), answer(200, None, "{}"));
    let odd = answered(&[("status", Value::String("200".to_owned()))], "");
    assert_eq!(twin_message(&odd), None);
    let push = Bytes::from(data("{\"a\":1}"));
    let pushed = TwinMessage::Push(Bytes::from_static(b"{\"a\":1}"));
    assert_eq!(twin_message(&push), Some(pushed));
    assert_eq!(twin_message(&Bytes::from_static(b"x")), None);
}

#[test]
fn an_id_leads_back_to_its_request_alone() {
    let ids = Ids::of(0x0123_4567_89ab_cdef);
    let id = ids.id(0x2a);
    assert_eq!(id, "01234567-89ab-4000-cdef-00000000002a");
    assert_eq!(ids.number(&id), Some(0x2a));
    assert_eq!(ids.number(&id.to_ascii_uppercase()), Some(0x2a));
    assert_eq!(Ids::of(1).number(&id), None);
    for strange in ["", "2a", "01234567-89ab-4000-cdef-2a", "x-2a"] {
        assert_eq!(ids.number(strange), None, "{strange}");
    }
}

#[test]
fn a_hub_without_such_links_is_not_a_missing_device() {
    let error = |condition: &str, words: &str| {
        is_unserved(&Cause {
            condition: condition.to_owned(),
            description: words.to_owned(),
        })
    };
    let no_address = "The link address did not match any of the expected formats";
    assert!(error("amqp:not-found", no_address));
    assert!(error("amqp:not-implemented", ""));
    assert!(!error("amqp:not-found", "no such device"));
}
