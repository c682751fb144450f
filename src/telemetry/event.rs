//! What a watched device does, as it is noted and as the API shows it.

use std::borrow::Cow;

/// Something a watched device did or met.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Counts events of this watch; a gap says that some were lost.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// One word: `connect_refused`, `connected`, `publish`, `accepted` and the like.
    pub what: Cow<'static, str>,
    /// Topic, size, reason, as far as the word has any; never a payload.
    pub text: String,
}
