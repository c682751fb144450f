//! Commands from the hub: completed, refused, given back.

use crate::hub::{Stack, encoded};
use crate::rig::{Rig, device_name, options};
use crate::support::device::Device;
use mqttbytes::v4::{Packet, Publish};
use serde_json::{Value, json};

fn order(id: &str, body: &[u8]) -> Value {
    let application = json!({"unit": "percent"});
    json!({"device": device_name(0), "id": id, "body": encoded(body), "application": application})
}

/// The next command, not acknowledged.
async fn unacknowledged(device: &mut Device) -> Publish {
    match device.receive().await.expect("a command") {
        Packet::Publish(command) => command,
        other => panic!("{other:?}"),
    }
}

/// The hub's words about one command.
async fn outcome(rig: &mut Rig, id: &str) -> (String, bool) {
    let outcome = rig
        .hub
        .take("outcome", |event| event["command"] == id)
        .await;
    let state = outcome["state"].as_str().expect("a state").to_owned();
    (state, outcome["failed"].as_bool().expect("a flag"))
}

/// `accepted` comes after the device's PUBACK; of several frames, too.
pub async fn a_command_is_completed_by_the_devices_puback(stack: Stack) {
    let mut rig = Rig::start("complete", stack, options(1), json!({})).await;
    let mut device = rig.listener(0).await;
    let large: Vec<u8> = (0..150 * 1024_u32).map(|n| (n % 241) as u8).collect();
    for (id, body) in [("c-1", &b"open"[..]), ("c-2", b""), ("c-3", &large)] {
        rig.hub.order("command", order(id, body)).await;
        let command = device.command().await.expect("a command");
        assert!(
            command.payload == body,
            "{id}: {} bytes",
            command.payload.len()
        );
        let bag = ["unit=percent", &format!("%24.mid={id}")];
        for part in bag {
            assert!(command.topic.contains(part), "{}", command.topic);
        }
        assert_eq!(outcome(&mut rig, id).await.0, "accepted");
    }
    rig.finish().await;
}

/// A body no device could be sent is `rejected`, and the next command comes.
pub async fn a_command_without_a_body_of_bytes_is_rejected(stack: Stack) {
    let mut rig = Rig::start("reject", stack, options(1), json!({})).await;
    let mut device = rig.listener(0).await;
    let mut unreadable = order("c-1", b"");
    unreadable["unreadable"] = true.into();
    rig.hub.order("command", unreadable).await;
    assert_eq!(outcome(&mut rig, "c-1").await.0, "rejected");
    rig.hub.order("command", order("c-2", b"open")).await;
    let command = device.command().await.expect("a command");
    assert_eq!(&command.payload[..], b"open");
    assert_eq!(outcome(&mut rig, "c-2").await.0, "accepted");
    rig.finish().await;
}

/// What a device did not acknowledge before it left goes back, and comes again.
pub async fn commands_of_a_device_that_left_are_released(stack: Stack) {
    given_back(stack, "release", ("released", false)).await;
}

/// The same, as `limits.commands_on_disconnect = "abandon"` has it.
pub async fn commands_of_a_device_that_left_are_abandoned(stack: Stack) {
    given_back(stack, "abandon", ("modified", true)).await;
}

async fn given_back(stack: Stack, policy: &str, (state, failed): (&str, bool)) {
    let mut options = options(1);
    let table = format!("[limits]\ncommands_on_disconnect = \"{policy}\"\n");
    options.gateway.push_str(&table);
    let mut rig = Rig::start(policy, stack, options, json!({})).await;
    let mut device = rig.listener(0).await;
    for (id, body) in [("c-1", b"one"), ("c-2", b"two")] {
        rig.hub.order("command", order(id, body)).await;
        let command = unacknowledged(&mut device).await;
        assert_eq!(&command.payload[..], body);
    }
    drop(device); // the socket is closed without a DISCONNECT
    for id in ["c-1", "c-2"] {
        let said = outcome(&mut rig, id).await;
        assert_eq!((said.0.as_str(), said.1), (state, failed), "{id}");
    }
    rig.hub
        .take("detach", |event| event["link"] == "commands")
        .await;
    let mut device = rig.listener(0).await;
    let mut again = Vec::new();
    for _ in 0..2 {
        let command = device.command().await.expect("a command");
        again.push(command.payload.to_vec());
    }
    again.sort();
    assert_eq!(again, [b"one", b"two"]);
    for id in ["c-1", "c-2"] {
        assert_eq!(outcome(&mut rig, id).await.0, "accepted", "{id}");
    }
    rig.finish().await;
}
