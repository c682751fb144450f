//! Devices that are in and misbehave: windows, packet ids, QoS 2, filters.

use crate::raw::{
    Connect, Raw, SOON, connected, ended, metric_is, options, packet, publish, subscribe,
};
use crate::support::Bench;
use std::collections::HashSet;
use std::time::Duration;
use tokio::io::AsyncReadExt;

const TOPIC: &str = "devices/pass-1/messages/events/";
const COMMANDS: &str = "devices/pass-1/messages/devicebound/#";

/// Reads `count` PUBACKs; their ids.
async fn pubacks(device: &mut Raw, count: usize) -> Vec<u16> {
    let bytes = device.read(4 * count).await;
    let acks = bytes.chunks(4);
    acks.map(|ack| {
        assert_eq!(ack[..2], [0x40, 2]);
        u16::from_be_bytes([ack[2], ack[3]])
    })
    .collect()
}

/// commands come at full rate, the device reads none: at most the window is on its way, the
/// rest waits at the hub, and nothing is lost when the device starts to read.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_leaves_its_commands_at_the_hub() {
    let bench = Bench::start("deaf", options("downlink_messages = 4\n")).await;
    let mut device = connected(&bench, &Connect::pass_1()).await;
    device.send(&subscribe(1, &[COMMANDS])).await.expect("sent");
    assert_eq!(device.read(5).await, [0x90, 3, 0, 1, 1]);
    let mut sent = HashSet::new();
    for number in 0..40 {
        let body = format!("command-{number:03}");
        let (status, _) = bench
            .control("POST", "/devices/pass-1/commands", &body)
            .await;
        assert_eq!(status, 201);
        sent.insert(body);
    }
    metric_is(&bench, "inflight", &["direction=\"downlink\""], 4.0).await;
    let (_, view) = bench.control("GET", "/devices/pass-1/commands", "").await;
    let view: serde_json::Value = serde_json::from_str(&view).expect("JSON");
    let waiting = view.as_array().expect("a list").iter();
    let waiting = waiting.filter(|c| {
        c["state"]
            .as_str()
            .is_some_and(|s| s.eq_ignore_ascii_case("enqueued"))
    });
    assert_eq!(waiting.count(), 36, "{view}");

    let mut got = HashSet::new();
    while got.len() < sent.len() {
        let (id, body) = command(&mut device).await;
        assert!(got.insert(body), "no command comes twice");
        device
            .send(&packet(0x40, &id.to_be_bytes()))
            .await
            .expect("sent");
    }
    assert_eq!(got, sent);
    metric_is(&bench, "inflight", &["direction=\"downlink\""], 0.0).await;
}

/// The next PUBLISH at QoS 1: packet id and payload.
async fn command(device: &mut Raw) -> (u16, String) {
    let mut head = device.read(2).await;
    assert_eq!(head[0] & 0xf6, 0x32, "a PUBLISH at QoS 1");
    let mut length = usize::from(head[1] & 0x7f);
    if head[1] & 0x80 != 0 {
        head = device.read(1).await;
        length |= usize::from(head[0]) << 7;
    }
    let body = device.read(length).await;
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let id = u16::from_be_bytes([body[topic + 2], body[topic + 3]]);
    (
        id,
        String::from_utf8(body[topic + 4..].to_vec()).expect("text"),
    )
}

/// answers nobody reads do not pile up; the socket is left alone instead, and the device is
/// closed when it goes on. PUBACKs that are read late all come, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_reads_its_answers_is_stopped_and_then_closed() {
    let bench = Bench::start("no-pubacks", options("write_timeout = \"1s\"\n")).await;
    let mut device = connected(&bench, &Connect::pass_1()).await;
    // PINGREQs are answered at once and cost the sender least: 2 bytes each.
    let pings = [0xC0, 0].repeat(16 * 1024);
    let mut wrote = 0_usize;
    let flood = async {
        while device.send(&pings).await.is_ok() {
            wrote += pings.len();
            assert!(wrote < 256 << 20, "everything is taken");
        }
    };
    tokio::time::timeout(SOON * 3, flood)
        .await
        .expect("closed in time");
    metric_is(&bench, "disconnects_total", &[], 1.0).await;
    let closed = ended(&bench, "write_stall").await + ended(&bench, "peer_lost").await;
    assert_eq!(closed, 1.0, "{}", bench.metrics().await);

    let mut device = connected(&bench, &Connect::pass_1()).await;
    for id in 1..=200 {
        device.send(&publish(TOPIC, id, b"x")).await.expect("sent");
    }
    let ids = pubacks(&mut device, 200).await;
    assert!(ids.iter().copied().eq(1..=200), "in order, each once");
}

/// every id once around, an id in flight used again, and acknowledgements of nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_ids_may_be_any_but_not_twice_at_a_time() {
    let bench = Bench::start("packet-ids", options("")).await;
    let mut device = connected(&bench, &Connect::pass_1()).await;
    // All 65,535 ids, by SUBSCRIBE, which takes no window at the hub; refused filters.
    let (mut reader, mut writer) = tokio::io::split(device.0);
    let write = async {
        for chunk in (1..=u16::MAX).collect::<Vec<_>>().chunks(512) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|id| subscribe(*id, &["a"])).collect();
            tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes)
                .await
                .expect("sent");
        }
    };
    let read = async {
        for id in 1..=u16::MAX {
            let mut answer = [0; 5];
            reader.read_exact(&mut answer).await.expect("SUBACK");
            let [high, low] = id.to_be_bytes();
            assert_eq!(answer, [0x90, 3, high, low, 0x80]);
        }
    };
    let both = async { tokio::join!(write, read) };
    tokio::time::timeout(SOON * 3, both).await.expect("in time");
    device = Raw(Box::new(reader.unsplit(writer)));
    // The ends of the range and their neighbours, as PUBLISH.
    for id in [1, 2, 255, 256, 32_767, 32_768, 65_534, 65_535, 1] {
        device.send(&publish(TOPIC, id, b"x")).await.expect("sent");
        assert_eq!(pubacks(&mut device, 1).await, [id]);
    }
    // Acknowledgements of nothing change nothing.
    for id in [1_u16, 77, 65_535] {
        device
            .send(&packet(0x40, &id.to_be_bytes()))
            .await
            .expect("sent");
    }
    device.send(&[0xC0, 0]).await.expect("sent");
    assert_eq!(device.read(2).await, [0xD0, 0]);
    // An id that is in flight, with another message; and the id that is none.
    let twice = [publish(TOPIC, 9, b"one"), publish(TOPIC, 9, b"two")].concat();
    device.send(&twice).await.expect("sent");
    device.closed_within(SOON).await;
    let mut device = connected(&bench, &Connect::pass_1()).await;
    device.send(&publish(TOPIC, 0, b"x")).await.expect("sent");
    assert_eq!(device.closed_within(SOON).await, b"");
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"packet_id_zero\""],
        1.0,
    )
    .await;
    metric_is(&bench, "disconnects_total", &["\"packet_id_in_use\""], 1.0).await;
}

/// one reaction to every packet of a QoS 2 exchange, and nothing is kept of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_qos_2_ends_the_connection_and_nothing_reaches_the_hub() {
    let bench = Bench::start("qos2", options("")).await;
    let mut publish2 = publish(TOPIC, 5, b"x");
    publish2[0] = 0x34;
    for (bytes, reason) in [
        (publish2, "qos2_publish"),
        (packet(0x50, &[0, 5]), "qos2_flow"),
        (packet(0x62, &[0, 5]), "qos2_flow"),
        (packet(0x70, &[0, 5]), "qos2_flow"),
        (packet(0x36, b"\0\x01a\0\x01"), "qos_reserved"),
    ] {
        let before = ended(&bench, reason).await;
        let mut device = connected(&bench, &Connect::pass_1()).await;
        device.send(&bytes).await.expect("sent");
        assert_eq!(device.closed_within(SOON).await, b"", "{reason}");
        let label = format!("reason=\"{reason}\"");
        metric_is(&bench, "disconnects_total", &[&label], before + 1.0).await;
    }
    // A will of QoS 2 is refused with its CONNECT.
    let mut connect = Connect::pass_1();
    connect.will = Some((TOPIC.as_bytes().to_vec(), b"x".to_vec()));
    let mut bytes = connect.packet();
    bytes[9] |= 0x10;
    let mut raw = Raw::plain(bench.plain()).await;
    raw.send(&bytes).await.expect("sent");
    assert_eq!(raw.closed_within(SOON).await, b"");
    metric_is(&bench, "disconnects_total", &["reason=\"will_qos2\""], 1.0).await;
    assert!(bench.emulator.ledger().messages(None, 0, 10).is_empty());
}

/// a thousand filters in one packet, and many cycles of SUBSCRIBE and UNSUBSCRIBE.
#[tokio::test(flavor = "multi_thread")]
async fn filters_are_bounded_and_subscribing_again_and_again_leaves_nothing_behind() {
    let bench = Bench::start("filters", options("")).await;
    for first in [0x82, 0xA2] {
        let mut device = connected(&bench, &Connect::pass_1()).await;
        let filters = vec!["a/b"; 1000];
        let mut bytes = subscribe(1, &filters);
        if first == 0xA2 {
            let names: Vec<u8> = filters
                .iter()
                .flat_map(|f| crate::raw::field(f.as_bytes()))
                .collect();
            bytes = packet(0xA2, &[&[0, 1][..], &names].concat());
        }
        device.send(&bytes).await.expect("sent");
        assert_eq!(device.closed_within(SOON).await, b"");
    }
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"too_many_filters\""],
        2.0,
    )
    .await;

    let mut device = connected(&bench, &Connect::pass_1()).await;
    for round in 1..=300_u16 {
        let [high, low] = round.to_be_bytes();
        device
            .send(&subscribe(round, &[COMMANDS]))
            .await
            .expect("sent");
        assert_eq!(device.read(5).await, [0x90, 3, high, low, 1]);
        let name = crate::raw::field(COMMANDS.as_bytes());
        let unsubscribe = packet(0xA2, &[&[high, low][..], &name].concat());
        device.send(&unsubscribe).await.expect("sent");
        assert_eq!(device.read(4).await, [0xB0, 2, high, low]);
    }
    device.send(&subscribe(1, &[COMMANDS])).await.expect("sent");
    device.read(5).await;
    bench
        .control("POST", "/devices/pass-1/commands", "once")
        .await;
    let (_, body) = command(&mut device).await;
    assert_eq!(body, "once");
    let nothing = tokio::time::timeout(Duration::from_millis(300), device.0.read(&mut [0])).await;
    assert!(nothing.is_err(), "one command, one delivery");
}
