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
use crate::tls::{KeySlot, PskAttempts};

/// An identity whose key was proved.
#[derive(Debug)]
pub struct Proved {
    /// As sent.
    pub identity: String,
    /// The key that made the binder.
    pub key: Secret,
    /// Which one it is.
    pub slot: KeySlot,
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
    let transcript = Transcript::of(hello.truncated());
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
        // Both are always computed: the number of keys must not show in the time.
        let current = transcript.proves(keys.current.expose(), binder);
        let next = transcript.proves(keys.next.expose(), binder);
        if let (Standing::Known, Some(name)) = (keys.standing, Keyring::valid(identity)) {
            let identity = name.to_owned();
            if current {
                return Ok(Proved {
                    identity,
                    key: keys.current,
                    slot: KeySlot::Current,
                });
            }
            if next && keys.has_next {
                return Ok(Proved {
                    identity,
                    key: keys.next,
                    slot: KeySlot::Next,
                });
            }
        }
        throttle.failed(identity);
        if failed.is_none_or(|(standing, _)| rank(keys.standing) > rank(standing)) {
            failed = Some((keys.standing, identity));
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
    }
}
