//! A device twin: tags, desired and reported properties, their versions and sizes. Pure: what a
//! change makes of it is decided here, who is told of it is not.

mod patch;
#[cfg(test)]
mod tests;

use crate::emulator::errors::{hex, iso8601, random};
use crate::runtime::clock::Unix;
use serde_json::{Map, Value, json};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TwinError {
    /// The version or etag the change named is not the current one.
    #[error("Precondition failed: the twin is at another version.")]
    Version,
    /// No JSON object, or one the service does not take.
    #[error("{0}")]
    Invalid(String),
    /// The document would be larger than the service allows.
    #[error("The {0} would be larger than {1} bytes.")]
    TooLarge(&'static str, usize),
    /// All twins together would be larger than this emulator holds.
    #[error("The emulator holds no more twins; raise twins_bytes_max.")]
    Full,
}

/// Largest sizes of the parts, bytes of JSON (wire sheet §7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TwinSizes {
    pub(crate) tags: usize,
    pub(crate) desired: usize,
    pub(crate) reported: usize,
}

/// What the service side asks for: parts that are absent stay as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) tags: Option<Object>,
    pub(crate) desired: Option<Object>,
    /// The parts become what is given, instead of being merged with it.
    pub(crate) replace: bool,
}

/// Desired or reported properties.
#[derive(Clone, Debug)]
struct Section {
    value: Object,
    metadata: Object,
    version: i64,
}

/// A twin.
#[derive(Clone, Debug)]
pub(crate) struct Twin {
    tags: Object,
    desired: Section,
    reported: Section,
    version: i64,
    etag: String,
}

impl Section {
    fn new() -> Self {
        Self {
            value: Object::new(),
            metadata: Object::new(),
            version: 1,
        }
    }

    /// Merges `patch`; sizes are checked before anything changes.
    fn merge(
        &mut self,
        patch: &Object,
        at: Unix,
        limit: (&'static str, usize),
    ) -> Result<(), TwinError> {
        let mut value = self.value.clone();
        patch::merge(&mut value, patch);
        if size(&value) > limit.1 {
            return Err(TwinError::TooLarge(limit.0, limit.1));
        }
        self.value = value;
        patch::stamp(&mut self.metadata, patch, &iso8601(at));
        self.version += 1;
        Ok(())
    }

    /// As a device sees it.
    fn plain(&self) -> Value {
        let mut value = self.value.clone();
        value.insert("$version".to_owned(), json!(self.version));
        Value::Object(value)
    }

    /// As the service side sees it.
    fn whole(&self) -> Value {
        let mut value = self.plain();
        value["$metadata"] = Value::Object(self.metadata.clone());
        value
    }

    fn bytes(&self) -> usize {
        size(&self.value) + size(&self.metadata)
    }
}

fn size(value: &Object) -> usize {
    // Maps with text for keys can always be written.
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

impl Twin {
    /// An empty twin, both versions 1.
    pub(crate) fn new() -> Self {
        Self {
            tags: Object::new(),
            desired: Section::new(),
            reported: Section::new(),
            version: 1,
            etag: hex(&random::<6>()),
        }
    }

    /// Bytes it holds, for the bound on all twins.
    pub(crate) fn bytes(&self) -> usize {
        size(&self.tags) + self.desired.bytes() + self.reported.bytes()
    }

    /// What the device's GET answers (wire sheet §4.7).
    pub(crate) fn for_device(&self) -> Value {
        json!({ "desired": self.desired.plain(), "reported": self.reported.plain() })
    }

    /// The parts of the service's twin document that are kept here (wire sheet §9.4).
    pub(crate) fn for_service(&self) -> Value {
        json!({
            "etag": self.etag,
            "version": self.version,
            "tags": self.tags,
            "properties": { "desired": self.desired.whole(), "reported": self.reported.whole() },
        })
    }

    /// The device reports; the new `$version`. `expected` is the version it believes current.
    pub(crate) fn report(
        &mut self,
        patch: &Object,
        expected: Option<i64>,
        at: Unix,
        sizes: TwinSizes,
    ) -> Result<i64, TwinError> {
        if expected.is_some_and(|version| version != self.reported.version) {
            return Err(TwinError::Version);
        }
        patch::check(patch)?;
        self.reported
            .merge(patch, at, ("reported properties", sizes.reported))?;
        self.changed();
        Ok(self.reported.version)
    }

    /// The service side changes it. What devices that subscribed are told, if desired properties
    /// were part of it: the patch with its `$version`.
    pub(crate) fn update(
        &mut self,
        change: &Change,
        etag: Option<&str>,
        at: Unix,
        sizes: TwinSizes,
    ) -> Result<Option<Object>, TwinError> {
        if etag.is_some_and(|etag| etag != "*" && etag != self.etag) {
            return Err(TwinError::Version);
        }
        let tags = change.tags.as_ref().map(patch::without_marks);
        let desired = change.desired.as_ref().map(patch::without_marks);
        for part in [&tags, &desired].into_iter().flatten() {
            patch::check(part)?;
        }
        if let Some(patch) = &tags {
            let mut tags = match change.replace {
                true => Object::new(),
                false => self.tags.clone(),
            };
            patch::merge(&mut tags, patch);
            if size(&tags) > sizes.tags {
                return Err(TwinError::TooLarge("tags", sizes.tags));
            }
            self.tags = tags;
        }
        let told = match desired {
            None => None,
            Some(patch) => {
                let patch = match change.replace {
                    true => patch::replacement(&self.desired.value, patch),
                    false => patch,
                };
                self.desired
                    .merge(&patch, at, ("desired properties", sizes.desired))?;
                let mut told = patch;
                told.insert("$version".to_owned(), json!(self.desired.version));
                Some(told)
            }
        };
        self.changed();
        Ok(told)
    }

    fn changed(&mut self) {
        self.version += 1;
        self.etag = hex(&random::<6>());
    }
}
