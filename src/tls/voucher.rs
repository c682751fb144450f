//! Which client certificates a listener's files stand for, asked when a handshake is past.
//!
//! A handshake is judged by `x509`; this is for connections that outlive a reload, of which only
//! names and numbers are kept. It looks at the device's certificate and its CA; an
//! intermediate CA that was revoked is found at the next handshake.

use super::material::Material;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

type Fingerprint = [u8; 32];

/// CAs and revoked certificates; as large as the revocation lists.
pub struct Voucher {
    anchors: HashSet<Fingerprint>,
    /// Serial numbers by the issuer's name.
    revoked: HashMap<Fingerprint, HashSet<Box<[u8]>>>,
}

impl Voucher {
    pub(super) fn of(material: &Material) -> Self {
        let cas = material.client_cas.iter();
        let anchors = cas.map(|ca| fingerprint(ca.der())).collect();
        let mut revoked: HashMap<_, HashSet<_>> = HashMap::new();
        for der in &material.crls {
            // What cannot be read here was refused before, or is left to the handshake.
            if let Ok((_, list)) = CertificateRevocationList::from_der(der) {
                let issuer = fingerprint(list.issuer().as_raw());
                let serials = list.iter_revoked_certificates();
                let serials = serials.map(|entry| Box::from(entry.raw_serial()));
                revoked.entry(issuer).or_default().extend(serials);
            }
        }
        Self { anchors, revoked }
    }

    /// See [`super::Acceptor::stands_for`].
    #[must_use]
    pub fn stands_for(&self, anchors: &[Fingerprint], issuer: &Fingerprint, serial: &[u8]) -> bool {
        let revoked = self.revoked.get(issuer);
        anchors.iter().any(|anchor| self.anchors.contains(anchor))
            && !revoked.is_some_and(|serials| serials.contains(serial))
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Sha256::digest(bytes).into()
}
