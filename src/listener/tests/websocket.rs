//! MQTT over WebSocket at a live port: the cases of `tests/data/websocket`, and a device's life.

use super::port::{Port, SHORT, SOON, closed, open};
use crate::config::limits::Limits;
use crate::websocket::head;
use crate::websocket::tests::cases::{frames, requests};
use bytes::BytesMut;
use mqttbytes::v4;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// What is read up to the end, or until nothing more comes for a while.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(SOON, socket.read_to_end(&mut bytes)).await;
    bytes
}

/// Reads exactly this many.
async fn read(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = timeout(SOON, socket.read_exact(&mut bytes)).await;
    read.expect("in time").expect("enough");
    bytes
}

/// A socket after the upgrade.
async fn upgraded(port: &Port) -> TcpStream {
    let mut socket = port.socket().await;
    socket.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while head::length(&answer).is_none() {
        answer.extend(read(&mut socket, 1).await);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    socket
}

/// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0xa5, 0x5a, 0x3c, 0xc3];
    let length = u8::try_from(payload.len()).expect("a short one");
    let payload = payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k);
    let head = [first, 0x80 | length].into_iter().chain(key);
    head.chain(payload).collect()
}

fn connect(password: &str) -> Vec<u8> {
    let mut connect = v4::Connect::new("dev");
    connect.set_login("dev", password);
    let mut bytes = BytesMut::new();
    connect.write(&mut bytes).expect("CONNECT");
    bytes.to_vec()
}

#[tokio::test]
async fn every_request_is_answered_and_what_is_refused_is_counted_and_closed() {
    let port = open(Limits::default());
    for case in requests() {
        let before = port.ended(&case.reason);
        let mut socket = port.socket().await;
        socket.write_all(&case.bytes).await.unwrap();
        let answer = match case.status {
            101 => read(&mut socket, 12).await,
            _ => rest(&mut socket).await,
        };
        let line = format!("HTTP/1.1 {}", case.status);
        assert!(answer.starts_with(line.as_bytes()), "{}", case.name);
        if case.status != 101 {
            drop(socket);
            let counted = async {
                while port.ended(&case.reason) == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let counted = timeout(SOON, counted).await;
            assert!(counted.is_ok(), "{}: {}", case.name, case.reason);
        }
    }
    port.idle().await;
    assert_eq!(port.metrics.websocket.get(), 0);
}

#[tokio::test]
async fn every_frame_case_comes_to_its_end_at_a_live_port() {
    let port = open(Limits {
        connect_timeout: Duration::from_millis(500),
        ..Limits::default()
    });
    let mut words = Vec::new();
    for case in frames() {
        let mut socket = upgraded(&port).await;
        let _ = socket.write_all(&case.bytes).await;
        // What is data is no MQTT, so that the protocol closes first; the code alone has them.
        if !case.data.is_empty() {
            assert!(!rest(&mut socket).await.is_empty(), "{}", case.name);
            continue;
        }
        if let Some(pong) = &case.pong {
            let length = u8::try_from(pong.len()).expect("short");
            let expected = [&[0x8a, length], &pong[..]].concat();
            // Of two pings in one segment the newer one is answered; or each, in turn.
            let answer = read(&mut socket, expected.len()).await;
            assert_eq!(answer[..2], expected[..2], "{}", case.name);
        }
        let Some(end) = &case.end else { continue };
        let (code, word) = end.split_once(' ').unwrap_or((end, "peer_closed"));
        words.push(word.to_owned());
        let answer = rest(&mut socket).await;
        let code: u16 = code.parse().expect("a code");
        let [high, low] = code.to_be_bytes();
        let expected = match code {
            1005 => vec![0x88, 0],
            _ => vec![0x88, 2, high, low],
        };
        assert_eq!(answer, expected, "{}", case.name);
    }
    port.idle().await;
    for word in &words {
        let expected = words.iter().filter(|other| *other == word).count();
        assert!(port.ended(word) >= expected as u64, "{word}");
    }
}

#[tokio::test]
async fn a_device_over_websocket_has_the_session_of_any_other() {
    let port = open(Limits::default());
    let mut socket = upgraded(&port).await;
    assert_eq!(port.metrics.websocket.get(), 1);
    for byte in connect("right") {
        socket.write_all(&masked(0x82, &[byte])).await.unwrap();
    }
    assert_eq!(read(&mut socket, 6).await, [0x82, 4, 0x20, 2, 0, 0]);
    socket.write_all(&masked(0x02, &[0xc0])).await.unwrap();
    socket.write_all(&masked(0x89, b"hi")).await.unwrap();
    socket.write_all(&masked(0x80, &[0])).await.unwrap();
    let answers = read(&mut socket, 8).await;
    assert!(answers.windows(4).any(|four| four == b"\x8a\x02hi"));
    assert!(answers.windows(4).any(|four| four == b"\x82\x02\xd0\x00"));
    // DISCONNECT: Close 1000, and the client's own Close is heard.
    let disconnect = masked(0x82, &[0xe0, 0]);
    socket.write_all(&disconnect).await.unwrap();
    assert_eq!(read(&mut socket, 4).await, [0x88, 2, 0x03, 0xe8]);
    let close = masked(0x88, &[0x03, 0xe8]);
    socket.write_all(&close).await.unwrap();
    assert!(closed(&mut socket).await);
    port.idle().await;
    assert_eq!(port.ended("clean"), 1);
    assert_eq!(port.metrics.websocket.get(), 0);
}

#[tokio::test]
async fn a_refused_connect_is_answered_in_a_frame() {
    let port = open(Limits::default());
    let mut socket = upgraded(&port).await;
    let connect = masked(0x82, &connect("wrong"));
    socket.write_all(&connect).await.unwrap();
    let answer = rest(&mut socket).await;
    assert_eq!(answer, [0x82, 4, 0x20, 2, 0, 4, 0x88, 2, 0x03, 0xe8]);
    port.idle().await;
    assert_eq!(port.ended("bad_password"), 1);
}

#[tokio::test]
async fn a_text_frame_ends_a_session_and_the_device_is_told_why() {
    let port = open(Limits::default());
    let mut socket = upgraded(&port).await;
    let connect = masked(0x82, &connect("right"));
    socket.write_all(&connect).await.unwrap();
    assert_eq!(read(&mut socket, 6).await[..3], [0x82, 4, 0x20]);
    socket.write_all(&masked(0x81, b"hello")).await.unwrap();
    assert_eq!(rest(&mut socket).await, [0x88, 2, 0x03, 0xeb]);
    port.idle().await;
    assert_eq!(port.ended("websocket_text"), 1);
}

#[tokio::test]
async fn a_slow_upgrade_is_ended_by_the_deadline_of_connect() {
    let port = open(Limits {
        connect_timeout: SHORT,
        ..Limits::default()
    });
    let mut socket = port.socket().await;
    for byte in REQUEST.bytes().take(40) {
        if socket.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(SHORT / 10).await;
    }
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    port.idle().await;
    assert_eq!(port.ended("upgrade_timeout"), 1);
}

#[tokio::test]
async fn frames_that_carry_nothing_keep_no_deadline_from_being_seen() {
    let port = open(Limits {
        connect_timeout: SHORT,
        ..Limits::default()
    });
    // Pongs nobody asked for, and the empty fragments of one message.
    for (first, next) in [(0x8a, 0x8a), (0x02, 0x00)] {
        let mut socket = upgraded(&port).await;
        socket.write_all(&masked(first, b"")).await.unwrap();
        let flood = masked(next, b"").repeat(4000);
        let endless = async { while socket.write_all(&flood).await.is_ok() {} };
        let ended = timeout(SOON, endless).await;
        assert!(ended.is_ok(), "the connection goes on");
    }
    port.idle().await;
    assert_eq!(port.ended("connect_timeout"), 2);
}

#[tokio::test]
async fn an_endless_request_is_cut_at_the_bound() {
    let port = open(Limits::default());
    let mut socket = port.socket().await;
    socket.write_all(b"GET /mqtt HTTP/1.1\r\n").await.unwrap();
    let field = [&b"X: "[..], &[b'a'; 1000], b"\r\n"].concat();
    while socket.write_all(&field).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if port.ended("upgrade_too_large") > 0 {
            break;
        }
    }
    port.idle().await;
    assert_eq!(port.ended("upgrade_too_large"), 1);
}

#[tokio::test]
async fn frames_before_the_answer_are_too_early() {
    let port = open(Limits::default());
    let mut socket = port.socket().await;
    let early = [REQUEST.as_bytes(), &masked(0x82, &connect("right"))].concat();
    socket.write_all(&early).await.unwrap();
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "));
    port.idle().await;
    assert_eq!(port.ended("upgrade_malformed"), 1);
}

#[tokio::test]
async fn what_only_begins_like_http_is_refused_at_once() {
    let port = open(Limits::default());
    // PUBREC's first byte is a P; a request is asked for no more than its method.
    for bytes in [&b"P\x80\x80\x80\x64"[..], b"GEX"] {
        let mut socket = port.socket().await;
        socket.write_all(bytes).await.unwrap();
        let answer = rest(&mut socket).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 ") || answer.is_empty());
    }
    // What differs in the first byte is MQTT that breaks a rule.
    let mut socket = port.socket().await;
    socket.write_all(b"P\x80").await.unwrap();
    assert!(closed(&mut socket).await);
    port.idle().await;
    let ended = [
        "first_packet_not_connect",
        "fixed_header_flags",
        "upgrade_malformed",
    ];
    let total: u64 = ended.iter().map(|reason| port.ended(reason)).sum();
    assert_eq!(total, 3);
}
