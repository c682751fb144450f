use super::*;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Data, MessageAnnotations};
use serde_amqp::primitives::Uuid;

fn data(bytes: &[u8]) -> Received {
    Message::builder()
        .data(bytes)
        .build()
        .map_body(|data| Body::Data(vec![data].into()))
}

fn one(message: Received) -> Draft {
    drafts(message, 0).unwrap().remove(0)
}

#[test]
fn a_message_keeps_its_strings_and_loses_other_values() {
    let mut message = data(b"42");
    message.application_properties = Some(
        ApplicationProperties::builder()
            .insert("unit", "C".to_owned())
            .insert("number", 7i32)
            .insert("iothub-message-schema", "v1".to_owned())
            .build(),
    );
    message.properties = Some(Properties {
        message_id: Some(MessageId::Uuid(Uuid::from([0x11; 16]))),
        content_type: Some("application/json".into()),
        absolute_expiry_time: Some(Timestamp::from_milliseconds(1_893_456_000_000)),
        ..Properties::new()
    });
    let draft = one(message);
    assert_eq!(draft.content.body, "42");
    assert_eq!(hex(&draft.sha256[..4]), "73475cb4");
    assert_eq!(
        draft.content.properties,
        [("unit".to_owned(), "C".to_owned())]
    );
    let system: Vec<_> = draft
        .content
        .system
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        system,
        [
            ("message-id", "11111111-1111-1111-1111-111111111111"),
            ("content-type", "application/json"),
            ("absolute-expiry-time", "2030-01-01T00:00:00.000Z"),
            ("iothub-message-schema", "v1"),
        ]
    );
}

#[test]
fn an_unknown_annotation_is_pointed_out() {
    let mut message = data(b"x");
    message.message_annotations = Some(
        MessageAnnotations::builder()
            .insert("dt-subject", "part".to_owned())
            .insert("my-own", "x".to_owned())
            .build(),
    );
    let system = one(message).content.system;
    assert_eq!(system[0], ("dt-subject".to_owned(), "part".to_owned()));
    assert_eq!(system[1].0, "emulator-not-delivered");
}

#[test]
fn a_batch_is_unpacked_in_order_or_refused_whole() {
    let encode = |message: Received| serde_amqp::to_vec(&Serializable(message)).unwrap();
    let batch = |parts: Vec<Vec<u8>>| -> Received {
        let parts: Vec<Data> = parts.into_iter().map(Data::from).collect();
        Message::builder()
            .data(vec![])
            .build()
            .map_body(|_| Body::Data(parts.into()))
    };
    let good = vec![encode(data(b"first")), encode(data(b"second"))];
    let bodies: Vec<Bytes> = drafts(batch(good.clone()), BATCH)
        .unwrap()
        .into_iter()
        .map(|d| d.content.body)
        .collect();
    assert_eq!(bodies, ["first", "second"]);
    let bad = [good, vec![b"junk".to_vec()]].concat();
    assert_eq!(drafts(batch(bad), BATCH).unwrap_err(), Undecodable);
}

#[test]
fn several_data_sections_are_one_body_and_values_are_read() {
    let parts: Vec<Data> = vec![Data::from(b"ab".to_vec()), Data::from(b"cd".to_vec())];
    let message = Message::builder()
        .data(vec![])
        .build()
        .map_body(|_| Body::Data(parts.into()));
    assert_eq!(one(message).content.body, "abcd");
    let text = Message::builder()
        .value(Value::String("hi".to_owned()))
        .build();
    assert_eq!(one(text.map_body(Body::Value)).content.body, "hi");
}

#[test]
fn the_size_that_counts_is_the_encoded_one() {
    let message = data(&[0; 300_000]);
    let exact = serde_amqp::serialized_size(&Serializable(&message)).unwrap();
    assert_eq!(larger_than(&message, 256 * 1024), Some(exact));
    assert_eq!(larger_than(&message, exact), None);
    assert_eq!(larger_than(&message, exact - 1), Some(exact));
    assert_eq!(larger_than(&data(&[0; 200_000]), 256 * 1024), None);
    let mut propertied = data(b"x");
    let properties = ApplicationProperties::builder()
        .insert("k", "v".repeat(300_000))
        .build();
    propertied.application_properties = Some(properties);
    assert!(larger_than(&propertied, 256 * 1024).is_some());
}

#[test]
fn the_quick_bound_is_never_too_low() {
    let mut message = data(&[1; 1000]);
    let mut properties = ApplicationProperties::builder();
    for n in 0..50 {
        properties = properties.insert(format!("key{n}"), "é".repeat(n));
    }
    message.application_properties = Some(properties.insert("n", 1.5f64).build());
    message.properties = Some(Properties {
        message_id: Some(MessageId::String("m".repeat(128))),
        user_id: Some(b"user".to_vec().into()),
        subject: Some("s".repeat(300)),
        creation_time: Some(Timestamp::from_milliseconds(1)),
        ..Properties::new()
    });
    let exact = serde_amqp::serialized_size(&Serializable(&message)).unwrap();
    assert!(
        upper_bound(&message) >= exact,
        "{} < {exact}",
        upper_bound(&message)
    );
}
