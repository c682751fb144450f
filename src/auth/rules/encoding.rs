//! Key material as text: `hex:`, `base64:`, `raw:`; without a prefix hex, as mosquitto writes it.

use crate::runtime::hex::hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Shortest pre-shared key taken, bytes, where `min_key_bytes` does not say less (RFC 9257 §4.1
/// asks for 128 bits of entropy).
pub const PSK_BYTES_MIN: usize = 16;
/// Least `min_key_bytes`: a shorter key is guessed in one evening.
pub const PSK_BYTES_FLOOR: usize = 4;
/// Longest pre-shared key taken, bytes: OpenSSL's `PSK_MAX_PSK_LEN`.
pub const PSK_BYTES_MAX: usize = 256;
/// Shortest and longest SAS key of a device, bytes: the identity registry's bounds.
const SAS_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// A secret on its way into a store; wiped on drop.
pub type KeyBytes = Zeroizing<Vec<u8>>;

/// Decodes hex digits of either case; `None` when there is another character or an odd number.
#[must_use]
pub fn decode_hex(text: &[u8]) -> Option<KeyBytes> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.chunks_exact(2) {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(bytes)
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

/// Writes lower-case hex, of what may be a secret.
#[must_use]
pub fn encode_hex(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(hex(bytes))
}

/// Decodes padded standard base64.
#[must_use]
pub fn decode_base64(text: &str) -> Option<KeyBytes> {
    STANDARD.decode(text).ok().map(Zeroizing::new)
}

/// The hash a pre-shared key is used with in TLS 1.3 (RFC 8446 §4.2.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PskHash {
    /// SHA-256, unless said otherwise.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
}

/// Parses a pre-shared key and refuses weak ones: those of less than `min` bytes.
///
/// # Errors
/// What is wrong and how to write it, without the key.
pub fn parse_psk(text: &str, min: usize) -> Result<KeyBytes, &'static str> {
    let key = if let Some(hex) = text.strip_prefix("hex:") {
        decode_hex(hex.as_bytes()).ok_or("the key after `hex:` is not pairs of hex digits")?
    } else if let Some(base64) = text.strip_prefix("base64:") {
        decode_base64(base64).ok_or("the key after `base64:` is not padded base64")?
    } else if let Some(raw) = text.strip_prefix("raw:") {
        Zeroizing::new(raw.as_bytes().to_vec())
    } else {
        decode_hex(text.as_bytes())
            .ok_or("the key is not hex; write hex:…, base64:… or raw:… to say what it is")?
    };
    check_psk(&key, min)?;
    Ok(key)
}

/// What is said of a key shorter than [`PSK_BYTES_MIN`].
pub const SHORT_KEY: &str = "the key is shorter than 16 bytes; make one with `psk generate`, or \
                             take it over by min_key_bytes";

/// Refuses keys no attacker would miss: shorter than `min` bytes, or all zeros.
///
/// # Errors
/// What is wrong with it.
pub fn check_psk(key: &[u8], min: usize) -> Result<(), &'static str> {
    if key.len() < min.max(PSK_BYTES_FLOOR) {
        return Err(match min {
            PSK_BYTES_MIN => SHORT_KEY,
            min if min > PSK_BYTES_FLOOR => "the key is shorter than min_key_bytes says",
            _ => {
                "the key is shorter than 16 bytes, and than the 4 that min_key_bytes can take; \
                 make one with `psk generate`"
            }
        });
    }
    if key.len() > PSK_BYTES_MAX {
        return Err("the key is longer than 256 bytes");
    }
    if key.iter().all(|b| *b == 0) {
        return Err("the key is all zeros; make one with `psk generate`");
    }
    Ok(())
}

/// Parses a device's SAS key: base64, 16 to 64 bytes.
///
/// # Errors
/// What is wrong, without the key.
pub fn parse_sas_key(text: &str) -> Result<KeyBytes, &'static str> {
    let key = decode_base64(text.trim()).ok_or("the key is not base64 (the registry's form)")?;
    if !SAS_BYTES.contains(&key.len()) {
        return Err("a SAS key has 16 to 64 bytes, in base64");
    }
    Ok(key)
}

/// Why an encoding could be read in two ways; for `psk lint`.
#[must_use]
pub fn ambiguity(text: &str) -> Option<&'static str> {
    let is_hex = |t: &str| {
        t.len() >= 2 * PSK_BYTES_MIN && t.len().is_multiple_of(2) && {
            t.bytes().all(|b| b.is_ascii_hexdigit())
        }
    };
    if text.strip_prefix("base64:").is_some_and(is_hex) {
        Some("the key after `base64:` is also hex; write hex: if that is meant")
    } else if text.strip_prefix("raw:").is_some_and(is_hex) {
        Some("the key after `raw:` is also hex; write hex: if that is meant")
    } else if text.strip_prefix("raw:").is_some_and(looks_like_base64) {
        Some("the key after `raw:` looks like base64; write base64: if that is meant")
    } else {
        None
    }
}

fn looks_like_base64(text: &str) -> bool {
    text.len() >= 24 && text.ends_with('=') && decode_base64(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_of_a_key_are_kept() {
        let key = parse_psk("00000000000000000000000000000001", 16).unwrap();
        assert_eq!(key.len(), 16);
        assert_eq!(key[15], 1);
        assert_eq!(*encode_hex(&key), "00000000000000000000000000000001");
    }

    #[test]
    fn keys_of_every_length_are_taken_from_16_bytes_on() {
        for length in 0..=64usize {
            let text = format!("hex:{}", "a5".repeat(length));
            assert_eq!(parse_psk(&text, 16).is_ok(), length >= 16, "{length}");
        }
        assert!(parse_psk(&"a5".repeat(257), 16).is_err());
    }

    #[test]
    fn short_keys_are_taken_where_that_was_asked_for_from_4_bytes_on() {
        for length in 0..=20usize {
            let text = format!("hex:{}", "a5".repeat(length));
            assert_eq!(parse_psk(&text, 6).is_ok(), length >= 6, "{length}");
            assert_eq!(parse_psk(&text, 0).is_ok(), length >= 4, "{length}");
        }
        assert!(parse_psk("hex:00000000", 4).is_err(), "all zeros");
    }

    #[test]
    fn weak_or_misread_keys_are_refused() {
        for bad in [
            "",
            "hex:",
            "0",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeefg",
            "00000000000000000000000000000000",
            "base64:AAAA",
            "base64:not base64 at all!",
            "raw:short",
            "0x00112233445566778899aabbccddeeff",
        ] {
            assert!(parse_psk(bad, 16).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_key_reads_the_same_in_three_encodings() {
        let raw = parse_psk("raw:sixteen-byte-key", 16).unwrap();
        let hex = parse_psk("hex:7369787465656e2d627974652d6b6579", 16).unwrap();
        let base64 = parse_psk("base64:c2l4dGVlbi1ieXRlLWtleQ==", 16).unwrap();
        assert!(raw == hex && hex == base64);
    }

    #[test]
    fn lint_sees_keys_that_read_in_two_ways() {
        assert!(ambiguity("base64:00112233445566778899aabbccddeeff").is_some());
        assert!(ambiguity("raw:00112233445566778899aabbccddeeff").is_some());
        assert!(ambiguity("raw:c2l4dGVlbi1ieXRlLWtleQ==").is_some());
        assert!(ambiguity("hex:00112233445566778899aabbccddeeff").is_none());
        assert!(ambiguity("raw:sixteen-byte-key").is_none());
    }
}
