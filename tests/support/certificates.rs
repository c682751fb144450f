//! CAs and what they sign, as files of a folder.
#![allow(dead_code)] // each test binary uses its part

use super::secret;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use std::path::Path;

/// A CA with a key of its own.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        Self {
            pem: params.self_signed(&key).expect("CA").pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes `FILE.pem` and `FILE.key`.
    pub fn sign(&self, dir: &Path, file: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("key");
        let signed = params.signed_by(&key, &self.issuer);
        write(dir, file, &signed.expect("signed"), &key);
    }
}

/// Writes `FILE.pem` and `FILE.key` that nobody vouches for.
pub fn self_signed(dir: &Path, file: &str, params: CertificateParams) {
    let key = KeyPair::generate().expect("key");
    let signed = params.self_signed(&key);
    write(dir, file, &signed.expect("signed"), &key);
}

/// A device of this common name.
pub fn device(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A server of these names and addresses.
pub fn server(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn write(dir: &Path, file: &str, certificate: &Certificate, key: &KeyPair) {
    std::fs::write(dir.join(format!("{file}.pem")), certificate.pem()).expect("written");
    secret(&dir.join(format!("{file}.key")), &key.serialize_pem());
}
