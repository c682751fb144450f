//! The whole path: devices in this process, the gateway in its own, the hub emulator in its own.
//!
//! Each device sends one QoS 1 message of 256 bytes and waits for its PUBACK, again and again.
//! Printed is the processor time per message of each process, which a busy machine disturbs
//! little, and the time from PUBLISH to PUBACK, which it disturbs a lot.
//!
//! `cargo bench --bench gateway -- --devices 200 --seconds 10`

#[allow(dead_code)] // the device of the tests, of which this needs a part
#[path = "../tests/support/device.rs"]
mod device;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;
#[path = "support/rig.rs"]
mod rig;

use device::{Device, Transport, Who};
use iothub_gateway::auth::sas;
use iothub_gateway::runtime::clock::{mono, unix};
use rig::{HUB, Rig};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const PAYLOAD: [u8; 256] = [0x2e; 256];

/// What the command line asks for.
struct Options {
    devices: usize,
    warm_up: Duration,
    measured: Duration,
}

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().collect();
    // Without `--bench` it is `cargo test --benches`, which only wants to see it run.
    let full = arguments.iter().any(|argument| argument == "--bench");
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map_or(default, |text| text.parse().expect("a number"))
    };
    let seconds = number("--seconds", if full { 10 } else { 1 });
    Options {
        devices: number("--devices", if full { 200 } else { 5 }) as usize,
        warm_up: Duration::from_secs(if full { 2 } else { 1 }),
        measured: Duration::from_secs(seconds.max(1)),
    }
}

/// What the devices of one run share.
#[derive(Default)]
struct Tally {
    /// Messages acknowledged.
    messages: Cell<u64>,
    /// Time from PUBLISH to PUBACK, microseconds, while `open`.
    latencies: RefCell<Vec<u32>>,
    open: Cell<bool>,
    /// What ended a device's work; a run with one is no measurement.
    failed: RefCell<Option<String>>,
}

fn main() {
    let options = options();
    println!(
        "gateway: {} devices, window 1, QoS 1, 256 B, {} s",
        options.devices,
        options.measured.as_secs()
    );
    println!(
        "  {:<8} {:>8} {:>12} {:>13} {:>10} {:>9} {:>9}",
        "devices", "msg/s", "gateway µs", "emulator µs", "load µs", "p50 ms", "p99 ms"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for kind in ["plain", "psk"] {
        let rig = Rig::start(options.devices);
        let local = tokio::task::LocalSet::new();
        println!("{}", local.block_on(&runtime, run(kind, &rig, &options)));
    }
}

async fn run(kind: &str, rig: &Rig, options: &Options) -> String {
    let tally = Rc::new(Tally::default());
    for index in 0..options.devices {
        let (address, transport, who) = credentials(kind, rig, index);
        // One after the other: connecting is not what is measured here.
        let device = Device::connect(address, &transport, &who).await;
        tokio::task::spawn_local(publish(device, who.client_id, tally.clone()));
    }
    tokio::time::sleep(options.warm_up).await;
    let clocks = || {
        let times = [rig.gateway.cpu(), rig.emulator.cpu(), process::own_cpu()];
        (mono(), tally.messages.get(), times)
    };
    tally.open.set(true);
    let (start, sent, before) = clocks();
    tokio::time::sleep(options.measured).await;
    let (end, acknowledged, after) = clocks();
    tally.open.set(false);
    assert_eq!(tally.failed.take(), None, "a device failed");
    let messages = (acknowledged - sent) as f64;
    assert!(messages > 0.0, "no message was acknowledged");
    let micros = |at: usize| (after[at] - before[at]).as_secs_f64() * 1e6 / messages;
    let mut latencies = tally.latencies.take();
    latencies.sort_unstable();
    let quantile = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        f64::from(latencies.get(at).copied().unwrap_or(0)) / 1000.0
    };
    format!(
        "  {kind:<8} {:>8.0} {:>12.1} {:>13.1} {:>10.1} {:>9.2} {:>9.2}",
        messages / end.since(start).as_secs_f64(),
        micros(0),
        micros(1),
        micros(2),
        quantile(0.5),
        quantile(0.99),
    )
}

/// Where device `index` connects, how it secures its bytes, who it says it is.
fn credentials(kind: &str, rig: &Rig, index: usize) -> (SocketAddr, Transport, Who) {
    if kind == "psk" {
        let identity = format!("load-{index}");
        let who = Who::id(&identity);
        let transport = Transport::Psk {
            identity,
            key: rig::psk(index),
            tls13: true,
        };
        return (rig.psk, transport, who);
    }
    let id = format!("plain-{index}");
    let expires = unix() + Duration::from_secs(3600);
    let token = sas::mint(
        &format!("{HUB}/devices/{id}"),
        rig::DEVICE_KEY,
        expires,
        None,
    );
    let username = format!("{HUB}/{id}/?api-version=2021-04-12");
    (
        rig.plain,
        Transport::Plain,
        Who::login(&id, &username, &token),
    )
}

async fn publish(mut device: Device, id: String, tally: Rc<Tally>) {
    let topic = format!("devices/{id}/messages/events/");
    loop {
        let start = mono();
        if let Err(error) = device.publish(&topic, &PAYLOAD).await {
            *tally.failed.borrow_mut() = Some(format!("{id}: {error}"));
            return;
        }
        tally.messages.set(tally.messages.get() + 1);
        if tally.open.get() {
            let micros = mono().since(start).as_micros();
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            tally.latencies.borrow_mut().push(micros);
        }
    }
}
