//! Hellos cut to pieces, garbage, silence, and other protocols.

use crate::support::{
    KEY, Psk, Site, attempt, cutting, in_records, one_byte_segments, raw, run_rustls,
    rustls_client, self_signed,
};
use iothub_gateway::tls::Peer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How a record is sent: one write a piece.
type Cut = fn(&[u8]) -> Vec<Vec<u8>>;

#[tokio::test]
async fn a_hello_in_one_byte_segments_or_many_records_serves_every_kind() {
    let site = Site::new();
    let (signed, registered) = (site.ca.sign(|_| {}), self_signed(true, 2100));
    let acceptor = site.with_thumbprints(&[&registered]);
    let psks = [
        Psk::tls13(b"dev-1", KEY),
        Psk::tls12("PSK-AES128-GCM-SHA256", b"dev-1", KEY),
        Psk::tls12("PSK-AES128-CCM8", b"dev-1", KEY),
        Psk::tls12("ECDHE-PSK-CHACHA20-POLY1305", b"dev-1", KEY),
    ];
    let cuts: [Cut; 3] = [
        one_byte_segments,
        |record| in_records(record, 2),
        |record| in_records(record, 16),
    ];
    for cut in cuts {
        for psk in &psks {
            let run = async |tcp| psk.run(cutting(tcp, cut)).await;
            let (server, client) = attempt(&acceptor, run).await;
            assert!(client.is_ok(), "{}", psk.suites);
            assert!(matches!(server, Ok(Peer::Psk { identity, .. }) if identity == "dev-1"));
        }
        for leaf in [None, Some(&signed), Some(&registered)] {
            for tls13 in [true, false] {
                let config = Arc::new(rustls_client(&site.ca, leaf, tls13));
                let run = async |tcp| run_rustls(&config, cutting(tcp, cut)).await;
                let (server, client) = attempt(&acceptor, run).await;
                assert!(client.is_ok());
                let expected = match server {
                    Ok(Peer::Tls(_)) => leaf.is_none(),
                    Ok(Peer::Certificate { .. }) => leaf.is_some(),
                    _ => false,
                };
                assert!(expected);
            }
        }
    }
}

#[tokio::test]
async fn a_hello_in_one_byte_records_is_closed_at_the_limit() {
    let acceptor = Site::new().acceptor();
    let psk = Psk::tls13(b"dev-1", KEY);
    let cut = |record: &[u8]| in_records(record, record.len());
    let (server, client) = attempt(&acceptor, async |tcp| psk.run(cutting(tcp, cut)).await).await;
    assert_eq!(server.unwrap_err().reason, "hello_too_large");
    assert!(client.is_err());
}

#[tokio::test]
async fn other_protocols_are_closed_by_name_and_their_bytes_do_not_reach_the_log() {
    let acceptor = Site::new().acceptor();
    let cases: [(&[u8], &str, &str); 6] = [
        (
            b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04dev1",
            "plain_mqtt",
            "turn TLS on",
        ),
        (b"GET /\x1b[31m HTTP/1.1\r\n\r\n", "not_tls", "HTTP"),
        (b"SSH-2.0-evil\r\n", "not_tls", "SSH"),
        (b"AMQP\0\x01\0\0", "not_tls", "AMQP"),
        (b"\0", "not_tls", "first byte"),
        (b"\x80\x2e\x01\x03\x01", "not_tls", "first byte"),
    ];
    for (bytes, reason, word) in cases {
        let (server, answer) = raw(&acceptor, bytes).await;
        let error = server.unwrap_err();
        assert_eq!(
            (error.reason.word(), error.credential, error.version),
            (reason, "none", "none")
        );
        assert!(
            error.text.contains(word) && !error.text.contains('\x1b'),
            "{}",
            error.text
        );
        assert!(answer.is_empty(), "nothing is sent to what is not TLS");
    }
}

#[tokio::test]
async fn garbage_that_begins_like_tls_is_answered_with_an_alert() {
    let acceptor = Site::new().acceptor();
    for (bytes, reason) in [
        (&[22, 3, 1, 0, 4, 2, 0, 0, 0][..], "hello_malformed"),
        (&[22, 9, 9, 0, 4], "hello_malformed"),
        (&[22, 3, 1, 0, 0], "hello_malformed"),
        (&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3], "hello_malformed"),
        (&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0], "hello_too_large"),
    ] {
        let (server, answer) = raw(&acceptor, bytes).await;
        assert_eq!(server.unwrap_err().reason, reason);
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50], "decode_error");
    }
}

#[tokio::test]
async fn tls_1_0_and_1_1_are_refused_with_protocol_version() {
    let acceptor = Site::new().acceptor();
    for version in [1, 2] {
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
        let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
        hello.extend(&body);
        let (server, answer) = raw(&acceptor, &hello).await;
        assert_eq!(server.unwrap_err().reason, "tls_version");
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
    }
}

#[tokio::test]
async fn silence_and_a_trickle_end_at_the_deadline_of_the_hello() {
    let mut site = Site::new();
    site.limits.hello = Duration::from_millis(200);
    let acceptor = site.acceptor();
    for first in [&b""[..], &[22, 3, 1]] {
        let (server, answer) = raw(&acceptor, first).await;
        assert_eq!(server.unwrap_err().reason, "hello_timeout");
        assert!(answer.is_empty());
    }
    let (server, ()) = attempt(&acceptor, async |mut tcp| {
        for byte in [22, 3, 1, 2, 0, 1, 0, 1, 0xfc].iter().chain(&[0_u8; 500]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if tcp.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    })
    .await;
    assert!(matches!(
        server.unwrap_err().reason.word(),
        "hello_timeout" | "hello_malformed"
    ));
}

#[tokio::test]
async fn a_handshake_that_stops_after_the_hello_ends_at_the_total_deadline() {
    let mut site = Site::new();
    site.limits.total = Duration::from_millis(500);
    let acceptor = site.acceptor();
    let hellos = [
        hello_of(&Psk::tls13(b"dev-1", KEY)).await,
        hello_of(&Psk::tls12("PSK-AES128-GCM-SHA256", b"dev-1", KEY)).await,
    ];
    for hello in &hellos {
        let (server, _) = raw(&acceptor, hello).await;
        let error = server.unwrap_err();
        assert_eq!(
            (error.reason.word(), error.credential),
            ("tls_timeout", "psk")
        );
    }
}

#[tokio::test]
async fn alerts_and_an_end_in_the_middle_of_a_handshake_close_cleanly() {
    let acceptor = Site::new().acceptor();
    let psk12 = hello_of(&Psk::tls12("PSK-AES128-GCM-SHA256", b"dev-1", KEY)).await;
    let psk13 = hello_of(&Psk::tls13(b"dev-1", KEY)).await;
    for hello in [&psk12, &psk13] {
        for alert in [0_u8, 40] {
            // close_notify is a warning, handshake_failure is fatal; then the end.
            let level = if alert == 0 { 1 } else { 2 };
            let bytes = [&hello[..], &[21, 3, 3, 0, 2, level, alert]].concat();
            let (server, ()) = attempt(&acceptor, async |mut tcp| {
                tcp.write_all(&bytes).await.unwrap();
                tcp.shutdown().await.unwrap();
                let _ = tcp.read_to_end(&mut Vec::new()).await;
            })
            .await;
            let reason = server.unwrap_err().reason.word();
            assert!(
                matches!(reason, "client_alert" | "peer_closed" | "tls_violation"),
                "{reason}"
            );
        }
    }
    let (server, ()) = attempt(&acceptor, async |tcp| drop(tcp)).await;
    assert_eq!(server.unwrap_err().reason, "peer_closed");
}

/// In TLS 1.2 OpenSSL cuts an identity at its first NUL; the key of what is left must not
/// admit the whole.
#[tokio::test]
async fn an_identity_with_a_nul_is_refused_although_its_first_part_and_key_are_right() {
    let acceptor = Site::new().acceptor();
    let hello = hello_of(&Psk::tls12("PSK-AES128-GCM-SHA256", b"dev", KEY)).await;
    let (server, answer) = attempt(&acceptor, async |mut tcp| {
        tcp.write_all(&hello).await.unwrap();
        let mut answer = vec![0; 5];
        tcp.read_exact(&mut answer).await.unwrap();
        // ClientKeyExchange with `dev\0x`, ChangeCipherSpec, and a Finished of rubbish.
        tcp.write_all(b"\x16\x03\x03\0\x0b\x10\0\0\x07\0\x05dev\0x")
            .await
            .unwrap();
        tcp.write_all(b"\x14\x03\x03\0\x01\x01").await.unwrap();
        tcp.write_all(&[&b"\x16\x03\x03\0\x28"[..], &[9; 40]].concat())
            .await
            .unwrap();
        let _ = tcp.read_to_end(&mut answer).await;
        answer
    })
    .await;
    assert_eq!(server.unwrap_err().reason, "psk_identity_invalid");
    assert!(
        answer.ends_with(&[21, 3, 3, 0, 2, 2, 20]),
        "bad_record_mac, as for a wrong key"
    );
}

#[tokio::test]
async fn a_plain_listener_proves_nothing_and_reads_nothing() {
    let mut site = Site::new();
    site.listener.tls = None;
    let (server, answer) = raw(&site.acceptor(), b"*").await;
    assert!(matches!(server, Ok(Peer::Plain)));
    assert_eq!(answer, b"*");
}

/// The first record a client sends.
async fn hello_of(psk: &Psk) -> Vec<u8> {
    let (client, mut server) = tokio::io::duplex(64 * 1024);
    let read = async {
        let mut record = vec![0; 5];
        server.read_exact(&mut record).await.unwrap();
        let length = usize::from(record[3]) << 8 | usize::from(record[4]);
        record.resize(5 + length, 0);
        server.read_exact(&mut record[5..]).await.unwrap();
        drop(server);
        record
    };
    tokio::join!(psk.run(client), read).1
}
