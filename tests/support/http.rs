//! One HTTP/1.1 request over a socket, and metrics out of its answer.
#![allow(dead_code)] // each test binary uses its part

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("server listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("socket option");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status");
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    (
        status,
        if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
    )
}

/// `/ready`: status and body; 0 and nothing while the port is closed.
pub async fn ready(admin: SocketAddr) -> (u16, Value) {
    let ask = move || {
        let up = TcpStream::connect(admin).is_ok();
        up.then(|| request(admin, "GET", "/ready", ""))
    };
    let asked = tokio::task::spawn_blocking(ask).await.expect("asked");
    let (status, text) = asked.unwrap_or_default();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Waits until `/ready` answers with this status.
pub async fn until_ready(admin: SocketAddr, status: u16) {
    let says = async {
        while ready(admin).await.0 != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(30), says).await;
    assert!(said.is_ok(), "/ready never says {status}");
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// `GET`, 200 expected.
pub fn get(address: SocketAddr, path: &str) -> String {
    let (status, body) = request(address, "GET", path, "");
    assert_eq!(status, 200, "GET {path}: {body}");
    body
}

/// The sum of all series of `name` whose labels contain every text of `labels`.
pub fn metric(exposition: &str, name: &str, labels: &[&str]) -> f64 {
    exposition
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()))
        .sum()
}
