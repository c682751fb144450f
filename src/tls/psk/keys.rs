//! Which key an identity has; for unknown ones a made-up key, so that they fail like wrong keys.
//!
//! The made-up key is HMAC(secret of this process, identity): the same at every attempt, known
//! to nobody, and made in any case, so that neither the alert nor the time tells a known identity
//! from an unknown one.

use crate::config::secret::Secret;
use crate::tls::binder::hmac;
use crate::tls::psk::rotation::Preference;
use crate::tls::{KeySlot, MAX_IDENTITY_BYTES, PskHash, PskKeys, PskLookup};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What stands behind an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the rules.
    Known,
    /// In the rules, its key proved with another hash than it is registered for.
    OtherHash,
    /// Well-formed, but not in the rules.
    Unknown,
    /// Not looked at: it failed too often from its source.
    HeldBack,
    /// Empty, over [`MAX_IDENTITY_BYTES`], with a NUL, or not UTF-8.
    Invalid,
}

/// Two keys to try, real or made up.
pub struct Candidates {
    /// Whether the keys are real.
    pub standing: Standing,
    /// The current key.
    pub current: Secret,
    /// The next key; made up when there is none.
    pub next: Secret,
    /// Whether `next` is real.
    pub has_next: bool,
    /// What both are used with in TLS 1.3.
    pub hash: PskHash,
}

/// The keys of all identities.
pub struct Keyring {
    lookup: PskLookup,
    secret: [u8; 32],
    preference: Mutex<Preference>,
}

impl Keyring {
    /// Starts with a fresh secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(lookup: PskLookup) -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self {
            lookup,
            secret,
            preference: Mutex::new(Preference::default()),
        })
    }

    /// The identity as text, if it is one a rule may hold.
    #[must_use]
    pub fn valid(identity: &[u8]) -> Option<&str> {
        let sized = (1..=MAX_IDENTITY_BYTES).contains(&identity.len());
        std::str::from_utf8(identity)
            .ok()
            .filter(|_| sized && !identity.contains(&0))
    }

    /// Both keys of `identity`. Never unwinds, although the look-up is foreign code: this runs
    /// inside a callback of OpenSSL.
    #[must_use]
    pub fn candidates(&self, identity: &[u8]) -> Candidates {
        let made_up = |slot: &[u8]| Secret::new(hmac(&self.secret, &[slot, identity]).to_vec());
        let (current, next) = (made_up(b"current"), made_up(b"next"));
        let valid = Self::valid(identity).is_some();
        let found = catch_unwind(AssertUnwindSafe(|| {
            if valid { (self.lookup)(identity) } else { None }
        }));
        let found = found.ok().flatten().filter(|keys| !keys.key.is_empty());
        let standing = match (&found, valid) {
            (Some(_), _) => Standing::Known,
            (None, true) => Standing::Unknown,
            (None, false) => Standing::Invalid,
        };
        // A made-up key is copied as a real one was: making and wiping a copy takes its time.
        let keys = found.unwrap_or_else(|| PskKeys {
            key: Secret::new(current.expose().to_vec()),
            next_key: None,
            hash: PskHash::default(),
        });
        let next_key = keys.next_key.filter(|key| !key.is_empty());
        Candidates {
            standing,
            current: keys.key,
            has_next: next_key.is_some(),
            next: next_key.unwrap_or(next),
            hash: keys.hash,
        }
    }

    /// The one key TLS 1.2 is tried with: the identity's preferred one.
    #[must_use]
    pub fn choose(&self, identity: &[u8]) -> (Candidates, KeySlot) {
        let candidates = self.candidates(identity);
        let preferred = self.preference().slot(identity);
        let slot = if candidates.has_next {
            preferred
        } else {
            KeySlot::Current
        };
        (candidates, slot)
    }

    /// TLS 1.2 proved the key in `slot`: start with it next time.
    pub fn worked(&self, identity: &[u8], slot: KeySlot) {
        self.preference().set(identity, slot);
    }

    /// TLS 1.2 did not prove the key in `slot`: start with the other one next time.
    pub fn failed(&self, identity: &[u8], slot: KeySlot) {
        let other = match slot {
            KeySlot::Current => KeySlot::Next,
            KeySlot::Next => KeySlot::Current,
        };
        self.preference().set(identity, other);
    }

    fn preference(&self) -> MutexGuard<'_, Preference> {
        self.preference
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Keyring, Standing};
    use crate::config::secret::Secret;
    use crate::tls::{KeySlot, PskHash, PskKeys};
    use std::sync::Arc;

    fn ring() -> Keyring {
        Keyring::new(Arc::new(|identity| match identity {
            b"two" => {
                let next_key = Some(Secret::from("next-key"));
                Some(PskKeys {
                    key: Secret::from("key"),
                    next_key,
                    hash: PskHash::Sha256,
                })
            }
            b"empty" => Some(PskKeys {
                key: Secret::default(),
                next_key: None,
                hash: PskHash::Sha256,
            }),
            b"panic" => panic!("a look-up that panics"),
            _ => None,
        }))
        .unwrap()
    }

    #[test]
    fn identities_with_nul_bad_utf8_or_a_wrong_length_are_no_identities() {
        for bad in [&b""[..], b"a\0b", b"\xff\xfe", &[b'x'; 129]] {
            assert_eq!(Keyring::valid(bad), None);
            assert_eq!(ring().candidates(bad).standing, Standing::Invalid);
        }
        assert!(Keyring::valid(&[b'x'; 128]).is_some());
        assert_eq!(
            Keyring::valid("dévicé/日本".as_bytes()),
            Some("dévicé/日本")
        );
    }

    #[test]
    fn a_made_up_key_is_stable_secret_and_different_for_everyone() {
        let ring = ring();
        let first = ring.candidates(b"nobody");
        assert_eq!(first.standing, Standing::Unknown);
        assert_eq!(first.current, ring.candidates(b"nobody").current);
        assert_ne!(first.current, first.next);
        assert_ne!(first.current, ring.candidates(b"somebody").current);
        assert_ne!(
            first.current,
            super::Keyring::new(Arc::new(|_| None))
                .unwrap()
                .candidates(b"nobody")
                .current
        );
    }

    #[test]
    fn a_zero_length_key_and_a_panicking_look_up_admit_nobody() {
        assert_eq!(ring().candidates(b"empty").standing, Standing::Unknown);
        assert_eq!(ring().candidates(b"panic").standing, Standing::Unknown);
    }

    #[test]
    fn a_failed_key_is_followed_by_the_other_only_where_there_are_two() {
        let ring = ring();
        assert_eq!(ring.choose(b"two").1, KeySlot::Current);
        ring.failed(b"two", KeySlot::Current);
        assert_eq!(ring.choose(b"two").1, KeySlot::Next);
        ring.worked(b"two", KeySlot::Next);
        assert_eq!(ring.choose(b"two").1, KeySlot::Next);
        ring.failed(b"two", KeySlot::Next);
        assert_eq!(ring.choose(b"two").1, KeySlot::Current);
        ring.failed(b"nobody", KeySlot::Current);
        assert_eq!(ring.choose(b"nobody").1, KeySlot::Current);
    }
}
