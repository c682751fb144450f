//! The service as it was recorded: its packets, byte for byte, but for what depends on the client
//! (channels, link names and addresses, handles of flows, delivery ids, the correlation-id).

use crate::encoding::{Frame, Node};
use crate::support::device::{Device, Transport, Who};
use crate::support::{Options, files_in, fleet_key, gateway_in, scratch};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const PACKETS: &str = include_str!("../data/iothub-packets/packets.txt");

/// A packet by its name.
fn packet(name: &str) -> Vec<u8> {
    let mut lines = PACKETS.lines().filter_map(|line| line.split_once(' '));
    let (_, hex) = lines.find(|(known, _)| *known == name).expect(name);
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn frame(name: &str) -> Frame {
    Frame::read(&packet(name))
}

/// What the client did.
#[derive(Default)]
struct Heard {
    connections: usize,
    /// Credit given to the command link.
    credit: u64,
    closes: usize,
}

/// Answers to one session's frames.
struct Session {
    /// The service's own channel.
    channel: u16,
    /// Of the next transfer.
    next_incoming: u64,
    /// The client's handles, and the service's.
    handles: HashMap<u64, Node>,
    /// The client's handles of command links.
    commands: Vec<u64>,
}

struct Service {
    stream: TlsStream<TcpStream>,
    heard: Arc<Mutex<Heard>>,
    sessions: HashMap<u16, Session>,
}

impl Service {
    async fn send(&mut self, bytes: &[u8]) {
        // A client that is gone is seen by the next read.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Plays until the client is gone.
    async fn play(mut self) {
        let mut header = [0; 8];
        for name in ["sasl-header", "amqp-header"] {
            self.stream.read_exact(&mut header).await.expect("a header");
            assert_eq!(header[..], packet(name), "{name}");
            self.send(&packet(name)).await;
            if name == "sasl-header" {
                self.send(&packet("sasl-mechanisms")).await;
                let init = self.read().await.expect("sasl-init");
                assert_eq!((init.kind, init.body[0].code()), (1, 0x41));
                assert_eq!(init.body[0].field(0).text(), "ANONYMOUS");
                self.send(&packet("sasl-outcome")).await;
            }
        }
        while let Some(frame) = self.read().await {
            if !frame.body.is_empty() {
                self.answer(&frame).await;
            }
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).await.ok()?;
        let mut whole = size.to_vec();
        whole.resize(u32::from_be_bytes(size) as usize, 0);
        self.stream.read_exact(&mut whole[4..]).await.ok()?;
        Some(Frame::read(&whole))
    }

    /// Sends a packet on the service's channel of the client's `channel`.
    async fn reply(&mut self, channel: u16, mut reply: Frame) {
        reply.channel = self.sessions[&channel].channel;
        self.send(&reply.write()).await;
    }

    async fn answer(&mut self, frame: &Frame) {
        let (channel, performative) = (frame.channel, &frame.body[0]);
        match performative.code() {
            0x10 => self.send(&packet("open")).await,
            0x11 => self.begin(channel, performative).await,
            0x12 => self.attach(channel, performative).await,
            0x13 => {
                let handle = performative.field(4);
                let commands = &self.sessions[&channel].commands;
                if handle != Node::null() && commands.contains(&handle.uint()) {
                    self.heard.lock().expect("lock").credit += performative.field(6).uint();
                }
            }
            0x14 => self.transfer(channel, frame).await,
            0x15 => {}
            // Ends are answered by ends without an error.
            0x16 => {
                let handle = performative.field(0).uint();
                let mut reply = frame.clone();
                let own = self.sessions[&channel].handles[&handle].clone();
                reply.body[0].set(0, own);
                self.reply(channel, reply).await;
            }
            0x17 => self.reply(channel, frame.clone()).await,
            0x18 => {
                self.heard.lock().expect("lock").closes += 1;
                self.send(&frame.write()).await;
            }
            code => panic!("performative {code:#x}"),
        }
    }

    /// The service numbers its channels itself, and its transfers from 1.
    async fn begin(&mut self, channel: u16, begin: &Node) {
        let session = Session {
            channel: u16::try_from(self.sessions.len()).expect("few"),
            next_incoming: begin.field(1).uint(),
            handles: HashMap::new(),
            commands: Vec::new(),
        };
        self.sessions.insert(channel, session);
        let mut reply = frame("begin");
        let [high, low] = channel.to_be_bytes();
        reply.body[0].set(0, Node::Leaf(vec![0x60, high, low]));
        self.reply(channel, reply).await;
    }

    async fn attach(&mut self, channel: u16, attach: &Node) {
        let client_receives = attach.field(2).flag();
        let end = attach.field(if client_receives { 5 } else { 6 });
        let address = end.field(0).text();
        let (name, flow) = match (address.as_str(), client_receives) {
            ("$cbs", false) => ("attach-cbs-sender", Some("flow-cbs-sender")),
            ("$cbs", true) => ("attach-cbs-receiver", None),
            ("/devices/load-0/messages/events", false) => {
                ("attach-telemetry", Some("flow-telemetry"))
            }
            ("/devices/load-0/messages/devicebound", true) => ("attach-commands", None),
            other => panic!("attach of {other:?}"),
        };
        let mut reply = frame(name);
        let (handle, own) = (attach.field(1).uint(), reply.body[0].field(1));
        let session = self.sessions.get_mut(&channel).expect("begun");
        session.handles.insert(handle, own);
        if name == "attach-commands" {
            session.commands.push(handle);
        }
        let next_incoming = session.next_incoming;
        reply.body[0].set(0, attach.field(0));
        for end in [5, 6] {
            let mut terminus = reply.body[0].field(end);
            terminus.set(0, attach.field(end).field(0));
            reply.body[0].set(end, terminus);
        }
        self.reply(channel, reply).await;
        if let Some(flow) = flow {
            let mut flow = frame(flow);
            flow.body[0].set(0, Node::small(next_incoming));
            self.reply(channel, flow).await;
        }
    }

    async fn transfer(&mut self, channel: u16, transfer: &Frame) {
        let session = self.sessions.get_mut(&channel).expect("begun");
        session.next_incoming += 1;
        let delivery = transfer.body[0].field(1).uint();
        let properties = transfer.body.iter().find(|section| section.code() == 0x73);
        let id = properties.expect("properties").field(0);
        // Only a put-token says where its answer goes.
        let put_token = properties.is_some_and(|p| p.field(4) != Node::null());
        let name = if put_token {
            "disposition-cbs"
        } else {
            "disposition-telemetry"
        };
        let mut disposition = frame(name);
        if disposition.body[0].field(1).uint() != delivery {
            disposition.body[0].set(1, Node::small(delivery));
        }
        self.reply(channel, disposition).await;
        if put_token {
            let mut reply = frame("transfer-cbs-reply");
            reply.body[1].set(5, id);
            self.reply(channel, reply).await;
        }
    }
}

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain = CertificateDer::from_pem_file(dir.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![chain], key)
        });
    TlsAcceptor::from(Arc::new(tls.expect("a TLS server")))
}

/// Plays to everybody who connects; where, and what was heard.
async fn service(dir: &Path) -> (u16, Arc<Mutex<Heard>>) {
    let acceptor = acceptor(dir);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let hearing = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            hearing.lock().expect("lock").connections += 1;
            let service = Service {
                stream: acceptor.accept(tcp).await.expect("TLS"),
                heard: Arc::clone(&hearing),
                sessions: HashMap::new(),
            };
            tokio::spawn(service.play());
        }
    });
    (port, heard)
}

#[test]
fn a_recorded_packet_is_written_as_it_was_read() {
    for (name, _) in PACKETS.lines().filter_map(|line| line.split_once(' ')) {
        if !name.ends_with("header") {
            assert_eq!(frame(name).write(), packet(name), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_opens_against_the_recorded_service() {
    let options = Options {
        fleet: 1,
        hub: "connections = 1\n".to_owned(),
        gateway: "[shutdown]\nannounce = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let dir = scratch("recorded");
    files_in(&dir, &options);
    let (port, heard) = service(&dir).await;
    let gateway = gateway_in(&dir, &options, port).await;
    let transport = Transport::Psk {
        identity: "load-0".to_owned(),
        key: fleet_key(0),
        tls13: true,
    };
    let mqtt = gateway.listener("devices").expect("listener");
    let mut device = Device::connect(mqtt, &transport, &Who::id("load-0")).await;
    for body in [b"1", b"2", b"3"] {
        let sent = device
            .publish("devices/load-0/messages/events/", body)
            .await;
        sent.expect("PUBACK");
    }
    let qos = mqttbytes::QoS::AtLeastOnce;
    let filter = "devices/load-0/messages/devicebound/#";
    assert!(device.subscribe(filter, qos).await.expect("subscribed"));
    let credit = tokio::time::timeout(Duration::from_secs(10), async {
        while heard.lock().expect("lock").credit == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    credit.await.expect("room for commands");
    device
        .publish("devices/load-0/messages/events/", b"4")
        .await
        .expect("PUBACK");
    assert!(gateway.stop().await, "closed in order");
    let heard = heard.lock().expect("lock");
    assert_eq!((heard.connections, heard.closes), (1, 1));
}
