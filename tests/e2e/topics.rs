//! Firmware nobody will change: its own topics, by a rule, from its socket to the hub and back.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK};
use mqttbytes::QoS;

const RULE: &str = "[[rule]]\nname = \"old firmware\"\n\
    when = { credential = \"psk\", identity = \"psk-1\" }\ndevice_id = \"{identity}\"\n\
    publish = \"factory/{line}/{device}/temp\"\nsubscribe = \"cmd/{device}/#\"\n";

async fn bench(name: &str, more: &str) -> (Bench, Device) {
    let options = Options {
        rules: format!("{RULE}{more}"),
        ..Options::default()
    };
    let bench = Bench::start(name, options).await;
    let transport = Transport::psk("psk-1", PSK);
    let device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    (bench, device)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_carries_telemetry_up_and_commands_down_on_the_devices_own_topics() {
    let (bench, mut device) = bench("topics", "").await;
    let sent = device.publish("factory/7/psk-1/temp", b"21.5").await;
    sent.expect("PUBACK");
    let entries = bench.emulator.ledger().messages(Some("psk-1"), 0, 9);
    assert_eq!(entries[0].body().map(|b| &b[..]), Some(&b"21.5"[..]));
    assert_eq!(entries[0].property("line"), Some("7"));

    let granted = device.subscribe("cmd/psk-1/#", QoS::AtLeastOnce).await;
    assert!(granted.expect("SUBACK"));
    let granted = device.subscribe("cmd/#", QoS::AtLeastOnce).await;
    assert!(!granted.expect("SUBACK"), "wider than its own");
    let path = "/devices/psk-1/commands?unit=percent";
    assert_eq!(bench.control("POST", path, "on").await.0, 201);
    let command = device.command().await.expect("a command");
    assert_eq!(&command.payload[..], b"on");
    assert!(
        command.topic.starts_with("cmd/psk-1/%24."),
        "{}",
        command.topic
    );
    assert!(
        command.topic.ends_with("&unit=percent"),
        "{}",
        command.topic
    );

    // Somebody else's topic is none of its own, template or not.
    assert!(device.publish("factory/7/psk-2/temp", b"x").await.is_err());
    let label = ["reason=\"topic_foreign_device\""];
    bench.reaches("disconnects_total", &label, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nothing_is_dropped_and_counted_or_telemetry_with_its_topic() {
    let (bench, mut device) = bench("topics-drop", "unmatched = \"drop\"\n").await;
    device.publish("debug/heap", b"1").await.expect("PUBACK");
    device
        .publish("factory/7/psk-1/temp", b"2")
        .await
        .expect("PUBACK");
    let entries = bench.emulator.ledger().messages(Some("psk-1"), 0, 9);
    assert_eq!(entries.len(), 1, "only what fits");
    let labels = ["direction=\"uplink\"", "result=\"topic_unknown\""];
    bench.reaches("messages_total", &labels, 1.0).await;
    let label = ["action=\"discarded\""];
    bench.reaches("refused_messages_total", &label, 1.0).await;
    drop(bench);

    let (bench, mut device) = self::bench("topics-all", "unmatched = \"telemetry\"\n").await;
    device.publish("debug/heap", b"1").await.expect("PUBACK");
    let entries = bench.emulator.ledger().messages(Some("psk-1"), 0, 9);
    assert_eq!(entries[0].property("mqtt-topic"), Some("debug/heap"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_is_refused_where_the_rule_says_so() {
    use tokio::io::AsyncWriteExt;
    let (bench, mut device) = bench("topics-retain", "retain = \"refuse\"\n").await;
    let mut publish = mqttbytes::v4::Publish::new("factory/7/psk-1/temp", QoS::AtLeastOnce, "x");
    (publish.pkid, publish.retain) = (9, true);
    let mut packet = bytes::BytesMut::new();
    publish.write(&mut packet).expect("encoded");
    device.stream.write_all(&packet).await.expect("written");
    assert!(device.receive().await.is_err(), "closed");
    let label = ["reason=\"retain_refused\""];
    bench.reaches("disconnects_total", &label, 1.0).await;
}
