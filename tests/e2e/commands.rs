//! A command that was delivered ends by the device's word, told by the hub's own ledger.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, Publish, Unsubscribe};
use std::fs;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const FILTER: &str = "devices/psk-1/messages/devicebound/#";

async fn connect(bench: &Bench) -> Device {
    let transport = Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13: true,
    };
    Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await
}

/// Queues a command and takes it, without acknowledging it.
async fn command(bench: &Bench, device: &mut Device, body: &str) -> Publish {
    let (status, _) = bench.control("POST", "/devices/psk-1/commands", body).await;
    assert_eq!(status, 201);
    match device.receive().await.expect("a command") {
        Packet::Publish(publish) => {
            assert_eq!(&publish.payload[..], body.as_bytes());
            publish
        }
        packet => panic!("{packet:?}"),
    }
}

async fn acknowledge(device: &mut Device, id: u16) {
    let mut packet = BytesMut::new();
    PubAck::new(id).write(&mut packet).expect("encoded");
    device.stream.write_all(&packet).await.expect("written");
}

async fn unsubscribe(device: &mut Device) {
    let mut unsubscribe = Unsubscribe::new(FILTER);
    unsubscribe.pkid = 99;
    let mut packet = BytesMut::new();
    unsubscribe.write(&mut packet).expect("encoded");
    device.stream.write_all(&packet).await.expect("written");
    let answer = device.receive().await.expect("UNSUBACK");
    assert!(matches!(answer, Packet::UnsubAck(_)), "{answer:?}");
}

/// State and delivery count of every command in the hub's ledger.
async fn states(bench: &Bench) -> Vec<(String, u64)> {
    let (_, rows) = bench.control("GET", "/devices/psk-1/commands", "").await;
    let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    let row = |row: &serde_json::Value| {
        let state = row["state"].as_str().expect("a state").to_owned();
        (state, row["delivery_count"].as_u64().expect("a count"))
    };
    rows.as_array().expect("rows").iter().map(row).collect()
}

async fn reaches(bench: &Bench, want: &[(&str, u64)]) {
    let want: Vec<_> = want.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
    let reached = async {
        while states(bench).await != want {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    assert!(reached.is_ok(), "{:?}, not {want:?}", states(bench).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_forgotten_by_unsubscribe() {
    let bench = Bench::start("unsubscribe", Options::default()).await;
    let mut device = connect(&bench).await;
    assert!(device.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
    let open = command(&bench, &mut device, "open").await;
    unsubscribe(&mut device).await;
    device.ping().await.expect("PINGRESP");
    // The hub has not got it back: it is still with the device, and counted once.
    reaches(&bench, &[("locked", 0)]).await;
    acknowledge(&mut device, open.pkid).await;
    reaches(&bench, &[("completed", 0)]).await;
    // What is sent meanwhile waits in the hub for a new subscription.
    let (status, _) = bench.control("POST", "/devices/psk-1/commands", "2").await;
    assert_eq!(status, 201);
    device.ping().await.expect("PINGRESP");
    assert!(device.commands.is_empty(), "none came unasked");
    assert!(device.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
    let second = device.command().await.expect("the second");
    assert_eq!(&second.payload[..], b"2");
    reaches(&bench, &[("completed", 0), ("completed", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_qos_leaves_the_commands_before_it_to_their_pubacks() {
    let bench = Bench::start("qos-change", Options::default()).await;
    let mut device = connect(&bench).await;
    assert!(device.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
    let first = command(&bench, &mut device, "at least once").await;
    assert!(device.subscribe(FILTER, QoS::AtMostOnce).await.unwrap());
    let second = command(&bench, &mut device, "at most once").await;
    assert_eq!(second.qos, QoS::AtMostOnce);
    reaches(&bench, &[("locked", 0), ("completed", 0)]).await;
    acknowledge(&mut device, first.pkid).await;
    reaches(&bench, &[("completed", 0), ("completed", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puback_sent_before_the_device_connects_again_counts() {
    let bench = Bench::start("puback-takeover", Options::default()).await;
    for turn in 0..5_u64 {
        let mut device = connect(&bench).await;
        assert!(device.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
        let last = command(&bench, &mut device, "x").await;
        acknowledge(&mut device, last.pkid).await;
        let mut newer = connect(&bench).await;
        let done = vec![("completed", 0); usize::try_from(turn).unwrap() + 1];
        reaches(&bench, &done).await;
        assert!(newer.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
        newer.ping().await.expect("PINGRESP");
        assert!(newer.commands.is_empty(), "delivered again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_commands_with_their_devices() {
    let bench = Bench::start("puback-reload", Options::default()).await;
    let mut device = connect(&bench).await;
    assert!(device.subscribe(FILTER, QoS::AtLeastOnce).await.unwrap());
    let open = command(&bench, &mut device, "open").await;
    let before = bench.metric("config_reloads_total", &[]).await;
    let rules = bench.dir.join("rules.toml");
    let text = fs::read_to_string(&rules).expect("rules");
    crate::support::secret(&rules, &format!("{text}\n# changed\n"));
    bench
        .reaches("config_reloads_total", &[], before + 1.0)
        .await;
    acknowledge(&mut device, open.pkid).await;
    reaches(&bench, &[("completed", 0)]).await;
}
