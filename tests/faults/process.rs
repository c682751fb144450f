//! The gateway as a process: killed and stopped under load, again and again.

use crate::full;
use crate::stage::shared;
use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::process::{Process, free_port};
use crate::support::{Options, amqps_port, gateway_toml, hub_in, scratch};
use std::net::SocketAddr;

const DEVICES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_after_kill_and_stop_after_stop_lose_nothing_acknowledged() {
    let _turn = shared().await;
    let cycles = if full() { 20 } else { 3 };
    let options = Options {
        fleet: DEVICES,
        gateway: "[shutdown]\nannounce = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let dir = scratch("cycles");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqps_port(&emulator), mqtt, plain, admin);
    std::fs::write(&config, text).expect("written");

    let mut gateway = Process::start(&config);
    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), DEVICES);
    for _ in 0..cycles {
        fleet.flows(3 * DEVICES as u64).await;
        gateway.kill();
        gateway = Process::start(&config);
    }
    for cycle in 0..cycles {
        fleet.flows(3 * DEVICES as u64).await;
        assert_eq!(gateway.terminate().await, Some(0), "SIGTERM no. {cycle}");
        gateway = Process::start(&config);
    }
    fleet.flows(DEVICES as u64).await;
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    println!("{cycles} SIGKILL, {cycles} SIGTERM: {verdict:?}");
    let wrong = (verdict.missing, verdict.foreign, verdict.misordered);
    assert_eq!(wrong, (0, 0, 0), "{verdict:?}");
    // Each device had one message in its hand whenever it lost its gateway.
    let lost: u64 = seen.values().map(|seen| seen.reconnects).sum();
    assert!(
        verdict.duplicate <= lost,
        "{verdict:?}, {lost} connections lost"
    );
}
