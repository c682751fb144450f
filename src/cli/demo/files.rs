//! The demo's files: development certificates, sample devices, and the three configuration files
//! that `run` and `emulator` would take just the same.

use crate::auth::rules::encoding::encode_hex;
use crate::runtime::clock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};
use time::OffsetDateTime;

/// Host name of the demo's hub; names token audiences, is never looked up.
pub const HUB_HOST: &str = "demo.azure-devices.net";

/// The simulated device.
pub const SIMULATED: &str = "sim-1";

/// Where everything is and which ports it names.
pub struct Layout {
    /// The folder.
    pub dir: PathBuf,
    /// Port of the gateway's device listener.
    pub mqtt_port: u16,
    /// Port of the gateway's admin server.
    pub admin_port: u16,
    /// Port of the emulator's AMQP over TLS.
    pub amqp_port: u16,
    /// Port of the emulator's control API.
    pub control_port: u16,
}

/// Secrets of the sample devices, made once and kept in `devices.toml` of the folder. They are
/// development material: the demo prints them in the commands it offers.
#[derive(serde::Deserialize)]
pub struct Samples {
    /// Hex PSK of `thermo-1`.
    pub psk_hex: String,
    /// Base64 device key of `pump-3`.
    pub sas_key: String,
    /// Password of `valve-9`.
    pub password: String,
    /// Its argon2id hash.
    pub password_hash: String,
    /// Base64 device key of the simulated device.
    pub simulated_key: String,
    /// Base64 primary key of the hub policy.
    pub policy_key: String,
    /// Base64 secondary key of the hub policy.
    pub policy_secondary: String,
}

impl Samples {
    /// Hex, base64 and hashes need no escapes.
    fn toml(&self) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("psk_hex", &self.psk_hex),
            ("sas_key", &self.sas_key),
            ("password", &self.password),
            ("password_hash", &self.password_hash),
            ("simulated_key", &self.simulated_key),
            ("policy_key", &self.policy_key),
            ("policy_secondary", &self.policy_secondary),
        ] {
            let _ = writeln!(text, "{key} = \"{value}\"");
        }
        text
    }
}

impl Layout {
    /// A file of the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes what is missing; configuration files are written afresh, since they hold the ports.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn prepare(&self) -> io::Result<Samples> {
        fs::create_dir_all(&self.dir)?;
        if !self.path("device-ca.pem").exists() {
            self.certificates()
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        let samples = self.samples()?;
        write(&self.path("hub-key"), &samples.policy_key, true)?;
        write(&self.path("hub-key-2"), &samples.policy_secondary, true)?;
        write(&self.path("gateway.toml"), &self.gateway_toml(), false)?;
        write(&self.path("rules.toml"), &rules_toml(&samples), true)?;
        write(
            &self.path("emulator.toml"),
            &self.emulator_toml(&samples),
            true,
        )?;
        write(&self.path("tls12.cnf"), TLS12, false)?;
        Ok(samples)
    }

    fn samples(&self) -> io::Result<Samples> {
        let path = self.path("devices.toml");
        if let Ok(text) = fs::read_to_string(&path) {
            return toml::from_str(&text).map_err(|error| {
                let fix = "delete the folder to start afresh";
                io::Error::other(format!("{}: {error}; {fix}", path.display()))
            });
        }
        let password = encode_hex(&random::<8>()?).to_string();
        let password_hash =
            crate::auth::password::hash_password(password.as_bytes(), &random::<16>()?)
                .map_err(|error| io::Error::other(error.to_string()))?;
        let samples = Samples {
            psk_hex: encode_hex(&random::<16>()?).to_string(),
            sas_key: BASE64.encode(random::<32>()?),
            password,
            password_hash,
            simulated_key: BASE64.encode(random::<32>()?),
            policy_key: BASE64.encode(random::<32>()?),
            policy_secondary: BASE64.encode(random::<32>()?),
        };
        write(&path, &samples.toml(), true)?;
        Ok(samples)
    }

    /// A CA for the servers, one for devices, a certificate of each.
    fn certificates(&self) -> Result<(), Box<dyn std::error::Error>> {
        let server_ca = Authority::new("iothub-gateway demo CA")?;
        let names = ["localhost", "127.0.0.1", "::1", HUB_HOST].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        limit_validity(&mut params)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        let (cert, key) = server_ca.sign(params)?;
        write(&self.path("server.pem"), &cert, false)?;
        write(&self.path("server.key"), &key, true)?;
        write(&self.path("ca.pem"), &server_ca.pem, false)?;

        let device_ca = Authority::new("iothub-gateway demo device CA")?;
        let mut params = CertificateParams::default();
        limit_validity(&mut params)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, "press-7");
        let (cert, key) = device_ca.sign(params)?;
        write(&self.path("press-7.pem"), &cert, false)?;
        write(&self.path("press-7.key"), &key, true)?;
        write(&self.path("device-ca.pem"), &device_ca.pem, false)?;
        Ok(())
    }

    fn gateway_toml(&self) -> String {
        format!(
            r#"# Made by `iothub-gateway demo`; also runs with: iothub-gateway run -c gateway.toml
[hub]
host = "{HUB_HOST}"
policy = "device"
key = "${{file:hub-key}}"
secondary_key = "${{file:hub-key-2}}"
endpoint = "amqps://localhost:{amqp}"
ca = "ca.pem"
connections = 2

[[listener]]
name = "devices"
bind = "127.0.0.1:{mqtt}"
tls = {{ cert = "server.pem", key = "server.key", client_ca = "device-ca.pem" }}
accept = ["psk", "x509", "sas", "password"]

[rules]
files = ["rules.toml"]

[admin]
bind = "127.0.0.1:{admin}"

[shutdown]
announce = "0s"
settle = "300ms"
close = "1s"
"#,
            amqp = self.amqp_port,
            mqtt = self.mqtt_port,
            admin = self.admin_port,
        )
    }

    fn emulator_toml(&self, samples: &Samples) -> String {
        let mut text = format!(
            r#"# Made by `iothub-gateway demo`; also for: iothub-gateway emulator -c emulator.toml
[amqp]
bind = "127.0.0.1:{amqp}"
tls = {{ cert = "server.pem", key = "server.key" }}

[control]
bind = "127.0.0.1:{control}"

[hub]
host = "{HUB_HOST}"

[[policy]]
name = "device"
rights = ["DeviceConnect"]
primary_key = "{primary}"
secondary_key = "{secondary}"
"#,
            amqp = self.amqp_port,
            control = self.control_port,
            primary = samples.policy_key,
            secondary = samples.policy_secondary,
        );
        for id in ["thermo-1", "press-7", "pump-3", "valve-9", SIMULATED] {
            let _ = write!(text, "\n[[device]]\nid = \"{id}\"\n");
        }
        text
    }
}

fn rules_toml(samples: &Samples) -> String {
    format!(
        r#"# Made by `iothub-gateway demo`: one device of each kind.
[[device]]
id = "thermo-1"
psk = {{ identity = "thermo-1", key = "hex:{psk}" }}

[[device]]
id = "pump-3"
sas = {{ primary_key = "{sas}" }}

[[device]]
id = "valve-9"
password = {{ username = "valve-9", hash = "{hash}" }}

[[device]]
id = "{SIMULATED}"
sas = {{ primary_key = "{simulated}" }}

[[rule]]
name = "demo certificates"
when = {{ credential = "x509", issuer_ca = "device-ca.pem", identity = "press-*" }}
device_id = "{{cn}}"
"#,
        psk = samples.psk_hex,
        sas = samples.sas_key,
        hash = samples.password_hash,
        simulated = samples.simulated_key,
    )
}

/// Keeps an OpenSSL client at TLS 1.2, to show PSK of firmware that knows no 1.3.
const TLS12: &str = "openssl_conf = conf\n\n[conf]\nssl_conf = ssl\n\n[ssl]\n\
                     system_default = tls\n\n[tls]\nMaxProtocol = TLSv1.2\n";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let mut params = CertificateParams::default();
        limit_validity(&mut params)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    fn sign(&self, params: CertificateParams) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// From yesterday, for clocks that are late, for ten years.
fn limit_validity(params: &mut CertificateParams) -> Result<(), Box<dyn std::error::Error>> {
    let now = i64::try_from(clock::unix().as_secs())?;
    params.not_before = OffsetDateTime::from_unix_timestamp(now - 86_400)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + 3650 * 86_400)?;
    Ok(())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Writes a file, readable by its owner alone when it holds a secret.
fn write(path: &Path, text: &str, secret: bool) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(if secret { 0o600 } else { 0o644 });
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = options.open(path).map_err(named)?;
    file.write_all(text.as_bytes()).map_err(named)
}
