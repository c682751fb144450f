//! A device of each kind publishes and receives.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, DEVICE_KEY, HUB, Options, PASSWORD, PSK, now, sas};
use iothub_gateway::emulator::Entry;
use mqttbytes::QoS;
use std::time::Duration;

fn psk(tls13: bool) -> Transport {
    Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13,
    }
}

fn sas_login() -> Who {
    let token = sas(DEVICE_KEY, &format!("{HUB}/devices/sas-1"), now() + 3600);
    Who::login(
        "sas-1",
        &format!("{HUB}/sas-1/?api-version=2021-04-12"),
        &token,
    )
}

fn newest(bench: &Bench, device: &str) -> Entry {
    let entries = bench
        .emulator
        .ledger()
        .messages(Some(device), 0, usize::MAX);
    entries.last().expect("an accepted message").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_each_kind_publishes_and_its_puback_is_the_hubs_word() {
    let bench = Bench::start("kinds", Options::default()).await;
    let certificate = Transport::Tls {
        ca: bench.dir.join("ca.pem"),
        certificate: Some((bench.dir.join("cert-1.pem"), bench.dir.join("cert-1.key"))),
    };
    let password = Who::login("pass-1", "pass-1", PASSWORD);
    let cases = [
        ("psk-1", psk(true), Who::id("psk-1")),
        ("psk-1", psk(false), Who::id("psk-1")),
        ("cert-1", certificate, Who::id("cert-1")),
        ("sas-1", bench.tls(), sas_login()),
        ("pass-1", bench.tls(), password),
    ];
    for (number, (id, transport, who)) in cases.iter().enumerate() {
        let mut device = Device::connect(bench.mqtt(), transport, who).await;
        let body = format!("case {number}");
        let topic = format!("devices/{id}/messages/events/unit=C&note=a%20b");
        device
            .publish(&topic, body.as_bytes())
            .await
            .expect("PUBACK");
        let entry = newest(&bench, id);
        assert_eq!(entry.body().map(|b| &b[..]), Some(body.as_bytes()));
        let property = |key: &str| entry.property(key);
        assert_eq!(property("unit"), Some("C"));
        assert_eq!(property("note"), Some("a b"));
        device.goodbye().await.expect("clean close");
    }
    let metrics = bench.metrics().await;
    for version in ["1.2", "1.3"] {
        let labels = [
            "credential=\"psk\"",
            &format!("tls_version=\"{version}\""),
            "result=\"ok\"",
        ];
        let name = "iothub_gateway_handshakes_total";
        assert!(
            crate::support::http::metric(&metrics, name, &labels) >= 1.0,
            "{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn system_properties_travel_as_iot_hub_names_them() {
    let bench = Bench::start("properties", Options::default()).await;
    let mut device = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    let bag = "%24.mid=m-1&$.cid=c-1&$.ct=application%2Fjson&$.ce=utf-8&own=1";
    device
        .publish(&format!("devices/psk-1/messages/events/{bag}"), b"{}")
        .await
        .expect("PUBACK");
    let entry = newest(&bench, "psk-1");
    let content = entry.content.as_ref().expect("kept");
    let system = |key: &str| {
        content
            .system
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(system("message-id"), Some("m-1"));
    assert_eq!(system("correlation-id"), Some("c-1"));
    assert_eq!(system("content-type"), Some("application/json"));
    assert_eq!(system("content-encoding"), Some("utf-8"));
    assert_eq!(entry.device(), "psk-1");
    assert_eq!(content.properties.len(), 1, "{:?}", content.properties);
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_reaches_the_hub_too_and_qos_2_ends_the_connection() {
    let bench = Bench::start("qos", Options::default()).await;
    let mut device = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    device
        .send_qos0("devices/psk-1/messages/events/", b"fire")
        .await
        .expect("written");
    device
        .publish("devices/psk-1/messages/events/", b"marker")
        .await
        .expect("PUBACK");
    let entries = bench
        .emulator
        .ledger()
        .messages(Some("psk-1"), 0, usize::MAX);
    assert_eq!(entries[0].body().map(|b| &b[..]), Some(&b"fire"[..]));

    use tokio::io::AsyncWriteExt;
    let mut packet = bytes::BytesMut::new();
    let mut publish =
        mqttbytes::v4::Publish::new("devices/psk-1/messages/events/", QoS::ExactlyOnce, "x");
    publish.pkid = 9;
    publish.write(&mut packet).expect("encoded");
    device.stream.write_all(&packet).await.expect("written");
    assert!(
        device.receive().await.is_err(),
        "closed, as IoT Hub closes it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_completed_only_after_the_devices_puback() {
    let bench = Bench::start("commands", Options::default()).await;
    let mut device = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    let filter = "devices/psk-1/messages/devicebound/#";
    assert!(
        device
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .expect("SUBACK")
    );
    let (status, _) = bench
        .control(
            "POST",
            "/devices/psk-1/commands?unit=percent",
            "open the valve",
        )
        .await;
    assert!((200..300).contains(&status), "{status}");
    let packet = loop {
        if let mqttbytes::v4::Packet::Publish(publish) = device.receive().await.expect("command") {
            break publish;
        }
    };
    assert_eq!(&packet.payload[..], b"open the valve");
    assert!(
        packet
            .topic
            .starts_with("devices/psk-1/messages/devicebound/"),
        "{}",
        packet.topic
    );
    assert!(packet.topic.contains("unit=percent"), "{}", packet.topic);
    let (_, before) = bench.control("GET", "/devices/psk-1/commands", "").await;
    assert!(
        !before.contains("completed"),
        "not before the PUBACK: {before}"
    );

    use tokio::io::AsyncWriteExt;
    let mut ack = bytes::BytesMut::new();
    mqttbytes::v4::PubAck::new(packet.pkid)
        .write(&mut ack)
        .expect("encoded");
    device.stream.write_all(&ack).await.expect("written");
    let mut state = String::new();
    for _ in 0..200 {
        state = bench.control("GET", "/devices/psk-1/commands", "").await.1;
        if state.contains("completed") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never completed: {state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_telemetry_and_a_clean_goodbye_voids_it() {
    let bench = Bench::start("will", Options::default()).await;
    let mut who = Who::id("psk-1");
    who.will = Some((
        "devices/psk-1/messages/events/".to_owned(),
        "gone".to_owned(),
    ));
    let device = Device::connect(bench.mqtt(), &psk(true), &who).await;
    device.goodbye().await.expect("clean close");
    let device = Device::connect(bench.mqtt(), &psk(true), &who).await;
    drop(device);
    let ledger = bench.emulator.ledger();
    let arrived = tokio::time::timeout(Duration::from_secs(10), ledger.grown_past(0)).await;
    assert!(arrived.is_ok(), "the will arrives");
    let entry = newest(&bench, "psk-1");
    assert_eq!(entry.body().map(|b| &b[..]), Some(&b"gone"[..]));
    assert_eq!(entry.property("iothub-MessageType"), Some("Will"));
    assert_eq!(ledger.messages(Some("psk-1"), 0, usize::MAX).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connect_closes_the_first_before_it_is_answered() {
    let bench = Bench::start("takeover", Options::default()).await;
    let mut first = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    first
        .publish("devices/psk-1/messages/events/", b"1")
        .await
        .expect("PUBACK");
    let mut second = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    assert!(first.receive().await.is_err(), "the older is closed");
    second
        .publish("devices/psk-1/messages/events/", b"2")
        .await
        .expect("PUBACK");
    bench
        .reaches("disconnects_total", &["reason=\"taken_over\""], 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_stops_cleanly_and_settles_what_is_in_flight() {
    let bench = Bench::start("stop", Options::default()).await;
    let mut device = Device::connect(bench.mqtt(), &psk(true), &Who::id("psk-1")).await;
    let mut ids = Vec::new();
    for number in 0..10 {
        let body = format!("{number}");
        let sent = device
            .send("devices/psk-1/messages/events/", body.as_bytes())
            .await;
        ids.push(sent.expect("written"));
    }
    device
        .acknowledged(ids[0])
        .await
        .expect("the first is through");
    let ledger = bench.emulator.ledger().clone();
    assert!(bench.gateway.stop().await, "in time");
    let mut acknowledged = 1;
    for id in &ids[1..] {
        if device.acknowledged(*id).await.is_err() {
            break;
        }
        acknowledged += 1;
    }
    let accepted = ledger.messages(Some("psk-1"), 0, usize::MAX).len();
    assert!(
        accepted >= acknowledged,
        "{acknowledged} acknowledged, {accepted} accepted"
    );
}
