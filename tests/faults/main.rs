//! Faults between gateway and hub, under the eyes of devices that must not notice. `cargo test`
//! runs a choice; everything: `FAULT_MATRIX=full cargo test --release --test faults -- --nocapture`.

#[path = "../support/mod.rs"]
mod support;

mod cell;
mod credit;
mod crew;
mod devices;
mod mass;
mod matrix;
mod outages;
mod process;
mod renewals;
mod rotation;
mod rows;
mod stage;

/// Whether everything was asked for.
fn full() -> bool {
    std::env::var("FAULT_MATRIX").is_ok_and(|value| value == "full")
}
