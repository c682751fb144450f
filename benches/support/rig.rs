//! Emulator and gateway, a process each, with a fleet they both know.

use super::process::{Server, free_port, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The hub's name.
pub const HUB: &str = "bench.azure-devices.net";
const POLICY_KEY: &[u8] = b"bench-policy-key-0123456789abcde";
/// Signs the SAS tokens of every device.
pub const DEVICE_KEY: &[u8] = b"bench-device-key-0123456789abcde";

/// See the module's header.
pub struct Rig {
    /// The gateway.
    pub gateway: Server,
    /// The hub.
    pub emulator: Server,
    /// TLS-PSK listener.
    pub psk: SocketAddr,
    /// Plain listener; devices come with SAS tokens.
    pub plain: SocketAddr,
}

/// The pre-shared key of `load-{index}`.
pub fn psk(index: usize) -> Vec<u8> {
    format!("bench-psk-{index:06}").into_bytes()
}

impl Rig {
    /// Starts both with devices `load-0 … load-{devices - 1}` and waits until they are ready.
    pub fn start(devices: usize) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-gateway");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let [amqps, control, psk, plain, admin] = std::array::from_fn(|_| free_port());
        certificates(&folder);
        secret(&folder, "hub-key", &BASE64.encode(POLICY_KEY));
        write_fleet(&folder, devices);
        let emulator = secret(
            &folder,
            "emulator.toml",
            &emulator_toml(amqps, control, devices),
        );
        let gateway = secret(
            &folder,
            "gateway.toml",
            &gateway_toml(amqps, psk, plain, admin),
        );
        let log = folder.join("emulator.log");
        let emulator = Server::start(&["emulator", "-c", &emulator], &log);
        wait_for(control, "/stats", &log);
        let log = folder.join("gateway.log");
        let gateway = Server::start(&["run", "-c", &gateway], &log);
        wait_for(admin, "/ready", &log);
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            gateway,
            emulator,
            psk: local(psk),
            plain: local(plain),
        }
    }
}

fn secret(folder: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = folder.join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    path.display().to_string()
}

fn certificates(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("an authority");
    secret(folder, "ca.pem", &ca.pem());
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let server = params.signed_by(&key, &issuer).expect("a certificate");
    secret(folder, "server.pem", &server.pem());
    secret(folder, "server.key", &key.serialize_pem());
}

fn write_fleet(folder: &Path, devices: usize) {
    let key = BASE64.encode(DEVICE_KEY);
    let (mut psks, mut rules) = (String::new(), String::new());
    for index in 0..devices {
        // An id stands in one place: PSK devices are load-, SAS devices are plain-.
        let _ = writeln!(
            psks,
            "load-{index}:raw:{}",
            String::from_utf8_lossy(&psk(index))
        );
        let sas = format!("{{ primary_key = \"{key}\" }}");
        let _ = writeln!(rules, "[[device]]\nid = \"plain-{index}\"\nsas = {sas}");
    }
    secret(folder, "fleet.psk", &psks);
    rules.push_str("[[psk_file]]\npath = \"fleet.psk\"\n");
    secret(folder, "rules.toml", &rules);
}

fn emulator_toml(amqps: u16, control: u16, devices: usize) -> String {
    format!(
        "[amqp]\nbind = \"127.0.0.1:{amqps}\"\n\
         tls = {{ cert = \"server.pem\", key = \"server.key\" }}\n\
         [control]\nbind = \"127.0.0.1:{control}\"\n[hub]\nhost = \"{HUB}\"\n\
         [[policy]]\nname = \"device\"\nrights = [\"DeviceConnect\"]\nprimary_key = \"{key}\"\n\
         [[device_range]]\nprefix = \"load-\"\ncount = {devices}\n\
         [[device_range]]\nprefix = \"plain-\"\ncount = {devices}\n\
         [limits]\nledger_bytes_max = 1048576\n",
        key = BASE64.encode(POLICY_KEY),
    )
}

fn gateway_toml(amqps: u16, psk: u16, plain: u16, admin: u16) -> String {
    format!(
        "[hub]\nhost = \"{HUB}\"\npolicy = \"device\"\nkey = \"${{file:hub-key}}\"\n\
         endpoint = \"amqps://localhost:{amqps}\"\nca = \"ca.pem\"\nconnections = 2\n\
         attach_rate = \"10000/s\"\n\
         [[listener]]\nname = \"psk\"\nbind = \"127.0.0.1:{psk}\"\naccept = [\"psk\"]\ntls = {{}}\n\
         [[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:{plain}\"\naccept = [\"sas\"]\n\
         [rules]\nfiles = [\"rules.toml\"]\n[admin]\nbind = \"127.0.0.1:{admin}\"\n\
         [limits]\nconnections = 1900\n[log]\nfilter = \"warn\"\n"
    )
}
