//! Reads certificates, keys and revocation lists from PEM files, all problems at once.
//!
//! Everything is built before anything is used, so that a reload either replaces the whole set
//! or changes nothing. Each problem names the setting, the file and the fix; none shows content.

use crate::config::TlsConfig;
use crate::config::named_file::{self, PEM_BYTES_MAX};
use crate::runtime::clock::Unix;
use crate::tls::x509::verifier::Authority;
use crate::tls::{Expiry, der};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error};
use std::path::Path;
use zeroize::Zeroizing;

/// Certificates in one `client_ca` file.
const MAX_CLIENT_CAS: usize = 256;

/// What the files of one listener hold.
#[derive(Default)]
pub struct Material {
    /// The server's chain and key; absent on a PSK-only listener.
    pub server: Option<CertifiedKey>,
    /// CAs for client certificates, in the order of the file.
    pub client_cas: Vec<Authority>,
    /// Revocation lists.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// When each file stops being good.
    pub expiries: Vec<Expiry>,
}

/// Loads what `tls` names. `owner` starts every sentence: whose `tls` it is.
///
/// # Errors
/// Every problem found.
pub fn load(
    owner: &str,
    tls: &TlsConfig,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<Material, Vec<String>> {
    let mut loader = Loader {
        owner,
        problems: Vec::new(),
    };
    let mut material = Material::default();
    loader.pairs(tls);
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        loader.server(&mut material, cert, key, provider);
    }
    if let Some(path) = &tls.client_ca {
        loader.client_cas(&mut material, path);
    }
    if let Some(path) = &tls.crl {
        loader.crls(&mut material, path);
    }
    if loader.problems.is_empty() {
        Ok(material)
    } else {
        Err(loader.problems)
    }
}

struct Loader<'a> {
    owner: &'a str,
    problems: Vec<String>,
}

impl Loader<'_> {
    fn problem(&mut self, key: &str, path: Option<&Path>, text: &str) {
        let file = path.map(|path| format!(" {:?}", path.display().to_string()));
        let file = file.unwrap_or_default();
        let owner = self.owner;
        self.problems
            .push(format!("{owner}: tls.{key}{file}: {text}"));
    }

    /// Settings that only make sense together.
    fn pairs(&mut self, tls: &TlsConfig) {
        let needs: [(&str, bool, &str, bool); 4] = [
            ("cert", tls.cert.is_some(), "key", tls.key.is_some()),
            ("key", tls.key.is_some(), "cert", tls.cert.is_some()),
            (
                "client_ca",
                tls.client_ca.is_some(),
                "cert",
                tls.cert.is_some(),
            ),
            (
                "crl",
                tls.crl.is_some(),
                "client_ca",
                tls.client_ca.is_some(),
            ),
        ];
        for (key, given, other, other_given) in needs {
            if given && !other_given {
                self.problem(
                    key,
                    None,
                    &format!("needs tls.{other}; add it or remove tls.{key}"),
                );
            }
        }
    }

    fn read(&mut self, key: &str, path: &Path) -> Option<Zeroizing<Vec<u8>>> {
        match named_file::read(path, PEM_BYTES_MAX) {
            Ok(bytes) => Some(bytes),
            Err(unreadable) => {
                let text = unreadable.with_fix("check the path and its permissions");
                self.problem(key, Some(path), &text);
                None
            }
        }
    }

    /// Every PEM section of type `T`, at least one.
    fn sections<T: PemObject>(&mut self, key: &str, path: &Path, what: &str) -> Vec<T> {
        let Some(bytes) = self.read(key, path) else {
            return Vec::new();
        };
        match T::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => {
                let text = format!("holds no {what}; give a PEM file with at least one");
                self.problem(key, Some(path), &text);
                Vec::new()
            }
            // The parser's own words may quote a line of the file, which may be a key.
            Err(_) => {
                let text = "is not well-formed PEM; write the file again, whole";
                self.problem(key, Some(path), text);
                Vec::new()
            }
        }
    }

    fn server(
        &mut self,
        material: &mut Material,
        cert: &Path,
        key: &Path,
        provider: &rustls::crypto::CryptoProvider,
    ) {
        let chain = self.sections::<CertificateDer<'static>>("cert", cert, "certificate");
        let keys = self.sections::<PrivateKeyDer<'static>>("key", key, "private key");
        let Some(private) = keys.into_iter().next().filter(|_| !chain.is_empty()) else {
            return;
        };
        self.expiry(material, cert, chain.iter().map(|cert| not_after(cert)));
        match CertifiedKey::from_der(chain, private, provider) {
            Ok(certified) => material.server = Some(certified),
            Err(Error::InconsistentKeys(_)) => {
                let text = "does not belong to the first certificate of tls.cert; give its own key";
                self.problem("key", Some(key), text);
            }
            Err(Error::InvalidCertificate(CertificateError::BadEncoding)) => {
                let text = "holds a certificate that cannot be read; export it again as PEM";
                self.problem("cert", Some(cert), text);
            }
            Err(_) => {
                let text = "holds a key of an unsupported kind; use ECDSA P-256, P-384, Ed25519 \
                            or RSA of at least 2048 bits";
                self.problem("key", Some(key), text);
            }
        }
    }

    fn client_cas(&mut self, material: &mut Material, path: &Path) {
        let found = self.sections::<CertificateDer<'static>>("client_ca", path, "certificate");
        if found.len() > MAX_CLIENT_CAS {
            let text = format!("holds more than {MAX_CLIENT_CAS} certificates; split the listener");
            self.problem("client_ca", Some(path), &text);
            return;
        }
        self.expiry(material, path, found.iter().map(|cert| not_after(cert)));
        for (index, der) in found.into_iter().enumerate() {
            match Authority::new(der) {
                Some(authority) => material.client_cas.push(authority),
                None => {
                    let text = format!(
                        "certificate {} cannot be used as a CA; export it again as X.509 v3 PEM",
                        index + 1
                    );
                    self.problem("client_ca", Some(path), &text);
                }
            }
        }
    }

    fn crls(&mut self, material: &mut Material, path: &Path) {
        let what = "revocation list (X509 CRL)";
        let found = self.sections::<CertificateRevocationListDer<'static>>("crl", path, what);
        let mut due = Vec::new();
        for (index, der) in found.iter().enumerate() {
            match der::crl_next_update(der) {
                Some(next) => due.push(next),
                None => {
                    let text = format!("list {} cannot be read; export it again", index + 1);
                    self.problem("crl", Some(path), &text);
                }
            }
        }
        self.expiry(material, path, due.into_iter());
        material.crls = found;
    }

    /// Keeps the earliest date of a file.
    fn expiry(
        &mut self,
        material: &mut Material,
        path: &Path,
        dates: impl Iterator<Item = Option<Unix>>,
    ) {
        if let Some(at) = dates.flatten().min() {
            material.expiries.push(Expiry {
                file: path.to_path_buf(),
                at,
            });
        }
    }
}

fn not_after(der: &[u8]) -> Option<Unix> {
    der::certificate(der).map(|fields| fields.not_after)
}
