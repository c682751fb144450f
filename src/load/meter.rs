//! Counters and histograms of a run. Each worker thread counts in a shard of its own, so that
//! counting costs no contention; readers add the shards up.

use super::histogram::{Histogram, Summary};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
}

/// One thread's counts.
#[derive(Default)]
pub struct Shard {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    received: AtomicU64,
    unordered: AtomicU64,
    begun: AtomicU64,
    first: Histogram,
    latency: Histogram,
    lateness: Histogram,
}

impl Shard {
    /// A device's first message was handed to its socket.
    pub fn begun(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A device's first message was acknowledged, this long after it was sent.
    pub fn first(&self, took: Duration) {
        self.first.record(took);
    }

    /// A message was handed to the socket.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was acknowledged; not before an older one, unless `unordered`.
    pub fn acknowledged(&self, unordered: bool) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        if unordered {
            self.unordered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A command came.
    pub fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// A measured message took this long.
    pub fn latency(&self, took: Duration) {
        self.latency.record(took);
    }

    /// A measured message was sent this long after it was due.
    pub fn lateness(&self, late: Duration) {
        self.lateness.record(late);
    }
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Messages handed to sockets.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Commands received.
    pub received: u64,
    /// Acknowledgements that overtook an older message's.
    pub unordered: u64,
    /// Devices that sent their first message.
    pub begun: u64,
    /// Devices whose first message was acknowledged.
    pub served: u64,
    /// Devices that reached CONNACK.
    pub connected: u64,
    /// Devices that did not.
    pub failed: u64,
    /// Devices whose connection ended before its time.
    pub lost: u64,
}

/// All counts of a run.
pub struct Meter {
    shards: Box<[Shard]>,
    connects: Histogram,
    /// Devices that reached CONNACK.
    pub connected: AtomicU64,
    /// Devices that did not.
    pub failed: AtomicU64,
    /// Devices whose connection ended before its time.
    pub lost: AtomicU64,
}

impl Meter {
    /// For this many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            shards: (0..threads.max(1)).map(|_| Shard::default()).collect(),
            connects: Histogram::default(),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The shard of the calling thread.
    pub fn shard(&self) -> &Shard {
        &self.shards[THREAD.with(|thread| *thread) % self.shards.len()]
    }

    /// A device reached CONNACK after this long.
    pub fn connected(&self, took: Duration) {
        self.connects.record(took);
        self.connected.fetch_add(1, Ordering::SeqCst);
    }

    /// All shards added up.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sum = |get: fn(&Shard) -> &AtomicU64| {
            let shards = self.shards.iter();
            shards.map(|s| get(s).load(Ordering::Relaxed)).sum()
        };
        Totals {
            sent: sum(|s| &s.sent),
            acknowledged: sum(|s| &s.acknowledged),
            received: sum(|s| &s.received),
            unordered: sum(|s| &s.unordered),
            begun: sum(|s| &s.begun),
            served: self.shards.iter().map(|s| s.first.count()).sum(),
            connected: self.connected.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn merged(&self, get: fn(&Shard) -> &Histogram) -> Summary {
        let all = Histogram::default();
        for shard in &self.shards {
            all.merge(get(shard));
        }
        all.summary()
    }

    /// Times from sent to acknowledged of each device's first message.
    #[must_use]
    pub fn first(&self) -> Summary {
        self.merged(|shard| &shard.first)
    }

    /// Times from due (or sent) to acknowledged.
    #[must_use]
    pub fn latency(&self) -> Summary {
        self.merged(|shard| &shard.latency)
    }

    /// Times from due to sent.
    #[must_use]
    pub fn lateness(&self) -> Summary {
        self.merged(|shard| &shard.lateness)
    }

    /// Times from the first SYN to CONNACK or SUBACK.
    #[must_use]
    pub fn connects(&self) -> Summary {
        self.connects.summary()
    }
}
