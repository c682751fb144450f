//! The hub takes no tokens until the old one has ended, or takes no connections for a minute.

use crate::full;
use crate::stage::{Damage, Stage, USABLE, shared};
use crate::support::Options;
use iothub_gateway::emulator::{Fault, FaultKind};
use std::time::Duration;
use tokio::time::sleep;

const DEVICES: usize = 100;
const PACE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ends_while_cbs_is_down_costs_no_device() {
    let _turn = shared().await;
    let options = Options {
        token_ttl: "6s",
        emulator: "[limits]\ntoken_skew = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let mut stage = Stage::set("cbs-down", DEVICES, options).await;
    stage.crew.pace(Some(PACE));
    stage
        .bench
        .emulator
        .inject(&Fault::new(FaultKind::CbsStatus).with("500"))
        .expect("injected");
    let down = Duration::from_secs(14); // more than twice the token's life
    sleep(down).await;
    assert!(!stage.ready().await, "/ready says what is the matter");
    let stats = stage.bench.emulator.stats();
    assert!(stats.detaches_token > 0, "the token did end");
    // Two connections, pauses of half a second to a second after the first few attempts.
    let bound = 2 * 4 * down.as_secs();
    assert!(
        stats.tokens_refused <= bound,
        "{} attempts",
        stats.tokens_refused
    );
    let held = stage.crew.acknowledged();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        stage.crew.acknowledged(),
        held,
        "no PUBACK without acceptance"
    );

    stage.bench.emulator.clear_faults();
    let usable = stage.crew.probe(USABLE).await.expect("all devices work");
    println!(
        "CBS down for {down:?}: {} attempts, usable after {usable:?}",
        stats.tokens_refused
    );
    stage.crew.rest(USABLE).await.expect("rest");
    let damage = stage.damage().await;
    assert_eq!(damage, Damage::harmless(&damage));
    stage.crew.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_refuses_connections_costs_no_device() {
    let _turn = shared().await;
    let mut stage = Stage::set("refused", DEVICES, Options::default()).await;
    stage.crew.pace(Some(PACE));
    let down = Duration::from_secs(if full() { 60 } else { 10 });
    let emulator = &stage.bench.emulator;
    let before = emulator.stats().connections_fault;
    emulator
        .inject(&Fault::new(FaultKind::RefuseConnections))
        .expect("injected");
    emulator
        .inject(&Fault::new(FaultKind::KillTcp))
        .expect("injected");
    sleep(down).await;
    assert!(!stage.ready().await, "/ready says what is the matter");
    let attempts = stage.bench.emulator.stats().connections_fault - before;
    assert!(
        attempts <= 2 * (8 + 2 * down.as_secs()),
        "{attempts} attempts in {down:?}"
    );
    stage.bench.emulator.clear_faults();
    let usable = stage.crew.probe(USABLE).await.expect("all devices work");
    println!("refused for {down:?}: {attempts} attempts, usable after {usable:?}");
    stage.crew.rest(USABLE).await.expect("rest");
    let damage = stage.damage().await;
    assert_eq!(damage, Damage::harmless(&damage));
    stage.crew.leave().await;
}

impl Damage {
    /// What an outage may do: lose hub connections, and have messages come twice that were in
    /// flight when it began.
    pub fn harmless(of: &Self) -> Self {
        let mut harmless = Self {
            reconnects: of.reconnects,
            ..Self::default()
        };
        harmless.verdict.duplicate = of.verdict.duplicate.min(4 * DEVICES as u64);
        harmless
    }
}
