//! A plain port with real sockets: who is let in, how each socket ends, that it adds up.

use crate::auth::CredentialKind;
use crate::auth::password::hash_password_with;
use crate::auth::rules::{Cidr, Resolvers, RuleSet, RulesText};
use crate::config::limits::Limits;
use crate::config::secret::Secret;
use crate::config::{Endpoint, HubConfig, ListenerConfig};
use crate::hub::Hub;
use crate::listener::{Listener, Shared};
use crate::router::registry::Eviction;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Acceptor, HandshakeLimits};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use mqttbytes::v4::{self, ConnectReturnCode, Packet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const SHORT: Duration = Duration::from_millis(100);

pub(super) struct Port {
    address: SocketAddr,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    stop: CancellationToken,
}

fn hub_config() -> HubConfig {
    HubConfig {
        host: "hub.example".to_owned(),
        audience: "hub.example/devices".to_owned(),
        token_source: Default::default(),
        policy: "device".to_owned(),
        key: Secret::from("key"),
        secondary_key: None,
        // Nobody listens there: this test is about the other side.
        endpoint: Endpoint {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: 1,
        },
        ca: None,
        token_ttl: SOON,
        renew_at: 0.85,
        connections: 1,
        max_devices_per_connection: 1000,
        sessions_per_connection: 1,
        attach_rate_per_s: 1000,
        connect_timeout: SOON,
        operation_timeout: SOON,
        outcome_timeout: SOON,
        idle_timeout: SOON,
        backoff_min: SOON,
        backoff_max: SOON,
        connection_bytes_max: 1 << 20,
    }
}

fn rules() -> RuleSet {
    let hash = hash_password_with(b"right", b"0123456789abcdef", (8, 1, 1));
    let text = format!(
        "[[device]]\nid = \"dev\"\npassword = {{ username = \"dev\", hash = \"{}\" }}\n",
        hash.expect("a hash")
    );
    let resolvers = Resolvers {
        read: &|_| Err("no files here".to_owned()),
        read_secret: &|_| Err("no files here".to_owned()),
        secret: &|value| Ok(value.to_owned()),
    };
    let file = RulesText {
        name: "rules.toml",
        text: &text,
    };
    RuleSet::parse(&[file], &resolvers).expect("rules")
}

pub(super) fn open(limits: Limits) -> Port {
    open_behind(limits, &[])
}

/// A port that takes connections from these proxies alone.
pub(super) fn open_behind(limits: Limits, proxies: &[&str]) -> Port {
    let metrics = Arc::new(Metrics::new());
    let hub = Hub::start(Arc::new(hub_config()), metrics.clone());
    let rules = Arc::new(ArcSwap::from_pointee(rules()));
    let times = HandshakeLimits {
        hello: limits.hello_timeout,
        total: limits.tls_timeout,
    };
    let shared = Shared::new(
        rules,
        hub,
        "hub.example".into(),
        limits,
        metrics.clone(),
        crate::listener::Records::none(),
    );
    let config = ListenerConfig {
        name: "plain".to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        tls: None,
        insecure: false,
        mqtt_versions: crate::mqtt::packet::Versions::ALL,
        websocket: true,
        proxy_protocol: proxies
            .iter()
            .map(|range| Cidr::parse(range).expect("a range"))
            .collect(),
        accept: vec![CredentialKind::Password, CredentialKind::Sas],
    };
    let acceptor = Acceptor::new(&config, Arc::new(|_| None), times).expect("a plain acceptor");
    let listener = Listener::on(
        super::super::open(config.bind).expect("a port"),
        config,
        Arc::new(acceptor),
        shared.clone(),
    )
    .expect("a listener");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    tokio::spawn(listener.run(stop.clone()));
    Port {
        address,
        shared,
        metrics,
        stop,
    }
}

impl Port {
    pub(super) async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("accepted")
    }

    /// A socket with CONNECT on it, and the answer.
    pub(super) async fn connect(&self, password: &str) -> (TcpStream, Option<ConnectReturnCode>) {
        self.connect_after(&[], password).await
    }

    /// As [`Port::connect`], with `head` in front.
    pub(super) async fn connect_after(
        &self,
        head: &[u8],
        password: &str,
    ) -> (TcpStream, Option<ConnectReturnCode>) {
        let mut socket = self.socket().await;
        socket.write_all(head).await.expect("taken");
        let mut connect = v4::Connect::new("dev");
        connect.set_login("dev", password);
        let mut bytes = BytesMut::new();
        connect.write(&mut bytes).expect("CONNECT");
        socket.write_all(&bytes).await.expect("taken");
        let answer = answer(&mut socket).await;
        (socket, answer)
    }

    pub(super) fn ended(&self, reason: &str) -> u64 {
        self.metrics.disconnects.with_label_values(&[reason]).get()
    }

    fn ended_in_total(&self) -> u64 {
        let text = self.metrics.render();
        let lines = text.lines().filter_map(|line| {
            line.starts_with("iothub_gateway_disconnects_total{")
                .then(|| line.rsplit(' ').next()?.parse::<u64>().ok())?
        });
        lines.sum()
    }

    /// Waits until no connection has a task, and checks that every permit came back.
    pub(super) async fn idle(&self) {
        assert!(self.shared.drained(SOON).await, "a task did not end");
        assert!(self.shared.registry().is_empty());
        assert!(self.shared.gate.is_idle(), "a permit was kept");
        assert_eq!(self.metrics.panics.get(), 0);
        assert_eq!(self.ended("dropped"), 0);
    }
}

async fn answer(socket: &mut TcpStream) -> Option<ConnectReturnCode> {
    let mut bytes = BytesMut::new();
    loop {
        let read = timeout(SOON, socket.read_buf(&mut bytes)).await;
        if read.expect("an answer or an end").unwrap_or(0) == 0 {
            return None;
        }
        match v4::read(&mut bytes, 100) {
            Ok(Packet::ConnAck(ack)) => return Some(ack.code),
            Ok(other) => panic!("not a CONNACK: {other:?}"),
            Err(_) => {}
        }
    }
}

/// Whether the peer has closed, within a bound.
pub(super) async fn closed(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    let read = timeout(SOON, socket.read(&mut byte)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn every_socket_ends_in_exactly_one_reason() {
    let port = open(Limits {
        connect_timeout: SHORT,
        ..Limits::default()
    });
    drop(port.socket().await);
    let mut silent = port.socket().await;
    let mut garbage = port.socket().await;
    garbage.write_all(b"get / http/1.1\r\n\r\n").await.unwrap();
    let (mut wrong, code) = port.connect("wrong").await;
    assert_eq!(code, Some(ConnectReturnCode::BadUserNamePassword));
    let (mut good, code) = port.connect("right").await;
    assert_eq!(code, Some(ConnectReturnCode::Success));
    good.write_all(&[0xe0, 0]).await.unwrap();
    for socket in [&mut silent, &mut garbage, &mut wrong, &mut good] {
        assert!(closed(socket).await);
        socket.shutdown().await.ok();
    }
    port.idle().await;
    assert_eq!(port.ended_in_total(), 5, "{}", port.metrics.render());
    for reason in ["clean", "peer_closed", "bad_password", "connect_timeout"] {
        assert_eq!(port.ended(reason), 1, "{reason}: {}", port.metrics.render());
    }
    let connects = |result| port.metrics.connects.with_label_values(&[result]).get();
    assert_eq!((connects("accepted"), connects("bad_password")), (1, 1));
}

#[tokio::test]
async fn a_connect_that_trickles_does_not_extend_its_deadline() {
    let port = open(Limits {
        connect_timeout: SHORT,
        ..Limits::default()
    });
    let mut socket = port.socket().await;
    let mut sent = 0;
    socket.write_all(&[0x10, 60]).await.unwrap();
    while sent < 100 && socket.write_all(b"a").await.is_ok() {
        sent += 1;
        tokio::time::sleep(SHORT / 8).await;
    }
    assert!(sent < 100, "a byte now and then kept the socket open");
    port.idle().await;
    assert_eq!(port.ended("connect_timeout"), 1);
}

#[tokio::test]
async fn a_source_over_its_bound_is_refused_at_once_and_counted() {
    let port = open(Limits {
        connections_per_source: 2,
        ..Limits::default()
    });
    let first = port.connect("right").await.0;
    let second = port.socket().await;
    let mut third = port.socket().await;
    assert!(closed(&mut third).await);
    assert_eq!(port.ended("limit_connections_per_source"), 1);
    drop((first, second));
    port.idle().await;
    assert_eq!(port.ended_in_total(), 3);
}

#[tokio::test]
async fn a_second_connect_of_a_device_closes_the_first_before_it_is_answered() {
    let port = open(Limits::default());
    let (mut older, _) = port.connect("right").await;
    let (mut newer, code) = port.connect("right").await;
    assert_eq!(code, Some(ConnectReturnCode::Success));
    let mut byte = [0];
    let end = older.try_read(&mut byte);
    assert!(
        matches!(end, Ok(0) | Err(_)),
        "the older one lives: {end:?}"
    );
    assert!(closed(&mut older).await);
    assert_eq!(port.ended("taken_over"), 1);
    assert_eq!(port.shared.registry().len(), 1);
    newer.write_all(&[0xc0, 0]).await.unwrap();
    let mut pong = [0; 2];
    timeout(SOON, newer.read_exact(&mut pong))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pong, [0xd0, 0]);
    drop((older, newer));
    port.idle().await;
}

#[tokio::test]
async fn packets_that_came_with_connect_are_not_lost() {
    let port = open(Limits::default());
    let mut socket = port.socket().await;
    let mut connect = v4::Connect::new("dev");
    connect.set_login("dev", "right");
    let mut bytes = BytesMut::new();
    connect.write(&mut bytes).unwrap();
    bytes.extend_from_slice(&[0xc0, 0, 0xe0, 0]);
    socket.write_all(&bytes).await.unwrap();
    let mut all = Vec::new();
    timeout(SOON, socket.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all, [0x20, 2, 0, 0, 0xd0, 0]);
    drop(socket);
    port.idle().await;
    assert_eq!(port.ended("clean"), 1);
}

#[tokio::test]
async fn a_will_for_another_device_is_refused_at_connect() {
    let port = open(Limits::default());
    let mut socket = port.socket().await;
    let mut connect = v4::Connect::new("dev");
    connect.set_login("dev", "right");
    let topic = "devices/other/messages/events/";
    let will = v4::LastWill::new(topic, "x", mqttbytes::QoS::AtMostOnce, false);
    connect.last_will = Some(will);
    let mut bytes = BytesMut::new();
    connect.write(&mut bytes).unwrap();
    socket.write_all(&bytes).await.unwrap();
    let code = answer(&mut socket).await;
    assert_eq!(code, Some(ConnectReturnCode::NotAuthorized));
    drop(socket);
    port.idle().await;
    assert_eq!(port.ended("topic_foreign_device"), 1);
}

#[tokio::test]
async fn a_drain_ends_handshakes_and_devices_and_the_port_takes_no_more() {
    let port = open(Limits::default());
    let (mut device, _) = port.connect("right").await;
    let mut silent = port.socket().await;
    while port.shared.tasks() < 2 {
        tokio::task::yield_now().await;
    }
    port.stop.cancel();
    port.shared.drain(SHORT, Duration::ZERO);
    assert!(closed(&mut silent).await);
    assert!(closed(&mut device).await);
    drop((device, silent));
    port.idle().await;
    assert_eq!(port.ended("drain"), 2);
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test]
async fn rules_that_changed_end_the_sessions_they_no_longer_admit() {
    let port = open(Limits::default());
    let (mut device, _) = port.connect("right").await;
    port.shared.rules.store(Arc::new(RuleSet::default()));
    let rules = port.shared.rules.load_full();
    let now = crate::runtime::clock::unix();
    let ended = port
        .shared
        .registry()
        .kick_where(Eviction::RightsRevoked, |_, device| {
            crate::auth::recheck(&rules, device, now).is_err()
        });
    assert_eq!(ended, 1);
    assert!(closed(&mut device).await);
    drop(device);
    port.idle().await;
    assert_eq!(port.ended("rights_revoked"), 1);
}
