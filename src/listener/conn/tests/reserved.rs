//! Twins and direct methods, which are not served: the packets official SDKs send.

use super::bench::{Bench, COMMANDS, Call, EVENTS, Plan};
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, SubscribeReasonCode};

const RESPONSES: &str = "$iothub/twin/res/#";
const GET: &str = "$iothub/twin/GET/?$rid=2d1f";
const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=7&$version=4";

async fn answer(bench: &mut Bench) -> (String, String) {
    match bench.read().await {
        Some(Packet::Publish(publish)) => {
            assert_eq!((publish.qos, publish.retain), (QoS::AtMostOnce, false));
            let body = String::from_utf8(publish.payload.to_vec()).unwrap();
            (publish.topic, body)
        }
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_twin_request_is_answered_with_501_and_the_device_stays() {
    // As Python's SDK does: QoS 1 throughout; C and Node publish at QoS 0.
    let mut bench = Bench::open(Plan::default()).await;
    for filter in [
        RESPONSES,
        "$iothub/twin/PATCH/properties/desired/#",
        "$iothub/methods/POST/#",
    ] {
        let ack = bench.subscribe(filter, QoS::AtLeastOnce).await;
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        assert_eq!(ack.return_codes, [granted], "{filter}");
    }
    bench.publish(GET, QoS::AtLeastOnce, 1, " ").await;
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    let (topic, body) = answer(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/501/?$rid=2d1f");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(body["message"].as_str().unwrap().contains("twins"));
    bench.publish(PATCH, QoS::AtMostOnce, 0, "{\"a\":1}").await;
    let (topic, _) = answer(&mut bench).await;
    assert_eq!(topic, "$iothub/twin/res/501/?$rid=7");
    let method = "$iothub/methods/res/200/?$rid=1";
    bench.publish(method, QoS::AtMostOnce, 0, "{}").await;
    bench.ping().await;
    assert_eq!(bench.messages(["uplink", "1", "twin_unsupported"]), 1);
    assert_eq!(bench.messages(["uplink", "0", "twin_unsupported"]), 1);
    assert_eq!(bench.messages(["uplink", "0", "method_unsupported"]), 1);
    // Telemetry goes on, and no hub was asked for any of it.
    bench.publish(EVENTS, QoS::AtLeastOnce, 5, "t").await;
    let (ticket, body) = bench.sent().await;
    assert_eq!(body, b"t");
    bench.accept(ticket);
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(5))));
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}

#[tokio::test]
async fn a_device_that_does_not_listen_gets_its_puback_and_no_answer() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    bench.publish(GET, QoS::AtLeastOnce, 1, "").await;
    assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(1))));
    bench.ping().await;
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}

#[tokio::test]
async fn a_twin_request_does_not_overtake_the_pubacks_before_it() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "t").await;
    let (ticket, _) = bench.sent().await;
    bench.publish(GET, QoS::AtLeastOnce, 2, "").await;
    bench.ping().await;
    bench.accept(ticket);
    for id in 1..=2 {
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(id))));
    }
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
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
