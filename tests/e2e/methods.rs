//! Direct methods from the service side to a device behind the gateway, and what the service side
//! is told when the device does not answer.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK, fleet_key};
use mqttbytes::QoS;
use mqttbytes::v4::Publish;
use serde_json::{Value, json};
use std::time::Duration;

const METHODS: &str = "$iothub/methods/POST/#";

/// A device that is subscribed to methods and known to the hub as that.
async fn device(bench: &Bench) -> Device {
    let transport = Transport::psk("psk-1", PSK);
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    let granted = device.subscribe(METHODS, QoS::AtMostOnce).await;
    assert!(granted.expect("SUBACK"));
    let links = ["role=\"methods\"", "state=\"attached\""];
    bench.reaches("hub_links", &links, 2.0).await;
    device
}

async fn call(bench: &Bench, name: &str, times: &str, body: &str) -> (u16, Value) {
    let path = format!("/devices/psk-1/methods/{name}?{times}");
    let (status, body) = bench.control("POST", &path, body).await;
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    (status, body)
}

/// The topic that answers a call.
fn answer_to(call: &Publish, status: &str) -> String {
    let (_, rid) = call.topic.split_once("?$rid=").expect("a request id");
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

fn error(answer: &(u16, Value)) -> (u16, u64) {
    (answer.0, answer.1["errorCode"].as_u64().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_answered_by_the_device_and_its_puback_is_the_hubs_word() {
    let bench = Bench::start("method", Options::default()).await;
    let mut device = device(&bench).await;
    let answered = async {
        let call = device.command().await.expect("a call");
        assert!(call.topic.starts_with("$iothub/methods/POST/blink/?$rid="));
        assert_eq!(&call.payload[..], b"{\"times\":3}");
        let topic = answer_to(&call, "-7");
        device.publish(&topic, b"[1,2]").await.expect("PUBACK");
    };
    let called = call(&bench, "blink", "response=10s", "{\"times\":3}");
    let (called, ()) = tokio::join!(called, answered);
    assert_eq!(called, (200, json!({"status": -7, "payload": [1, 2]})));
    let calls = bench.metric("method_calls_total", &["result=\"answered\""]);
    assert_eq!(calls.await, 1.0);
    assert_eq!(
        bench.metric("method_duration_seconds_count", &[]).await,
        1.0
    );
    assert_eq!(bench.metric("requests_waiting", &[]).await, 0.0);
    device.goodbye().await.expect("clean close");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_there_or_not_subscribed_is_404103() {
    let bench = Bench::start("offline", Options::default()).await;
    assert_eq!(error(&call(&bench, "m", "", "").await), (404, 404_103));
    let transport = Transport::psk("psk-1", PSK);
    let mut other = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    other.ping().await.expect("PINGRESP");
    assert_eq!(error(&call(&bench, "m", "", "").await), (404, 404_103));
    // Who waits for it to subscribe gets its answer.
    let answered = async {
        let granted = other.subscribe(METHODS, QoS::AtLeastOnce).await;
        assert!(granted.expect("SUBACK"));
        let call = other.command().await.expect("a call");
        let topic = answer_to(&call, "200");
        other.publish(&topic, b"").await.expect("PUBACK");
    };
    let called = call(&bench, "m", "connect=10s&response=10s", "");
    let (called, ()) = tokio::join!(called, answered);
    assert_eq!(called, (200, json!({"status": 200, "payload": null})));
    other.goodbye().await.expect("clean close");
    bench.falls("requests_waiting", 0.0).await;
    let gone = async {
        while error(&call(&bench, "m", "", "").await) != (404, 404_103) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    assert!(gone.is_ok(), "a device that left is still called");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_slow_or_answers_rubbish_is_504101_and_stays() {
    let bench = Bench::start("rubbish", Options::default()).await;
    let mut device = device(&bench).await;
    let large = format!("\"{}\"", "x".repeat(257 * 1024));
    let rubbish: [(&str, &[u8], &str); 7] = [
        ("", b"", ""),
        ("200", b"{\"a\":", "method_answer_not_json"),
        ("200", b"\xff\xfe", "method_answer_not_json"),
        ("200", large.as_bytes(), "method_answer_too_large"),
        ("", b"{}", "method_answer_malformed"),
        ("ok", b"{}", "method_answer_malformed"),
        ("wrong id", b"{}", "method_answer_unknown"),
    ];
    for (status, body, reason) in rubbish {
        let answered = async {
            let call = device.command().await.expect("a call");
            let topic = match status {
                "wrong id" => "$iothub/methods/res/200/?$rid=4711".to_owned(),
                status => answer_to(&call, status),
            };
            if !reason.is_empty() {
                device.publish(&topic, body).await.expect("PUBACK");
            }
        };
        let called = call(&bench, "m", "response=500ms", "{}");
        let (called, ()) = tokio::join!(called, answered);
        assert_eq!(error(&called), (504, 504_101), "{status} {reason}");
        if !reason.is_empty() {
            let labels = ["qos=\"1\"", &format!("result=\"{reason}\"")];
            assert!(bench.metric("messages_total", &labels).await >= 1.0);
        }
    }
    // A second answer to a call, which the first one has ended.
    let answered = async {
        let call = device.command().await.expect("a call");
        let topic = answer_to(&call, "200");
        device.publish(&topic, b"1").await.expect("PUBACK");
        device.publish(&topic, b"2").await.expect("PUBACK");
    };
    let called = call(&bench, "m", "response=10s", "{}");
    let (called, ()) = tokio::join!(called, answered);
    assert_eq!(called, (200, json!({"status": 200, "payload": 1})));
    let repeated = ["result=\"method_answer_repeated\""];
    assert_eq!(bench.metric("messages_total", &repeated).await, 1.0);
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_withholds_is_refused_and_no_link_is_attached() {
    let rules = "[[rule]]\nname = \"telemetry alone\"\n\
        when = { credential = \"psk\", identity = \"load-0\" }\n\
        device_id = \"{identity}\"\nallow = [\"telemetry\"]\n";
    let options = Options {
        fleet: 1,
        rules: rules.to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("withheld", options).await;
    let transport = Transport::psk("load-0", &fleet_key(0));
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("load-0")).await;
    for filter in [
        METHODS,
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
    ] {
        let granted = device.subscribe(filter, QoS::AtMostOnce).await;
        assert!(!granted.expect("SUBACK"), "{filter}");
    }
    for (topic, reason) in [
        ("$iothub/twin/GET/?$rid=1", "twin_denied"),
        ("$iothub/methods/res/200/?$rid=1", "methods_denied"),
    ] {
        device.publish(topic, b"{}").await.expect("PUBACK");
        let result = format!("result=\"{reason}\"");
        assert_eq!(bench.metric("messages_total", &[&result]).await, 1.0);
    }
    let topic = "devices/load-0/messages/events/";
    device.publish(topic, b"t").await.expect("PUBACK");
    for role in ["role=\"methods\"", "role=\"twin\""] {
        assert_eq!(bench.metric("hub_links", &[role]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_its_own_answer_while_tokens_change_and_connections_end() {
    let options = Options {
        token_ttl: "4s",
        ..Options::default()
    };
    let bench = Bench::start("storm-of-methods", options).await;
    let mut device = device(&bench).await;
    let serve = async {
        while let Ok(call) = device.command().await {
            let topic = answer_to(&call, "200");
            let body = call.payload.to_vec();
            device.send_qos0(&topic, &body).await.expect("written");
            if call.payload.starts_with(b"\"last") {
                return;
            }
        }
    };
    let calls = async {
        let (mut answered, mut failed) = (0, 0);
        for round in 0..40 {
            if round % 10 == 5 {
                let fault = ["KillTcp", "KillAmqpMethodReqLink", "KillAmqpMethodRespLink"];
                let body = format!("{{\"name\":\"{}\"}}", fault[round / 10 % 3]);
                bench.control("POST", "/faults", &body).await;
            }
            let bodies: Vec<_> = (0..4).map(|n| format!("\"{round}-{n}\"")).collect();
            let each = bodies.iter().map(|body| {
                let called = call(&bench, "echo", "connect=10s&response=2s", body);
                async move { (body, called.await) }
            });
            for (body, (status, answer)) in futures_each(each).await {
                match status {
                    200 => {
                        answered += 1;
                        assert_eq!(answer["payload"].to_string(), *body);
                    }
                    404 | 504 => failed += 1,
                    other => panic!("{other}: {answer}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let last = call(&bench, "echo", "connect=20s&response=20s", "\"last\"").await;
        assert_eq!(last.0, 200, "{}", last.1);
        (answered, failed)
    };
    let ((answered, failed), ()) = tokio::join!(calls, serve);
    assert!(answered >= 120, "{answered} answered, {failed} cut off");
    assert!(
        bench
            .metric("token_renewals_total", &["result=\"accepted\""])
            .await
            > 1.0
    );
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
}

/// All of them at once.
async fn futures_each<T>(each: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = each.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|one| match one.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                done.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        match pending.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done
}
