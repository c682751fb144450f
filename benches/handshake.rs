//! What the listener adds to a TLS handshake: processor time of the whole gateway against the same
//! library alone, with the same settings, the same clients, in the same run.
//!
//! Each server is a process of its own (this binary, with `--serve`), so that its time can be told
//! from the clients'. A connection is a handshake and the client's goodbye: the listener counts
//! it, admits it, reads the hello, chooses the stack, shakes hands, waits for a CONNECT and closes.
//!
//! `cargo bench --bench handshake [-- --handshakes N --rounds N --only TEXT]`; prints a table and the goal.

#[path = "../tests/support/mod.rs"]
mod support;

use iothub_gateway::gateway::{Gateway, load};
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslVersion,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::{Options, PSK, gateway_toml, scratch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The listener may cost this much of the library alone.
const GOAL: f64 = 1.25;

/// Clients at once.
const CLIENTS: usize = 8;

/// The kinds of handshake: name, and how the bare server is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Psk12,
    EcdhePsk12,
    Psk13,
    X509,
}

const KINDS: [Kind; 4] = [Kind::Psk12, Kind::EcdhePsk12, Kind::Psk13, Kind::X509];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Psk12 => "PSK-AES128-GCM, TLS 1.2",
            Self::EcdhePsk12 => "ECDHE-PSK-CHACHA20, TLS 1.2",
            Self::Psk13 => "PSK, TLS 1.3",
            Self::X509 => "X.509 by CA, TLS 1.3",
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| {
        after(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Some(what) = after("--serve") {
        let dir = PathBuf::from(after("--dir").expect("a folder"));
        runtime.block_on(serve(&what, &dir));
        return ExitCode::SUCCESS;
    }
    let (handshakes, rounds) = (number("--handshakes", 2_000), number("--rounds", 7));
    let only = after("--only").unwrap_or_default();
    let kinds: Vec<_> = KINDS
        .into_iter()
        .filter(|kind| kind.name().contains(&only))
        .collect();
    runtime.block_on(compare(&kinds, handshakes, rounds))
}

// ---------------------------------------------------------------------------- the comparison

async fn compare(kinds: &[Kind], handshakes: usize, rounds: usize) -> ExitCode {
    let dir = scratch("handshake");
    let options = Options::default();
    let emulator = support::hub_in(&dir, &options).await;
    let toml = gateway_toml(&options, support::amqps_port(&emulator), 0, 0, 0);
    // Clients that are gone before CONNECT are failures; none of them is to be throttled.
    let rows = iothub_gateway::config::limits::ROWS.iter();
    let throttles = rows.filter(|row| row.key.starts_with("failures_per_"));
    let throttles: String = throttles
        .map(|row| format!("{} = 1000000\n", row.key))
        .collect();
    std::fs::write(
        dir.join("gateway.toml"),
        format!("{toml}[limits]\n{throttles}"),
    )
    .expect("written");
    let whole = Server::start("whole", &dir);
    let psk = Server::start("psk", &dir);
    let x509 = Server::start("x509", &dir);

    println!("server's processor time per handshake, ms; {rounds} rounds of {handshakes}\n");
    println!(
        "{:28} {:>8} {:>9} {:>7}   least-most",
        "", "library", "listener", "ratio"
    );
    let mut held = true;
    for &kind in kinds {
        let client = Client::new(kind, &dir);
        let bare = if kind == Kind::X509 { &x509 } else { &psk };
        for server in [bare, &whole] {
            server.cost(&client, handshakes.div_ceil(4)).await; // warm
        }
        let mut measured = Vec::new();
        for round in 0..rounds {
            // In turns, so that a busy machine is busy for both.
            let (library, listener) = if round % 2 == 0 {
                let library = bare.cost(&client, handshakes).await;
                (library, whole.cost(&client, handshakes).await)
            } else {
                let listener = whole.cost(&client, handshakes).await;
                (bare.cost(&client, handshakes).await, listener)
            };
            measured.push((library, listener));
        }
        held &= report(kind, measured);
    }
    println!(
        "\ngoal: {GOAL} at most: {}",
        if held { "held" } else { "missed" }
    );
    drop((whole, psk, x509));
    emulator.stop().await;
    let _ = std::fs::remove_dir_all(&dir);
    ExitCode::SUCCESS
}

/// Prints one row; whether the median ratio keeps to the goal.
fn report(kind: Kind, measured: Vec<(f64, f64)>) -> bool {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let library = median(measured.iter().map(|(library, _)| *library).collect());
    let listener = median(measured.iter().map(|(_, listener)| *listener).collect());
    let ratios: Vec<f64> = measured.iter().map(|(a, b)| b / a).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let ratio = median(ratios);
    println!(
        "{:28} {library:8.3} {listener:9.3} {ratio:7.2}   {least:.2}-{most:.2}",
        kind.name()
    );
    ratio <= GOAL
}

/// A server in a process of its own; ends when its input does.
struct Server {
    process: Child,
    address: SocketAddr,
    input: Option<ChildStdin>,
}

impl Server {
    fn start(what: &str, dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--serve", what, "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts again");
        let input = process.stdin.take();
        let output = process.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("an address");
        Self {
            process,
            address,
            input,
        }
    }

    /// Milliseconds of the server's processor time for each of `count` handshakes.
    async fn cost(&self, client: &Client, count: usize) -> f64 {
        let before = self.milliseconds();
        let mut clients = tokio::task::JoinSet::new();
        for index in 0..CLIENTS {
            let (client, address) = (client.clone(), self.address);
            let share = count / CLIENTS + usize::from(index < count % CLIENTS);
            clients.spawn(async move {
                for _ in 0..share {
                    client.shake(address).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("a client");
        }
        // What the server still does after the last client is gone belongs to it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        (self.milliseconds() - before) / count as f64
    }

    /// User and system time so far; the kernel counts hundredths of a second.
    fn milliseconds(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.process.id());
        let text = std::fs::read_to_string(path).expect("the server runs");
        // The name in the second field may hold blanks; it ends at the last parenthesis.
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) * 10.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}

// ---------------------------------------------------------------------------- the servers

async fn serve(what: &str, dir: &Path) {
    let ended = tokio::task::spawn_blocking(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    });
    match what {
        "whole" => {
            let loaded = load(&dir.join("gateway.toml"));
            let Ok(loaded) = loaded else {
                panic!("the configuration is refused");
            };
            let gateway = Gateway::start(loaded.config, loaded.rules).await;
            let gateway = gateway.expect("it starts");
            assert!(
                gateway.ready(Duration::from_secs(30)).await,
                "ready in time"
            );
            println!("{}", gateway.listener("devices").expect("a listener"));
            let _ = ended.await;
        }
        "psk" => {
            let context = psk_server();
            bare(ended, move |tcp| {
                let ssl = Ssl::new(&context).expect("a session");
                async move {
                    let mut stream = tokio_openssl::SslStream::new(ssl, tcp).expect("a stream");
                    Pin::new(&mut stream).accept().await.ok()?;
                    Some(stream)
                }
            })
            .await;
        }
        _ => {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(x509_server(dir)));
            bare(ended, move |tcp| {
                let acceptor = acceptor.clone();
                async move { acceptor.accept(tcp).await.ok() }
            })
            .await;
        }
    }
}

/// The least a server can do: accept, shake hands, read to the end, close.
async fn bare<S, F>(
    ended: tokio::task::JoinHandle<()>,
    accept: impl Fn(TcpStream) -> F + Send + Clone + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Option<S>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("bound"));
    let serving = async {
        loop {
            let (tcp, _) = listener.accept().await.expect("a client");
            let _ = tcp.set_nodelay(true);
            let accept = accept.clone();
            tokio::spawn(async move {
                if let Some(mut stream) = accept(tcp).await {
                    let mut bytes = [0; 512];
                    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                }
            });
        }
    };
    tokio::select! {
        () = serving => {}
        _ = ended => {}
    }
}

/// As `tls::psk` sets OpenSSL up.
fn psk_server() -> SslContext {
    let mut builder = SslContextBuilder::new(SslMethod::tls_server()).expect("OpenSSL");
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .expect("1.2");
    builder.set_options(
        SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0).expect("no tickets");
    builder.set_mode(
        SslMode::RELEASE_BUFFERS
            | SslMode::AUTO_RETRY
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    builder.set_read_ahead(true);
    builder.set_security_level(0);
    builder.set_groups_list("P-256:X25519").expect("groups");
    builder
        .set_ciphersuites("TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256")
        .expect("suites of 1.3");
    builder
        .set_cipher_list("ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256")
        .expect("suites of 1.2");
    builder.set_psk_server_callback(|_, identity, out| {
        if identity != Some(b"psk-1") {
            return Ok(0);
        }
        out[..PSK.len()].copy_from_slice(PSK);
        Ok(PSK.len())
    });
    builder.build()
}

/// As `tls::x509` sets rustls up.
fn x509_server(dir: &Path) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&dir.join("device-ca.pem")) {
        roots.add(certificate).expect("a CA");
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    );
    let verifier = verifier
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&dir.join("server.pem")),
            key(&dir.join("server.key")),
        )
        .expect("a certificate");
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).expect("a file");
    found.collect::<Result<_, _>>().expect("certificates")
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).expect("a key")
}

// ---------------------------------------------------------------------------- the clients

#[derive(Clone)]
enum Client {
    Psk(SslContext),
    X509(tokio_rustls::TlsConnector),
}

impl Client {
    fn new(kind: Kind, dir: &Path) -> Self {
        match kind {
            Kind::Psk12 => Self::Psk(psk_client(Some("PSK-AES128-GCM-SHA256"))),
            Kind::EcdhePsk12 => Self::Psk(psk_client(Some("ECDHE-PSK-CHACHA20-POLY1305"))),
            Kind::Psk13 => Self::Psk(psk_client(None)),
            Kind::X509 => Self::X509(x509_client(dir)),
        }
    }

    /// One handshake, then goodbye; returns when the server has closed too.
    async fn shake(&self, address: SocketAddr) {
        let tcp = TcpStream::connect(address).await.expect("connected");
        tcp.set_nodelay(true).expect("an option");
        match self {
            Self::Psk(context) => {
                let ssl = Ssl::new(context).expect("a session");
                let mut stream = tokio_openssl::SslStream::new(ssl, tcp).expect("a stream");
                Pin::new(&mut stream).connect().await.expect("a handshake");
                goodbye(stream).await;
            }
            Self::X509(connector) => {
                let name = "localhost".try_into().expect("a name");
                goodbye(connector.connect(name, tcp).await.expect("a handshake")).await;
            }
        }
    }
}

async fn goodbye(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await;
    let _ = stream.read(&mut [0; 64]).await;
}

fn psk_client(suite12: Option<&str>) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_client()).expect("OpenSSL");
    builder.set_groups_list("P-256:X25519").expect("groups");
    let version = match suite12 {
        Some(suite) => {
            builder.set_cipher_list(suite).expect("a suite");
            SslVersion::TLS1_2
        }
        None => {
            builder
                .set_ciphersuites("TLS_AES_128_GCM_SHA256")
                .expect("a suite");
            SslVersion::TLS1_3
        }
    };
    builder
        .set_min_proto_version(Some(version))
        .expect("a version");
    builder
        .set_max_proto_version(Some(version))
        .expect("a version");
    builder.set_psk_client_callback(|_, _, identity, key| {
        identity[..6].copy_from_slice(b"psk-1\0");
        key[..PSK.len()].copy_from_slice(PSK);
        Ok(PSK.len())
    });
    builder.build()
}

fn x509_client(dir: &Path) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&dir.join("ca.pem")) {
        roots.add(certificate).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certificates(&dir.join("cert-1.pem")),
            key(&dir.join("cert-1.key")),
        )
        .expect("a certificate");
    // A full handshake each time, as a device that starts.
    config.resumption = rustls::client::Resumption::disabled();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}
