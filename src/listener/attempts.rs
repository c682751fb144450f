//! Who failed to prove an identity, and has to wait before the next try (`auth::throttle`).
//!
//! Asked before work is done: for the source when it connects, for a PSK identity as soon as the
//! handshake names it, for the identity of a CONNECT before it is decided. Holds its lock for the
//! length of a look-up.

use super::admission::bucket;
use crate::auth;
use crate::auth::throttle::{Name, Throttle, Throttled};
use crate::config::limits::Limits;
use crate::mqtt::packet::Connect;
use crate::mqtt::session::ConnectRefusal;
use crate::runtime::clock;
use crate::tls::PskAttempts;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The failure of a handshake in which a client claimed what it could not prove, without a name to
/// hold it against. What is no attempt at that, such as a health check that only connects, does
/// not count; PSK identities are counted by [`OfSource`].
const NAMELESS_PROOF: &str = "certificate_key_not_proved";

/// The failed attempts all listeners share.
pub(super) struct Attempts(Mutex<Throttle>);

impl Attempts {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let throttle = Throttle::new(
            limits.failures_per_source,
            limits.failures_per_identity,
            limits.connections,
        );
        Arc::new(Self(Mutex::new(throttle)))
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a socket of this source is looked at; and if so, whether devices have proved
    /// themselves from there.
    pub(super) fn may_connect(&self, source: IpAddr) -> Result<bool, Throttled> {
        self.throttle().source(bucket(source), clock::mono())
    }

    /// What the TLS side asks about the PSK identities of one connection.
    pub(super) fn of_source(self: &Arc<Self>, source: IpAddr) -> Arc<dyn PskAttempts> {
        Arc::new(OfSource {
            attempts: self.clone(),
            source: bucket(source),
        })
    }

    /// A handshake failed for `reason`.
    pub(super) fn handshake_failed(&self, source: IpAddr, reason: &str) {
        if reason == NAMELESS_PROOF {
            let now = clock::mono();
            self.throttle().failed(bucket(source), None, now);
        }
    }

    /// Whether the identity of a CONNECT is tried.
    pub(super) fn may_try(&self, source: IpAddr, connect: &Connect) -> Result<(), Throttled> {
        let (source, now) = (bucket(source), clock::mono());
        let (identity, costly) = claimed_identity(connect);
        let mut throttle = self.throttle();
        throttle.identity(source, Name::Connect(identity), now)?;
        match costly {
            true => throttle.costly(source, Name::Connect(identity), now),
            false => Ok(()),
        }
    }

    /// A CONNECT was admitted, or refused with this code.
    pub(super) fn decided(
        &self,
        source: IpAddr,
        connect: &Connect,
        refused: Option<ConnectRefusal>,
    ) {
        let (source, now) = (bucket(source), clock::mono());
        let identity = Name::Connect(claimed_identity(connect).0);
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

/// One connection's view of [`Attempts`].
struct OfSource {
    attempts: Arc<Attempts>,
    source: IpAddr,
}

impl PskAttempts for OfSource {
    fn may_try(&self, identity: &[u8]) -> bool {
        let mut throttle = self.attempts.throttle();
        let free = throttle.identity(self.source, Name::Psk(identity), clock::mono());
        free.is_ok()
    }

    fn failed(&self, identity: &[u8]) {
        let now = clock::mono();
        let mut throttle = self.attempts.throttle();
        throttle.failed(self.source, Some(Name::Psk(identity)), now);
    }

    fn proved(&self, identity: &[u8]) {
        let now = clock::mono();
        let mut throttle = self.attempts.throttle();
        throttle.succeeded(self.source, Name::Psk(identity), now);
    }
}

/// The name whose credential a CONNECT is about, the user's with a password, else the device's;
/// and whether a password has to be checked.
fn claimed_identity(connect: &Connect) -> (&str, bool) {
    let password = connect.password.as_deref().unwrap_or_default();
    match &connect.username {
        Some(name) if !password.is_empty() && !auth::sas::looks_like_token(password) => {
            (name, true)
        }
        _ => (&connect.client_id, false),
    }
}
