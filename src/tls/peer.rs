//! What a handshake ends in, and what is known of keys.

use crate::config::secret::Secret;
use crate::tls::Stream;

/// A finished transport.
pub struct Accepted {
    /// The plaintext side.
    pub stream: Box<dyn Stream>,
    /// What the handshake proved.
    pub peer: Peer,
}

/// What the handshake proved.
#[derive(Clone, Debug)]
pub enum Peer {
    /// No TLS.
    Plain,
    /// TLS with nothing proved by the client.
    Tls(Session),
    /// TLS-PSK: the client proved the key of `identity`.
    Psk {
        /// The identity as sent, valid UTF-8 without NUL, at most 128 bytes.
        identity: String,
        /// Which of the identity's keys proved it.
        slot: KeySlot,
        /// Version and suite.
        session: Session,
    },
    /// A client certificate whose private key was proved; DER, end entity first. Whether the
    /// chain leads to a configured CA is in `chain_trusted`; if not, only a registered
    /// thumbprint may admit it.
    Certificate {
        /// The chain as sent, DER.
        chain: Vec<Vec<u8>>,
        /// The chain verified against the listener's `client_ca`.
        chain_trusted: bool,
        /// DER of the CA of `client_ca` the chain leads to; `None` when it is not trusted.
        anchor: Option<Vec<u8>>,
        /// Version and suite.
        session: Session,
    },
}

/// Version and suite of a TLS session, as shown in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// `1.2` or `1.3`.
    pub version: &'static str,
}

/// Which key of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySlot {
    /// `key`
    Current,
    /// `next_key`
    Next,
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

impl PskHash {
    /// The hash a binder was made with, by its length.
    pub(super) const fn of(binder: &[u8]) -> Option<Self> {
        match binder.len() {
            32 => Some(Self::Sha256),
            48 => Some(Self::Sha384),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
        }
    }
}

/// The keys of a PSK identity.
#[derive(Clone)]
pub struct PskKeys {
    /// `key`
    pub key: Secret,
    /// `next_key`, during a rotation.
    pub next_key: Option<Secret>,
    /// What both are used with in TLS 1.3.
    pub hash: PskHash,
}
