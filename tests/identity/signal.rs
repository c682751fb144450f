//! SIGHUP, to the gateway as a process.

use crate::PATIENCE;
use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::{Options, amqps_port, gateway_toml, http, hub_in, scratch};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEVICES: usize = 10;

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

fn hang_up(gateway: &Child) {
    let pid = gateway.id().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status();
    assert!(sent.expect("kill runs").success());
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    let gateway = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
        .args(["run", "-c"])
        .arg(&config)
        .stderr(Stdio::from(fs::File::create(&log).expect("log file")))
        .spawn();
    let gateway = Running(gateway.expect("the binary starts"));
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
        hang_up(&gateway.0);
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
        said(&["WARN", "restart", "hub.token_ttl"])
    })
    .await;
    fs::write(&config, text.replace("token_ttl", "token_tll")).expect("written");
    until("the mistake is named", || {
        said(&["ERROR", "gateway.toml:", "token_tll"])
    })
    .await;
    assert!(said(&["SIGHUP", "reloaded"]));
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    let lost = (verdict.missing, verdict.foreign, verdict.misordered);
    assert_eq!(lost, (0, 0, 0), "{verdict:?}");
}
