//! What a certificate is fit for, beyond what webpki judges.

use crate::telemetry::reason::Reason;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Modulus of an RSA key that signatures are checked with, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What is read of a certificate.
pub struct Leaf<'a> {
    /// Version 3; those before have no extensions.
    pub v3: bool,
    /// Its extended key usage says `anyExtendedKeyUsage` and not `clientAuth`.
    pub any_eku: bool,
    /// Its key may sign: key usage is absent, or has `digitalSignature`.
    pub signs: bool,
    /// The label of what keeps its key from being used.
    pub flaw: Option<Reason>,
    /// SubjectPublicKeyInfo, DER.
    pub key: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// Reads `der`; `None` when it is damaged.
    #[must_use]
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        let eku = parsed.extended_key_usage().ok()?;
        let any_eku = eku.is_some_and(|eku| eku.value.any && !eku.value.client_auth);
        let usage = parsed.key_usage().ok()?;
        let signs = usage.is_none_or(|usage| usage.value.digital_signature());
        let flaw = flaw(parsed.public_key());
        let body = parsed.tbs_certificate;
        rest.is_empty().then_some(Self {
            v3: body.version == X509Version::V3,
            any_eku,
            signs,
            flaw,
            key: body.subject_pki.raw,
        })
    }
}

fn flaw(key: &SubjectPublicKeyInfo<'_>) -> Option<Reason> {
    const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
    const ED25519: &str = "1.3.101.112";
    let parameters = key.algorithm.parameters.as_ref();
    let curve = || parameters.and_then(|any| any.as_oid().ok());
    let served = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() < *RSA_BITS.start() => {
            return Some(Reason::X509KeyTooSmall);
        }
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        Ok(PublicKey::EC(_)) => curve().is_some_and(|oid| CURVES.contains(&&*oid.to_id_string())),
        Ok(PublicKey::Unknown(_)) => key.algorithm.algorithm.to_id_string() == ED25519,
        _ => false,
    };
    (!served).then_some(Reason::X509KeyUnsupported)
}
