//! The twins of all devices and modules, and who is told when desired properties change. A change
//! and the word of it are one step, so that every subscriber hears versions in order.

use crate::emulator::address::{Endpoint, Identity};
use crate::emulator::channels::{Channels, Content, Outgoing};
use crate::emulator::config::EmulatorLimits;
use crate::emulator::stats::Stats;
use crate::emulator::twin::{Change, Object, Twin, TwinError, TwinSizes};
use crate::runtime::clock;
use dashmap::DashMap;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One twin of the registry; made when first asked for, so their number is the registry's.
type Entry = Arc<Mutex<Twin>>;

/// Shared by every link and by the service side.
pub(crate) struct Twins {
    twins: DashMap<Identity, Entry>,
    /// Bytes all of them hold.
    bytes: AtomicUsize,
    bytes_max: usize,
    sizes: TwinSizes,
    channels: Arc<Channels>,
    stats: Arc<Stats>,
}

impl Twins {
    pub(crate) fn new(limits: &EmulatorLimits, channels: Arc<Channels>, stats: Arc<Stats>) -> Self {
        Self {
            twins: DashMap::new(),
            bytes: AtomicUsize::new(0),
            bytes_max: limits.twins_bytes_max,
            sizes: TwinSizes {
                tags: limits.twin_tags_bytes,
                desired: limits.twin_desired_bytes,
                reported: limits.twin_reported_bytes,
            },
            channels,
            stats,
        }
    }

    fn entry(&self, identity: &Identity) -> Entry {
        let make = || Arc::new(Mutex::new(Twin::new()));
        Arc::clone(
            self.twins
                .entry(identity.clone())
                .or_insert_with(make)
                .value(),
        )
    }

    /// Looks at the twin; no change of it comes between what `look` sees and what it does.
    pub(crate) fn with<T>(&self, identity: &Identity, look: impl FnOnce(&Twin) -> T) -> T {
        let entry = self.entry(identity);
        let twin = entry.lock().unwrap_or_else(PoisonError::into_inner);
        look(&twin)
    }

    /// The device reports; `then` runs with the new version before anyone else changes the twin.
    pub(crate) fn report<T>(
        &self,
        identity: &Identity,
        patch: &Object,
        expected: Option<i64>,
        then: impl FnOnce(Result<i64, TwinError>) -> T,
    ) -> T {
        let entry = self.entry(identity);
        let mut twin = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let change = |twin: &mut Twin| twin.report(patch, expected, clock::unix(), self.sizes);
        then(self.change(&mut twin, change))
    }

    /// The service side changes the twin; the twin then, as [`Twin::for_service`] shows it.
    pub(crate) fn update(
        &self,
        identity: &Identity,
        change: &Change,
        etag: Option<&str>,
    ) -> Result<Value, TwinError> {
        let entry = self.entry(identity);
        let mut twin = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let update = |twin: &mut Twin| twin.update(change, etag, clock::unix(), self.sizes);
        if let Some(patch) = self.change(&mut twin, update)? {
            let told = Outgoing::new(Content::Push {
                body: Value::Object(patch).to_string().into_bytes(),
            });
            if self.channels.push(identity, Endpoint::Twin, told) {
                self.stats.twin_pushes.inc();
            }
        }
        Ok(twin.for_service())
    }

    /// Makes a change on a copy, and keeps it when all twins together stay within their bound.
    fn change<T>(
        &self,
        twin: &mut Twin,
        change: impl FnOnce(&mut Twin) -> Result<T, TwinError>,
    ) -> Result<T, TwinError> {
        let mut changed = twin.clone();
        let result = change(&mut changed)?;
        let (before, after) = (twin.bytes(), changed.bytes());
        let fits = |held: usize| {
            let held = held.saturating_sub(before).saturating_add(after);
            (after <= before || held <= self.bytes_max).then_some(held)
        };
        let relaxed = Ordering::Relaxed;
        if self.bytes.fetch_update(relaxed, relaxed, fits).is_err() {
            return Err(TwinError::Full);
        }
        *twin = changed;
        Ok(result)
    }

    /// Forgets the twins of a device and of its modules.
    pub(crate) fn remove(&self, device: &str) {
        self.forget(|identity| *identity.device == *device);
    }

    /// Forgets the twin of one module.
    pub(crate) fn remove_module(&self, module: &Identity) {
        self.forget(|identity| identity == module);
    }

    fn forget(&self, goes: impl Fn(&Identity) -> bool) {
        self.twins.retain(|identity, entry| {
            if !goes(identity) {
                return true;
            }
            let twin = entry.lock().unwrap_or_else(PoisonError::into_inner);
            let held = twin.bytes() - Twin::new().bytes().min(twin.bytes());
            let relaxed = Ordering::Relaxed;
            let left = |all: usize| Some(all.saturating_sub(held));
            // Never refused: what is left is always something.
            let _ = self.bytes.fetch_update(relaxed, relaxed, left);
            false
        });
    }
}
