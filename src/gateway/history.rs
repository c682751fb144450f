//! Messages and latency of the last hour, for the status page.

use crate::admin::api::view::Moment;
use crate::runtime::clock;
use crate::telemetry::metrics::Metrics;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One moment.
const STEP: Duration = Duration::from_secs(10);
/// Moments kept: an hour, under 20 KiB.
const MOMENTS: usize = 360;

/// The moments kept.
#[derive(Default)]
pub(super) struct History(Mutex<VecDeque<Moment>>);

/// The counters at some time.
struct Reading {
    accepted: u64,
    refused: u64,
    /// Upper bounds in seconds, and how many were under each.
    buckets: Vec<(f64, u64)>,
}

impl Reading {
    fn of(metrics: &Metrics) -> Self {
        let refused = [
            "closed",
            "told",
            "dropped",
            "discarded",
            "filed",
            "not_filed",
        ];
        let refused = refused.map(|action| {
            let counter = &metrics.refused_messages;
            counter.with_label_values(&[action]).get()
        });
        let family = prometheus::core::Metric::metric(&metrics.uplink_duration);
        let histogram = family.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Self {
            accepted: metrics.hub_accepted.get(),
            refused: refused.iter().sum(),
            buckets: buckets
                .map(|b| (b.upper_bound(), b.cumulative_count()))
                .collect(),
        }
    }

    /// What lies between `before` and this.
    fn since(&self, before: &Self, at: u64) -> Moment {
        #[allow(clippy::cast_precision_loss)] // counts of ten seconds are small
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / STEP.as_secs_f64();
        let pairs = self.buckets.iter().zip(&before.buckets);
        let counts: Vec<(f64, u64)> = pairs
            .map(|((bound, now), (_, then))| (*bound, now.saturating_sub(*then)))
            .collect();
        Moment {
            at,
            accepted_per_s: rate(self.accepted, before.accepted),
            refused_per_s: rate(self.refused, before.refused),
            p50_ms: quantile(&counts, 0.5),
            p99_ms: quantile(&counts, 0.99),
        }
    }
}

/// The upper bound of the bucket the quantile falls into, milliseconds; nothing without messages.
fn quantile(counts: &[(f64, u64)], q: f64) -> Option<f64> {
    let total = counts.last().map_or(0, |(_, count)| *count);
    if total == 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let wanted = total as f64 * q;
    #[allow(clippy::cast_precision_loss)]
    let found = counts.iter().find(|(_, count)| *count as f64 >= wanted);
    found
        .map(|(bound, _)| bound * 1000.0)
        .filter(|ms| ms.is_finite())
}

impl History {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moments, the latest last.
    pub(super) fn moments(&self) -> Vec<Moment> {
        self.lock().iter().cloned().collect()
    }

    fn note(&self, moment: Moment) {
        let mut kept = self.lock();
        if kept.len() == MOMENTS {
            kept.pop_front();
        }
        kept.push_back(moment);
    }

    /// Notes a moment every ten seconds until `stop`.
    pub(super) async fn run(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(STEP);
        let mut before: Option<Reading> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = Reading::of(&metrics);
            if let Some(before) = &before {
                self.note(now.since(before, clock::unix().as_secs()));
            }
            before = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{History, MOMENTS, Moment, quantile};

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let counts = [(0.001, 10), (0.01, 98), (0.1, 100)];
        assert_eq!(quantile(&counts, 0.5), Some(10.0));
        assert_eq!(quantile(&counts, 0.99), Some(100.0));
        assert_eq!(quantile(&[(0.001, 0)], 0.5), None);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let history = History::default();
        for at in 0..1000 {
            history.note(Moment {
                at,
                ..Moment::default()
            });
        }
        let moments = history.moments();
        assert_eq!((moments.len(), moments[0].at), (MOMENTS, 640));
    }
}
