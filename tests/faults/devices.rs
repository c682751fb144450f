//! A device is deleted or disabled at the hub: it alone is closed, for the right reason.

use crate::stage::{Stage, USABLE, shared};
use crate::support::Options;
use std::time::Duration;
use tokio::time::sleep;

const DEVICES: usize = 50;
const PACE: Duration = Duration::from_millis(100);

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or_default()
}

impl Stage {
    async fn call(&self, method: &'static str, path: &str, body: &str) {
        let (status, text) = self.bench.control(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {text}");
    }

    /// Median latency of the neighbours over two seconds.
    async fn pulse(&self) -> Duration {
        self.crew.latencies();
        sleep(Duration::from_secs(2)).await;
        median(
            self.crew
                .latencies()
                .into_iter()
                .map(|(_, latency)| latency)
                .collect(),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_or_disabled_device_is_closed_alone() {
    let _turn = shared().await;
    let stage = Stage::set("devices", DEVICES, Options::default()).await;
    stage.crew.pace(Some(PACE));
    let before = stage.pulse().await;
    stage.call("DELETE", "/devices/load-1", "").await;
    stage
        .call("PUT", "/devices/load-2", r#"{"status":"disabled"}"#)
        .await;
    let gone = ["reason=\"gone_device_not_found\""];
    stage.bench.reaches("disconnects_total", &gone, 1.0).await;
    let disabled = ["reason=\"gone_device_disabled\""];
    stage
        .bench
        .reaches("disconnects_total", &disabled, 1.0)
        .await;
    let meanwhile = stage.pulse().await;
    println!("median latency {before:?} before, {meanwhile:?} with two devices refused");
    // Loose, for busy machines; a neighbour held up by a retry would wait for 100 ms and more.
    assert!(
        meanwhile <= before * 3 + Duration::from_millis(50),
        "{before:?}, {meanwhile:?}"
    );

    stage
        .call("PUT", "/devices/load-1", r#"{"status":"enabled"}"#)
        .await;
    stage
        .call("PUT", "/devices/load-2", r#"{"status":"enabled"}"#)
        .await;
    stage.crew.probe(USABLE).await.expect("both are back");
    let seen = stage.crew.seen();
    let neighbours = seen.iter().filter(|(index, _)| ![1, 2].contains(*index));
    assert_eq!(neighbours.map(|(_, seen)| seen.reconnects).sum::<u64>(), 0);
    assert_eq!(stage.bench.metric("hub_reconnects_total", &[]).await, 0.0);
    stage.crew.leave().await;
}
