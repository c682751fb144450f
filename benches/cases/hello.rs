//! What a first flight costs before any key is touched: read, classified, and refused, because
//! the listener serves nothing the hello asks for. The reference reads and answers as many bytes
//! on the same kind of socket without looking at them, so the ratio is what looking costs.
//!
//! Whole handshakes are in `handshake`.

use crate::support::Suite;
use iothub_gateway::config::{ListenerConfig, Mixed, TlsConfig};
use iothub_gateway::tls::{Acceptor, HandshakeLimits};
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All of them.
pub fn all(suite: &mut Suite) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let acceptor = acceptor();
    let tls13 = rustls_hello(rustls::ALL_VERSIONS);
    let tls12 = rustls_hello(&[&rustls::version::TLS12]);
    let records = in_records(&tls13, 16);
    let broken = broken(&tls13);
    let mqtt = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08thermo-1".to_vec();
    for (name, bytes, reason) in [
        ("certificate_tls13", tls13, "no_shared_suite"),
        ("certificate_tls12", tls12, "no_shared_suite"),
        ("tls13_in_16_records", records, "no_shared_suite"),
        ("malformed", broken, "hello_malformed"),
        ("plain_mqtt", mqtt, "plain_mqtt"),
    ] {
        suite.versus(
            name,
            || {
                let accepted = acceptor.accept(dialled(&runtime, &bytes), source());
                let refused = runtime.block_on(accepted).err().expect("refused");
                assert_eq!(refused.reason, reason);
            },
            "no look",
            || runtime.block_on(unseen(dialled(&runtime, &bytes))),
        );
    }
}

/// A listener without a certificate: it serves PSK only.
fn acceptor() -> Acceptor {
    let tls = TlsConfig {
        cert: None,
        key: None,
        client_ca: None,
        crl: None,
        mixed: Mixed::Psk,
        ..TlsConfig::default()
    };
    let listener = ListenerConfig {
        name: "devices".into(),
        bind: source(),
        tls: Some(tls),
        insecure: false,
        mqtt_versions: iothub_gateway::mqtt::packet::Versions::ALL,
        websocket: true,
        proxy_protocol: Vec::new(),
        accept: Vec::new(),
    };
    let limits = HandshakeLimits {
        hello: Duration::from_secs(5),
        total: Duration::from_secs(10),
    };
    Acceptor::new(&listener, Arc::new(|_| None), limits)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn source() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The server's end of a socket pair on which a client said `bytes` and went.
fn dialled(runtime: &tokio::runtime::Runtime, bytes: &[u8]) -> TcpStream {
    let (mut client, server) = UnixStream::pair().expect("a socket pair");
    client.write_all(bytes).expect("room for a hello");
    client.shutdown(Shutdown::Write).expect("a shutdown");
    server.set_nonblocking(true).expect("non-blocking");
    // A pair without ports: nothing waits in TIME_WAIT however many there were.
    let server = std::net::TcpStream::from(OwnedFd::from(server));
    let _entered = runtime.enter();
    TcpStream::from_std(server).expect("registered")
}

/// Reads to the end and answers with seven bytes, an alert's size.
async fn unseen(mut stream: TcpStream) -> usize {
    let mut raw = Vec::with_capacity(2048);
    while stream.read_buf(&mut raw).await.expect("read") > 0 {}
    let _ = stream.write_all(&[0; 7]).await;
    let _ = stream.shutdown().await;
    raw.len()
}

fn rustls_hello(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("its own versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "gateway.example".try_into().expect("a legal name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut raw = Vec::new();
    client.write_tls(&mut raw).expect("written to memory");
    raw
}

/// The same hello in `count` records.
fn in_records(hello: &[u8], count: usize) -> Vec<u8> {
    let message = &hello[5..];
    let part = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("a record's length");
        [&[22, 3, 1][..], &length.to_be_bytes(), bytes].concat()
    };
    let size = message.len().div_ceil(count);
    message.chunks(size).flat_map(part).collect()
}

/// The same hello with a session id of 33 bytes, one more than there may be.
fn broken(hello: &[u8]) -> Vec<u8> {
    let mut bytes = hello.to_vec();
    // Record 5, message 4, version 2, random 32.
    bytes[43] = 33;
    bytes
}
