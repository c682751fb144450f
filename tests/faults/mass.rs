//! Every hub connection is reset at once under thousands of devices: the links come back paced.

use crate::full;
use crate::stage::{Stage, USABLE, alone};
use crate::support::Options;
use iothub_gateway::emulator::{Fault, FaultKind};
use iothub_gateway::runtime::clock;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Attaches a second the gateway allows itself; the hub refuses more than `HUB_RATE`.
const RATE: u64 = 90;
const HUB_RATE: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_come_back_paced_after_a_mass_reset_and_active_devices_first() {
    let _turn = alone().await;
    let devices = if full() { 5_000 } else { 400 };
    let options = Options {
        // Room for all of them on the two connections.
        hub: format!("attach_rate = \"{RATE}/s\"\nmax_devices_per_connection = 2500\n"),
        emulator: format!("[limits]\nattach_rate = \"{HUB_RATE}/s\"\n"),
        ..Options::default()
    };
    let stage = Stage::set("mass", devices, options).await;
    let links = stage.bench.emulator.stats().links;
    assert!(links >= devices as u64, "{links}");
    let attached = stage.bench.emulator.stats().attaches;
    stage
        .bench
        .emulator
        .inject(&Fault::new(FaultKind::KillTcp))
        .expect("injected");
    // Links with a message waiting and idle command links ask at the same time.
    let began = clock::mono();
    let active = Duration::from_secs((devices as u64).div_ceil(RATE)) + USABLE;
    let served = stage.crew.probe(active).await;
    let served = served.expect("active devices come first");
    let back = async {
        while stage.bench.emulator.stats().attaches < attached + links {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let allowed = Duration::from_secs(links.div_ceil(RATE)) + USABLE;
    let left = allowed.saturating_sub(clock::mono().since(began));
    timeout(left, back)
        .await
        .expect("all links are back in time");
    println!(
        "{links} links back after {:?} ({allowed:?} allowed), {devices} active devices served \
         after {served:?} ({active:?} allowed)",
        clock::mono().since(began)
    );
    let stats = stage.bench.emulator.stats();
    assert_eq!(
        stats.throttled_attaches, 0,
        "never above the rate, by the hub's own count"
    );
    stage.crew.leave().await;
}
