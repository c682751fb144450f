//! A rate held by a bucket of one second's worth.

use crate::runtime::clock::{Mono, mono};
use std::sync::{Mutex, PoisonError};

/// Grants `rate` requests per second, in bursts of at most that many.
#[derive(Debug)]
pub(crate) struct Throttle(Option<Mutex<Bucket>>);

#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: f64,
    at: Mono,
}

impl Throttle {
    /// `None` grants everything.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let bucket = |rate| {
            Mutex::new(Bucket {
                rate,
                level: rate,
                at: mono(),
            })
        };
        Self(rate.map(f64::from).map(bucket))
    }

    /// Whether `n` requests may pass now.
    pub(crate) fn allow(&self, n: usize) -> bool {
        let Some(bucket) = &self.0 else { return true };
        bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(n, mono())
    }
}

impl Bucket {
    // Counts here stay far below 2^52, so the conversion is exact.
    #[allow(clippy::cast_precision_loss)]
    fn allow(&mut self, n: usize, now: Mono) -> bool {
        let passed = now.since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.rate);
        self.at = now;
        let n = n as f64;
        let allowed = self.level >= n;
        if allowed {
            self.level -= n;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_holds_the_rate_and_no_more() {
        let start = Mono::from_start(Duration::from_secs(10));
        let mut bucket = Bucket {
            rate: 100.0,
            level: 100.0,
            at: start,
        };
        assert!((0..100).all(|_| bucket.allow(1, start)));
        assert!(!bucket.allow(1, start));
        let half = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| bucket.allow(1, half)).count(), 50);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..200).filter(|_| bucket.allow(1, much_later)).count(),
            100
        );
    }

    #[test]
    fn no_rate_grants_everything() {
        let throttle = Throttle::new(None);
        assert!((0..10_000).all(|_| throttle.allow(1000)));
    }
}
