//! The PROXY protocol at a live port: the cases of `tests/data/proxy`, strangers, deadlines.

use super::port::{Port, SHORT, SOON, closed, open, open_behind};
use crate::config::limits::Limits;
use crate::listener::proxy::header::tests::headers;
use mqttbytes::v4::ConnectReturnCode;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const HERE: &[&str] = &["127.0.0.0/8"];
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 8883\r\n";

/// Where the one device that is connected comes from.
fn source(port: &Port) -> Option<IpAddr> {
    let mut found = None;
    let registry = port.shared.registry();
    registry.each(|_, device, _| found = Some(device.came_by().1));
    found
}

async fn counted(port: &Port, reason: &str, times: u64) {
    let counted = async {
        while port.ended(reason) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(SOON, counted).await.is_ok(), "{reason}");
}

#[tokio::test]
async fn every_header_is_taken_or_refused_for_its_reason() {
    let port = open_behind(Limits::default(), HERE);
    for case in headers() {
        let refused = |reason: &str| port.ended(reason);
        let before = case.expected.as_ref().err().map(|reason| refused(reason));
        let (mut socket, answer) = port.connect_after(&case.bytes, "right").await;
        match &case.expected {
            Ok(_) => {
                assert_eq!(answer, Some(ConnectReturnCode::Success), "{}", case.name);
                socket.write_all(&[0xe0, 0]).await.unwrap();
                assert!(closed(&mut socket).await);
            }
            Err(reason) => {
                assert_eq!(answer, None, "{}", case.name);
                counted(&port, reason, before.unwrap_or_default() + 1).await;
            }
        }
    }
    port.idle().await;
}

#[tokio::test]
async fn an_address_that_is_named_is_the_source_of_all_that_is_counted_by_it() {
    let limits = Limits {
        connections_per_source: 1,
        ..Limits::default()
    };
    let port = open_behind(limits, HERE);
    let (_first, answer) = port.connect_after(HEADER, "right").await;
    assert_eq!(answer, Some(ConnectReturnCode::Success));
    assert_eq!(source(&port), Some([192, 0, 2, 7].into()));
    // A second one from there is one too many; the proxy's address is not what counts.
    let (_second, answer) = port.connect_after(HEADER, "right").await;
    assert_eq!(answer, None);
    counted(&port, "limit_connections_per_source", 1).await;
    let other = b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n";
    let (_third, answer) = port.connect_after(other, "wrong").await;
    assert_eq!(answer, Some(ConnectReturnCode::BadUserNamePassword));
}

#[tokio::test]
async fn a_proxys_own_connection_is_its_own() {
    let port = open_behind(Limits::default(), HERE);
    let (_socket, answer) = port.connect_after(b"PROXY UNKNOWN\r\n", "right").await;
    assert_eq!(answer, Some(ConnectReturnCode::Success));
    assert_eq!(source(&port), Some([127, 0, 0, 1].into()));
}

#[tokio::test]
async fn a_stranger_is_not_believed_and_not_served() {
    let port = open_behind(Limits::default(), &["10.0.0.0/8", "::1"]);
    for head in [HEADER, &[]] {
        let mut socket = port.socket().await;
        let _ = socket.write_all(head).await;
        assert!(closed(&mut socket).await);
    }
    counted(&port, "proxy_untrusted", 2).await;
    port.idle().await;
}

#[tokio::test]
async fn a_header_nobody_asked_for_is_named() {
    let port = open(Limits::default());
    for head in [HEADER, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"] {
        let mut socket = port.socket().await;
        socket.write_all(head).await.unwrap();
        assert!(closed(&mut socket).await);
    }
    counted(&port, "proxy_unexpected", 2).await;
    port.idle().await;
}

#[tokio::test]
async fn a_slow_header_has_a_deadline_and_a_cut_one_an_end() {
    let limits = Limits {
        hello_timeout: SHORT,
        ..Limits::default()
    };
    let port = open_behind(limits, HERE);
    let mut slow = port.socket().await;
    for byte in HEADER {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(SHORT / 20).await;
    }
    assert!(closed(&mut slow).await);
    counted(&port, "proxy_timeout", 1).await;
    let mut cut = port.socket().await;
    cut.write_all(&HEADER[..20]).await.unwrap();
    drop(cut);
    counted(&port, "peer_closed", 1).await;
    port.idle().await;
}

#[tokio::test]
async fn a_header_in_single_bytes_is_read_like_any_other() {
    let port = open_behind(Limits::default(), HERE);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x22\xb3";
    for head in [HEADER, v2] {
        let mut socket = port.socket().await;
        socket.set_nodelay(true).unwrap();
        for byte in head.iter().chain(&[0x10]) {
            socket.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(socket);
    }
    counted(&port, "peer_closed", 2).await;
    port.idle().await;
}

#[tokio::test]
async fn as_many_headers_are_awaited_as_handshakes_are_allowed() {
    let limits = Limits {
        handshakes: 2,
        ..Limits::default()
    };
    let port = open_behind(limits, HERE);
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(port.socket().await);
    }
    let mut one_more = port.socket().await;
    assert!(closed(&mut one_more).await);
    counted(&port, "limit_handshakes", 1).await;
    drop(silent);
    port.idle().await;
}
