//! A device's pair of method or twin links.

use crate::kit::{Client, soon};
use fe2o3_amqp::link::{ReceiverAttachError, SenderAttachError};
use fe2o3_amqp::types::definitions::{Fields, SenderSettleMode};
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Delivery, Receiver, Sendable, Sender};
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Symbol};
use serde_json::Value as Json;

pub struct Pair {
    pub out: Sender,
    pub back: Receiver,
}

/// `methods` or `twin`, and where their links lead.
pub fn address(kind: &str, identity: &str) -> String {
    match kind {
        "methods" => format!("/devices/{identity}/methods/devicebound"),
        _ => format!("/devices/{identity}/twin"),
    }
}

pub fn properties(channel: &str) -> Fields {
    let mut properties = Fields::new();
    for (key, value) in [
        ("com.microsoft:channel-correlation-id", channel),
        ("com.microsoft:api-version", "2020-09-30"),
    ] {
        properties.insert(Symbol::from(key), Value::String(value.to_owned()));
    }
    properties
}

pub async fn out(
    client: &mut Client,
    name: &str,
    address: &str,
    properties: Fields,
) -> Result<Sender, SenderAttachError> {
    let attaching = Sender::builder()
        .name(name)
        .target(address)
        .sender_settle_mode(SenderSettleMode::Settled)
        .properties(properties)
        .attach(&mut client.session);
    let attached = soon("attach", attaching).await;
    crate::kit::settle_refusal(attached.is_err()).await;
    attached
}

pub async fn back(
    client: &mut Client,
    name: &str,
    address: &str,
    properties: Fields,
) -> Result<Receiver, ReceiverAttachError> {
    let attaching = Receiver::builder()
        .name(name)
        .source(address)
        .properties(properties)
        .attach(&mut client.session);
    let attached = soon("attach", attaching).await;
    crate::kit::settle_refusal(attached.is_err()).await;
    attached
}

impl Pair {
    /// Attaches both links with this id.
    pub async fn open(client: &mut Client, kind: &str, identity: &str, id: &str) -> Self {
        let (address, channel) = (address(kind, identity), format!("{kind}:{id}"));
        let named = |way: &str| format!("{kind}-{way}-{identity}-{id}");
        let out = out(client, &named("out"), &address, properties(&channel)).await;
        let back = back(client, &named("back"), &address, properties(&channel)).await;
        Self {
            out: out.unwrap(),
            back: back.unwrap(),
        }
    }

    /// The next message from the hub, which sends it settled.
    pub async fn next(&mut self) -> Delivery<Body<Value>> {
        soon("a message", self.back.recv::<Body<Value>>())
            .await
            .unwrap()
    }

    /// Asks for something of the twin.
    pub async fn ask(&mut self, id: MessageId, fields: &[(&str, Value)], body: &str) {
        let mut marks = MessageAnnotations::builder();
        for (key, value) in fields {
            marks = marks.insert(*key, value.clone());
        }
        let message = Message::builder()
            .message_annotations(marks.build())
            .properties(Properties {
                correlation_id: Some(id),
                ..Properties::new()
            })
            .data(body.as_bytes())
            .build();
        soon("sent", self.out.send(message)).await.unwrap();
    }

    /// Asks and reads the answer: status, version, body.
    pub async fn asked(&mut self, fields: &[(&str, &str)], body: &str) -> (i32, Option<i64>, Json) {
        let fields: Vec<_> = fields
            .iter()
            .map(|(key, value)| (*key, Value::String((*value).to_owned())))
            .collect();
        self.ask(MessageId::String("q".to_owned()), &fields, body)
            .await;
        answer(&self.next().await)
    }

    /// Answers a method call.
    pub async fn answer(&mut self, id: MessageId, status: impl Into<SimpleValue>, body: &str) {
        self.out.send(answer_to(id, status, body)).await.unwrap();
    }
}

pub fn answer_to(id: MessageId, status: impl Into<SimpleValue>, body: &str) -> Sendable<Data> {
    let named = ApplicationProperties::builder().insert("IoThub-status", status);
    let message = Message::builder()
        .properties(Properties {
            correlation_id: Some(id),
            ..Properties::new()
        })
        .application_properties(named.build())
        .data(Binary::from(body.as_bytes()))
        .build();
    message.into()
}

pub fn annotation<'a>(delivery: &'a Delivery<Body<Value>>, key: &str) -> Option<&'a Value> {
    let annotations = delivery.message().message_annotations.as_ref()?;
    annotations.0.get(&OwnedKey::from(key))
}

/// Status, version and body of a twin's answer.
pub fn answer(delivery: &Delivery<Body<Value>>) -> (i32, Option<i64>, Json) {
    let Some(Value::Int(status)) = annotation(delivery, "status") else {
        panic!("no int status: {:?}", delivery.message())
    };
    let version = match annotation(delivery, "version") {
        None => None,
        Some(Value::Long(version)) => Some(*version),
        other => panic!("no long version: {other:?}"),
    };
    (*status, version, body(delivery))
}

/// The body as JSON; null when there is none.
pub fn body(delivery: &Delivery<Body<Value>>) -> Json {
    match delivery.body() {
        Body::Empty => Json::Null,
        Body::Data(parts) => serde_json::from_slice(&parts[0].0).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Method and id of a call.
pub fn call(delivery: &Delivery<Body<Value>>) -> (String, MessageId) {
    let message = delivery.message();
    let named = message.application_properties.as_ref().unwrap();
    let Some(SimpleValue::String(method)) = named.0.get("IoThub-methodname") else {
        panic!("{named:?}")
    };
    let id = message.properties.as_ref().unwrap().correlation_id.clone();
    let Some(MessageId::Uuid(uuid)) = &id else {
        panic!("{id:?}")
    };
    // Version and variant: Node's client takes no other for a uuid.
    let bits = (uuid.as_inner()[6] >> 4, uuid.as_inner()[8] >> 6);
    assert_eq!(bits, (4, 2));
    (method.clone(), id.unwrap())
}
