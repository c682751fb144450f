//! TLS to servers: trusted by the system's root certificates and a file of our own. There is no
//! switch to trust anybody else.

use crate::config::named_file::{self, PEM_BYTES_MAX};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Where the system keeps its trusted roots.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
#[error("no trusted root certificate in {file}: {text}")]
pub struct NoRoots {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub text: String,
}

impl NoRoots {
    fn new(file: &Path, text: impl ToString) -> Self {
        Self {
            file: file.display().to_string(),
            text: text.to_string(),
        }
    }
}

/// Trusts the system's roots and `ca`. Read at each connect, so that a renewed file is used.
///
/// # Errors
/// When `ca`, or without one the system's file, has no usable certificate.
pub async fn connector(ca: Option<&Path>) -> Result<TlsConnector, NoRoots> {
    let mut roots = RootCertStore::empty();
    let system = add(&mut roots, Path::new(SYSTEM_ROOTS)).await;
    match ca {
        Some(ca) => add(&mut roots, ca).await?,
        None => system?,
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NoRoots::new(Path::new("rustls"), error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}

async fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), NoRoots> {
    let path = file.to_owned();
    let read = move || named_file::read(&path, PEM_BYTES_MAX).map_err(|why| why.to_string());
    let pem = tokio::task::spawn_blocking(read).await;
    let pem = pem.unwrap_or_else(|error| Err(error.to_string()));
    let pem = pem.map_err(|text| NoRoots::new(file, text))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .collect();
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(NoRoots::new(file, "no usable certificate"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::time::Duration;

    #[tokio::test]
    async fn a_pipe_in_place_of_the_roots_is_named_at_once() {
        let pipe = std::env::temp_dir().join(format!("iothub-roots-{}", std::process::id()));
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(10), connector(Some(&pipe))).await;
        std::fs::remove_file(&pipe).unwrap();
        let error = waited.expect("nobody waits for a writer").err().unwrap();
        assert!(error.to_string().contains("is no regular file"), "{error}");
    }
}
