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
use crate::telemetry::reason::Reason;
use crate::tls::PskAttempts;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The failure of a handshake in which a client claimed what it could not prove, without a name to
/// hold it against. What is no attempt at that, such as a health check that only connects, does
/// not count; PSK identities are counted by [`OfSource`].
const NAMELESS_PROOF: Reason = Reason::X509KeyNotProved;

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
    pub(super) fn handshake_failed(&self, source: IpAddr, reason: Reason) {
        if reason == NAMELESS_PROOF {
            let now = clock::mono();
            self.throttle().failed(bucket(source), None, now);
        }
    }

    /// Whether the identity of a CONNECT is tried.
    pub(super) fn may_try(&self, source: IpAddr, connect: &Connect) -> Result<(), Throttled> {
        let (source, now) = (bucket(source), clock::mono());
        let (identity, costly) = claimed_identity(connect);
        if identity.is_empty() {
            // Nobody's name: what one such device did says nothing about the next.
            return Ok(());
        }
        let mut throttle = self.throttle();
        throttle.identity(source, Name::Connect(&identity), now)?;
        match costly {
            true => throttle.costly(source, Name::Connect(&identity), now),
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
        let identity = claimed_identity(connect).0;
        let name = (!identity.is_empty()).then_some(Name::Connect(&identity));
        match (refused, name) {
            (None, Some(name)) => self.throttle().succeeded(source, name, now),
            (Some(ConnectRefusal::BadCredentials), name) => {
                self.throttle().failed(source, name, now);
            }
            // A credential that is good, but not for this, costs nothing and guesses nothing.
            _ => {}
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

/// The name whose credential a CONNECT is about, the user's with a password, else the device's,
/// which without a client id only a token names; and whether a password has to be checked.
fn claimed_identity(connect: &Connect) -> (Cow<'_, str>, bool) {
    let password = connect.password.as_deref().unwrap_or_default();
    let token = auth::sas::looks_like_token(password);
    match &connect.username {
        Some(name) if !password.is_empty() && !token => (Cow::Borrowed(&**name), true),
        _ if token && connect.client_id.is_empty() => {
            let text = str::from_utf8(password).unwrap_or_default();
            let device = auth::sas::device_of(text).unwrap_or_default();
            (Cow::Owned(device), false)
        }
        _ => (Cow::Borrowed(&*connect.client_id), false),
    }
}

#[cfg(test)]
mod tests {
    use super::Attempts;
    use crate::config::limits::Limits;
    use crate::mqtt::packet::{Connect, Protocol};
    use crate::mqtt::session::ConnectRefusal;
    use std::net::IpAddr;

    fn nameless(token: Option<&str>) -> Connect {
        let token = token.map(|device| {
            let sr = format!("hub.example%2Fdevices%2F{device}");
            format!(
                "SharedAccessSignature sr={sr}&sig={}&se=9999999999",
                "A".repeat(43) + "="
            )
        });
        Connect {
            protocol: Protocol::V311,
            client_id: "".into(),
            clean_session: true,
            keep_alive_s: 0,
            username: None,
            password: token.map(Into::into),
            will: None,
            properties: None,
        }
    }

    #[test]
    fn devices_without_client_id_do_not_wait_for_each_others_failures() {
        let attempts = Attempts::new(&Limits::default());
        let source = IpAddr::from([192, 0, 2, 1]);
        let bad = Some(ConnectRefusal::BadCredentials);
        for _ in 0..6 {
            attempts.decided(source, &nameless(None), bad);
            attempts.decided(source, &nameless(Some("bad")), bad);
        }
        let waits = |connect: &Connect| attempts.may_try(source, connect).is_err();
        assert!(waits(&nameless(Some("bad"))), "its token names it");
        assert!(!waits(&nameless(Some("good"))));
        assert!(!waits(&nameless(None)), "a key or certificate names it");
    }
}
