//! The token is renewed on the live connection, and nobody notices.

use crate::support::fleet::{Fleet, Verdict, judge, ledger};
use crate::support::{Bench, Options};
use std::time::Duration;

const DEVICES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_devices_publish_through_nine_renewals_without_a_ripple() {
    let options = Options {
        token_ttl: "6s",
        fleet: DEVICES,
        // The hub grants no grace: a token that is one second late would be seen.
        // Its ledger keeps the bodies of all a fast machine sends.
        emulator: "[limits]\ntoken_skew = \"0s\"\nledger_bytes_max = 1073741824\n".to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("renewal", options).await;
    let renewals_before = bench
        .metric("token_renewals_total", &["result=\"accepted\""])
        .await;
    let fleet = Fleet::start(bench.mqtt(), DEVICES);
    tokio::time::sleep(Duration::from_secs(60)).await; // the length of the story, not a wait
    let disconnects = bench.metric("disconnects_total", &[]).await;
    let detaches = bench.metric("hub_detaches_total", &[]).await;
    let reconnects = bench.metric("hub_reconnects_total", &[]).await;
    let renewals = bench
        .metric("token_renewals_total", &["result=\"accepted\""])
        .await
        - renewals_before;
    let connections = bench.metric("hub_connections", &["state=\"open\""]).await;
    let seen = fleet.finish().await;
    assert!(connections >= 1.0, "{connections} open connections");

    assert!(
        renewals >= 9.0 * connections,
        "{renewals} renewals on {connections} connections"
    );
    assert_eq!((disconnects, detaches, reconnects), (0.0, 0.0, 0.0));
    assert!(seen.values().all(|device| device.reconnects == 0));
    assert!(
        seen.values().all(|device| device.acknowledged > 0),
        "every device published"
    );
    let verdict = judge(&ledger(&bench.emulator), &seen);
    assert_eq!(verdict, Verdict::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policys_keys_are_changed_by_a_reload_and_no_device_is_closed() {
    use base64::Engine;
    let options = Options {
        fleet: 20,
        ..Options::default()
    };
    let bench = Bench::start("rekey", options).await;
    let fleet = Fleet::start(bench.mqtt(), 20);
    fleet.flows(100).await;
    let accepted = ["result=\"accepted\""];
    let before = bench.metric("token_renewals_total", &accepted).await;
    let key = |text: &[u8]| base64::engine::general_purpose::STANDARD.encode(text);
    for (which, file, new) in [
        (
            "primary",
            "hub-key",
            key(b"a new primary key, 32 bytes long"),
        ),
        (
            "secondary",
            "hub-key-2",
            key(b"a new second key, as long as that"),
        ),
    ] {
        let body = format!("{{\"which\":\"{which}\",\"key\":\"{new}\"}}");
        let (status, text) = bench
            .control("POST", "/policies/device/rotate", &body)
            .await;
        assert!((200..300).contains(&status), "{text}");
        crate::support::secret(&bench.dir.join(file), &new);
    }
    // Both connections put a token of the new key; the old ones would be refused by now.
    bench
        .reaches("token_renewals_total", &accepted, before + 2.0)
        .await;
    assert_eq!(
        bench
            .metric("token_renewals_total", &["result=\"refused\""])
            .await,
        0.0
    );
    fleet.flows(100).await;
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
    assert_eq!(bench.metric("hub_reconnects_total", &[]).await, 0.0);
    assert_eq!(bench.metric("hub_detaches_total", &[]).await, 0.0);
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&bench.emulator), &seen);
    assert_eq!((verdict.missing, verdict.foreign), (0, 0), "{verdict:?}");
}
