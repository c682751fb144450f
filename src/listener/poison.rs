//! Devices that are closed for a message, come back and send it again: seen, named, and paced.

use crate::auth::throttle::Penalties;
use crate::config::limits::Limits;
use crate::router::registry::SessionKey;
use crate::runtime::clock;
use crate::telemetry::reason::Reason;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Devices remembered, the latest ones; under 40 bytes each.
const DEVICES_MAX: usize = 10_000;

/// Its word.
pub(super) const REASON: Reason = Reason::PoisonLoop;

/// What the device and the log are told.
pub(super) const TEXT: &str = "the device was closed for a refused message again and again; see \
                               its refusals in the log, and on_refused for what a rule can do";

/// The devices that all listeners share.
pub(super) struct Loops {
    /// Closes after which a device is in a loop.
    closes: u32,
    penalties: Mutex<Penalties>,
    hasher: RandomState,
}

impl Loops {
    pub(super) fn new(limits: &Limits) -> Self {
        let closes = u32::try_from(limits.failures_per_device).unwrap_or(u32::MAX);
        Self {
            closes,
            penalties: Mutex::new(Penalties::new(DEVICES_MAX, closes)),
            hasher: RandomState::new(),
        }
    }

    fn penalties(&self) -> MutexGuard<'_, Penalties> {
        self.penalties
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this device has to wait.
    pub(super) fn waits(&self, device: &SessionKey) -> bool {
        let key = self.hasher.hash_one(device);
        self.penalties().waits(key, clock::mono())
    }

    /// The device is closed for a refused message; whether it is in a loop.
    pub(super) fn closed(&self, device: &SessionKey) -> bool {
        let key = self.hasher.hash_one(device);
        self.penalties().add(key, clock::mono()) >= self.closes
    }
}
