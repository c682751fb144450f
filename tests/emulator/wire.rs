//! What goes over the wire before and at OPEN, byte by byte.

use crate::kit::{Client, DEVICE_KEY, HOST, POLICY_KEY, hub_token, send, soon, start, token};
use crate::raw::{AMQP, Raw, SASL, begin, open};
use fe2o3_amqp::Connection;
use fe2o3_amqp::connection::OpenError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::types::messaging::Outcome;
use fe2o3_amqp::types::performatives::{Begin, Close, Open};
use fe2o3_amqp::types::sasl::{SaslInit, SaslMechanisms, SaslOutcome};
use iothub_gateway::emulator::config::TlsMaterial;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn open_and_begin_carry_the_values_of_the_service() {
    let hub = start(|_| {}).await;
    for sasl in [None, Some("MSSBCBS"), Some("ANONYMOUS")] {
        let mut raw = Raw::connect(&hub).await;
        if let Some(mechanism) = sasl {
            let outcome = raw.sasl(mechanism, None).await;
            assert_eq!(outcome.code as u8, 0);
            assert_eq!(outcome.additional_data.unwrap().as_slice(), b"Welcome!");
        }
        assert_eq!(&raw.header(AMQP).await, AMQP);
        raw.write(0, &open(None)).await;
        let answer: Open = raw.read(0).await;
        let digits = answer.container_id.strip_prefix("DeviceGateway_").unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(answer.max_frame_size.0, 65_536);
        assert_eq!(answer.channel_max.0, 8_191);
        assert_eq!(answer.idle_time_out, Some(240_000));
        assert_eq!(answer.hostname.as_deref(), Some("localhost"));
        raw.write(0, &begin(777)).await;
        let begun: Begin = raw.read(0).await;
        assert_eq!(begun.remote_channel, Some(0));
        assert_eq!(begun.next_outgoing_id, 1);
        assert_eq!(begun.incoming_window, 5_000);
        assert_eq!(begun.outgoing_window, 777);
        assert_eq!(begun.handle_max.0, 262_143);
    }
}

#[tokio::test]
async fn a_client_may_write_everything_before_it_reads_anything() {
    let hub = start(|_| {}).await;
    let mut raw = Raw::connect(&hub).await;
    raw.0.write_all(SASL).await.unwrap();
    let init = SaslInit {
        mechanism: "ANONYMOUS".into(),
        initial_response: None,
        hostname: None,
    };
    raw.write(1, &init).await;
    raw.0.write_all(AMQP).await.unwrap();
    raw.write(0, &open(None)).await;
    let mut header = [0; 8];
    soon("a header", raw.0.read_exact(&mut header))
        .await
        .unwrap();
    let _: SaslMechanisms = raw.read(1).await;
    let outcome: SaslOutcome = raw.read(1).await;
    assert_eq!(outcome.code as u8, 0);
    soon("a header", raw.0.read_exact(&mut header))
        .await
        .unwrap();
    assert_eq!(&header, AMQP);
    let _: Open = raw.read(0).await;
}

#[tokio::test]
async fn plain_with_a_wrong_token_or_name_ends_in_sys() {
    let hub = start(|_| {}).await;
    let short = HOST.split('.').next().unwrap();
    let good = hub_token(3600);
    let wrong = token(b"wrong", &format!("{HOST}/devices"), 3600, Some("device"));
    for response in [
        format!("\0device@sas.root.{short}\0{wrong}"),
        format!("\0device@sas.root.{HOST}\0{good}"),
        format!("\0other@sas.root.{short}\0{good}"),
        format!("\0thermo-1@sas.{short}\0{good}"),
        "no zero bytes".to_owned(),
    ] {
        let mut raw = Raw::connect(&hub).await;
        let outcome = raw.sasl("PLAIN", Some(&response)).await;
        assert_eq!(outcome.code as u8, 2, "{response:?}");
        assert!(outcome.additional_data.is_none());
    }
    assert_eq!(hub.stats().sasl_refused, 5);
}

#[tokio::test]
async fn plain_with_a_policy_or_device_token_authorises_the_connection() {
    let hub = start(|_| {}).await;
    let own = token(DEVICE_KEY, &format!("{HOST}/devices/thermo-1"), 3600, None);
    for (user, password) in [
        ("device@sas.root.myhub", hub_token(3600)),
        ("thermo-1@sas.myhub", own),
    ] {
        let stream = TcpStream::connect(hub.amqp_addr().unwrap()).await.unwrap();
        let profile = SaslProfile::Plain {
            username: user.to_owned(),
            password,
        };
        let opening = Connection::builder()
            .container_id("plain")
            .sasl_profile(profile)
            .open_with_stream(stream);
        let mut client = Client::begin(soon("open", opening).await.unwrap()).await;
        let mut sender = client.events("thermo-1").await.unwrap();
        let outcome = send(&mut sender, b"x").await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)), "{user}");
    }
}

#[tokio::test]
async fn other_protocols_are_told_what_is_spoken_and_closed() {
    let hub = start(|config| config.amqp.handshake_timeout = Duration::from_secs(1)).await;
    for header in [
        b"GET / HT",
        b"AMQP\x00\x00\x09\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ] {
        let mut raw = Raw::connect(&hub).await;
        assert_eq!(&raw.header(header).await, AMQP);
        let mut rest = Vec::new();
        soon("the end", raw.0.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }
    let mut silent = Raw::connect(&hub).await;
    let mut rest = Vec::new();
    soon(
        "the end of a silent client",
        silent.0.read_to_end(&mut rest),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn malformed_frames_close_the_connection_and_nothing_else() {
    let hub = start(|_| {}).await;
    let frames: [&[u8]; 6] = [
        b"\0\0\0\x04\x02\0\0\0",
        b"\0\0\0\x08\x02\0\0\0",
        b"\xff\xff\xff\xff\x02\0\0\0",
        b"\0\0\0\x0c\x01\0\0\0\0\x53\x10\x45",
        b"\0\0\0\x0c\x02\0\0\0\0\x53\x11\x45",
        b"\0\0\0\x10\x02\0\0\0\0\x53\x10\xc0\xff\xff\xff\xff",
    ];
    for frame in frames {
        let mut raw = Raw::connect(&hub).await;
        raw.header(AMQP).await;
        raw.0.write_all(frame).await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        drop(soon("the end", raw.0.read_to_end(&mut rest)).await);
    }
    // The same once the connection is open, where the library reads.
    for frame in frames {
        let mut raw = Raw::connect(&hub).await;
        raw.header(AMQP).await;
        raw.write(0, &open(None)).await;
        let _: Open = raw.read(0).await;
        raw.0.write_all(frame).await.unwrap();
        raw.0.shutdown().await.unwrap();
        let mut rest = Vec::new();
        drop(soon("the end", raw.0.read_to_end(&mut rest)).await);
    }
    Client::authorised(&hub).await;
}

#[tokio::test]
async fn an_idle_time_out_that_is_too_short_is_refused() {
    let hub = start(|_| {}).await;
    let mut raw = Raw::connect(&hub).await;
    raw.header(AMQP).await;
    raw.write(0, &open(Some(4_999))).await;
    let _: Open = raw.read(0).await;
    let close: Close = raw.read(0).await;
    let error = close.error.unwrap();
    assert_eq!(crate::kit::condition(&error), "amqp:not-allowed");
    assert!(error.description.unwrap().contains("5000 ms"));
}

#[tokio::test]
async fn heartbeats_come_before_the_client_s_patience_ends() {
    let hub = start(|config| config.amqp.idle_timeout_min = Duration::ZERO).await;
    let mut raw = Raw::connect(&hub).await;
    raw.header(AMQP).await;
    raw.write(0, &open(Some(1_000))).await;
    let _: Open = raw.read(0).await;
    for _ in 0..2 {
        let mut beat = [0; 8];
        let reading = raw.0.read_exact(&mut beat);
        tokio::time::timeout(Duration::from_millis(900), reading)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(beat, [0, 0, 0, 8, 2, 0, 0, 0]);
    }
}

#[tokio::test]
async fn a_silent_client_is_closed_after_the_announced_idle_time() {
    let hub = start(|config| config.amqp.idle_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::connect(&hub).await;
    raw.header(AMQP).await;
    raw.write(0, &open(None)).await;
    let _: Open = raw.read(0).await;
    let mut rest = Vec::new();
    drop(soon("the end", raw.0.read_to_end(&mut rest)).await);
}

#[tokio::test]
async fn the_tls_port_speaks_amqp_behind_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let hub = start(|config| {
        config.amqp.bind = config.amqp.plain_bind.take();
        config.amqp.tls = Some(TlsMaterial {
            cert_pem: cert.into_bytes(),
            key_pem: key.as_str().into(),
        });
    })
    .await;
    assert!(hub.amqp_addr().is_none());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(hub.amqps_addr().unwrap()).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream);
    let tls = soon("TLS", tls).await.unwrap();
    let opening = Connection::builder()
        .container_id("tls")
        .sasl_profile(SaslProfile::Anonymous)
        .open_with_stream(tls);
    let mut client = Client::begin(soon("open", opening).await.unwrap()).await;
    client.put(&hub_token(60)).await;
    let mut sender = client.events("plain-1").await.unwrap();
    assert!(matches!(
        send(&mut sender, b"x").await.unwrap(),
        Outcome::Accepted(_)
    ));
}

#[tokio::test]
async fn stopping_closes_connections_in_form_and_frees_the_port() {
    let hub = start(|_| {}).await;
    let address = hub.amqp_addr().unwrap();
    let mut client = Client::authorised(&hub).await;
    let stopping = tokio::spawn(hub.stop());
    let closed = soon("a close", client.connection.on_close())
        .await
        .unwrap_err();
    assert!(
        format!("{closed:?}").contains("ConnectionForced"),
        "{closed:?}"
    );
    soon("the stop", stopping).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_dropped() {
    let hub = start(|config| config.limits.connections = 1).await;
    let _first = Client::authorised(&hub).await;
    let stream = TcpStream::connect(hub.amqp_addr().unwrap()).await.unwrap();
    let opening = Connection::builder()
        .container_id("second")
        .open_with_stream(stream);
    let refused: Result<_, OpenError> = soon("a refusal", opening).await;
    assert!(refused.is_err());
    assert_eq!(hub.stats().connections_refused, 1);
    // The key of the only policy was not needed for any of it.
    assert!(!format!("{hub:?}").contains(std::str::from_utf8(POLICY_KEY).unwrap()));
}
