//! A new process takes over from a running one, under load.

use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::process::{Process, free_port};
use crate::support::{Options, amqps_port, gateway_toml, hub_in, scratch};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The full run is `HANDOVER_DEVICES=1000 cargo test --release --test e2e handover`.
fn devices() -> usize {
    let full = std::env::var("HANDOVER_DEVICES").ok();
    full.map_or(200, |text| text.parse().expect("a number of devices"))
}

#[allow(clippy::disallowed_methods)] // the test measures real time
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_every_device_at_the_stated_pace_and_nobody_is_refused() {
    let devices = devices();
    let rate = devices / 4; // each process may take four seconds to be left
    let options = Options {
        fleet: devices,
        hub: "attach_rate = \"1000/s\"".to_owned(),
        gateway: format!("[shutdown]\nhandover = \"handover\"\ndrain_rate = \"{rate}/s\""),
        ..Options::default()
    };
    let dir = scratch("handover");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqps_port(&emulator), mqtt, plain, admin);
    std::fs::write(&config, text).expect("written");

    let old = Process::start(&config);
    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), devices);
    fleet.flows(5 * devices as u64).await;
    let before = fleet.refused();
    let begun = now();
    let new = Process::start(&config);
    let ended = tokio::time::timeout(Duration::from_secs(60), old.ended()).await;
    let took = begun.elapsed();
    assert_eq!(ended.expect("the old process goes"), Some(0));
    fleet.flows(5 * devices as u64).await;
    let refused = fleet.refused() - before;
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    println!("{devices} devices at {rate}/s moved in {took:?}, {refused} refused: {verdict:?}");
    assert_eq!(refused, 0, "a connect was refused");
    assert!(
        took > Duration::from_secs(3),
        "faster than the pace: {took:?}"
    );
    assert!(
        took < Duration::from_secs(30),
        "far slower than the pace: {took:?}"
    );
    assert!(
        seen.values().all(|device| device.reconnects == 1),
        "each moves once"
    );
    assert_eq!(
        (verdict.missing, verdict.foreign, verdict.misordered),
        (0, 0, 0),
        "{verdict:?}"
    );
    assert_eq!(new.terminate().await, Some(0));
}
