//! Identities while the gateway runs: changed, rotated, revoked, ended, guessed at.

#[path = "../support/mod.rs"]
mod support;

mod listeners;
mod neighbours;
mod reload;
mod revocation;
mod rotation;
mod sas;
mod signal;
mod throttle;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use support::Bench;
use support::device::{Device, Transport};

/// How long anything that has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A PSK device's transport.
pub fn psk(identity: &str, key: &[u8], tls13: bool) -> Transport {
    Transport::Psk {
        identity: identity.to_owned(),
        key: key.to_vec(),
        tls13,
    }
}

/// Replaces a file as operators should: written aside, then renamed.
pub fn replace(path: &Path, text: &str) {
    let aside = path.with_extension("aside");
    support::secret(&aside, text);
    fs::rename(aside, path).expect("renamed");
}

/// Replaces the first `from` in a file.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("readable");
    assert!(text.contains(from), "{from:?} in {}", path.display());
    replace(path, &text.replacen(from, to, 1));
}

/// `config_reloads_total{result}`.
pub async fn reloads(bench: &Bench, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    bench.metric("config_reloads_total", &[&label]).await
}

/// `disconnects_total{reason}`.
pub async fn ended(bench: &Bench, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    bench.metric("disconnects_total", &[&label]).await
}

/// Waits until the counter of reloads has reached `count`.
pub async fn reloaded(bench: &Bench, result: &str, count: f64) {
    let reached = async {
        while reloads(bench, result).await < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reached).await;
    assert!(in_time.is_ok(), "{result} reloads: {}", log_text());
}

/// Waits until `count` connections were counted as ended for `reason`: a little after the device
/// has seen it, because the gateway waits for the device's own close.
pub async fn counted(bench: &Bench, reason: &str, count: f64) {
    let reached = async {
        while ended(bench, reason).await < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reached).await;
    assert!(in_time.is_ok(), "{reason}: {}", bench.metrics().await);
    assert_eq!(ended(bench, reason).await, count);
}

/// Waits for the end of a device's connection.
pub async fn closed(device: &mut Device) {
    let end = async { while device.receive().await.is_ok() {} };
    let in_time = tokio::time::timeout(PATIENCE, end).await;
    assert!(in_time.is_ok(), "the connection ends");
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().expect("no test panics while it logs")
}

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts a box whose log can be read with [`log_text`], together with those of other tests.
pub async fn start(name: &str, options: support::Options) -> Bench {
    static SET: OnceLock<()> = OnceLock::new();
    SET.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(|| ToLog)
            .with_ansi(false);
        subscriber.with_max_level(tracing::Level::INFO).init();
    });
    Bench::start(name, options).await
}

/// All that was logged by all tests so far.
pub fn log_text() -> String {
    String::from_utf8_lossy(&log()).into_owned()
}

/// A line of the log that holds all of `texts`.
pub fn logged(texts: &[&str]) -> bool {
    let log = log_text();
    log.lines()
        .any(|line| texts.iter().all(|text| line.contains(text)))
}
