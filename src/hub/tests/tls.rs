//! TLS towards the hub and towards a token service: verified against the configured root.

use super::fake::FakeHub;
use super::token::ready_made;
use super::{PATIENCE, accepted, config, device, message, start};
use crate::config::{TokenSource, TokenUrl};
use crate::hub::Hub;
use crate::telemetry::metrics::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server for `localhost` and the file with the root it is verified by.
fn localhost(test: &str) -> (TlsAcceptor, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let name = format!("{test}-ca-{}.pem", std::process::id());
    let ca = std::env::temp_dir().join(name);
    std::fs::write(&ca, made.cert.pem()).unwrap();
    (TlsAcceptor::from(Arc::new(tls)), ca)
}

#[tokio::test]
async fn the_hub_is_verified_against_the_configured_root() {
    let (acceptor, ca) = localhost("hub");
    let fake = FakeHub::start_with(0, Some(acceptor)).await;
    let mut settings = config(fake.port);
    settings.endpoint.tls = true;
    settings.endpoint.host = "localhost".to_owned();
    settings.ca = Some(ca.clone());
    let hub = start(settings.clone()).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("over TLS"));
    assert_eq!(accepted(&mut links).await, 1);
    assert!(hub.shutdown(PATIENCE).await);

    settings.endpoint.host = "127.0.0.1".to_owned(); // not a name in the certificate
    let hub = Hub::start(Arc::new(settings), Arc::new(Metrics::new()));
    assert!(!hub.ready(Duration::from_millis(500)).await);
    assert!(hub.status().problem.contains("TLS"), "{:?}", hub.status());
    assert!(hub.shutdown(PATIENCE).await);
    std::fs::remove_file(ca).unwrap();
}

/// A token service over TLS that answers every request and closes without a close_notify, as
/// many do.
async fn service(acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue; // a client that does not trust us
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let token = ready_made(Duration::from_secs(60));
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{token}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    port
}

#[tokio::test]
async fn a_token_service_is_verified_against_the_configured_root() {
    let (acceptor, ca) = localhost("service");
    let port = service(acceptor).await;
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.ca = Some(ca.clone());
    let url = TokenUrl::parse(&format!("https://localhost:{port}/t")).unwrap();
    settings.token_source = TokenSource::Url(url);
    let hub = start(settings.clone()).await;
    assert_eq!(hub.status().key_in_use, "service");
    assert!(hub.shutdown(PATIENCE).await);

    settings.ca = None; // the public roots do not know it
    let hub = Hub::start(Arc::new(settings), Arc::new(Metrics::new()));
    assert!(!hub.ready(Duration::from_millis(500)).await);
    assert!(hub.status().problem.contains("TLS"), "{:?}", hub.status());
    assert!(hub.shutdown(PATIENCE).await);
    std::fs::remove_file(ca).unwrap();
}
