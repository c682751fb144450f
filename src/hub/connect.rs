//! From an endpoint to an open AMQP connection: TCP, TLS, SASL ANONYMOUS, Open; each with a
//! deadline. Verifies the hub's certificate always; there is no switch to turn that off.

use super::driver::{Ended, Handle};
use super::environment::{Environment, Transport};
use super::refusals::RefusalCause;
use super::{encode, outcome, tuning};
use crate::amqp::sasl::{Mechanism, Sasl};
use crate::amqp::{Closed, Config, Limits, Side};
use crate::config::HubConfig;
use crate::runtime::hex::hex;
use crate::runtime::roots::{self, NoRoots};
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name of the hub has no address.
    #[error("{0} has no address: {1}")]
    Dns(String, io::Error),
    /// TCP.
    #[error("cannot reach {0}: {1}")]
    Tcp(String, io::Error),
    /// No root certificate could be loaded.
    #[error("{0}; set hub.ca")]
    Roots(#[from] NoRoots),
    /// TLS.
    #[error("TLS with {0} failed: {1}")]
    Tls(String, io::Error),
    /// SASL or Open.
    #[error("AMQP open failed: {0}")]
    Open(String),
    /// A deadline passed.
    #[error("{} did not finish within hub.connect_timeout", .0.words())]
    Timeout(Step),
}

/// A step that has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Name resolution and TCP.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// SASL and Open.
    Open,
}

impl Step {
    const fn words(self) -> &'static str {
        match self {
            Self::Tcp => "TCP connect",
            Self::Tls => "the TLS handshake",
            Self::Open => "AMQP open",
        }
    }
}

impl ConnectError {
    /// `hub_reconnects_total{cause}`
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Dns(..) | Self::Tcp(..) => "connect_tcp",
            Self::Roots(..) => "connect_roots",
            Self::Tls(..) => "connect_tls",
            Self::Open(..) => "connect_open",
            Self::Timeout(..) => "connect_timeout",
        }
    }

    /// What it means to whoever runs the gateway.
    pub fn refusal(&self) -> RefusalCause {
        match self {
            Self::Dns(..) => RefusalCause::Dns,
            Self::Tcp(..) | Self::Timeout(Step::Tcp) => RefusalCause::Unreachable,
            Self::Roots(..) => RefusalCause::CaFile,
            Self::Tls(_, error) => {
                let cause = error.get_ref().and_then(|error| error.downcast_ref());
                cause.map_or(RefusalCause::Tls, of_tls)
            }
            Self::Timeout(Step::Tls) => RefusalCause::Tls,
            Self::Open(..) | Self::Timeout(Step::Open) => RefusalCause::AmqpOpen,
        }
    }
}

/// Of a TLS handshake with the hub that failed.
fn of_tls(error: &rustls::Error) -> RefusalCause {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return RefusalCause::Tls;
    };
    match certificate {
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            RefusalCause::TlsName
        }
        Certificate::Expired
        | Certificate::ExpiredContext { .. }
        | Certificate::NotValidYet
        | Certificate::NotValidYetContext { .. } => RefusalCause::TlsDates,
        _ => RefusalCause::TlsCa,
    }
}

/// An open connection, and the task that carries it.
pub type Opened = (Handle, AbortOnDropHandle<Ended>);

/// Opens a connection. Dropping the future, or later the task, cuts it.
pub async fn open(config: &HubConfig, world: &Environment) -> Result<Opened, ConnectError> {
    let endpoint = &config.endpoint;
    let wire = match &world.dial {
        Some(dial) => {
            let name = || format!("{}:{}", endpoint.host, endpoint.port);
            let made = dial().await;
            Wire::Made(made.map_err(|error| ConnectError::Tcp(name(), error))?)
        }
        None => wire(config, endpoint.tls, &endpoint.host, endpoint.port).await?,
    };
    let (handle, task) = Handle::new(wire, amqp_config(config), config.operation_timeout);
    // In a task of its own: what it does must not wait for what its users do.
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    if handle.opened().await {
        return Ok((handle, task));
    }
    Err(match task.await {
        Ok(ended) => not_opened(&ended),
        Err(_panic) => ConnectError::Open("the AMQP engine stopped".to_owned()),
    })
}

/// What is said in the handshake, and how much the hub may make us hold.
fn amqp_config(config: &HubConfig) -> Config {
    let mut amqp = Config::new(Side::Client, container_id());
    amqp.hostname = Some(config.host.clone());
    amqp.sasl = Sasl::Client(Mechanism::Anonymous, Some(config.host.clone()));
    // Half again as much as the hub is told: a frame may be late.
    amqp.idle_time_out = Some(config.idle_timeout + config.idle_timeout / 2);
    amqp.idle_announced = Some(config.idle_timeout);
    // A session for each slot and one for $cbs, which may be renewed while the old one ends.
    let channels = config.sessions_per_connection.max(1) + 2;
    let slack = tuning::WRITE_BUFFER_SLACK;
    amqp.limits = Limits {
        frame_size: tuning::FRAME_BYTES_MAX,
        channel_max: u16::try_from(channels - 1).unwrap_or(u16::MAX),
        output_bytes: config.connection_bytes_max.saturating_add(slack),
        handshake: config.connect_timeout,
        closing: config.operation_timeout,
        ..Limits::default()
    };
    amqp
}

/// Why a connection did not come to be open.
fn not_opened(ended: &Ended) -> ConnectError {
    let words = match (&ended.closed, &ended.broken) {
        (Closed::Timeout, _) => return ConnectError::Timeout(Step::Open),
        (_, Some(broken)) => broken.clone(),
        (Closed::Peer(error), None) => {
            let cause = error.as_deref().map(encode::cause);
            format!("the hub closed it: {}", outcome::words(cause.as_ref()))
        }
        (Closed::Fault(fault), None) => outcome::escaped(&fault.to_string()),
        (Closed::Sasl(code), None) => format!("SASL ended with {code:?}"),
        (Closed::Mechanism(offered), None) => {
            let offered = outcome::escaped(offered);
            format!("the hub does not offer SASL ANONYMOUS, but {offered}")
        }
        (Closed::Header(header), None) => {
            let header = outcome::escaped(&String::from_utf8_lossy(header));
            format!("the answer is no AMQP: {header}")
        }
        (Closed::Local | Closed::Idle | Closed::Lost, None) => {
            "the connection ended while it was opened".to_owned()
        }
    };
    ConnectError::Open(words)
}

fn container_id() -> String {
    let mut bytes = [0; 8];
    // The id only names us in the hub's logs; without entropy it is less telling, not wrong.
    let _ = crate::runtime::random::fill(&mut bytes);
    format!("iothub-gateway-{}", hex(&bytes))
}

/// Connects over TCP and, if so wanted, TLS; each within `connect_timeout`.
pub async fn wire(
    config: &HubConfig,
    tls: bool,
    host: &str,
    port: u16,
) -> Result<Wire, ConnectError> {
    let name = format!("{host}:{port}");
    let connect = async {
        let addresses = tokio::net::lookup_host((host, port)).await;
        let addresses = addresses.map_err(|error| ConnectError::Dns(name.clone(), error))?;
        let addresses: Vec<_> = addresses.collect();
        let tcp = TcpStream::connect(&*addresses).await;
        tcp.map_err(|error| ConnectError::Tcp(name.clone(), error))
    };
    let tcp = timeout(config.connect_timeout, connect)
        .await
        .map_err(|_| ConnectError::Timeout(Step::Tcp))??;
    tune(&tcp).map_err(|error| ConnectError::Tcp(name.clone(), error))?;
    if !tls {
        return Ok(Wire::Plain(tcp));
    }
    let connector = roots::connector(config.ca.as_deref()).await?;
    let server = ServerName::try_from(host.to_owned())
        .map_err(|error| ConnectError::Tls(name.clone(), io::Error::other(error)))?;
    let tls = timeout(config.connect_timeout, connector.connect(server, tcp))
        .await
        .map_err(|_| ConnectError::Timeout(Step::Tls))?
        .map_err(|error| ConnectError::Tls(name, error))?;
    Ok(Wire::Tls(Box::new(tls)))
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(tuning::TCP_USER_TIMEOUT))?;
    Ok(())
}

/// A stream: plain to this machine, TLS otherwise.
#[derive(Debug)]
pub enum Wire {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// Somebody else's.
    Made(Box<dyn Transport>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Made(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Made(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Made(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Made(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectError, RefusalCause, amqp_config, not_opened};
    use crate::amqp::Closed;
    use crate::hub::driver::Ended;
    use crate::hub::tests::config;
    use std::time::Duration;

    #[test]
    fn the_hub_is_told_the_idle_time_and_given_half_as_much_more() {
        let mut settings = config(1);
        settings.idle_timeout = Duration::from_secs(60);
        let amqp = amqp_config(&settings);
        assert_eq!(amqp.idle_announced, Some(Duration::from_secs(60)));
        assert_eq!(amqp.idle_time_out, Some(Duration::from_secs(90)));
    }

    #[test]
    fn a_connection_that_did_not_open_says_why_in_words_fit_for_a_log() {
        let ended = |closed, broken: Option<&str>| {
            not_opened(&Ended {
                closed,
                killed: None,
                broken: broken.map(str::to_owned),
            })
        };
        let header = ended(Closed::Header(*b"HTTP/1.1"), None);
        assert_eq!(
            header.to_string(),
            "AMQP open failed: the answer is no AMQP: HTTP/1.1"
        );
        let odd = ended(Closed::Mechanism("A\nB".to_owned()), None).to_string();
        assert!(odd.ends_with("but A\\nB"), "{odd}");
        let broken = ended(Closed::Lost, Some("reset")).to_string();
        assert_eq!(broken, "AMQP open failed: reset");
        let late = ended(Closed::Timeout, None);
        assert_eq!(late.refusal(), RefusalCause::AmqpOpen);
        assert!(matches!(late, ConnectError::Timeout(_)));
    }
}
