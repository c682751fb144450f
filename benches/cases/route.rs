//! Topic and property mapping: from a PUBLISH to telemetry of its device, and from a command to
//! its topic.

use crate::support::Suite;
use crate::support::fleet::device;
use bytes::Bytes;
use iothub_gateway::auth::rules::Properties;
use iothub_gateway::hub::message::{Command, DeviceAddress, SystemProperties};
use iothub_gateway::mqtt::packet::{PacketId, Publish, QoS};
use iothub_gateway::router::topic_map::{command_topic, subscription, uplink};
use std::hint::black_box;
use std::num::NonZeroU16;

const PROPERTIES_MAX: usize = 64;

/// All of them.
pub fn all(suite: &mut Suite) {
    let device = device("load-7");
    for (name, topic) in [
        ("uplink_bare", "devices/load-7/messages/events/"),
        (
            "uplink_two_properties",
            "devices/load-7/messages/events/unit=celsius&line=7",
        ),
        (
            "uplink_sdk_properties",
            "devices/load-7/messages/events/%24.mid=msg-0001&%24.cid=c-1\
             &%24.ct=application%2Fjson&%24.ce=utf-8&unit=%C2%B0C",
        ),
    ] {
        let publish = publish(topic);
        suite.op(name, || {
            uplink(
                &device,
                black_box(&publish).clone(),
                PROPERTIES_MAX,
                Properties::Strict,
            )
            .expect("its own topic")
        });
    }
    suite.op("command_filter", || {
        let filter = black_box("devices/load-7/messages/devicebound/#");
        subscription(&device, filter).expect("its own filter");
    });
    let command = command();
    suite.op("command_topic", || command_topic(&device, &command, false));
    let address = DeviceAddress::of(&device);
    suite.op("address_telemetry", || address.telemetry());
}

fn publish(topic: &'static str) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::from_static(&[0x2e; 256]),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        packet_id: NonZeroU16::new(7).map(PacketId),
        properties: None,
    }
}

fn command() -> Command {
    Command {
        delivery: 1,
        system: SystemProperties {
            message_id: Some("0b3a1f0e-3c8e-4a5f-9a55-6f4a3a7f4f7d".to_owned()),
            content_type: Some("application/json".to_owned()),
            ..SystemProperties::default()
        },
        application: vec![("method".to_owned(), Some("reboot now".to_owned()))],
        body: Bytes::from_static(b"{}"),
        delivery_count: 0,
    }
}
