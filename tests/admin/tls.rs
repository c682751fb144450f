//! TLS on the operators' port: what is served over it, and what crowds, mistakes and new
//! certificates do to it.

#[path = "../support/certificates.rs"]
mod certificates;

use crate::{PATIENCE, body, connect, get, ready, rest};
use certificates::Authority;
use iothub_gateway::admin::{AdminHandle, AdminLimits, Served, bind, spawn_thread_with};
use iothub_gateway::config::TlsConfig;
use iothub_gateway::runtime::clock;
use iothub_gateway::telemetry::metrics::Metrics;
use iothub_gateway::tls::{Acceptor, HandshakeLimits};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned};
use std::io::ErrorKind::WouldBlock;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Written beside its certificate as tests/support does.
fn secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

struct Port {
    server: AdminHandle,
    acceptor: Arc<Acceptor>,
    dir: PathBuf,
    ca: String,
}

impl Port {
    fn start(name: &str, limits: AdminLimits) -> Self {
        let id = std::process::id();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-{name}-{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        let ca = certify(&dir);
        let config = TlsConfig {
            cert: Some(dir.join("server.pem")),
            key: Some(dir.join("server.key")),
            ..TlsConfig::default()
        };
        let handshake = HandshakeLimits {
            hello: PATIENCE,
            total: PATIENCE,
        };
        let acceptor = Acceptor::for_http("[admin]", config, handshake).unwrap();
        let acceptor = Arc::new(acceptor);
        let served = Served {
            metrics: Arc::new(Metrics::new()),
            status: Arc::new(ready),
            api: None,
            tls: Some(acceptor.clone()),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = spawn_thread_with(listener, served, limits).unwrap();
        Self {
            server,
            acceptor,
            dir,
            ca,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn end(self) {
        self.server.stop();
        std::fs::remove_dir_all(self.dir).unwrap();
    }
}

/// A new CA and what it signs for this machine, in `dir`.
fn certify(dir: &Path) -> String {
    let authority = Authority::new("operators' CA");
    authority.sign(dir, "server", certificates::server(&["localhost"]));
    authority.pem
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts `ca` and asks by `alpn`; its handshake is done.
fn client(
    address: SocketAddr,
    ca: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, connect(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn modern(address: SocketAddr, ca: &str) -> std::io::Result<Tls> {
    client(address, ca, rustls::ALL_VERSIONS, &[])
}

/// Sends the end of a request for `path`; the answer, ended by the server as TLS ends.
fn finish(stream: &mut Tls, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("close_notify");
    answer
}

#[test]
fn both_versions_and_http_1_by_alpn_are_served() {
    let port = Port::start("versions", AdminLimits::default());
    let v12: &[_] = &[&rustls::version::TLS12];
    for (versions, version) in [
        (rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3),
        (v12, ProtocolVersion::TLSv1_2),
    ] {
        let alpn = ["h2", "http/1.1"];
        let mut stream = client(port.address(), &port.ca, versions, &alpn).unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = finish(&mut stream, "/ready");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // Who speaks nothing else than HTTP/2 is told so in the handshake.
    client(port.address(), &port.ca, v12, &["h2"]).unwrap_err();
    let stranger = Authority::new("another CA").pem;
    modern(port.address(), &stranger).unwrap_err();
    port.end();
}

#[test]
fn http_without_tls_is_told_what_to_do_and_anything_else_is_closed() {
    let port = Port::start("mistaken", AdminLimits::default());
    for path in ["/live", "/metrics", "/", "/api/v1/hub"] {
        let answer = get(port.address(), path);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(body(&answer).contains("https://"), "{path}: {answer}");
    }
    for bytes in [&b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"[..], &[0; 64]] {
        let mut stream = connect(port.address());
        stream.write_all(bytes).unwrap();
        assert_eq!(rest(&mut stream), "");
    }
    assert!(modern(port.address(), &port.ca).is_ok(), "it still serves");
    port.end();
}

#[test]
fn a_handshake_that_stops_ends_with_the_time_of_a_request() {
    let limits = AdminLimits {
        request_timeout: Duration::from_millis(300),
        ..AdminLimits::default()
    };
    let port = Port::start("stopped", limits);
    let begun = clock::mono();
    let mut silent = connect(port.address());
    let mut half = connect(port.address());
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).unwrap();
    assert_eq!((rest(&mut silent), rest(&mut half)), Default::default());
    let took = clock::mono().since(begun);
    assert!(
        took >= limits.request_timeout && took < PATIENCE,
        "{took:?}"
    );
    port.end();
}

#[test]
fn a_crowd_of_slow_handshakes_does_not_keep_the_probes_waiting() {
    let port = Port::start("crowd", AdminLimits::default());
    let (address, stop) = (port.address(), Arc::new(AtomicBool::new(false)));
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(address);
                    let _ = stream.write_all(&[22, 3, 1, 2, 0, 1]);
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                    // Until it is dropped, or a byte more every now and then.
                    while !stop.load(Ordering::Relaxed)
                        && matches!(stream.read(&mut [0]), Err(e) if e.kind() == WouldBlock)
                        && stream.write_all(&[0]).is_ok()
                    {}
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for path in ["/live", "/ready"].repeat(5) {
        let asked = clock::mono();
        let mut stream = modern(address, &port.ca).unwrap();
        let answer = finish(&mut stream, path);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer:?}");
        let took = clock::mono().since(asked);
        assert!(took < Duration::from_secs(4), "{path}: {took:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for thread in crowd {
        thread.join().unwrap();
    }
    port.end();
}

#[test]
fn a_new_certificate_is_for_the_next_connection_and_ends_none() {
    let limits = AdminLimits {
        request_timeout: PATIENCE,
        ..AdminLimits::default()
    };
    let port = Port::start("renewed", limits);
    let mut open = modern(port.address(), &port.ca).unwrap();
    let renewed = certify(&port.dir);
    modern(port.address(), &renewed).expect_err("the old certificate is in force");
    port.acceptor.reload().unwrap();
    let mut next = modern(port.address(), &renewed).unwrap();
    assert!(finish(&mut next, "/live").ends_with("ok\n"));
    modern(port.address(), &port.ca).expect_err("the new certificate is in force");
    assert!(finish(&mut open, "/live").ends_with("ok\n"));
    // Half of a pair changes nothing.
    std::fs::write(port.dir.join("server.key"), "no key").unwrap();
    let problems = port.acceptor.reload().unwrap_err();
    assert!(problems[0].starts_with("[admin]: tls.key "), "{problems:?}");
    assert!(modern(port.address(), &renewed).is_ok());
    port.end();
}

/// An address of this machine that others see, if it has one.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only looks for the way.
    socket.connect("203.0.113.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn in_clear_another_machine_gets_probes_and_metrics_alone() {
    let Some(outside) = outside() else {
        return; // the decision itself has a test of its own in src/admin/way.rs
    };
    let served = Served {
        metrics: Arc::new(Metrics::new()),
        status: Arc::new(ready),
        api: None,
        tls: None,
    };
    let listener = bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let server = spawn_thread_with(listener, served, AdminLimits::default()).unwrap();
    let port = server.local_addr().port();
    let (far, near) = (SocketAddr::from((outside, port)), ([127, 0, 0, 1], port));
    for path in ["/live", "/ready", "/metrics"] {
        let answer = get(far, path);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    for path in ["/", "/page.js", "/api/v1/hub", "/api/v1/openapi.json"] {
        let answer = get(far, path);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        assert!(body(&answer).contains("admin.tls"), "{path}: {answer}");
    }
    let page = get(near.into(), "/");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    server.stop();
}
