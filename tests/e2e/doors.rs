//! Firmware nobody will change, through a live listener: MQTT 3.1, no client id, little room,
//! twins.

use crate::support::device::{Device, Stream, Transport, Who, open};
use crate::support::{Bench, DEVICE_KEY, HUB, Options, PSK, now, sas};
use mqttbytes::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn psk() -> Transport {
    Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13: false,
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

/// A packet of fewer than 128 bytes, or of two length bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut out = match length {
        0..128 => vec![first, length as u8],
        _ => vec![first, length as u8 | 0x80, (length >> 7) as u8],
    };
    out.extend(body);
    out
}

/// CONNECT by hand: name, level, what stands between keep-alive and client id, the id.
fn hello(name: &str, level: u8, properties: &[u8], id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, name);
    body.extend([level, 2, 0, 60]);
    body.extend(properties);
    text(&mut body, id);
    packet(0x10, &body)
}

async fn say(bench: &Bench, bytes: &[u8]) -> Box<dyn Stream> {
    let mut stream = open(bench.mqtt(), &psk()).await.expect("handshake");
    stream.write_all(bytes).await.expect("written");
    stream
}

/// The next packet, or nothing at the end of the connection.
async fn hear(stream: &mut Box<dyn Stream>) -> Vec<u8> {
    let mut packet = vec![0; 2];
    let patience = std::time::Duration::from_secs(20);
    let read = tokio::time::timeout(patience, stream.read_exact(&mut packet)).await;
    if read.expect("an answer or an end").is_err() {
        return Vec::new();
    }
    let mut length = usize::from(packet[1] & 0x7F);
    if packet[1] & 0x80 != 0 {
        packet.push(stream.read_u8().await.expect("a second length byte"));
        length |= usize::from(packet[2]) << 7;
    }
    let front = packet.len();
    packet.resize(front + length, 0);
    stream
        .read_exact(&mut packet[front..])
        .await
        .expect("the rest");
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_mqtt_3_1_is_served_by_the_rules_of_its_time() {
    let bench = Bench::start("mqtt31", Options::default()).await;
    let mut stream = say(&bench, &hello("MQIsdp", 3, &[], "psk-1")).await;
    assert_eq!(hear(&mut stream).await, [0x20, 2, 0, 0]);
    let mut publish = Vec::new();
    text(&mut publish, "devices/psk-1/messages/events/age=old");
    publish.extend([0, 7]);
    publish.extend(b"21.5");
    stream.write_all(&packet(0x32, &publish)).await.unwrap();
    assert_eq!(hear(&mut stream).await, [0x40, 2, 0, 7]);
    let entries = bench.emulator.ledger().messages(Some("psk-1"), 0, 9);
    assert_eq!(entries[0].body().map(|b| &b[..]), Some(&b"21.5"[..]));
    assert_eq!(entries[0].property("age"), Some("old"));
    // SUBSCRIBE sent again, with DUP, as 3.1 lets it.
    let mut subscribe = vec![0, 8];
    text(&mut subscribe, "devices/psk-1/messages/devicebound/#");
    subscribe.push(2);
    stream.write_all(&packet(0x8A, &subscribe)).await.unwrap();
    assert_eq!(hear(&mut stream).await, [0x90, 3, 0, 8, 1]);
    let (status, _) = bench.control("POST", "/devices/psk-1/commands", "on").await;
    assert_eq!(status, 201);
    let command = hear(&mut stream).await;
    assert_eq!((command[0], command.ends_with(b"on")), (0x32, true));
    // A filter of somebody else's has no answer in 3.1: the connection ends, with its reason.
    let mut foreign = vec![0, 9];
    text(&mut foreign, "devices/sas-1/messages/devicebound/#");
    foreign.push(1);
    stream.write_all(&packet(0x82, &foreign)).await.unwrap();
    assert_eq!(hear(&mut stream).await, [0_u8; 0]);
    let label = ["reason=\"topic_foreign_device\""];
    bench.reaches("disconnects_total", &label, 1.0).await;

    let mut stream = say(&bench, &hello("MQIsdp", 3, &[], "")).await;
    assert_eq!(
        hear(&mut stream).await,
        [0x20, 2, 0, 2],
        "identifier rejected"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_serves_the_versions_it_lists() {
    let options = Options {
        listener: "mqtt_versions = [\"3.1.1\"]\n".to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("versions", options).await;
    let mut stream = say(&bench, &hello("MQIsdp", 3, &[], "psk-1")).await;
    assert_eq!(hear(&mut stream).await, [0x20, 2, 0, 1]);
    let mut stream = say(&bench, &hello("MQTT", 5, &[0], "psk-1")).await;
    assert_eq!(hear(&mut stream).await, [0x20, 3, 0, 0x84, 0]);
    let label = ["reason=\"version_not_served\""];
    bench.reaches("disconnects_total", &label, 2.0).await;
    let device = Device::connect(bench.mqtt(), &psk(), &Who::id("psk-1")).await;
    device.goodbye().await.expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_without_client_id_is_its_credentials_device_where_a_rule_says_so() {
    let options = Options {
        rules: "[[rule]]\nname = \"no id\"\nwhen = { credential = [\"psk\", \"sas\"] }\n\
                device_id = \"{identity}\"\nassign_client_id = true\nmax_token_life = \"2h\"\n"
            .to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("no-id", options).await;
    let mut stream = say(&bench, &hello("MQTT", 5, &[0], "")).await;
    let connack = hear(&mut stream).await;
    assert_eq!(connack[..4], [0x20, connack[1], 0, 0]);
    let assigned = b"\x12\0\x05psk-1";
    assert!(connack.windows(assigned.len()).any(|w| w == assigned));
    drop(stream);
    let mut device = Device::connect(bench.mqtt(), &psk(), &Who::id("")).await;
    let topic = "devices/psk-1/messages/events/";
    device.publish(topic, b"x").await.expect("PUBACK");

    // A token says which device it is, and may not live longer than the rule says.
    let login = |life: u64| {
        let token = sas(DEVICE_KEY, &format!("{HUB}/devices/sas-1"), now() + life);
        Who::login("", &format!("{HUB}/sas-1/?api-version=2021-04-12"), &token)
    };
    let mut device = Device::connect(bench.mqtt(), &bench.tls(), &login(3600)).await;
    let topic = "devices/sas-1/messages/events/";
    device.publish(topic, b"x").await.expect("PUBACK");
    let refused = Device::try_connect(bench.mqtt(), &bench.tls(), &login(9000)).await;
    assert!(refused.expect("an answer").is_err());
    let label = ["result=\"sas_life_too_long\""];
    assert_eq!(bench.metric("connects_total", &label).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_such_a_rule_it_is_refused_by_name() {
    let bench = Bench::start("id-missing", Options::default()).await;
    let refused = Device::try_connect(bench.mqtt(), &psk(), &Who::id("")).await;
    let code = refused.expect("an answer").err().expect("a refusal");
    assert_eq!(code, mqttbytes::v4::ConnectReturnCode::BadClientId);
    let label = ["result=\"client_id_missing\""];
    assert_eq!(bench.metric("connects_total", &label).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_little_room_is_served_and_what_it_cannot_take_is_dead_lettered() {
    let bench = Bench::start("little-room", Options::default()).await;
    // Maximum Packet Size 63: less than the whole CONNACK used to need.
    let mut stream = say(&bench, &hello("MQTT", 5, &[5, 0x27, 0, 0, 0, 63], "psk-1")).await;
    let connack = hear(&mut stream).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    let mut subscribe = vec![0, 8, 0];
    text(&mut subscribe, "devices/psk-1/messages/devicebound/#");
    subscribe.push(1);
    stream.write_all(&packet(0x82, &subscribe)).await.unwrap();
    assert_eq!(hear(&mut stream).await, [0x90, 4, 0, 8, 0, 1]);
    let body = "x".repeat(100);
    let (status, _) = bench
        .control("POST", "/devices/psk-1/commands", &body)
        .await;
    assert_eq!(status, 201);
    let label = ["direction=\"downlink\"", "result=\"too_large\""];
    bench.reaches("messages_total", &label, 1.0).await;
    stream.write_all(&[0xC0, 0]).await.unwrap();
    assert_eq!(hear(&mut stream).await, [0xD0, 0], "still served");
    let (_, rows) = bench.control("GET", "/devices/psk-1/commands", "").await;
    assert!(rows.contains("rejected") || rows.contains("dead"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_for_its_twin_as_azures_c_sdk_does_gets_it_and_stays() {
    let bench = Bench::start("twins", Options::default()).await;
    let mut device = Device::connect(bench.mqtt(), &psk(), &Who::id("psk-1")).await;
    // In the order of Azure's C SDK; QoS as Python's has it.
    for filter in [
        "devices/psk-1/messages/devicebound/#",
        "$iothub/twin/res/#",
        "$iothub/methods/POST/#",
        "$iothub/twin/PATCH/properties/desired/#",
    ] {
        let granted = device.subscribe(filter, QoS::AtLeastOnce).await;
        assert!(granted.expect("SUBACK"), "{filter}");
    }
    for (topic, answered) in [
        ("$iothub/twin/GET/?$rid=1", "200/?$rid=1"),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=2",
            "204/?$rid=2",
        ),
    ] {
        device.publish(topic, b"{}").await.expect("PUBACK");
        let answer = device.command().await.expect("an answer");
        let expected = format!("$iothub/twin/res/{answered}");
        assert!(answer.topic.starts_with(&expected), "{}", answer.topic);
    }
    let topic = "devices/psk-1/messages/events/";
    device
        .publish(topic, b"telemetry goes on")
        .await
        .expect("PUBACK");
    assert_eq!(bench.emulator.ledger().messages(None, 0, 9).len(), 1);
}
