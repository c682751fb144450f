//! From the device to the hub.

use super::bench::{Bench, EVENTS, Plan};
use crate::auth::rules::DeviceLimits;
use crate::config::limits::Limits;
use crate::runtime::clock;
use mqttbytes::QoS;
use std::num::NonZeroU32;
use std::time::Duration;

#[tokio::test]
async fn a_message_goes_up_and_is_not_acknowledged_before_the_hub_spoke() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 5, "21 C").await;
    let (ticket, body) = bench.sent().await;
    assert_eq!(body, b"21 C");
    assert_eq!(bench.metrics.uplink_inflight.get(), 1);
    bench.ping().await;
    bench.refuse(ticket);
    assert_eq!(bench.read().await, None, "3.1.1 has no refusal but closing");
    assert_eq!(bench.messages(["uplink", "1", "message_too_large"]), 1);
    bench.ended("message_too_large").await;
}

#[tokio::test]
async fn a_full_window_stops_the_reading_not_the_connection() {
    let limits = Limits {
        uplink_messages: 2,
        ..Limits::default()
    };
    let mut bench = Bench::open(Plan {
        limits,
        ..Plan::default()
    })
    .await;
    for id in 1..=5 {
        let body = id.to_string();
        bench.publish(EVENTS, QoS::AtMostOnce, 0, &body).await;
    }
    let mut undecided = vec![bench.sent().await.0, bench.sent().await.0];
    while bench.paused("uplink_window") == 0 {
        tokio::task::yield_now().await;
    }
    for body in [b"3", b"4", b"5"] {
        assert!(bench.calls.try_recv().is_err(), "a message over the window");
        bench.refuse(undecided.remove(0));
        let (ticket, sent) = bench.sent().await;
        assert_eq!(sent, body);
        undecided.push(ticket);
    }
    bench.write(&[0xe0, 0]).await;
    for ticket in undecided {
        bench.refuse(ticket);
    }
    bench.ended("clean").await;
}

#[tokio::test]
async fn a_foreign_topic_is_refused_with_a_reason_and_reaches_nobody() {
    let mut bench = Bench::open(Plan::default()).await;
    let foreign = "devices/other/messages/events/";
    bench.publish(foreign, QoS::AtLeastOnce, 1, "x").await;
    assert_eq!(bench.read().await, None);
    assert_eq!(bench.messages(["uplink", "1", "topic_foreign_device"]), 1);
    assert_eq!(bench.ended("topic_foreign_device").await, []);
}

#[tokio::test]
async fn a_payload_over_the_rules_bound_is_refused() {
    let rule = DeviceLimits {
        payload_bytes: Some(4),
        ..DeviceLimits::default()
    };
    let mut bench = Bench::open(Plan {
        rule,
        ..Plan::default()
    })
    .await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "four").await;
    let (ticket, body) = bench.sent().await;
    assert_eq!(body, b"four");
    bench.refuse(ticket);
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "fives").await;
    assert_eq!(bench.read().await, None);
    assert_eq!(bench.messages(["uplink", "1", "payload_too_large"]), 1);
    bench.ended("payload_too_large").await;
}

#[tokio::test]
async fn mqtt_5_is_told_why_a_message_is_refused_and_goes_on() {
    let mut bench = Bench::open(Plan {
        v5: true,
        ..Plan::default()
    })
    .await;
    let publish = |topic: &str, id: u8| {
        let topic_bytes = [&[0, topic.len() as u8], topic.as_bytes()].concat();
        let rest = [&topic_bytes[..], &[0, id, 0], b"x"].concat();
        [&[0x32, rest.len() as u8], &rest[..]].concat()
    };
    let refused = |answer: &[u8]| (answer[0], answer[3], answer[4]);
    bench.write(&publish("a/b", 1)).await;
    assert_eq!(refused(&bench.read_raw().await), (0x40, 1, 0x90));
    bench.write(&publish("devices/x/messages/events/", 2)).await;
    assert_eq!(refused(&bench.read_raw().await), (0x40, 2, 0x87));
    bench.write(&publish(EVENTS, 3)).await;
    let (ticket, _) = bench.sent().await;
    bench.refuse(ticket);
    let answer = bench.read_raw().await;
    assert_eq!(refused(&answer), (0x40, 3, 0x97));
    assert!(answer.ends_with(b"too large"), "{answer:?}");
    bench.write(&[0xc0, 0]).await;
    assert_eq!(bench.read_raw().await, [0xd0, 0]);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn a_rate_over_the_rules_bound_waits_in_the_socket() {
    let rule = DeviceLimits {
        messages_per_s: NonZeroU32::new(4),
        ..DeviceLimits::default()
    };
    let mut bench = Bench::open(Plan {
        rule,
        ..Plan::default()
    })
    .await;
    let begun = clock::mono();
    for id in 0..6 {
        bench
            .publish(EVENTS, QoS::AtMostOnce, 0, &id.to_string())
            .await;
    }
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(bench.sent().await.0);
    }
    while bench.paused("rate") == 0 {
        tokio::task::yield_now().await;
    }
    tickets.push(bench.sent().await.0);
    tickets.push(bench.sent().await.0);
    let took = clock::mono().since(begun);
    assert!(took >= Duration::from_millis(450), "{took:?} for 6 at 4/s");
    bench.write(&[0xe0, 0]).await;
    for ticket in tickets {
        bench.refuse(ticket);
    }
    bench.ended("clean").await;
}

#[tokio::test]
async fn packets_in_single_bytes_mean_the_same() {
    let mut bench = Bench::open(Plan::default()).await;
    let mut publish = mqttbytes::v4::Publish::new(EVENTS, QoS::AtLeastOnce, "slow");
    publish.pkid = 1;
    let mut bytes = bytes::BytesMut::new();
    publish.write(&mut bytes).unwrap();
    for byte in bytes {
        bench.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let (ticket, body) = bench.sent().await;
    assert_eq!(body, b"slow");
    bench.ping().await;
    bench.refuse(ticket);
    bench.ended("message_too_large").await;
}
