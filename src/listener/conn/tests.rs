//! One connection, driven from outside: an in-memory socket and a hub that the test plays.

mod bench;
mod downlink;
mod end;
mod receipt;
mod refused;
mod reserved;
mod traced;
mod uplink;

use super::{Conn, serve};
use crate::hub::DeviceLinks;

fn future_bytes<A, F: Future>(_: impl Fn(A) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_device_costs_little() {
    let future = future_bytes(serve::<DeviceLinks>);
    let state = size_of::<Conn<DeviceLinks>>();
    assert!(future < 1024, "the task's future has {future} bytes");
    assert!(state < 1280, "the connection has {state} bytes");
}
