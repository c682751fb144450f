//! The gateway as a process of its own, and ports for it.
#![allow(dead_code)] // each test binary uses its part

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A port nobody listens on, below those that connections get by themselves: a port of that
/// range may be some client's by the time a process binds it. Each is handed out once.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    // two test binaries side by side begin far apart
    let begin = std::process::id().wrapping_mul(997);
    loop {
        let drawn = begin.wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + drawn % PORTS.len() as u32) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Sends `name`, e.g. `TERM`.
pub fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(sent.expect("kill runs").success());
}

/// A gateway that does not outlive the test.
pub struct Process(pub Child);

impl Process {
    pub fn start(config: &Path) -> Self {
        Self::logging(config, Stdio::null())
    }

    /// With its log going to `log`.
    pub fn logging(config: &Path, log: Stdio) -> Self {
        Self::logging_as(config, log, "IGNORED", "")
    }

    /// With a variable in its environment, too.
    pub fn logging_as(config: &Path, log: Stdio, variable: &str, value: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .args(["run", "-c"])
            .arg(config)
            .env(variable, value)
            .stderr(log)
            .spawn();
        Self(child.expect("the binary starts"))
    }

    pub fn kill(&mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("reaped");
    }

    /// SIGTERM; the exit status, within the cap.
    pub async fn terminate(self) -> Option<i32> {
        signal(&self.0, "TERM");
        let ended = tokio::time::timeout(Duration::from_secs(30), self.ended()).await;
        ended.expect("SIGTERM ends it")
    }

    /// The exit status, whenever it comes.
    pub async fn ended(mut self) -> Option<i32> {
        let ended = tokio::task::spawn_blocking(move || self.0.wait().expect("reaped").code());
        ended.await.expect("joined")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
