//! The certificate stack: rustls for every client without a PSK, with or without a certificate
//! of its own.
//!
//! It must never report a certificate whose private key was not proved, nor one it did not judge
//! in this very handshake. Therefore nothing is resumed: no session storage, no tickets (a
//! resumed session skips the verifier, and 32-byte ticket nonces stop wolfSSL clients). Clients
//! without a certificate are let through; `auth` asks them for another credential.

mod leaf;
mod old;
pub mod verifier;

use crate::runtime::clock;
use crate::telemetry::reason::Reason;
use crate::tls::material::Material;
use crate::tls::refusal::{Claimed, Refusal, farewell};
use crate::tls::replay::Replay;
use crate::tls::{CertificateRules, Peer, Session, Stream};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, ProtocolVersion};
use rustls::{ServerConfig, ServerConnection};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use verifier::{DeviceVerifier, JUDGED, Judged, Judgement};

/// rustls counts it to a record's size.
const RECORD_HEADER: usize = 5;

/// Certificates are judged by the process's one clock.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(clock::unix().as_secs());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// The cryptography of this stack.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Builds the configuration; `None` when there is no server certificate. Records hold
/// `record_bytes` of plaintext at most; `alpn` is what is spoken inside, where that is said.
///
/// # Errors
/// A sentence without file names: the caller knows the setting.
pub fn configure(
    material: Material,
    rules: Option<CertificateRules>,
    record_bytes: Option<usize>,
    alpn: Option<&'static str>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<ServerConfig>>, String> {
    let Some(server) = material.server else {
        return Ok(None);
    };
    let verifier = if material.client_cas.is_empty() && rules.is_none() {
        WebPkiClientVerifier::no_client_auth()
    } else {
        let (cas, crls) = (material.client_cas, material.crls);
        Arc::new(DeviceVerifier::new(cas, crls, rules, provider)?)
    };
    let mut config = ServerConfig::builder_with_details(provider.clone(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(server)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.into_iter().map(Vec::from).collect();
    config.max_early_data_size = 0;
    config.max_fragment_size = record_bytes.map(|bytes| bytes + RECORD_HEADER);
    Ok(Some(Arc::new(config)))
}

/// Drives one handshake. On failure the socket is closed, the alert sent.
///
/// # Errors
/// Why not.
pub async fn accept(
    config: Arc<ServerConfig>,
    stream: Replay<TcpStream>,
) -> Result<(Box<dyn Stream>, Peer), Refusal> {
    let run = async {
        let result = TlsAcceptor::from(config)
            .accept(stream)
            .into_fallible()
            .await;
        (result, JUDGED.with(|judged| judged.take()))
    };
    let (result, judged) = JUDGED.scope(std::cell::RefCell::new(None), run).await;
    match result {
        Ok(stream) => {
            let peer = peer(stream.get_ref().1, judged.map(|judged| judged.judgement))?;
            Ok((Box::new(stream), peer))
        }
        Err((error, stream)) => {
            let judgement = judged.as_ref().map(|judged| &judged.judgement);
            let mut refusal = explain(&error, judgement);
            if let Some(Judged { leaf, .. }) = judged {
                refusal.claimed = Claimed::Certificate(leaf);
            }
            if refusal.reason != Reason::PeerClosed {
                farewell(stream, None).await;
            }
            Err(refusal)
        }
    }
}

fn peer(connection: &ServerConnection, judgement: Option<Judgement>) -> Result<Peer, Refusal> {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    };
    let session = Session { version };
    let Some(chain) = connection
        .peer_certificates()
        .filter(|chain| !chain.is_empty())
    else {
        return Ok(Peer::Tls(session));
    };
    let (chain_trusted, anchor) = match judgement {
        Some(Judgement::Trusted { anchor }) => (true, anchor),
        Some(Judgement::Registered) => (false, None),
        // Cannot happen without resumption; were it to, nothing was judged and nobody gets in.
        Some(Judgement::Refused(_)) | None => {
            let text = "a certificate was not judged in this handshake";
            return Err(Refusal::new(Reason::X509NotJudged, "x509", text));
        }
    };
    let chain = chain.iter().map(|cert| cert.to_vec()).collect();
    Ok(Peer::Certificate {
        chain,
        chain_trusted,
        anchor,
        session,
    })
}

/// Gives a failed handshake its label and a sentence.
fn explain(error: &io::Error, judgement: Option<&Judgement>) -> Refusal {
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return explain_io(error);
    };
    if let Some(Judgement::Refused(reason)) = judgement {
        return Refusal::new(*reason, "x509", certificate_text(*reason));
    }
    match tls {
        Error::InvalidCertificate(CertificateError::BadSignature) | Error::PeerMisbehaved(_)
            if judgement.is_some() =>
        {
            let text = "the client did not prove the private key of its certificate";
            Refusal::new(Reason::X509KeyNotProved, "x509", text)
        }
        Error::InvalidCertificate(error) => {
            let reason = verifier::reason(error);
            Refusal::new(reason, "x509", certificate_text(reason))
        }
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => Refusal::new(
            Reason::TlsVersion,
            "none",
            "no TLS version in common; 1.2 and 1.3 are served",
        ),
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            let text = "no key exchange group in common";
            Refusal::new(Reason::NoSharedGroup, "none", text)
        }
        Error::PeerIncompatible(what) => {
            let text = match what {
                PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite in common",
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
                    "no signature scheme in common"
                }
                _ => "no suite, group or signature scheme in common",
            };
            Refusal::new(Reason::NoSharedSuite, "none", text)
        }
        Error::DecryptError => Refusal::new(
            Reason::TlsViolation,
            "none",
            "a record of the client does not decrypt",
        ),
        other => {
            let text = format!("the client broke the TLS protocol: {other}");
            Refusal::new(
                Reason::TlsViolation,
                "none",
                text.escape_debug().to_string(),
            )
        }
    }
}

fn explain_alert(alert: AlertDescription) -> Refusal {
    let text = match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired => {
            "the client does not trust the server certificate: give it the CA, check tls.cert"
        }
        _ => "the client ended the handshake",
    };
    let alert = alert.as_str().unwrap_or("of an unknown number");
    Refusal::new(
        Reason::ClientAlert,
        "none",
        format!("{text} (alert {alert})"),
    )
}

/// Labels what the socket did.
pub fn explain_io(error: &io::Error) -> Refusal {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Refusal::new(
            Reason::PeerClosed,
            "none",
            "the client closed during the handshake",
        ),
        kind => Refusal::new(
            Reason::IoError,
            "none",
            format!("the socket failed: {kind}"),
        ),
    }
}

/// One sentence per reason, naming the fix.
fn certificate_text(reason: Reason) -> &'static str {
    match reason {
        Reason::X509Expired => "the client certificate, or one of its chain, is expired: renew it",
        Reason::X509NotYetValid => "the client certificate is not valid yet: check both clocks",
        Reason::X509Revoked => "the client certificate is on a revocation list",
        Reason::X509CrlExpired => "the revocation list is past its next update: renew tls.crl",
        Reason::X509CrlInvalid => "the revocation list was not made by its issuer: renew tls.crl",
        Reason::X509Usage => {
            "the client certificate, or one of its chain, is not for TLS clients: extended key \
             usage must include clientAuth"
        }
        Reason::X509V1 => {
            "the client certificate is of X.509 version 1 or 2: make one of version 3, or admit \
             it by allow_x509 = [\"v1\"] in its rule or [[device]]; its CA itself must be in \
             tls.client_ca"
        }
        Reason::X509AnyEku => {
            "the extended key usage of the client certificate is anyExtendedKeyUsage: make one \
             with clientAuth, or admit it by allow_x509 = [\"any_eku\"] in its rule or [[device]]"
        }
        Reason::X509KeyUsage => {
            "the key usage of the client certificate lacks digitalSignature, so its key may not \
             sign a handshake: make a certificate with it"
        }
        Reason::X509KeyTooSmall => {
            "an RSA key of less than 2048 bits, in the client certificate or its issuer's: make a \
             larger key"
        }
        Reason::X509KeyUnsupported => {
            "a key of a kind that is not served, in the client certificate or its issuer's: use \
             ECDSA P-256, P-384 or P-521, Ed25519 or RSA of 2048 to 8192 bits"
        }
        Reason::X509SignatureAlgorithm => {
            "the client certificate, or one of its chain, is signed with an algorithm that proves \
             nothing any more (SHA-1, MD5): let its CA sign again with SHA-256"
        }
        Reason::X509IsCa => "the client certificate is a CA's own: make one for the device",
        Reason::X509Constraints => {
            "the client certificate, or one of its chain, has a critical extension that is not \
             served, or breaks a constraint of its CA"
        }
        Reason::X509Unknown => {
            "the client certificate leads to no CA of tls.client_ca and its thumbprint is not \
             registered"
        }
        Reason::X509BadSignature => {
            "the client certificate names a CA of tls.client_ca that did not sign it"
        }
        Reason::X509ChainTooLong => "the client sent too many or too large certificates",
        _ => "the client certificate is malformed",
    }
}
