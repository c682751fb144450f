//! A histogram of durations in about 35 KiB: exact below 256 ns, then 128 steps per power of two,
//! so that a percentile is at most 0.8 % above the true value. Counted with relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// 2^7 steps per power of two.
const STEP_BITS: u32 = 7;
/// Durations from 2^42 ns (73 minutes) on share the last step.
const VALUE_MAX: u64 = (1 << 42) - 1;
const BUCKETS: usize = bucket(VALUE_MAX) + 1;

#[allow(clippy::cast_possible_truncation)] // VALUE_MAX bounds it far below u32::MAX
const fn bucket(ns: u64) -> usize {
    let octave = (u64::BITS - ns.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (((octave as u64) << STEP_BITS) + (ns >> octave)) as usize
}

/// The largest value that falls into the bucket.
fn upper(bucket: usize) -> u64 {
    let steps = 1 << STEP_BITS;
    if bucket < 2 * steps {
        return bucket as u64;
    }
    let octave = bucket / steps - 1;
    (((bucket - octave * steps) as u64 + 1) << octave) - 1
}

/// Counts of durations.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            max: AtomicU64::new(0),
        }
    }
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// How many durations.
    pub count: u64,
    /// Half are at or below.
    pub p50_ms: f64,
    /// 90 % are at or below.
    pub p90_ms: f64,
    /// 99 % are at or below.
    pub p99_ms: f64,
    /// 99.9 % are at or below.
    pub p999_ms: f64,
    /// The longest, exact.
    pub max_ms: f64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns.min(VALUE_MAX))].fetch_add(1, Ordering::Relaxed);
        if ns > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// Adds the counts of `other`.
    pub fn merge(&self, other: &Self) {
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let max = other.max.load(Ordering::Relaxed);
        self.max.fetch_max(max, Ordering::Relaxed);
    }

    /// The percentiles; zeros when nothing was counted.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .collect();
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        let at = |per_mille: u64| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|c| {
                seen += c;
                seen >= rank
            });
            // the last bucket has no upper end, and no percentile exceeds the maximum
            let last = found == Some(BUCKETS - 1);
            let ns = found.map_or(0, |b| if last { max } else { upper(b).min(max) });
            milliseconds(ns)
        };
        Summary {
            count,
            p50_ms: at(500),
            p90_ms: at(900),
            p99_ms: at(990),
            p999_ms: at(999),
            max_ms: milliseconds(max),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // shown with three decimals
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, VALUE_MAX, bucket, upper};
    use std::time::Duration;

    #[test]
    fn buckets_are_without_gap_and_narrow() {
        for b in 0..BUCKETS - 1 {
            assert_eq!(bucket(upper(b)), b);
            assert_eq!(bucket(upper(b) + 1), b + 1);
            let width = upper(b + 1) - upper(b);
            assert!(width == 1 || width * 127 <= upper(b), "bucket {b}");
        }
        assert_eq!(bucket(VALUE_MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_known_series() {
        let histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let summary = histogram.summary();
        assert_eq!(summary.count, 1000);
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.008;
        assert!(near(summary.p50_ms, 500.0), "{summary:?}");
        assert!(near(summary.p90_ms, 900.0), "{summary:?}");
        assert!(near(summary.p99_ms, 990.0), "{summary:?}");
        assert!(near(summary.p999_ms, 999.0), "{summary:?}");
        assert!((summary.max_ms - 1000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_and_too_much_are_no_special_cases() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), super::Summary::default());
        histogram.record(Duration::from_secs(1_000_000));
        assert!((histogram.summary().p50_ms - 1e9).abs() < 1.0);
        let total = Histogram::default();
        total.merge(&histogram);
        assert_eq!(total.summary(), histogram.summary());
    }
}
