//! Links of back ends: commands and their feedback, events and where they are read.

use crate::kit::{Client, HOST, condition, data, http, refusal, send, soon, start, token};
use crate::pairs::annotation;
use fe2o3_amqp::link::ReceiverAttachError;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Message, MessageId, Outcome, Properties, Source,
};
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Delivery, Receiver};
use iothub_gateway::config::secret::Secret;
use iothub_gateway::emulator::EmulatorHandle;
use iothub_gateway::emulator::config::{EmulatorConfig, Keys, PolicyConfig, Rights};
use serde_amqp::Value;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use serde_amqp::primitives::{OrderedMap, Symbol, Timestamp};
use serde_json::json;
use std::time::Duration;

pub const SERVICE_KEY: &[u8] = b"the service policy's key";

/// A policy for back ends, and feedback at once.
pub fn with_service(config: &mut EmulatorConfig) {
    config.policies.push(PolicyConfig {
        name: "service".to_owned(),
        rights: Rights {
            service_connect: true,
            registry_read: true,
            registry_write: true,
            ..Rights::default()
        },
        keys: Keys {
            primary: Some(Secret::new(SERVICE_KEY.to_vec())),
            secondary: None,
        },
    });
    config.limits.feedback_delay = Duration::from_millis(50);
}

/// Connected with a token of the service policy.
async fn back_end(hub: &EmulatorHandle) -> Client {
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let reply = client
        .put(&token(SERVICE_KEY, HOST, 3600, Some("service")))
        .await;
    assert_eq!(reply.status, SimpleValue::Int(200), "{reply:?}");
    client
}

fn command(to: &str, id: &str, ack: &str) -> Message<fe2o3_amqp::types::messaging::Data> {
    let properties = Properties {
        message_id: Some(MessageId::String(id.to_owned())),
        to: Some(to.to_owned()),
        ..Properties::new()
    };
    let application = ApplicationProperties::builder()
        .insert("iothub-ack", ack.to_owned())
        .insert("unit", "percent".to_owned());
    Message::builder()
        .properties(properties)
        .application_properties(application.build())
        .data(&b"open"[..])
        .build()
}

const DEVICE: &str = "/devices/plain-1/messages/deviceBound";

fn rejected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Rejected(rejected) => rejected.error.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn text(delivery: &Delivery<Body<Value>>) -> String {
    let Body::Data(parts) = delivery.body() else {
        panic!("{:?}", delivery.body())
    };
    String::from_utf8(parts[0].0.to_vec()).unwrap()
}

#[tokio::test]
async fn a_command_is_queued_delivered_and_reported() {
    let hub = start(with_service).await;
    let mut client = back_end(&hub).await;
    let mut sender = client.sender("c2d", "/messages/deviceBound").await.unwrap();
    let mut reports = Receiver::attach(
        &mut client.session,
        "feedback",
        "/messages/serviceBound/feedback",
    )
    .await
    .unwrap();
    for id in ["1", "2"] {
        let sent = soon("sent", sender.send(command(DEVICE, id, "full"))).await;
        assert!(matches!(sent, Ok(Outcome::Accepted(_))), "{sent:?}");
    }
    let mut device = Client::authorised(&hub).await;
    let mut receiver = device.commands("plain-1").await.unwrap();
    let first = soon("a command", receiver.recv::<Body<Value>>())
        .await
        .unwrap();
    assert_eq!(text(&first), "open");
    receiver.accept(&first).await.unwrap();
    let second = soon("a command", receiver.recv::<Body<Value>>())
        .await
        .unwrap();
    receiver.reject(&second, None::<Error>).await.unwrap();

    let mut records = Vec::new();
    while records.len() < 2 {
        let report = soon("a report", reports.recv::<Body<Value>>())
            .await
            .unwrap();
        let properties = report.message().properties.as_ref().unwrap();
        assert_eq!(
            properties.content_type.as_ref().unwrap().as_str(),
            "application/vnd.microsoft.iothub.feedback.json"
        );
        let batch: serde_json::Value = serde_json::from_str(&text(&report)).unwrap();
        records.extend(batch.as_array().unwrap().clone());
        reports.accept(&report).await.unwrap();
    }
    let seen: Vec<_> = records
        .iter()
        .map(|record| {
            (
                record["originalMessageId"].clone(),
                record["statusCode"].clone(),
            )
        })
        .collect();
    let wanted = [
        (json!("1"), json!("Success")),
        (json!("2"), json!("Rejected")),
    ];
    assert_eq!(seen, wanted);
    assert_eq!(records[0]["deviceId"], "plain-1");
}

#[tokio::test]
async fn feedback_that_is_given_back_comes_again() {
    let hub = start(with_service).await;
    let mut client = back_end(&hub).await;
    let path = "/devices/plain-1/commands?$.mid=1&iothub-ack=negative";
    assert_eq!(http(&hub, "POST", path, b"x").await.0, 201);
    assert_eq!(
        http(&hub, "DELETE", "/devices/plain-1/commands", b"")
            .await
            .0,
        200
    );
    let address = "/messages/servicebound/feedback";
    let attaching = Receiver::attach(&mut client.session, "one", address);
    let mut one = soon("attach", attaching).await.unwrap();
    let report = soon("a report", one.recv::<Body<Value>>()).await.unwrap();
    one.release(&report).await.unwrap();
    let report = soon("a report", one.recv::<Body<Value>>()).await.unwrap();
    // Lost with its link, it is another reader's.
    drop(one);
    let attaching = Receiver::attach(&mut client.session, "two", address);
    let mut two = soon("attach", attaching).await.unwrap();
    let again = soon("a report", two.recv::<Body<Value>>()).await.unwrap();
    assert_eq!(text(&report), text(&again));
    assert!(text(&again).contains("Purged"));
    two.accept(&again).await.unwrap();
}

#[tokio::test]
async fn commands_nobody_can_take_are_rejected_with_the_reason() {
    let hub = start(|config| {
        with_service(config);
        config.limits.command_queue = 1;
    })
    .await;
    let mut client = back_end(&hub).await;
    let mut sender = client.sender("c2d", "/messages/devicebound").await.unwrap();
    let past = Properties {
        to: Some(DEVICE.to_owned()),
        absolute_expiry_time: Some(Timestamp::from_milliseconds(1)),
        ..Properties::new()
    };
    let expired = Message::builder().properties(past).data(&b"x"[..]).build();
    let large = Message::builder()
        .properties(Properties {
            to: Some(DEVICE.to_owned()),
            ..Properties::new()
        })
        .data(vec![b'x'; 65 * 1024])
        .build();
    for (message, expected) in [
        (data(b"x"), "amqp:invalid-field"),
        (command("/nonsense", "1", "none"), "amqp:not-found"),
        (
            command("/devices/ghost/messages/devicebound", "1", "none"),
            "amqp:not-found",
        ),
        (
            command("/devices/plain-1/twin", "1", "none"),
            "amqp:not-found",
        ),
        (
            command(
                "/devices/plain-1/modules/m/messages/devicebound",
                "1",
                "none",
            ),
            "amqp:not-found",
        ),
        (command(DEVICE, "1", ""), "amqp:invalid-field"),
        (expired, "amqp:invalid-field"),
        (large, "amqp:link:message-size-exceeded"),
    ] {
        let outcome = soon("an outcome", sender.send(message)).await.unwrap();
        assert_eq!(condition(&rejected(outcome)), expected);
    }
    let first = sender.send(command(DEVICE, "1", "none")).await.unwrap();
    assert!(matches!(first, Outcome::Accepted(_)));
    let second = sender.send(command(DEVICE, "2", "none")).await.unwrap();
    let error = rejected(second);
    assert_eq!(condition(&error), "amqp:resource-limit-exceeded");
    assert!(error.description.unwrap().contains("403004"));
}

#[tokio::test]
async fn nodes_are_for_tokens_with_the_right_and_the_scope() {
    let hub = start(with_service).await;
    let mut device = Client::authorised(&hub).await;
    let (denied, _) = refusal(device.sender("c2d", "/messages/devicebound").await);
    assert_eq!(denied, "amqp:unauthorized-access");
    let mut narrow = Client::connect(hub.amqp_addr().unwrap()).await;
    let scope = format!("{HOST}/messages/servicebound");
    narrow
        .put(&token(SERVICE_KEY, &scope, 3600, Some("service")))
        .await;
    let (denied, _) = refusal(narrow.sender("c2d", "/messages/devicebound").await);
    assert_eq!(denied, "amqp:unauthorized-access");
    let feedback = "/messages/servicebound/feedback";
    let attaching = Receiver::attach(&mut narrow.session, "feedback", feedback);
    soon("attach", attaching).await.unwrap();
    let mut whole = back_end(&hub).await;
    let (denied, _) = refusal(whole.sender("wrong way", feedback).await);
    assert_eq!(denied, "amqp:not-allowed");
}

#[tokio::test]
async fn a_link_ends_with_its_token() {
    let hub = start(|config| {
        with_service(config);
        config.limits.token_skew = Duration::ZERO;
    })
    .await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    client
        .put(&token(SERVICE_KEY, HOST, 2, Some("service")))
        .await;
    let mut sender = client.sender("c2d", "/messages/devicebound").await.unwrap();
    let (condition, _) = crate::kit::detached(&mut sender).await;
    assert_eq!(condition, "amqp:unauthorized-access");
}

#[tokio::test]
async fn events_are_read_where_the_hub_says_from_where_the_reader_asks() {
    let hub = start(with_service).await;
    let mut device = Client::authorised(&hub).await;
    let mut events = device.events("plain-1").await.unwrap();
    for body in ["a", "b", "c"] {
        send(&mut events, body.as_bytes()).await.unwrap();
    }
    let mut client = back_end(&hub).await;
    let attaching = Receiver::attach(&mut client.session, "events", "/messages/events/");
    let told = match soon("attach", attaching).await {
        Err(ReceiverAttachError::RemoteClosedWithError(error)) => error,
        other => panic!("{other:?}"),
    };
    crate::kit::settle_refusal(true).await;
    assert_eq!(condition(&told), "amqp:link:redirect");
    let info = told.info.unwrap();
    let port = i32::from(hub.amqp_addr().unwrap().port());
    assert_eq!(info.get(&Symbol::from("port")), Some(&Value::Int(port)));
    let address = format!("amqps://localhost:{port}/events/");
    assert_eq!(
        info.get(&Symbol::from("address")),
        Some(&Value::String(address))
    );

    let mut found = Vec::new();
    for partition in 0..4 {
        let node = format!("events/ConsumerGroups/$Default/Partitions/{partition}");
        let mut source = Source::builder().address(node.as_str());
        let selector = "amqp.annotation.x-opt-offset > '1'".to_owned();
        let key = Symbol::from("apache.org:selector-filter:string");
        let described = Described {
            descriptor: Descriptor::Name(key.clone()),
            value: Value::String(selector),
        };
        let mut filters = OrderedMap::new();
        filters.insert(key, Value::Described(Box::new(described)));
        source = source.filter(filters);
        let attaching = Receiver::builder()
            .name(format!("p{partition}"))
            .source(source.build())
            .attach(&mut client.session);
        let mut reader = soon("attach", attaching).await.unwrap();
        let wait = Duration::from_millis(300);
        while let Ok(event) = tokio::time::timeout(wait, reader.recv::<Body<Value>>()).await {
            let event = event.unwrap();
            let device = annotation(&event, "iothub-connection-device-id");
            assert_eq!(device, Some(&Value::String("plain-1".to_owned())));
            found.push((text(&event), annotation(&event, "x-opt-offset").cloned()));
        }
    }
    let offset = |text: &str| Some(Value::String(text.to_owned()));
    let wanted = [("b".to_owned(), offset("2")), ("c".to_owned(), offset("3"))];
    assert_eq!(found, wanted);
    let nowhere = "events/ConsumerGroups/$Default/Partitions/4";
    let attaching = Receiver::attach(&mut client.session, "p4", nowhere);
    assert!(soon("attach", attaching).await.is_err());
}
