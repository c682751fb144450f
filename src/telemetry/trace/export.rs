//! Sends spans to a collector by OTLP/HTTP, in batches, in a task of its own.
//!
//! A collector that is slow, refuses or is gone delays this task and nothing else: the queue
//! before it is bounded, and what has no room is counted where it is dropped. A batch is tried
//! again with growing pauses as the protocol asks (OTLP "Failures"), a few times, and then given
//! up and counted.

use super::otlp::{self, Resource};
use super::span::Ended;
use super::wire;
use crate::config::OtlpConfig;
use crate::runtime::hex::hex;
use crate::runtime::random;
use crate::telemetry::metrics::Metrics;
use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Spans in one request at most.
const BATCH: usize = 512;

/// Time a request waits for more spans.
const LINGER: Duration = Duration::from_secs(1);

/// First and longest pause between tries of a batch.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Tries of one batch; with the pauses between them half a minute.
const TRIES: u32 = 6;

/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The task that exports.
pub struct Exporter {
    task: JoinHandle<()>,
    stop: oneshot::Sender<Duration>,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Another try may succeed.
    #[error("{0}")]
    Passing(String),
    /// No other try will.
    #[error("the collector answered with status {0}")]
    Lasting(u16),
}

struct Sender {
    config: OtlpConfig,
    resource: Resource,
    metrics: Arc<Metrics>,
    /// Whether the latest batch could not be delivered; said once.
    is_failing: bool,
}

/// Exports what comes out of `spans`; `hub` is the name of the hub messages go to.
#[must_use]
pub fn start(
    config: OtlpConfig,
    hub: String,
    spans: mpsc::Receiver<Ended>,
    metrics: Arc<Metrics>,
) -> Exporter {
    let mut id = [0; 16];
    // The id only tells processes apart in the collector.
    let _ = random::fill(&mut id);
    let instance = hex(&id);
    let (stop, stopped) = oneshot::channel();
    let sender = Sender {
        config,
        resource: Resource { instance, hub },
        metrics,
        is_failing: false,
    };
    let task = tokio::spawn(sender.run(spans, stopped));
    Exporter { task, stop }
}

impl Exporter {
    /// Sends what is queued, in one request that may take `within`, and ends.
    pub async fn finish(self, within: Duration) {
        let _ = self.stop.send(within);
        let _ = self.task.await;
    }
}

impl Sender {
    async fn run(mut self, mut spans: mpsc::Receiver<Ended>, stop: oneshot::Receiver<Duration>) {
        let mut batch = Vec::new();
        let within = tokio::select! {
            biased;
            within = stop => within.unwrap_or_default(),
            () = self.serve(&mut spans, &mut batch) => return,
        };
        spans.close();
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.config.timeout = self.config.timeout.min(within);
            let sent = self.send(&batch).await;
            self.count(batch.len(), &sent);
        }
    }

    /// Delivers batch after batch, until nobody can send any more. What is under way is in
    /// `batch`.
    async fn serve(&mut self, spans: &mut mpsc::Receiver<Ended>, batch: &mut Vec<Ended>) {
        while spans.recv_many(batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                sleep(LINGER).await;
            }
            while batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            self.deliver(batch).await;
            batch.clear();
        }
    }

    /// Sends a batch, again where that may help, and counts what became of it.
    async fn deliver(&mut self, batch: &[Ended]) {
        let mut pause = PAUSE_MIN;
        for attempt in 1.. {
            let sent = self.send(batch).await;
            if attempt < TRIES && matches!(sent, Err(Failure::Passing(_))) {
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
            self.tell(batch.len(), sent.as_ref().err());
            self.count(batch.len(), &sent);
            return;
        }
    }

    async fn send(&self, batch: &[Ended]) -> Result<u64, Failure> {
        let body = otlp::request(&self.resource, batch);
        let late = || Failure::Passing("no answer within telemetry.otlp.timeout".to_owned());
        let asked = timeout(self.config.timeout, self.exchange(body)).await;
        asked.unwrap_or_else(|_| Err(late()))
    }

    /// One request; how many of its spans the collector did not take.
    async fn exchange(&self, body: String) -> Result<u64, Failure> {
        let passing = |error: &dyn std::fmt::Display| Failure::Passing(error.to_string());
        let url = &self.config.endpoint;
        let stream = wire::open(url, self.config.ca.as_deref()).await;
        let stream = stream.map_err(|error| passing(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| passing(&error))?;
        // Ends with this future, so that a request that is given up leaves no socket behind.
        let _serving = Serving(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let request = Request::post(&url.target)
            .header(header::HOST, url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "iothub-gateway")
            .body(Body::from(body))
            .map_err(|error| passing(&error))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| passing(&error))?;
        match response.status().as_u16() {
            200..=299 => {}
            // OTLP "Retryable Response Codes".
            status @ (429 | 502 | 503 | 504) => {
                return Err(passing(&format_args!("it answered with status {status}")));
            }
            status => return Err(Failure::Lasting(status)),
        }
        let answer = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        Ok(answer.map_or(0, |answer| otlp::refused(&answer)))
    }

    fn count(&self, spans: usize, sent: &Result<u64, Failure>) {
        let all = spans as u64;
        let metrics = &self.metrics;
        match sent {
            Ok(refused) => {
                let refused = (*refused).min(all);
                metrics.trace_exported.inc_by(all - refused);
                metrics.trace_rejected.inc_by(refused);
            }
            Err(Failure::Lasting(_)) => metrics.trace_rejected.inc_by(all),
            Err(Failure::Passing(_)) => metrics.trace_failed.inc_by(all),
        }
    }

    /// Says once that spans are lost, and once that they are not any more.
    fn tell(&mut self, spans: usize, failure: Option<&Failure>) {
        match failure {
            Some(error) if !self.is_failing => tracing::warn!(
                name: "spans_not_exported",
                endpoint = %self.config.endpoint,
                spans,
                %error,
                "spans cannot be exported"
            ),
            None if self.is_failing => {
                tracing::info!(
                    name: "spans_exported_again",
                    endpoint = %self.config.endpoint,
                    "spans are exported again"
                );
            }
            _ => {}
        }
        self.is_failing = failure.is_some();
    }
}

/// A task that ends when this is dropped.
struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Half of `pause` to all of it, so that many gateways do not come back at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + random::unit() / 2.0)
}
