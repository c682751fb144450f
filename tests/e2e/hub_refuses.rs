//! A hub that refuses: the log names cause and fix, `/ready` tells, a metric moves; and when it is
//! over, that is said too, and nothing was lost.

use crate::support::certificates::{self, Authority};
use crate::support::device::{Device, Transport, Who};
use crate::support::process::{Process, free_port};
use crate::support::{
    HUB, Options, PASSWORD, POLICY_KEY, emulator_toml, gateway_toml, http, hub_in, logfmt, now,
    sas, scratch, secret,
};
use iothub_gateway::emulator::{Emulator, EmulatorConfig, EmulatorHandle, Fault, FaultKind};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};

/// Longest until a refusal is told.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Longest until its end is told: back-off after throttling is 5 s to 10 s.
const OVER_WITHIN: Duration = Duration::from_secs(40);
const DEVICE: &str = "pass-1";

/// Files and ports of a gateway and its hub; neither runs yet.
struct Stage {
    dir: PathBuf,
    /// `gateway.toml` and `emulator.toml`, to be changed before they are used.
    gateway: String,
    emulator: String,
    amqp: u16,
    control: u16,
    plain: SocketAddr,
    admin: SocketAddr,
    hub: Option<EmulatorHandle>,
    process: Option<Process>,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let (options, dir) = (Options::default(), scratch(name));
        hub_in(&dir, &options).await.stop().await; // for its files
        let [amqp, control, mqtt, plain, admin] = [(); 5].map(|()| free_port());
        Self {
            gateway: gateway_toml(&options, amqp, mqtt, plain, admin)
                + "[shutdown]\nannounce = \"0s\"\n",
            emulator: emulator_toml(&options, amqp, control),
            dir,
            amqp,
            control,
            plain: SocketAddr::from(([127, 0, 0, 1], plain)),
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            hub: None,
            process: None,
        }
    }

    /// Starts the hub as `emulator` says now.
    async fn start_hub(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.stop().await;
        }
        let config = EmulatorConfig::from_toml(&self.emulator, &self.dir).expect("configuration");
        self.hub = Some(Emulator::start(config).await.expect("emulator starts"));
    }

    fn fault(&self, kind: FaultKind, value: Option<&str>) {
        let fault = Fault::new(kind);
        let fault = value
            .into_iter()
            .fold(fault, |fault, value| fault.with(value));
        let hub = self.hub.as_ref().expect("the hub runs");
        hub.inject(&fault).expect("a fault of the catalogue");
    }

    fn clear(&self) {
        self.hub.as_ref().expect("the hub runs").clear_faults();
    }

    /// A call of the hub's control API.
    async fn control(&self, method: &'static str, path: &'static str, body: Value) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.control));
        let call = move || http::request(address, method, path, &body.to_string());
        let (status, text) = spawn_blocking(call).await.expect("called");
        assert!(status < 300, "{method} {path}: {status} {text}");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn start_gateway(&mut self) {
        let config = self.dir.join("gateway.toml");
        std::fs::write(&config, &self.gateway).expect("written");
        let log = std::fs::File::create(self.log_path()).expect("created");
        self.process = Some(Process::logging(&config, Stdio::from(log)));
    }

    /// The log so far.
    fn log(&self) -> Vec<Map<String, Value>> {
        logfmt::lines(&self.log_path())
    }

    /// `/ready`: status and body; nothing while the port is closed.
    async fn ready(&self) -> (u16, Value) {
        http::ready(self.admin).await
    }

    async fn metric(&self, name: &str, label: &str) -> f64 {
        let admin = self.admin;
        let scrape = move || http::get(admin, "/metrics");
        let metrics = spawn_blocking(scrape).await.expect("scraped");
        http::metric(&metrics, &format!("iothub_gateway_{name}"), &[label])
    }

    /// Connects and sends one message, again and again until it is acknowledged.
    fn send(&self) -> JoinHandle<()> {
        let plain = self.plain;
        let who = Who::login(DEVICE, DEVICE, PASSWORD);
        tokio::spawn(async move {
            loop {
                let connected = Device::try_connect(plain, &Transport::Plain, &who).await;
                if let Ok(Ok(mut device)) = connected {
                    let topic = format!("devices/{DEVICE}/messages/events/");
                    if device.publish(&topic, b"1").await.is_ok() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    /// Waits until the refusal is told everywhere.
    async fn refused(&self, cause: &str, status: &str) {
        let told = tokio::time::timeout(SEEN_WITHIN, async {
            while !self.is_told(cause, status).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if told.await.is_err() {
            let (ready, log) = (self.ready().await, self.log());
            panic!("{cause} is not told: {ready:?}\n{log:#?}");
        }
    }

    async fn is_told(&self, cause: &str, status: &str) -> bool {
        let (code, ready) = self.ready().await;
        let standing = ready["hub_refuses"].as_array().cloned().unwrap_or_default();
        let Some(refusal) = standing.iter().find(|refusal| refusal["cause"] == cause) else {
            return false;
        };
        let log = self.log();
        let line = log.iter().find(|line| {
            let message = line["msg"].as_str().unwrap_or_default();
            message.starts_with("hub refuses: ") && line["cause"] == cause
        });
        let label = format!("cause=\"{cause}\"");
        let counted = self.metric("hub_refusals_total", &label).await >= 1.0;
        let Some(line) = line.filter(|_| counted && ready["status"] == status) else {
            return false;
        };
        assert_eq!(line["level"], "warn");
        assert_eq!(line["fix"], refusal["fix"], "{line:?}");
        let of_hub = line.get("code").cloned().unwrap_or(json!(""));
        assert_eq!(of_hub, refusal["code"], "{line:?}");
        assert!(!refusal["fix"].as_str().expect("a fix").is_empty());
        assert_eq!(code, if status == "unavailable" { 503 } else { 200 });
        true
    }

    /// Waits until the end is told, and all is well.
    async fn over(&self, cause: &str) {
        let label = format!("cause=\"{cause}\"");
        let told = tokio::time::timeout(OVER_WITHIN, async {
            loop {
                let said = self.log().iter().any(|line| {
                    let message = line["msg"].as_str().unwrap_or_default();
                    message.starts_with("hub no longer refuses: ") && line["cause"] == cause
                });
                let ready = self.ready().await.1["status"] == "ready";
                if said && ready && self.metric("hub_refusing", &label).await == 0.0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if told.await.is_err() {
            let (ready, log) = (self.ready().await, self.log());
            panic!("the end of {cause} is not told: {ready:?}\n{log:#?}");
        }
    }

    /// Ends the case: what was sent was acknowledged, and no line blames the machinery.
    async fn done(mut self, sent: JoinHandle<()>) {
        let sent = tokio::time::timeout(OVER_WITHIN, sent).await;
        sent.expect("acknowledged in time").expect("joined");
        for line in self.log() {
            let text = format!("{line:?}");
            assert!(!text.contains("cancelled"), "{text}");
            let lost =
                line["msg"] == "hub connection lost" || line["msg"] == "cannot connect to hub";
            if lost {
                for field in ["address", "reason", "cause"] {
                    assert!(!line[field].as_str().unwrap_or("").is_empty(), "{text}");
                }
            }
        }
        let process = self.process.take().expect("it runs");
        assert_eq!(process.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_device_connect() {
    let mut stage = Stage::new("no-device-connect").await;
    let right = stage.emulator.clone();
    stage.emulator = right.replace("[\"DeviceConnect\"]", "[\"ServiceConnect\"]");
    stage.start_hub().await;
    stage.start_gateway();
    let sent = stage.send();
    stage.refused("no_device_connect", "unavailable").await;
    stage.emulator = right;
    stage.start_hub().await;
    stage.over("no_device_connect").await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key() {
    use base64::Engine;
    let mut stage = Stage::new("wrong-key").await;
    stage.start_hub().await;
    for which in ["primary", "secondary"] {
        let new = json!({ "which": which });
        stage.control("POST", "/policies/device/rotate", new).await;
    }
    stage.start_gateway();
    stage.refused("wrong_key", "unavailable").await;
    let key = base64::engine::general_purpose::STANDARD.encode(POLICY_KEY);
    let back = json!({ "which": "primary", "key": key });
    stage.control("POST", "/policies/device/rotate", back).await;
    stage.over("wrong_key").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_whose_token_has_ended() {
    let mut stage = Stage::new("expired").await;
    let keys = "policy = \"device\"\nkey = \"${file:hub-key}\"\n\
                secondary_key = \"${file:hub-key-2}\"\n";
    assert!(stage.gateway.contains(keys), "{}", stage.gateway);
    stage.gateway = stage.gateway.replace(keys, "token_file = \"token\"\n");
    let token = |expiry| {
        let token = sas(POLICY_KEY, &format!("{HUB}/devices"), expiry);
        format!("{token}&skn=device")
    };
    secret(&stage.dir.join("token"), &token(now() - 60));
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("token_expired", "unavailable").await;
    secret(&stage.dir.join("token"), &token(now() + 3600));
    stage.over("token_expired").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_by_an_hour() {
    let mut stage = Stage::new("clock").await;
    let ttl = "token_ttl = \"1h\"";
    assert!(stage.gateway.contains(ttl));
    stage.gateway = stage.gateway.replace(ttl, "token_ttl = \"30m\"");
    stage.start_hub().await;
    stage.fault(FaultKind::ClockAhead, Some("1"));
    stage.start_gateway();
    stage.refused("clock_skew", "unavailable").await;
    stage.clear();
    stage.over("clock_skew").await;
    let sent = stage.send();
    stage.done(sent).await;
}

/// A fault that strikes messages.
async fn messages(cause: &str, status: &str, kind: FaultKind, value: Option<&str>) {
    let mut stage = Stage::new(cause).await;
    stage.gateway = stage
        .gateway
        .replace("[hub]\n", "[hub]\noutcome_timeout = \"2s\"\n");
    stage.start_hub().await;
    stage.fault(kind, value);
    stage.start_gateway();
    let sent = stage.send();
    stage.refused(cause, status).await;
    stage.clear();
    stage.over(cause).await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up() {
    let kind = FaultKind::InvokeMaxMessageQuota;
    messages("quota", "unavailable", kind, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_throttles() {
    messages("throttled", "degraded", FaultKind::InvokeThrottling, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_suspended() {
    let condition = Some("com.microsoft:iot-hub-suspended");
    messages(
        "suspended",
        "unavailable",
        FaultKind::OutcomeRejected,
        condition,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_say_whether_it_took_a_message() {
    messages("no_outcome", "degraded", FaultKind::DispositionNever, None).await;
}

/// A device whose registration is not what it should be.
async fn registration(cause: &'static str, method: &'static str, body: Value) {
    let mut stage = Stage::new(cause).await;
    stage.start_hub().await;
    stage.control(method, "/devices/pass-1", body).await;
    stage.start_gateway();
    let sent = stage.send();
    stage.refused(cause, "degraded").await;
    let well = json!({ "status": "enabled" });
    stage.control("PUT", "/devices/pass-1", well).await;
    stage.over(cause).await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_the_hub_does_not_know() {
    registration("device_unknown", "DELETE", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_disabled_at_the_hub() {
    registration("device_disabled", "PUT", json!({ "status": "disabled" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_refused() {
    let mut stage = Stage::new("unreachable").await;
    stage.start_gateway();
    stage.refused("unreachable", "unavailable").await;
    let lines = stage.log();
    let (code, starting) = stage.ready().await;
    let reason = starting["reason"].as_str().expect("a reason");
    assert_eq!((code, &starting["phase"]), (503, &json!("Starting")));
    for part in [
        "the phase is Starting: unreachable for ",
        "no TCP connection to the hub",
        "check hub.host",
        &format!("localhost:{}", stage.amqp),
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let lost = lines
        .iter()
        .any(|line| line["msg"] == "hub connection lost");
    assert!(!lost, "none was open: {lines:#?}");
    let tried = |line: &&Map<String, Value>| line["msg"] == "cannot connect to hub";
    let line = lines.iter().find(tried).expect("each attempt is told");
    assert_eq!(line["address"], format!("localhost:{}", stage.amqp));
    stage.start_hub().await;
    stage.over("unreachable").await;
    let sent = stage.send();
    stage.done(sent).await;
}

/// `NAME.pem` and `NAME.key` of a server of this name, signed by `own-ca.pem`.
fn signed(stage: &Stage, leaves: &[(&str, &str)]) {
    let own = Authority::new("own CA");
    std::fs::write(stage.dir.join("own-ca.pem"), &own.pem).expect("written");
    for (file, host) in leaves {
        own.sign(&stage.dir, file, certificates::server(&[host]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name() {
    let mut stage = Stage::new("tls-name").await;
    signed(&stage, &[("other", "other.example"), ("own", "localhost")]);
    stage.gateway = stage
        .gateway
        .replace("ca = \"ca.pem\"", "ca = \"own-ca.pem\"");
    let served = |name: &str| {
        let files = format!("cert = \"{name}.pem\", key = \"{name}.key\"");
        let known = "cert = \"server.pem\", key = \"server.key\"";
        stage.emulator.replace(known, &files)
    };
    let (other, own) = (served("other"), served("own"));
    stage.emulator = other;
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("tls_name", "unavailable").await;
    stage.emulator = own;
    stage.start_hub().await;
    stage.over("tls_name").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_signed_by_nobody_known() {
    let mut stage = Stage::new("tls-ca").await;
    let trusted = stage.dir.join("trusted.pem");
    std::fs::copy(stage.dir.join("device-ca.pem"), &trusted).expect("copied");
    stage.gateway = stage
        .gateway
        .replace("ca = \"ca.pem\"", "ca = \"trusted.pem\"");
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("tls_ca", "unavailable").await;
    std::fs::copy(stage.dir.join("ca.pem"), &trusted).expect("copied");
    stage.over("tls_ca").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_answer_a_token() {
    let mut stage = Stage::new("cbs-silent").await;
    stage.start_hub().await;
    stage.fault(FaultKind::CbsSilent, None);
    stage.start_gateway();
    stage.refused("cbs_silent", "unavailable").await;
    stage.clear();
    stage.over("cbs_silent").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_an_address_and_a_port_that_speaks_no_amqp() {
    let mut stage = Stage::new("endpoint").await;
    let own = format!("amqps://localhost:{}", stage.amqp);
    let right = stage.gateway.clone();
    stage.gateway = right.replace(&own, "amqps://no-such-host.invalid:5671");
    stage.start_gateway();
    stage.refused("dns", "unavailable").await;
    stage.process = None;
    // The control API is HTTP, without TLS.
    stage.start_hub().await;
    for (scheme, cause) in [("amqps", "tls"), ("amqp", "amqp_open")] {
        let port = stage.control;
        stage.gateway = right.replace(&own, &format!("{scheme}://localhost:{port}"));
        stage.start_gateway();
        stage.refused(cause, "unavailable").await;
        stage.process = None;
    }
}
