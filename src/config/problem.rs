//! One thing wrong with the configuration: where, what, and what to do about it.

use std::fmt;

/// A mistake (or, in a list of warnings, something worth a second look).
///
/// Never holds a secret: values that come from `${…}` or belong to secret keys are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, with the line when it is known (`gateway.toml:12`), or
    /// `environment VARIABLE`.
    pub file: String,
    /// The key's path: `hub.token_ttl`, `listener[0].bind`. Empty when the whole file is meant.
    pub key: String,
    /// What is wrong and the fix, one printable line.
    pub message: String,
}

impl Problem {
    /// A problem at `key` of `file`.
    #[must_use]
    pub fn new(
        file: impl Into<String>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            key: key.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}: {}: {}", self.file, self.key, self.message)
        }
    }
}
