//! From nothing to CONNACK (and SUBACK), or the reason why not.

use super::setup::{Channel, Plan, Proof, Setup};
use bytes::{Buf, BytesMut};
use mqttbytes::v4::{Connect, ConnectReturnCode, Login, Packet, Subscribe, SubscribeReasonCode};
use mqttbytes::{Error as CodecError, PacketType, QoS};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Largest packet taken from the server, bytes.
const PACKET_BYTES_MAX: usize = 512 * 1024;
/// Room for one read, bytes: many acknowledgements, and cheap for an idle device.
pub const READ_BYTES: usize = 1024;
/// Longest reason kept, characters.
const REASON_CHARS: usize = 100;

/// Bytes to and from the server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Any of the transports.
pub type BoxStream = Box<dyn Stream>;

/// Why a device has no connection (any more): a short text, equal for equal causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    /// `stage` is `tcp`, `tls` or `mqtt`. What came from the server is escaped and cut.
    pub fn new(stage: &str, detail: &dyn std::fmt::Display) -> Self {
        let detail = detail.to_string();
        let detail: String = detail.escape_debug().take(REASON_CHARS).collect();
        Self(format!("{stage}: {detail}"))
    }

    /// An I/O error, without the numbers that differ from system to system.
    pub fn io(stage: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {
                Self::new(stage, &"no free local address or port; see --source")
            }
            io::ErrorKind::UnexpectedEof => Self::new(stage, &"closed by the server"),
            io::ErrorKind::InvalidData | io::ErrorKind::Other => Self::new(stage, error),
            kind => Self::new(stage, &kind),
        }
    }
}

/// A device after CONNACK.
pub struct Connection {
    /// Its transport.
    pub stream: BoxStream,
    /// Bytes read and not yet taken.
    pub input: BytesMut,
}

/// What the server sent.
pub enum Received {
    /// The PUBACK of this packet id.
    Ack(u16),
    /// Anything else.
    Packet(Packet),
}

/// Takes the next packet; acknowledgements, by far the most, without an allocation.
///
/// # Errors
/// What is wrong with the bytes.
pub fn take(input: &mut BytesMut) -> Result<Option<Received>, Failure> {
    let malformed = |_| Failure::new("mqtt", &"the server sent what is no MQTT 3.1.1 packet");
    let header = match mqttbytes::check(input.iter(), PACKET_BYTES_MAX) {
        Ok(header) => header,
        Err(CodecError::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(malformed(error)),
    };
    if header.packet_type() == Ok(PacketType::PubAck) && header.frame_length() == 4 {
        input.advance(2);
        return Ok(Some(Received::Ack(input.get_u16())));
    }
    let packet = mqttbytes::v4::read(input, PACKET_BYTES_MAX).map_err(malformed)?;
    Ok(Some(Received::Packet(packet)))
}

/// Reads once into `input`.
///
/// # Errors
/// The end of the connection.
pub async fn read(stream: &mut BoxStream, input: &mut BytesMut) -> Result<(), Failure> {
    if input.capacity() - input.len() < READ_BYTES / 4 {
        input.reserve(READ_BYTES);
    }
    match stream.read_buf(input).await {
        Ok(0) => Err(Failure::new("mqtt", &"closed by the server")),
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::io("mqtt", &error)),
    }
}

/// Connects one device.
///
/// # Errors
/// Why not.
pub async fn connect(setup: &Setup, plan: &Plan) -> Result<Connection, Failure> {
    let tcp = open(setup, plan.index)
        .await
        .map_err(|error| Failure::io("tcp", &error))?;
    let stream: BoxStream = match &setup.channel {
        Channel::Plain => Box::new(tcp),
        Channel::Tls(tls, connector) => tls.connect(connector, tcp).await?,
        Channel::Mutual(tls, cert, key) => {
            let file = |template: &super::template::Template| template.fill(plan.n, &plan.id);
            let connector = tls
                .connector(Some((Path::new(&file(cert)), Path::new(&file(key)))))
                .map_err(|problem| Failure::new("certificate", &problem))?;
            tls.connect(&connector, tcp).await?
        }
        Channel::Psk(psk) => psk.connect(tcp, &plan.name, &setup.key(plan)).await?,
    };
    let mut connection = Connection {
        stream,
        input: BytesMut::new(),
    };
    connection.introduce(setup, plan).await?;
    if let Some(filter) = &plan.filter {
        connection.subscribe(filter).await?;
    }
    Ok(connection)
}

async fn open(setup: &Setup, index: usize) -> io::Result<TcpStream> {
    let sources = &setup.options.sources;
    let tcp = if sources.is_empty() {
        TcpStream::connect(setup.address).await?
    } else {
        let source: IpAddr = sources[index % sources.len()];
        let socket = match setup.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // a port in TIME_WAIT of an earlier run may be taken again
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(setup.address).await?
    };
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

impl Connection {
    async fn introduce(&mut self, setup: &Setup, plan: &Plan) -> Result<(), Failure> {
        let mut packet = Connect::new(plan.id.as_str());
        packet.keep_alive = setup.options.keep_alive_s;
        if let Proof::Login(username, password) = setup.proof(plan) {
            let password = password
                .expose_str()
                .ok_or_else(|| Failure::new("mqtt", &"the password is not UTF-8"))?
                .to_owned();
            packet.login = Some(Login { username, password });
        }
        let mut out = BytesMut::new();
        packet
            .write(&mut out)
            .map_err(|_| Failure::new("mqtt", &"CONNECT cannot be written"))?;
        match self.ask(&out).await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(()),
            Packet::ConnAck(ack) => Err(Failure::new("mqtt", &refusal(ack.code))),
            _ => Err(Failure::new("mqtt", &"no CONNACK but another packet")),
        }
    }

    async fn subscribe(&mut self, filter: &str) -> Result<(), Failure> {
        let mut packet = Subscribe::new(filter, QoS::AtLeastOnce);
        packet.pkid = 1;
        let mut out = BytesMut::new();
        packet
            .write(&mut out)
            .map_err(|_| Failure::new("mqtt", &"SUBSCRIBE cannot be written"))?;
        match self.ask(&out).await? {
            Packet::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
                Err(Failure::new("mqtt", &"subscription refused"))
            }
            Packet::SubAck(_) => Ok(()),
            _ => Err(Failure::new("mqtt", &"no SUBACK but another packet")),
        }
    }

    /// Writes, and gives the next packet.
    async fn ask(&mut self, out: &[u8]) -> Result<Packet, Failure> {
        let written = self.stream.write_all(out).await;
        written.map_err(|error| Failure::io("mqtt", &error))?;
        loop {
            match take(&mut self.input)? {
                Some(Received::Packet(packet)) => return Ok(packet),
                Some(Received::Ack(_)) => {
                    return Err(Failure::new("mqtt", &"PUBACK before any PUBLISH"));
                }
                None => read(&mut self.stream, &mut self.input).await?,
            }
        }
    }
}

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "CONNACK 0, accepted",
        ConnectReturnCode::RefusedProtocolVersion => "CONNACK 1, protocol version refused",
        ConnectReturnCode::BadClientId => "CONNACK 2, client id refused",
        ConnectReturnCode::ServiceUnavailable => "CONNACK 3, server unavailable",
        ConnectReturnCode::BadUserNamePassword => "CONNACK 4, bad user name or password",
        ConnectReturnCode::NotAuthorized => "CONNACK 5, not authorized",
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Received, take};
    use bytes::BytesMut;
    use mqttbytes::v4::Packet;
    use std::io;

    #[test]
    fn acknowledgements_and_other_packets_are_taken_one_by_one() {
        let mut input = BytesMut::from(&[0x40, 2, 1, 2, 0xD0, 0, 0x40, 2, 0][..]);
        assert!(matches!(take(&mut input), Ok(Some(Received::Ack(0x0102)))));
        let pong = take(&mut input);
        assert!(matches!(pong, Ok(Some(Received::Packet(Packet::PingResp)))));
        assert!(matches!(take(&mut input), Ok(None)));
        input.extend_from_slice(&[9]);
        assert!(matches!(take(&mut input), Ok(Some(Received::Ack(9)))));
    }

    #[test]
    fn nonsense_and_huge_packets_are_failures() {
        for bytes in [&[0xF0, 0][..], &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], &[0x40, 0]] {
            assert!(take(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn reasons_are_short_and_equal_for_equal_causes() {
        let error = io::Error::from_raw_os_error(111);
        assert_eq!(Failure::io("tcp", &error).0, "tcp: connection refused");
        let failure = Failure::new("tls", &"x\n".repeat(500));
        assert!(failure.0.len() < 120 && !failure.0.contains('\n'));
        let busy = io::Error::from(io::ErrorKind::AddrNotAvailable);
        assert!(Failure::io("tcp", &busy).0.contains("--source"));
    }
}
