//! What a device does, while an operator looks at it: packets by kind and size, outcomes; never a
//! payload.
//!
//! A device is watched from the first question about it until nobody has asked for a while. Costs
//! one load a packet while nobody watches anybody.

use crate::runtime::clock::{self, Mono};
use crate::telemetry::event::Event;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Events kept of a watched device; more push out the oldest, which the reader is told by a gap.
const EVENTS: usize = 512;
/// Bytes of an event's text.
const TEXT_BYTES: usize = 256;
/// A device nobody asked about for this long is watched no more.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
    asked: Mono,
}

/// The devices that are watched, `limits.watches` at most.
pub(super) struct Watches {
    max: usize,
    watched: AtomicUsize,
    rings: Mutex<HashMap<String, Ring>>,
}

impl Watches {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            watched: AtomicUsize::new(0),
            rings: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ring>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events of `device` from `after` on, and `after` of the next question; the first question
    /// begins the watch. `None`: as many devices as may be are watched already.
    pub(super) fn events(&self, device: &str, after: u64) -> Option<(Vec<Event>, u64)> {
        let (mut rings, now) = (self.lock(), clock::mono());
        rings.retain(|_, ring| now.since(ring.asked) < PATIENCE);
        if rings.len() >= self.max && !rings.contains_key(device) {
            return None;
        }
        let ring = rings.entry(device.to_owned()).or_default();
        ring.asked = now;
        let events = ring.events.iter().filter(|event| event.seq >= after);
        let answer = (events.cloned().collect(), ring.next);
        self.watched.store(rings.len(), Ordering::Relaxed);
        Some(answer)
    }

    /// Whether anybody is watched.
    pub(super) fn any(&self) -> bool {
        self.watched.load(Ordering::Relaxed) > 0
    }

    /// Notes what `device` did.
    pub(super) fn see(&self, device: &str, what: &'static str, text: &str) {
        let mut rings = self.lock();
        let Some(ring) = rings.get_mut(device) else {
            return;
        };
        if ring.events.len() == EVENTS {
            ring.events.pop_front();
        }
        let end = text.floor_char_boundary(TEXT_BYTES);
        ring.events.push_back(Event {
            seq: ring.next,
            at_ms: clock::unix().as_millis(),
            what: what.into(),
            text: text.get(..end).unwrap_or_default().to_owned(),
        });
        ring.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{EVENTS, Watches};

    #[test]
    fn only_a_watched_device_is_noted_and_a_slow_reader_sees_a_gap() {
        let watches = Watches::new(1);
        assert!(!watches.any());
        watches.see("a", "publish", "");
        assert_eq!(watches.events("a", 0), Some((Vec::new(), 0)));
        assert!(watches.any() && watches.events("b", 0).is_none());
        for n in 0..EVENTS + 3 {
            watches.see("a", "publish", &n.to_string());
            watches.see("b", "publish", "");
        }
        let (events, next) = watches.events("a", 0).unwrap();
        assert_eq!((events.len(), events[0].seq), (EVENTS, 3));
        let (events, _) = watches.events("a", next).unwrap();
        assert!(events.is_empty());
    }
}
