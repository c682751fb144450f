//! How connections end: reason, will, what is in flight, who waits.

use super::bench::{Bench, Call, EVENTS, Plan, SOON};
use crate::config::limits::Limits;
use crate::hub::HubEvent;
use crate::hub::outcome::DeviceGone;
use crate::router::registry::Eviction;
use crate::runtime::clock;
use mqttbytes::QoS;
use mqttbytes::v4::LastWill;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(80);

fn with_will() -> Plan {
    Plan {
        will: Some(LastWill::new(EVENTS, "gone", QoS::AtLeastOnce, false)),
        ..Plan::default()
    }
}

fn limited(limits: Limits) -> Plan {
    Plan {
        limits,
        ..Plan::default()
    }
}

async fn hang_up(bench: &mut Bench) {
    bench.socket.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_device_that_hangs_up_leaves_its_will() {
    let mut bench = Bench::open(with_will()).await;
    hang_up(&mut bench).await;
    let (ticket, body) = bench.sent().await;
    assert_eq!(body, b"gone");
    bench.refuse(ticket);
    let metrics = bench.metrics.clone();
    bench.ended("peer_closed").await;
    let labels = ["uplink", "1", "message_too_large"];
    assert_eq!(metrics.messages.with_label_values(&labels).get(), 1);
}

#[tokio::test]
async fn a_goodbye_and_revoked_rights_void_the_will() {
    let mut bench = Bench::open(with_will()).await;
    bench.write(&[0xe0, 0]).await;
    assert_eq!(bench.ended("clean").await, []);

    let bench = Bench::open(with_will()).await;
    bench.registry.kick(&bench.key(), Eviction::RightsRevoked);
    assert_eq!(bench.ended("rights_revoked").await, []);
}

#[tokio::test]
async fn a_device_the_hub_ends_is_closed_with_the_hubs_reason() {
    let bench = Bench::open(with_will()).await;
    let gone = HubEvent::Gone(DeviceGone {
        reason: "device_disabled",
        text: "no".to_owned(),
    });
    bench.hub.try_send(gone).unwrap();
    assert_eq!(bench.ended("gone_device_disabled").await, []);
}

#[tokio::test]
async fn a_newer_connection_waits_at_most_a_second_for_the_older_ones_will() {
    let mut bench = Bench::open(with_will()).await;
    let newer = {
        let (registry, key) = (bench.registry.clone(), bench.key());
        let device = bench.admission.device.clone();
        tokio::spawn(async move {
            let begun = clock::mono();
            let claim = registry.claim(key, device).await.expect("a claim");
            drop(claim);
            clock::mono().since(begun)
        })
    };
    assert_eq!(bench.read().await, None, "the older is closed at once");
    bench.sent().await;
    let waited = timeout(SOON, newer).await.unwrap().unwrap();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    let metrics = bench.metrics.clone();
    bench.ended("taken_over").await;
    let lost = ["uplink", "1", "will_lost"];
    assert_eq!(metrics.messages.with_label_values(&lost).get(), 1);
}

#[tokio::test]
async fn a_newcomer_hurries_an_older_connection_that_still_waits_for_the_hub() {
    let mut bench = Bench::open(with_will()).await;
    hang_up(&mut bench).await;
    bench.sent().await;
    let begun = clock::mono();
    let claim = bench
        .registry
        .claim(bench.key(), bench.admission.device.clone());
    drop(timeout(SOON, claim).await.unwrap().expect("a claim"));
    assert!(clock::mono().since(begun) < Duration::from_secs(3));
    bench.ended("peer_closed").await;
}

#[tokio::test]
async fn a_silent_device_is_closed_after_one_and_a_half_keep_alives() {
    let mut bench = Bench::open(limited(Limits {
        keep_alive_max: SHORT,
        ..Limits::default()
    }))
    .await;
    for _ in 0..4 {
        tokio::time::sleep(SHORT / 2).await;
        bench.ping().await;
    }
    let begun = clock::mono();
    assert_eq!(bench.read().await, None);
    assert!(clock::mono().since(begun) >= SHORT);
    bench.ended("keep_alive_timeout").await;
}

#[tokio::test]
async fn a_packet_that_trickles_is_closed_although_bytes_keep_coming() {
    let mut bench = Bench::open(limited(Limits {
        packet_timeout: SHORT,
        ..Limits::default()
    }))
    .await;
    bench.write(&[0x30, 100]).await;
    let mut closed = false;
    for _ in 0..90 {
        tokio::time::sleep(SHORT / 10).await;
        closed = closed || bench.socket.write_all(b"a").await.is_err();
    }
    assert!(closed, "the packet was given more time than it may take");
    bench.ended("packet_timeout").await;
}

#[tokio::test]
async fn a_device_that_takes_no_answers_is_read_no_more_and_closed() {
    let mut bench = Bench::open(Plan {
        limits: Limits {
            write_timeout: SHORT,
            ..Limits::default()
        },
        socket_bytes: 256,
        ..Plan::default()
    })
    .await;
    let mut pings = 0;
    let flood = async {
        while bench.socket.write_all(&[0xc0, 0]).await.is_ok() {
            pings += 1;
        }
    };
    timeout(SOON, flood).await.expect("the connection ends");
    // Its own pipe both ways, one read, the bound on answers: nothing else was collected.
    assert!(pings < 16 * 1024, "{pings} answers were collected");
    bench.ended("write_stall").await;
}

#[tokio::test]
async fn a_credential_that_ends_ends_the_session() {
    let bench = Bench::open(Plan {
        expires: Some(clock::mono() + SHORT),
        ..Plan::default()
    })
    .await;
    bench.ended("credential_expired").await;
}

#[tokio::test]
async fn a_violation_is_the_reason() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.write(&[0x20, 2, 0, 0]).await;
    bench.ended("server_packet").await;
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight_and_reads_no_more() {
    let mut bench = Bench::open(with_will()).await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "last").await;
    let (ticket, _) = bench.sent().await;
    bench.registry.drain(SOON, Duration::ZERO);
    tokio::task::yield_now().await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "too late").await;
    assert!(timeout(SHORT, bench.calls.recv()).await.is_err());
    bench.refuse(ticket);
    assert_eq!(bench.ended("drain").await, [], "no will, no late message");
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_up() {
    let mut bench = Bench::open(Plan::default()).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "stuck").await;
    assert!(matches!(bench.call().await, Call::Send(..)));
    bench.registry.drain(SHORT, Duration::ZERO);
    let metrics = bench.metrics.clone();
    bench.ended("drain").await;
    let labels = ["uplink", "1", "abandoned"];
    assert_eq!(metrics.messages.with_label_values(&labels).get(), 1);
}

#[tokio::test]
async fn unread_bytes_do_not_cost_the_last_words() {
    let mut bench = Bench::open(Plan::default()).await;
    bench
        .write(&[0xc0, 0, 0x20, 2, 0, 0, 0xc0, 0, 0xc0, 0])
        .await;
    assert_eq!(bench.read().await, Some(mqttbytes::v4::Packet::PingResp));
    assert_eq!(bench.read().await, None);
    // The socket is half closed, not gone: what the device still says is taken and discarded.
    bench.write(&[0xc0, 0]).await;
    bench.ended("server_packet").await;
}
