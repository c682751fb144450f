//! The log of a gateway process: every line is read by a parser, and nobody waits for a reader.

use crate::support::device::{Device, Transport, Who};
use crate::support::process::{Process, free_port, signal};
use crate::support::{
    Options, PASSWORD, amqps_port, gateway_toml, http, hub_in, logfmt, scratch, secret,
};
use iothub_gateway::emulator::EmulatorHandle;
use serde_json::{Map, Value};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Everything every library has to say.
const ALL: &str = "trace,fe2o3_amqp=trace,rustls=trace,hyper=trace,mio=trace";
const HOSTILE: &[&str] = &[
    "a b=\"c\" level=error",
    "\\\" \u{202e}gnp.exe",
    "x\r\nts=1 level=error msg=forged",
    "\x1b]0;title\x07",
    "=",
    "Größe \u{1f600}",
];

pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    emulator: EmulatorHandle,
    mqtt: SocketAddr,
    pub(super) plain: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Stage {
    pub(super) async fn new(name: &str, log: &str) -> Self {
        let (options, dir) = (Options::default(), scratch(name));
        let emulator = hub_in(&dir, &options).await;
        let ports = [free_port(), free_port(), free_port()];
        let text = gateway_toml(
            &options,
            amqps_port(&emulator),
            ports[0],
            ports[1],
            ports[2],
        );
        let config = dir.join("gateway.toml");
        std::fs::write(&config, format!("{text}[log]\n{log}\n")).expect("written");
        let [mqtt, plain, admin] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self {
            dir,
            config,
            emulator,
            mqtt,
            plain,
            admin,
        }
    }

    pub(super) async fn ready(&self) {
        http::until_ready(self.admin, 200).await;
    }
}

pub(super) async fn until(what: &str, is_so: impl Fn() -> bool + Clone + Send + 'static) {
    for _ in 0..600 {
        let is_so = is_so.clone();
        if tokio::task::spawn_blocking(is_so).await.expect("asked") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn pass_1() -> Who {
    Who::login("pass-1", "pass-1", PASSWORD)
}

const TOPIC: &str = "devices/pass-1/messages/events/";

async fn publish(device: &mut Device, text: &str) {
    device
        .publish(TOPIC, text.as_bytes())
        .await
        .expect("PUBACK");
}

/// Everything that makes a gateway speak, with texts that would like to be lines of their own.
async fn eventful(stage: Stage, log: &Path, gateway: Process) {
    stage.ready().await;
    let mut device = Device::connect(stage.plain, &Transport::Plain, &pass_1()).await;
    publish(&mut device, "x").await;
    for text in HOSTILE {
        let identity = (*text).to_owned();
        let key = b"0123456789abcdef".to_vec();
        let (who, tls13) = (Who::login(text, text, text), text.len() % 2 == 0);
        let psk = Transport::Psk {
            identity,
            key,
            tls13,
        };
        let _ = Device::try_connect(stage.mqtt, &psk, &who).await;
        let _ = Device::try_connect(stage.plain, &Transport::Plain, &who).await;
        let mut raw = tokio::net::TcpStream::connect(stage.mqtt)
            .await
            .expect("open");
        raw.write_all(text.as_bytes()).await.expect("written");
    }
    let said = |words: &'static str| {
        let log = log.to_owned();
        move || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(words))
    };
    let rules = stage.dir.join("rules.toml");
    let good = std::fs::read_to_string(&rules).expect("rules");
    std::fs::write(
        &rules,
        format!("{good}\n[[device]]\nid = \"a b=\\\"c\\\"\"\nx = 1\n"),
    )
    .expect("written");
    signal(&gateway.0, "HUP");
    until("a refused reload", said("reload refused")).await;
    std::fs::write(&rules, good).expect("written");
    signal(&gateway.0, "HUP");
    until("a reload", said("\"reloaded\"")).await;
    publish(&mut device, "y").await;
    let admin = stage.admin;
    stage.emulator.stop().await;
    http::until_ready(admin, 503).await;
    device.goodbye().await.expect("closed");
    until("the device left", said("device disconnected")).await;
    assert_eq!(gateway.terminate().await, Some(0));
}

/// Runs a gateway with `log` and reads every line it wrote.
async fn lines_of_a_run(
    format: &str,
    read: impl Fn(&str) -> Result<Map<String, Value>, String>,
) -> Vec<Map<String, Value>> {
    let keys = format!("format = \"{format}\"\nfilter = \"{ALL}\"");
    let stage = Stage::new(&format!("log-{format}"), &keys).await;
    let log = stage.dir.join("log");
    let file = std::fs::File::create(&log).expect("log file");
    let everybody = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(stage.dir.join("fleet.psk"), everybody).expect("mode");
    let gateway = Process::logging(&stage.config, Stdio::from(file));
    eventful(stage, &log, gateway).await;
    let text = std::fs::read_to_string(&log).expect("UTF-8");
    assert!(text.ends_with('\n'), "the last line is whole");
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let fields = read(line).and_then(|fields| logfmt::check(&fields).map(|()| fields));
            fields.unwrap_or_else(|error| panic!("{error}\n{line}"))
        })
        .collect();
    assert!(
        (100..20_000).contains(&lines.len()),
        "{} lines",
        lines.len()
    );
    for line in &lines {
        let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
        let ours = text("target").starts_with("iothub_gateway");
        let said = ["error", "warn", "info"].contains(&text("level"));
        assert_eq!(ours && said, line.contains_key("event"), "{line:?}");
    }
    lines
}

fn assert_the_run_is_told(lines: &[Map<String, Value>]) {
    let with = |key: &str, value: &str| {
        lines
            .iter()
            .find(|line| line.get(key) == Some(&value.into()))
    };
    let banner = with("msg", "iothub-gateway starts").expect("a banner");
    for key in ["version", "commit", "config", "listeners", "admin"] {
        assert!(
            banner[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}: {banner:?}"
        );
    }
    let listeners = banner["listeners"].as_str().expect("text");
    assert!(
        listeners.contains("devices=127.0.0.1:") && listeners.contains(" plain="),
        "{listeners}"
    );
    for (key, count) in [("rules", 1), ("devices", 3), ("psk_identities", 2)] {
        assert_eq!(banner[key], count, "{key}: {banner:?}");
    }
    let exposed = |line: &&Map<String, Value>| {
        let msg = line["msg"].as_str().unwrap_or_default();
        msg.contains("fleet.psk: is open to everybody") && line["level"] == "warn"
    };
    assert_eq!(
        lines.iter().filter(exposed).count(),
        2,
        "at the start and in the reload"
    );
    let connect = with("target", "iothub_gateway::connect").expect("a connect");
    assert_eq!(
        (&connect["protocol"], &connect["level"]),
        (&"3.1.1".into(), &"info".into())
    );
    let refusal = with("target", "iothub_gateway::refusal").expect("a refusal");
    assert!(
        refusal["reason"].is_string() && refusal["source"].is_string(),
        "{refusal:?}"
    );
    for library in ["mio", "rustls"] {
        let is_of = |line: &&Map<String, Value>| {
            line["target"]
                .as_str()
                .is_some_and(|target| target.starts_with(library))
        };
        assert!(
            lines.iter().any(|line| is_of(&line)),
            "{library} says nothing"
        );
    }
    let reloaded = with("msg", "reloaded").expect("a reload");
    assert!(reloaded["milliseconds"].is_u64(), "{reloaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_run_is_logfmt() {
    assert_the_run_is_told(&lines_of_a_run("text", logfmt::logfmt).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_run_is_json() {
    assert_the_run_is_told(&lines_of_a_run("json", logfmt::json).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_nothing_starts_is_a_line_of_the_log_and_said_when_the_log_is_off() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound");
    for filter in ["info", "off"] {
        let stage = Stage::new(&format!("log-taken-{filter}"), "").await;
        let text = std::fs::read_to_string(&stage.config).expect("written above");
        let text = text.replace(&stage.mqtt.to_string(), &taken.to_string());
        std::fs::write(&stage.config, format!("{text}filter = \"{filter}\"\n")).expect("written");
        let log = stage.dir.join("log");
        let file = std::fs::File::create(&log).expect("log file");
        let gateway = Process::logging(&stage.config, Stdio::from(file));
        assert_eq!(gateway.ended().await, Some(69));
        let text = std::fs::read_to_string(&log).expect("UTF-8");
        let said = format!("to {taken}");
        let line = text
            .lines()
            .find(|line| line.contains(&said))
            .expect("said");
        if filter == "info" {
            let fields = logfmt::logfmt(line).expect("logfmt");
            assert_eq!(fields["level"], "error");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_pipe_that_nobody_reads_stops_no_message() {
    let stage = Stage::new("log-unread", "filter = \"trace,notify=trace\"").await;
    let gateway = Process::logging(&stage.config, Stdio::piped());
    stage.ready().await;
    let mut device = Device::connect(stage.plain, &Transport::Plain, &pass_1()).await;
    let admin = stage.admin;
    let dropped = move || {
        let exposition = http::get(admin, "/metrics");
        http::metric(&exposition, "iothub_gateway_log_lines_dropped_total", &[])
    };
    // A pipe holds 64 KiB and the queue some MiB. Whatever happens in a watched folder is told by
    // the library that watches, so writing there fills both. Two files in turn: the kernel makes
    // one event of equal ones that follow each other.
    let create = |name| std::fs::File::create(stage.dir.join(name)).expect("created");
    let mut noise = [create("noise-1"), create("noise-2")];
    let mut messages = 0;
    while tokio::task::spawn_blocking(dropped).await.expect("scraped") == 0.0 {
        assert!(messages < 1000, "nothing was ever dropped");
        for n in 0..500 {
            noise[n % 2].write_all(b"x").expect("written");
        }
        publish(&mut device, "a PUBACK comes").await;
        messages += 1;
    }
    publish(&mut device, "and another").await;
    let mut other = Device::connect(stage.plain, &Transport::Plain, &pass_1()).await;
    publish(&mut other, "from a new connection").await;
    assert_eq!(gateway.terminate().await, Some(0), "it ends, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_changes_by_an_order_and_by_a_reload() {
    let stage = Stage::new("log-level", "filter = \"error\"").await;
    let token = "log-level-operator-token";
    let admin = format!("[admin]\noperate_token = \"{token}\"\n");
    let text = std::fs::read_to_string(&stage.config).expect("written above");
    let text = text.replacen("[admin]\n", &admin, 1);
    secret(&stage.config, &text);
    secret(&stage.dir.join("token"), token);
    let path = stage.dir.join("log");
    let log = std::fs::File::create(&path).expect("a file");
    let gateway = Process::logging(&stage.config, log.into());
    stage.ready().await;
    let program = std::path::PathBuf::from(env!("CARGO_BIN_EXE_iothub-gateway"));
    let ask = |level: &str| {
        let mut ctl = std::process::Command::new(&program);
        ctl.args(["ctl", "--admin", &stage.admin.to_string(), "log"]);
        ctl.arg("--token-file").arg(stage.dir.join("token"));
        ctl.args(Some(level).filter(|level| !level.is_empty()));
        let done = ctl.output().expect("it starts");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let said = |words: &'static str| {
        let path = path.clone();
        move || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(words))
    };
    let plain = stage.plain;
    let connect = async move || {
        let mut device = Device::connect(plain, &Transport::Plain, &pass_1()).await;
        publish(&mut device, "x").await;
    };
    let connects = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.matches("device connected").count()
    };
    assert_eq!(ask(""), "error\n");
    connect().await;
    assert_eq!(ask("info"), "logging from info on\n");
    connect().await;
    until("connects are logged", said("device connected")).await;
    assert_eq!(connects(), 1, "not the one before");
    assert_eq!(ask("error"), "logging from error on\n");
    until(
        "who did it is logged",
        said("an operator changes the log's level"),
    )
    .await;
    connect().await;
    secret(
        &stage.config,
        &text.replacen("filter = \"error\"", "filter = \"info\"", 1),
    );
    signal(&gateway.0, "HUP");
    let admin = stage.admin;
    let filter = move || http::get(admin, "/api/v1/log").contains("\"info\"");
    until("the file's filter is in force", filter).await;
    until("the reload is told", said("msg=\"reloaded\"")).await;
    assert_eq!(connects(), 1, "not the one before");
    assert!(!said("changed keys need a restart")(), "nothing waits");
}
