//! From the hub to the device.

use super::bench::{Bench, COMMANDS, Call, EVENTS, Plan};
use crate::auth::rules::DeviceLimits;
use crate::config::limits::Limits;
use crate::hub::message::Settlement;
use crate::router::registry::Eviction;
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, SubscribeReasonCode, Unsubscribe};
use std::num::NonZeroU32;
use std::time::Duration;

async fn subscribed(qos: QoS) -> Bench {
    let mut bench = Bench::open(Plan::default()).await;
    let ack = bench.subscribe(COMMANDS, qos).await;
    assert_eq!(ack.return_codes, [SubscribeReasonCode::Success(qos)]);
    let credit = u32::try_from(Limits::default().downlink_messages).unwrap();
    assert_eq!(bench.call().await, Call::Subscribe(credit));
    bench
}

#[tokio::test]
async fn a_command_is_accepted_only_after_the_devices_puback() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    bench.command(40, "open");
    let Some(Packet::Publish(publish)) = bench.read().await else {
        panic!("no PUBLISH");
    };
    assert_eq!(&publish.payload[..], b"open");
    assert!(
        publish
            .topic
            .starts_with("devices/dev/messages/devicebound/")
    );
    bench.ping().await;
    assert!(bench.calls.try_recv().is_err(), "settled before the PUBACK");
    assert_eq!(bench.metrics.downlink_inflight.get(), 1);
    let [high, low] = publish.pkid.to_be_bytes();
    bench.write(&[0x40, 2, high, low]).await;
    assert_eq!(bench.call().await, Call::Settle(40, Settlement::Accepted));
    assert_eq!(bench.metrics.downlink_qos1_accepted.get(), 1);
    // The same PUBACK again names nothing.
    bench.write(&[0x40, 2, high, low]).await;
    bench.ping().await;
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}

#[tokio::test]
async fn a_qos_0_command_is_accepted_once_it_is_written() {
    let mut bench = subscribed(QoS::AtMostOnce).await;
    bench.command(41, "blink");
    let Some(Packet::Publish(publish)) = bench.read().await else {
        panic!("no PUBLISH");
    };
    assert_eq!((publish.qos, publish.pkid), (QoS::AtMostOnce, 0));
    assert_eq!(bench.call().await, Call::Settle(41, Settlement::Accepted));
    assert_eq!(bench.metrics.downlink_qos0_accepted.get(), 1);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn an_unacknowledged_command_goes_back_when_the_device_leaves() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    bench.command(42, "open");
    assert!(matches!(bench.read().await, Some(Packet::Publish(_))));
    bench.write(&[0xe0, 0]).await;
    assert_eq!(
        bench.ended("clean").await,
        [],
        "settled by closing the links alone"
    );
}

#[tokio::test]
async fn a_command_that_crossed_an_unsubscribe_is_released() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let mut unsubscribe = Unsubscribe::new(COMMANDS);
    unsubscribe.pkid = 9;
    let mut bytes = BytesMut::new();
    unsubscribe.write(&mut bytes).unwrap();
    bench.write(&bytes).await;
    assert!(matches!(bench.read().await, Some(Packet::UnsubAck(_))));
    assert_eq!(bench.call().await, Call::Subscribe(0));
    assert_eq!(bench.call().await, Call::Unsubscribe);
    bench.command(43, "late");
    assert_eq!(bench.call().await, Call::Settle(43, Settlement::Released));
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn a_filter_wider_than_the_device_is_refused_not_narrowed() {
    let mut bench = Bench::open(Plan::default()).await;
    for filter in [
        "#",
        "devices/+/messages/devicebound/#",
        "devices/b/messages/devicebound/#",
    ] {
        let ack = bench.subscribe(filter, QoS::AtLeastOnce).await;
        assert_eq!(ack.return_codes, [SubscribeReasonCode::Failure], "{filter}");
    }
    bench.write(&[0xe0, 0]).await;
    assert_eq!(
        bench.ended("clean").await,
        [],
        "no link for a refused filter"
    );
}

#[tokio::test]
async fn more_commands_than_slots_go_back_instead_of_growing_a_queue() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let slots = Limits::default().downlink_messages as u64;
    for delivery in 0..=slots {
        bench.command(delivery, "x");
    }
    assert_eq!(
        bench.call().await,
        Call::Settle(slots, Settlement::Released)
    );
    for _ in 0..slots {
        assert!(matches!(bench.read().await, Some(Packet::Publish(_))));
    }
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

async fn command(bench: &mut Bench, delivery: u64) -> u16 {
    bench.command(delivery, "x");
    match bench.read().await {
        Some(Packet::Publish(publish)) => publish.pkid,
        other => panic!("no PUBLISH: {other:?}"),
    }
}

async fn unsubscribe(bench: &mut Bench, filter: &str) {
    let mut unsubscribe = Unsubscribe::new(filter);
    unsubscribe.pkid = 9;
    let mut bytes = BytesMut::new();
    unsubscribe.write(&mut bytes).unwrap();
    bench.write(&bytes).await;
    assert!(matches!(bench.read().await, Some(Packet::UnsubAck(_))));
}

fn puback(id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [0x40, 2, high, low]
}

#[tokio::test]
async fn a_command_with_the_device_is_settled_by_its_puback_after_unsubscribe() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let ids = [command(&mut bench, 50).await, command(&mut bench, 51).await];
    unsubscribe(&mut bench, COMMANDS).await;
    // No further command is asked for, and the link stays for those two.
    assert_eq!(bench.call().await, Call::Subscribe(0));
    bench.write(&puback(ids[1])).await;
    assert_eq!(bench.call().await, Call::Settle(51, Settlement::Accepted));
    bench.write(&puback(ids[0])).await;
    assert_eq!(bench.call().await, Call::Settle(50, Settlement::Accepted));
    assert_eq!(bench.call().await, Call::Unsubscribe);
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}

#[tokio::test]
async fn a_device_that_subscribes_again_keeps_its_link_and_the_commands_on_it() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let id = command(&mut bench, 50).await;
    unsubscribe(&mut bench, COMMANDS).await;
    assert_eq!(bench.call().await, Call::Subscribe(0));
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    // The whole window: the link itself leaves out what the device still holds.
    let all = u32::try_from(Limits::default().downlink_messages).unwrap();
    assert_eq!(bench.call().await, Call::Subscribe(all));
    bench.write(&puback(id)).await;
    assert_eq!(bench.call().await, Call::Settle(50, Settlement::Accepted));
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, [], "the link was not closed");
}

#[tokio::test]
async fn a_change_of_qos_settles_each_command_by_the_qos_it_was_sent_with() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let id = command(&mut bench, 50).await;
    bench.subscribe(COMMANDS, QoS::AtMostOnce).await;
    assert_eq!(command(&mut bench, 51).await, 0);
    assert_eq!(bench.call().await, Call::Settle(51, Settlement::Accepted));
    bench.write(&puback(id)).await;
    assert_eq!(bench.call().await, Call::Settle(50, Settlement::Accepted));
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);
}

#[tokio::test]
async fn a_puback_that_had_come_counts_when_this_side_ends_the_connection() {
    let evictions = [Eviction::RightsRevoked, Eviction::Operator];
    for (end, eviction) in ["rights_revoked", "kicked"].into_iter().zip(evictions) {
        let mut bench = subscribed(QoS::AtLeastOnce).await;
        let id = command(&mut bench, 50).await;
        bench.ping().await;
        // Both before the connection's task runs, which looks at orders first.
        bench.write(&puback(id)).await;
        bench.registry.kick(&bench.key(), eviction);
        let left = bench.ended(end).await;
        assert_eq!(left, [Call::Settle(50, Settlement::Accepted)], "{end}");
    }
}

#[tokio::test]
async fn a_puback_that_had_come_counts_when_the_device_connects_again() {
    // Read no further for a second after a message, so that the PUBACK is surely unread.
    let plan = Plan {
        rule: DeviceLimits {
            messages_per_s: NonZeroU32::new(1),
            ..DeviceLimits::default()
        },
        ..Plan::default()
    };
    let mut bench = Bench::open(plan).await;
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    let id = command(&mut bench, 50).await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "slow").await;
    let (ticket, _) = bench.sent().await;
    bench.accept(ticket);
    bench.write(&puback(id)).await;
    let (registry, key) = (bench.registry.clone(), bench.key());
    let device = bench.admission.device.clone();
    let newer = tokio::spawn(async move { registry.claim(key, device).await.map(drop) });
    let left = bench.ended("taken_over").await;
    assert_eq!(left, [Call::Settle(50, Settlement::Accepted)]);
    newer.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_puback_behind_a_message_that_waits_for_its_turn_counts_at_the_end() {
    let plan = Plan {
        limits: Limits {
            uplink_messages: 1,
            ..Limits::default()
        },
        ..Plan::default()
    };
    let mut bench = Bench::open(plan).await;
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    assert!(matches!(bench.call().await, Call::Subscribe(_)));
    let id = command(&mut bench, 50).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "sent").await;
    let _ = bench.sent().await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 2, "waits").await;
    bench.write(&puback(id)).await;
    bench.registry.kick(&bench.key(), Eviction::Operator);
    bench.accept(0);
    let left = bench.ended("kicked").await;
    assert_eq!(left, [Call::Settle(50, Settlement::Accepted)]);
}

#[tokio::test]
async fn unsuback_of_mqtt_5_says_where_there_was_no_subscription() {
    let plan = Plan {
        v5: true,
        ..Plan::default()
    };
    let mut bench = Bench::open(plan).await;
    let filter = [&[0, COMMANDS.len() as u8], COMMANDS.as_bytes()].concat();
    let packet = |first: u8, options: &[u8]| {
        let body = [&[0, 1, 0][..], &filter, options].concat();
        [&[first, u8::try_from(body.len()).unwrap()][..], &body].concat()
    };
    bench.write(&packet(0xA2, &[])).await;
    assert_eq!(bench.read_raw().await, [0xB0, 4, 0, 1, 0, 0x11]);
    bench.write(&packet(0x82, &[1])).await;
    assert_eq!(bench.read_raw().await, [0x90, 4, 0, 1, 0, 1]);
    bench.write(&packet(0xA2, &[])).await;
    assert_eq!(bench.read_raw().await, [0xB0, 4, 0, 1, 0, 0]);
    bench.write(&packet(0xA2, &[])).await;
    assert_eq!(bench.read_raw().await, [0xB0, 4, 0, 1, 0, 0x11]);
    bench.write(&[0xe0, 0]).await;
    let left = bench.ended("clean").await;
    assert!(matches!(
        left[..],
        [Call::Subscribe(_), Call::Subscribe(0), Call::Unsubscribe]
    ));
}

#[tokio::test]
async fn a_puback_that_came_while_the_gateway_stops_counts() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    let id = command(&mut bench, 50).await;
    bench
        .registry
        .drain(Duration::from_millis(50), Duration::ZERO);
    bench.write(&puback(id)).await;
    let left = bench.ended("drain").await;
    assert_eq!(left, [Call::Settle(50, Settlement::Accepted)]);
}

#[tokio::test]
async fn a_puback_that_crosses_the_gateways_close_counts() {
    for end in ["drain", "kicked"] {
        let mut bench = subscribed(QoS::AtLeastOnce).await;
        let id = command(&mut bench, 50).await;
        match end {
            "drain" => bench.registry.drain(Duration::ZERO, Duration::ZERO),
            _ => drop(bench.registry.kick(&bench.key(), Eviction::Operator)),
        }
        assert_eq!(bench.read().await, None, "closed by the gateway");
        bench.write(&puback(id)[..2]).await;
        bench.write(&puback(id)[2..]).await;
        let left = bench.ended(end).await;
        assert_eq!(left, [Call::Settle(50, Settlement::Accepted)], "{end}");
    }
}
