//! Desired properties as a device knows them, so that each change reaches it once and in order
//! whatever becomes of the link they come by (wire sheet §4.7, §8.6). Pure.
//!
//! The hub pushes a change while a link is subscribed and says nothing of those it made before. So
//! on each new link the subscription is put again, and then the twin is read: where it is newer
//! than what the device knows, the difference is one change more. What the device knows is kept
//! for that (`known`), as far as its bound allows.
//!
//! ```text
//! first link:  read ─▶ put ─▶ read, compare ─▶ follow
//! next link:           put ─▶ read, compare ─▶ follow ─ a version is missing ─▶ read, compare
//! ```

use bytes::Bytes;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const VERSION: &str = "$version";

/// What the hub is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The twin.
    Get,
    /// The subscription to changes.
    Put,
}

/// A change for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// `$version` after it.
    pub version: i64,
    /// The JSON patch, `$version` included.
    pub body: Bytes,
}

/// What a push is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// The next change.
    Next(Update),
    /// One the device has.
    Repeated,
    /// Changes before it are missing; they are read, this one with them.
    Gap,
    /// No change at all; the twin is read instead.
    Unreadable,
}

/// Why an answer of the hub brings nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To be asked.
    Due(Ask),
    /// Asked, not answered.
    Asked(Ask),
    Follow,
}

/// What one device knows.
pub struct Desired {
    phase: Phase,
    /// The newest version the device has, or need not have.
    version: Option<i64>,
    /// The properties at that version, as JSON; `None` when they are larger than the bound.
    known: Option<Box<[u8]>>,
    bytes_max: usize,
    /// A push came on this link that was passed on.
    followed: bool,
    /// Something was missed since the twin was asked for.
    again: bool,
}

impl Desired {
    /// A device that subscribes now: it knows what the twin holds when it is read first. At most
    /// `bytes_max` bytes of it are kept.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            phase: Phase::Due(Ask::Get),
            version: None,
            known: None,
            bytes_max,
            followed: false,
            again: false,
        }
    }

    /// A new link: the hub has forgotten the subscription.
    pub fn attached(&mut self) {
        let first = self.version.map_or(Ask::Get, |_| Ask::Put);
        self.phase = Phase::Due(first);
        self.followed = false;
        self.again = false;
    }

    /// What is to be asked now.
    #[must_use]
    pub fn due(&self) -> Option<Ask> {
        match self.phase {
            Phase::Due(ask) => Some(ask),
            Phase::Asked(_) | Phase::Follow => None,
        }
    }

    /// It was asked.
    pub fn asked(&mut self) {
        if let Phase::Due(ask) = self.phase {
            self.phase = Phase::Asked(ask);
            self.again = false;
        }
    }

    /// Whether changes come as they are made.
    #[cfg(test)]
    pub fn follows(&self) -> bool {
        self.phase == Phase::Follow
    }

    /// What is kept of the properties, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.len())
    }

    /// What was asked is to be asked again.
    pub fn failed(&mut self) {
        if let Phase::Asked(ask) = self.phase {
            self.phase = Phase::Due(ask);
        }
    }

    /// The hub has taken the subscription.
    pub fn subscribed(&mut self) {
        if self.phase == Phase::Asked(Ask::Put) {
            self.phase = Phase::Due(Ask::Get);
        }
    }

    /// The twin; the change it holds, if it holds one.
    ///
    /// # Errors
    /// When it cannot be read: it is to be asked for again.
    pub fn read(&mut self, body: &[u8]) -> Result<Option<Update>, Unanswered> {
        if self.phase != Phase::Asked(Ask::Get) {
            return Ok(None);
        }
        let Some((version, current)) = twin(body) else {
            self.failed();
            return Err(Unanswered);
        };
        let Some(had) = self.version else {
            self.keep(version, &current);
            self.phase = Phase::Due(Ask::Put);
            return Ok(None);
        };
        self.phase = match self.again {
            true => Phase::Due(Ask::Get),
            false => Phase::Follow,
        };
        // An older version is a twin that was read before the newest push; without one, it is
        // another twin: the device was made anew.
        let is_other = version < had && !self.followed && !self.again;
        if version <= had && !is_other {
            return Ok(None);
        }
        let known = self.known.as_deref().and_then(object).unwrap_or_default();
        let body = written(difference(&known, &current), version);
        self.keep(version, &current);
        Ok(Some(Update { version, body }))
    }

    /// A change the hub pushed.
    pub fn pushed(&mut self, body: &Bytes) -> Push {
        let patch = object(body);
        let numbered = patch.and_then(|patch| {
            let version = patch.get(VERSION)?.as_i64()?;
            Some((version, patch))
        });
        let Some((version, patch)) = numbered else {
            self.missed();
            return Push::Unreadable;
        };
        let Some(had) = self.version else {
            // The twin is read before the subscription is put: nobody asked for this one.
            return Push::Repeated;
        };
        if version <= had {
            return Push::Repeated;
        }
        if version > had + 1 {
            self.missed();
            return Push::Gap;
        }
        self.followed = true;
        let known = self.known.as_deref().and_then(object);
        match known {
            Some(mut known) => {
                merge(&mut known, patch);
                self.keep(version, &known);
            }
            None => self.version = Some(version),
        }
        let body = body.clone();
        Push::Next(Update { version, body })
    }

    fn missed(&mut self) {
        match self.phase {
            Phase::Follow => self.phase = Phase::Due(Ask::Get),
            Phase::Asked(Ask::Get) => self.again = true,
            Phase::Asked(Ask::Put) | Phase::Due(_) => {}
        }
    }

    fn keep(&mut self, version: i64, current: &Object) {
        self.version = Some(version);
        let json = serde_json::to_vec(current).unwrap_or_default();
        let fits = !json.is_empty() && json.len() <= self.bytes_max;
        self.known = fits.then(|| json.into_boxed_slice());
    }
}

fn object(json: &[u8]) -> Option<Object> {
    serde_json::from_slice(json).ok()
}

/// Version and desired properties of a twin.
fn twin(body: &[u8]) -> Option<(i64, Object)> {
    #[derive(serde::Deserialize)]
    struct Twin {
        desired: Object,
    }
    let Twin { mut desired } = serde_json::from_slice(body).ok()?;
    let version = desired.remove(VERSION)?.as_i64()?;
    desired.remove("$metadata");
    Some((version, desired))
}

/// Applies a patch: null takes a property away, an object changes what is in it.
fn merge(known: &mut Object, patch: Object) {
    for (key, value) in patch {
        match value {
            _ if key == VERSION || key == "$metadata" => {}
            Value::Null => {
                known.remove(&key);
            }
            Value::Object(inner) => {
                let place = known.entry(key).or_insert(Value::Null);
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                if let Value::Object(known) = place {
                    merge(known, inner);
                }
            }
            value => {
                known.insert(key, value);
            }
        }
    }
}

/// The patch that makes `current` of `known`.
fn difference(known: &Object, current: &Object) -> Object {
    let mut patch = Map::new();
    for (key, value) in current {
        match (known.get(key), value) {
            (Some(before), value) if before == value => {}
            (Some(Value::Object(before)), Value::Object(now)) => {
                patch.insert(key.clone(), difference(before, now).into());
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in known.keys().filter(|key| !current.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

fn written(mut patch: Object, version: i64) -> Bytes {
    patch.insert(VERSION.to_owned(), version.into());
    serde_json::to_vec(&patch).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
