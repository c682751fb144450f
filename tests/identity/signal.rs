//! SIGHUP, to the gateway as a process.

use crate::PATIENCE;
use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::process::{Process, free_port, signal};
use crate::support::{Options, amqps_port, gateway_toml, http, hub_in, scratch};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const DEVICES: usize = 10;

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waiting = async {
        while !tokio::task::block_in_place(&mut reached) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(in_time.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sighups_reloads_a_few_times_and_disturbs_nobody() {
    let options = Options {
        fleet: DEVICES,
        ..Options::default()
    };
    let dir = scratch("sighup");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqps_port(&emulator), mqtt, plain, admin);
    fs::write(&config, &text).expect("written");
    let log = dir.join("log");
    let file = fs::File::create(&log).expect("log file");
    let gateway = Process::logging(&config, Stdio::from(file));
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    let count = |name: &str, label: &str| {
        let labels: &[&str] = if label.is_empty() { &[] } else { &[label] };
        let name = format!("iothub_gateway_{name}");
        http::metric(&http::get(admin, "/metrics"), &name, labels)
    };
    let ok = || count("config_reloads_total", "result=\"ok\"");
    let is_up = || std::net::TcpStream::connect(admin).is_ok();
    until("the gateway is up", is_up).await;

    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), DEVICES);
    until("messages flow", || fleet.acknowledged() > 50).await;
    for _ in 0..30 {
        signal(&gateway.0, "HUP");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the storm is over", || ok() >= 2.0).await;
    assert!(ok() <= 30.0, "{} reloads", ok());
    let mark = fleet.acknowledged();
    until("messages still flow", || fleet.acknowledged() > mark + 50).await;
    assert_eq!(count("disconnects_total", ""), 0.0);
    assert_eq!(count("config_reloads_total", "result=\"failed\""), 0.0);

    // A key of the file itself is named, not taken over, and a mistake in it is refused.
    fs::write(
        &config,
        text.replace("token_ttl = \"1h\"", "token_ttl = \"2h\""),
    )
    .expect("written");
    let said = |words: &[&str]| {
        let log = fs::read_to_string(&log).expect("log");
        log.lines()
            .any(|line| words.iter().all(|w| line.contains(w)))
    };
    until("the key is named", || {
        said(&["level=warn", "restart", "hub.token_ttl"])
    })
    .await;
    fs::write(&config, text.replace("token_ttl", "token_tll")).expect("written");
    until("the mistake is named", || {
        said(&["level=error", "gateway.toml:", "token_tll"])
    })
    .await;
    assert!(said(&["SIGHUP", "reloaded"]));
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    let lost = (verdict.missing, verdict.foreign, verdict.misordered);
    assert_eq!(lost, (0, 0, 0), "{verdict:?}");
}

/// A pipe where a file was is named at once; one that is opened all the same, by a part that does
/// not ask, does not keep the process from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipes_in_place_of_files_hold_up_neither_a_reload_nor_the_end() {
    let options = Options::default();
    let dir = scratch("pipes");
    drop(hub_in(&dir, &options).await);
    // A hub that takes connections and ends them, so that the next attempt always comes.
    let hub = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let hub = hub.expect("bound");
    let amqp = hub.local_addr().expect("an address").port();
    let attempts = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = hub.accept().await {
            drop(socket);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqp, mqtt, plain, admin);
    fs::write(&config, &text).expect("written");
    let log = dir.join("log");
    let file = fs::File::create(&log).expect("log file");
    let gateway = Process::logging(&config, Stdio::from(file));
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    let is_up = || std::net::TcpStream::connect(admin).is_ok();
    until("the gateway is up", is_up).await;
    // The first reload: from here on SIGHUP is heard.
    let rules = fs::read_to_string(dir.join("rules.toml")).expect("rules");
    fs::write(dir.join("rules.toml"), rules + "# changed\n").expect("written");
    let reloaded = || {
        fs::read_to_string(&log)
            .expect("log")
            .contains("msg=\"reloaded\"")
    };
    until("files are watched", reloaded).await;
    let pipe = |name: &str| {
        let path = dir.join(name);
        let kept = dir.join("kept");
        fs::rename(&path, &kept).expect("moved away");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        (path, kept)
    };
    for name in ["rules.toml", "fleet.psk", "device-ca.pem", "gateway.toml"] {
        let (path, kept) = pipe(name);
        signal(&gateway.0, "HUP");
        until(name, || {
            let log = fs::read_to_string(&log).expect("log");
            let words = ["level=error", name, "is no regular file"];
            log.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
        fs::rename(kept, path).expect("moved back");
    }
    pipe("ca.pem");
    let before = attempts.load(Ordering::Relaxed);
    until("the hub is tried again", || {
        attempts.load(Ordering::Relaxed) > before
    })
    .await;
    assert!(gateway.terminate().await.is_some(), "ended by itself");
}
