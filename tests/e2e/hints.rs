//! Every refusal's log line names who, where and why, and its hint, pasted into a shell, comes to
//! the same answer for the same reason.

use crate::hinted::{BESIDE, EITHER, PROVOKED, RULES};
use crate::support::certificates::{self, Authority};
use crate::support::device::{Device, Transport, Who, open};
use crate::support::process::{Process, free_port};
use crate::support::{
    DEVICE_KEY, HUB, Options, PASSWORD, PSK, amqps_port, argon2_hash, fleet_key, gateway_toml,
    http, hub_in, logfmt, now, sas, scratch,
};
use iothub_gateway::telemetry::reason::{Basis, Reason, Stage};
use mqttbytes::QoS;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const KEY: &[u8] = b"0123456789ABCDEF";

struct Place {
    dir: PathBuf,
    config: PathBuf,
    mqtt: SocketAddr,
    plain: SocketAddr,
    process: Option<Process>,
    refused: std::cell::Cell<u32>,
}

/// Refusals in a second, below the log's quota of 20.
const PACE: u32 = 15;

impl Place {
    async fn start() -> (Self, iothub_gateway::emulator::EmulatorHandle) {
        let dir = scratch("hints");
        let hash = argon2_hash(PASSWORD);
        let two_b = format!(
            "[[device]]\nid = \"two-b\"\nassign_client_id = true\n\
             password = {{ username = \"two-b\", hash = \"{hash}\" }}\n"
        );
        let mut options = Options {
            fleet: 1,
            rules: format!("{RULES}{two_b}"),
            gateway: "[limits]\nfailures_per_source = 1000\nfailures_per_device = 1000\n\
                      failures_per_identity = 9\n\
                      takeover_damping = \"0s\"\n"
                .to_owned(),
            ..Options::default()
        };
        for id in [
            "off-1",
            "two-a",
            "two-b",
            "listener-1",
            "talker-1",
            "cert-reserved",
        ] {
            options.emulator += &format!("[[device]]\nid = \"{id}\"\n");
        }
        let emulator = hub_in(&dir, &options).await;
        certificates(&dir);
        let ports = [free_port(), free_port(), free_port()];
        let text = gateway_toml(
            &options,
            amqps_port(&emulator),
            ports[0],
            ports[1],
            ports[2],
        );
        let both = "accept = [\"sas\", \"password\"]";
        let text = text.replace(both, "accept = [\"sas\"]");
        // A path that has to be quoted.
        let config = dir.join("the gateway's.toml");
        std::fs::write(&config, format!("{text}[shutdown]\nannounce = \"0s\"\n")).expect("written");
        let log = std::fs::File::create(dir.join("log")).expect("created");
        let process = Process::logging(&config, Stdio::from(log));
        let [mqtt, plain, admin] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        http::until_ready(admin, 200).await;
        let stage = Self {
            dir,
            config,
            mqtt,
            plain,
            process: Some(process),
            refused: std::cell::Cell::new(0),
        };
        (stage, emulator)
    }

    fn tls(&self, certificate: Option<&str>) -> Transport {
        let file = |name: &str, end: &str| self.dir.join(format!("{name}.{end}"));
        Transport::Tls {
            ca: self.dir.join("ca.pem"),
            certificate: certificate.map(|name| (file(name, "pem"), file(name, "key"))),
        }
    }

    /// Waits for the log's next second after so many refusals.
    async fn paced(&self) {
        self.refused.set(self.refused.get() + 1);
        if self.refused.get().is_multiple_of(PACE) {
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }

    /// A CONNECT that is refused, or a handshake.
    async fn connect(&self, transport: &Transport, who: &Who) {
        self.paced().await;
        let refused = Device::try_connect(self.mqtt, transport, who).await;
        assert!(!matches!(refused, Ok(Ok(_))), "{}: admitted", who.client_id);
    }

    /// Bytes that are answered with the end of the connection.
    async fn bytes(&self, transport: &Transport, bytes: &[u8]) {
        self.paced().await;
        let mut stream = open(self.mqtt, transport).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        while stream.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
    }

    async fn publish(&self, id: &str, key: &[u8], topic: &str) {
        self.paced().await;
        let mut device = Device::connect(self.mqtt, &Transport::psk(id, key), &Who::id(id)).await;
        assert!(device.publish(topic, b"1").await.is_err(), "{topic}");
    }

    async fn subscribe(&self, id: &str, key: &[u8], filter: &str) {
        self.paced().await;
        let mut device = Device::connect(self.mqtt, &Transport::psk(id, key), &Who::id(id)).await;
        let granted = device.subscribe(filter, QoS::AtLeastOnce).await;
        assert!(!granted.expect("SUBACK"), "{filter}");
        device.disconnect().await;
    }

    /// A PUBLISH and a SUBSCRIBE of a device that may do both, whatever comes of them.
    async fn either(&self, topic: &str) {
        let id = "cert-reserved";
        for publishes in [true, false] {
            self.paced().await;
            let mut device =
                Device::connect(self.mqtt, &Transport::psk(id, KEY), &Who::id(id)).await;
            let _ = match publishes {
                true => device.publish(topic, b"1").await.map(drop),
                false => device.subscribe(topic, QoS::AtLeastOnce).await.map(drop),
            };
        }
    }

    /// Lines about refusals so far.
    fn refusals(&self) -> Vec<Map<String, Value>> {
        let mut lines = logfmt::lines(&self.dir.join("log"));
        lines.retain(|line| line["target"] == "iothub_gateway::refusal");
        lines
    }
}

/// Certificates of a second CA, which joins `device-ca.pem`, and one of nobody.
fn certificates(dir: &Path) {
    let second = Authority::new("second device CA");
    let bundle = dir.join("device-ca.pem");
    let first = std::fs::read_to_string(&bundle).expect("read");
    std::fs::write(&bundle, first + &second.pem).expect("written");
    for (file, name) in [
        ("other", "other-1"),
        ("reserved", "cert-reserved"),
        ("odd", "cert-it's odd"),
    ] {
        second.sign(dir, file, certificates::device(name));
    }
    certificates::self_signed(dir, "self", certificates::device("self"));
}

/// Who is refused in the handshake or in answer to CONNECT.
fn strangers(stage: &Place) -> Vec<(Transport, Who)> {
    let scope = |device: &str| format!("{HUB}/devices/{device}");
    let user = |device: &str| format!("{HUB}/{device}/?api-version=2021-04-12");
    let in_an_hour = now() + 3600;
    let good = sas(DEVICE_KEY, &scope("sas-1"), in_an_hour);
    let token = |id: &str, key: &[u8], device: &str, ends: u64| {
        Who::login(id, &user(id), &sas(key, &scope(device), ends))
    };
    let (tls, known) = (stage.tls(None), Transport::psk("psk-1", PSK));
    let two = Who::login("", "two-b", PASSWORD);
    vec![
        (Transport::psk("nobody", PSK), Who::id("nobody")),
        (Transport::psk("it's $(me)", PSK), Who::id("nobody")),
        (
            Transport::psk("psk-1", b"wrong-key-123456"),
            Who::id("psk-1"),
        ),
        (stage.tls(Some("self")), Who::id("self")),
        (stage.tls(Some("other")), Who::id("other-1")),
        (stage.tls(Some("reserved")), Who::id("cert-reserved")),
        (stage.tls(Some("odd")), Who::id("cert-odd")),
        (stage.tls(Some("reserved")), Who::id("cert-1")),
        (tls.clone(), Who::id("sas-1")),
        (known.clone(), Who::id("sas-1")),
        (known.clone(), Who::id("not an id; rm -rf \"'$HOME'\"")),
        (known.clone(), Who::id("-rf")),
        (known.clone(), Who::id(&"x".repeat(1400))),
        // Too long for a hint, once it is quoted.
        (known.clone(), Who::id(&"'".repeat(1400))),
        (known.clone(), Who::id("")),
        (Transport::psk("off-1", KEY), Who::id("off-1")),
        (Transport::psk("load-0", &fleet_key(0)), Who::id("load-0")),
        (Transport::psk("two-a", KEY), two),
        (tls.clone(), Who::login("psk-1", &user("sas-1"), &good)),
        (tls.clone(), Who::login("sas-1", "sas-1", &good)),
        (
            tls.clone(),
            Who::login("sas-1", "gateway.local/sas-1/", &good),
        ),
        (tls.clone(), Who::login("pass-1", "", PASSWORD)),
        (
            tls.clone(),
            token("sas-1", b"some other key", "sas-1", in_an_hour),
        ),
        (
            tls.clone(),
            token("sas-1", DEVICE_KEY, "sas-1", now() - 3600),
        ),
        (
            tls.clone(),
            token("sas-1", DEVICE_KEY, "sas-12", in_an_hour),
        ),
        (
            tls.clone(),
            token("nobody", DEVICE_KEY, "nobody", in_an_hour),
        ),
        (
            tls.clone(),
            Who::login("sas-1", &user("sas-1"), "SharedAccessSignature x"),
        ),
        (tls.clone(), Who::login("pass-1", "pass-1", "wrong")),
    ]
}

/// Refusals of handshakes and CONNECTs.
async fn refuse_connects(stage: &Place) {
    for (transport, who) in strangers(stage) {
        stage.connect(&transport, &who).await;
    }
    let known = Transport::psk("psk-1", PSK);
    let login = Who::login("pass-1", "pass-1", PASSWORD);
    let refused = Device::try_connect(stage.plain, &Transport::Plain, &login).await;
    assert!(refused.expect("an answer").is_err());
    let will = ("devices/sas-1/messages/events/".to_owned(), "x".to_owned());
    let with_will = Who {
        will: Some(will),
        ..Who::id("psk-1")
    };
    stage.connect(&known, &with_will).await;
    let wrong = Transport::psk("psk-1", b"wrong-key-123456");
    for _ in 0..10 {
        stage.connect(&wrong, &Who::id("psk-1")).await;
    }
}

/// Bytes that are no CONNECT, topics that are not the device's.
async fn refuse_the_rest(stage: &Place) {
    stage
        .bytes(&Transport::Plain, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0")
        .await;
    stage
        .bytes(&Transport::Plain, b"GET / HTTP/1.1\r\n\r\n")
        .await;
    let known = Transport::psk("listener-1", KEY);
    stage
        .bytes(&known, b"\x10\x0c\0\x04MQTT\x09\x02\0\0\0\0")
        .await;
    stage.bytes(&known, b"\xc0\0").await;
    // A will of QoS 2, refused while CONNECT is read: by PSK, and with a user name.
    let will = b"\x10\x1e\0\x04MQTT\x04\x16\0\x3c\0\x0alistener-1\0\x03a/b\0\x01x";
    stage.bytes(&known, will).await;
    let will =
        b"\x10\x2a\0\x04MQTT\x04\xd6\0\x3c\0\x06pass-1\0\x03a/b\0\x01x\0\x06pass-1\0\x06secret";
    stage.bytes(&stage.tls(None), will).await;
    for topic in [
        "devices/sas-1/messages/events/",
        "anything",
        "devices/talker-1/messages/events/a=%ZZ",
        "devices/talker-1/messages/events/a=1&a=2",
        "devices/talker-1/messages/events/=1",
        "devices/talker-1/messages/events/a/b",
        "devices/talker-1/messages/events/iothub-x=1",
        "devices/talker-1/messages/events/$.nope=1",
        "devices/talker-1/messages/events/$.exp=soon",
    ] {
        stage.publish("talker-1", KEY, topic).await;
    }
    let events = "devices/listener-1/messages/events/";
    stage.publish("listener-1", KEY, events).await;
    for filter in [
        "#",
        "devices/listener-1/twin/#",
        "devices/other/messages/devicebound/#",
    ] {
        stage.subscribe("listener-1", KEY, filter).await;
    }
    let commands = "devices/talker-1/messages/devicebound/#";
    stage.subscribe("talker-1", KEY, commands).await;
    for topic in EITHER {
        stage.either(topic).await;
    }
    // QoS 2 ends the session before the topic is looked at.
    let id = Who::id("cert-reserved");
    let mut device = Device::connect(stage.mqtt, &Transport::psk("cert-reserved", KEY), &id).await;
    let publish = b"\x34\x0a\0\x05a/b/c\0\x01x";
    device.stream.write_all(publish).await.expect("written");
    assert!(device.receive().await.is_err());
}

/// The verdict of a command line: the word after `refused:`.
fn verdict(stage: &Place, line: &str) -> Result<String, String> {
    let bin = stage.dir.join("bin");
    let run = Command::new("bash")
        .args(["-c", line])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .output()
        .expect("bash runs");
    let out = String::from_utf8_lossy(&run.stdout).into_owned();
    let err = String::from_utf8_lossy(&run.stderr).into_owned();
    let word = out
        .lines()
        .find_map(|line| line.strip_prefix("refused: ").map(|word| (word, 1)));
    match (word, run.status.code()) {
        (Some((word, expected)), Some(code)) if code == expected => {
            Ok(word.split(':').next().unwrap_or_default().to_owned())
        }
        (_, code) => Err(format!("{line}\n{code:?}\n{out}{err}")),
    }
}

/// The reasons of all lines, and which lines' hints do not come to theirs.
fn pasted(stage: &Place) -> (BTreeSet<String>, Vec<String>) {
    let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for line in stage.refusals() {
        let text = |field: &str| line.get(field).and_then(Value::as_str).unwrap_or_default();
        let (reason, hint) = (text("reason"), text("hint"));
        if Reason::of(reason).is_some_and(|reason| !reason.refuses()) {
            continue;
        }
        let short = text("client_id").len() < 1400 || !text("client_id").contains('\'');
        assert_eq!(hint.is_empty(), !short, "a whole hint or none: {line:?}");
        if !short {
            continue;
        }
        for field in ["listener", "source", "reason", "text", "fix", "hint"] {
            if text(field).is_empty() {
                wrong.push(format!("no {field}: {line:?}"));
            }
        }
        if reason == "will_qos2" {
            names.insert((text("identity").to_owned(), text("client_id").to_owned()));
        }
        match verdict(stage, hint) {
            Ok(word) if word == reason => {}
            other => wrong.push(format!("{reason}: {other:?}\n{hint}")),
        }
        seen.insert(reason.to_owned());
    }
    let named = |identity: &str, id: &str| (identity.to_owned(), id.to_owned());
    let expected = [
        named("password:pass-1", "pass-1"),
        named("psk:listener-1", "listener-1"),
    ];
    assert_eq!(names, BTreeSet::from(expected));
    (seen, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_hint_comes_to_the_verdict_and_the_reason_of_its_line() {
    let (mut stage, emulator) = Place::start().await;
    let bin = stage.dir.join("bin");
    std::fs::create_dir(&bin).expect("made");
    let program = bin.join("iothub-gateway");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_iothub-gateway"), program).expect("linked");
    refuse_connects(&stage).await;
    refuse_the_rest(&stage).await;
    let process = stage.process.take().expect("it runs");
    assert_eq!(process.terminate().await, Some(0));
    emulator.stop().await;

    let (mut seen, mut wrong) = pasted(&stage);
    let config =
        iothub_gateway::telemetry::shell::quoted(&stage.config.to_string_lossy()).into_owned();
    for (reason, question) in BESIDE {
        match verdict(
            &stage,
            &format!("iothub-gateway check -c {config} {question}"),
        ) {
            Ok(word) if word == *reason => {}
            other => wrong.push(format!("{reason}: {other:?}")),
        }
        seen.insert((*reason).to_owned());
    }
    for reason in PROVOKED.iter().filter(|reason| !seen.contains(**reason)) {
        wrong.push(format!("{reason} was not provoked"));
    }
    for reason in Reason::ALL.iter().filter(|reason| reason.refuses()) {
        if reason.basis() == Basis::Rules {
            if !seen.contains(reason.word()) {
                wrong.push(format!("{reason} was not provoked"));
            }
            continue;
        }
        let who = match reason.is_said_at(Stage::Handshake) {
            true => "--as none",
            false => "--as sas:sas-1 --client-id sas-1",
        };
        let line = format!("iothub-gateway check -c {config} {who} --reason {reason}");
        match verdict(&stage, &line) {
            Ok(word) if word == reason.word() => {}
            other => wrong.push(format!("{reason}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}\nseen: {seen:?}", wrong.join("\n\n"));
}
