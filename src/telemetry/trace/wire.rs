//! A connection to the collector: TCP, and TLS where its URL says https. The caller sets the
//! deadline.

use crate::config::CollectorUrl;
use crate::runtime::roots;
use rustls::pki_types::ServerName;
use std::io;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a request travels over.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects to `url`, which is trusted by the system's roots and `ca`.
pub async fn open(url: &CollectorUrl, ca: Option<&Path>) -> io::Result<Box<dyn Wire>> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
    if !url.tls {
        return Ok(Box::new(tcp));
    }
    let connector = roots::connector(ca).await.map_err(io::Error::other)?;
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, tcp).await?))
}
