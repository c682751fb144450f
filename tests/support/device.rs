//! The honest device: MQTT 3.1.1 by a codec that is not ours, over any transport.

use bytes::BytesMut;
use mqttbytes::v4::{
    Connect, ConnectReturnCode, LastWill, Login, Packet, PubAck, Publish, Subscribe,
};
use mqttbytes::{Error as CodecError, QoS};
use openssl::ssl::{Ssl, SslConnector, SslContext, SslMethod, SslVerifyMode, SslVersion};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How a device secures its bytes.
#[derive(Clone)]
pub enum Transport {
    Plain,
    /// Server certificate checked against this CA.
    Tls {
        ca: std::path::PathBuf,
        certificate: Option<(std::path::PathBuf, std::path::PathBuf)>,
    },
    Psk {
        identity: String,
        key: Vec<u8>,
        tls13: bool,
    },
}

impl Transport {
    /// A pre-shared key in TLS 1.3.
    pub fn psk(identity: &str, key: &[u8]) -> Self {
        Self::psk_in(identity, key, true)
    }

    /// A pre-shared key in TLS 1.3 or 1.2.
    pub fn psk_in(identity: &str, key: &[u8], tls13: bool) -> Self {
        Self::Psk {
            identity: identity.to_owned(),
            key: key.to_vec(),
            tls13,
        }
    }
}

/// What the device says of itself in CONNECT.
#[derive(Clone, Default)]
pub struct Who {
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub keep_alive_s: u16,
    pub will: Option<(String, String)>,
}

impl Who {
    pub fn id(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            keep_alive_s: 60,
            ..Self::default()
        }
    }

    pub fn login(client_id: &str, username: &str, password: &str) -> Self {
        Self {
            username: Some(username.to_owned()),
            password: Some(password.to_owned()),
            ..Self::id(client_id)
        }
    }
}

fn other(error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// Opens the transport.
pub async fn open(address: SocketAddr, transport: &Transport) -> io::Result<Box<dyn Stream>> {
    secure(TcpStream::connect(address).await?, transport).await
}

/// Opens the transport from this loopback address.
pub async fn open_from(
    source: [u8; 4],
    address: SocketAddr,
    transport: &Transport,
) -> io::Result<Box<dyn Stream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    secure(socket.connect(address).await?, transport).await
}

async fn secure(tcp: TcpStream, transport: &Transport) -> io::Result<Box<dyn Stream>> {
    tcp.set_nodelay(true)?;
    let ssl = match transport {
        Transport::Plain => return Ok(Box::new(tcp)),
        Transport::Tls { ca, certificate } => tls_client(ca, certificate.as_ref())?,
        Transport::Psk {
            identity,
            key,
            tls13,
        } => psk_client(identity, key, *tls13)?,
    };
    let mut stream = tokio_openssl::SslStream::new(ssl, tcp).map_err(other)?;
    Pin::new(&mut stream).connect().await.map_err(other)?;
    Ok(Box::new(stream))
}

fn tls_client(
    ca: &Path,
    certificate: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> io::Result<Ssl> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(other)?;
    builder.set_ca_file(ca).map_err(other)?;
    if let Some((chain, key)) = certificate {
        builder.set_certificate_chain_file(chain).map_err(other)?;
        builder
            .set_private_key_file(key, openssl::ssl::SslFiletype::PEM)
            .map_err(other)?;
    }
    builder
        .build()
        .configure()
        .and_then(|c| c.into_ssl("localhost"))
        .map_err(other)
}

fn psk_client(identity: &str, key: &[u8], tls13: bool) -> io::Result<Ssl> {
    // Not a connector: that would read the system's certificates for each device.
    let mut builder = SslContext::builder(SslMethod::tls_client()).map_err(other)?;
    builder.set_verify(SslVerifyMode::NONE);
    if !tls13 {
        builder
            .set_max_proto_version(Some(SslVersion::TLS1_2))
            .map_err(other)?;
        builder
            .set_cipher_list("PSK-AES128-GCM-SHA256")
            .map_err(other)?;
    }
    let (identity, key) = (identity.as_bytes().to_vec(), key.to_vec());
    builder.set_psk_client_callback(move |_, _, identity_out, key_out| {
        identity_out[..identity.len()].copy_from_slice(&identity);
        identity_out[identity.len()] = 0;
        key_out[..key.len()].copy_from_slice(&key);
        Ok(key.len())
    });
    Ssl::new(&builder.build()).map_err(other)
}

/// A connected device.
pub struct Device {
    pub stream: Box<dyn Stream>,
    input: BytesMut,
    next_id: u16,
    /// Commands that came while something else was awaited.
    pub commands: Vec<Publish>,
    /// Time for each answer.
    pub patience: Duration,
}

impl Device {
    /// Connects and gives the CONNACK's return code.
    pub async fn try_connect(
        address: SocketAddr,
        transport: &Transport,
        who: &Who,
    ) -> io::Result<Result<Self, ConnectReturnCode>> {
        Self::try_connect_over(open(address, transport).await?, who).await
    }

    /// As [`Self::try_connect`], over a transport that is open.
    pub async fn try_connect_over(
        stream: Box<dyn Stream>,
        who: &Who,
    ) -> io::Result<Result<Self, ConnectReturnCode>> {
        let mut device = Self {
            stream,
            input: BytesMut::new(),
            next_id: 1,
            commands: Vec::new(),
            patience: Duration::from_secs(30),
        };
        let mut connect = Connect::new(who.client_id.as_str());
        connect.keep_alive = who.keep_alive_s;
        connect.login = who.username.as_ref().map(|username| Login {
            username: username.clone(),
            password: who.password.clone().unwrap_or_default(),
        });
        connect.last_will = who.will.as_ref().map(|(topic, message)| {
            LastWill::new(topic.as_str(), message.as_bytes(), QoS::AtLeastOnce, false)
        });
        let mut out = BytesMut::new();
        connect.write(&mut out).map_err(other)?;
        device.stream.write_all(&out).await?;
        match device.receive().await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(Ok(device)),
            Packet::ConnAck(ack) => Ok(Err(ack.code)),
            packet => Err(other(packet)),
        }
    }

    /// Connects, or panics with the reason.
    pub async fn connect(address: SocketAddr, transport: &Transport, who: &Who) -> Self {
        let connected = Self::try_connect(address, transport, who).await;
        connected.expect("transport").expect("CONNACK 0")
    }

    /// Says DISCONNECT and waits for the end, so that nothing is taken over.
    pub async fn disconnect(&mut self) {
        if self.stream.write_all(&[0xE0, 0]).await.is_ok() {
            while self.stream.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
        }
    }

    fn packet_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    /// Sends a PUBLISH at QoS 1 and gives its packet id, without waiting.
    pub async fn send(&mut self, topic: &str, payload: &[u8]) -> io::Result<u16> {
        let mut packet = Publish::new(topic, QoS::AtLeastOnce, payload);
        packet.pkid = self.packet_id();
        let mut out = BytesMut::new();
        packet.write(&mut out).map_err(other)?;
        self.stream.write_all(&out).await?;
        Ok(packet.pkid)
    }

    /// Sends a PUBLISH at QoS 0.
    pub async fn send_qos0(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let packet = Publish::new(topic, QoS::AtMostOnce, payload);
        let mut out = BytesMut::new();
        packet.write(&mut out).map_err(other)?;
        self.stream.write_all(&out).await
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let id = self.send(topic, payload).await?;
        self.acknowledged(id).await
    }

    /// Waits for the PUBACK of `id`.
    pub async fn acknowledged(&mut self, id: u16) -> io::Result<()> {
        loop {
            match self.receive().await? {
                Packet::PubAck(ack) if ack.pkid == id => return Ok(()),
                Packet::Publish(command) => self.take(command).await?,
                packet => return Err(other(packet)),
            }
        }
    }

    /// Subscribes and gives whether it was granted.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<bool> {
        let mut packet = Subscribe::new(filter, qos);
        packet.pkid = self.packet_id();
        let mut out = BytesMut::new();
        packet.write(&mut out).map_err(other)?;
        self.stream.write_all(&out).await?;
        loop {
            match self.receive().await? {
                Packet::SubAck(ack) => {
                    let failure = mqttbytes::v4::SubscribeReasonCode::Failure;
                    return Ok(!ack.return_codes.contains(&failure));
                }
                Packet::Publish(command) => self.take(command).await?,
                packet => return Err(other(packet)),
            }
        }
    }

    /// The next command; acknowledged.
    pub async fn command(&mut self) -> io::Result<Publish> {
        while self.commands.is_empty() {
            match self.receive().await? {
                Packet::Publish(command) => self.take(command).await?,
                packet => return Err(other(packet)),
            }
        }
        Ok(self.commands.remove(0))
    }

    async fn take(&mut self, command: Publish) -> io::Result<()> {
        if command.qos == QoS::AtLeastOnce {
            let mut out = BytesMut::new();
            PubAck::new(command.pkid).write(&mut out).map_err(other)?;
            self.stream.write_all(&out).await?;
        }
        self.commands.push(command);
        Ok(())
    }

    /// PINGREQ, PINGRESP.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&[0xC0, 0]).await?;
        loop {
            match self.receive().await? {
                Packet::PingResp => return Ok(()),
                Packet::Publish(command) => self.take(command).await?,
                packet => return Err(other(packet)),
            }
        }
    }

    /// DISCONNECT and close.
    pub async fn goodbye(mut self) -> io::Result<()> {
        self.stream.write_all(&[0xE0, 0]).await?;
        self.stream.shutdown().await
    }

    /// The next packet, within `patience`.
    pub async fn receive(&mut self) -> io::Result<Packet> {
        loop {
            match mqttbytes::v4::read(&mut self.input, 512 * 1024) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => {}
                Err(error) => return Err(other(error)),
            }
            let read = timeout(self.patience, self.stream.read_buf(&mut self.input)).await;
            if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
