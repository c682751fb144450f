//! From the hub to the device.

use super::bench::{Bench, COMMANDS, Call, Plan};
use crate::config::limits::Limits;
use crate::hub::message::Settlement;
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, SubscribeReasonCode, Unsubscribe};

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

#[tokio::test]
async fn a_new_subscription_leaves_out_slots_the_old_one_still_holds() {
    let mut bench = subscribed(QoS::AtLeastOnce).await;
    bench.command(50, "old");
    let Some(Packet::Publish(publish)) = bench.read().await else {
        panic!("no PUBLISH");
    };
    let mut unsubscribe = Unsubscribe::new(COMMANDS);
    unsubscribe.pkid = 9;
    let mut bytes = BytesMut::new();
    unsubscribe.write(&mut bytes).unwrap();
    bench.write(&bytes).await;
    assert!(matches!(bench.read().await, Some(Packet::UnsubAck(_))));
    assert_eq!(bench.call().await, Call::Unsubscribe);
    bench.subscribe(COMMANDS, QoS::AtLeastOnce).await;
    let all = u32::try_from(Limits::default().downlink_messages).unwrap();
    assert_eq!(bench.call().await, Call::Subscribe(all - 1));
    let [high, low] = publish.pkid.to_be_bytes();
    bench.write(&[0x40, 2, high, low]).await;
    assert_eq!(bench.call().await, Call::Settle(50, Settlement::Accepted));
    assert_eq!(bench.call().await, Call::Subscribe(all));
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}
