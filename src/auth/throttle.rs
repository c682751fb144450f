//! Failed attempts, per source and per identity of a source: who has to wait.
//!
//! A source has a bucket of failures that refills; while it is empty nothing of that source is
//! looked at. A success puts one failure back, so that a site of honest devices behind one
//! address is not starved by the broken one among them. An identity is held back only for the
//! source that failed with it, so nobody can lock a device out from elsewhere. Pure: time is
//! passed in. Neighbour: `listener`, which asks before it works.

use crate::runtime::clock::Mono;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Entries of each table: 10,000 sources and 10,000 identities, under 64 bytes each.
const ENTRIES_MAX: usize = 10_000;

/// A bucket of failures is full again after this time.
const REFILL: Duration = Duration::from_secs(10);

/// First and longest wait of an identity that used up its failures; doubled by each failure.
const WAIT_MIN: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// An identity's failures are forgotten this long after its last one.
const FORGET: Duration = Duration::from_secs(600);

/// Who has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttled {
    /// Everything of this address.
    Source,
    /// This identity from this address.
    Identity,
}

impl Throttled {
    /// `disconnects_total{reason}`, `connects_total{result}` and log word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Source => "throttled_source",
            Self::Identity => "throttled_identity",
        }
    }

    /// What to do about it, for the log and the device.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Source => {
                "too many failed attempts from this address; correct the devices there, or raise \
                 limits.failures_per_source"
            }
            Self::Identity => {
                "too many failed attempts with this identity; correct its credential and try \
                 again later"
            }
        }
    }
}

/// The tables of failures.
pub struct Throttle {
    burst: u32,
    identity_burst: u32,
    sources: Recent<IpAddr, Bucket>,
    identities: Recent<u64, Penalty>,
    hasher: RandomState,
}

/// What is left of a source's failures, in units of one ten-thousandth. Below zero: attempts
/// that were under way at the same time failed together, and have to be paid for.
#[derive(Clone, Copy)]
struct Bucket {
    left: i64,
    at: Mono,
}

/// A failure in the units of [`Bucket`].
const ONE: i64 = 10_000;

#[derive(Clone, Copy)]
struct Penalty {
    failures: u32,
    last: Mono,
}

impl Throttle {
    /// A source may fail `per_source` times at once and a tenth of that each second;
    /// an identity `per_identity` times from one source before it has to wait.
    #[must_use]
    pub fn new(per_source: usize, per_identity: usize) -> Self {
        let burst = |value| u32::try_from(value).unwrap_or(u32::MAX).max(1);
        Self {
            burst: burst(per_source),
            identity_burst: burst(per_identity),
            sources: Recent::default(),
            identities: Recent::default(),
            hasher: RandomState::new(),
        }
    }

    /// Whether anything of `source` may be looked at.
    ///
    /// # Errors
    /// When its failures are used up.
    pub fn source(&mut self, source: IpAddr, now: Mono) -> Result<(), Throttled> {
        let full = self.full();
        let bucket = self.sources.get(&source);
        let free = bucket.is_none_or(|bucket| bucket.refilled(full, now).left >= ONE);
        free.then_some(()).ok_or(Throttled::Source)
    }

    /// Whether `identity` may be tried by `source`.
    ///
    /// # Errors
    /// When it has to wait.
    pub fn identity(&mut self, source: IpAddr, identity: &str, now: Mono) -> Result<(), Throttled> {
        let key = self.key(source, identity);
        let burst = self.identity_burst;
        let penalty = self.identities.get(&key);
        let waits = penalty.is_some_and(|p| now.since(p.last) < p.wait(burst));
        (!waits).then_some(()).ok_or(Throttled::Identity)
    }

    /// `source` failed to prove something; `identity` when it named one.
    pub fn failed(&mut self, source: IpAddr, identity: Option<&str>, now: Mono) {
        let full = self.full();
        let bucket = self.sources.get(&source).copied();
        let mut bucket = bucket.map_or(Bucket::full(full, now), |b| b.refilled(full, now));
        bucket.left = (bucket.left - ONE).max(-full);
        self.sources.put(source, bucket);
        let Some(identity) = identity else {
            return;
        };
        let key = self.key(source, identity);
        let recent = |p: &&Penalty| now.since(p.last) < FORGET;
        let failures = self
            .identities
            .get(&key)
            .filter(recent)
            .map_or(0, |p| p.failures);
        let penalty = Penalty {
            failures: failures.saturating_add(1),
            last: now,
        };
        self.identities.put(key, penalty);
    }

    /// `source` proved `identity`.
    pub fn succeeded(&mut self, source: IpAddr, identity: &str, now: Mono) {
        let full = self.full();
        if let Some(bucket) = self.sources.get(&source).copied() {
            let mut bucket = bucket.refilled(full, now);
            bucket.left += ONE;
            match bucket.left < full {
                true => self.sources.put(source, bucket),
                false => self.sources.remove(&source),
            }
        }
        let key = self.key(source, identity);
        self.identities.remove(&key);
    }

    fn full(&self) -> i64 {
        i64::from(self.burst) * ONE
    }

    /// Names are kept as a keyed hash: they are as long as a peer likes.
    fn key(&self, source: IpAddr, identity: &str) -> u64 {
        self.hasher.hash_one((source, identity))
    }
}

impl Bucket {
    const fn full(left: i64, at: Mono) -> Self {
        Self { left, at }
    }

    fn refilled(self, full: i64, now: Mono) -> Self {
        let passed = now.since(self.at).min(2 * REFILL).as_millis() as i64;
        let gained = full / REFILL.as_millis() as i64 * passed;
        Self {
            left: self.left.saturating_add(gained).min(full),
            at: now,
        }
    }
}

impl Penalty {
    /// The wait after the last failure.
    fn wait(self, burst: u32) -> Duration {
        match self.failures.checked_sub(burst) {
            None => Duration::ZERO,
            Some(over) => (WAIT_MIN * 2_u32.saturating_pow(over.min(8))).min(WAIT_MAX),
        }
    }
}

/// A map of the entries put last, in two generations of bounded size: when the young one is full
/// it becomes the old one, and the former old one is forgotten.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= ENTRIES_MAX / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES_MAX, Throttle, Throttled};
    use crate::runtime::clock::Mono;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const BAD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn at(seconds: f64) -> Mono {
        Mono::from_start(Duration::from_secs_f64(1000.0 + seconds))
    }

    fn throttle() -> Throttle {
        Throttle::new(20, 5)
    }

    #[test]
    fn a_source_may_fail_twenty_times_and_then_twice_a_second() {
        let mut throttle = throttle();
        let mut looked_at = 0;
        for tick in 0..6000 {
            let now = at(f64::from(tick) / 200.0);
            if throttle.source(BAD, now).is_ok() {
                looked_at += 1;
                throttle.failed(BAD, None, now);
            }
        }
        assert!((76..=82).contains(&looked_at), "{looked_at} in 30 s");
        assert_eq!(throttle.source(GOOD, at(30.0)), Ok(()));
        assert_eq!(throttle.source(BAD, at(45.0)), Ok(()), "it is forgiven");
    }

    #[test]
    fn failures_under_way_together_are_paid_for_but_not_for_ever() {
        let mut throttle = throttle();
        for _ in 0..500 {
            throttle.failed(BAD, None, at(0.0));
        }
        assert_eq!(throttle.source(BAD, at(10.0)), Err(Throttled::Source));
        assert_eq!(throttle.source(BAD, at(11.0)), Ok(()));
    }

    #[test]
    fn a_broken_device_behind_a_shared_address_does_not_starve_the_others() {
        let mut throttle = throttle();
        for tick in 0..1000 {
            let now = at(f64::from(tick) / 100.0);
            assert_eq!(throttle.source(BAD, now), Ok(()), "tick {tick}");
            throttle.failed(BAD, Some("broken"), now);
            throttle.succeeded(BAD, "honest", now);
        }
    }

    #[test]
    fn an_identity_waits_longer_with_each_failure_up_to_a_minute() {
        let mut throttle = throttle();
        for _ in 0..5 {
            assert_eq!(throttle.identity(BAD, "dev", at(0.0)), Ok(()));
            throttle.failed(BAD, Some("dev"), at(0.0));
        }
        let mut now = 0.0;
        for wait in [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] {
            let refused = throttle.identity(BAD, "dev", at(now + wait - 0.1));
            assert_eq!(refused, Err(Throttled::Identity), "{wait}");
            now += wait;
            assert_eq!(throttle.identity(BAD, "dev", at(now)), Ok(()), "{wait}");
            throttle.failed(BAD, Some("dev"), at(now));
        }
        throttle.failed(BAD, Some("dev"), at(now + 601.0));
        assert_eq!(throttle.identity(BAD, "dev", at(now + 601.0)), Ok(()));
    }

    #[test]
    fn nobody_locks_a_device_out_from_elsewhere() {
        let mut throttle = throttle();
        for _ in 0..1000 {
            throttle.failed(BAD, Some("dev"), at(0.0));
        }
        assert!(throttle.identity(BAD, "dev", at(1.0)).is_err());
        assert_eq!(throttle.identity(GOOD, "dev", at(1.0)), Ok(()));
        assert_eq!(throttle.source(GOOD, at(1.0)), Ok(()));
        assert_eq!(throttle.identity(BAD, "other", at(1.0)), Ok(()));
    }

    #[test]
    fn a_success_clears_the_identity() {
        let mut throttle = throttle();
        for _ in 0..5 {
            throttle.failed(BAD, Some("dev"), at(0.0));
        }
        throttle.succeeded(BAD, "dev", at(6.0));
        assert_eq!(throttle.identity(BAD, "dev", at(6.0)), Ok(()));
        assert!(throttle.identities.get(&throttle.key(BAD, "dev")).is_none());
    }

    #[test]
    fn a_flood_of_sources_and_names_stays_bounded_and_the_latest_is_known() {
        let mut throttle = Throttle::new(1, 1);
        for n in 0..3 * ENTRIES_MAX as u32 {
            let source = IpAddr::V4(Ipv4Addr::from(n));
            throttle.failed(source, Some("x"), at(0.0));
            for (young, old) in [
                (throttle.sources.young.len(), throttle.sources.old.len()),
                (
                    throttle.identities.young.len(),
                    throttle.identities.old.len(),
                ),
            ] {
                assert!(young + old <= ENTRIES_MAX);
            }
            assert!(throttle.source(source, at(0.0)).is_err());
        }
    }
}
