//! The gateway as a process: killed and stopped under load, again and again.

use crate::full;
use crate::stage::shared;
use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::{Options, amqps_port, gateway_toml, hub_in, scratch};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEVICES: usize = 50;

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

/// A gateway that does not outlive the test.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .args(["run", "-c"])
            .arg(config)
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the binary starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("reaped");
    }

    /// SIGTERM; the exit status, within the cap.
    async fn terminate(mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        let ended = tokio::task::spawn_blocking(move || self.0.wait().expect("reaped").code());
        let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
        ended.expect("SIGTERM ends it").expect("joined")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
async fn kill_after_kill_and_stop_after_stop_lose_nothing_acknowledged() {
    let _turn = shared().await;
    let cycles = if full() { 20 } else { 3 };
    let options = Options {
        fleet: DEVICES,
        gateway: "[shutdown]\nannounce = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let dir = scratch("cycles");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqps_port(&emulator), mqtt, plain, admin);
    std::fs::write(&config, text).expect("written");

    let mut gateway = Process::start(&config);
    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), DEVICES);
    for _ in 0..cycles {
        more(&fleet, 3 * DEVICES as u64).await;
        gateway.kill();
        gateway = Process::start(&config);
    }
    for cycle in 0..cycles {
        more(&fleet, 3 * DEVICES as u64).await;
        assert_eq!(gateway.terminate().await, Some(0), "SIGTERM no. {cycle}");
        gateway = Process::start(&config);
    }
    more(&fleet, DEVICES as u64).await;
    let seen = fleet.finish().await;
    let verdict = judge(&ledger(&emulator), &seen);
    println!("{cycles} SIGKILL, {cycles} SIGTERM: {verdict:?}");
    let wrong = (verdict.missing, verdict.foreign, verdict.misordered);
    assert_eq!(wrong, (0, 0, 0), "{verdict:?}");
    // Each device had one message in its hand whenever it lost its gateway.
    let lost: u64 = seen.values().map(|seen| seen.reconnects).sum();
    assert!(
        verdict.duplicate <= lost,
        "{verdict:?}, {lost} connections lost"
    );
}
