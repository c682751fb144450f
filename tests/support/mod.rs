//! A gateway and a hub in a box, on loopback ports of their own.
#![allow(dead_code)] // each test binary uses its part

pub mod certificates;
pub mod collector;
pub mod device;
pub mod fleet;
pub mod http;
pub mod logfmt;
pub mod process;
pub mod proxy;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use certificates::Authority;
use device::Transport;
use hmac::{Hmac, KeyInit, Mac};
use iothub_gateway::emulator::{Emulator, EmulatorConfig, EmulatorHandle};
use iothub_gateway::gateway::{Gateway, load};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const HUB: &str = "test.azure-devices.net";

/// Marked, so that a search for leaks finds them.
pub const POLICY_KEY: &[u8] = b"MARKER-POLICY-KEY-0123456789abcdef";
pub const POLICY_KEY_2: &[u8] = b"MARKER-POLICY-KEY-2-3456789abcdef";
pub const DEVICE_KEY: &[u8] = b"MARKER-DEVICE-KEY-0123456789abcde";
pub const PSK: &[u8] = b"MARKER-PSK-KEY01";
pub const PASSWORD: &str = "MARKER-PASSWORD";

/// What a test changes in the box.
#[derive(Clone)]
pub struct Options {
    pub token_ttl: &'static str,
    /// Lines for the `[hub]` table of `gateway.toml`.
    pub hub: String,
    /// Put a fault proxy between gateway and hub.
    pub proxied: bool,
    /// Lines for the `[[listener]]` table of the TLS port.
    pub listener: String,
    /// Lines for `gateway.toml`, e.g. a `[limits]` table.
    pub gateway: String,
    /// Lines for `emulator.toml`.
    pub emulator: String,
    /// Lines for `rules.toml`.
    pub rules: String,
    /// `rules.refused_folder` is `refused`.
    pub refused_folder: bool,
    /// Devices `load-0 …` with PSK `fleet_key`.
    pub fleet: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token_ttl: "1h",
            hub: String::new(),
            proxied: false,
            listener: String::new(),
            gateway: String::new(),
            emulator: String::new(),
            rules: String::new(),
            refused_folder: false,
            fleet: 0,
        }
    }
}

/// A folder of its own below the build directory, empty.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("scratch folder");
    dir
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The PSK of a fleet device.
pub fn fleet_key(index: usize) -> Vec<u8> {
    format!("fleet-key-{index:010}").into_bytes()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    #[allow(clippy::disallowed_methods)] // tests mint tokens against the real clock
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// A SAS token made by the test's own code.
pub fn sas(key: &[u8], scope: &str, expiry: u64) -> String {
    let scope = percent_encoding::utf8_percent_encode(scope, percent_encoding::NON_ALPHANUMERIC);
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("any length");
    mac.update(format!("{scope}\n{expiry}").as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    let signature =
        percent_encoding::utf8_percent_encode(&signature, percent_encoding::NON_ALPHANUMERIC);
    format!("SharedAccessSignature sr={scope}&sig={signature}&se={expiry}")
}

/// The folder's certificates: `ca.pem`, `server.*`, `device-ca.pem`, `cert-1.*`.
fn certificates(dir: &Path) {
    let authority = |name: &str| {
        let made = Authority::new(name);
        fs::write(dir.join(format!("{name}.pem")), &made.pem).expect("written");
        made
    };
    let server = certificates::server(&["localhost", "127.0.0.1"]);
    authority("ca").sign(dir, "server", server);
    authority("device-ca").sign(dir, "cert-1", certificates::device("cert-1"));
}

/// Writes a file only its owner may read.
pub fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
}

/// Hub and gateway, running in this process.
pub struct Bench {
    pub dir: PathBuf,
    pub emulator: EmulatorHandle,
    pub gateway: Gateway,
    pub proxy: Option<proxy::Proxy>,
    options: Options,
}

/// Writes every file of the box but `gateway.toml`, and starts the hub.
pub async fn hub_in(dir: &Path, options: &Options) -> EmulatorHandle {
    files_in(dir, options);
    start_hub(dir, options, 0, 0).await
}

/// Writes every file of the box but `gateway.toml`.
pub fn files_in(dir: &Path, options: &Options) {
    certificates(dir);
    secret(&dir.join("hub-key"), &BASE64.encode(POLICY_KEY));
    secret(&dir.join("hub-key-2"), &BASE64.encode(POLICY_KEY_2));
    let rules = format!("{}{}", rules(), options.rules);
    secret(&dir.join("rules.toml"), &rules);
    // A file without an identity is refused, as one that was cut off.
    let mut fleet = format!("nobody-else:{}\n", hex(b"a key nobody has"));
    for index in 0..options.fleet {
        let _ = writeln!(fleet, "load-{index}:{}", hex(&fleet_key(index)));
    }
    secret(&dir.join("fleet.psk"), &fleet);
}

/// Starts a gateway in front of the hub on port `amqp`, and waits until it is ready.
pub async fn gateway_in(dir: &Path, options: &Options, amqp: u16) -> Gateway {
    let path = dir.join("gateway.toml");
    fs::write(&path, gateway_toml(options, amqp, 0, 0, 0)).expect("written");
    let loaded = load(&path).unwrap_or_else(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", problems.join("\n"))
    });
    let gateway = Gateway::start(loaded.config, loaded.rules)
        .await
        .expect("gateway starts");
    gateway.watch(loaded.sources);
    if !gateway.ready(Duration::from_secs(20)).await {
        let admin = gateway.admin();
        let ask = move || http::request(admin, "GET", "/ready", "").1;
        let why = tokio::task::spawn_blocking(ask).await.expect("asked");
        panic!("not ready in time: {why}");
    }
    gateway
}

/// Starts the hub on these ports.
pub async fn start_hub(dir: &Path, options: &Options, amqp: u16, control: u16) -> EmulatorHandle {
    let text = emulator_toml(options, amqp, control);
    let config = EmulatorConfig::from_toml(&text, dir).expect("emulator configuration");
    Emulator::start(config).await.expect("emulator starts")
}

pub fn emulator_toml(options: &Options, amqp: u16, control: u16) -> String {
    let mut text = format!(
        "[amqp]\nbind = \"127.0.0.1:{amqp}\"\n\
         tls = {{ cert = \"server.pem\", key = \"server.key\" }}\n\
         [control]\nbind = \"127.0.0.1:{control}\"\n[hub]\nhost = \"{HUB}\"\n\
         [[policy]]\nname = \"device\"\nrights = [\"DeviceConnect\"]\n\
         primary_key = \"{}\"\nsecondary_key = \"{}\"\n{}\n",
        BASE64.encode(POLICY_KEY),
        BASE64.encode(POLICY_KEY_2),
        options.emulator,
    );
    for id in ["psk-1", "sas-1", "pass-1", "cert-1"] {
        let _ = writeln!(text, "[[device]]\nid = \"{id}\"");
    }
    if options.fleet > 0 {
        let _ = writeln!(
            text,
            "[[device_range]]\nprefix = \"load-\"\ncount = {}",
            options.fleet
        );
    }
    text
}

fn rules() -> String {
    // The cheapest argon2id cost, so that tests do not spend their time hashing.
    let hash = argon2_hash(PASSWORD);
    format!(
        "[[device]]\nid = \"psk-1\"\npsk = {{ identity = \"psk-1\", key = \"hex:{}\" }}\n\
         [[device]]\nid = \"sas-1\"\nsas = {{ primary_key = \"{}\" }}\n\
         [[device]]\nid = \"pass-1\"\npassword = {{ username = \"pass-1\", hash = \"{hash}\" }}\n\
         [[rule]]\nname = \"certificates\"\n\
         when = {{ credential = \"x509\", issuer_ca = \"device-ca.pem\", identity = \"cert-*\" }}\n\
         device_id = \"{{cn}}\"\nallow = [\"telemetry\", \"commands\"]\n\
         [[psk_file]]\npath = \"fleet.psk\"\n",
        hex(PSK),
        BASE64.encode(DEVICE_KEY),
    )
}

pub fn argon2_hash(password: &str) -> String {
    use argon2::PasswordHasher;
    let params = argon2::Params::new(8, 1, 1, None).expect("parameters");
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon
        .hash_password_with_salt(password.as_bytes(), b"0123456789abcdef")
        .expect("hash")
        .to_string()
}

/// The hub's TLS port.
pub fn amqps_port(emulator: &EmulatorHandle) -> u16 {
    emulator.amqps_addr().expect("bound").port()
}

/// The gateway's configuration against a hub on port `amqp`.
pub fn gateway_toml(options: &Options, amqp: u16, mqtt: u16, plain: u16, admin: u16) -> String {
    format!(
        "[hub]\nhost = \"{HUB}\"\npolicy = \"device\"\nkey = \"${{file:hub-key}}\"\n\
         secondary_key = \"${{file:hub-key-2}}\"\nendpoint = \"amqps://localhost:{amqp}\"\n\
         ca = \"ca.pem\"\ntoken_ttl = \"{}\"\n{}\n\
         [[listener]]\nname = \"devices\"\nbind = \"127.0.0.1:{mqtt}\"\n\
         tls = {{ cert = \"server.pem\", key = \"server.key\", client_ca = \"device-ca.pem\" }}\n\
         accept = [\"psk\", \"x509\", \"sas\", \"password\"]\n{}\
         [[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:{plain}\"\n\
         accept = [\"sas\", \"password\"]\n\
         [rules]\nfiles = [\"rules.toml\"]\n{}[admin]\nbind = \"127.0.0.1:{admin}\"\n{}\n",
        options.token_ttl,
        options.hub,
        options.listener,
        if options.refused_folder {
            "refused_folder = \"refused\"\n"
        } else {
            ""
        },
        options.gateway,
    )
}

impl Bench {
    /// Starts hub and gateway, and waits until the gateway is ready.
    pub async fn start(name: &str, options: Options) -> Self {
        let dir = scratch(name);
        let emulator = hub_in(&dir, &options).await;
        let mut amqp = amqps_port(&emulator);
        let mut proxy = None;
        if options.proxied {
            let started = proxy::Proxy::start(emulator.amqps_addr().expect("bound")).await;
            amqp = started.address().port();
            proxy = Some(started);
        }
        let gateway = gateway_in(&dir, &options, amqp).await;
        Self {
            dir,
            emulator,
            gateway,
            proxy,
            options,
        }
    }

    /// The TLS listener.
    pub fn mqtt(&self) -> SocketAddr {
        self.gateway.listener("devices").expect("listener")
    }

    /// The plain listener.
    pub fn plain(&self) -> SocketAddr {
        self.gateway.listener("plain").expect("listener")
    }

    /// The metrics as scraped.
    pub async fn metrics(&self) -> String {
        let address = self.gateway.admin();
        tokio::task::spawn_blocking(move || http::get(address, "/metrics"))
            .await
            .expect("scrape")
    }

    /// One metric summed over the series that carry these labels.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        http::metric(
            &self.metrics().await,
            &format!("iothub_gateway_{name}"),
            labels,
        )
    }

    /// Waits until a metric is at least `goal`: a connection is counted after its socket closed.
    pub async fn reaches(&self, name: &str, labels: &[&str], goal: f64) {
        let reached = tokio::time::timeout(Duration::from_secs(20), async {
            while self.metric(name, labels).await < goal {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if reached.await.is_err() {
            panic!(
                "{name} {labels:?} stays below {goal}:\n{}",
                self.metrics().await
            );
        }
    }

    /// Waits until a gauge is at most `goal`.
    pub async fn falls(&self, name: &str, goal: f64) {
        let fallen = tokio::time::timeout(Duration::from_secs(20), async {
            while self.metric(name, &[]).await > goal {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(fallen.await.is_ok(), "{name} stays above {goal}");
    }

    fn control_address(&self) -> SocketAddr {
        self.emulator.control_addr().expect("bound")
    }

    /// A call of the hub's control API.
    pub async fn control(&self, method: &'static str, path: &str, body: &str) -> (u16, String) {
        let address = self.control_address();
        let (path, body) = (path.to_owned(), body.to_owned());
        tokio::task::spawn_blocking(move || http::request(address, method, &path, &body))
            .await
            .expect("control call")
    }

    /// TLS as a device that checks the server's certificate.
    pub fn tls(&self) -> Transport {
        Transport::Tls {
            ca: self.dir.join("ca.pem"),
            certificate: None,
        }
    }

    /// Stops the hub, and gives what it had accepted and its ports.
    pub async fn stop_hub(self) -> (StoppedHub, Vec<fleet::Accepted>) {
        let ports = (amqps_port(&self.emulator), self.control_address().port());
        let ledger = self.emulator.ledger().clone();
        self.emulator.stop().await;
        let accepted = fleet::messages(&ledger);
        let stopped = StoppedHub {
            dir: self.dir,
            gateway: self.gateway,
            proxy: self.proxy,
            options: self.options,
            ports,
        };
        (stopped, accepted)
    }
}

/// A box whose hub is down.
pub struct StoppedHub {
    pub dir: PathBuf,
    pub gateway: Gateway,
    proxy: Option<proxy::Proxy>,
    options: Options,
    ports: (u16, u16),
}

impl StoppedHub {
    /// Starts the hub again on the ports it had; its ledger starts empty.
    pub async fn restart(self) -> Bench {
        let emulator = start_hub(&self.dir, &self.options, self.ports.0, self.ports.1).await;
        Bench {
            dir: self.dir,
            emulator,
            gateway: self.gateway,
            proxy: self.proxy,
            options: self.options,
        }
    }
}
