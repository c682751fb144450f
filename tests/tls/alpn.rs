//! What is agreed on to be spoken inside TLS, by either stack.

use crate::support::{KEY, Site, attempt, rustls_client};
use iothub_gateway::tls::Acceptor;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MQTT: &[u8] = b"\x04mqtt";
const HTTP: &[u8] = b"\x08http/1.1";
const BOTH: &[u8] = b"\x08http/1.1\x04mqtt";
const OTHERS: &[u8] = b"\x02h2\x0ex-amzn-mqtt-ca";

/// A byte there and back, so that the server's side ends well.
async fn echo(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    stream.write_u8(7).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 7);
}

/// What rustls and the server agree on when `list` is offered.
async fn by_rustls(site: &Site, acceptor: &Arc<Acceptor>, list: &[u8]) -> Option<Vec<u8>> {
    let mut config = rustls_client(&site.ca, None, true);
    let mut rest = list;
    while let [length, more @ ..] = rest {
        let (name, more) = more.split_at((*length).into());
        config.alpn_protocols.push(name.to_vec());
        rest = more;
    }
    let client = async |tcp: TcpStream| {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "gateway.example".try_into().unwrap();
        let mut stream = connector.connect(name, tcp).await.unwrap();
        echo(&mut stream).await;
        let agreed = stream.get_ref().1.alpn_protocol();
        agreed.map(<[u8]>::to_vec)
    };
    let (server, agreed) = attempt(acceptor, client).await;
    server.unwrap();
    agreed
}

/// The same with a pre-shared key.
async fn by_psk(acceptor: &Arc<Acceptor>, list: &[u8], version: SslVersion) -> Option<Vec<u8>> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder.set_cipher_list("PSK-AES128-GCM-SHA256").unwrap();
    builder.set_ciphersuites("TLS_AES_128_GCM_SHA256").unwrap();
    builder.set_alpn_protos(list).unwrap();
    builder.set_psk_client_callback(|_, _, identity, key| {
        identity[..6].copy_from_slice(b"dev-1\0");
        key[..KEY.len()].copy_from_slice(KEY);
        Ok(KEY.len())
    });
    let mut config = builder.build().configure().unwrap();
    config.set_verify(openssl::ssl::SslVerifyMode::NONE);
    let ssl = config.into_ssl("gateway.example").unwrap();
    let client = async |tcp: TcpStream| {
        let mut stream = tokio_openssl::SslStream::new(ssl, tcp).unwrap();
        Pin::new(&mut stream).connect().await.unwrap();
        echo(&mut stream).await;
        let agreed = stream.ssl().selected_alpn_protocol();
        agreed.map(<[u8]>::to_vec)
    };
    let (server, agreed) = attempt(acceptor, client).await;
    server.unwrap();
    agreed
}

#[tokio::test]
async fn names_are_agreed_on_where_they_are_served_and_nobody_is_refused_for_others() {
    for websocket in [true, false] {
        let mut site = Site::new();
        site.listener.websocket = websocket;
        let acceptor = site.acceptor();
        let http = websocket.then(|| b"http/1.1".to_vec());
        let mqtt = Some(b"mqtt".to_vec());
        for (list, expected) in [(MQTT, &mqtt), (HTTP, &http), (BOTH, &mqtt), (OTHERS, &None)] {
            assert_eq!(by_rustls(&site, &acceptor, list).await, *expected);
            for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
                let agreed = by_psk(&acceptor, list, version).await;
                assert_eq!(agreed, *expected, "{list:?}");
            }
        }
    }
}
