//! How the gateway stops: in named phases, without losing anything, or at once when told twice.
//! And how it opens, against packets recorded from the service.

mod encoding;
mod recorded;
#[path = "../support/mod.rs"]
mod support;

use iothub_gateway::runtime::phase::Phase;
use std::time::Duration;
use support::device::{Device, Who};
use support::fleet::{Fleet, judge, ledger};
use support::process::{Process, free_port, signal};
use support::{Bench, Options, amqps_port, gateway_toml, hub_in, scratch};
use tokio::time::timeout;

const DEVICES: usize = 50;
const SHUTDOWN: &str = "[shutdown]\nannounce = \"1s\"\nsettle = \"5s\"\nclose = \"4s\"\n";

/// Waits until every device has had messages acknowledged.
async fn flowing(fleet: &Fleet) {
    let flowing = timeout(Duration::from_secs(60), async {
        while fleet.acknowledged() < 5 * DEVICES as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    flowing.await.expect("messages flow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_walks_its_phases_and_loses_nothing() {
    let options = Options {
        fleet: DEVICES,
        gateway: SHUTDOWN.to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("phases", options).await;
    let fleet = Fleet::start(bench.mqtt(), DEVICES);
    flowing(&fleet).await;
    let admin = bench.gateway.admin();
    let mut phase = bench.gateway.phase();
    assert_eq!(*phase.borrow(), Phase::Ready);
    let before = fleet.acknowledged();
    let watching = tokio::spawn(async move {
        let mut walked = Vec::new();
        let mut ready = None;
        while phase.changed().await.is_ok() {
            let now = *phase.borrow_and_update();
            walked.push(now);
            if now == Phase::NotReady {
                let get = move || support::http::request(admin, "GET", "/ready", "").0;
                ready = tokio::task::spawn_blocking(get).await.ok();
            }
        }
        (walked, ready)
    });
    let metrics = bench.gateway.metrics().clone();
    let Bench {
        gateway, emulator, ..
    } = bench;
    let clean = timeout(Duration::from_secs(10 + 5), gateway.stop()).await;
    assert!(clean.expect("within the three times together"), "clean");
    let (walked, ready) = watching.await.expect("watched");
    let expected = [
        Phase::NotReady,
        Phase::Draining,
        Phase::Closing,
        Phase::Stopped,
    ];
    assert_eq!(walked, expected);
    assert_eq!(
        ready,
        Some(503),
        "a load balancer is told before anything closes"
    );
    let served = fleet.acknowledged();
    assert!(served > before, "devices are served while it is announced");
    assert_eq!(metrics.panics.get(), 0);
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    assert_eq!(
        (verdict.missing, verdict.foreign, verdict.misordered),
        (0, 0, 0),
        "{verdict:?}"
    );
    assert_eq!(
        verdict.duplicate, 0,
        "what was in flight was settled: {verdict:?}"
    );
    let stats = emulator.stats();
    assert_eq!(
        (stats.connections, stats.links),
        (0, 0),
        "closed in form: {stats:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_the_device_has_not_acknowledged_goes_back_to_the_hub() {
    let options = Options {
        gateway: SHUTDOWN
            .to_owned()
            .replace("settle = \"5s\"", "settle = \"1s\""),
        fleet: 1,
        ..Options::default()
    };
    let bench = Bench::start("release", options).await;
    let transport = support::device::Transport::Psk {
        identity: "load-0".to_owned(),
        key: support::fleet_key(0),
        tls13: true,
    };
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("load-0")).await;
    let qos = mqttbytes::QoS::AtLeastOnce;
    let filter = "devices/load-0/messages/devicebound/#";
    assert!(device.subscribe(filter, qos).await.expect("subscribed"));
    let (status, _) = bench
        .control("POST", "/devices/load-0/commands", "open")
        .await;
    assert!(status < 300, "{status}");
    // Read, and not acknowledged.
    match device.receive().await.expect("the command") {
        mqttbytes::v4::Packet::Publish(command) => assert_eq!(&command.payload[..], b"open"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.emulator.stats().commands_delivered, 1);
    let Bench {
        gateway, emulator, ..
    } = bench;
    let held = tokio::spawn(async move { while device.receive().await.is_ok() {} });
    let clean = timeout(Duration::from_secs(10), gateway.stop()).await;
    assert!(clean.expect("in time"), "clean");
    held.await.expect("the device was closed");
    let stats = emulator.stats();
    assert_eq!(stats.commands_completed, 0, "{stats:?}");
    assert_eq!(
        stats.commands_abandoned, 1,
        "given back, not left to its lock: {stats:?}"
    );
}

/// Waits until the admin port answers `/ready` with `status`.
async fn answers(admin: u16, status: u16) {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], admin));
    let wait = timeout(Duration::from_secs(30), async {
        loop {
            let open = tokio::net::TcpStream::connect(address).await.is_ok();
            if open {
                let get = move || support::http::request(address, "GET", "/ready", "").0;
                if tokio::task::spawn_blocking(get).await.ok() == Some(status) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    wait.await.expect("/ready in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signal_ends_in_0_and_a_second_one_ends_it_at_once() {
    let options = Options {
        gateway: "[shutdown]\nannounce = \"4s\"\nsettle = \"1s\"\nclose = \"2s\"\n".to_owned(),
        ..Options::default()
    };
    let dir = scratch("signals");
    let emulator = hub_in(&dir, &options).await;
    for (signals, code) in [(1, 0), (2, 1)] {
        let admin = free_port();
        let config = dir.join("gateway.toml");
        let text = gateway_toml(
            &options,
            amqps_port(&emulator),
            free_port(),
            free_port(),
            admin,
        );
        std::fs::write(&config, text).expect("written");
        let gateway = Process::start(&config);
        answers(admin, 200).await;
        signal(&gateway.0, "TERM");
        answers(admin, 503).await;
        if signals == 2 {
            // Signals within half a second are one, for supervisors that signal twice.
            tokio::time::sleep(Duration::from_millis(700)).await;
            signal(&gateway.0, "TERM");
        }
        // What is left of the announcement alone takes longer than a second signal may.
        let allowed = Duration::from_millis(if signals == 2 { 1500 } else { 10_000 });
        let status = timeout(allowed, gateway.ended()).await.expect("in time");
        assert_eq!(status, Some(code), "{signals} signals");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_before_there_is_a_hub_it_opens_no_listener() {
    let options = Options {
        // Longer than devices wait for a hub's first word (10 s).
        gateway: "[shutdown]\nannounce = \"12s\"".to_owned(),
        ..Options::default()
    };
    let dir = scratch("no-hub");
    let emulator = hub_in(&dir, &options).await;
    let closed = amqps_port(&emulator);
    emulator.stop().await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, closed, mqtt, plain, admin);
    std::fs::write(&config, text).expect("written");
    let log = dir.join("log");
    let file = std::fs::File::create(&log).expect("log file");
    let gateway = Process::logging(&config, file.into());
    answers(admin, 503).await;
    signal(&gateway.0, "TERM");
    let ended = timeout(Duration::from_secs(30), gateway.ended()).await;
    assert_eq!(ended.expect("it ends"), Some(0));
    let said = std::fs::read_to_string(&log).expect("log");
    assert!(!said.contains("accepting devices"), "{said}");
}
