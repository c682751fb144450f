//! Devices behind HAProxy: both versions of the PROXY protocol, its health checks, and a stranger.

use super::{Demo, free_port, http, root};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Of 50 ms each.
const TRIES: usize = 600;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..TRIES {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}");
}

/// A gateway at the demo's hub whose listener trusts 127.0.0.1 as a proxy; its ports and log.
fn gateway(demo: &Demo) -> (Running, u16, SocketAddr, PathBuf) {
    let text = std::fs::read_to_string(demo.dir.join("gateway.toml")).expect("the demo's");
    let (mqtt, admin) = (free_port(), free_port());
    let lines = text.lines().map(|line| match line {
        bind if bind == format!("bind = \"{}\"", demo.admin) => {
            format!("bind = \"127.0.0.1:{admin}\"")
        }
        bind if bind.starts_with("bind = ") => {
            format!("bind = \"127.0.0.1:{mqtt}\"\nproxy_protocol = [\"127.0.0.1\"]")
        }
        other => other.to_owned(),
    });
    let path = demo.dir.join("behind.toml");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("written");
    let log = demo.dir.join("behind.log");
    let file = std::fs::File::create(&log).expect("made");
    let run = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
        .args(["run", "-c"])
        .arg(&path)
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("the gateway starts");
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    let running = Running(run);
    until("the gateway is ready", || {
        TcpStream::connect(admin).is_ok() && http::request(admin, "GET", "/ready", "").0 == 200
    });
    (running, mqtt, admin, log)
}

/// HAProxy in front of `port`, speaking the header `send`; its own port.
fn haproxy(demo: &Demo, port: u16, send: &str, check: &str) -> (Running, u16) {
    let front = free_port();
    let config = format!(
        "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\nfrontend devices\n  bind 127.0.0.1:{front}\n  \
         default_backend gateways\nbackend gateways\n  \
         server one 127.0.0.1:{port} {send} check inter 200ms {check}\n"
    );
    let path = demo.dir.join(format!("haproxy-{send}.cfg"));
    std::fs::write(&path, config).expect("written");
    let path_of = std::env::var("PATH").unwrap_or_default();
    let run = Command::new("haproxy")
        .env("PATH", format!("{path_of}:/usr/sbin"))
        .args(["-db", "-f"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("haproxy runs; tests/run installs it");
    let running = Running(run);
    until("HAProxy listens", || {
        TcpStream::connect(("127.0.0.1", front)).is_ok()
    });
    (running, front)
}

fn publish(demo: &Demo, port: u16, from: &str, body: &str) -> bool {
    let text = std::fs::read_to_string(demo.dir.join("devices.toml")).expect("samples");
    let samples: toml::Table = text.parse().expect("TOML");
    let mut publish = Command::new("timeout");
    publish
        .args([
            "20",
            "mosquitto_pub",
            "-h",
            "localhost",
            "-p",
            &port.to_string(),
        ])
        .args([
            "-A",
            from,
            "-i",
            "thermo-1",
            "--psk-identity",
            "thermo-1",
            "--psk",
        ])
        .arg(samples["psk_hex"].as_str().expect("a key"))
        .args([
            "-t",
            "devices/thermo-1/messages/events/",
            "-q",
            "1",
            "-m",
            body,
        ])
        .current_dir(root());
    publish.status().expect("runs").success()
}

#[test]
fn behind_haproxy_the_source_is_whom_it_names() {
    let demo = Demo::start("demo-haproxy", free_port());
    demo.until("sim-1");
    let (_gateway, port, admin, log) = gateway(&demo);
    let ways = [("send-proxy-v2", "127.0.0.2"), ("send-proxy", "127.0.0.3")];
    for (send, from) in ways {
        let (_haproxy, front) = haproxy(&demo, port, send, "");
        assert!(publish(&demo, front, from, send), "{send}");
        demo.until(send);
        let connected = || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let line = log.lines().find(|line| {
                line.contains("device_connected") && line.contains(&format!("{from}:"))
            });
            line.is_some_and(|line| line.contains("thermo-1"))
        };
        until("the log names the source", connected);
    }
    // HAProxy's health checks are its own connections: no header of theirs was refused.
    let metrics = http::get(admin, "/metrics");
    let ended = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        http::metric(&metrics, "iothub_gateway_disconnects_total", &[&label])
    };
    assert!(ended("peer_closed") > 0.0, "health checks were seen");
    for reason in [
        "proxy_malformed",
        "proxy_address",
        "proxy_timeout",
        "proxy_untrusted",
    ] {
        assert_eq!(ended(reason), 0.0, "{reason}");
    }
    // From elsewhere the same header is worth nothing.
    let stranger = socket_from([127, 0, 0, 9], port);
    let mut stranger = stranger.expect("connected");
    let _ = stranger.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n");
    until("the stranger is counted", || {
        let metrics = http::get(admin, "/metrics");
        let label = ["reason=\"proxy_untrusted\""];
        http::metric(&metrics, "iothub_gateway_disconnects_total", &label) == 1.0
    });
    assert!(!publish(&demo, port, "127.0.0.1", "direct"), "no header");
}

/// A connection from this address.
fn socket_from(from: [u8; 4], port: u16) -> std::io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    Ok(socket.into())
}
