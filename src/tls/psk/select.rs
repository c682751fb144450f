//! TLS 1.3: finds the offered identity whose key the client has proved by the binder. Pure.
//!
//! A client that proved none is refused here, with one alert for every cause, before OpenSSL or
//! any asymmetric operation: the TLS 1.3 code of OpenSSL is reached by holders of a key only.

use crate::config::secret::Secret;
use crate::tls::binder::Transcript;
use crate::tls::hello::Hello;
use crate::tls::psk::keys::{Keyring, Standing};
use crate::tls::psk::refused;
use crate::tls::refusal::Refusal;
use crate::tls::{KeySlot, PskAttempts, PskHash};

/// An identity whose key was proved.
#[derive(Debug)]
pub struct Proved {
    /// As sent.
    pub identity: String,
    /// The key that made the binder.
    pub key: Secret,
    /// Which one it is.
    pub slot: KeySlot,
    /// What the key is used with.
    pub hash: PskHash,
}

/// Takes the first offer that verifies.
///
/// # Errors
/// The most telling cause: a known identity before an unknown one before an invalid one.
pub fn select(
    hello: &Hello,
    keyring: &Keyring,
    throttle: &dyn PskAttempts,
) -> Result<Proved, Refusal> {
    let transcript = |hash| Transcript::of(hash, hello.truncated());
    let (mut sha256, mut sha384) = (None, None);
    let mut failed: Option<(Standing, &[u8])> = None;
    for (identity, binder) in hello.offers() {
        // Asked before the look-up, so that the answer is the same whether it exists.
        if !throttle.may_try(identity) {
            if failed.is_none_or(|(standing, _)| rank(Standing::HeldBack) > rank(standing)) {
                failed = Some((Standing::HeldBack, identity));
            }
            continue;
        }
        let keys = keyring.candidates(identity);
        let mut standing = keys.standing;
        // The binder's length says the client's hash, for identities that exist and others alike.
        let hash = PskHash::of(binder).unwrap_or_default();
        let transcript = match hash {
            PskHash::Sha256 => sha256.get_or_insert_with(|| transcript(hash)),
            PskHash::Sha384 => sha384.get_or_insert_with(|| transcript(hash)),
        };
        // Both are always computed: the number of keys must not show in the time.
        let current = transcript.proves(keys.current.expose(), binder);
        let next = transcript.proves(keys.next.expose(), binder);
        if let (Standing::Known, Some(name)) = (standing, Keyring::valid(identity)) {
            let found = match (current, next && keys.has_next) {
                (true, _) => Some((keys.current, KeySlot::Current)),
                (false, true) => Some((keys.next, KeySlot::Next)),
                (false, false) => None,
            };
            match found {
                Some((key, slot)) if hash == keys.hash => {
                    let identity = name.to_owned();
                    return Ok(Proved {
                        identity,
                        key,
                        slot,
                        hash,
                    });
                }
                // A key has one hash (RFC 8446 §4.2.11). Only its holder gets to hear of it.
                Some(_) => standing = Standing::OtherHash,
                None => {}
            }
        }
        throttle.failed(identity);
        if failed.is_none_or(|(other, _)| rank(standing) > rank(other)) {
            failed = Some((standing, identity));
        }
    }
    let (standing, identity) = failed.unwrap_or((Standing::Invalid, &[]));
    Err(refused(standing, identity))
}

const fn rank(standing: Standing) -> u8 {
    match standing {
        Standing::Invalid => 0,
        Standing::HeldBack => 1,
        Standing::Unknown => 2,
        Standing::Known => 3,
        Standing::OtherHash => 4,
    }
}
