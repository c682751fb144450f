//! Failed attempts, per identity of a source and per source: who has to wait.
//!
//! An identity is held back first, and only at the source that failed with it, so nobody locks a
//! device out from elsewhere, and a device that retries for ever costs its neighbours behind the
//! same address nothing. What an identity does while it is held back counts no further. A source
//! has a bucket of failures that refills; only identities that never proved themselves there take
//! from it, known to the rules or not, so that the bucket tells nobody which ones exist. An empty
//! bucket closes the source's connections unread, unless devices have proved themselves there:
//! then they are read, a proof counts as ever, and only password checks, which cost most, are
//! kept for those that proved themselves before. Pure: time is passed in. Neighbour: `listener`.

use crate::runtime::clock::Mono;
use crate::telemetry::reason::Reason;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Sources remembered, the latest ones; under 64 bytes each.
const SOURCES_MAX: usize = 10_000;

/// Failed identities remembered, under 40 bytes each: more than one source can fail with before
/// the first is forgotten by time, so that nobody pushes their own out.
const IDENTITIES_MAX: usize = 64 * 1024;

/// A bucket of failures is full again after this time.
const REFILL: Duration = Duration::from_secs(50);

/// First and longest wait of an identity that used up its failures; doubled by each failure.
const WAIT_MIN: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// An identity's failures are forgotten this long after its last one.
const FORGET: Duration = Duration::from_secs(600);

/// How long an identity counts as one of its source after it proved itself there.
const TRUST: Duration = Duration::from_secs(24 * 3600);

/// Who has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttled {
    /// Everything of this address.
    Source,
    /// This identity from this address.
    Identity,
}

impl Throttled {
    /// Its word.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Source => Reason::ThrottledSource,
            Self::Identity => Reason::ThrottledIdentity,
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

/// A name and the step that looks at it. They are kept apart: who holds a device's PSK may not
/// guess its password for ever by proving the PSK in between.
#[derive(Clone, Copy, Hash)]
pub enum Name<'a> {
    /// A PSK identity, proved in the handshake.
    Psk(&'a [u8]),
    /// A user name or client id, proved with CONNECT.
    Connect(&'a str),
}

/// The tables of failures, and of those who had none.
pub struct Throttle {
    burst: u32,
    sources: Recent<IpAddr, Bucket>,
    identities: Penalties,
    /// When an identity of a source, or anyone of the source, last proved itself.
    proved: Recent<u64, Mono>,
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
const ONE: i64 = 50_000;

#[derive(Clone, Copy)]
struct Penalty {
    failures: u32,
    last: Mono,
}

impl Throttle {
    /// A source may fail `per_source` times at once and a fiftieth of that each second; an
    /// identity `per_identity` times from one source before it has to wait. `devices` that proved
    /// themselves are remembered at least, under 40 bytes each.
    #[must_use]
    pub fn new(per_source: usize, per_identity: usize, devices: usize) -> Self {
        let burst = |value| u32::try_from(value).unwrap_or(u32::MAX).max(1);
        Self {
            burst: burst(per_source),
            sources: Recent::new(SOURCES_MAX),
            identities: Penalties::new(IDENTITIES_MAX, burst(per_identity)),
            // An entry for the identity and one for its source, in each generation.
            proved: Recent::new(devices.saturating_mul(4).max(SOURCES_MAX)),
            hasher: RandomState::new(),
        }
    }

    /// Whether anything of `source` is looked at; and if so, whether somebody has proved an
    /// identity there.
    ///
    /// # Errors
    /// When its failures are used up and nobody has proved an identity there.
    pub fn source(&mut self, source: IpAddr, now: Mono) -> Result<bool, Throttled> {
        let proved = self.is_proved(self.key(source, None), now);
        let free = proved || self.has_room(source, now);
        free.then_some(proved).ok_or(Throttled::Source)
    }

    /// Whether `identity` may be tried by `source`.
    ///
    /// # Errors
    /// When it has to wait.
    pub fn identity(
        &mut self,
        source: IpAddr,
        identity: Name<'_>,
        now: Mono,
    ) -> Result<(), Throttled> {
        let key = self.key(source, Some(identity));
        let waits = self.identities.waits(key, now);
        (!waits).then_some(()).ok_or(Throttled::Identity)
    }

    /// Whether a check that costs much is made for `identity`.
    ///
    /// # Errors
    /// When the failures of `source` are used up and this identity has not proved itself there.
    pub fn costly(
        &mut self,
        source: IpAddr,
        identity: Name<'_>,
        now: Mono,
    ) -> Result<(), Throttled> {
        let mine = self.key(source, Some(identity));
        let free = self.has_room(source, now) || self.is_proved(mine, now);
        free.then_some(()).ok_or(Throttled::Source)
    }

    /// `source` failed to prove something; `identity` when it named one.
    pub fn failed(&mut self, source: IpAddr, identity: Option<Name<'_>>, now: Mono) {
        let Some(identity) = identity else {
            return self.take_room(source, now);
        };
        let key = self.key(source, Some(identity));
        if !self.is_proved(key, now) {
            self.take_room(source, now);
        }
        self.identities.add(key, now);
    }

    /// `source` proved `identity`.
    pub fn succeeded(&mut self, source: IpAddr, identity: Name<'_>, now: Mono) {
        let key = self.key(source, Some(identity));
        self.identities.entries.remove(&key);
        for key in [key, self.key(source, None)] {
            self.proved.put(key, now);
        }
    }

    fn has_room(&self, source: IpAddr, now: Mono) -> bool {
        let full = self.full();
        let bucket = self.sources.get(&source);
        bucket.is_none_or(|bucket| bucket.refilled(full, now).left >= ONE)
    }

    fn take_room(&mut self, source: IpAddr, now: Mono) {
        let full = self.full();
        let bucket = self.sources.get(&source).copied();
        let mut bucket = bucket.map_or(Bucket::full(full, now), |b| b.refilled(full, now));
        bucket.left = (bucket.left - ONE).max(-full);
        self.sources.put(source, bucket);
    }

    fn is_proved(&self, key: u64, now: Mono) -> bool {
        let at = self.proved.get(&key);
        at.is_some_and(|at| now.since(*at) < TRUST)
    }

    fn full(&self) -> i64 {
        i64::from(self.burst) * ONE
    }

    /// Names are kept as a keyed hash: they are as long as a peer likes.
    fn key(&self, source: IpAddr, identity: Option<Name<'_>>) -> u64 {
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

/// Who failed how often lately, and therefore waits.
pub struct Penalties {
    burst: u32,
    entries: Recent<u64, Penalty>,
}

impl Penalties {
    /// For the `max` latest that fail; each may fail `burst` times before it has to wait.
    #[must_use]
    pub fn new(max: usize, burst: u32) -> Self {
        Self {
            burst,
            entries: Recent::new(max),
        }
    }

    /// Whether `key` has to wait.
    #[must_use]
    pub fn waits(&self, key: u64, now: Mono) -> bool {
        let penalty = self.entries.get(&key);
        penalty.is_some_and(|p| now.since(p.last) < p.wait(self.burst))
    }

    /// `key` failed; how often it has lately.
    pub fn add(&mut self, key: u64, now: Mono) -> u32 {
        let recent = |p: &&Penalty| now.since(p.last) < FORGET;
        let known = self.entries.get(&key).filter(recent);
        let failures = known.map_or(0, |p| p.failures).saturating_add(1);
        let last = now;
        self.entries.put(key, Penalty { failures, last });
        failures
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
    max: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// For `max` entries at most, the latest half of which is sure to be there.
    fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            max,
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.max / 2 && !self.young.contains_key(&key) {
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
mod tests;
