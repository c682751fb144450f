//! PSK files: one identity a line, mosquitto's format and a little more.
//!
//! ```text
//! # comment
//! thermo-1:00112233445566778899aabbccddeeff
//! thermo-2:base64:ABEiM0RVZneImaq7zN3u/w==
//! thermo-3:hex:0011…ff next=hex:ffee…00
//! ```
//!
//! The identity ends at the first colon, so an identity cannot hold one here. The key is hex, as
//! mosquitto writes it, or says what it is by `hex:`, `base64:` or `raw:`. A second key for a
//! rotation follows after blanks as `next=KEY`; therefore a key in a file holds no blanks. The
//! identity is the device id, and has to be a valid one.

use super::encoding::{KeyBytes, parse_psk};
use crate::auth::identity::DeviceId;

/// One identity of a file.
pub struct PskLine<'a> {
    /// The identity, a valid device id.
    pub identity: &'a str,
    /// `key`
    pub key: KeyBytes,
    /// The text the key was written as, for lint.
    pub key_text: &'a str,
    /// `next_key`
    pub next_key: Option<KeyBytes>,
    /// See `key_text`.
    pub next_text: Option<&'a str>,
}

/// Parses one line; `None` for blank lines and comments. Blanks at both ends do not count. Keys
/// have `min` bytes at least.
///
/// # Errors
/// What is wrong and how to write it; never the line itself.
pub fn parse_line(line: &str, min: usize) -> Result<Option<PskLine<'_>>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err("the line holds a NUL byte");
    }
    let (identity, keys) = line
        .split_once(':')
        .ok_or("no colon; a line reads identity:KEY")?;
    check_identity(identity)?;
    let mut words = keys.split_ascii_whitespace();
    let key_text = words.next().ok_or("no key after the colon")?;
    let next_text = match words.next() {
        None => None,
        Some(word) => Some(
            word.strip_prefix("next=")
                .ok_or("only next=KEY may follow the key; a key holds no blanks (use base64:)")?,
        ),
    };
    if words.next().is_some() {
        return Err("too many words; a line reads identity:KEY [next=KEY]");
    }
    let key = parse_psk(key_text, min)?;
    let next_key = next_text.map(|text| parse_psk(text, min)).transpose()?;
    if next_key.as_ref() == Some(&key) {
        return Err("key and next key are the same; a rotation needs a new one");
    }
    Ok(Some(PskLine {
        identity,
        key,
        key_text,
        next_key,
        next_text,
    }))
}

/// The identities of files are device ids.
fn check_identity(identity: &str) -> Result<(), &'static str> {
    use crate::auth::identity::IdError;
    match DeviceId::parse(identity) {
        Ok(_) => Ok(()),
        Err(IdError::Empty) => Err("no identity before the colon"),
        Err(IdError::TooLong) => Err("the identity is longer than 128 bytes"),
        Err(IdError::Character) => {
            Err("the identity is no device id; letters, digits and - . _ are safe")
        }
    }
}

/// The lines of a file with their numbers, from 1; a byte order mark is skipped.
///
/// # Errors
/// The number of the first line that is not UTF-8.
pub fn lines(file: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, usize> {
    let text = std::str::from_utf8(file).map_err(|e| {
        let good = &file[..e.valid_up_to()];
        good.split(|b| *b == b'\n').count()
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok(text.lines().enumerate().map(|(i, line)| (i + 1, line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn refused(line: &str) -> bool {
        parse_line(line, 16).is_err()
    }

    #[test]
    fn mosquitto_lines_and_prefixes_are_read() {
        for line in [
            format!("thermo-1:{KEY}"),
            format!("  thermo-1:{}\r", KEY.to_uppercase()),
            format!("thermo-1:hex:{KEY}"),
            "thermo-1:base64:ABEiM0RVZneImaq7zN3u/w==".to_owned(),
        ] {
            let parsed = parse_line(&line, 16).ok().flatten().unwrap();
            assert_eq!(parsed.identity, "thermo-1");
            assert_eq!(parsed.key.as_slice()[..3], [0x00, 0x11, 0x22]);
            assert!(parsed.next_key.is_none());
        }
        assert!(parse_line("", 16).is_ok_and(|l| l.is_none()));
        assert!(parse_line("  # thermo-1:00", 16).is_ok_and(|l| l.is_none()));
    }

    #[test]
    fn a_second_key_follows_after_a_blank() {
        let line = format!("t:{KEY}  next=raw:sixteen-byte-key");
        let parsed = parse_line(&line, 16).ok().flatten().unwrap();
        assert_eq!(parsed.next_key.unwrap().as_slice(), b"sixteen-byte-key");
        assert!(refused(&format!("t:{KEY} next={KEY}")), "no rotation");
        assert!(refused(&format!("t:{KEY} {KEY}")));
        assert!(refused(&format!("t:{KEY} next=hex:00")));
        assert!(refused(&format!("t:{KEY}:next={KEY}")));
        assert!(refused(&format!("t:{KEY} next=raw:sixteen-byte-key x")));
    }

    #[test]
    fn identities_outside_the_grammar_are_refused() {
        let long = "x".repeat(129);
        for identity in [
            "",
            "a b",
            "a/b",
            "a#",
            "a+",
            "dévicé",
            "a\0b",
            long.as_str(),
        ] {
            assert!(refused(&format!("{identity}:{KEY}")), "{identity:?}");
        }
        assert!(!refused(&format!("{}:{KEY}", "x".repeat(128))));
        assert!(refused(KEY), "no colon");
        assert!(refused("t:"), "no key");
    }

    #[test]
    fn a_colon_in_an_identity_cannot_shift_the_key() {
        // `a:b` with a hex key reads as identity `a` with key `b:…`, which is no hex
        assert!(refused(&format!("a:b:{KEY}")));
    }

    #[test]
    fn byte_order_mark_and_bad_utf8() {
        let file = b"\xef\xbb\xbf# c\r\na:1\n";
        let lines: Vec<_> = super::lines(file).ok().unwrap().collect();
        assert_eq!(lines, [(1, "# c"), (2, "a:1")]);
        assert_eq!(super::lines(b"a\nb\n\xff\n").err(), Some(3));
    }
}
