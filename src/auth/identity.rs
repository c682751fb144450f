//! Names of devices and modules, parsed once.
//!
//! The grammar is the identity registry's: 1 to 128 ASCII characters, letters, digits and
//! `- . _ : % # * ? ! ( ) , = @ $ '` (wire sheet §1.3; the characters that differ between
//! editions of the documentation are taken from the newest). `/` and `+` never pass, so an id
//! can be a path segment or a topic level without surprise. `#` is allowed by the service but refused here, because
//! MQTT topics cannot carry it.

use std::fmt;
use std::sync::Arc;

/// The longest id the identity registry takes, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// A device id that fits the identity registry's grammar. Case matters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// A module id, same grammar.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(Arc<str>);

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("an id must have at least one character")]
    Empty,
    /// More than 128 bytes.
    #[error("an id may have at most 128 characters")]
    TooLong,
    /// A character outside the grammar.
    #[error("an id may only hold letters, digits and - . _ : % * ? ! ( ) , = @ $ '")]
    Character,
}

fn parse(text: &str) -> Result<Arc<str>, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:%*?!(),=@$'".contains(&b);
    if !text.bytes().all(fits) {
        return Err(IdError::Character);
    }
    Ok(text.into())
}

impl DeviceId {
    /// Parses `text`.
    ///
    /// # Errors
    /// When it is empty, too long or has a character the registry does not take.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        parse(text).map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ModuleId {
    /// Parses `text`.
    ///
    /// # Errors
    /// As [`DeviceId::parse`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        parse(text).map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
