//! The certificate client: rustls, with or without a certificate of the device's own.

use super::TlsVersion;
use super::connect::{BoxStream, Failure};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

static ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Makes client configurations that trust one CA.
pub struct TlsClient {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    roots: Arc<RootCertStore>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Trusts the certificates in `ca` for the server called `host`.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn new(ca: &Path, host: &str, version: Option<TlsVersion>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots
                .add(certificate)
                .map_err(|error| format!("{}: {error}", ca.display()))?;
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("--host {host:?} is neither a name nor an address"))?;
        Ok(Self {
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            versions: match version {
                Some(TlsVersion::V12) => ONLY_12,
                Some(TlsVersion::V13) => ONLY_13,
                None => rustls::ALL_VERSIONS,
            },
            roots: Arc::new(roots),
            name,
        })
    }

    /// A connector; with `own`, one that shows this chain. Every handshake is a full one.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn connector(&self, own: Option<(&Path, &Path)>) -> Result<TlsConnector, String> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(self.versions)
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(self.roots.clone());
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key_file)) => {
                let problem =
                    |error: &dyn std::fmt::Display| format!("{}: {error}", key_file.display());
                let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| problem(&e))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, key)
                    .map_err(|e| problem(&e))?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// The handshake of one device.
    ///
    /// # Errors
    /// The alert, what is wrong with the server's certificate, or the I/O error.
    pub async fn connect(
        &self,
        connector: &TlsConnector,
        tcp: TcpStream,
    ) -> Result<BoxStream, Failure> {
        match connector.connect(self.name.clone(), tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Failure::io("tls", &error)),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let problem = |error| format!("{}: {error}", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(problem)?
        .collect();
    match found.map_err(problem)? {
        found if found.is_empty() => Err(format!("{}: holds no certificate", path.display())),
        found => Ok(found),
    }
}
