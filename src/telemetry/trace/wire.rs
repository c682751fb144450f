//! A connection to the collector: TCP, and TLS where its URL says https. The caller sets the
//! deadline.

use crate::config::CollectorUrl;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the system keeps its trusted roots.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a request travels over.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects to `url`, which is trusted by the system's roots and `ca`.
pub async fn open(url: &CollectorUrl, ca: Option<&Path>) -> io::Result<Box<dyn Wire>> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
    if !url.tls {
        return Ok(Box::new(tcp));
    }
    let connector = connector(ca).await?;
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, tcp).await?))
}

/// Reads the roots at each connect, so that a renewed file is used.
async fn connector(ca: Option<&Path>) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let files = [Some(Path::new(SYSTEM_ROOTS)), ca];
    for file in files.into_iter().flatten() {
        let pem = match tokio::fs::read(file).await {
            Ok(pem) => pem,
            Err(_) if Some(file) != ca => continue,
            Err(error) => return Err(error),
        };
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        roots.add_parsable_certificates(certificates);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}
