//! The gateway as a process: killed under load, stopped by a signal.

use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::{Options, gateway_toml, hub_in, scratch};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEVICES: usize = 50;

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

fn spawn(config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
        .args(["run", "-c"])
        .arg(config)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

async fn more(fleet: &Fleet, messages: u64) {
    let goal = fleet.acknowledged() + messages;
    let flowing = tokio::time::timeout(Duration::from_secs(60), async {
        while fleet.acknowledged() < goal {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    flowing.await.expect("messages flow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_or_stopped_under_load() {
    let options = Options {
        fleet: DEVICES,
        ..Options::default()
    };
    let dir = scratch("killed");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(
        &options,
        crate::support::amqps_port(&emulator),
        mqtt,
        plain,
        admin,
    );
    std::fs::write(&config, text).expect("written");

    let mut gateway = spawn(&config);
    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), DEVICES);
    for _ in 0..3 {
        more(&fleet, 5 * DEVICES as u64).await;
        gateway.kill().expect("SIGKILL");
        gateway.wait().expect("reaped");
        gateway = spawn(&config);
    }
    more(&fleet, 5 * DEVICES as u64).await;
    let pid = gateway.id().to_string();
    let sent = Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .expect("kill runs");
    assert!(sent.success());
    let ended = tokio::task::spawn_blocking(move || gateway.wait().expect("reaped"));
    let status = tokio::time::timeout(Duration::from_secs(30), ended).await;
    assert_eq!(
        status.expect("SIGTERM ends it").expect("joined").code(),
        Some(0)
    );

    let mut gateway = spawn(&config);
    more(&fleet, DEVICES as u64).await;
    let seen = fleet.finish().await;
    gateway.kill().expect("SIGKILL");
    gateway.wait().expect("reaped");
    let verdict = judge(&ledger(&emulator), &seen);
    assert_eq!(
        (verdict.missing, verdict.foreign, verdict.misordered),
        (0, 0, 0),
        "{verdict:?}"
    );
}
