//! The hub ends a link, a session or the connection, or does not take a message: devices stay,
//! and what it had not decided about comes again, in order and under the same message-id.

use crate::hub::{Stack, bytes, encoded};
use crate::rig::{Rig, device_name, options, topic};
use crate::support::device::Device;
use serde_json::{Value, json};

/// Numbered messages sent ahead of their PUBACKs.
const AHEAD: usize = 8;

/// Sends numbered messages; the packet ids.
async fn send_ahead(device: &mut Device) -> Vec<u16> {
    let mut ids = Vec::new();
    for number in 0..AHEAD {
        let sent = device.send(&topic(0), number.to_string().as_bytes()).await;
        ids.push(sent.expect("sent"));
    }
    ids
}

/// At least once, in order, and a repetition has the message-id of the first.
fn judge(messages: &[Value]) {
    let mut ids: Vec<Value> = Vec::new();
    for message in messages
        .iter()
        .filter(|message| message["device"] == device_name(0))
    {
        let text = String::from_utf8(bytes(&message["body"])).expect("text");
        let number: usize = text.parse().expect("a number");
        let id = message["properties"]["message-id"].clone();
        match ids.get(number) {
            Some(known) => assert_eq!(*known, id, "{number} came under another id"),
            None => {
                assert_eq!(ids.len(), number, "out of turn");
                ids.push(id);
            }
        }
    }
    assert_eq!(ids.len(), AHEAD);
}

/// Telemetry and commands work for this device.
async fn served(rig: &mut Rig, device: &mut Device, index: usize) {
    device.publish(&topic(index), b"9").await.expect("PUBACK");
    let (name, id) = (device_name(index), format!("after-{index}"));
    let command = json!({"device": name, "id": id, "body": encoded(b"go"), "application": {}});
    rig.hub.order("command", command).await;
    let command = device.command().await.expect("a command");
    assert_eq!(&command.payload[..], b"go");
    let outcome = rig
        .hub
        .take("outcome", |event| event["command"] == id)
        .await;
    assert_eq!(outcome["state"], "accepted");
}

/// Lets the hub end what carries the telemetry link of one of two devices, with messages of it
/// undecided. Gives the rig to look at, and the devices.
async fn ended(stack: Stack, name: &str, mut order: Value) -> (Rig, [Device; 2]) {
    let mut rig = Rig::start(name, stack, options(2), json!({})).await;
    let mut devices = [rig.listener(0).await, rig.listener(1).await];
    devices[1].publish(&topic(1), b"0").await.expect("PUBACK");
    let undecided = json!([{"state": "none"}, {"state": "none"}]);
    let answers = json!({"device": device_name(0), "outcomes": undecided});
    rig.hub.order("answer", answers).await;
    let sent = send_ahead(&mut devices[0]).await;
    for _ in 0..AHEAD {
        let of_device = |message: &Value| message["device"] == device_name(0);
        rig.hub.take("message", of_device).await;
    }
    order["device"] = device_name(0).into();
    order["link"] = "telemetry".into();
    rig.hub.order("close", order).await;
    for id in sent {
        devices[0].acknowledged(id).await.expect("PUBACK");
    }
    judge(&rig.hub.all("message").await);
    for (index, device) in devices.iter_mut().enumerate() {
        served(&mut rig, device, index).await;
    }
    (rig, devices)
}

/// Detaches of this device's links so far.
async fn detached(rig: &mut Rig, index: usize) -> usize {
    let detaches = rig.hub.all("detach").await;
    let of_device = |event: &&Value| event["device"] == device_name(index);
    detaches.iter().filter(of_device).count()
}

pub async fn a_link_closed_with_an_error_comes_back(stack: Stack) {
    let error = json!({"what": "link", "condition": "amqp:link:detach-forced",
        "description": "maintenance"});
    let (mut rig, _devices) = ended(stack, "link", error).await;
    assert_eq!(detached(&mut rig, 0).await, 1);
    assert_eq!(detached(&mut rig, 1).await, 0);
    assert_eq!(rig.hub.all("open").await.len(), 1);
    rig.finish().await;
}

/// Newer hubs detach without closing (wire sheet 6.1); it is the same loss.
pub async fn a_link_detached_but_not_closed_comes_back(stack: Stack) {
    let error = json!({"what": "link", "closed": false, "condition": "amqp:internal-error",
        "description": "moved"});
    let (mut rig, _devices) = ended(stack, "detach", error).await;
    assert_eq!(detached(&mut rig, 0).await, 1);
    assert_eq!(detached(&mut rig, 1).await, 0);
    assert_eq!(rig.hub.all("open").await.len(), 1);
    rig.finish().await;
}

pub async fn a_session_ended_with_an_error_is_begun_again(stack: Stack) {
    let error = json!({"what": "session", "condition": "amqp:internal-error",
        "description": "something broke"});
    let (mut rig, _devices) = ended(stack, "session", error).await;
    assert_eq!(rig.hub.all("open").await.len(), 1);
    rig.finish().await;
}

pub async fn a_connection_closed_with_an_error_is_opened_again(stack: Stack) {
    let error = json!({"what": "connection", "condition": "amqp:connection:forced",
        "description": "upgrade"});
    let (mut rig, _devices) = ended(stack, "connection", error).await;
    assert_eq!(rig.hub.all("open").await.len(), 2);
    rig.hub.take("gone", |_| true).await; // the first of them
    rig.finish().await;
}

/// What a device held when its command link was lost comes again, and counts once.
pub async fn a_command_whose_link_was_lost_comes_again(stack: Stack) {
    let mut rig = Rig::start("command-link", stack, options(1), json!({})).await;
    let mut device = rig.listener(0).await;
    let name = device_name(0);
    let command = json!({"device": name, "id": "c-1", "body": encoded(b"1"), "application": {}});
    rig.hub.order("command", command).await;
    device.receive().await.expect("the command"); // and no PUBACK
    let close = json!({"what": "link", "link": "commands", "device": name,
        "condition": "amqp:link:detach-forced", "description": "maintenance"});
    rig.hub.order("close", close).await;
    let again = device.command().await.expect("the command again");
    assert_eq!(&again.payload[..], b"1");
    let outcome = rig.hub.take("outcome", |_| true).await;
    assert_eq!(
        (&outcome["command"], &outcome["state"]),
        (&json!("c-1"), &json!("accepted"))
    );
    served(&mut rig, &mut device, 0).await;
    rig.finish().await;
}

/// `released` and `modified` are no for now: the PUBACK waits for `accepted`.
pub async fn messages_given_back_are_sent_again(stack: Stack) {
    let mut rig = Rig::start("given-back", stack, options(1), json!({})).await;
    let mut device = rig.listener(0).await;
    let states = json!([{"state": "released"}, {"state": "modified", "failed": true}]);
    let answers = json!({"device": device_name(0), "outcomes": states});
    rig.hub.order("answer", answers).await;
    let sent = send_ahead(&mut device).await;
    for id in sent {
        device.acknowledged(id).await.expect("PUBACK");
    }
    let messages = rig.hub.all("message").await;
    judge(&messages);
    let accepted = |number: usize| {
        let body = encoded(number.to_string().as_bytes());
        messages
            .iter()
            .any(|m| m["body"] == body && m["answer"] == "accepted")
    };
    assert!((0..AHEAD).all(accepted), "no PUBACK without accepted");
    served(&mut rig, &mut device, 0).await;
    rig.finish().await;
}

/// A message the hub will never take ends its device's connection, without a PUBACK for it and
/// without harm to others.
pub async fn a_message_rejected_for_good_is_not_acknowledged(stack: Stack) {
    let mut rig = Rig::start("rejected", stack, options(2), json!({})).await;
    let mut devices = [rig.listener(0).await, rig.listener(1).await];
    let rejected = json!([{"state": "rejected", "condition": "amqp:not-allowed",
        "description": "no such operation"}]);
    let answers = json!({"device": device_name(0), "outcomes": rejected});
    rig.hub.order("answer", answers).await;
    let refused = devices[0].publish(&topic(0), b"0").await;
    assert!(refused.is_err(), "acknowledged what was rejected");
    served(&mut rig, &mut devices[1], 1).await;
    let mut back = rig.listener(0).await;
    served(&mut rig, &mut back, 0).await;
    let messages = rig.hub.all("message").await;
    let of_device = messages.iter().filter(|m| m["device"] == device_name(0));
    assert_eq!(of_device.count(), 2, "the rejected one is not sent again");
    rig.finish().await;
}
