//! Who may try to prove a PSK identity: the throttle as the handshake sees it.

/// The throttle, as one connection's PSK handshake asks it. The answers must not depend on which
/// identities exist, and must not block.
pub trait PskAttempts: Send + Sync {
    /// Whether `identity`, bytes as sent, may be tried now.
    fn may_try(&self, identity: &[u8]) -> bool;
    /// The client did not prove the key of `identity`, which may not exist.
    fn failed(&self, identity: &[u8]);
    /// The client proved the key of `identity`.
    fn proved(&self, identity: &[u8]);
}

/// Holds nobody back.
pub(crate) struct Unthrottled;

impl PskAttempts for Unthrottled {
    fn may_try(&self, _: &[u8]) -> bool {
        true
    }
    fn failed(&self, _: &[u8]) {}
    fn proved(&self, _: &[u8]) {}
}
