//! A server with one acceptor, certificates made on the spot, and clients of both libraries.

use iothub_gateway::config::secret::Secret;
use iothub_gateway::config::{ListenerConfig, Mixed, TlsConfig};
use iothub_gateway::tls::{
    Acceptor, HandshakeError, HandshakeLimits, Peer, PskHash, PskKeys, PskLookup, Thumbprints,
};
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslVersion};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

pub const KEY: &[u8] = b"0123456789abcdef";
pub const NEXT: &[u8] = b"fedcba9876543210";
pub const LONG_KEY: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef";

/// Far above what anything here needs; a test that reaches it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------------------- certificates

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub der: Vec<u8>,
}

pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pub pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let (pem, der) = (cert.pem(), cert.der().to_vec());
        Self {
            issuer: Issuer::new(params, key),
            pem,
            der,
        }
    }

    /// A certificate for a TLS client, changed by `change`.
    pub fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "dev-1");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![cert.der().clone()],
            key,
            pem: cert.pem(),
        }
    }

    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub fn crl(&self, serial: u64, next_update: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// As `openssl req -x509` makes it: a CA of itself.
pub fn self_signed(is_ca: bool, until: i32) -> Leaf {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "self-1");
    params.not_after = date_time_ymd(until, 1, 1);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    Leaf {
        chain: vec![cert.der().clone()],
        key,
        pem: cert.pem(),
    }
}

// ---------------------------------------------------------------------------- the server

/// A folder of its own with a CA, and a listener configuration pointing into it.
pub struct Site {
    pub ca: Ca,
    pub folder: PathBuf,
    pub listener: ListenerConfig,
    pub limits: HandshakeLimits,
}

impl Site {
    pub fn new() -> Self {
        static NEXT_FOLDER: AtomicU64 = AtomicU64::new(0);
        let n = NEXT_FOLDER.fetch_add(1, Ordering::Relaxed);
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let ca = Ca::new("plant A");
        let server = ca.sign(|_| {});
        std::fs::write(folder.join("server.pem"), &server.pem).unwrap();
        std::fs::write(folder.join("server.key"), server.key.serialize_pem()).unwrap();
        std::fs::write(folder.join("ca.pem"), &ca.pem).unwrap();
        let tls = TlsConfig {
            cert: Some(folder.join("server.pem")),
            key: Some(folder.join("server.key")),
            client_ca: Some(folder.join("ca.pem")),
            crl: None,
            mixed: Mixed::Psk,
            ..TlsConfig::default()
        };
        let listener = ListenerConfig {
            name: "devices".into(),
            bind: "127.0.0.1:0".parse().unwrap(),
            tls: Some(tls),
            insecure: false,
            mqtt_versions: iothub_gateway::mqtt::packet::Versions::ALL,
            websocket: true,
            proxy_protocol: Vec::new(),
            accept: vec![],
        };
        let limits = HandshakeLimits {
            hello: Duration::from_secs(5),
            total: PATIENCE / 2,
        };
        Self {
            ca,
            folder,
            listener,
            limits,
        }
    }

    pub fn psk_only() -> Self {
        let mut site = Self::new();
        let tls = site.tls();
        (tls.cert, tls.key, tls.client_ca) = (None, None, None);
        site
    }

    pub fn tls(&mut self) -> &mut TlsConfig {
        self.listener.tls.as_mut().unwrap()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn acceptor(&self) -> Arc<Acceptor> {
        Arc::new(Acceptor::new(&self.listener, keys(), self.limits).unwrap())
    }

    pub fn with_thumbprints(&self, registered: &[&Leaf]) -> Arc<Acceptor> {
        let ders: Vec<Vec<u8>> = registered
            .iter()
            .map(|leaf| leaf.chain[0].to_vec())
            .collect();
        let known: Thumbprints = Arc::new(move |der| ders.iter().any(|known| known == der));
        let acceptor = Acceptor::with_thumbprints(&self.listener, keys(), known, self.limits);
        Arc::new(acceptor.unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `dev-1` has one key, `two` has two.
fn keys() -> PskLookup {
    Arc::new(|identity| {
        let key = || Secret::new(KEY.to_vec());
        match identity {
            b"dev-1" | b"dev" => Some(PskKeys {
                key: key(),
                next_key: None,
                hash: PskHash::Sha256,
            }),
            b"two" => Some(PskKeys {
                key: key(),
                next_key: Some(Secret::new(NEXT.to_vec())),
                hash: PskHash::Sha256,
            }),
            b"sha384" => Some(PskKeys {
                key: Secret::new(LONG_KEY.to_vec()),
                next_key: None,
                hash: PskHash::Sha384,
            }),
            _ => None,
        }
    })
}

/// One connection: what the acceptor says, and what `client` returns. The server echoes one byte.
pub async fn attempt<C, F, T>(
    acceptor: &Arc<Acceptor>,
    client: C,
) -> (Result<Peer, HandshakeError>, T)
where
    C: FnOnce(TcpStream) -> F,
    F: Future<Output = T>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (tcp, source) = listener.accept().await.unwrap();
        let accepted = acceptor.accept(tcp, source).await?;
        let mut stream = accepted.stream;
        // A client may leave without a word; what counts here is what the handshake proved.
        if let Ok(byte) = stream.read_u8().await {
            let _ = stream.write_u8(byte).await;
            let _ = stream.shutdown().await;
        }
        Ok(accepted.peer)
    };
    let client = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        client(tcp).await
    };
    let both = async { tokio::join!(server, client) };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("both sides come to an end")
}

/// Sends raw bytes, then reads until the server closes.
pub async fn raw(
    acceptor: &Arc<Acceptor>,
    bytes: &[u8],
) -> (Result<Peer, HandshakeError>, Vec<u8>) {
    attempt(acceptor, async |mut tcp| {
        tcp.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        answer
    })
    .await
}

// ---------------------------------------------------------------------------- clients

/// How a client ended: the suite, or the number of the alert it got (0: closed without one).
pub type Outcome = Result<String, u8>;

pub fn rustls_client(ca: &Ca, leaf: Option<&Leaf>, tls13: bool) -> rustls::ClientConfig {
    let key = leaf.map(|leaf| leaf.key.serialize_der());
    rustls_client_with_key(ca, leaf.zip(key), tls13)
}

/// A client with a certificate and any key, fitting or not.
pub fn rustls_client_with_key(
    ca: &Ca,
    leaf: Option<(&Leaf, Vec<u8>)>,
    tls13: bool,
) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der.clone().into()).unwrap();
    let version = if tls13 {
        &rustls::version::TLS13
    } else {
        &rustls::version::TLS12
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    match leaf {
        None => builder.with_no_client_auth(),
        Some((leaf, key)) => {
            let key = PrivateKeyDer::try_from(key).unwrap();
            let key = provider.key_provider.load_private_key(key).unwrap();
            let certified = CertifiedKey::new(leaf.chain.clone(), key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    }
}

pub async fn run_rustls<S>(config: &Arc<rustls::ClientConfig>, stream: S) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = "gateway.example".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let alert = |error: std::io::Error| match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => u8::from(*alert),
        _ => 0,
    };
    let mut stream = connector.connect(name, stream).await.map_err(alert)?;
    let kind = format!("{:?}", stream.get_ref().1.handshake_kind().unwrap());
    echo(&mut stream).await.map_err(alert)?;
    Ok(kind)
}

pub struct Psk {
    pub version: SslVersion,
    pub suites: &'static str,
    /// The first one gets the key share.
    pub groups: &'static str,
    /// Offers `psk_ke`, too.
    pub ke: bool,
    pub identity: Vec<u8>,
    pub key: Vec<u8>,
}

impl Psk {
    pub fn tls13(identity: &[u8], key: &[u8]) -> Self {
        let suites = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
        let (identity, key) = (identity.to_vec(), key.to_vec());
        Self {
            version: SslVersion::TLS1_3,
            suites,
            groups: "X25519:P-256",
            ke: false,
            identity,
            key,
        }
    }

    pub fn tls12(suites: &'static str, identity: &[u8], key: &[u8]) -> Self {
        let (identity, key) = (identity.to_vec(), key.to_vec());
        Self {
            version: SslVersion::TLS1_2,
            suites,
            groups: "X25519:P-256",
            ke: false,
            identity,
            key,
        }
    }

    fn context(&self) -> SslContextBuilder {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_security_level(0);
        builder.set_groups_list(self.groups).unwrap();
        if self.ke {
            // SSL_OP_ALLOW_NO_DHE_KEX
            builder.set_options(openssl::ssl::SslOptions::from_bits_retain(1 << 10));
        }
        builder.set_min_proto_version(Some(self.version)).unwrap();
        builder.set_max_proto_version(Some(self.version)).unwrap();
        if self.version == SslVersion::TLS1_3 {
            builder.set_ciphersuites(self.suites).unwrap();
        } else {
            builder.set_cipher_list(self.suites).unwrap();
        }
        let (identity, key) = (self.identity.clone(), self.key.clone());
        builder.set_psk_client_callback(move |_, _, name, out| {
            name[..identity.len()].copy_from_slice(&identity);
            name[identity.len()] = 0;
            out[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
        builder
    }

    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Outcome {
        let ssl = Ssl::new(&self.context().build()).unwrap();
        let mut stream = tokio_openssl::SslStream::new(ssl, stream).unwrap();
        Pin::new(&mut stream)
            .connect()
            .await
            .map_err(|error| openssl_alert(&error))?;
        let suite = stream.ssl().current_cipher().unwrap().name().to_owned();
        echo(&mut stream).await.map_err(|error| {
            error
                .get_ref()
                .and_then(|inner| inner.downcast_ref())
                .map_or(0, openssl_alert)
        })?;
        Ok(suite)
    }
}

fn openssl_alert(error: &openssl::ssl::Error) -> u8 {
    let codes = error
        .ssl_error()
        .into_iter()
        .flat_map(|stack| stack.errors());
    codes
        .filter_map(|error| u8::try_from(error.reason_code() - 1000).ok())
        .next()
        .unwrap_or(0)
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    stream.write_u8(42).await?;
    stream.flush().await?;
    let byte = stream.read_u8().await?;
    assert_eq!(byte, 42);
    Ok(())
}

/// Stands between client and server and cuts the first record, the ClientHello, anew: each
/// piece of `cut`'s answer is one write.
pub fn cutting(
    tcp: TcpStream,
    cut: impl FnOnce(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> DuplexStream {
    let (client, mut near) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut tcp = tcp;
        let mut record = vec![0; 5];
        near.read_exact(&mut record).await?;
        let length = usize::from(record[3]) << 8 | usize::from(record[4]);
        record.resize(5 + length, 0);
        near.read_exact(&mut record[5..]).await?;
        for piece in cut(&record) {
            tcp.write_all(&piece).await?;
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut near, &mut tcp)
            .await
            .map(|_| ())
    });
    client
}

pub fn one_byte_segments(record: &[u8]) -> Vec<Vec<u8>> {
    record.iter().map(|byte| vec![*byte]).collect()
}

/// The same message in `count` records.
pub fn in_records(record: &[u8], count: usize) -> Vec<Vec<u8>> {
    let message = &record[5..];
    message
        .chunks(message.len().div_ceil(count))
        .map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&record[..3], &length, part].concat()
        })
        .collect()
}
