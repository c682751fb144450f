//! The first bytes: other protocols, other packets, fields too large, old TLS, long chains.

use crate::raw::{Connect, Raw, SOON, connected, ended, metric_is, options};
use crate::support::device::Transport;
use crate::support::{Bench, PSK};
use std::time::Duration;

const AT_ONCE: Duration = Duration::from_secs(1);

/// the type is judged by the first byte, whatever length follows; nothing is buffered.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_packet_that_is_no_connect_is_refused_by_its_fixed_header() {
    let bench = Bench::start("first-packet", options("")).await;
    let flags_of = |kind: u8| if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
    let mut before = ended(&bench, "").await;
    for kind in (0..16_u8).filter(|kind| *kind != 1) {
        let mut raw = Raw::plain(bench.plain()).await;
        // A length of 200 MiB, of which nothing is sent.
        let header = [kind << 4 | flags_of(kind), 0x80, 0x80, 0x80, 0x64];
        raw.send(&header).await.expect("sent");
        let answer = raw.closed_within(AT_ONCE).await;
        assert_eq!(answer, b"", "type {kind}");
        before += 1.0;
        metric_is(&bench, "disconnects_total", &["reason=\""], before).await;
    }
    let first = ended(&bench, "first_packet_not_connect").await;
    let reserved = ended(&bench, "reserved_packet_type").await;
    assert_eq!(first + reserved, 15.0, "{}", bench.metrics().await);
    let mut honest = connected(&bench, &Connect::pass_1()).await;
    honest.send(&[0xC0, 0]).await.expect("sent");
    assert_eq!(honest.read(2).await, [0xD0, 0]);
}

/// larger than `limits.connect_bytes`, refused by the length, before the bytes come.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_with_a_field_of_64_kib_is_refused_by_its_length() {
    let bench = Bench::start("large-fields", options("")).await;
    let large = vec![b'x'; 65_535];
    let base = Connect::pass_1();
    let mut cases = vec![base.clone(); 5];
    cases[0].client_id.clone_from(&large);
    cases[1].username = Some(large.clone());
    cases[2].password = Some(large.clone());
    cases[3].will = Some((large.clone(), b"x".to_vec()));
    cases[4].will = Some((b"devices/pass-1/messages/events/".to_vec(), large));
    for connect in &cases {
        let mut raw = Raw::plain(bench.plain()).await;
        let whole = connect.packet();
        raw.send(&whole[..16]).await.expect("sent");
        assert_eq!(raw.closed_within(AT_ONCE).await, b"");
    }
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"packet_too_large\""],
        5.0,
    )
    .await;
    assert_eq!(bench.metric("connections", &[]).await, 0.0);
}

///
#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_on_either_port_are_closed_and_counted() {
    let bench = Bench::start("protocols", options("")).await;
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mqtt = Connect::pass_1().packet();
    for (bytes, reason) in [
        (&mqtt[..], "plain_mqtt"),
        (http, "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\x1b[31mred\n", "not_tls"),
        (b"AMQP\0\x01\0\0", "not_tls"),
        (b"\n\n\n", "not_tls"),
    ] {
        let before = ended(&bench, reason).await;
        let mut raw = Raw::plain(bench.mqtt()).await;
        raw.send(bytes).await.expect("sent");
        assert_eq!(raw.closed_within(AT_ONCE).await, b"", "{reason}");
        let label = format!("reason=\"{reason}\"");
        metric_is(&bench, "disconnects_total", &[&label], before + 1.0).await;
    }
    // A browser is told what this is.
    let mut raw = Raw::plain(bench.plain()).await;
    raw.send(http).await.expect("sent");
    let answer = raw.closed_within(AT_ONCE).await;
    assert!(answer.starts_with(b"HTTP/1.1 426 "), "{answer:?}");
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"upgrade_none\""],
        1.0,
    )
    .await;
    // The plain port takes MQTT and WebSockets and nothing else, least of all a TLS hello.
    for bytes in [
        &b"SSH-2.0-x\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"AMQP\0\x01\0\0",
    ] {
        let mut raw = Raw::plain(bench.plain()).await;
        raw.send(bytes).await.expect("sent");
        assert_eq!(raw.closed_within(AT_ONCE).await, b"");
    }
}

/// A-45, through OpenSSL's own client of old versions and of suites nobody should offer.
#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_weak_suites_get_an_alert_and_no_handshake() {
    let bench = Bench::start("old-tls", options("")).await;
    for version in [0_u8, 1, 2] {
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
        let length = u8::try_from(body.len()).expect("small");
        let mut hello = vec![22, 3, version.min(1), 0, length + 4, 1, 0, 0, length];
        hello.extend(&body);
        let mut raw = Raw::plain(bench.mqtt()).await;
        raw.send(&hello).await.expect("sent");
        let answer = raw.closed_within(AT_ONCE).await;
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "protocol_version");
    }
    metric_is(&bench, "handshakes_total", &["result=\"tls_version\""], 3.0).await;
    // NULL, export, static RSA, and PSK suites with SHA-1 or without encryption.
    for suite in [
        0x0000_u16, 0x0003, 0x002f, 0x003c, 0x002c, 0x008b, 0x008c, 0x00b0,
    ] {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2]);
        body.extend(suite.to_be_bytes());
        body.extend([1, 0]);
        let length = u8::try_from(body.len()).expect("small");
        let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        hello.extend(&body);
        let mut raw = Raw::plain(bench.mqtt()).await;
        raw.send(&hello).await.expect("sent");
        let answer = raw.closed_within(AT_ONCE).await;
        assert!(answer.starts_with(&[21, 3]), "{suite:#06x}: {answer:?}");
    }
    assert_eq!(
        bench.metric("handshakes_total", &["result=\"ok\""]).await,
        0.0
    );
}

/// A-16 through the listener.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_a_hundred_certificates_is_refused_and_the_next_device_is_served() {
    let bench = Bench::start("long-chain", options("")).await;
    let leaf = std::fs::read_to_string(bench.dir.join("cert-1.pem")).expect("made");
    let long = bench.dir.join("long.pem");
    std::fs::write(&long, leaf.repeat(100)).expect("written");
    let with = |chain: &std::path::Path| Transport::Tls {
        ca: bench.dir.join("ca.pem"),
        certificate: Some((chain.to_owned(), bench.dir.join("cert-1.key"))),
    };
    // In TLS 1.3 the client is done before the server has judged: it reads the alert.
    if let Ok(mut raw) = Raw::over(bench.mqtt(), &with(&long)).await {
        let _ = raw.send(&Connect::id("cert-1").packet()).await;
        assert_eq!(raw.closed_within(SOON).await, b"");
    }
    let labels = ["result=\"x509_chain_too_long\""];
    metric_is(&bench, "handshakes_total", &labels, 1.0).await;
    let honest = with(&bench.dir.join("cert-1.pem"));
    let mut raw = Raw::over(bench.mqtt(), &honest).await.expect("a handshake");
    assert_eq!(raw.connect(&Connect::id("cert-1")).await, Some(0));
}

/// a client that asks for renegotiation is refused and costs nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_renegotiation_of_a_psk_session_ends_it() {
    let bench = Bench::start("renegotiation", options("")).await;
    let key: String = PSK.iter().map(|byte| format!("{byte:02x}")).collect();
    let address = bench.mqtt().to_string();
    let ended = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut client = std::process::Command::new("timeout")
            .args(["20", "openssl", "s_client", "-tls1_2", "-connect", &address])
            .args([
                "-cipher",
                "PSK-AES128-GCM-SHA256",
                "-psk_identity",
                "psk-1",
                "-psk",
                &key,
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("openssl runs");
        let mut input = client.stdin.take().expect("piped");
        input.write_all(b"R\n").expect("written");
        let output = client.wait_with_output().expect("ended");
        drop(input);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    });
    let text = ended.await.expect("joined");
    assert!(text.contains("RENEGOTIATING"), "{text}");
    assert!(
        text.contains("no renegotiation") || text.contains("alert"),
        "{text}"
    );
    let transport = Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13: false,
    };
    let mut raw = Raw::over(bench.mqtt(), &transport)
        .await
        .expect("a handshake");
    assert_eq!(raw.connect(&Connect::id("psk-1")).await, Some(0));
    assert_eq!(
        bench.metric("handshakes_total", &["result=\"ok\""]).await,
        2.0
    );
}
