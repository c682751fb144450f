//! Devices that an operator keeps out for a time.

use crate::router::registry::SessionKey;
use crate::runtime::clock::{self, Mono};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The blocks of the process, `limits.blocks` at most. They do not outlive it.
pub(super) struct Blocks {
    max: usize,
    until: Mutex<HashMap<SessionKey, Mono>>,
}

impl Blocks {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            until: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Mono>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `device` out for `time`; `false` when there is no room for it.
    pub(super) fn add(&self, device: SessionKey, time: Duration) -> bool {
        let (mut until, now) = (self.lock(), clock::mono());
        if until.len() >= self.max {
            until.retain(|_, end| *end > now);
        }
        let room = until.len() < self.max || until.contains_key(&device);
        if room {
            until.insert(device, now + time);
        }
        room
    }

    /// Lets it in again; whether it was kept out.
    pub(super) fn remove(&self, device: &SessionKey) -> bool {
        let ends = self.lock().remove(device);
        ends.is_some_and(|end| end > clock::mono())
    }

    /// How long it is still kept out.
    pub(super) fn left(&self, device: &SessionKey) -> Option<Duration> {
        let end = *self.lock().get(device)?;
        let left = end.since(clock::mono());
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;
    use crate::auth::identity::DeviceId;
    use crate::router::registry::SessionKey;
    use std::time::Duration;

    fn key(id: &str) -> SessionKey {
        SessionKey::new(DeviceId::parse(id).unwrap(), None)
    }

    #[test]
    fn a_block_ends_by_itself_and_by_order_and_has_a_bound() {
        let blocks = Blocks::new(2);
        let hour = Duration::from_secs(3600);
        assert!(blocks.add(key("a"), hour) && blocks.add(key("b"), Duration::ZERO));
        assert!(blocks.left(&key("a")).is_some() && blocks.left(&key("b")).is_none());
        assert!(blocks.add(key("c"), hour), "what has ended makes room");
        assert!(!blocks.add(key("d"), hour));
        assert!(blocks.add(key("c"), hour), "a longer block needs no room");
        assert!(blocks.remove(&key("a")) && !blocks.remove(&key("a")));
    }
}
