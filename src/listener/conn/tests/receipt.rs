//! PUBACK is the hub's receipt: after `accepted`, in order, and for nothing else.

use super::bench::{Bench, Call, EVENTS, Plan, SOON};
use crate::config::limits::Limits;
use mqttbytes::QoS;
use mqttbytes::v4::{LastWill, Packet, PubAck};
use tokio::io::AsyncWriteExt;

async fn published(bench: &mut Bench, ids: std::ops::RangeInclusive<u16>) -> Vec<u64> {
    let mut tickets = Vec::new();
    for id in ids {
        bench.publish(EVENTS, QoS::AtLeastOnce, id, "x").await;
        tickets.push(bench.sent().await.0);
    }
    tickets
}

#[tokio::test]
async fn pubacks_leave_in_the_order_of_the_publishes_whatever_the_hubs_order() {
    let mut bench = Bench::open(Plan::default()).await;
    let tickets = published(&mut bench, 1..=3).await;
    bench.accept(tickets[2]);
    bench.accept(tickets[1]);
    bench.ping().await;
    bench.accept(tickets[0]);
    for id in 1..=3 {
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(id))));
    }
    assert_eq!(bench.metrics.uplink_qos1_accepted.get(), 3);
    bench.ping().await;
    assert_eq!(bench.metrics.uplink_duration.get_sample_count(), 3);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn a_window_that_opens_lets_the_waiting_message_go() {
    let mut bench = Bench::open(Plan {
        limits: Limits {
            uplink_messages: 1,
            ..Limits::default()
        },
        ..Plan::default()
    })
    .await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "a").await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 2, "b").await;
    for (id, body) in [(1, b"a"), (2, b"b")] {
        let (ticket, sent) = bench.sent().await;
        assert_eq!(sent, body);
        bench.accept(ticket);
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(id))));
    }
    assert_eq!(bench.paused("uplink_window"), 0);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn many_decisions_make_one_write() {
    let mut bench = Bench::open(Plan::default()).await;
    let tickets = published(&mut bench, 1..=20).await;
    for ticket in tickets {
        bench.accept(ticket);
    }
    let mut got = [0; 80];
    let read = tokio::io::AsyncReadExt::read(&mut bench.socket, &mut got);
    let read = tokio::time::timeout(SOON, read).await.unwrap().unwrap();
    assert_eq!(read, 80, "20 PUBACKs came in pieces");
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn qos_0_in_flight_still_reaches_the_hub_when_the_device_hangs_up() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "bye").await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "unheard").await;
    let tickets = [bench.sent().await.0, bench.sent().await.0];
    bench.socket.shutdown().await.unwrap();
    assert_eq!(bench.read().await, None);
    for ticket in tickets {
        bench.accept(ticket);
    }
    let metrics = bench.metrics.clone();
    bench.ended("peer_closed").await;
    assert_eq!(metrics.uplink_qos0_accepted.get(), 1);
    assert_eq!(
        metrics.uplink_qos1_accepted.get(),
        0,
        "it was not acknowledged"
    );
    let labels = ["uplink", "1", "accepted_unacknowledged"];
    assert_eq!(metrics.messages.with_label_values(&labels).get(), 1);
}

#[tokio::test]
async fn a_drain_writes_the_pubacks_of_what_the_hub_accepts_meanwhile() {
    let mut bench = Bench::open(Plan::default()).await;
    let tickets = published(&mut bench, 1..=2).await;
    bench.registry.drain(SOON, std::time::Duration::ZERO);
    for (ticket, id) in tickets.into_iter().zip(1..) {
        bench.accept(ticket);
        assert_eq!(bench.read().await, Some(Packet::PubAck(PubAck::new(id))));
    }
    assert_eq!(bench.ended("drain").await, []);
}

#[tokio::test]
async fn an_accepted_will_is_counted_apart_from_messages() {
    let will = LastWill::new(EVENTS, "gone", QoS::AtMostOnce, false);
    let mut bench = Bench::open(Plan {
        will: Some(will),
        ..Plan::default()
    })
    .await;
    bench.socket.shutdown().await.unwrap();
    let Call::Send(ticket, telemetry) = bench.call().await else {
        panic!("no will");
    };
    assert_eq!(&telemetry.body[..], b"gone");
    bench.accept(ticket);
    let metrics = bench.metrics.clone();
    bench.ended("peer_closed").await;
    let labels = ["uplink", "0", "will_accepted"];
    assert_eq!(metrics.messages.with_label_values(&labels).get(), 1);
}
