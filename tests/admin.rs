//! The operators' port, spoken to in raw bytes.

#![allow(clippy::unwrap_used)] // a failed step of a test is a failed test

#[path = "admin/tls.rs"]
mod tls;

use iothub_gateway::admin::api::view::Refusal;
use iothub_gateway::admin::{
    AdminHandle, AdminLimits, Readiness, Served, Status, bind, spawn_thread, spawn_thread_with,
};
use iothub_gateway::runtime::clock;
use iothub_gateway::telemetry::metrics::Metrics;
use std::io::ErrorKind::WouldBlock;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn not_ready() -> Readiness {
    Readiness {
        ready: false,
        phase: "NotReady",
        reason: "no hub connection holds a token".to_owned(),
        hub_connections: 0,
        token_expires_in_s: None,
        hub_refuses: Vec::new(),
    }
}

fn ready() -> Readiness {
    Readiness {
        ready: true,
        phase: "Ready",
        reason: String::new(),
        hub_connections: 2,
        token_expires_in_s: Some(3_000),
        hub_refuses: Vec::new(),
    }
}

fn degraded() -> Readiness {
    Readiness {
        reason: "throttled: the hub throttles; send less".to_owned(),
        hub_refuses: vec![Refusal {
            cause: "throttled".into(),
            code: "429001".into(),
            says: "the hub throttles".into(),
            fix: "send less".into(),
            count: 7,
            lasts_s: 61,
        }],
        ..ready()
    }
}

fn start(status: Status, limits: AdminLimits) -> AdminHandle {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let served = Served {
        metrics: Arc::new(Metrics::new()),
        status,
        api: None,
        tls: None,
    };
    spawn_thread_with(listener, served, limits).unwrap()
}

fn server() -> AdminHandle {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    spawn_thread(listener, Arc::new(Metrics::new()), Arc::new(not_ready)).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the server closes; a reset counts as closed.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server did not close: {e}"),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    rest(&mut stream)
}

fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn metrics_are_prometheus_text() {
    let server = server();
    let answer = get(server.local_addr(), "/metrics?x=1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(
        body(&answer).contains("iothub_gateway_build_info{"),
        "{answer}"
    );
    server.stop();
}

#[test]
fn live_answers_whatever_the_upstream_does() {
    let server = server();
    let answer = get(server.local_addr(), "/live");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "ok\n");
    server.stop();
}

#[test]
fn ready_says_503_and_why_until_it_says_200() {
    let up = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&up);
    let status: Status = Arc::new(move || match seen.load(Ordering::SeqCst) {
        true => ready(),
        false => not_ready(),
    });
    let server = start(status, AdminLimits::default());
    let answer = get(server.local_addr(), "/ready");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("content-type: application/json"),
        "{answer}"
    );
    let json: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["phase"], "NotReady");
    assert_eq!(json["hub_connections"], 0);
    assert_eq!(json["token_expires_in_s"], serde_json::Value::Null);
    assert!(json["reason"].as_str().unwrap().contains("token"));
    assert_eq!(json["status"], "unavailable");

    up.store(true, Ordering::SeqCst);
    let answer = get(server.local_addr(), "/ready");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let json: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["token_expires_in_s"], 3_000);
    assert_eq!(json["status"], "ready");
    server.stop();
}

#[test]
fn a_hub_that_refuses_something_is_told_while_devices_can_be_served() {
    let server = start(Arc::new(degraded), AdminLimits::default());
    let answer = get(server.local_addr(), "/ready");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let json: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["status"], "degraded");
    assert!(json["reason"].as_str().unwrap().contains("throttled"));
    assert_eq!(json["hub_refuses"][0]["code"], "429001");
    assert_eq!(json["hub_refuses"][0]["count"], 7);
    server.stop();
}

#[test]
fn only_get_and_head_are_answered() {
    let server = server();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let request = format!("{method} /live HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let answer = ask(server.local_addr(), &request);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    }
    let answer = ask(
        server.local_addr(),
        "HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-length: 3"), "{answer}");
    assert_eq!(body(&answer), "", "HEAD has no body");
    server.stop();
}

#[test]
fn an_unknown_path_lists_the_known_ones() {
    let server = server();
    for path in ["/index.html", "/metric", "/ready/", "/../live", "/%2e/live"] {
        let answer = get(server.local_addr(), path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert_eq!(
            body(&answer),
            "no such path; there are /, /live, /metrics, /ready, /api/v1/openapi.json\n"
        );
    }
    server.stop();
}

#[test]
fn what_is_no_http_1_is_refused() {
    let server = server();
    let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [
        "\x16\x03\x01\x02\x00 hello\r\n\r\n",
        http2,
        "GET\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ] {
        let answer = ask(server.local_addr(), bytes);
        assert!(!answer.contains("200 OK"), "{bytes:?}: {answer}");
    }
    assert!(
        get(server.local_addr(), "/live").ends_with("ok\n"),
        "it still serves"
    );
    server.stop();
}

#[test]
fn large_headers_are_refused_and_small_ones_are_not() {
    let server = server();
    let with = |header: String| format!("GET /live HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    let fits = ask(
        server.local_addr(),
        &with(format!("X: {}\r\n", "a".repeat(7 * 1024))),
    );
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let large = ask(
        server.local_addr(),
        &with(format!("X: {}\r\n", "a".repeat(9 * 1024))),
    );
    assert!(!large.contains("200 OK"), "{large}");
    let many = ask(server.local_addr(), &with("a: b\r\n".repeat(100)));
    assert!(!many.contains("200 OK"), "{many}");
    let mut path = connect(server.local_addr());
    // The server may stop reading before all of it is written.
    let _ = path.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)).as_bytes());
    assert!(!rest(&mut path).contains("200 OK"));
    server.stop();
}

#[test]
fn a_slow_header_and_an_idle_connection_are_closed_in_time() {
    let limits = AdminLimits {
        request_timeout: Duration::from_millis(300),
        ..AdminLimits::default()
    };
    let server = start(Arc::new(not_ready), limits);
    let began = clock::mono();
    let mut idle = connect(server.local_addr());
    let mut slow = connect(server.local_addr());
    let mut trickle = connect(server.local_addr());
    slow.write_all(b"GET /live HTTP/1.1\r\nHost:").unwrap();
    // One byte at a time does not extend the deadline: writing fails when the server has closed.
    let mut wrote = trickle.write_all(b"GET /live HTTP/1.1\r\n");
    trickle
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    while wrote.is_ok() {
        assert!(
            clock::mono().since(began) < PATIENCE,
            "trickling kept the connection"
        );
        match trickle.read(&mut [0; 256]) {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {}
            _ => break,
        }
        wrote = trickle.write_all(b"a");
    }
    assert!(!rest(&mut slow).contains("200 OK"));
    assert!(!rest(&mut idle).contains("200 OK"));
    assert!(clock::mono().since(began) >= limits.request_timeout);
    server.stop();
}

#[test]
fn pipelined_requests_get_one_answer_and_the_end() {
    let server = server();
    let requests = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
    let mut stream = connect(server.local_addr());
    let _ = stream.write_all(requests.as_bytes());
    let answer = rest(&mut stream);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    server.stop();
}

#[test]
fn a_connection_beyond_the_bound_waits_for_its_turn() {
    let limits = AdminLimits {
        // Slots are freed below by hand, not by this.
        request_timeout: PATIENCE * 10,
        ..AdminLimits::default()
    };
    assert_eq!(limits.connections, 32);
    let server = start(Arc::new(not_ready), limits);
    let address = server.local_addr();
    let mut held: Vec<_> = (0..limits.connections).map(|_| connect(address)).collect();
    for stream in &mut held {
        stream
            .write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n")
            .unwrap();
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || {
        let mut stream = connect(address);
        stream
            .write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        sender.send(rest(&mut stream)).unwrap();
    });
    let early = receiver.recv_timeout(Duration::from_millis(300));
    assert!(
        early.is_err(),
        "served while all places were taken: {early:?}"
    );
    let mut first = held.remove(0);
    first.write_all(b"\r\n").unwrap();
    assert!(rest(&mut first).ends_with("ok\n"));
    let late = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(late.ends_with("ok\n"), "{late}");
    waiting.join().unwrap();
    for mut stream in held {
        stream.write_all(b"\r\n").unwrap();
        assert!(
            rest(&mut stream).ends_with("ok\n"),
            "those who held a place are served too"
        );
    }
    server.stop();
}

#[test]
fn stopping_frees_the_port_and_a_port_in_use_is_named() {
    let server = server();
    let address = server.local_addr();
    let error = bind(address).unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("[admin]"),
        "{error}"
    );
    server.stop();
    assert!(bind(address).is_ok());
}

#[test]
fn a_crowd_of_slow_connections_does_not_keep_the_probes_waiting() {
    let server = server();
    let address = server.local_addr();
    let stop = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(address);
                    let _ = stream.write_all(b"GET /live HTTP/1.1\r\nHost: ");
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                    // Until it is dropped, or a letter more every now and then.
                    while !stop.load(Ordering::Relaxed)
                        && matches!(stream.read(&mut [0]), Err(e) if e.kind() == WouldBlock)
                        && stream.write_all(b"x").is_ok()
                    {}
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for path in ["/live", "/ready"].repeat(5) {
        let asked = clock::mono();
        let answer = get(address, path);
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer:?}");
        let took = clock::mono().since(asked);
        assert!(took < Duration::from_secs(4), "{path}: {took:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for thread in crowd {
        thread.join().unwrap();
    }
    server.stop();
}
