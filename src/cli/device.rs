//! A small MQTT 3.1.1 device: the simulated one of `demo`. Its codec is not the gateway's.

use bytes::BytesMut;
use mqttbytes::v4::{Connect, Login, Packet, PubAck, Publish};
use mqttbytes::{Error as CodecError, QoS};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Largest packet taken from the server, in bytes.
const PACKET_BYTES_MAX: usize = 256 * 1024;

/// Time for each answer of the server.
const ANSWER: Duration = Duration::from_secs(30);

/// A connected device.
pub struct Device {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
    next_id: u16,
}

/// Who connects, and how it proves itself.
pub struct Identity<'a> {
    /// MQTT client id, also the device id.
    pub client_id: &'a str,
    /// MQTT user name.
    pub username: &'a str,
    /// MQTT password: a SAS token or a password.
    pub password: &'a str,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn broken(_: CodecError) -> io::Error {
    io::Error::other("the other side does not speak MQTT 3.1.1")
}

/// A TLS client that trusts the CA in `ca`.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn trust(ca: &Path) -> io::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(other)? {
        roots.add(certificate.map_err(other)?).map_err(other)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Device {
    /// Connects over TLS to `localhost:port` and waits for CONNACK.
    ///
    /// # Errors
    /// When the connection fails or the server refuses.
    pub async fn connect(tls: &TlsConnector, port: u16, login: &Identity<'_>) -> io::Result<Self> {
        let tcp = TcpStream::connect(("localhost", port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(other)?;
        let stream = tls.connect(name, tcp).await?;
        let mut device = Self {
            stream,
            input: BytesMut::new(),
            next_id: 1,
        };
        let mut connect = Connect::new(login.client_id);
        connect.keep_alive = 60;
        connect.login = Some(Login {
            username: login.username.to_owned(),
            password: login.password.to_owned(),
        });
        let mut out = BytesMut::new();
        connect.write(&mut out).map_err(broken)?;
        device.stream.write_all(&out).await?;
        match device.receive().await? {
            Packet::ConnAck(ack) if ack.code == mqttbytes::v4::ConnectReturnCode::Success => {
                Ok(device)
            }
            Packet::ConnAck(ack) => {
                let code = ack.code as u8;
                Err(other(format!(
                    "refused with CONNACK {code}; the log says why"
                )))
            }
            _ => Err(other("no CONNACK came")),
        }
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    ///
    /// # Errors
    /// When the connection ends or no PUBACK comes in time.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let mut packet = Publish::new(topic, QoS::AtLeastOnce, payload);
        packet.pkid = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let mut out = BytesMut::new();
        packet.write(&mut out).map_err(broken)?;
        self.stream.write_all(&out).await?;
        loop {
            match self.receive().await? {
                Packet::PubAck(ack) if ack.pkid == packet.pkid => return Ok(()),
                Packet::Publish(command) => self.acknowledge(&command).await?,
                _ => {}
            }
        }
    }

    async fn acknowledge(&mut self, command: &Publish) -> io::Result<()> {
        if command.qos == QoS::AtLeastOnce {
            let mut out = BytesMut::new();
            PubAck::new(command.pkid).write(&mut out).map_err(broken)?;
            self.stream.write_all(&out).await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<Packet> {
        loop {
            match mqttbytes::v4::read(&mut self.input, PACKET_BYTES_MAX) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => {}
                Err(error) => return Err(broken(error)),
            }
            let read = timeout(ANSWER, self.stream.read_buf(&mut self.input)).await;
            if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
