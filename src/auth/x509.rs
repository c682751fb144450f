//! What a client certificate says: names, thumbprints, validity, use.
//!
//! Parsing only. That the peer holds the private key, and that the chain leads to a configured
//! CA, was proved in the handshake (`tls`); what the certificate is good for is decided here and
//! by the rules, at every CONNECT, because a resumed handshake does not look again.

use super::denial::{self, Denial};
use crate::runtime::clock::Unix;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// SHA-256 of a certificate's DER.
pub type Fingerprint = [u8; 32];

/// Largest end-entity certificate looked at, bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Largest number of names in a certificate looked at.
const NAMES_MAX: usize = 64;

/// What an end-entity certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Every common name of the subject, in order; a text that is not UTF-8 counts as empty.
    pub common_names: Vec<Box<str>>,
    /// DNS names, URIs and mail addresses of the subject's alternative names, in order.
    pub alternative_names: Vec<Box<str>>,
    /// SHA-1 of the DER.
    pub sha1: [u8; 20],
    /// SHA-256 of the DER.
    pub sha256: Fingerprint,
    /// First second it is valid.
    pub not_before: Unix,
    /// Last second it is valid.
    pub not_after: Unix,
    /// Serial number, as encoded.
    pub serial: Box<[u8]>,
    /// SHA-256 of the issuer's name, as encoded.
    pub issuer: Fingerprint,
    /// Extended key usage is absent, or has clientAuth or anyExtendedKeyUsage.
    pub for_clients: bool,
    /// Key usage is absent, or has digitalSignature.
    pub signs: bool,
    /// What of it a rule has to admit.
    pub old: Old,
}

/// Old kinds of certificate: found in one, or admitted by a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// X.509 version 1 or 2.
    pub v1: bool,
    /// anyExtendedKeyUsage without clientAuth.
    pub any_eku: bool,
}

impl Old {
    /// What either has.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            v1: self.v1 || other.v1,
            any_eku: self.any_eku || other.any_eku,
        }
    }
}

impl Certificate {
    /// Parses an end-entity certificate.
    ///
    /// # Errors
    /// `x509_malformed`.
    pub fn parse(der: &[u8]) -> Result<Self, Denial> {
        const MALFORMED: Denial = denial::X509_MALFORMED;
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(MALFORMED);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| MALFORMED)?;
        if !rest.is_empty() {
            return Err(MALFORMED);
        }
        let usage = parsed.extended_key_usage().map_err(|_| MALFORMED)?;
        let key_usage = parsed.key_usage().map_err(|_| MALFORMED)?;
        let common_names = parsed.subject().iter_common_name();
        let common_names: Vec<Box<str>> = common_names
            .take(NAMES_MAX)
            .map(|name| name.as_str().unwrap_or_default().into())
            .collect();
        Ok(Self {
            common_names,
            alternative_names: alternative_names(&parsed)?,
            sha1: Sha1::digest(der).into(),
            sha256: fingerprint(der),
            not_before: second(parsed.validity().not_before.timestamp()),
            not_after: second(parsed.validity().not_after.timestamp()),
            serial: parsed.raw_serial().into(),
            issuer: fingerprint(parsed.issuer().as_raw()),
            for_clients: usage.is_none_or(|u| u.value.any || u.value.client_auth),
            signs: key_usage.is_none_or(|usage| usage.value.digital_signature()),
            old: old(&parsed),
        })
    }

    /// Parses the first of a chain. What is old about one above it is old about the chain.
    ///
    /// # Errors
    /// `x509_malformed`.
    pub fn of_chain(chain: &[Vec<u8>]) -> Result<Self, Denial> {
        let (leaf, above) = chain.split_first().ok_or(denial::X509_MALFORMED)?;
        let mut certificate = Self::parse(leaf)?;
        for der in above {
            if let Ok((_, parsed)) = X509Certificate::from_der(der) {
                certificate.old.any_eku |= old(&parsed).any_eku;
            }
        }
        Ok(certificate)
    }

    /// The common name, when there is exactly one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        only(&self.common_names)
    }

    /// The alternative name, when there is exactly one.
    #[must_use]
    pub fn alternative_name(&self) -> Option<&str> {
        only(&self.alternative_names)
    }

    /// Whether it is in its time and for clients.
    ///
    /// # Errors
    /// `x509_expired`, `x509_not_yet_valid`, `x509_usage`, `x509_key_usage`.
    pub fn check(&self, now: Unix) -> Result<(), Denial> {
        if now.as_secs() > self.not_after.as_secs() {
            return Err(denial::X509_EXPIRED);
        }
        if now < self.not_before {
            return Err(denial::X509_NOT_YET_VALID);
        }
        if !self.for_clients {
            return Err(denial::X509_USAGE);
        }
        if !self.signs {
            return Err(denial::X509_KEY_USAGE);
        }
        Ok(())
    }
}

fn old(parsed: &X509Certificate<'_>) -> Old {
    let usage = parsed.extended_key_usage().ok().flatten();
    Old {
        v1: parsed.version() != X509Version::V3,
        any_eku: usage.is_some_and(|u| u.value.any && !u.value.client_auth),
    }
}

fn only(names: &[Box<str>]) -> Option<&str> {
    match names {
        [name] if !name.is_empty() => Some(name),
        _ => None,
    }
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Result<Vec<Box<str>>, Denial> {
    let extension = parsed
        .subject_alternative_name()
        .map_err(|_| denial::X509_MALFORMED)?;
    let names = extension.map(|e| e.value.general_names.as_slice());
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            Some(Box::from(*text))
        }
        // counts as a name, so that it cannot hide behind the one that reads well
        GeneralName::Invalid(..) => Some(Box::from("")),
        _ => None,
    };
    let names = names.unwrap_or_default().iter().take(NAMES_MAX);
    Ok(names.filter_map(text).collect())
}

fn second(timestamp: i64) -> Unix {
    Unix::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

/// SHA-256 of a certificate's DER.
#[must_use]
pub fn fingerprint(der: &[u8]) -> Fingerprint {
    Sha256::digest(der).into()
}

/// Fingerprints of every certificate in a PEM bundle, or of one DER certificate.
///
/// # Errors
/// What is wrong with the file.
pub fn fingerprints(file: &[u8]) -> Result<Vec<Fingerprint>, &'static str> {
    const NONE: &str = "holds no certificate; it must be PEM (BEGIN CERTIFICATE) or DER";
    if X509Certificate::from_der(file).is_ok_and(|(rest, _)| rest.is_empty()) {
        return Ok(vec![fingerprint(file)]);
    }
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(file) {
        let pem = pem.map_err(|_| "is damaged PEM")?;
        if pem.label == "CERTIFICATE" {
            pem.parse_x509()
                .map_err(|_| "holds a damaged certificate")?;
            found.push(fingerprint(&pem.contents));
        }
    }
    if found.is_empty() {
        Err(NONE)
    } else {
        Ok(found)
    }
}

/// Parses a registered thumbprint: 40 (SHA-1) or 64 (SHA-256) hex digits; colons and blanks
/// between bytes are skipped.
///
/// # Errors
/// What it must look like.
pub fn parse_thumbprint(text: &str) -> Result<Box<[u8]>, &'static str> {
    const FORM: &str = "a thumbprint has 40 (SHA-1) or 64 (SHA-256) hex digits";
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !matches!(b, b':' | b' ' | b'-'))
        .collect();
    let bytes = super::rules::encoding::decode_hex(&digits).ok_or(FORM)?;
    if matches!(bytes.len(), 20 | 32) {
        Ok(bytes.as_slice().into())
    } else {
        Err(FORM)
    }
}

#[cfg(test)]
mod tests;
