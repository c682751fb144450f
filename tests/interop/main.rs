//! Outside clients: the official device SDK, and every command the demo prints, run as printed.
//! Built only with `--features interop`, since the clients must be installed; `tests/run` does.
#![cfg(feature = "interop")]

mod haproxy;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/process.rs"]
mod process;
mod service;
mod websocket;

use process::free_port;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A running demo and the lines it prints.
struct Demo {
    process: Child,
    lines: Receiver<String>,
    control: SocketAddr,
    admin: SocketAddr,
    dir: PathBuf,
}

impl Demo {
    fn start(name: &str, mqtt_port: u16) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        let (control, admin) = (free_port(), free_port());
        let mut process = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .arg("demo")
            .arg(format!("--dir={}", dir.display()))
            .arg(format!("--mqtt-port={mqtt_port}"))
            .arg(format!("--amqp-port={}", free_port()))
            .arg(format!("--control-port={control}"))
            .arg(format!("--admin-port={admin}"))
            .current_dir(root())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let output = process.stdout.take().expect("piped");
        let (sender, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            process,
            lines,
            control: local(control),
            admin: local(admin),
            dir,
        }
    }

    /// The printed lines up to the first that contains `text`.
    fn until(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {text:?} after:\n{}", seen.join("\n")));
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("exec timeout 30 {}", env_first(command))])
        .current_dir(root());
    shell
}

/// `VAR=x cmd` under `timeout` needs `env`.
fn env_first(command: &str) -> String {
    if command.starts_with("OPENSSL_CONF=") {
        format!("env {command}")
    } else {
        command.to_owned()
    }
}

/// 3.1.1 is what the demo's commands speak; 3.1 and 5 by the same client.
fn publishes_in_every_version(commands: &[String]) {
    let by_psk = commands.iter().find(|c| c.contains("--psk-identity"));
    for version in ["mqttv31", "mqttv5"] {
        let versioned = format!(" -V {version} -m ");
        let command = by_psk.expect("offered").replace(" -m ", &versioned);
        let output = shell(&command).output().expect("sh runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}\n{errors}");
    }
}

/// A wrong key is a line of the demo, and the command it offers for that says why.
fn a_refused_device_is_shown_and_explained(demo: &Demo, head: &[String]) {
    let of = |what: &str| {
        let found = head.iter().find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what}")).trim()
    };
    let (before, key) = of("--psk-identity").split_once("--psk ").expect("a key");
    let (_, after) = key.split_once(' ').expect("more");
    let wrong = format!("{before}--psk 00112233445566778899aabbccddeeff {after}");
    assert!(!shell(&wrong).output().expect("sh runs").status.success());
    let line = demo.until("refused psk:thermo-1: psk_wrong_key; ");
    assert!(line.last().expect("seen").contains("compare the key"));
    let explain = shell(of(" explain thermo-1")).output().expect("sh runs");
    let text = String::from_utf8_lossy(&explain.stdout).into_owned();
    assert!(text.contains("psk_wrong_key"), "{text}");
    let page = format!("http://{}/", demo.admin);
    assert!(of("status page").ends_with(&page));
}

#[test]
fn every_command_the_demo_prints_works_as_printed() {
    let demo = Demo::start("demo-commands", free_port());
    let mut head = demo.until("Messages as the hub accepts them");
    head.extend(demo.until("sim-1"));
    let commands: Vec<String> = head
        .iter()
        .map(|line| line.trim().to_owned())
        .filter(|line| {
            ["mosquitto_", "OPENSSL_CONF=", "curl "]
                .iter()
                .any(|c| line.starts_with(c))
        })
        .collect();
    assert_eq!(commands.len(), 7, "{commands:#?}");

    let publishes = commands.iter().filter(|c| c.contains("mosquitto_pub"));
    let mut bodies = 0;
    for command in publishes {
        let output = shell(command).output().expect("sh runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}\n{errors}");
        let body = command
            .rsplit("-m '")
            .next()
            .and_then(|b| b.strip_suffix('\''))
            .expect("-m");
        demo.until(body);
        bodies += 1;
    }
    assert_eq!(bodies, 5);
    let metrics = http::get(demo.admin, "/metrics");
    for version in ["tls_version=\"1.2\"", "tls_version=\"1.3\""] {
        let labels = ["credential=\"psk\"", version, "result=\"ok\""];
        let count = http::metric(&metrics, "iothub_gateway_handshakes_total", &labels);
        assert_eq!(count, 1.0, "{version}:\n{metrics}");
    }

    a_refused_device_is_shown_and_explained(&demo, &head);
    publishes_in_every_version(&commands);
    let subscribe = commands
        .iter()
        .find(|c| c.contains("mosquitto_sub"))
        .expect("offered");
    let command = format!("{subscribe} -C 1");
    let mut subscriber = shell(&command)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let send = commands
        .iter()
        .find(|c| c.starts_with("curl "))
        .expect("offered");
    let sent = shell(send).output().expect("sh runs");
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    let status = subscriber.wait().expect("ended");
    let mut text = String::new();
    let mut output = subscriber.stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut output, &mut text).expect("text");
    assert!(
        status.success() && text.contains("open the valve"),
        "{text}"
    );
    assert!(text.contains("unit=percent"), "{text}");
}

#[test]
fn the_official_python_sdk_has_telemetry_its_twin_commands_and_methods() {
    let demo = Demo::start("demo-sdk", 8883); // the SDK knows no other port
    demo.until("sim-1");
    the_sdk_has_all(&demo, &[], || ());
}

/// Telemetry, twin, commands and methods of the SDK; `connected` is called while it is.
fn the_sdk_has_all(demo: &Demo, more: &[&str], connected: impl FnOnce()) {
    let twin = "/devices/pump-3/twin";
    let interval = |interval: u32| {
        let patch = serde_json::json!({"properties": {"desired": {"interval": interval}}});
        let patched = http::request(demo.control, "PATCH", twin, &patch.to_string());
        assert_eq!(patched.0, 200, "{}", patched.1);
    };
    interval(5);
    let devices = std::fs::read_to_string(demo.dir.join("devices.toml")).expect("samples");
    let devices: toml::Table = devices.parse().expect("TOML");
    let mut sdk = Command::new(root().join("target/interop/bin/python"))
        .arg(root().join("tests/interop/sdk.py"))
        .args(["demo.azure-devices.net", "pump-3"])
        .arg(demo.dir.join("ca.pem"))
        .args(more)
        .env("DEVICE_KEY", devices["sas_key"].as_str().expect("a key"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs; tests/run installs it");
    let mut lines = BufReader::new(sdk.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "sent");
    connected();

    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "twin 5");
    let reported: Value = serde_json::from_str(&http::get(demo.control, twin)).expect("JSON");
    assert_eq!(reported["properties"]["reported"]["a"], 5);
    interval(9);
    assert_eq!(line(), "desired 9 3");

    let path = "/messages?device=pump-3&after=0&limit=1000";
    let ledger: Value = serde_json::from_str(&http::get(demo.control, path)).expect("JSON");
    let messages = ledger.as_array().expect("messages");
    assert_eq!(messages.len(), 100);
    for (number, message) in messages.iter().enumerate() {
        assert_eq!(message["properties"]["number"], number.to_string());
        assert_eq!(message["properties"]["text"], "a b&c=d/ä");
        assert_eq!(message["system"]["message-id"], format!("sdk-{number}"));
        assert_eq!(message["system"]["content-type"], "application/json");
    }
    let path = "/devices/pump-3/commands?unit=percent";
    let (status, answer) = http::request(demo.control, "POST", path, "open");
    assert!((200..300).contains(&status), "{answer}");
    assert_eq!(line(), "command open percent");
    let path = "/devices/pump-3/methods/blink?response=10s";
    let answered = http::request(demo.control, "POST", path, "{\"times\":3}");
    let payload = serde_json::json!({"name": "blink", "got": {"times": 3}});
    let expected = serde_json::json!({"status": 202, "payload": payload});
    let answer: Value = serde_json::from_str(&answered.1).expect("JSON");
    assert_eq!((answered.0, answer), (200, expected));
    assert_eq!(line(), "done True", "nobody hung up");
    assert!(sdk.wait().expect("ended").success());
}
