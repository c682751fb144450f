//! Verifies the binder of a TLS 1.3 external PSK (RFC 8446 §4.2.11.2, §7.1). Pure.
//!
//! The binder proves, inside the ClientHello, that the client has the key. Checking it here says
//! which of an identity's two keys is used, and lets a client without any be refused before the
//! TLS library is entered. Only SHA-256, the hash of external keys (RFC 8446 §4.2.11).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Length of a hash, a secret and a binder.
const HASH: usize = 32;

/// The hash of a truncated ClientHello; made once, used for every candidate key.
pub struct Transcript([u8; HASH]);

impl Transcript {
    /// Hashes the ClientHello up to its binders.
    #[must_use]
    pub fn of(truncated_hello: &[u8]) -> Self {
        Self(Sha256::digest(truncated_hello).into())
    }

    /// Whether `binder` was made with `key`. Takes the same time for every key and binder.
    #[must_use]
    pub fn proves(&self, key: &[u8], binder: &[u8]) -> bool {
        let early_secret = hmac(&[0; HASH], &[key]);
        let empty: [u8; HASH] = Sha256::digest([]).into();
        let binder_key = expand_label(&early_secret, b"tls13 ext binder", &empty);
        let finished_key = expand_label(&binder_key, b"tls13 finished", &[]);
        hmac(&finished_key, &[&self.0]).ct_eq(binder).into()
    }
}

/// HKDF-Expand-Label for one block of output; `label` includes the prefix `tls13 `.
fn expand_label(secret: &[u8; HASH], label: &[u8], context: &[u8]) -> [u8; HASH] {
    // Labels and contexts are the constants above: far below 256 bytes.
    let (label_len, context_len) = (label.len() as u8, context.len() as u8);
    hmac(
        secret,
        &[
            &[0, HASH as u8, label_len],
            label,
            &[context_len],
            context,
            &[1],
        ],
    )
}

/// HMAC-SHA256 over `parts`, one after the other.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; HASH] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::{Transcript, expand_label, hmac};
    use sha2::{Digest, Sha256};

    /// RFC 8448 §3: the early secret without a PSK and what is derived from it.
    #[test]
    fn the_key_schedule_matches_rfc_8448() {
        let early = hmac(&[0; 32], &[&[0; 32]]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&early),
            "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"
        );
        let empty: [u8; 32] = Sha256::digest([]).into();
        assert_eq!(
            hex(&expand_label(&early, b"tls13 derived", &empty)),
            "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"
        );
    }

    #[test]
    fn a_binder_of_another_length_proves_nothing() {
        let transcript = Transcript::of(b"hello");
        assert!(!transcript.proves(b"key", &[]));
        assert!(!transcript.proves(b"key", &[0; 48]));
        assert!(!transcript.proves(b"", &[0; 32]));
    }
}
