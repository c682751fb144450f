//! The twin of a device behind the gateway: read, reported to, and told of what is desired.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK};
use mqttbytes::QoS;
use mqttbytes::v4::Publish;
use serde_json::{Value, json};
use std::time::Duration;

const RESPONSES: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

async fn device(bench: &Bench, filters: &[&str]) -> Device {
    let transport = Transport::psk("psk-1", PSK);
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    for filter in filters {
        let granted = device.subscribe(filter, QoS::AtLeastOnce).await;
        assert!(granted.expect("SUBACK"), "{filter}");
    }
    device
}

/// Publishes a request and gives status, version and body of its answer.
async fn ask(device: &mut Device, topic: &str, body: &str) -> (String, Value) {
    device
        .publish(topic, body.as_bytes())
        .await
        .expect("PUBACK");
    let answer = device.command().await.expect("an answer");
    let body = serde_json::from_slice(&answer.payload).unwrap_or(Value::Null);
    (answer.topic, body)
}

async fn patch(bench: &Bench, desired: Value) -> i64 {
    let body = json!({"properties": {"desired": desired}}).to_string();
    let (status, twin) = bench.control("PATCH", "/devices/psk-1/twin", &body).await;
    assert_eq!(status, 200, "{twin}");
    let twin: Value = serde_json::from_str(&twin).expect("a twin");
    let version = &twin["properties"]["desired"]["$version"];
    version.as_i64().expect("a version")
}

fn change(publish: &Publish) -> (i64, Value) {
    let (_, version) = publish.topic.split_once("?$version=").expect("a version");
    let body: Value = serde_json::from_slice(&publish.payload).expect("JSON");
    let version = version.parse().expect("a number");
    assert_eq!(body["$version"], version);
    (version, body)
}

/// Waits until changes come as they are made.
async fn follows(bench: &Bench) {
    let subscribed = async {
        loop {
            let waiting = bench.metric("requests_waiting_bytes", &["kind=\"desired\""]);
            let (_, stats) = bench.control("GET", "/stats", "").await;
            let stats: Value = serde_json::from_str(&stats).expect("JSON");
            let asked = stats["twin_requests"].as_u64().unwrap_or_default();
            if waiting.await > 0.0 && asked >= 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let subscribed = tokio::time::timeout(Duration::from_secs(20), subscribed).await;
    assert!(subscribed.is_ok(), "the hub was not asked for changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_is_read_and_reported_to() {
    let bench = Bench::start("twin", Options::default()).await;
    patch(&bench, json!({"interval": 5})).await;
    let mut device = device(&bench, &[RESPONSES]).await;
    let (topic, twin) = ask(&mut device, "$iothub/twin/GET/?$rid=a1", " ").await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=a1");
    assert_eq!(twin["desired"]["interval"], 5);
    assert_eq!(twin["reported"]["$version"], 1);
    let report = "$iothub/twin/PATCH/properties/reported/";
    let (topic, _) = ask(&mut device, &format!("{report}?$rid=2"), "{\"t\":20}").await;
    assert_eq!(topic, "$iothub/twin/res/204/?$rid=2&$version=2");
    let (topic, body) = ask(&mut device, &format!("{report}?$rid=3"), "{\"t\":").await;
    assert_eq!(topic, "$iothub/twin/res/400/?$rid=3", "{body}");
    let (topic, _) = ask(
        &mut device,
        &format!("{report}?$rid=4&$version=1"),
        "{\"t\":1}",
    )
    .await;
    assert_eq!(topic, "$iothub/twin/res/412/?$rid=4");
    let (_, twin) = bench.control("GET", "/devices/psk-1/twin", "").await;
    let twin: Value = serde_json::from_str(&twin).expect("a twin");
    assert_eq!(twin["properties"]["reported"]["t"], 20);
    for (operation, result, count) in [
        ("get", "answered", 1.0),
        ("report", "answered", 1.0),
        ("report", "refused", 2.0),
    ] {
        let labels = [
            &*format!("operation=\"{operation}\""),
            &format!("result=\"{result}\""),
        ];
        let found = bench.metric("twin_requests_total", &labels).await;
        assert_eq!(found, count, "{labels:?}");
    }
    assert_eq!(
        bench.metric("requests_waiting", &["kind=\"twin\""]).await,
        0.0
    );
    device.goodbye().await.expect("clean close");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_desired_while_the_hub_was_away_arrives_once_and_in_order() {
    let bench = Bench::start("desired", Options::default()).await;
    patch(&bench, json!({"a": 1, "old": true})).await;
    let mut device = device(&bench, &[DESIRED]).await;
    follows(&bench).await;
    let version = patch(&bench, json!({"a": 2})).await;
    let first = change(&device.command().await.expect("a change"));
    assert_eq!(first, (version, json!({"a": 2, "$version": version})));
    for round in 0..3 {
        let away = "{\"name\":\"RefuseConnections\",\"duration\":\"1s\"}";
        bench.control("POST", "/faults", away).await;
        bench
            .control("POST", "/faults", "{\"name\":\"KillTcp\"}")
            .await;
        bench
            .reaches("hub_reconnects_total", &[], f64::from(round) + 1.0)
            .await;
        patch(&bench, json!({"a": 10 + round, "old": null})).await;
        patch(&bench, json!({"b": round})).await;
        let last = patch(&bench, json!({"c": {"d": round}})).await;
        let (version, missed) = change(&device.command().await.expect("what was missed"));
        assert_eq!(version, last);
        let mut expected = json!({"a": 10 + round, "b": round, "c": {"d": round}});
        expected["$version"] = last.into();
        if round == 0 {
            expected["old"] = Value::Null;
        }
        assert_eq!(missed, expected);
        let next = patch(&bench, json!({"a": -1})).await;
        let (version, _) = change(&device.command().await.expect("the next"));
        assert_eq!(version, next);
    }
    device.ping().await.expect("PINGRESP");
    assert!(device.commands.is_empty(), "{:?}", device.commands);
    let recovered = ["result=\"recovered\""];
    assert_eq!(bench.metric("desired_changes_total", &recovered).await, 3.0);
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_the_hub_loses_or_tells_twice_arrive_once() {
    let bench = Bench::start("desired-faults", Options::default()).await;
    let mut device = device(&bench, &[DESIRED]).await;
    follows(&bench).await;
    let lost = "{\"name\":\"DesiredLost\"}";
    bench.control("POST", "/faults", lost).await;
    patch(&bench, json!({"a": 1})).await;
    bench.control("DELETE", "/faults", "").await;
    let twice = "{\"name\":\"DesiredTwice\"}";
    bench.control("POST", "/faults", twice).await;
    let version = patch(&bench, json!({"b": 1})).await;
    let found = change(&device.command().await.expect("both"));
    assert_eq!(
        found,
        (version, json!({"a": 1, "b": 1, "$version": version}))
    );
    let next = patch(&bench, json!({"b": 2})).await;
    let found = change(&device.command().await.expect("the next"));
    assert_eq!(found.0, next);
    bench
        .reaches("desired_changes_total", &["result=\"repeated\""], 1.0)
        .await;
    device.ping().await.expect("PINGRESP");
    assert!(device.commands.is_empty(), "{:?}", device.commands);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_answer_is_504_and_what_comes_late_or_twice_is_dropped() {
    let options = Options {
        gateway: "[limits]\ntwin_timeout = \"1s\"\ntwin_requests = 2\n".to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("twin-faults", options).await;
    let mut device = device(&bench, &[RESPONSES]).await;
    bench
        .control("POST", "/faults", "{\"name\":\"TwinAnswersLost\"}")
        .await;
    let (topic, _) = ask(&mut device, "$iothub/twin/GET/?$rid=1", "").await;
    assert_eq!(topic, "$iothub/twin/res/504/?$rid=1");
    for rid in 2..=3 {
        let topic = format!("$iothub/twin/GET/?$rid={rid}");
        device.publish(&topic, b"").await.expect("PUBACK");
    }
    let (topic, _) = ask(&mut device, "$iothub/twin/GET/?$rid=4", "").await;
    assert_eq!(topic, "$iothub/twin/res/429/?$rid=4");
    for rid in 2..=3 {
        let answer = device.command().await.expect("an answer");
        assert_eq!(answer.topic, format!("$iothub/twin/res/504/?$rid={rid}"));
    }
    bench.control("DELETE", "/faults", "").await;
    bench
        .control("POST", "/faults", "{\"name\":\"TwinAnswersTwice\"}")
        .await;
    let (topic, _) = ask(&mut device, "$iothub/twin/GET/?$rid=5", "").await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=5");
    let repeated = ["reason=\"repeated\""];
    bench
        .reaches("twin_answers_dropped_total", &repeated, 1.0)
        .await;
    device.ping().await.expect("PINGRESP");
    assert!(device.commands.is_empty(), "{:?}", device.commands);
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
}
