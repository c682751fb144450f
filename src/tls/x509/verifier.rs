//! Judges client certificates inside the rustls handshake.
//!
//! A chain that leads to a configured CA is trusted; a certificate whose exact bytes the rules
//! register is let through as untrusted, for `auth` to match by thumbprint; every other one is
//! refused with an alert that says why. In all cases webpki checks the signature made with the
//! certificate's key: a thumbprint replaces the chain, never the proof of possession.

use super::leaf::Leaf;
use super::old::{Trust, UnservedSignature};
use crate::runtime::clock::Unix;
use crate::telemetry::reason::Reason;
use crate::tls::{CertificateRules, OldCertificate, der};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, UnixTime,
};
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
    Refused(Reason),
}

/// A verdict, and the DER of the end entity it is about.
pub struct Judged {
    pub judgement: Judgement,
    pub leaf: Box<[u8]>,
}

tokio::task_local! {
    /// rustls keeps no verdict of a verifier with the connection, and the verifier is shared by
    /// all; the handshake's own task scope carries it out. A resumed session would leave it
    /// empty, which the caller treats as a refusal.
    pub static JUDGED: RefCell<Option<Judged>>;
}

/// A configured CA.
pub struct Authority {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    constrained: bool,
    /// Verifies against this CA alone; built when two CAs share a name or a chain names two.
    alone: OnceLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl Authority {
    /// `None` when webpki cannot use the certificate as a trust anchor.
    #[must_use]
    pub fn new(der: CertificateDer<'static>) -> Option<Self> {
        RootCertStore::empty().add(der.clone()).ok()?;
        let subject = der::certificate(&der)?.subject.to_vec();
        let constrained = webpki::anchor_from_trusted_cert(&der)
            .is_ok_and(|anchor| anchor.name_constraints.is_some());
        Some(Self {
            der,
            subject,
            constrained,
            alone: OnceLock::new(),
        })
    }

    /// Content of its name.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// It may not vouch for every name.
    #[must_use]
    pub fn is_constrained(&self) -> bool {
        self.constrained
    }

    /// The CA's certificate, borrowed.
    #[must_use]
    pub fn as_der(&self) -> CertificateDer<'_> {
        CertificateDer::from(&*self.der)
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
    rules: Option<CertificateRules>,
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
        rules: Option<CertificateRules>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let all = if authorities.is_empty() {
            None
        } else {
            let built = chain_verifier(&mut authorities.iter(), &crls, provider);
            Some(built.map_err(|error| format!("tls.crl: {error}; export the list again"))?)
        };
        let algorithms = provider.signature_verification_algorithms;
        let provider = provider.clone();
        Ok(Self {
            all,
            authorities,
            crls,
            rules,
            provider,
            algorithms,
        })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Judgement, Refused> {
        let size: usize = intermediates.iter().map(|cert| cert.len()).sum();
        if intermediates.len() >= MAX_CHAIN || size + leaf.len() > MAX_CHAIN_BYTES {
            return Err(other(ChainTooLong).into());
        }
        let read = Leaf::read(leaf).ok_or(CertificateError::BadEncoding)?;
        let mut any_eku = read.any_eku;
        let error = match self.by_chain(leaf, &read, intermediates, now, &mut any_eku) {
            Ok(anchor) => {
                self.fit(&read, any_eku)?;
                return Ok(Judgement::Trusted { anchor });
            }
            Err(error) => error,
        };
        if revocation_failed(&error) {
            return Err(error.into());
        }
        let fields = der::certificate(leaf).ok_or(CertificateError::BadEncoding)?;
        if self
            .rules
            .as_ref()
            .is_some_and(|rules| (rules.registered)(leaf))
        {
            let now = Unix::from_secs(now.as_secs());
            // IoT Hub leaves dates of registered certificates to nobody; here they count.
            return match () {
                () if now > fields.not_after => Err(CertificateError::Expired.into()),
                () if now < fields.not_before => Err(CertificateError::NotValidYet.into()),
                () => self.fit(&read, any_eku).map(|()| Judgement::Registered),
            };
        }
        // Most tools write CA:TRUE into a self-signed certificate, and webpki then speaks of a CA
        // used as end entity; what its owner must know is that nobody registered it.
        let self_signed = fields.issuer == fields.subject;
        match error {
            Error::InvalidCertificate(CertificateError::Other(_)) if self_signed => {
                Err(CertificateError::UnknownIssuer.into())
            }
            Error::InvalidCertificate(ref cause) => {
                let weak = weak_signature(cause)
                    .then(|| self.flawed_issuer(fields.issuer, intermediates))
                    .flatten();
                Err(match weak {
                    Some(reason) => Refused { reason, error },
                    None => error.into(),
                })
            }
            error => Err(error.into()),
        }
    }

    /// The CA a certificate leads to, if exactly one was found.
    fn by_chain(
        &self,
        leaf: &CertificateDer<'_>,
        read: &Leaf<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        any_eku: &mut bool,
    ) -> Result<Option<Vec<u8>>, Error> {
        use CertificateError::{InvalidPurpose, InvalidPurposeContext};
        let all = self.all.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let trust = Trust {
            authorities: &self.authorities,
            crls: &self.crls,
            algorithms: self.algorithms,
            now,
        };
        if !read.v3 {
            return trust.signer(leaf).map(Some);
        }
        match all.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => Ok(self.anchor(leaf, intermediates, now)),
            Err(Error::InvalidCertificate(
                error @ (InvalidPurpose | InvalidPurposeContext { .. }),
            )) => {
                let again = trust.with_any_eku(leaf, intermediates);
                let anchor = again.map_err(|cause| Error::from(cause.unwrap_or(error)))?;
                *any_eku = true;
                Ok(Some(anchor))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a certificate that is vouched for can be used, and may be where it is old.
    fn fit(&self, read: &Leaf<'_>, any_eku: bool) -> Result<(), Refused> {
        let old = match (read.v3, any_eku) {
            (false, _) => Some((OldCertificate::V1, Reason::X509V1)),
            (true, true) => Some((OldCertificate::AnyEku, Reason::X509AnyEku)),
            (true, false) => None,
        };
        let admitted = |old| self.rules.as_ref().is_some_and(|rules| (rules.admits)(old));
        let reason = match old {
            _ if !read.signs => Reason::X509KeyUsage,
            Some((old, reason)) if !admitted(old) => reason,
            _ => match read.flaw {
                Some(reason) => reason,
                None => return Ok(()),
            },
        };
        // The alert is `unsupported_certificate`.
        let error = CertificateError::InvalidPurpose.into();
        Err(Refused { reason, error })
    }

    /// What keeps the signature of an issuer from being checked, if its key is what does.
    fn flawed_issuer(&self, issuer: &[u8], intermediates: &[CertificateDer<'_>]) -> Option<Reason> {
        let named = |der: &[u8]| der::certificate(der).is_some_and(|ca| ca.subject == issuer);
        let mut ders = intermediates
            .iter()
            .map(|der| &**der)
            .chain(self.authorities.iter().map(Authority::der));
        ders.find_map(|der| Leaf::read(der).filter(|_| named(der))?.flaw)
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
            Err(refused) => Judgement::Refused(refused.reason),
        };
        // Outside an acceptor's scope nobody asks for the verdict.
        let leaf = Box::from(leaf.as_ref());
        let _ = JUDGED.try_with(|judged| judged.replace(Some(Judged { judgement, leaf })));
        let verified = |_| ClientCertVerified::assertion();
        result.map(verified).map_err(|refused| refused.error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match Leaf::read(cert) {
            // webpki, and so rustls, does not read these.
            Some(read) if !read.v3 => Trust::proves(self.algorithms, message, read.key, signed)
                .then(HandshakeSignatureValid::assertion)
                .ok_or_else(|| CertificateError::BadSignature.into()),
            _ => rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.algorithms;
        match Leaf::read(cert) {
            Some(read) if !read.v3 => {
                let key = SubjectPublicKeyInfoDer::from(read.key);
                verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
            }
            _ => rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why a certificate is refused, for the log and for the client.
struct Refused {
    reason: Reason,
    error: Error,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let reason = match &error {
            Error::InvalidCertificate(error) => reason(error),
            _ => Reason::X509CrlInvalid,
        };
        Self { reason, error }
    }
}

impl From<CertificateError> for Refused {
    fn from(error: CertificateError) -> Self {
        Error::from(error).into()
    }
}

/// A signature that does not verify may be one that cannot be checked.
fn weak_signature(error: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(
        error,
        E::BadSignature | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
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

/// An error of our own, as rustls takes it.
pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(error)))
}

/// The metric label of a refused certificate.
#[must_use]
pub fn reason(error: &CertificateError) -> Reason {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => Reason::X509Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => Reason::X509NotYetValid,
        E::Revoked => Reason::X509Revoked,
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => Reason::X509CrlExpired,
        E::UnknownIssuer => Reason::X509Unknown,
        E::BadSignature => Reason::X509BadSignature,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => Reason::X509Usage,
        E::UnsupportedSignatureAlgorithmContext { .. } => Reason::X509SignatureAlgorithm,
        E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Reason::X509KeyUnsupported,
        E::UnhandledCriticalExtension => Reason::X509Constraints,
        E::Other(inner) => other_reason(&*inner.0),
        _ => Reason::X509Malformed,
    }
}

/// webpki's own errors, and ours.
fn other_reason(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Reason {
    match error.downcast_ref::<webpki::Error>() {
        Some(webpki::Error::CaUsedAsEndEntity) => Reason::X509IsCa,
        Some(webpki::Error::UnsupportedCertVersion) => Reason::X509V1,
        _ if error.is::<ChainTooLong>() => Reason::X509ChainTooLong,
        _ if error.is::<UnservedSignature>() => Reason::X509SignatureAlgorithm,
        _ => Reason::X509Constraints,
    }
}
