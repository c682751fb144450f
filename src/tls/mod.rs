//! Bytes become a stream with transport proof.
//!
//! Knows nothing of rules or devices: it reports what the handshake proved, and `auth` decides.

use crate::config::secret::Secret;
use crate::config::{ListenerConfig, TlsConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A duplex byte stream, TLS or plain, boxed so that the connection task stays small.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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

/// The keys of a PSK identity.
#[derive(Clone)]
pub struct PskKeys {
    /// `key`
    pub key: Secret,
    /// `next_key`, during a rotation.
    pub next_key: Option<Secret>,
}

/// Looks a PSK identity up in the current rules. Must not block.
pub type PskLookup = Arc<dyn Fn(&[u8]) -> Option<PskKeys> + Send + Sync>;

/// Accepts TLS, by certificate or PSK, on one port; or nothing, when the listener is plain.
pub struct Acceptor {}

/// Why a transport was not accepted. `label` goes to `handshakes_total{result}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeError {
    /// Metric label and log word, e.g. `psk_refused`, `hello_timeout`, `not_tls`.
    pub reason: &'static str,
    /// `psk`, `x509` or `none`: as far as it was known.
    pub credential: &'static str,
    /// `1.2`, `1.3` or `none`.
    pub version: &'static str,
    /// One printable line for the log.
    pub text: String,
}

/// Deadlines of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// For the whole ClientHello.
    pub hello: Duration,
    /// For everything.
    pub total: Duration,
}

impl Acceptor {
    /// Loads certificates and keys. All problems at once, each naming file and fix.
    ///
    /// # Errors
    /// Every problem found.
    pub fn new(
        _listener: &ListenerConfig,
        _psk: PskLookup,
        _limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        Ok(Self {})
    }

    /// Drives one handshake to its end, within the deadlines.
    ///
    /// # Errors
    /// Why not; the socket is closed then.
    pub async fn accept(
        &self,
        _tcp: TcpStream,
        _source: SocketAddr,
    ) -> Result<Accepted, HandshakeError> {
        Err(HandshakeError {
            reason: "not_tls",
            credential: "none",
            version: "none",
            text: String::new(),
        })
    }
}

/// Keeps the type used until the acceptor is built.
#[doc(hidden)]
pub fn _uses(_: &TlsConfig) {}
