//! Names of devices and modules, parsed once.
//!
//! The grammar is the identity registry's: 1 to 128 ASCII characters, letters, digits and
//! `- . _ : % # * ? ! ( ) , = @ $ '` (wire sheet §1.3; the characters that differ between
//! editions of the documentation are taken from the newest). `/` and `+` never pass, so an id
//! can be a path segment or a topic level without surprise. `#` is allowed by the service but
//! refused here, because MQTT topics cannot carry it.

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

/// Splits an MQTT client id, `{device}` or `{device}/{module}` (wire sheet §8.1).
///
/// # Errors
/// When a part is no id, or there are more than two.
pub fn parse_client_id(text: &str) -> Result<(DeviceId, Option<ModuleId>), IdError> {
    match text.split_once('/') {
        None => Ok((DeviceId::parse(text)?, None)),
        Some((device, module)) => Ok((DeviceId::parse(device)?, Some(ModuleId::parse(module)?))),
    }
}

/// Whether `text` is the client id of this device or module, byte by byte.
#[must_use]
pub fn is_client_id(text: &str, device: &DeviceId, module: Option<&ModuleId>) -> bool {
    match (text.split_once('/'), module) {
        (None, None) => text == device.as_str(),
        (Some((d, m)), Some(module)) => d == device.as_str() && m == module.as_str(),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_registry_grammar_are_refused() {
        let bad = [
            "",
            "a b",
            "a/b",
            "a+b",
            "a#",
            "a\0",
            "dév",
            "a\nb",
            "..\u{2044}x",
            "a\u{200b}",
            "a&b",
            "a;b",
            "a\"b",
            "a\\b",
            "[a]",
            "{a}",
            "a^b",
            "a`b",
            "a|b",
            "a~b",
            "a<b",
        ];
        for id in bad {
            assert!(DeviceId::parse(id).is_err(), "{id:?}");
        }
        assert!(DeviceId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(DeviceId::parse(&"x".repeat(129)), Err(IdError::TooLong));
        assert!(DeviceId::parse("a%2Fb..$'(1)*!?=@,:_-").is_ok());
    }

    #[test]
    fn client_ids_have_one_or_two_parts() {
        assert!(parse_client_id("d").is_ok_and(|(_, m)| m.is_none()));
        assert!(parse_client_id("d/m").is_ok_and(|(_, m)| m.is_some()));
        for bad in ["", "/", "d/", "/m", "d/m/x", "d//m"] {
            assert!(parse_client_id(bad).is_err(), "{bad:?}");
        }
    }
}
