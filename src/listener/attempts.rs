//! Who failed to prove an identity, and has to wait before the next try (`auth::throttle`).
//!
//! Asked before work is done: for the source before its handshake, for the identity before its
//! CONNECT is decided. Holds its lock for the length of a look-up.

use super::admission::bucket;
use crate::auth;
use crate::auth::throttle::{Throttle, Throttled};
use crate::config::limits::Limits;
use crate::mqtt::packet::Connect;
use crate::mqtt::session::ConnectRefusal;
use crate::runtime::clock;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures of a handshake in which a client claimed what it could not prove. What is no attempt
/// at that, such as a health check that only connects, does not count against its source.
const FAILED_PROOFS: [&str; 4] = [
    "psk_wrong_key",
    "psk_unknown_identity",
    "psk_identity_invalid",
    "certificate_key_not_proved",
];

/// The failed attempts all listeners share.
pub(super) struct Attempts(Mutex<Throttle>);

impl Attempts {
    pub(super) fn new(limits: &Limits) -> Self {
        let throttle = Throttle::new(limits.failures_per_source, limits.failures_per_identity);
        Self(Mutex::new(throttle))
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a socket of this source is looked at.
    pub(super) fn may_connect(&self, source: IpAddr) -> Result<(), Throttled> {
        self.throttle().source(bucket(source), clock::mono())
    }

    /// A handshake failed for `reason`.
    pub(super) fn handshake_failed(&self, source: IpAddr, reason: &str) {
        if FAILED_PROOFS.contains(&reason) {
            let now = clock::mono();
            self.throttle().failed(bucket(source), None, now);
        }
    }

    /// Whether the identity of a CONNECT is tried.
    pub(super) fn may_try(&self, source: IpAddr, connect: &Connect) -> Result<(), Throttled> {
        let (source, now) = (bucket(source), clock::mono());
        let mut throttle = self.throttle();
        let free = throttle.identity(source, claimed_identity(connect), now);
        // Its transport was paid for, so a refusal counts against the source.
        free.inspect_err(|_| throttle.failed(source, None, now))
    }

    /// A CONNECT was admitted, or refused with this code.
    pub(super) fn decided(
        &self,
        source: IpAddr,
        connect: &Connect,
        refused: Option<ConnectRefusal>,
    ) {
        let (source, now) = (bucket(source), clock::mono());
        let identity = claimed_identity(connect);
        match refused {
            None => self.throttle().succeeded(source, identity, now),
            Some(ConnectRefusal::BadCredentials) => {
                self.throttle().failed(source, Some(identity), now);
            }
            // A credential that is good, but not for this, costs nothing and guesses nothing.
            Some(_) => {}
        }
    }
}

/// The name whose credential a CONNECT is about: the user's with a password, else the device's.
fn claimed_identity(connect: &Connect) -> &str {
    let password = connect.password.as_deref().unwrap_or_default();
    match &connect.username {
        Some(name) if !password.is_empty() && !auth::sas::looks_like_token(password) => name,
        _ => &connect.client_id,
    }
}
