//! Devices that proved themselves, as the benches make them.

#[path = "../../benches/support/fleet.rs"]
#[allow(dead_code)] // the benches use more of it
pub mod fleet;
