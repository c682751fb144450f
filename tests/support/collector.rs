//! An OTLP/HTTP collector that behaves, or does not.

use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What a collector does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Answers with this status, this much later.
    Answers(u16, Duration),
    /// Reads, and never answers.
    Hangs,
    /// Accepts, and never reads.
    IsDeaf,
}

/// A running collector.
pub struct Collector {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    came: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub async fn start(manner: Manner) -> Self {
        Self::start_over(manner, None).await
    }

    /// One that speaks TLS as `localhost`, with a certificate of its own; that goes to `ca`.
    pub async fn start_tls(manner: Manner, ca: &Path) -> Self {
        let names = vec!["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(ca, made.cert.pem()).expect("written");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        Self::start_over(manner, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn start_over(manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let requests: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let came = Arc::new(Notify::new());
        let (kept, told) = (requests.clone(), came.clone());
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                if matches!(manner, Manner::IsDeaf) {
                    open.push(stream);
                    continue;
                }
                let (kept, told, tls) = (kept.clone(), told.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, manner, &kept, &told).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, manner, &kept, &told).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            requests,
            came,
            task,
        }
    }

    /// Every span received so far.
    pub fn spans(&self) -> Vec<Value> {
        let requests = self.requests.lock().expect("no panic");
        let mut all = Vec::new();
        for (_, body) in requests.iter() {
            let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
            all.extend(spans.as_array().expect("spans").iter().cloned());
        }
        all
    }

    /// The heads of the requests.
    pub fn heads(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no panic");
        requests.iter().map(|(head, _)| head.clone()).collect()
    }

    /// Waits until there are as many spans.
    pub async fn has(&self, spans: usize) -> Vec<Value> {
        let enough = async {
            loop {
                let came = self.came.notified();
                let found = self.spans();
                if found.len() >= spans {
                    return found;
                }
                came.await;
            }
        };
        let patience = Duration::from_secs(20);
        let found = tokio::time::timeout(patience, enough).await;
        found.unwrap_or_else(|_| panic!("{} spans, not {spans}", self.spans().len()))
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    manner: Manner,
    kept: &Mutex<Vec<(String, Value)>>,
    told: &Notify,
) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if let Some(request) = whole(&bytes) {
            break request;
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    };
    let body = serde_json::from_slice(&body).expect("JSON");
    kept.lock().expect("no panic").push((head, body));
    told.notify_waiters();
    match manner {
        Manner::Answers(status, delay) => {
            tokio::time::sleep(delay).await;
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        _ => std::future::pending().await,
    }
}

/// Head and body, once all of it is there.
fn whole(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1)?;
    let length: usize = length.split("\r\n").next()?.parse().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?;
    Some((head, body.to_vec()))
}
