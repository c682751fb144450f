//! A client that writes any bytes it likes.

use crate::support::device::{Stream, Transport, open};
use crate::support::{Bench, DEVICE_KEY, HUB, Options, PASSWORD, now, sas};
use iothub_gateway::config::limits::ROWS;
use iothub_gateway::runtime::clock;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// Time for anything that should happen at once.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Raw(pub Box<dyn Stream>);

impl Raw {
    pub async fn over(address: SocketAddr, transport: &Transport) -> io::Result<Self> {
        open(address, transport).await.map(Self)
    }

    pub async fn plain(address: SocketAddr) -> Self {
        Self::from("127.0.0.1", address).await.expect("connected")
    }

    /// A socket whose own address is `source`.
    pub async fn from(source: &str, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(format!("{source}:0").parse().expect("an address"))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(Box::new(stream)))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Exactly `count` bytes.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = timeout(SOON, self.0.read_exact(&mut bytes)).await;
        read.expect("in time").expect("bytes");
        bytes
    }

    /// Exactly `count` bytes, or none when the other side closed instead.
    pub async fn read_or_end(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = timeout(SOON, self.0.read_exact(&mut bytes)).await;
        match read.expect("in time") {
            Ok(_) => bytes,
            Err(_) => Vec::new(),
        }
    }

    /// Everything up to the end, which has to come within `limit`.
    pub async fn closed_within(&mut self, limit: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end as good as any.
        let ended = timeout(limit, self.0.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "not closed within {limit:?}");
        bytes
    }

    /// CONNECT, and the return code of its CONNACK; `None` when closed without one.
    pub async fn connect(&mut self, connect: &Connect) -> Option<u8> {
        self.send(&connect.packet()).await.ok()?;
        let mut answer = [0; 4];
        let read = timeout(SOON, self.0.read_exact(&mut answer)).await;
        read.expect("an answer or an end in time").ok()?;
        assert_eq!(answer[..3], [0x20, 2, 0], "a CONNACK without a session");
        Some(answer[3])
    }
}

/// A CONNECT of MQTT 3.1.1, well-formed or not.
#[derive(Clone, Default)]
pub struct Connect {
    pub client_id: Vec<u8>,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub will: Option<(Vec<u8>, Vec<u8>)>,
    pub keep_alive_s: u16,
}

impl Connect {
    pub fn id(client_id: &str) -> Self {
        Self {
            client_id: client_id.into(),
            keep_alive_s: 60,
            ..Self::default()
        }
    }

    /// The box's device with a password.
    pub fn pass_1() -> Self {
        Self::id("pass-1").login(Some("pass-1"), Some(PASSWORD.as_bytes()))
    }

    /// The box's device with a SAS key.
    pub fn sas_1() -> Self {
        let token = sas(DEVICE_KEY, &format!("{HUB}/devices/sas-1"), now() + 3600);
        let user = format!("{HUB}/sas-1/?api-version=2021-04-12");
        Self::id("sas-1").login(Some(&user), Some(token.as_bytes()))
    }

    pub fn login(mut self, username: Option<&str>, password: Option<&[u8]>) -> Self {
        self.username = username.map(|text| text.as_bytes().to_vec());
        self.password = password.map(<[u8]>::to_vec);
        self
    }

    pub fn packet(&self) -> Vec<u8> {
        let mut flags = 0x02;
        let mut rest = field(&self.client_id);
        if let Some((topic, payload)) = &self.will {
            flags |= 0x04;
            rest.extend(field(topic));
            rest.extend(field(payload));
        }
        if let Some(name) = &self.username {
            flags |= 0x80;
            rest.extend(field(name));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            rest.extend(field(password));
        }
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.push(flags);
        body.extend(self.keep_alive_s.to_be_bytes());
        body.extend(rest);
        packet(0x10, &body)
    }
}

/// Two bytes of length, then the bytes.
pub fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("fits a field");
    [&length.to_be_bytes(), bytes].concat()
}

/// A packet of any size.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let digit = u8::try_from(left % 128).expect("below 128");
        left /= 128;
        bytes.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// A PUBLISH at QoS 1.
pub fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let body = [&field(topic.as_bytes()), &id.to_be_bytes()[..], payload].concat();
    packet(0x32, &body)
}

/// A SUBSCRIBE for QoS 1.
pub fn subscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend(field(filter.as_bytes()));
        body.push(1);
    }
    packet(0x82, &body)
}

/// A box with `[limits]` of its own in which failing again and again slows nobody down: what is
/// tested here is each single refusal.
pub fn options(limits: &str) -> Options {
    let mut gateway = format!("[limits]\n{limits}");
    for row in ROWS
        .iter()
        .filter(|row| row.key.starts_with("failures_per_"))
    {
        gateway.push_str(&format!("{} = 1000000\n", row.key));
    }
    Options {
        gateway,
        ..Options::default()
    }
}

/// A connected device of the box on the plain listener.
pub async fn connected(bench: &Bench, connect: &Connect) -> Raw {
    let mut raw = Raw::plain(bench.plain()).await;
    assert_eq!(raw.connect(connect).await, Some(0));
    raw
}

/// Waits until a metric has the value.
pub async fn metric_is(bench: &Bench, name: &str, labels: &[&str], value: f64) {
    let deadline = clock::mono() + SOON;
    loop {
        let is = bench.metric(name, labels).await;
        if is == value {
            return;
        }
        let late = clock::mono() > deadline;
        assert!(
            !late,
            "{name}{labels:?} is {is}, not {value}\n{}",
            bench.metrics().await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many connections ended for `reason`.
pub async fn ended(bench: &Bench, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    bench.metric("disconnects_total", &[&label]).await
}
