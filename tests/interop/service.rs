//! Azure's SDKs, unmodified, against the emulator: the device SDK of Node over AMQP, the service SDKs
//! of Python and Node, and an Event Hubs client.

use crate::process::free_port;
use crate::root;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iothub_gateway::config::secret::Secret;
use iothub_gateway::emulator::config::{DeviceConfig, Keys, PolicyConfig, Rights};
use iothub_gateway::emulator::{Emulator, EmulatorConfig, EmulatorHandle, TlsMaterial};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const DEVICE: &str = "node-1";
const DEVICE_KEY: &[u8] = b"the key of the device node-1";
const SERVICE_KEY: &[u8] = b"the key of the service policy";
/// The AMQP stack of the Python SDK knows no other.
const AMQPS: u16 = 5671;
/// Starting an SDK takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A hub named localhost, its certificate authority as a file.
struct Rig {
    hub: EmulatorHandle,
    ca: PathBuf,
    https: u16,
}

/// A CA in a file, and a certificate of it for localhost.
fn certificate(ca: &Path) -> TlsMaterial {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Of another name than what it signs, or clients take that for self-signed.
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let key = KeyPair::generate().expect("key");
    let pem = params.self_signed(&key).expect("CA").pem();
    std::fs::write(ca, pem).expect("written");
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let server = server.signed_by(&key, &issuer).expect("signed");
    TlsMaterial {
        cert_pem: server.pem().into_bytes(),
        key_pem: Secret::new(key.serialize_pem().into_bytes()),
    }
}

fn keys(key: &[u8]) -> Keys {
    Keys {
        primary: Some(Secret::new(key.to_vec())),
        secondary: None,
    }
}

impl Rig {
    async fn start() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdks");
        std::fs::create_dir_all(&dir).expect("a folder");
        let ca = dir.join("ca.pem");
        let mut config = EmulatorConfig::loopback("localhost");
        let local = |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let https = free_port();
        config.amqp.bind = local(AMQPS);
        config.amqp.tls = Some(certificate(&ca));
        config.service.bind = local(https);
        config.limits.feedback_delay = Duration::from_millis(100);
        config.policies.push(PolicyConfig {
            name: "service".to_owned(),
            rights: Rights {
                service_connect: true,
                registry_read: true,
                registry_write: true,
                ..Rights::default()
            },
            keys: keys(SERVICE_KEY),
        });
        config
            .devices
            .push(DeviceConfig::new(DEVICE, keys(DEVICE_KEY)));
        config
            .devices
            .push(DeviceConfig::new("silent", keys(b"nobody has this key")));
        let hub = Emulator::start(config).await.expect("port 5671 is free");
        Self { hub, ca, https }
    }

    /// A service SDK's connection string; REST goes to its port where one is named.
    fn service(&self, host: &str) -> String {
        let key = STANDARD.encode(SERVICE_KEY);
        format!("HostName={host};SharedAccessKeyName=service;SharedAccessKey={key}")
    }

    fn node(&self, script: &str) -> Command {
        let folder = root().join("tests/interop/service");
        let mut node = Command::new("node");
        node.arg("--require")
            .arg(folder.join("ports.js"))
            .arg(folder.join(script))
            .env("NODE_PATH", root().join("target/interop/node/node_modules"))
            .env("NODE_EXTRA_CA_CERTS", &self.ca)
            .env("AMQPS_PORT", AMQPS.to_string())
            .env("HTTPS_PORT", self.https.to_string());
        node
    }

    fn device(&self) -> Sdk {
        let key = STANDARD.encode(DEVICE_KEY);
        let string = format!("HostName=localhost;DeviceId={DEVICE};SharedAccessKey={key}");
        let mut node = self.node("device.js");
        Sdk::start(node.env("DEVICE_CONNECTION_STRING", string))
    }

    fn node_back_end(&self) -> Sdk {
        let mut node = self.node("backend.js");
        node.arg(DEVICE);
        Sdk::start(node.env("SERVICE_CONNECTION_STRING", self.service("localhost")))
    }

    fn python_back_end(&self) -> Sdk {
        let key = STANDARD.encode(SERVICE_KEY);
        let events = format!(
            "Endpoint=sb://localhost/;SharedAccessKeyName=service;SharedAccessKey={key};\
             EntityPath=events"
        );
        let service = self.service(&format!("localhost:{}", self.https));
        let mut python = Command::new(root().join("target/interop/bin/python"));
        python
            .arg(root().join("tests/interop/service/backend.py"))
            .args([DEVICE, self.ca.to_str().expect("text")])
            .arg(format!("localhost:{AMQPS}"))
            .env("REQUESTS_CA_BUNDLE", &self.ca)
            .env("SERVICE_CONNECTION_STRING", service)
            .env("EVENTS_CONNECTION_STRING", events);
        Sdk::start(&mut python)
    }
}

/// A process and the lines of JSON it prints.
struct Sdk {
    process: Child,
    lines: Receiver<String>,
}

impl Sdk {
    fn start(command: &mut Command) -> Self {
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut process = spawned.expect("it runs; tests/run installs it");
        let output = process.stdout.take().expect("piped");
        let (sender, lines) = sync_channel(1_000);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// Waits on the test's own thread; the hub runs on others.
    fn says(&self, expected: Value) {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("silent instead of {expected}"));
        let said: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        assert_eq!(said, expected);
    }

    fn ends(mut self) {
        assert!(self.process.wait().expect("a status").success());
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_of_devices_and_back_ends_speak_with_the_emulator() {
    let rig = Rig::start().await;
    let device = rig.device();
    device.says(json!({"twin": 1}));
    device.says(json!({"reported": true}));
    device.says(json!({"sent": 20}));
    let messages = rig.hub.ledger().messages(Some(DEVICE), 0, 100);
    assert_eq!(messages.len(), 20);
    assert_eq!(messages[7].property("number"), Some("7"));

    let python = rig.python_back_end();
    python.says(json!({"registry": 404}));
    python.says(json!({"twin": ["python", 21]}));
    device.says(json!({"desired": {"by": "python", "$version": 2}}));
    python.says(json!({"query": [DEVICE]}));
    device.says(json!({"method": {"by": "python"}}));
    python.says(json!({"answer": [207, {"seen": {"by": "python"}}]}));
    python.says(json!({"events": [true, ["{\"n\":0}", "0"]]}));
    python.says(json!({"sent": true}));
    device.says(json!({"command": "from python"}));
    python.ends();

    let node = rig.node_back_end();
    node.says(json!({"registry": true}));
    device.says(json!({"method": {"by": "node"}}));
    let answer = json!({"status": 207, "payload": {"seen": {"by": "node"}}});
    node.says(json!({ "answer": answer }));
    node.says(json!({"offline": 404_103}));
    device.says(json!({"command": "from node"}));
    node.says(json!({"feedback": [["command-of-node", "Success"]]}));
    node.ends();
    rig.hub.stop().await;
}
