//! The upstream under a model hub, in virtual time, by a seed.
//!
//! Hub, transports, devices, faults and clocks are made up; token, connections, links and engine
//! are the gateway's own. Invariants are those of the promise: a receipt only for what the hub
//! accepted, in order, nothing lost, nobody sent away, all at rest once the faults are over.
//!
//! `SEEDS=50000 cargo test --release --test simulation` runs more of them, `SEED=17 … --nocapture`
//! one of them, with its story.

#![allow(clippy::disallowed_methods)] // tokio's clock is the simulation's own

mod chance;
mod device;
mod gateway;
mod hub;
mod ledger;
mod line;
mod mqtt;
mod plan;
mod session;
mod support;
mod wire;
mod world;

use plan::Plan;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::Figures;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

fn fails(plan: &Plan) -> bool {
    !world::run(plan, false).violations.is_empty()
}

#[test]
fn invariants_hold_for_every_seed() {
    if let Some(seed) = number("SEED") {
        let plan = Plan::of(seed);
        println!("{plan:#?}");
        let figures = world::run(&plan, true);
        for line in &figures.story {
            println!("{line}");
        }
        println!("{figures:?}");
        assert!(figures.violations.is_empty(), "{:#?}", figures.violations);
        return;
    }
    let seeds = number("SEEDS").unwrap_or(1_000);
    let (next, total) = (AtomicU64::new(0), Mutex::new(Figures::default()));
    let failed = Mutex::new(Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |count| count.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().expect("whole").len() >= 5 {
                        break;
                    }
                    let figures = world::run(&Plan::of(seed), false);
                    total.lock().expect("whole").add(&figures);
                    if !figures.violations.is_empty() {
                        failed
                            .lock()
                            .expect("whole")
                            .push((seed, figures.violations));
                    }
                }
            });
        }
    });
    let total = total.into_inner().expect("whole");
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds: {} virtual seconds in {took:.1} s ({:.0} times as fast), {} messages \
         ({} of them twice), {} commands, {} connections of devices, {} of them take-overs",
        total.seconds,
        total.seconds as f64 / took,
        total.messages,
        total.duplicates,
        total.commands,
        total.sessions,
        total.takeovers
    );
    let failed = failed.into_inner().expect("whole");
    for (seed, violations) in &failed {
        let small = plan::shrink(Plan::of(*seed), fails);
        println!("seed {seed}: {violations:#?}\nsmallest that fails: {small:?}");
        println!("again: SEED={seed} cargo test --test simulation -- --nocapture");
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 14, 159] {
        let plan = Plan::of(seed);
        let (first, second) = (world::run(&plan, true), world::run(&plan, true));
        assert_eq!(first, second, "seed {seed}");
    }
}
