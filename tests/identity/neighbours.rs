//! Bad devices at an address, and the good ones that share it.
//!
//! The sizes are those of a machine that runs all tests; the whole thing takes
//! `GOOD_DEVICES=10000 SECONDS=60 cargo test --release --test identity neighbours -- --nocapture`,
//! and the flood of names its full time `SECONDS=300` with the same command.

use crate::support::device::{Device, Transport, Who, open_from};
use crate::support::process::{Process, free_port};
use crate::support::{Bench, Options, amqps_port, fleet_key, gateway_toml, http, hub_in, scratch};
use crate::{PATIENCE, ended, psk, start};
use iothub_gateway::emulator::EmulatorHandle;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// A number of the environment, or this one.
fn size(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

/// A box with `good` devices that may reconnect as often as they like.
async fn fleet(name: &str, good: usize) -> Bench {
    let mut options = Options {
        fleet: good,
        ..Options::default()
    };
    options
        .gateway
        .push_str("[limits]\ntakeover_damping = \"0s\"\n");
    start(name, options).await
}

/// What the devices of a test share.
#[derive(Clone)]
struct Crowd {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Crowd {
    fn new(to: SocketAddr) -> Self {
        Self {
            to,
            stop: Arc::default(),
            served: Arc::default(),
            refused: Arc::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Connects, says goodbye, and comes again at once; the first refusal is the test's end.
    async fn good(self, index: usize, from: [u8; 4], pause: Duration) {
        let id = format!("load-{index}");
        let transport = psk(&id, &fleet_key(index), index.is_multiple_of(2));
        while self.goes_on() {
            let mut device = match connect(from, self.to, &transport, &id).await {
                Ok(device) => device,
                Err(error) => panic!("good device {index} was refused: {error}"),
            };
            device.disconnect().await;
            self.served.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
    }

    /// Tries as fast as it can with a key that is not its own.
    async fn bad(self, identity: String, tls13: bool) {
        let transport = psk(&identity, b"no device's key!", tls13);
        while self.goes_on() {
            let tried = connect([127, 0, 0, 1], self.to, &transport, &identity).await;
            assert!(tried.is_err(), "{identity} got in");
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets them at it, and gives how many connects were served and refused.
    async fn after(self, time: Duration, mut devices: JoinSet<()>) -> (u64, u64) {
        let failed = tokio::time::timeout(time, devices.join_next()).await;
        if let Ok(Some(Err(error))) = failed {
            panic!("{error}");
        }
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = devices.join_next().await {
            ended.expect("no good device is refused");
        }
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.served), load(&self.refused))
    }
}

async fn connect(
    from: [u8; 4],
    to: SocketAddr,
    transport: &Transport,
    id: &str,
) -> Result<Device, String> {
    let stream = open_from(from, to, transport).await;
    let stream = stream.map_err(|error| error.to_string())?;
    match Device::try_connect_over(stream, &Who::id(id)).await {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(code)) => Err(format!("{code:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_tried_for_ever_refuses_none_of_two_hundred_good_neighbours() {
    let bench = fleet("neighbours-wrong-key", 201).await;
    let crowd = Crowd::new(bench.mqtt());
    let mut devices = JoinSet::new();
    devices.spawn(crowd.clone().bad("load-200".to_owned(), true));
    for index in 0..200 {
        let good = crowd.clone().good(index, [127, 0, 0, 1], Duration::ZERO);
        devices.spawn(good);
    }
    let time = Duration::from_secs(size("SECONDS", 5));
    let (served, refused) = crowd.after(time, devices).await;
    println!("{served} good connects served, {refused} bad ones refused");
    assert!(served >= 200 && refused > 6, "{served} and {refused}");
    assert_eq!(ended(&bench, "throttled_source").await, 0.0);
    assert!(ended(&bench, "throttled_identity").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_unknown_devices_refuse_none_of_the_good_ones_behind_their_address() {
    let good = usize::try_from(size("GOOD_DEVICES", 600)).expect("a number");
    // A socket of each device at both ends is more than one process may hold.
    let alone = Alone::start("neighbours-unknown", good).await;
    let crowd = Crowd::new(alone.mqtt);
    let mut devices = JoinSet::new();
    for bad in 0..50_u32 {
        let identity = format!("unknown-{bad}");
        devices.spawn(crowd.clone().bad(identity, bad.is_multiple_of(2)));
    }
    // All at once: more than may be in a handshake at a time.
    for index in 0..good {
        let pause = Duration::from_millis(200);
        devices.spawn(crowd.clone().good(index, [127, 0, 0, 1], pause));
    }
    let time = Duration::from_secs(size("SECONDS", 8));
    let (served, refused) = crowd.after(time, devices).await;
    println!("{served} good connects served, {refused} bad ones refused");
    assert!(served as usize >= good, "{served} of {good}");
    assert!(refused > 50 * 6, "{refused}");
    let ended = "iothub_gateway_disconnects_total";
    let held_back = &["reason=\"throttled_identity\""];
    assert!(alone.metric(ended, held_back).await >= 1.0);
    let source = &["reason=\"throttled_source\""];
    assert_eq!(alone.metric(ended, source).await, 0.0);
}

/// A gateway in a process of its own, whose memory is nobody else's.
struct Alone {
    _gateway: Process,
    _hub: EmulatorHandle,
    mqtt: SocketAddr,
    admin: SocketAddr,
}

impl Alone {
    async fn start(name: &str, good: usize) -> Self {
        let mut options = Options {
            fleet: good,
            ..Options::default()
        };
        options
            .gateway
            .push_str("[limits]\ntakeover_damping = \"0s\"\n[log]\nfilter = \"warn\"\n");
        let dir = scratch(name);
        let hub = hub_in(&dir, &options).await;
        let ports = [free_port(), free_port(), free_port()];
        let text = gateway_toml(&options, amqps_port(&hub), ports[0], ports[1], ports[2]);
        let config = dir.join("gateway.toml");
        std::fs::write(&config, text).expect("written");
        let [mqtt, _, admin] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let alone = Self {
            _gateway: Process::start(&config),
            _hub: hub,
            mqtt,
            admin,
        };
        let up = async {
            while alone.status().await != 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.expect("ready");
        alone
    }

    async fn status(&self) -> u16 {
        let admin = self.admin;
        let ask = move || match std::net::TcpStream::connect(admin) {
            Ok(_) => http::request(admin, "GET", "/ready", "").0,
            Err(_) => 0,
        };
        tokio::task::spawn_blocking(ask).await.expect("asked")
    }

    async fn metric(&self, name: &'static str, labels: &'static [&'static str]) -> f64 {
        let admin = self.admin;
        let ask = move || http::metric(&http::get(admin, "/metrics"), name, labels);
        tokio::task::spawn_blocking(ask).await.expect("asked")
    }
}

/// 10,000 names a minute from 1,000 addresses.
async fn flood(crowd: Crowd) {
    let mut tries = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_millis(6));
    for name in 0_u32.. {
        if !crowd.goes_on() {
            break;
        }
        pace.tick().await;
        while tries.len() >= 100 {
            let _ = tries.join_next().await;
        }
        let address = name % 1_000;
        let from = [127, 9, (address / 250) as u8, 1 + (address % 250) as u8];
        let (to, refused) = (crowd.to, crowd.refused.clone());
        tries.spawn(async move {
            let identity = format!("name-{name}");
            let transport = psk(&identity, b"no device's key!", name.is_multiple_of(2));
            let tried = connect(from, to, &transport, &identity).await;
            assert!(tried.is_err(), "{identity} got in");
            refused.fetch_add(1, Ordering::Relaxed);
        });
    }
    while let Some(tried) = tries.join_next().await {
        tried.expect("refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_names_leaves_memory_flat_and_every_good_device_served() {
    const RESIDENT: &str = "process_resident_memory_bytes";
    let alone = Alone::start("neighbours-names", 40).await;
    let crowd = Crowd::new(alone.mqtt);
    let mut devices = JoinSet::new();
    for index in 0..40 {
        // They share twenty addresses with the flood.
        let from = [127, 9, 0, 1 + (index % 20) as u8];
        let pause = Duration::from_millis(100);
        devices.spawn(crowd.clone().good(index, from, pause));
    }
    devices.spawn(flood(crowd.clone()));
    let time = Duration::from_secs(size("SECONDS", 8));
    tokio::time::sleep(time / 4).await;
    let before = alone.metric(RESIDENT, &[]).await;
    let (served, refused) = crowd.after(time / 4 * 3, devices).await;
    let after = alone.metric(RESIDENT, &[]).await;
    println!("{served} served, {refused} refused; {before} → {after} bytes");
    assert!(served >= 40 && refused >= 200, "{served} and {refused}");
    assert!(
        after < before + 16.0 * 1024.0 * 1024.0,
        "{before} → {after}"
    );
    let disconnects = "iothub_gateway_disconnects_total";
    assert_eq!(alone.metric(disconnects, &["throttled_source"]).await, 0.0);
}
