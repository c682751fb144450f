//! Bytes become a stream with transport proof.
//!
//! One port takes every kind of client. The ClientHello is read into a bounded buffer (`hello`),
//! classified (`route`), and replayed (`replay`) to the one stack that serves it: rustls for
//! certificates and for clients without a credential (`x509`), OpenSSL for pre-shared keys
//! (`psk`). No connection ever changes stacks. Nothing is resumed, so every session was judged
//! by its own handshake. This station knows nothing of rules or devices: it reports what the
//! handshake proved, and `auth` decides. Before it: `listener`; after it: `mqtt`.

mod attempts;
mod binder;
mod cke;
mod der;
mod hello;
#[cfg(test)]
mod hello_bytes;
mod material;
mod psk;
mod refusal;
mod replay;
mod route;
mod voucher;
mod x509;

pub use attempts::PskAttempts;

use crate::config::secret::Secret;
use crate::config::values::show_duration;
use crate::config::{ListenerConfig, TlsConfig};
use crate::runtime::clock::Unix;
use arc_swap::ArcSwap;
use attempts::Unthrottled;
use hello::{Hello, MAX_HELLO_BYTES, Parsed};
use psk::PskStack;
use refusal::{Alert, Refusal, farewell};
use replay::Replay;
use route::Route;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use voucher::Voucher;

/// Longest PSK identity, bytes (RFC 4279 §5.3 asks for 128).
pub const MAX_IDENTITY_BYTES: usize = 128;

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

/// Whether a certificate, given as DER, is registered by thumbprint. Must not block.
pub type Thumbprints = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// When a file stops being good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The file, as configured.
    pub file: PathBuf,
    /// The earliest end of validity in it; for revocation lists, the next update.
    pub at: Unix,
}

/// Accepts TLS, by certificate or PSK, on one port; or nothing, when the listener is plain.
pub struct Acceptor {
    limits: HandshakeLimits,
    tls: Option<Tls>,
}

struct Tls {
    listener: String,
    config: TlsConfig,
    thumbprints: Option<Thumbprints>,
    provider: Arc<rustls::crypto::CryptoProvider>,
    psk: PskStack,
    loaded: ArcSwap<Loaded>,
}

/// What a reload replaces whole.
struct Loaded {
    certificates: Option<Arc<ServerConfig>>,
    expiries: Vec<Expiry>,
    voucher: Voucher,
}

/// Files read again, not used yet.
pub struct Prepared(Option<Arc<Loaded>>);

/// Why a transport was not accepted. `label` goes to `handshakes_total{result}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeError {
    /// Metric label and log word, e.g. `psk_wrong_key`, `hello_timeout`, `not_tls`.
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
    /// Loads certificates and keys. All problems at once, each naming file and fix. Certificates
    /// are taken from CAs of `client_ca` only; see [`Self::with_thumbprints`] for registered ones.
    /// Reads files: not for an async task.
    ///
    /// # Errors
    /// Every problem found.
    pub fn new(
        listener: &ListenerConfig,
        psk: PskLookup,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        Self::build(listener, psk, None, limits)
    }

    /// As [`Self::new`]; certificates `thumbprints` knows are let through as not trusted
    /// (`chain_trusted == false`), with proof of possession and dates checked.
    ///
    /// # Errors
    /// Every problem found.
    pub fn with_thumbprints(
        listener: &ListenerConfig,
        psk: PskLookup,
        thumbprints: Thumbprints,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        Self::build(listener, psk, Some(thumbprints), limits)
    }

    fn build(
        listener: &ListenerConfig,
        psk: PskLookup,
        thumbprints: Option<Thumbprints>,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        let Some(config) = listener.tls.clone() else {
            return Ok(Self { limits, tls: None });
        };
        let name = listener.name.clone();
        let provider = x509::provider();
        let loaded = load(&name, &config, thumbprints.clone(), &provider);
        let psk = PskStack::new(psk, config.dhe_psk)
            .map_err(|problem| vec![format!("listener {name:?}: {problem}")]);
        match (loaded, psk) {
            (Ok(loaded), Ok(psk)) => {
                let loaded = ArcSwap::new(loaded);
                let tls = Tls {
                    listener: name,
                    config,
                    thumbprints,
                    provider,
                    psk,
                    loaded,
                };
                Ok(Self {
                    limits,
                    tls: Some(tls),
                })
            }
            (loaded, psk) => {
                let problems = loaded.err().into_iter().chain(psk.err()).flatten();
                Err(problems.collect())
            }
        }
    }

    /// Reads the files again, for [`Self::adopt`]. Uses nothing yet, so that several listeners
    /// change together or not at all. Reads files: not for an async task.
    ///
    /// # Errors
    /// Every problem found.
    pub fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let read = |tls: &Tls| {
            let thumbprints = tls.thumbprints.clone();
            load(&tls.listener, &tls.config, thumbprints, &tls.provider)
        };
        self.tls.as_ref().map(read).transpose().map(Prepared)
    }

    /// Uses what [`Self::prepare`] of this acceptor read for the handshakes that start from now
    /// on.
    pub fn adopt(&self, prepared: Prepared) {
        if let (Some(tls), Some(loaded)) = (&self.tls, prepared.0) {
            tls.loaded.store(loaded);
        }
    }

    /// [`Self::prepare`] and [`Self::adopt`] in one.
    ///
    /// # Errors
    /// Every problem found; the old set stays.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        self.prepare().map(|prepared| self.adopt(prepared))
    }

    /// Whether a certificate that was trusted when its handshake ended still would be, by the
    /// files used now: one of its `anchors` (SHA-256) is a CA of this listener, and its `issuer`
    /// (SHA-256 of the name) has not revoked it.
    #[must_use]
    pub fn stands_for(&self, anchors: &[[u8; 32]], issuer: &[u8; 32], serial: &[u8]) -> bool {
        self.tls.as_ref().is_some_and(|tls| {
            let loaded = tls.loaded.load();
            loaded.voucher.stands_for(anchors, issuer, serial)
        })
    }

    /// When the loaded files end, for `certificate_expiry_timestamp_seconds{file}`.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        self.tls
            .as_ref()
            .map_or_else(Vec::new, |tls| tls.loaded.load().expiries.clone())
    }

    /// Drives one handshake to its end, within the deadlines.
    ///
    /// The future is big: run it in a task of its own and serve the stream in a new, small one.
    ///
    /// # Errors
    /// Why not; the socket is closed then.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        _source: SocketAddr,
    ) -> Result<Accepted, HandshakeError> {
        self.accept_with(tcp, Arc::new(Unthrottled)).await
    }

    /// As [`Self::accept`], asking `attempts` before a PSK identity is tried.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn accept_with(
        &self,
        mut tcp: TcpStream,
        attempts: Arc<dyn PskAttempts>,
    ) -> Result<Accepted, HandshakeError> {
        let Some(tls) = &self.tls else {
            return Ok(Accepted {
                stream: Box::new(tcp),
                peer: Peer::Plain,
            });
        };
        let total = tokio::time::sleep(self.limits.total);
        tokio::pin!(total);
        let mut raw = Vec::with_capacity(2048);
        let read = within(total.as_mut(), async {
            let read = read_hello(&mut tcp, &mut raw);
            tokio::time::timeout(self.limits.hello, read).await.ok()
        });
        let hello = match read.await.flatten() {
            Some(Ok(hello)) => hello,
            Some(Err((refusal, alert))) => {
                farewell(tcp, alert).await;
                return Err(refusal.into_error("none"));
            }
            None => {
                let within = show_duration(self.limits.hello);
                let text = format!("no whole ClientHello in {within}");
                return Err(Refusal::new("hello_timeout", "none", text).into_error("none"));
            }
        };
        let version = if hello.tls13 { "1.3" } else { "1.2" };
        let stream = Replay::new(raw, tcp);
        let certificates = tls.loaded.load().certificates.clone();
        let route = route::route(&hello, tls.config.mixed, certificates.is_some());
        let credential = if matches!(route, Route::Psk12 | Route::Psk13) {
            "psk"
        } else {
            "none"
        };
        let handshake = tls.handshake(route, &hello, certificates, stream, attempts);
        match within(total, handshake).await {
            Some(Ok((stream, peer))) => Ok(Accepted { stream, peer }),
            Some(Err(refusal)) => Err(refusal.into_error(version)),
            None => {
                let within = show_duration(self.limits.total);
                let text = format!("the handshake did not end in {within}");
                Err(Refusal::new("tls_timeout", credential, text).into_error(version))
            }
        }
    }
}

impl Tls {
    async fn handshake(
        &self,
        route: Route,
        hello: &Hello,
        certificates: Option<Arc<ServerConfig>>,
        stream: Replay<TcpStream>,
        attempts: Arc<dyn PskAttempts>,
    ) -> Result<(Box<dyn Stream>, Peer), Refusal> {
        let (reason, alert) = match (route, certificates) {
            (Route::Psk13, _) => return self.psk.accept13(hello, stream, attempts).await,
            (Route::Psk12, _) => return self.psk.accept12(stream, attempts).await,
            (Route::Certificate, Some(config)) => return x509::accept(config, stream).await,
            (Route::Certificate, None) => ("no_shared_suite", Alert::HandshakeFailure),
            (Route::Refuse(reason, alert), _) => (reason, alert),
        };
        farewell(stream, Some(alert)).await;
        let text = match reason {
            "tls_version" => "the client offers no version this side serves: 1.2 and 1.3",
            _ => "the client offers nothing this listener serves: check tls.cert, PSK and suites",
        };
        let server = hello
            .sni()
            .map_or_else(String::new, |name| format!(" (for {name:?})"));
        Err(Refusal::new(reason, "none", format!("{text}{server}")))
    }
}

impl Refusal {
    fn into_error(self, version: &'static str) -> HandshakeError {
        let version = if self.reason == "tls_version" {
            "none"
        } else {
            version
        };
        let Self {
            reason,
            credential,
            text,
        } = self;
        HandshakeError {
            reason,
            credential,
            version,
            text,
        }
    }
}

fn load(
    listener: &str,
    config: &TlsConfig,
    thumbprints: Option<Thumbprints>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<Loaded>, Vec<String>> {
    let mut material = material::load(listener, config, provider)?;
    let expiries = std::mem::take(&mut material.expiries);
    let voucher = Voucher::of(&material);
    let certificates = x509::configure(material, thumbprints, provider)
        .map_err(|problem| vec![format!("listener {listener:?}: {problem}")])?;
    Ok(Arc::new(Loaded {
        certificates,
        expiries,
        voucher,
    }))
}

/// Runs `work` until `deadline`.
async fn within<F: Future>(deadline: Pin<&mut Sleep>, work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = work => Some(output),
        () = deadline => None,
    }
}

/// Reads until a whole ClientHello is in `raw`, or nothing that can become one.
async fn read_hello(
    tcp: &mut TcpStream,
    raw: &mut Vec<u8>,
) -> Result<Hello, (Refusal, Option<Alert>)> {
    let refuse = |reason, alert, text: &str| Err((Refusal::new(reason, "none", text), alert));
    loop {
        let mut room = (&mut *tcp).take((MAX_HELLO_BYTES - raw.len()) as u64);
        match room.read_buf(raw).await {
            Ok(0) => {
                return refuse(
                    "peer_closed",
                    None,
                    "the client closed before its ClientHello",
                );
            }
            Ok(_) => {}
            Err(error) => return Err((x509::explain_io(&error), None)),
        }
        if raw.first().is_some_and(|byte| *byte != 22) {
            let (reason, text) = name_protocol(raw);
            return refuse(reason, None, text);
        }
        match hello::parse(raw) {
            Parsed::Partial => {}
            Parsed::Complete(hello) => return Ok(hello),
            Parsed::Malformed(field) => {
                let text = format!("not a ClientHello: {field}");
                return refuse("hello_malformed", Some(Alert::DecodeError), &text);
            }
            Parsed::TooLarge => {
                let text = format!(
                    "a ClientHello of more than {MAX_HELLO_BYTES} bytes or {} records",
                    hello::MAX_HELLO_RECORDS
                );
                return refuse("hello_too_large", Some(Alert::DecodeError), &text);
            }
        }
    }
}

/// Names what is not TLS, in words of ours: the peer's bytes do not reach the log.
fn name_protocol(raw: &[u8]) -> (&'static str, &'static str) {
    const HTTP: [&[u8]; 6] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"PRI "];
    match raw {
        [0x10, ..] => (
            "plain_mqtt",
            "MQTT without TLS on a TLS listener: turn TLS on in the device",
        ),
        raw if HTTP.iter().any(|verb| raw.starts_with(verb)) => {
            ("not_tls", "an HTTP request on a TLS listener for MQTT")
        }
        raw if raw.starts_with(b"SSH-") => ("not_tls", "an SSH banner on a TLS listener"),
        raw if raw.starts_with(b"AMQP") => ("not_tls", "AMQP without TLS on a TLS listener"),
        _ => ("not_tls", "the first byte is not TLS"),
    }
}
