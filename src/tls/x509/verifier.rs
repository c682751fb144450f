//! Judges client certificates inside the rustls handshake.
//!
//! A chain that leads to a configured CA is trusted; a certificate whose exact bytes the rules
//! register is let through as untrusted, for `auth` to match by thumbprint; every other one is
//! refused with an alert that says why. In all cases webpki checks the signature made with the
//! certificate's key: a thumbprint replaces the chain, never the proof of possession.

use crate::runtime::clock::Unix;
use crate::tls::{Thumbprints, der};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError};
use rustls::{RootCertStore, SignatureScheme};
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Certificates a client may send, its own included. webpki bounds its search too, but the
/// cheapest chain is the one never looked at.
const MAX_CHAIN: usize = 8;
/// Bytes of all certificates together.
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// What the verifier found in the handshake that is being polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The chain leads to a configured CA: its DER, if exactly one was found to have signed it.
    Trusted {
        /// DER of the CA certificate.
        anchor: Option<Vec<u8>>,
    },
    /// No CA vouches for it, but these exact bytes are registered.
    Registered,
    /// Refused, by label.
    Refused(&'static str),
}

tokio::task_local! {
    /// rustls keeps no verdict of a verifier with the connection, and the verifier is shared by
    /// all; the handshake's own task scope carries it out. A resumed session would leave it
    /// empty, which the caller treats as a refusal.
    pub static JUDGED: RefCell<Option<Judgement>>;
}

/// A configured CA.
pub struct Authority {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    /// Verifies against this CA alone; built when two CAs share a name or a chain names two.
    alone: OnceLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl Authority {
    /// `None` when webpki cannot use the certificate as a trust anchor.
    #[must_use]
    pub fn new(der: CertificateDer<'static>) -> Option<Self> {
        RootCertStore::empty().add(der.clone()).ok()?;
        let subject = der::certificate(&der)?.subject.to_vec();
        Some(Self {
            der,
            subject,
            alone: OnceLock::new(),
        })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// The verifier of one listener.
pub struct DeviceVerifier {
    /// All CAs at once; `None` when only thumbprints are taken.
    all: Option<Arc<dyn ClientCertVerifier>>,
    authorities: Vec<Authority>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    thumbprints: Option<Thumbprints>,
    provider: Arc<CryptoProvider>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for DeviceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceVerifier")
            .field("cas", &self.authorities.len())
            .finish()
    }
}

impl DeviceVerifier {
    /// Builds it.
    ///
    /// # Errors
    /// A sentence when webpki cannot use a revocation list.
    pub fn new(
        authorities: Vec<Authority>,
        crls: Vec<CertificateRevocationListDer<'static>>,
        thumbprints: Option<Thumbprints>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let all = if authorities.is_empty() {
            None
        } else {
            let built = chain_verifier(&mut authorities.iter(), &crls, provider);
            Some(built.map_err(|error| format!("tls.crl: {error}; export the list again"))?)
        };
        // A second parsed copy is only ever needed to tell CAs apart.
        let crls = if authorities.len() > 1 {
            crls
        } else {
            Vec::new()
        };
        let algorithms = provider.signature_verification_algorithms;
        let provider = provider.clone();
        Ok(Self {
            all,
            authorities,
            crls,
            thumbprints,
            provider,
            algorithms,
        })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Judgement, Error> {
        let size: usize = intermediates.iter().map(|cert| cert.len()).sum();
        if intermediates.len() >= MAX_CHAIN || size + leaf.len() > MAX_CHAIN_BYTES {
            return Err(Error::InvalidCertificate(other(ChainTooLong)));
        }
        let unknown = || Err(CertificateError::UnknownIssuer.into());
        let by_chain = self.all.as_ref().map_or_else(unknown, |all| {
            all.verify_client_cert(leaf, intermediates, now)
        });
        let error = match by_chain {
            Ok(_) => {
                let anchor = self.anchor(leaf, intermediates, now);
                return Ok(Judgement::Trusted { anchor });
            }
            Err(error) => error,
        };
        if revocation_failed(&error) {
            return Err(error);
        }
        let fields = der::certificate(leaf).ok_or(CertificateError::BadEncoding)?;
        if self
            .thumbprints
            .as_ref()
            .is_some_and(|registered| registered(leaf))
        {
            let now = Unix::from_secs(now.as_secs());
            // IoT Hub leaves dates of registered certificates to nobody; here they count.
            return match () {
                () if now > fields.not_after => Err(CertificateError::Expired.into()),
                () if now < fields.not_before => Err(CertificateError::NotValidYet.into()),
                () => Ok(Judgement::Registered),
            };
        }
        // Most tools write CA:TRUE into a self-signed certificate, and webpki then speaks of a CA
        // used as end entity; what its owner must know is that nobody registered it.
        let self_signed = fields.issuer == fields.subject;
        match error {
            Error::InvalidCertificate(CertificateError::Other(_)) if self_signed => unknown(),
            error => Err(error),
        }
        .map(|_: ClientCertVerified| Judgement::Registered)
    }

    /// Which CA vouches for a chain that was found good.
    ///
    /// The verified path ends at a configured CA whose subject is the issuer of a certificate
    /// sent. If one CA only has such a subject, it is that one; else each is tried alone.
    fn anchor(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<Vec<u8>> {
        let issuers: Vec<&[u8]> = std::iter::once(leaf)
            .chain(intermediates)
            .filter_map(|cert| der::certificate(cert).map(|fields| fields.issuer))
            .collect();
        let named = |ca: &&Authority| issuers.contains(&ca.subject.as_slice());
        let mut candidates = self.authorities.iter().filter(named);
        let first = candidates.next()?;
        if candidates.next().is_none() {
            return Some(first.der.to_vec());
        }
        let vouches = |ca: &&Authority| {
            ca.alone
                .get_or_init(|| {
                    chain_verifier(&mut std::iter::once(*ca), &self.crls, &self.provider).ok()
                })
                .as_ref()
                .is_some_and(|alone| alone.verify_client_cert(leaf, intermediates, now).is_ok())
        };
        self.authorities
            .iter()
            .filter(named)
            .find(vouches)
            .map(|ca| ca.der.to_vec())
    }
}

/// Both traps of revocation lists are set: a CA without a list does not block its devices, and a
/// list past its next update refuses instead of being believed for ever.
fn chain_verifier(
    authorities: &mut dyn Iterator<Item = &Authority>,
    crls: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.der.clone())
            .map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(crls.iter().cloned())
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| error.to_string())
}

impl ClientCertVerifier for DeviceVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Empty: given a list, many clients hold a self-signed certificate back.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let result = self.judge(leaf, intermediates, now);
        let judgement = match &result {
            Ok(judgement) => judgement.clone(),
            Err(Error::InvalidCertificate(error)) => Judgement::Refused(reason(error)),
            Err(_) => Judgement::Refused("certificate_crl_invalid"),
        };
        // Outside an acceptor's scope nobody asks for the verdict.
        let _ = JUDGED.try_with(|judged| judged.replace(Some(judgement)));
        result.map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What no registration overrides: the CA is configured and took the certificate back, or its
/// list cannot be believed.
fn revocation_failed(error: &Error) -> bool {
    use CertificateError as E;
    match error {
        Error::InvalidCertificate(error) => matches!(
            error,
            E::Revoked | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. }
        ),
        Error::InvalidCertRevocationList(_) => true,
        _ => false,
    }
}

#[derive(Debug)]
struct ChainTooLong;

impl fmt::Display for ChainTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "more than {MAX_CHAIN} certificates or {MAX_CHAIN_BYTES} bytes"
        )
    }
}

impl std::error::Error for ChainTooLong {}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(error)))
}

/// The metric label of a refused certificate.
#[must_use]
pub fn reason(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "certificate_expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate_not_yet_valid",
        E::Revoked => "certificate_revoked",
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            "certificate_crl_expired"
        }
        E::UnknownIssuer => "certificate_unknown_ca",
        E::BadSignature => "certificate_bad_signature",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "certificate_unsupported",
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        | E::UnhandledCriticalExtension => "certificate_unsupported",
        E::Other(inner) if inner.0.is::<ChainTooLong>() => "certificate_chain_too_long",
        // Version 1, a CA as end entity, name constraints: readable, but not for this.
        E::Other(_) => "certificate_unsupported",
        _ => "certificate_malformed",
    }
}
