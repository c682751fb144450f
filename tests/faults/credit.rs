//! The hub grants no credit for a while: the devices' sockets fill, the gateway's memory does not.

use crate::crew::WINDOW;
use crate::full;
use crate::stage::{Damage, Stage, USABLE, alone, resident};
use crate::support::Options;
use iothub_gateway::emulator::{Fault, FaultKind};
use std::time::Duration;
use tokio::time::sleep;

const DEVICES: usize = 100;
const PACE: Duration = Duration::from_millis(200);
/// Growth of the process: gateway, hub, devices and their books together, bytes.
const GROWTH_MAX: u64 = 16 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credit_for_a_while_grows_nothing_and_loses_nothing() {
    let _turn = alone().await;
    let mut stage = Stage::set("credit", DEVICES, Options::default()).await;
    stage.crew.pace(Some(PACE));
    sleep(Duration::from_secs(3)).await; // what load itself costs is there
    let lasting = Duration::from_secs(if full() { 30 } else { 10 });
    stage
        .bench
        .emulator
        .inject(&Fault::new(FaultKind::CreditZero))
        .expect("injected");
    sleep(Duration::from_secs(1)).await;
    let (before, held) = (resident(), stage.crew.acknowledged());
    sleep(lasting).await;
    let grown = resident().saturating_sub(before);
    assert_eq!(
        stage.crew.acknowledged(),
        held,
        "no PUBACK without acceptance"
    );
    assert_eq!(
        stage.crew.in_flight(),
        (DEVICES * WINDOW) as u64,
        "every device waits"
    );
    stage.bench.emulator.clear_faults();
    let usable = stage.crew.probe(USABLE).await.expect("all devices work");
    println!(
        "no credit for {lasting:?}: grew by {} KiB, usable after {usable:?}",
        grown / 1024
    );
    assert!(grown <= GROWTH_MAX, "grew by {grown} bytes");
    stage.crew.rest(USABLE).await.expect("rest");
    assert_eq!(stage.damage().await, Damage::default());
    stage.crew.leave().await;
}
