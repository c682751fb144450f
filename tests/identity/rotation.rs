//! A fleet changes its keys device by device, without a flag day.

use crate::support::device::{Device, Who};
use crate::support::{Options, fleet_key};
use crate::{psk, reloaded, replace, start};
use std::fmt::Write as _;

const NEW: &[u8] = b"the-next-fleet-key-0123";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_serve_during_a_rotation_and_only_the_new_one_after_it() {
    let options = Options {
        fleet: 3,
        ..Options::default()
    };
    let bench = start("rotation", options).await;
    let file = bench.dir.join("fleet.psk");
    let lines = |keys: &dyn Fn(usize) -> String| {
        (0..3).fold(String::new(), |mut text, index| {
            let _ = writeln!(text, "load-{index}:{}", keys(index));
            text
        })
    };
    let old = |index| hex(&fleet_key(index));
    replace(
        &file,
        &lines(&|index| format!("{} next={}", old(index), hex(NEW))),
    );
    reloaded(&bench, "ok", 1.0).await;
    let used = async |slot: &str| {
        let label = format!("slot=\"{slot}\"");
        bench.metric("psk_key_used_total", &[&label]).await
    };

    let connect = |index: usize, key: &[u8], tls13: bool| {
        let id = format!("load-{index}");
        let (address, transport) = (bench.mqtt(), psk(&id, key, tls13));
        async move { Device::try_connect(address, &transport, &Who::id(&id)).await }
    };
    let mut on_old = connect(0, &fleet_key(0), true)
        .await
        .expect("key")
        .expect("0");
    assert_eq!((used("key").await, used("next_key").await), (1.0, 0.0));
    let mut on_new = connect(1, NEW, true).await.expect("next key").expect("0");
    assert_eq!((used("key").await, used("next_key").await), (1.0, 1.0));
    // TLS 1.2 does not tell which key it means: a failure makes the next attempt try the other.
    assert!(connect(2, NEW, false).await.is_err(), "the first attempt");
    let second = connect(2, NEW, false)
        .await
        .expect("the second attempt")
        .expect("0");
    assert_eq!((used("key").await, used("next_key").await), (1.0, 2.0));
    drop(second);

    replace(&file, &lines(&|_| hex(NEW)));
    reloaded(&bench, "ok", 2.0).await;
    on_old
        .ping()
        .await
        .expect("a live session outlives a changed key");
    on_new.ping().await.expect("untouched");
    for tls13 in [true, false] {
        for _ in 0..2 {
            let refused = connect(0, &fleet_key(0), tls13).await;
            assert!(refused.is_err(), "the old key, TLS 1.3: {tls13}");
        }
        connect(2, NEW, tls13)
            .await
            .expect("the new key")
            .expect("0");
    }
    assert_eq!((used("key").await, used("next_key").await), (3.0, 2.0));
}
