//! The hub goes away for a while; devices notice nothing but latency.

use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::{Bench, Options};
use std::time::Duration;

const DEVICES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_down_for_twenty_seconds_costs_no_device_its_connection() {
    let options = Options {
        fleet: DEVICES,
        ..Options::default()
    };
    let bench = Bench::start("outage", options).await;
    let mqtt = bench.mqtt();
    let fleet = Fleet::start(mqtt, DEVICES);
    while fleet.acknowledged() < 3 * DEVICES as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (down, mut accepted) = bench.stop_hub().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at_the_start = fleet.acknowledged();
    tokio::time::sleep(Duration::from_secs(19)).await; // the length of the outage
    assert_eq!(
        fleet.acknowledged(),
        at_the_start,
        "no PUBACK without acceptance"
    );
    let bench = down.restart().await;
    let goal = fleet.acknowledged() + 3 * DEVICES as u64;
    let recovered = tokio::time::timeout(Duration::from_secs(60), async {
        while fleet.acknowledged() < goal {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    recovered.await.expect("everything flows again");
    assert_eq!(bench.metric("disconnects_total", &[]).await, 0.0);
    let seen = fleet.finish().await;
    accepted.extend(ledger(&bench.emulator));
    let verdict = judge(&accepted, &seen);
    assert_eq!(
        (verdict.missing, verdict.foreign, verdict.misordered),
        (0, 0, 0)
    );
    assert!(
        verdict.duplicate <= DEVICES as u64,
        "{verdict:?}: at most what was in flight"
    );
    assert!(seen.values().all(|device| device.reconnects == 0));
}
