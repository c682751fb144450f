//! Messages that will never be accepted: what each rule makes of them.

use super::bench::{Bench, EVENTS, Plan};
use crate::auth::rules::{DeviceLimits, OnRefused};
use crate::router::refused::{Folder, ids, read};
use mqttbytes::{QoS, v4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn plan(on_refused: OnRefused) -> Plan {
    Plan {
        rule: DeviceLimits {
            on_refused,
            payload_bytes: Some(8),
            ..DeviceLimits::default()
        },
        ..Plan::default()
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("conn-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// A plan that keeps messages in this folder of so many bytes.
fn keeping(path: &Path, bytes_max: usize) -> Plan {
    Plan {
        folder: Some(Arc::new(Folder::open(path, bytes_max).expect("a folder"))),
        ..plan(OnRefused::File)
    }
}

fn acted(bench: &Bench, action: &str) -> u64 {
    let metric = &bench.metrics.refused_messages;
    metric.with_label_values(&[action]).get()
}

async fn acknowledged(bench: &mut Bench, id: u16) {
    let ack = v4::PubAck::new(id);
    assert_eq!(bench.read().await, Some(v4::Packet::PubAck(ack)));
}

#[tokio::test]
async fn a_discarded_message_is_acknowledged_in_its_order() {
    let mut bench = Bench::open(plan(OnRefused::Discard)).await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 1, "good").await;
    bench
        .publish(EVENTS, QoS::AtLeastOnce, 2, "too large")
        .await;
    bench.publish("anything", QoS::AtLeastOnce, 3, "x").await;
    bench.publish(EVENTS, QoS::AtMostOnce, 0, "too large").await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 4, "hub says").await;
    let (first, _) = bench.sent().await;
    let (last, _) = bench.sent().await;
    bench.refuse(last);
    bench.accept(first);
    for id in 1..=4 {
        acknowledged(&mut bench, id).await;
    }
    assert_eq!(
        (acted(&bench, "discarded"), acted(&bench, "dropped")),
        (3, 1)
    );
    assert_eq!(bench.messages(["uplink", "1", "payload_too_large"]), 1);
    assert_eq!(bench.messages(["uplink", "1", "message_too_large"]), 1);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
}

#[tokio::test]
async fn mqtt_5_is_told_although_a_rule_discards_and_its_message_is_kept_where_one_keeps() {
    // QoS 1, topic, packet id 1, no properties, a payload of ten bytes.
    let publish = [
        &[0x32, 38][..],
        b"\0\x17devices/dev/messages/xx",
        b"\0\x01\0",
        b"0123456789",
    ];
    let mut bench = Bench::open(Plan {
        v5: true,
        ..plan(OnRefused::Discard)
    })
    .await;
    bench.write(&publish.concat()).await;
    let puback = bench.read_raw().await;
    assert_eq!((puback[0], puback[4]), (0x40, 0x97), "{puback:?}");
    assert_eq!(acted(&bench, "told"), 1);
    let path = scratch("v5");
    let mut bench = Bench::open(Plan {
        v5: true,
        ..keeping(&path, 1 << 20)
    })
    .await;
    bench.write(&publish.concat()).await;
    assert_eq!(bench.read_raw().await, [0x40, 2, 0, 1]);
    assert_eq!(ids(&path).expect("a folder").len(), 1);
    std::fs::remove_dir_all(path).expect("removed");
}

#[tokio::test]
async fn messages_are_kept_one_by_one_before_their_pubacks_and_before_more_is_read() {
    let path = scratch("kept");
    let mut bench = Bench::open(keeping(&path, 1 << 20)).await;
    let bodies = ["too large 1", "too large 2", "too large 3"];
    for (id, body) in (1..).zip(bodies) {
        bench.publish(EVENTS, QoS::AtLeastOnce, id, body).await;
    }
    bench.publish(EVENTS, QoS::AtLeastOnce, 4, "refused").await;
    bench.publish(EVENTS, QoS::AtLeastOnce, 5, "good").await;
    for id in 1..=3 {
        acknowledged(&mut bench, id).await;
        let kept = ids(&path).expect("a folder").len();
        assert!(kept >= usize::from(id), "{kept} kept at the PUBACK of {id}");
    }
    let (fourth, _) = bench.sent().await;
    let (fifth, _) = bench.sent().await;
    bench.refuse(fourth);
    acknowledged(&mut bench, 4).await;
    bench.accept(fifth);
    acknowledged(&mut bench, 5).await;
    let kept: Vec<_> = ids(&path)
        .expect("a folder")
        .iter()
        .map(|id| read(&path, id).expect("whole"))
        .collect();
    let bodies: Vec<_> = kept.iter().map(|kept| &kept.publish.payload[..]).collect();
    let all = ["too large 1", "too large 2", "too large 3", "refused"];
    assert_eq!(bodies, all.map(str::as_bytes));
    assert!(kept.iter().all(|kept| kept.client_id == "dev"));
    assert_eq!(acted(&bench, "filed"), 4);
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
    std::fs::remove_dir_all(path).expect("removed");
}

#[tokio::test]
async fn a_message_that_cannot_be_kept_is_refused_as_without_a_rule() {
    let path = scratch("full");
    let mut bench = Bench::open(keeping(&path, 4096)).await;
    bench
        .publish(EVENTS, QoS::AtLeastOnce, 1, "too large")
        .await;
    acknowledged(&mut bench, 1).await;
    bench
        .publish(EVENTS, QoS::AtLeastOnce, 2, "too large")
        .await;
    assert_eq!(bench.read().await, None, "closed, not acknowledged");
    assert_eq!((acted(&bench, "filed"), acted(&bench, "not_filed")), (1, 1));
    bench.ended("payload_too_large").await;
    std::fs::remove_dir_all(path).expect("removed");
}
