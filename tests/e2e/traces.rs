//! Spans of messages reach a collector, and a bad collector is nobody's trouble.

use crate::support::collector::{Collector, Manner};
use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PASSWORD, PSK, http, scratch};
use bytes::BytesMut;
use iothub_gateway::emulator::Entry;
use mqttbytes::{QoS, v5};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const EVENTS: &str = "devices/psk-1/messages/events/";
const AT_ONCE: Manner = Manner::Answers(200, Duration::ZERO);

fn options(collector: SocketAddr, ratio: &str, more: &str) -> Options {
    Options {
        gateway: format!(
            "[telemetry.otlp]\nendpoint = \"http://{collector}\"\nsample_ratio = {ratio}\n{more}"
        ),
        ..Options::default()
    }
}

async fn connect(bench: &Bench) -> Device {
    let psk = Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13: true,
    };
    Device::connect(bench.mqtt(), &psk, &Who::id("psk-1")).await
}

fn entries(bench: &Bench) -> Vec<Entry> {
    bench.emulator.ledger().messages(None, 0, usize::MAX)
}

fn message_id(entry: &Entry) -> String {
    let system = &entry.content.as_ref().expect("kept").system;
    let id = system.iter().find(|(name, _)| name == "message-id");
    id.expect("a message-id").1.clone()
}

fn attribute(span: &Value, key: &str) -> String {
    let all = span["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|one| one["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"];
    let value = value.as_object().and_then(|value| value.values().next());
    value.and_then(Value::as_str).expect("text").to_owned()
}

/// What a span and the message at the hub say of each other.
fn agree(span: &Value, entry: &Entry) {
    let carried = entry.property("traceparent").expect("a traceparent");
    let (trace, id) = (&span["traceId"], &span["spanId"]);
    let (trace, id) = (trace.as_str().expect("text"), id.as_str().expect("text"));
    assert_eq!(carried, format!("00-{trace}-{id}-01"));
    assert_eq!(attribute(span, "messaging.message.id"), message_id(entry));
    assert_eq!(attribute(span, "iothub.device.id"), entry.device());
    assert_eq!(attribute(span, "iothub.outcome"), "accepted");
    let time = |key: &str| -> u64 { span[key].as_str().expect("text").parse().expect("number") };
    assert!(time("startTimeUnixNano") > 1_700_000_000_000_000_000);
    assert!(time("endTimeUnixNano") >= time("startTimeUnixNano"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_message_continues_the_devices_trace_and_the_hub_carries_it_on() {
    let collector = Collector::start(AT_ONCE).await;
    // Nothing is sampled by chance here, so the device's flag alone decides.
    let bench = Bench::start("traced", options(collector.address, "1e-12", "")).await;
    let mut device = connect(&bench).await;
    let bag = format!("traceparent=00-{TRACE}-{PARENT}-01&tracestate=vendor%3D1&unit=C");
    let quiet = format!("traceparent=00-{TRACE}-{PARENT}-00");
    for bag in ["unit=F", &quiet, &bag] {
        let topic = format!("{EVENTS}{bag}");
        device.publish(&topic, b"21.5").await.expect("PUBACK");
    }
    let spans = collector.has(1).await;
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0]["traceId"], TRACE);
    assert_eq!(spans[0]["parentSpanId"], PARENT);
    assert_ne!(spans[0]["spanId"], PARENT);
    assert_eq!(spans[0]["traceState"], "vendor=1");
    let size = attribute(&spans[0], "messaging.message.body.size");
    assert_eq!(size, "4");
    let entries = entries(&bench);
    agree(&spans[0], &entries[2]);
    assert_eq!(entries[2].property("tracestate"), Some("vendor=1"));
    assert_eq!(entries[2].property("unit"), Some("C"));
    // What is not sampled passes as it came.
    assert_eq!(entries[0].property("traceparent"), None);
    let carried = entries[1].property("traceparent");
    assert_eq!(carried, Some(&*format!("00-{TRACE}-{PARENT}-00")));
    let head = &collector.heads()[0];
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    bench.reaches("trace_spans_total", &["exported"], 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_context_begins_a_trace() {
    let collector = Collector::start(AT_ONCE).await;
    let bench = Bench::start("untraced", options(collector.address, "1.0", "")).await;
    let mut device = connect(&bench).await;
    for bag in ["$.mid=mine", "traceparent=nonsense&tracestate=lost%3D1"] {
        let topic = format!("{EVENTS}{bag}");
        device.publish(&topic, b"x").await.expect("PUBACK");
    }
    let spans = collector.has(2).await;
    let entries = entries(&bench);
    for (span, entry) in spans.iter().zip(&entries) {
        assert_eq!(span["parentSpanId"], Value::Null);
        agree(span, entry);
    }
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
    assert_eq!(message_id(&entries[0]), "mine");
    assert_eq!(entries[1].property("tracestate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_tls_is_trusted_by_its_ca_and_not_without() {
    let dir = scratch("traces-ca");
    let collector = Collector::start_tls(AT_ONCE, &dir.join("ca.pem")).await;
    let port = collector.address.port();
    for (name, ca, result) in [
        (
            "traces-tls",
            format!("ca = \"{}\"\n", dir.join("ca.pem").display()),
            "exported",
        ),
        ("traces-stranger", String::new(), "failed"),
    ] {
        let mut options = options(collector.address, "1.0", &ca);
        let plain = format!("http://{}", collector.address);
        let over_tls = format!("https://localhost:{port}");
        options.gateway = options.gateway.replace(&plain, &over_tls);
        let bench = Bench::start(name, options).await;
        let mut device = connect(&bench).await;
        device.publish(EVENTS, b"x").await.expect("PUBACK");
        let metrics = bench.gateway.metrics().clone();
        if result == "exported" {
            collector.has(1).await;
        }
        assert!(bench.gateway.stop().await);
        let series = "iothub_gateway_trace_spans_total";
        let label = format!("result=\"{result}\"");
        let count = http::metric(&metrics.render(), series, &[&label]);
        assert_eq!(count, 1.0, "{name}");
    }
    assert_eq!(collector.spans().len(), 1, "a stranger is told nothing");
}

/// The next packet.
async fn read(stream: &mut TcpStream, bytes: &mut BytesMut) -> v5::Packet {
    loop {
        if let Ok(packet) = v5::read(bytes, 64 * 1024) {
            return packet;
        }
        let read = stream.read_buf(bytes).await.expect("open");
        assert!(read > 0, "closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_property_of_mqtt_5_is_a_context_too() {
    let collector = Collector::start(AT_ONCE).await;
    let bench = Bench::start("traced5", options(collector.address, "1e-12", "")).await;
    let mut stream = TcpStream::connect(bench.plain()).await.expect("open");
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    let mut connect = v5::Connect::new("pass-1");
    connect.set_login("pass-1", PASSWORD);
    connect.write(&mut out).expect("encoded");
    let topic = "devices/pass-1/messages/events/";
    let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, "x");
    publish.pkid = 7;
    let context = format!("00-{TRACE}-{PARENT}-01");
    publish.properties = Some(v5::PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: None,
        topic_alias: None,
        response_topic: None,
        correlation_data: None,
        user_properties: vec![("traceparent".to_owned(), context)],
        subscription_identifiers: Vec::new(),
        content_type: None,
    });
    publish.write(&mut out).expect("encoded");
    stream.write_all(&out).await.expect("written");
    let answer = read(&mut stream, &mut input).await;
    assert!(matches!(answer, v5::Packet::ConnAck(_)), "{answer:?}");
    let answer = read(&mut stream, &mut input).await;
    assert!(
        matches!(&answer, v5::Packet::PubAck(ack) if ack.pkid == 7),
        "{answer:?}"
    );
    let spans = collector.has(1).await;
    assert_eq!(spans[0]["traceId"], TRACE);
    assert_eq!(spans[0]["parentSpanId"], PARENT);
    agree(&spans[0], &entries(&bench)[0]);
}

/// Publishes to a gateway with this collector, stops it, and answers what became of the spans.
async fn endures(name: &str, collector: SocketAddr) -> Vec<(String, f64)> {
    const MESSAGES: usize = 200;
    let more = "queue_spans = 8\ntimeout = \"300ms\"\n";
    let bench = Bench::start(name, options(collector, "1.0", more)).await;
    let mut device = connect(&bench).await;
    for _ in 0..MESSAGES {
        device.publish(EVENTS, b"x").await.expect("PUBACK");
    }
    assert_eq!(entries(&bench).len(), MESSAGES, "{name}");
    let metrics = bench.gateway.metrics().clone();
    let stopping = bench.gateway.stop();
    let stopped = tokio::time::timeout(Duration::from_secs(40), stopping).await;
    assert!(stopped.expect("it stops"), "{name}: cleanly");
    let text = metrics.render();
    let series = "iothub_gateway_trace_spans_total";
    let results = ["exported", "rejected", "failed", "queue_full"];
    let counts = results.map(|result| {
        let label = format!("result=\"{result}\"");
        (result.to_owned(), http::metric(&text, series, &[&label]))
    });
    let all: f64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(all, MESSAGES as f64, "{name}: {counts:?}");
    counts.to_vec()
}

fn count(counts: &[(String, f64)], result: &str) -> f64 {
    let found = counts.iter().find(|(known, _)| known == result);
    found.expect("known").1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_gone_costs_spans_and_nothing_else() {
    let gone = Collector::start(AT_ONCE).await.address;
    let hangs = Collector::start(Manner::Hangs).await;
    let deaf = Collector::start(Manner::IsDeaf).await;
    for (name, collector) in [
        ("traces-gone", gone),
        ("traces-hangs", hangs.address),
        ("traces-deaf", deaf.address),
    ] {
        let counts = endures(name, collector).await;
        assert!(count(&counts, "queue_full") > 100.0, "{name}: {counts:?}");
        assert!(count(&counts, "failed") >= 8.0, "{name}: {counts:?}");
        assert_eq!(count(&counts, "exported"), 0.0, "{name}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_or_is_slow_costs_spans_and_nothing_else() {
    let refuses = Collector::start(Manner::Answers(500, Duration::ZERO)).await;
    let counts = endures("traces-500", refuses.address).await;
    assert!(count(&counts, "rejected") >= 8.0, "{counts:?}");
    let busy = Collector::start(Manner::Answers(503, Duration::ZERO)).await;
    let counts = endures("traces-503", busy.address).await;
    assert!(count(&counts, "failed") >= 8.0, "{counts:?}");
    assert!(busy.heads().len() >= 2, "it is asked again");
    let slow = Collector::start(Manner::Answers(200, Duration::from_millis(200))).await;
    let counts = endures("traces-slow", slow.address).await;
    assert!(count(&counts, "exported") >= 8.0, "{counts:?}");
}
