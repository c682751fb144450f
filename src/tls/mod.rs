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
mod first;
mod flight;
mod hello;
#[cfg(test)]
mod hello_bytes;
mod material;
mod offer;
mod peer;
mod psk;
mod record;
mod refusal;
mod replay;
mod route;
mod voucher;
mod x509;

pub use attempts::PskAttempts;
pub use flight::Flight;
pub use peer::{Accepted, KeySlot, Peer, PskHash, PskKeys, Session};
pub use refusal::Claimed;

use crate::config::values::show_duration;
use crate::config::{ListenerConfig, TlsConfig};
use crate::runtime::clock::{self, Unix};
use crate::telemetry::reason::Reason;
use arc_swap::ArcSwap;
use attempts::Unthrottled;
use hello::Hello;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use voucher::Voucher;

/// Longest PSK identity, bytes (RFC 4279 §5.3 asks for 128).
pub const MAX_IDENTITY_BYTES: usize = 128;

/// HTTP/1.1 by ALPN (RFC 7301 §6).
const HTTP_1_1: &str = "http/1.1";

/// A duplex byte stream, TLS or plain, boxed so that the connection task stays small.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Looks a PSK identity up in the current rules. Must not block.
pub type PskLookup = Arc<dyn Fn(&[u8]) -> Option<PskKeys> + Send + Sync>;

/// Whether a certificate, given as DER, is registered by thumbprint. Must not block.
pub type Thumbprints = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A kind of certificate that is refused unless a rule admits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldCertificate {
    /// X.509 version 1 or 2.
    V1,
    /// `anyExtendedKeyUsage` instead of `clientAuth`.
    AnyEku,
}

/// What the rules say of certificates.
#[derive(Clone)]
pub struct CertificateRules {
    /// Registered ones.
    pub registered: Thumbprints,
    /// Whether any rule admits this kind; which one does is decided at CONNECT. Must not block.
    pub admits: Arc<dyn Fn(OldCertificate) -> bool + Send + Sync>,
}

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
    /// Whose `tls` it is, as problems say it.
    owner: String,
    config: TlsConfig,
    rules: Option<CertificateRules>,
    provider: Arc<rustls::crypto::CryptoProvider>,
    /// `None`: certificates alone.
    psk: Option<PskStack>,
    /// What is spoken inside, where a client may ask (RFC 7301).
    alpn: Option<&'static str>,
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
    pub reason: Reason,
    /// `psk`, `x509` or `none`: as far as it was known.
    pub credential: &'static str,
    /// `1.2`, `1.3` or `none`.
    pub version: &'static str,
    /// One printable line for the log.
    pub text: String,
    /// Whom the client claimed to be, as far as it was read.
    pub claimed: Claimed,
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
        let rules = CertificateRules {
            registered: thumbprints,
            admits: Arc::new(|_| false),
        };
        Self::with_rules(listener, psk, rules, limits)
    }

    /// As [`Self::with_thumbprints`]; old certificates `rules` admit are let through, too.
    ///
    /// # Errors
    /// Every problem found.
    pub fn with_rules(
        listener: &ListenerConfig,
        psk: PskLookup,
        rules: CertificateRules,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        Self::build(listener, psk, Some(rules), limits)
    }

    fn build(
        listener: &ListenerConfig,
        psk: PskLookup,
        rules: Option<CertificateRules>,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        let Some(config) = listener.tls.clone() else {
            return Ok(Self { limits, tls: None });
        };
        let owner = format!("listener {:?}", listener.name);
        let psk =
            PskStack::new(psk, config.psk).map_err(|problem| vec![format!("{owner}: {problem}")]);
        let tls = Tls::new(owner, config, rules, None);
        match (tls, psk) {
            (Ok(tls), Ok(psk)) => Ok(Self {
                limits,
                tls: Some(Tls {
                    psk: Some(psk),
                    ..tls
                }),
            }),
            (tls, psk) => {
                let problems = tls.err().into_iter().chain(psk.err()).flatten();
                Err(problems.collect())
            }
        }
    }

    /// Of a port that serves HTTP: a certificate, no pre-shared keys, and `http/1.1` by ALPN.
    /// `owner` starts every problem. Reads files: not for an async task.
    ///
    /// # Errors
    /// Every problem found.
    pub fn for_http(
        owner: &str,
        config: TlsConfig,
        limits: HandshakeLimits,
    ) -> Result<Self, Vec<String>> {
        let tls = Tls::new(owner.to_owned(), config, None, Some(HTTP_1_1))?;
        Ok(Self {
            limits,
            tls: Some(tls),
        })
    }

    /// Reads the files again, for [`Self::adopt`]. Uses nothing yet, so that several listeners
    /// change together or not at all. Reads files: not for an async task.
    ///
    /// # Errors
    /// Every problem found.
    pub fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let read = |tls: &Tls| tls.read(&tls.config);
        self.tls.as_ref().map(read).transpose().map(Prepared)
    }

    /// As [`Self::prepare`], from the files that `config` names.
    ///
    /// # Errors
    /// Every problem found.
    pub fn prepare_from(&self, config: &TlsConfig) -> Result<Prepared, Vec<String>> {
        let read = |tls: &Tls| tls.read(config);
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
        let flight = Arc::new(Flight::default());
        self.accept_with(tcp, Arc::new(Unthrottled), flight).await
    }

    /// As [`Self::accept`], asking `attempts` before a PSK identity is tried; `flight` shows how
    /// long the client was waited for.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn accept_with(
        &self,
        mut tcp: TcpStream,
        attempts: Arc<dyn PskAttempts>,
        flight: Arc<Flight>,
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
        flight.wait(clock::mono());
        let read = within(total.as_mut(), async {
            let read = first::read_hello(&mut tcp, &mut raw);
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
                return Err(Refusal::new(Reason::HelloTimeout, "none", text).into_error("none"));
            }
        };
        flight.heard(clock::mono());
        let version = if hello.tls13 { "1.3" } else { "1.2" };
        let stream = Replay::new(raw, tcp).timed(flight);
        let certificates = tls.loaded.load().certificates.clone();
        let route = match tls.psk {
            Some(_) => route::route(&hello, tls.config.mixed, certificates.is_some()),
            None => Route::Certificate,
        };
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
                Err(Refusal::new(Reason::TlsTimeout, credential, text).into_error(version))
            }
        }
    }
}

impl Tls {
    /// Without pre-shared keys.
    fn new(
        owner: String,
        config: TlsConfig,
        rules: Option<CertificateRules>,
        alpn: Option<&'static str>,
    ) -> Result<Self, Vec<String>> {
        let provider = x509::provider();
        let loaded = load(&owner, &config, rules.clone(), alpn, &provider)?;
        Ok(Self {
            owner,
            config,
            rules,
            provider,
            psk: None,
            alpn,
            loaded: ArcSwap::new(loaded),
        })
    }

    fn read(&self, config: &TlsConfig) -> Result<Arc<Loaded>, Vec<String>> {
        let rules = self.rules.clone();
        load(&self.owner, config, rules, self.alpn, &self.provider)
    }

    async fn handshake(
        &self,
        route: Route,
        hello: &Hello,
        certificates: Option<Arc<ServerConfig>>,
        stream: Replay<TcpStream>,
        attempts: Arc<dyn PskAttempts>,
    ) -> Result<(Box<dyn Stream>, Peer), Refusal> {
        let bound = record::bound(self.config.record_bytes, hello);
        let (reason, alert) = match (route, certificates, &self.psk) {
            (Route::Psk13, _, Some(psk)) => {
                let (stream, peer) = psk.accept13(hello, stream, attempts).await?;
                return Ok((record::bounded(stream, bound), peer));
            }
            (Route::Psk12, _, Some(psk)) => {
                let (stream, peer) = psk.accept12(hello, stream, attempts).await?;
                return Ok((record::bounded(stream, bound), peer));
            }
            (Route::Certificate, Some(config), _) => {
                let accepted = x509::accept(config, stream).await;
                let (stream, peer) = accepted.map_err(|refusal| refusal.with_offer(hello))?;
                return Ok((record::bounded(stream, bound), peer));
            }
            (Route::Refuse(reason, alert), ..) => (reason, alert),
            _ => (Reason::NoSharedSuite, Alert::HandshakeFailure),
        };
        farewell(stream, Some(alert)).await;
        let text = match reason {
            Reason::TlsVersion => {
                "the client offers no version this side serves: 1.2 and 1.3".to_owned()
            }
            _ => format!(
                "the client offers nothing this listener serves: check tls.cert, PSK and suites; \
                 offered: {}",
                offer::suites(hello, |_| true)
            ),
        };
        let server = hello
            .sni()
            .map_or_else(String::new, |name| format!(" (for {name:?})"));
        Err(Refusal::new(reason, "none", format!("{text}{server}")))
    }
}

impl Refusal {
    /// Names what was offered, where nothing of it is served.
    fn with_offer(mut self, hello: &Hello) -> Self {
        let offered = match self.reason {
            Reason::NoSharedSuite => offer::suites(hello, |id| !hello::is_psk_suite(id)),
            Reason::NoSharedGroup => offer::groups(hello),
            _ => return self,
        };
        self.text.push_str("; offered: ");
        self.text.push_str(&offered);
        self
    }
}

fn load(
    owner: &str,
    config: &TlsConfig,
    rules: Option<CertificateRules>,
    alpn: Option<&'static str>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<Loaded>, Vec<String>> {
    let mut material = material::load(owner, config, provider)?;
    let expiries = std::mem::take(&mut material.expiries);
    let voucher = Voucher::of(&material);
    let certificates = x509::configure(material, rules, config.record_bytes, alpn, provider)
        .map_err(|problem| vec![format!("{owner}: {problem}")])?;
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
