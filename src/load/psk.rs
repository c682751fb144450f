//! The PSK client: OpenSSL, since rustls has no external keys.
//!
//! It must never take a server's certificate for the proof of a key: there is no trusted CA, so a
//! certificate handshake fails.

use super::TlsVersion;
use super::connect::{BoxStream, Failure};
use crate::config::secret::Secret;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use std::pin::Pin;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// Plain PSK first, the cheapest for a small device.
const SUITES: &str = "PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:\
    PSK-AES128-CBC-SHA256:ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES128-CBC-SHA256";

struct Login {
    identity: String,
    key: Secret,
}

/// The client context of all devices.
pub struct PskClient {
    context: SslContext,
    login: Index<Ssl, Login>,
}

impl PskClient {
    /// Sets OpenSSL up.
    ///
    /// # Errors
    /// A sentence, when OpenSSL lacks something.
    pub fn new(version: Option<TlsVersion>) -> Result<Self, String> {
        let setup = Ssl::new_ex_index().and_then(|login| {
            let context = context(login, version)?;
            Ok(Self { context, login })
        });
        setup.map_err(|error| format!("OpenSSL cannot be set up for PSK: {error}"))
    }

    /// The handshake of one device.
    ///
    /// # Errors
    /// The alert or the I/O error.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        identity: &str,
        key: &Secret,
    ) -> Result<BoxStream, Failure> {
        let login = Login {
            identity: identity.to_owned(),
            key: key.clone(),
        };
        let stream = Ssl::new(&self.context).and_then(|mut ssl| {
            ssl.set_ex_data(self.login, login);
            SslStream::new(ssl, tcp)
        });
        let mut stream = stream.map_err(|error| Failure::new("tls", &error))?;
        match Pin::new(&mut stream).connect().await {
            Ok(()) => Ok(Box::new(stream)),
            Err(error) => Err(explain(&error)),
        }
    }
}

fn context(
    login: Index<Ssl, Login>,
    version: Option<TlsVersion>,
) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    let version = version.map(|version| match version {
        TlsVersion::V12 => SslVersion::TLS1_2,
        TlsVersion::V13 => SslVersion::TLS1_3,
    });
    builder.set_min_proto_version(version.or(Some(SslVersion::TLS1_2)))?;
    builder.set_max_proto_version(version)?;
    builder.set_cipher_list(SUITES)?;
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    // an idle device should cost this process little
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    builder.set_psk_client_callback(move |ssl, _hint, identity, key| {
        Ok(offer(ssl, login, identity, key).unwrap_or(0))
    });
    Ok(builder.build())
}

/// Writes identity (with its NUL) and key; `None` when they do not fit, which fails the handshake.
fn offer(
    ssl: &SslRef,
    login: Index<Ssl, Login>,
    identity: &mut [u8],
    key: &mut [u8],
) -> Option<usize> {
    let login = ssl.ex_data(login)?;
    let name = login.identity.as_bytes();
    identity.get_mut(..name.len())?.copy_from_slice(name);
    *identity.get_mut(name.len())? = 0;
    let secret = login.key.expose();
    key.get_mut(..secret.len())?.copy_from_slice(secret);
    Some(secret.len())
}

fn explain(error: &openssl::ssl::Error) -> Failure {
    let stack = error.ssl_error().map(ErrorStack::errors);
    let reason = stack.and_then(|errors| errors.iter().find_map(openssl::error::Error::reason));
    match (reason, error.io_error()) {
        (Some(reason), _) => Failure::new("tls", &reason),
        (None, Some(error)) => Failure::io("tls", error),
        (None, None) => Failure::new("tls", &"closed by the server"),
    }
}
