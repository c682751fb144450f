//! Verifies the binder of a TLS 1.3 external PSK (RFC 8446 §4.2.11.2, §7.1). Pure.
//!
//! The binder proves, inside the ClientHello, that the client has the key. Checking it here says
//! which of an identity's two keys is used and with which hash, and lets a client without any be
//! refused before the TLS library is entered.

use crate::tls::PskHash;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha384};
use subtle::ConstantTimeEq;

/// Length of the longer of both hashes.
const LONGEST: usize = 48;

/// A hash or a secret: as many bytes of it as the hash has.
struct Block {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Block {
    fn of(bytes: &[u8]) -> Self {
        let mut block = Self {
            bytes: [0; LONGEST],
            len: bytes.len(),
        };
        block.bytes[..bytes.len()].copy_from_slice(bytes);
        block
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The hash of a truncated ClientHello; made once, used for every candidate key.
pub struct Transcript {
    hash: PskHash,
    digest: Block,
}

impl Transcript {
    /// Hashes the ClientHello up to its binders.
    #[must_use]
    pub fn of(hash: PskHash, truncated_hello: &[u8]) -> Self {
        let digest = digest(hash, truncated_hello);
        Self { hash, digest }
    }

    /// Whether `binder` was made with `key`. Takes the same time for every key and binder.
    #[must_use]
    pub fn proves(&self, key: &[u8], binder: &[u8]) -> bool {
        let hash = self.hash;
        let zeros = &[0; LONGEST][..self.digest.len()];
        let early_secret = mac(hash, zeros, &[key]);
        let empty = digest(hash, &[]);
        let binder_key = expand_label(hash, &early_secret, b"tls13 ext binder", &empty);
        let finished_key = expand_label(hash, &binder_key, b"tls13 finished", &[]);
        mac(hash, &finished_key, &[&self.digest])
            .ct_eq(binder)
            .into()
    }
}

fn digest(hash: PskHash, bytes: &[u8]) -> Block {
    match hash {
        PskHash::Sha256 => Block::of(&Sha256::digest(bytes)),
        PskHash::Sha384 => Block::of(&Sha384::digest(bytes)),
    }
}

/// HKDF-Expand-Label for one block of output; `label` includes the prefix `tls13 `.
fn expand_label(hash: PskHash, secret: &Block, label: &[u8], context: &[u8]) -> Block {
    // Labels, contexts and hashes are far below 256 bytes.
    let (label_len, context_len) = (label.len() as u8, context.len() as u8);
    mac(
        hash,
        secret,
        &[
            &[0, secret.len as u8, label_len],
            label,
            &[context_len],
            context,
            &[1],
        ],
    )
}

fn mac(hash: PskHash, key: &[u8], parts: &[&[u8]]) -> Block {
    match hash {
        PskHash::Sha256 => Block::of(&hmac(key, parts)),
        PskHash::Sha384 => {
            let mut mac =
                Hmac::<Sha384>::new_from_slice(key).expect("HMAC takes keys of every length");
            for part in parts {
                mac.update(part);
            }
            Block::of(&mac.finalize().into_bytes())
        }
    }
}

/// HMAC-SHA256 over `parts`, one after the other.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::{Block, PskHash, Transcript, digest, expand_label, hmac};

    /// RFC 8448 §3: the early secret without a PSK and what is derived from it.
    #[test]
    fn the_key_schedule_matches_rfc_8448() {
        let early = hmac(&[0; 32], &[&[0; 32]]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&early),
            "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"
        );
        let empty = digest(PskHash::Sha256, &[]);
        let derived = expand_label(
            PskHash::Sha256,
            &Block::of(&early),
            b"tls13 derived",
            &empty,
        );
        assert_eq!(
            hex(&derived),
            "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"
        );
    }

    #[test]
    fn a_binder_of_another_length_proves_nothing() {
        for hash in [PskHash::Sha256, PskHash::Sha384] {
            let transcript = Transcript::of(hash, b"hello");
            assert!(!transcript.proves(b"key", &[]));
            assert!(!transcript.proves(b"key", &[0; 48]));
            assert!(!transcript.proves(b"", &[0; 32]));
        }
    }
}
