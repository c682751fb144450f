//! Messages to the hub: whole, in the smallest frames, and decided in every way.

use crate::hub::{Stack, bytes};
use crate::rig::{Rig, device_name, options, topic};
use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::messaging::{Data, Message, MessageId};
use fe2o3_amqp_types::primitives::{SimpleValue, Value as AmqpValue};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// 2030-01-01, in milliseconds since 1970.
const EXPIRY_MS: i64 = 1_893_456_000_000;

/// What the stack read is what the device sent.
pub async fn arrives_with_every_property_and_byte(stack: Stack) {
    let mut rig = Rig::start("whole", stack, options(1), json!({})).await;
    let mut device = rig.device(0).await;
    let bag = "%24.mid=m-1&%24.cid=c%2F1&%24.uid=u%40x&%24.to=%2Fdevices%2Fload-0\
               &%24.ct=application%2Fjson&%24.ce=utf-8&%24.exp=2030-01-01T00%3A00%3A00Z\
               &%24.ifid=urn%3Aa&%24.sub=pump&a=1&b=&%C3%A4%20%26=%E2%82%AC%3D&iothub-ack=full";
    let body: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let sent = device.publish(&format!("{}{bag}", topic(0)), &body).await;
    sent.expect("PUBACK");
    let message = rig.hub.take("message", |_| true).await;
    assert_eq!(message["device"], "load-0");
    assert_eq!(bytes(&message["body"]), body);
    let properties = json!({
        "message-id": "m-1", "correlation-id": "c/1", "user-id": "u@x",
        "to": "/devices/load-0", "content-type": "application/json",
        "content-encoding": "utf-8", "expiry-ms": EXPIRY_MS,
    });
    assert_eq!(message["properties"], properties);
    let application = json!({"a": "1", "b": "", "ä &": "€=", "iothub-ack": "full"});
    assert_eq!(message["application"], application);
    let annotations = json!({"iothub-interface-id": "urn:a", "dt-subject": "pump"});
    assert_eq!(message["annotations"], annotations);
    typed(&message);
    device.publish(&topic(0), b"").await.expect("PUBACK");
    let empty = rig.hub.take("message", |_| true).await;
    assert_eq!(empty["body"], "");
    assert!(empty["properties"]["message-id"].is_string(), "{empty}");
    rig.finish().await;
}

/// The types the service asks for, which JSON does not tell apart.
fn typed(message: &Value) {
    let raw = bytes(&message["raw"]);
    let decoded = serde_amqp::from_slice::<Deserializable<Message<Data>>>(&raw);
    let decoded = decoded.expect("one message with one data section").0;
    assert!(decoded.header.is_none() && decoded.footer.is_none());
    let properties = decoded.properties.expect("properties");
    assert_eq!(properties.message_id, Some(MessageId::String("m-1".into())));
    let content_type = properties.content_type.expect("a symbol");
    assert_eq!(content_type.as_str(), "application/json");
    let expiry = properties.absolute_expiry_time.expect("a timestamp");
    assert_eq!(expiry.into_inner(), EXPIRY_MS);
    let application = decoded
        .application_properties
        .expect("application properties");
    for (key, value) in application.0 {
        assert!(matches!(value, SimpleValue::String(_)), "{key}: {value:?}");
    }
    let annotations = decoded.message_annotations.expect("annotations");
    for (key, value) in annotations.0 {
        assert!(matches!(value, AmqpValue::String(_)), "{key:?}: {value:?}");
    }
}

/// 250 KB over frames of 512 bytes, with a small one behind it.
pub async fn a_large_message_crosses_the_smallest_frames(stack: Stack) {
    let limits = json!({"max_frame": 512});
    let mut rig = Rig::start("frames", stack, options(2), limits).await;
    let mut device = rig.device(0).await;
    let mut neighbour = rig.device(1).await;
    let large: Vec<u8> = (0..250 * 1024_u32).map(|n| (n % 251) as u8).collect();
    let first = device.send(&topic(0), &large).await.expect("sent");
    let second = device.send(&topic(0), b"small").await.expect("sent");
    neighbour
        .publish(&topic(1), b"beside")
        .await
        .expect("PUBACK");
    device.acknowledged(first).await.expect("PUBACK");
    device.acknowledged(second).await.expect("PUBACK");
    let of_device = |event: &Value| event["device"] == "load-0";
    let arrived = rig.hub.take("message", of_device).await;
    assert!(bytes(&arrived["body"]) == large, "every byte of it");
    let behind = rig.hub.take("message", of_device).await;
    assert_eq!(bytes(&behind["body"]), b"small");
    rig.finish().await;
}

/// A window of messages over a link that takes three at a time.
pub async fn little_credit_is_kept_to(stack: Stack) {
    let mut rig = Rig::start("credit", stack, options(1), json!({"credit": 3})).await;
    let mut device = rig.device(0).await;
    let mut sent = Vec::new();
    for number in 0..32_u8 {
        let id = device.send(&topic(0), &[number]).await;
        sent.push(id.expect("sent"));
    }
    for id in sent {
        device.acknowledged(id).await.expect("PUBACK");
    }
    let messages = rig.hub.all("message").await;
    let bodies: Vec<_> = messages
        .iter()
        .map(|message| bytes(&message["body"]))
        .collect();
    assert!(bodies.into_iter().eq((0..32).map(|number| vec![number])));
    rig.finish().await;
}

/// Devices that share a session send messages of one frame and of several, all at once.
pub async fn frames_of_many_devices_mix_and_messages_do_not(stack: Stack) {
    const DEVICES: usize = 10;
    const EACH: usize = 20;
    let mut options = options(DEVICES);
    options.hub.push_str("sessions_per_connection = 1\n");
    let limits = json!({"max_frame": 512});
    let mut rig = Rig::start("mixed", stack, options, limits).await;
    let body = |device: usize, number: usize| {
        let tail = vec![device as u8; (number * 977 + device * 353) % 4000];
        [&[device as u8, number as u8][..], &tail].concat()
    };
    let mut tasks = JoinSet::new();
    for index in 0..DEVICES {
        let mut device = rig.device(index).await;
        tasks.spawn(async move {
            let mut sent = Vec::new();
            for number in 0..EACH {
                let id = device.send(&topic(index), &body(index, number)).await;
                sent.push(id.expect("sent"));
            }
            for id in sent {
                device.acknowledged(id).await.expect("PUBACK");
            }
            device
        });
    }
    let devices = tasks.join_all().await;
    let messages = rig.hub.all("message").await;
    for index in 0..DEVICES {
        let of_device = messages
            .iter()
            .filter(|m| m["device"] == device_name(index));
        let bodies: Vec<_> = of_device.map(|message| bytes(&message["body"])).collect();
        assert!(
            bodies
                .into_iter()
                .eq((0..EACH).map(|number| body(index, number)))
        );
    }
    drop(devices);
    rig.finish().await;
}
