//! The stream to the admin port: TCP to this machine, TLS to any other.

use super::ask::{Failure, IS_IT};
use crate::cli::exit::Exit;
use crate::config::AdminUrl;
use crate::runtime::roots::{self, NoRoots};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error, InvalidMessage};
use std::io;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Either stream.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects. The server's certificate is verified always, its name with it.
pub(super) async fn connect(url: &AdminUrl, ca: Option<&Path>) -> Result<Box<dyn Wire>, Failure> {
    let tls = match url.tls {
        true => Some(
            roots::connector(ca)
                .await
                .map_err(|error| no_roots(&error, ca))?,
        ),
        false => None,
    };
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await;
    let tcp = tcp.map_err(|error| {
        let text = format!("{url}: {error}; is the gateway running, and {IS_IT}");
        Failure::new(text, Exit::Unavailable)
    })?;
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    let secured = secure(&tls, url, tcp).await;
    secured.map_err(|error| {
        let text = format!("{url}: TLS failed: {}", explained(&error));
        Failure::new(text, Exit::Unavailable)
    })
}

async fn secure(tls: &TlsConnector, url: &AdminUrl, tcp: TcpStream) -> io::Result<Box<dyn Wire>> {
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, tcp).await?))
}

fn no_roots(error: &NoRoots, ca: Option<&Path>) -> Failure {
    Failure::new(
        format!("{error}; name the CA of admin.tls.cert by --ca"),
        ca.map_or(Exit::NoInput, Exit::of_input),
    )
}

/// What to do about it, where that is known.
fn explained(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    let fix = match tls {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "write a name or an address that stands in the certificate"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew admin.tls.cert of the gateway"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "compare the clocks"
            }
            _ => "name the CA of its admin.tls.cert by --ca",
        },
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it speaks no TLS; set admin.tls of the gateway"
        }
        _ => IS_IT,
    };
    format!("{error}; {fix}")
}
