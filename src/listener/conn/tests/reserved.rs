//! Methods and the twin between a device and a hub that the test plays: the packets of official
//! SDKs, and those of devices that answer nonsense.

use super::bench::{Bench, COMMANDS, Call, EVENTS, Plan};
use crate::auth::rules::DeviceLimits;
use crate::config::limits::Limits;
use crate::hub::message::{MethodCall, TwinAnswer, TwinAsk, TwinRequest};
use crate::hub::{Busy, HubEvent, Stray, Update};
use bytes::Bytes;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, SubscribeReasonCode};

const RESPONSES: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const METHODS: &str = "$iothub/methods/POST/#";
const GET: &str = "$iothub/twin/GET/?$rid=2d1f";
const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=7&$version=4";

/// The next PUBLISH, which is of QoS 0: topic and body.
async fn told(bench: &mut Bench) -> (String, String) {
    match bench.read().await {
        Some(Packet::Publish(publish)) => {
            assert_eq!((publish.qos, publish.retain), (QoS::AtMostOnce, false));
            let body = String::from_utf8(publish.payload.to_vec()).unwrap();
            (publish.topic, body)
        }
        other => panic!("no PUBLISH: {other:?}"),
    }
}

async fn subscribe(bench: &mut Bench, filter: &str) {
    let ack = bench.subscribe(filter, QoS::AtLeastOnce).await;
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    assert_eq!(ack.return_codes, [granted], "{filter}");
}

fn say(bench: &Bench, event: HubEvent) {
    bench.hub.try_send(event).expect("room");
}

fn call(bench: &Bench, number: u64, body: &str) {
    let call = MethodCall {
        number,
        name: "blink".to_owned(),
        body: body.to_owned().into(),
    };
    say(bench, HubEvent::Method(Box::new(call)));
}

async fn leave(mut bench: Bench) -> Vec<Call> {
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await
}

/// A device that is called methods.
async fn callee(plan: Plan) -> Bench {
    let mut bench = Bench::open(plan).await;
    subscribe(&mut bench, METHODS).await;
    let Call::Methods(bounds) = bench.call().await else {
        panic!("methods are not asked for");
    };
    let limits = Limits::default();
    assert_eq!(bounds.calls, limits.method_calls);
    assert_eq!(bounds.timeout, limits.method_timeout);
    bench
}

#[tokio::test]
async fn a_method_is_called_and_its_answer_acknowledged_when_the_hub_has_it() {
    let mut bench = callee(Plan::default()).await;
    call(&bench, 3, "{\"a\":1}");
    let (topic, body) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/methods/POST/blink/?$rid=3");
    assert_eq!(body, "{\"a\":1}");
    let answer = "$iothub/methods/res/-7/?$rid=3";
    bench.publish(answer, QoS::AtLeastOnce, 1, "{}").await;
    assert_eq!(bench.call().await, Call::RequestsWritten);
    let Call::Answer(ticket, 3, -7, body) = bench.call().await else {
        panic!("no answer");
    };
    assert_eq!(body, b"{}");
    bench.ping().await;
    bench.taken(ticket);
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn a_call_that_crosses_an_unsubscribe_is_dropped() {
    let mut bench = callee(Plan::default()).await;
    let mut unsubscribe = vec![0xa2, METHODS.len() as u8 + 4, 0, 9, 0, METHODS.len() as u8];
    unsubscribe.extend_from_slice(METHODS.as_bytes());
    bench.write(&unsubscribe).await;
    assert!(matches!(bench.read().await, Some(Packet::UnsubAck(_))));
    assert_eq!(bench.call().await, Call::NoMethods);
    call(&bench, 4, "");
    let dropped = Call::Forget(4, "unsubscribed".to_owned());
    assert_eq!(bench.call().await, dropped);
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn rubbish_for_an_answer_is_acknowledged_counted_and_goes_nowhere() {
    let mut bench = callee(Plan::default()).await;
    let large = format!("\"{}\"", "x".repeat(128 * 1024));
    for (topic, body, word) in [
        (
            "$iothub/methods/res/200/?$rid=1",
            "{",
            "method_answer_not_json",
        ),
        (
            "$iothub/methods/res/200/?$rid=1",
            "no",
            "method_answer_not_json",
        ),
        (
            "$iothub/methods/res/200/?$rid=1",
            &large,
            "method_answer_too_large",
        ),
        (
            "$iothub/methods/res/200/?$rid=x",
            "",
            "method_answer_unknown",
        ),
        (
            "$iothub/methods/res//?$rid=1",
            "",
            "method_answer_malformed",
        ),
        ("$iothub/methods/res/200/", "", "method_answer_malformed"),
        ("$iothub/twin/GET/", "", "twin_request_malformed"),
    ] {
        let before = bench.messages(["uplink", "1", word]);
        bench.publish(topic, QoS::AtLeastOnce, 1, body).await;
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
        assert_eq!(bench.messages(["uplink", "1", word]), before + 1, "{topic}");
    }
    assert_eq!(leave(bench).await, [], "the hub was asked nothing");
}

#[tokio::test]
async fn an_answer_that_no_call_waits_for_has_its_word() {
    let mut bench = callee(Plan::default()).await;
    for (stray, word) in [
        (Stray::Late, "method_answer_late"),
        (Stray::Repeated, "method_answer_repeated"),
        (Stray::Unknown, "method_answer_unknown"),
    ] {
        *bench.answers.lock().unwrap() = Err(stray);
        let topic = "$iothub/methods/res/200/?$rid=1";
        bench.publish(topic, QoS::AtLeastOnce, 1, "").await;
        assert!(matches!(bench.call().await, Call::Answer(..)));
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
        assert_eq!(bench.messages(["uplink", "1", word]), 1);
    }
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn mqtt_5_is_told_in_the_puback_what_was_wrong() {
    let mut bench = Bench::open(Plan {
        v5: true,
        ..Plan::default()
    })
    .await;
    let topic = "$iothub/methods/res/200/?$rid=1";
    let mut publish = vec![0x32, topic.len() as u8 + 6, 0, topic.len() as u8];
    publish.extend_from_slice(topic.as_bytes());
    publish.extend_from_slice(&[0, 5, 0, b'{']);
    bench.write(&publish).await;
    let ack = bench.read_raw().await;
    assert_eq!((ack[0], &ack[2..5]), (0x40, &[0, 5, 0x99][..]));
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn a_twin_is_asked_and_its_answer_goes_to_who_listens() {
    // As Python's SDK does: QoS 1 throughout; C and Node publish at QoS 0.
    let mut bench = Bench::open(Plan::default()).await;
    subscribe(&mut bench, RESPONSES).await;
    bench.publish(GET, QoS::AtLeastOnce, 1, " ").await;
    let Call::AskTwin(ticket, TwinRequest { rid, what }) = bench.call().await else {
        panic!("nobody was asked");
    };
    assert_eq!((rid.as_str(), &what), ("2d1f", &TwinAsk::Get));
    bench.ping().await;
    bench.taken(ticket);
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    let answer = |status, version| {
        HubEvent::Twin(Box::new(TwinAnswer {
            rid: rid.clone(),
            status,
            version,
            body: Bytes::from_static(b"{}"),
        }))
    };
    say(&bench, answer(200, None));
    let (topic, body) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=2d1f");
    assert_eq!(body, "{}");
    bench.publish(PATCH, QoS::AtMostOnce, 0, "{\"a\":1}").await;
    let Call::AskTwin(_, TwinRequest { rid, what }) = bench.call().await else {
        panic!("nobody was asked");
    };
    let body = Bytes::from_static(b"{\"a\":1}");
    let version = Some(4);
    assert_eq!(
        (rid.as_str(), what),
        ("7", TwinAsk::Report { version, body })
    );
    say(&bench, answer(204, Some(5)));
    let (topic, _) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/204/?$rid=2d1f&$version=5");
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn what_has_no_room_is_answered_by_the_gateway() {
    let mut bench = Bench::open(Plan::default()).await;
    subscribe(&mut bench, RESPONSES).await;
    *bench.asks.lock().unwrap() = Err(Busy);
    bench.publish(GET, QoS::AtLeastOnce, 1, "").await;
    assert!(matches!(bench.call().await, Call::AskTwin(..)));
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    let (topic, body) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/429/?$rid=2d1f");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["errorCode"], 429_001);
    let large = "x".repeat(Limits::default().twin_bytes + 1);
    bench.publish(PATCH, QoS::AtMostOnce, 0, &large).await;
    let (topic, _) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/413/?$rid=7");
    let requests = &bench.metrics.twin_requests;
    let count = |labels: [&str; 2]| requests.with_label_values(&labels).get();
    assert_eq!(
        (count(["get", "busy"]), count(["report", "too_large"])),
        (1, 1)
    );
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn the_payload_bound_of_a_rule_holds_for_requests_too() {
    let rule = DeviceLimits {
        payload_bytes: Some(4),
        ..DeviceLimits::default()
    };
    let mut bench = Bench::open(Plan {
        rule,
        ..Plan::default()
    })
    .await;
    bench.publish(PATCH, QoS::AtLeastOnce, 1, "{\"a\":1}").await;
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    assert_eq!(bench.messages(["uplink", "1", "payload_too_large"]), 1);
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn a_change_is_published_with_its_version_and_makes_room_once_it_is_written() {
    let mut bench = Bench::open(Plan::default()).await;
    subscribe(&mut bench, DESIRED).await;
    assert!(matches!(bench.call().await, Call::FollowDesired(_)));
    let body = Bytes::from_static(b"{\"a\":1,\"$version\":6}");
    let update = Update { version: 6, body };
    say(&bench, HubEvent::Desired(Box::new(update)));
    let (topic, body) = told(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=6");
    assert_eq!(body, "{\"a\":1,\"$version\":6}");
    assert_eq!(bench.call().await, Call::RequestsWritten);
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn a_device_that_does_not_listen_gets_its_puback_and_no_answer() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    bench.publish(GET, QoS::AtLeastOnce, 1, "").await;
    let Call::AskTwin(ticket, _) = bench.call().await else {
        panic!("nobody was asked");
    };
    bench.taken(ticket);
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    let answer = TwinAnswer {
        rid: "2d1f".to_owned(),
        status: 200,
        version: None,
        body: Bytes::new(),
    };
    say(&bench, HubEvent::Twin(Box::new(answer)));
    bench.ping().await;
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn a_twin_request_does_not_overtake_the_pubacks_before_it() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "t").await;
    let (ticket, _) = bench.sent().await;
    bench.publish(GET, QoS::AtLeastOnce, 2, "").await;
    let Call::AskTwin(request, _) = bench.call().await else {
        panic!("nobody was asked");
    };
    bench.taken(request);
    bench.ping().await;
    bench.accept(ticket);
    for id in 1..=2 {
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(id))));
    }
    assert_eq!(leave(bench).await, []);
}

#[tokio::test]
async fn mqtt_3_1_has_no_word_for_a_refused_filter_and_is_closed() {
    let plan = || Plan {
        connect: Some(b"\x10\x11\0\x06MQIsdp\x03\x02\0\x3c\0\x03dev"),
        ..Plan::default()
    };
    let mut bench = Bench::open(plan()).await;
    let ack = bench.subscribe(COMMANDS, QoS::ExactlyOnce).await;
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    assert_eq!(ack.return_codes, [granted]);
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);

    let mut bench = Bench::open(plan()).await;
    let filter = b"\x82\x06\0\x01\0\x01#\x01";
    bench.write(filter).await;
    assert_eq!(bench.ended("filter_too_wide").await, []);
}

#[tokio::test]
async fn a_command_larger_than_the_client_takes_is_rejected_towards_the_hub() {
    use crate::hub::message::Settlement;
    // Maximum Packet Size 64.
    let plan = Plan {
        connect: Some(b"\x10\x15\0\x04MQTT\x05\x02\0\x3c\x05\x27\0\0\0\x40\0\x03dev"),
        ..Plan::default()
    };
    let mut bench = Bench::open(plan).await;
    let filter = [&[0, COMMANDS.len() as u8], COMMANDS.as_bytes()].concat();
    let subscribe = [&[0x82, filter.len() as u8 + 4, 0, 1, 0][..], &filter, &[1]].concat();
    bench.write(&subscribe).await;
    assert_eq!(bench.read_raw().await, [0x90, 4, 0, 1, 0, 1]);
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    bench.command(60, &"x".repeat(64));
    assert_eq!(bench.call().await, Call::Settle(60, Settlement::Rejected));
    assert_eq!(bench.messages(["downlink", "1", "too_large"]), 1);
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}
