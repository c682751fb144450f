//! A gateway process and its hub, each started when a test says so; what the gateway tells of a hub
//! that refuses.

use crate::support::device::{Device, Transport, Who};
use crate::support::process::{Process, free_port};
use crate::support::{
    Options, PASSWORD, emulator_toml, gateway_toml, http, hub_in, logfmt, scratch,
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
pub struct Stage {
    pub dir: PathBuf,
    /// `gateway.toml` and `emulator.toml`, to be changed before they are used.
    pub gateway: String,
    pub emulator: String,
    pub amqp: u16,
    pub control: u16,
    plain: SocketAddr,
    admin: SocketAddr,
    hub: Option<EmulatorHandle>,
    pub process: Option<Process>,
}

impl Stage {
    pub async fn new(name: &str) -> Self {
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
    pub async fn start_hub(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.stop().await;
        }
        let config = EmulatorConfig::from_toml(&self.emulator, &self.dir).expect("configuration");
        self.hub = Some(Emulator::start(config).await.expect("emulator starts"));
    }

    pub fn fault(&self, kind: FaultKind, value: Option<&str>) {
        let fault = Fault::new(kind);
        let fault = value
            .into_iter()
            .fold(fault, |fault, value| fault.with(value));
        let hub = self.hub.as_ref().expect("the hub runs");
        hub.inject(&fault).expect("a fault of the catalogue");
    }

    pub fn clear(&self) {
        self.hub.as_ref().expect("the hub runs").clear_faults();
    }

    /// A call of the hub's control API.
    pub async fn control(&self, method: &'static str, path: &'static str, body: Value) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.control));
        let call = move || http::request(address, method, path, &body.to_string());
        let (status, text) = spawn_blocking(call).await.expect("called");
        assert!(status < 300, "{method} {path}: {status} {text}");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn start_gateway(&mut self) {
        let config = self.dir.join("gateway.toml");
        std::fs::write(&config, &self.gateway).expect("written");
        let log = std::fs::File::create(self.log_path()).expect("created");
        self.process = Some(Process::logging(&config, Stdio::from(log)));
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Map<String, Value>> {
        logfmt::lines(&self.log_path())
    }

    /// `/ready`: status and body; nothing while the port is closed.
    pub async fn ready(&self) -> (u16, Value) {
        http::ready(self.admin).await
    }

    async fn metric(&self, name: &str, label: &str) -> f64 {
        let admin = self.admin;
        let scrape = move || http::get(admin, "/metrics");
        let metrics = spawn_blocking(scrape).await.expect("scraped");
        http::metric(&metrics, &format!("iothub_gateway_{name}"), &[label])
    }

    /// Connects and sends one message, again and again until it is acknowledged.
    pub fn send(&self) -> JoinHandle<()> {
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
    pub async fn refused(&self, cause: &str, status: &str) {
        self.told(SEEN_WITHIN, cause, status).await;
    }

    /// Waits until it is told that it keeps everybody out, which takes a while to be known.
    pub async fn lasts(&self, cause: &str) {
        self.told(SEEN_WITHIN * 2, cause, "unavailable").await;
    }

    async fn told(&self, within: Duration, cause: &str, status: &str) {
        let told = tokio::time::timeout(within, async {
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
    pub async fn over(&self, cause: &str) {
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
    pub async fn done(mut self, sent: JoinHandle<()>) {
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
