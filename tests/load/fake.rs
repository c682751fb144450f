//! An MQTT server of a few lines that accepts everybody, and misbehaves when told to.

use bytes::{Buf, BytesMut};
use iothub_gateway::load::Options;
use mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck};
use mqttbytes::{Error, QoS};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy)]
enum Manner {
    Good,
    /// Reads and answers nothing for that long, after that many messages.
    Stalls(u64, Duration),
    /// Closes after that many messages.
    HangsUp(u64),
}

/// A running server; it ends with the test's runtime.
pub struct Fake {
    address: SocketAddr,
    peers: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub async fn start() -> Self {
        Self::with(Manner::Good).await
    }

    pub async fn stalling(after: u64, pause: Duration) -> Self {
        Self::with(Manner::Stalls(after, pause)).await
    }

    pub async fn hanging_up(after: u64) -> Self {
        Self::with(Manner::HangsUp(after)).await
    }

    async fn with(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = peers.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                seen.lock()
                    .expect("not poisoned")
                    .push(peer.ip().to_string());
                tokio::spawn(serve(stream, manner));
            }
        });
        Self { address, peers }
    }

    /// A run against it.
    pub fn options(&self) -> Options {
        Options {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            ..Options::default()
        }
    }

    /// Where connections came from.
    pub fn peers(&self) -> Vec<String> {
        self.peers.lock().expect("not poisoned").clone()
    }
}

async fn serve(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    let (mut input, mut out, mut messages) = (BytesMut::new(), BytesMut::new(), 0);
    loop {
        match mqttbytes::v4::read(&mut input, 1 << 20) {
            Ok(Packet::Connect(_)) => {
                let ack = ConnAck::new(ConnectReturnCode::Success, false);
                ack.write(&mut out).expect("encodes");
            }
            Ok(Packet::Publish(publish)) => {
                messages += 1;
                match manner {
                    Manner::Stalls(after, pause) if messages == after => {
                        tokio::time::sleep(pause).await;
                    }
                    Manner::HangsUp(after) if messages == after => return Ok(()),
                    _ => {}
                }
                if publish.qos == QoS::AtLeastOnce {
                    PubAck::new(publish.pkid).write(&mut out).expect("encodes");
                }
            }
            Ok(Packet::PingReq) => out.extend_from_slice(&[0xD0, 0]),
            Ok(_) => return Ok(()),
            Err(Error::InsufficientBytes(_)) => {
                stream.write_all(&out).await?;
                out.advance(out.len());
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            Err(error) => panic!("the device sent nonsense: {error:?}"),
        }
    }
}
