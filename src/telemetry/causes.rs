//! The last causes for which devices were refused or lost, for whoever asks about one; pure.
//!
//! One entry per name and reason: what happens again is counted, not kept again, so that a device
//! that retries all night is one line. Names that proved themselves and strangers are kept apart,
//! so that a flood of names nobody knows pushes out no device. Bounded by `limits.causes`.

use crate::runtime::clock::Unix;
use crate::telemetry::reason::Reason;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes kept of a text or a name.
const TEXT_BYTES: usize = 256;
/// Bytes kept of a hint.
const HINT_BYTES: usize = 1024;

/// Why somebody was refused or lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cause {
    /// When it happened last, seconds since 1970.
    pub at: u64,
    /// When it happened first.
    pub first: u64,
    /// How often.
    pub count: u64,
    /// A few words, e.g. `connection refused`.
    pub what: Cow<'static, str>,
    /// The word of the reason, as in the log.
    pub reason: Cow<'static, str>,
    /// IoT Hub's error code, empty where it has none.
    pub code: Cow<'static, str>,
    /// What was said, the hub's words where they are known.
    pub text: String,
    /// What to do, empty where nothing is wrong.
    pub fix: Cow<'static, str>,
    /// The rule or entry that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
    /// Listener, empty when it was met at the hub.
    pub listener: String,
    /// The peer's address without its port.
    pub source: String,
    /// What the peer called itself: credentials as `check --as` takes them.
    pub identity: String,
    /// Its client id.
    pub client_id: String,
    /// The `check` that asks again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Cause {
    /// A cause of this reason.
    #[must_use]
    pub fn of(what: &'static str, reason: Reason, text: &str) -> Self {
        Self {
            what: what.into(),
            reason: reason.word().into(),
            code: reason.hub_code().into(),
            text: cut(text, TEXT_BYTES),
            fix: reason.fix().into(),
            ..Self::default()
        }
    }

    /// What the hub refused a device, in the hub's words.
    #[must_use]
    pub fn at_hub(text: &str) -> Self {
        Self {
            what: "hub refuses".into(),
            text: cut(text, TEXT_BYTES),
            ..Self::default()
        }
    }

    /// Whether it is about `id`: a device, a client id, a credential's name or an address.
    #[must_use]
    pub fn concerns(&self, id: &str) -> bool {
        let named = |credential: &str| {
            credential == id
                || credential
                    .split_once(':')
                    .is_some_and(|(_, name)| name == id)
        };
        self.client_id == id || self.source == id || self.identity.split(' ').any(named)
    }

    /// By what it is found again: the device, else the name, else the address.
    #[must_use]
    pub fn who(&self) -> &str {
        let names = [&self.client_id, &self.identity, &self.source];
        let name = names.into_iter().find(|name| !name.is_empty());
        name.map_or("", |name| name)
    }

    fn key(&self) -> Key {
        (self.who().to_owned(), self.reason.clone())
    }

    fn bounded(mut self) -> Self {
        for text in [&mut self.identity, &mut self.client_id, &mut self.source] {
            *text = cut(text, TEXT_BYTES);
        }
        for text in [&mut self.rule, &mut self.expected, &mut self.got]
            .into_iter()
            .flatten()
        {
            *text = cut(text, TEXT_BYTES);
        }
        // Half a command would be a wrong one.
        self.hint = self.hint.filter(|hint| hint.len() <= HINT_BYTES);
        self
    }
}

fn cut(text: &str, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes);
    text.get(..end).unwrap_or_default().to_owned()
}

/// A name and a reason.
type Key = (String, Cow<'static, str>);

/// One bounded set.
#[derive(Default)]
struct Kept {
    entries: HashMap<Key, (u64, Cause)>,
    /// By age of their latest occurrence.
    order: BTreeMap<u64, Key>,
    next: u64,
}

impl Kept {
    fn note(&mut self, cause: Cause, now: Unix, max: usize) {
        let (key, at, seq) = (cause.key(), now.as_secs(), self.next);
        self.next += 1;
        let before = self.entries.remove(&key);
        if let Some((place, _)) = &before {
            self.order.remove(place);
        }
        let known = before.map_or_else(
            || Cause {
                first: at,
                ..Cause::default()
            },
            |(_, known)| known,
        );
        // In a flood less is found out about each; what is known already stays.
        let cause = Cause {
            at,
            first: known.first,
            count: known.count + 1,
            rule: cause.rule.or(known.rule),
            expected: cause.expected.or(known.expected),
            got: cause.got.or(known.got),
            hint: cause.hint.or(known.hint),
            ..cause
        };
        self.order.insert(seq, key.clone());
        self.entries.insert(key, (seq, cause));
        while self.entries.len() > max {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }
}

/// The causes of the process.
pub struct Causes {
    max: usize,
    /// Devices that had proved themselves.
    devices: Mutex<Kept>,
    strangers: Mutex<Kept>,
}

impl Causes {
    /// Keeps `max` of devices and as many of strangers.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            devices: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    /// Of a device that had proved itself.
    pub fn of_device(&self, cause: Cause, now: Unix) {
        lock(&self.devices).note(cause.bounded(), now, self.max);
    }

    /// Of somebody who proved nothing.
    pub fn of_stranger(&self, cause: Cause, now: Unix) {
        lock(&self.strangers).note(cause.bounded(), now, self.max);
    }

    /// Everything that is about `id`, the latest first.
    #[must_use]
    pub fn about(&self, id: &str) -> Vec<Cause> {
        self.select(|cause| cause.concerns(id))
    }

    /// The latest ones, at most `max`.
    #[must_use]
    pub fn latest(&self, max: usize) -> Vec<Cause> {
        let mut all = self.select(|_| true);
        all.truncate(max);
        all
    }

    fn select(&self, wanted: impl Fn(&Cause) -> bool) -> Vec<Cause> {
        let mut found = Vec::new();
        for kept in [&self.devices, &self.strangers] {
            let kept = lock(kept);
            let causes = kept.entries.values().map(|(_, cause)| cause);
            found.extend(causes.filter(|cause| wanted(cause)).cloned());
        }
        found.sort_by_key(|cause| std::cmp::Reverse(cause.at));
        found
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Cause, Causes};
    use crate::runtime::clock::Unix;
    use crate::telemetry::reason::Reason;

    fn at(seconds: u64) -> Unix {
        Unix::from_secs(seconds)
    }

    fn cause(identity: &str, reason: Reason) -> Cause {
        Cause {
            identity: identity.to_owned(),
            source: "192.0.2.1".to_owned(),
            ..Cause::of("connection refused", reason, "text")
        }
    }

    #[test]
    fn what_happens_again_is_counted_and_found_by_each_of_its_names() {
        let causes = Causes::new(10);
        for second in 1..=3 {
            causes.of_stranger(cause("psk:thermo-1", Reason::PskWrongKey), at(second));
        }
        causes.of_stranger(cause("psk:thermo-1", Reason::PskUnknown), at(9));
        for id in ["thermo-1", "psk:thermo-1", "192.0.2.1"] {
            let found = causes.about(id);
            assert_eq!(found.len(), 2, "{id}");
            assert_eq!(found[0].reason, "psk_unknown");
            assert_eq!((found[1].first, found[1].at, found[1].count), (1, 3, 3));
        }
        assert!(causes.about("thermo").is_empty());
    }

    #[test]
    fn what_is_known_already_stays_when_less_is_found_out() {
        let causes = Causes::new(10);
        let mut full = cause("psk:a", Reason::RuleDenied);
        full.rule = Some("not these".to_owned());
        causes.of_stranger(full, at(1));
        causes.of_stranger(cause("psk:a", Reason::RuleDenied), at(2));
        let found = &causes.about("a")[0];
        assert_eq!((found.count, found.rule.as_deref()), (2, Some("not these")));
    }

    #[test]
    fn a_flood_of_strangers_pushes_out_no_device_and_grows_nothing() {
        let causes = Causes::new(100);
        let mut known = cause("psk:pump-1", Reason::GoneStolen);
        known.client_id = "pump-1".to_owned();
        causes.of_device(known, at(1));
        for n in 0..10_000 {
            causes.of_stranger(cause(&format!("psk:{n}"), Reason::PskUnknown), at(2));
        }
        assert_eq!(causes.about("pump-1").len(), 1);
        assert_eq!(causes.about("192.0.2.1").len(), 101);
        assert_eq!(causes.latest(7).len(), 7);
    }

    #[test]
    fn long_texts_are_cut_and_half_a_command_is_none() {
        let causes = Causes::new(1);
        let mut long = cause(&"ä".repeat(1000), Reason::PskUnknown);
        long.hint = Some("x".repeat(2000));
        causes.of_stranger(long, at(1));
        let kept = &causes.latest(1)[0];
        assert_eq!((kept.identity.len(), kept.hint.as_ref()), (256, None));
    }
}
