//! Certificate files: there, readable, the right kind, and fitting each other.
//!
//! The listeners load them again; this is so that `check` says in one run what is wrong.

use crate::config::named_file::{self, PEM_BYTES_MAX};
use crate::config::secret_file;
use crate::telemetry::log::capped;
use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;
use zeroize::Zeroizing;

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    objects(path, "certificate")
}

/// The lists of a PEM file, at least one.
pub(super) fn revocations(path: &Path) -> Result<(), String> {
    objects::<CertificateRevocationListDer<'static>>(path, "revocation list").map(drop)
}

/// Checks that every certificate of a PEM file can stand as an authority.
pub(super) fn authorities(path: &Path) -> Result<(), String> {
    let shown = shown(path);
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        let number = index + 1;
        if is_authority(&certificate) == Some(false) {
            return Err(format!(
                "{shown}: certificate {number} is no CA certificate (basicConstraints); name the \
                 certificate of the authority that signs, not one it signed"
            ));
        }
        RootCertStore::empty().add(certificate).map_err(|e| {
            format!("{shown}: certificate {number} cannot be read ({e}); replace the file")
        })?;
    }
    Ok(())
}

/// The private key of a PEM file that nobody else can read.
pub(super) fn private_key(
    path: &Path,
    insecure_permissions: bool,
) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read(path)?;
    if !insecure_permissions {
        secret_file::check_permissions(path)?;
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        if encrypted {
            return format!(
                "{} is encrypted; decrypt it with `openssl pkey -in … -out …`",
                shown(path)
            );
        }
        explain(path, "private key", &error)
    })
}

/// Checks that the key is the certificate's.
pub(super) fn belong_together(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(
            "is not the key of cert's first certificate; put the server's own certificate first \
             in cert, or name its key"
                .to_owned(),
        ),
        Err(error) => Err(format!(
            "cannot serve TLS with cert ({error}); make a new pair"
        )),
    }
}

fn objects<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, String> {
    let pem = read(path)?;
    let objects = T::pem_slice_iter(&pem)
        .collect::<Result<Vec<T>, PemError>>()
        .map_err(|error| explain(path, what, &error))?;
    if objects.is_empty() {
        return Err(explain(path, what, &PemError::NoItemsFound));
    }
    Ok(objects)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    named_file::read(path, PEM_BYTES_MAX).map_err(|unreadable| {
        let what = unreadable.with_fix("correct the path or create it");
        format!("{} {what}", shown(path))
    })
}

/// The parser's own text quotes lines of the file; this does not.
fn explain(path: &Path, what: &str, error: &PemError) -> String {
    let why = match error {
        PemError::NoItemsFound => format!("holds no {what}"),
        PemError::MissingSectionEnd { .. } => "breaks off inside a section".to_owned(),
        PemError::IllegalSectionStart { .. } => "has a malformed BEGIN line".to_owned(),
        PemError::Base64Decode(_) => "has a section that is no base64".to_owned(),
        _ => "cannot be read".to_owned(),
    };
    format!("{} {why}; it must be a {what} in PEM", shown(path))
}

fn shown(path: &Path) -> String {
    capped(&path.display().to_string())
}

/// Whether basicConstraints says CA (RFC 5280 §4.2.1.9); nothing when there are no extensions,
/// as in certificates of version 1.
///
/// The extension is found by its encoded object identifier, which no other field of a
/// certificate holds in practice; the verifier itself judges chains, this only spots a wrong file.
fn is_authority(certificate: &CertificateDer<'_>) -> Option<bool> {
    const BASIC_CONSTRAINTS: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x13];
    const KEY_USAGE_OR_ANY_EXTENSION: [u8; 4] = [0x06, 0x03, 0x55, 0x1d];
    const TRUE: [u8; 3] = [0x01, 0x01, 0xff];
    let der = certificate.as_ref();
    let find = |needle: &[u8]| der.windows(needle.len()).position(|w| w == needle);
    let Some(at) = find(&BASIC_CONSTRAINTS) else {
        return find(&KEY_USAGE_OR_ANY_EXTENSION).map(|_| false);
    };
    let mut rest = &der[at + BASIC_CONSTRAINTS.len()..];
    rest = rest.strip_prefix(&TRUE).unwrap_or(rest); // critical
    let [0x04, _, 0x30, _, value @ ..] = rest else {
        return None;
    };
    Some(value.starts_with(&TRUE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn certificate(ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["x.example".to_owned()]).unwrap();
        params.is_ca = ca;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn an_authority_is_told_from_a_leaf() {
        let unbounded = IsCa::Ca(BasicConstraints::Unconstrained);
        let bounded = IsCa::Ca(BasicConstraints::Constrained(0));
        assert_eq!(is_authority(&certificate(unbounded)), Some(true));
        assert_eq!(is_authority(&certificate(bounded)), Some(true));
        assert_eq!(is_authority(&certificate(IsCa::ExplicitNoCa)), Some(false));
        assert_eq!(is_authority(&certificate(IsCa::NoCa)), Some(false));
        assert_eq!(is_authority(&CertificateDer::from(vec![0x30, 0x00])), None);
    }
}
