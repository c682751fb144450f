//! Command links: order, locks, outcomes, and who receives.

use crate::kit::{Client, condition, http, soon, start};
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{LinkStateError, RecvError};
use fe2o3_amqp::types::definitions::ReceiverSettleMode;
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{Body, Modified};
use fe2o3_amqp::{Delivery, Receiver};
use iothub_gateway::emulator::EmulatorHandle;
use iothub_gateway::emulator::config::SecondReceiver;
use serde_amqp::Value;
use std::time::Duration;

async fn queue(hub: &EmulatorHandle, body: &str) -> u16 {
    http(hub, "POST", "/devices/plain-1/commands", body.as_bytes())
        .await
        .0
}

async fn receive(receiver: &mut Receiver) -> Delivery<Body<Value>> {
    soon("a command", receiver.recv::<Body<Value>>())
        .await
        .unwrap()
}

fn text(delivery: &Delivery<Body<Value>>) -> String {
    let Body::Data(parts) = delivery.body() else {
        panic!("{:?}", delivery.body())
    };
    String::from_utf8(parts[0].0.to_vec()).unwrap()
}

fn annotation<'a>(delivery: &'a Delivery<Body<Value>>, key: &str) -> &'a Value {
    let annotations = delivery.message().message_annotations.as_ref().unwrap();
    annotations.0.get(&OwnedKey::from(key)).unwrap()
}

/// State and delivery count of each command, once they satisfy `wanted`.
async fn states(hub: &EmulatorHandle, wanted: &[(&str, u64)]) {
    let wanted: Vec<_> = wanted.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
    let reached = async {
        loop {
            let (_, rows) = http(hub, "GET", "/devices/plain-1/commands", b"").await;
            let row = |row: &serde_json::Value| {
                (
                    row["state"].as_str().unwrap().to_owned(),
                    row["delivery_count"].as_u64().unwrap(),
                )
            };
            if rows.as_array().unwrap().iter().map(row).collect::<Vec<_>>() == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{wanted:?}"), reached).await;
}

#[tokio::test]
async fn a_command_arrives_as_the_service_sends_it_and_is_completed() {
    let hub = start(|_| {}).await;
    let path = "/devices/plain-1/commands?color=red&$.mid=m%201&$.ct=text/plain&$.ttl=60s";
    let (status, sent) = http(&hub, "POST", path, b"on").await;
    assert_eq!((status, sent["id"].as_str()), (201, Some("m 1")));
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), "on");
    let properties = delivery.message().properties.as_ref().unwrap();
    assert_eq!(
        properties.to.as_deref(),
        Some("/devices/plain-1/messages/devicebound")
    );
    assert_eq!(
        properties.content_type.as_ref().unwrap().as_str(),
        "text/plain"
    );
    assert!(properties.absolute_expiry_time.is_some());
    let application = delivery.message().application_properties.as_ref().unwrap();
    assert_eq!(application.0.len(), 1);
    assert_eq!(
        annotation(&delivery, "x-opt-sequence-number"),
        &Value::Ulong(1)
    );
    assert_eq!(
        annotation(&delivery, "iothub-deliverycount"),
        &Value::Ubyte(0)
    );
    assert!(matches!(
        annotation(&delivery, "iothub-enqueuedtime"),
        Value::Timestamp(_)
    ));
    // The delivery-tag is the lock token's GUID, in .NET's byte order.
    let tag = delivery.delivery_tag();
    assert_eq!(tag.len(), 16);
    let Value::String(token) = annotation(&delivery, "x-opt-lock-token") else {
        panic!()
    };
    let first: String = [3, 2, 1, 0]
        .iter()
        .map(|i: &usize| format!("{:02x}", tag[*i]))
        .collect();
    assert!(token.starts_with(&first), "{token} {tag:?}");
    states(&hub, &[("locked", 0)]).await;
    receiver.accept(&delivery).await.unwrap();
    states(&hub, &[("completed", 0)]).await;
}

#[tokio::test]
async fn large_commands_keep_within_the_client_s_frames() {
    let hub = start(|_| {}).await;
    let stream = tokio::net::TcpStream::connect(hub.amqp_addr().unwrap())
        .await
        .unwrap();
    let opening = fe2o3_amqp::Connection::builder()
        .container_id("small frames")
        .max_frame_size(4096)
        .open_with_stream(stream);
    let mut client = Client::begin(soon("open", opening).await.unwrap()).await;
    client.put(&crate::kit::hub_token(60)).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    let body = "x".repeat(60_000);
    for _ in 0..3 {
        assert_eq!(queue(&hub, &body).await, 201);
        let delivery = receive(&mut receiver).await;
        assert_eq!(text(&delivery), body);
        assert_eq!(delivery.delivery_tag().len(), 16);
        receiver.accept(&delivery).await.unwrap();
    }
}

#[tokio::test]
async fn the_fifty_first_command_is_refused() {
    let hub = start(|_| {}).await;
    for n in 0..50 {
        assert_eq!(queue(&hub, &n.to_string()).await, 201);
    }
    let (status, error) = http(&hub, "POST", "/devices/plain-1/commands", b"x").await;
    assert_eq!((status, error["errorCode"].as_u64()), (403, Some(403_004)));
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    for n in 0..50 {
        let delivery = receive(&mut receiver).await;
        assert_eq!(text(&delivery), n.to_string());
        receiver.accept(&delivery).await.unwrap();
    }
    let completed = async {
        while hub.stats().commands_completed < 50 {
            tokio::task::yield_now().await;
        }
    };
    soon("completion", completed).await;
    assert_eq!(queue(&hub, "room again").await, 201);
    assert_eq!(text(&receive(&mut receiver).await), "room again");
}

#[tokio::test]
async fn released_and_modified_come_back_counted_and_rejected_does_not() {
    let hub = start(|_| {}).await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    let first = receive(&mut receiver).await;
    receiver.release(&first).await.unwrap();
    let second = receive(&mut receiver).await;
    assert_eq!(
        annotation(&second, "iothub-deliverycount"),
        &Value::Ubyte(1)
    );
    assert_ne!(first.delivery_tag(), second.delivery_tag());
    let modified = Modified {
        delivery_failed: Some(true),
        undeliverable_here: None,
        message_annotations: None,
    };
    receiver.modify(&second, modified).await.unwrap();
    let third = receive(&mut receiver).await;
    assert_eq!(annotation(&third, "iothub-deliverycount"), &Value::Ubyte(2));
    receiver.reject(&third, None).await.unwrap();
    states(&hub, &[("dead_lettered", 2)]).await;
    let stats = hub.stats();
    assert_eq!((stats.commands_abandoned, stats.commands_delivered), (2, 3));
}

#[tokio::test]
async fn the_tenth_abandon_is_the_last() {
    let hub = start(|config| config.limits.max_delivery_count = 3).await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    for _ in 0..3 {
        let delivery = receive(&mut receiver).await;
        receiver.release(&delivery).await.unwrap();
    }
    states(&hub, &[("dead_lettered", 3)]).await;
}

#[tokio::test]
async fn a_command_nobody_settles_comes_again_when_its_lock_ends() {
    let hub = start(|config| config.limits.command_lock = Duration::from_millis(200)).await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    let first = receive(&mut receiver).await;
    let second = receive(&mut receiver).await;
    assert_eq!(text(&second), "a");
    assert_eq!(
        annotation(&second, "iothub-deliverycount"),
        &Value::Ubyte(0)
    );
    receiver.accept(&first).await.unwrap();
    receiver.accept(&second).await.unwrap();
    states(&hub, &[("completed", 0)]).await;
    assert!(hub.stats().locks_expired >= 1);
}

#[tokio::test]
async fn unsettled_commands_are_free_again_when_their_link_goes() {
    let hub = start(|_| {}).await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    receive(&mut receiver).await;
    states(&hub, &[("locked", 0)]).await;
    soon("close", receiver.close()).await.unwrap();
    states(&hub, &[("enqueued", 0)]).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    receive(&mut receiver).await;
    // The connection ends without a word.
    drop((receiver, client));
    states(&hub, &[("enqueued", 0)]).await;
}

#[tokio::test]
async fn unsettled_commands_wait_for_the_lock_when_the_switch_says_so() {
    let hub = start(|config| {
        config.switches.unsettled_waits_for_lock = true;
        config.limits.command_lock = Duration::from_millis(500);
    })
    .await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let mut receiver = client.commands("plain-1").await.unwrap();
    receive(&mut receiver).await;
    soon("close", receiver.close()).await.unwrap();
    let (_, rows) = http(&hub, "GET", "/devices/plain-1/commands", b"").await;
    assert_eq!(rows[0]["state"], "locked");
    states(&hub, &[("enqueued", 0)]).await;
}

#[tokio::test]
async fn credit_decides_how_much_is_on_the_way() {
    let hub = start(|_| {}).await;
    for text in ["a", "b", "c"] {
        queue(&hub, text).await;
    }
    let mut client = Client::authorised(&hub).await;
    let attach = Receiver::builder()
        .name("c2d")
        .source("/devices/plain-1/messages/devicebound")
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session);
    let mut receiver = soon("attach", attach).await.unwrap();
    receiver.set_credit(2).await.unwrap();
    assert_eq!(text(&receive(&mut receiver).await), "a");
    assert_eq!(text(&receive(&mut receiver).await), "b");
    states(&hub, &[("locked", 0), ("locked", 0), ("enqueued", 0)]).await;
    receiver.set_credit(1).await.unwrap();
    assert_eq!(text(&receive(&mut receiver).await), "c");
}

#[tokio::test]
async fn settling_in_two_steps_works_too() {
    let hub = start(|_| {}).await;
    queue(&hub, "a").await;
    let mut client = Client::authorised(&hub).await;
    let attach = Receiver::builder()
        .name("c2d")
        .source("/devices/plain-1/messages/devicebound")
        .receiver_settle_mode(ReceiverSettleMode::Second)
        .attach(&mut client.session);
    let mut receiver = soon("attach", attach).await.unwrap();
    let delivery = receive(&mut receiver).await;
    receiver.accept(&delivery).await.unwrap();
    states(&hub, &[("completed", 0)]).await;
}

#[tokio::test]
async fn a_second_receiver_displaces_the_first() {
    for (policy, expected) in [
        (SecondReceiver::InternalError, "amqp:internal-error"),
        (SecondReceiver::Stolen, "amqp:link:stolen"),
    ] {
        let hub = start(|config| config.switches.second_receiver = policy).await;
        let mut first = Client::authorised(&hub).await;
        let mut older = first.commands("plain-1").await.unwrap();
        let mut second = Client::authorised(&hub).await;
        let mut newer = second.commands("plain-1").await.unwrap();
        let lost = soon("a detach", older.recv::<Body<Value>>())
            .await
            .unwrap_err();
        let RecvError::LinkStateError(LinkStateError::RemoteClosedWithError(error)) = lost else {
            panic!("{lost:?}");
        };
        assert_eq!(condition(&error), expected);
        queue(&hub, "a").await;
        assert_eq!(text(&receive(&mut newer).await), "a");
    }
    let hub = start(|config| config.switches.second_receiver = SecondReceiver::RefuseNew).await;
    let mut first = Client::authorised(&hub).await;
    let mut older = first.commands("plain-1").await.unwrap();
    let mut second = Client::authorised(&hub).await;
    assert!(second.commands("plain-1").await.is_err());
    queue(&hub, "a").await;
    assert_eq!(text(&receive(&mut older).await), "a");
}
