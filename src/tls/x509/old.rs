//! Old certificates, which webpki refuses and a rule may admit: versions before 3, and
//! `anyExtendedKeyUsage`.
//!
//! Nothing else is given up: the CA's signature, dates, revocation and proof of possession are
//! checked as for every certificate. A certificate before version 3 has to be signed by a CA of
//! `client_ca` itself, because it has no extensions to find a chain by.

use super::leaf::Leaf;
use super::verifier::Authority;
use crate::tls::der;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::{CertRevocationListError, CertificateError, DigitallySignedStruct, Error};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator,
    KeyPurposeIdIter, OwnedCertRevocationList, RawPublicKeyEntity, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// What one listener believes.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// The CAs.
    pub authorities: &'a [Authority],
    /// Their revocation lists.
    pub crls: &'a [CertificateRevocationListDer<'static>],
    /// Signatures that are checked.
    pub algorithms: WebPkiSupportedAlgorithms,
    /// When.
    pub now: UnixTime,
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

impl Trust<'_> {
    /// Finds the CA that signed a certificate without extensions; its DER.
    ///
    /// # Errors
    /// Why there is none.
    pub fn signer(&self, leaf: &[u8]) -> Result<Vec<u8>, Error> {
        let fields = der::certificate(leaf).ok_or(CertificateError::BadEncoding)?;
        let signed = der::signed(leaf).ok_or(CertificateError::BadEncoding)?;
        let mut error = CertificateError::UnknownIssuer;
        for authority in self.authorities {
            if authority.subject() != fields.issuer || authority.is_constrained() {
                continue;
            }
            match self.verify(authority, &signed) {
                Ok(()) => {}
                Err(found) => {
                    error = found;
                    continue;
                }
            }
            let now = self.now.as_secs();
            if now > fields.not_after.as_secs() {
                return Err(CertificateError::Expired.into());
            }
            if now < fields.not_before.as_secs() {
                return Err(CertificateError::NotValidYet.into());
            }
            self.not_revoked(authority, leaf)?;
            return Ok(authority.der().to_vec());
        }
        Err(error.into())
    }

    fn verify(&self, by: &Authority, signed: &der::Signed<'_>) -> Result<(), CertificateError> {
        let key = Leaf::read(by.der())
            .ok_or(CertificateError::BadEncoding)?
            .key;
        let fits = |algorithm: &&Algorithm| *algorithm.signature_alg_id() == *signed.algorithm;
        let mut fitting = self.algorithms.all.iter().filter(fits).peekable();
        if fitting.peek().is_none() {
            return Err(super::verifier::other(UnservedSignature));
        }
        let proved =
            fitting.any(|algorithm| verified(*algorithm, key, signed.body, signed.signature));
        proved.then_some(()).ok_or(CertificateError::BadSignature)
    }

    /// The lists of `authority`, as webpki holds them: an old one refuses, none allows.
    fn not_revoked(&self, authority: &Authority, leaf: &[u8]) -> Result<(), Error> {
        let parsed = X509Certificate::from_der(leaf);
        let (_, parsed) = parsed.map_err(|_| CertificateError::BadEncoding)?;
        for crl in self.crls {
            let damaged = || Error::from(CertRevocationListError::ParseError);
            let (_, list) = CertificateRevocationList::from_der(crl).map_err(|_| damaged())?;
            let issuer = der::issuer_of_crl(crl).ok_or_else(damaged)?;
            if issuer != authority.subject() {
                continue;
            }
            let signed = der::signed(crl).ok_or_else(damaged)?;
            self.verify(authority, &signed)
                .map_err(|_| Error::from(CertRevocationListError::BadSignature))?;
            let due = der::crl_next_update(crl).flatten().ok_or_else(damaged)?;
            if self.now.as_secs() >= due.as_secs() {
                return Err(CertificateError::ExpiredRevocationList.into());
            }
            if list
                .iter_revoked_certificates()
                .any(|entry| entry.raw_serial() == parsed.raw_serial())
            {
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }

    /// Looks for a path once more, on which `anyExtendedKeyUsage` is good for clients, too; the DER
    /// of the CA it leads to.
    ///
    /// # Errors
    /// What is wrong beside; nothing when it is the use after all.
    pub fn with_any_eku(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Vec<u8>, Option<CertificateError>> {
        let ders: Vec<CertificateDer<'_>> =
            self.authorities.iter().map(Authority::as_der).collect();
        let anchors: Vec<_> = ders
            .iter()
            .map(|der| anchor_from_trusted_cert(der))
            .collect::<Result<_, _>>()
            .map_err(|_| None)?;
        let lists: Vec<CertRevocationList<'_>> = self
            .crls
            .iter()
            .map(|crl| OwnedCertRevocationList::from_der(crl).map(CertRevocationList::Owned))
            .collect::<Result<_, _>>()
            .map_err(|_| None)?;
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        let options = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = self.algorithms.all;
        let entity = EndEntityCert::try_from(leaf).map_err(|_| None)?;
        let path = entity
            .verify_for_usage(
                algorithms,
                &anchors,
                intermediates,
                self.now,
                AnyOrClients,
                options,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::CertRevoked => Some(CertificateError::Revoked),
                webpki::Error::CrlExpired { .. } => Some(CertificateError::ExpiredRevocationList),
                _ => None,
            })?;
        let anchor = path.anchor();
        let place = anchors.iter().position(|other| other == anchor);
        let found = place.and_then(|place| ders.get(place));
        found.map(|der| der.to_vec()).ok_or(None)
    }

    /// TLS 1.2: whether `signed` proves the key of a certificate webpki cannot read.
    #[must_use]
    pub fn proves(
        algorithms: WebPkiSupportedAlgorithms,
        message: &[u8],
        key: &[u8],
        signed: &DigitallySignedStruct,
    ) -> bool {
        let mut mapping = algorithms.mapping.iter();
        let fitting = mapping.find(|(scheme, _)| *scheme == signed.scheme);
        fitting.is_some_and(|(_, algorithms)| {
            let proved =
                |algorithm: &Algorithm| verified(*algorithm, key, message, signed.signature());
            algorithms.iter().any(proved)
        })
    }
}

fn verified(algorithm: Algorithm, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    RawPublicKeyEntity::try_from(&key)
        .is_ok_and(|key| key.verify_signature(algorithm, message, signature).is_ok())
}

/// The CA signed with SHA-1, MD5 or the like.
#[derive(Debug)]
pub struct UnservedSignature;

impl std::fmt::Display for UnservedSignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("signed with an algorithm that is not served")
    }
}

impl std::error::Error for UnservedSignature {}

/// Takes certificates without extended key usage, for clients, or for anything.
struct AnyOrClients;

impl ExtendedKeyUsageValidator for AnyOrClients {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        const GOOD: [&[usize]; 2] = [&[2, 5, 29, 37, 0], &[1, 3, 6, 1, 5, 5, 7, 3, 2]];
        let mut none = true;
        for purpose in purposes {
            none = false;
            if GOOD.contains(&&*purpose?.to_decoded_oid()) {
                return Ok(());
            }
        }
        match none {
            true => Ok(()),
            false => Err(webpki::Error::UnsupportedCriticalExtension),
        }
    }
}
