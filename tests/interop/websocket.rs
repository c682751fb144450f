//! MQTT over WebSocket by clients that are not ours: the official device SDK, and npm's `mqtt`.

use super::{Demo, free_port, http, root};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A client under test and what it prints.
struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs; tests/run installs it");
        let output = process.stdout.take().expect("piped");
        let lines = BufReader::new(output).lines();
        Self { process, lines }
    }

    /// Reads up to this line.
    fn says(&mut self, line: &str) {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        assert!(lines.any(|said| said == line), "it never said {line:?}");
    }

    fn ends(mut self) {
        assert!(self.process.wait().expect("ended").success());
    }
}

fn samples(demo: &Demo) -> toml::Table {
    let text = std::fs::read_to_string(demo.dir.join("devices.toml")).expect("samples");
    text.parse().expect("TOML")
}

fn accepted(demo: &Demo, device: &str) -> Vec<Value> {
    let path = format!("/messages?device={device}&after=0&limit=1000");
    let ledger = http::get(demo.control, &path);
    serde_json::from_str(&ledger).expect("JSON")
}

fn command(demo: &Demo, device: &str) {
    let path = format!("/devices/{device}/commands?unit=percent");
    let (status, answer) = http::request(demo.control, "POST", &path, "open");
    assert!((200..300).contains(&status), "{answer}");
}

fn over_websocket(demo: &Demo) -> f64 {
    let metrics = http::get(demo.admin, "/metrics");
    http::metric(&metrics, "iothub_gateway_websocket_connections", &[])
}

/// The SDK knows no other port than 443, and may bind it in a container or as root.
#[test]
fn the_official_python_sdk_works_over_websocket() {
    let demo = Demo::start("demo-sdk-websocket", 443);
    demo.until("sim-1");
    super::the_sdk_has_all(&demo, &["websockets"], || {
        assert_eq!(over_websocket(&demo), 1.0);
    });
}

#[test]
fn npm_mqtt_works_over_wss_in_both_versions() {
    let port = free_port();
    let demo = Demo::start("demo-wss", port);
    demo.until("sim-1");
    let password = samples(&demo)["password"].clone();
    for version in ["4", "5"] {
        let mut node = Command::new("node");
        node.arg(root().join("tests/interop/wss.js"))
            .arg(format!("wss://localhost:{port}/mqtt"))
            .args(["valve-9", version])
            .arg(demo.dir.join("ca.pem"))
            .env("NODE_PATH", root().join("target/interop/node/node_modules"))
            .env("PASSWORD", password.as_str().expect("a password"));
        let mut node = Client::start(node);
        node.says("sent");
        command(&demo, "valve-9");
        node.says("command open");
        node.says("done");
        node.ends();
    }
    let messages = accepted(&demo, "valve-9");
    let sizes: Vec<_> = messages.iter().map(|m| m["size"].as_u64()).collect();
    let once = [1, 125, 126, 5_000, 70_000, 200_000].map(Some);
    assert_eq!(sizes, [once, once].concat(), "in order, each once");
}
