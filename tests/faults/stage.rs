//! A hub, a gateway with short timings, and a crew; what holds after every fault.

use crate::crew::Crew;
use crate::support::fleet::{Verdict, judge, ledger};
use crate::support::http;
use crate::support::{Bench, Options};
use iothub_gateway::runtime::clock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{sleep, timeout};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

/// Timings of the gateway under test: seconds instead of the defaults' minutes. The hub takes no
/// idle time-out below 5 s.
pub const HUB: &str = "connections = 2\nidle_timeout = \"10s\"\noutcome_timeout = \"3s\"\n\
    operation_timeout = \"3s\"\nconnect_timeout = \"2s\"\nbackoff_max = \"1s\"\n";

/// All devices work again within this after a fault's end.
pub const USABLE: Duration = Duration::from_secs(5);

/// A stage with `devices` on it.
pub struct Stage {
    pub bench: Bench,
    pub crew: Crew,
    judged: Verdict,
    books: Books,
}

/// Figures that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Books {
    disconnects: f64,
    panics: f64,
    reconnects: f64,
    lost: u64,
    disorder: u64,
}

/// What happened since the last look.
#[derive(Debug, Default, PartialEq)]
pub struct Damage {
    pub verdict: Verdict,
    pub disconnects: f64,
    pub panics: f64,
    /// Hub connections lost.
    pub reconnects: f64,
    pub lost: u64,
    pub disorder: u64,
}

impl Stage {
    pub async fn set(name: &str, devices: usize, options: Options) -> Self {
        let options = Options {
            fleet: devices,
            hub: match options.hub.contains("attach_rate") {
                true => format!("{HUB}{}", options.hub),
                false => format!("{HUB}attach_rate = \"5000/s\"\n{}", options.hub),
            },
            ..options
        };
        if let Ok(filter) = std::env::var("FAULT_LOG") {
            let filter: Targets = filter.parse().expect("FAULT_LOG is a filter");
            let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
            let _ = registry().with(filter).with(lines).try_init();
        }
        let bench = Bench::start(name, options).await;
        // Devices that come while one connection alone is there leave it again when the other is.
        let both = async {
            let tokens = ["result=\"accepted\""];
            while bench.metric("token_renewals_total", &tokens).await < 2.0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let both = timeout(Duration::from_secs(30), both).await;
        both.expect("both connections hold a token");
        let crew = Crew::connect(bench.mqtt(), devices).await;
        let mut stage = Self {
            bench,
            crew,
            judged: Verdict::default(),
            books: Books::default(),
        };
        stage
            .crew
            .probe(Duration::from_secs(30) + Duration::from_millis(20 * devices as u64))
            .await
            .expect("all works at first");
        stage.damage().await;
        stage
    }

    /// What the ledger and the metrics say of the time since the last call. Nothing may be in
    /// flight.
    pub async fn damage(&mut self) -> Damage {
        let now = judge(&ledger(&self.bench.emulator), &self.crew.seen());
        let books = Books {
            disconnects: self.bench.metric("disconnects_total", &[]).await,
            panics: self.bench.metric("panics_total", &[]).await,
            reconnects: self.bench.metric("hub_reconnects_total", &[]).await,
            lost: self.crew.lost(),
            disorder: self.crew.disorder(),
        };
        let (then, before) = (&self.judged, self.books);
        let damage = Damage {
            verdict: Verdict {
                // The only one that can fall: a message missing may arrive yet.
                missing: now.missing,
                duplicate: now.duplicate - then.duplicate,
                misordered: now.misordered - then.misordered,
                foreign: now.foreign - then.foreign,
            },
            disconnects: books.disconnects - before.disconnects,
            panics: books.panics - before.panics,
            reconnects: books.reconnects - before.reconnects,
            lost: books.lost - before.lost,
            disorder: books.disorder - before.disorder,
        };
        (self.judged, self.books) = (now, books);
        damage
    }

    /// Until `/ready` says 200 and the pool is whole.
    pub async fn whole(&self, patience: Duration) -> Result<(), String> {
        let whole = async {
            while !(self.ready().await
                && self
                    .bench
                    .metric("hub_connections", &["state=\"open\""])
                    .await
                    >= 2.0)
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let result = timeout(patience, whole).await;
        result.map_err(|_| format!("the pool is not whole after {patience:?}"))
    }

    /// What the gateway says of its upstream, for a report.
    pub async fn upstream(&self) -> String {
        let address = self.bench.gateway.admin();
        let ask = move || http::request(address, "GET", "/ready", "").1;
        let ready = tokio::task::spawn_blocking(ask).await.expect("asked");
        let metrics = self.bench.metrics().await;
        let wanted = ["_hub_", "_token_", "_paused_"];
        let lines = metrics
            .lines()
            .filter(|line| !line.starts_with('#') && wanted.iter().any(|part| line.contains(part)));
        let lines: Vec<&str> = lines.collect();
        format!("{ready}\n{}", lines.join("\n"))
    }

    /// Whether `/ready` says 200.
    pub async fn ready(&self) -> bool {
        let address = self.bench.gateway.admin();
        let ask = move || http::request(address, "GET", "/ready", "").0;
        tokio::task::spawn_blocking(ask).await.expect("asked") == 200
    }

    /// Whether `/ready` claims more than the metrics admit: an open connection and a token that
    /// has not ended. Both are read before and after, so that a change between does not count.
    pub async fn ready_lies(&self) -> bool {
        let before = self.could_be_ready().await;
        let ready = self.ready().await;
        ready && !before && !self.could_be_ready().await
    }

    async fn could_be_ready(&self) -> bool {
        let metrics = self.bench.metrics().await;
        let value = |name: &str, labels: &[&str]| {
            http::metric(&metrics, &format!("iothub_gateway_{name}"), labels)
        };
        #[allow(clippy::cast_precision_loss)] // seconds of a date are exact in f64
        let now = clock::unix().as_secs() as f64;
        value("hub_connections", &["state=\"open\""]) >= 1.0
            && value("token_expiry_timestamp_seconds", &[]) >= now
    }
}

/// Resident memory of this process, bytes.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    pages * 4096
}

static TURN: OnceLock<RwLock<()>> = OnceLock::new();

/// Beside other tests.
pub async fn shared() -> RwLockReadGuard<'static, ()> {
    TURN.get_or_init(RwLock::default).read().await
}

/// Alone, for what measures memory or latency.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.get_or_init(RwLock::default).write().await
}

/// A highest value seen.
#[derive(Default)]
pub struct Peak(AtomicU64);

impl Peak {
    pub fn see(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
