//! A folder with a gateway's files, and the binary run in it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The configuration of every test here; certificates lie beside it.
pub const GATEWAY: &str = r#"
[hub]
host = "myhub.azure-devices.net"
policy = "device"
key = "${file:hub.key}"
endpoint = "amqp://127.0.0.1:5672"

[[listener]]
name = "devices"
bind = "127.0.0.1:8883"
tls = { cert = "server.pem", key = "server.key", client_ca = "plant-a.pem" }

[[listener]]
name = "local"
bind = "127.0.0.1:1883"
accept = ["password"]

[rules]
files = ["rules.toml"]
"#;

/// Two devices, one with a password.
pub const RULES: &str = r#"
[[device]]
id = "thermo-1"
psk = { identity = "thermo-1", key = "hex:00112233445566778899aabbccddeeff" }

[[device]]
id = "valve-9"
allow = ["commands"]

[device.password]
username = "valve"
hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

[[rule]]
name = "plant A"
when = { credential = "x509", issuer_ca = "plant-a.pem", identity = "plant-a-*" }
device_id = "{cn}"
"#;

impl Folder {
    /// With a configuration, certificates and keys, and `RULES`.
    pub fn new() -> Self {
        let folder = Self::empty();
        folder.write("gateway.toml", GATEWAY);
        folder.write("rules.toml", RULES);
        folder.write("hub.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
        folder.authority("plant-a");
        folder.server(2100);
        folder
    }

    pub fn empty() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cli-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("folder");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file only its owner can read.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
        self.mode(name, 0o600);
    }

    pub fn mode(&self, name: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), mode).expect("mode");
    }

    /// A CA certificate in `name.pem`.
    pub fn authority(&self, name: &str) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("CA").pem();
        self.write(&format!("{name}.pem"), &pem);
    }

    /// The server's certificate, valid to the first day of a year.
    pub fn server(&self, until: i32) {
        let day = rcgen::date_time_ymd(until, 1, 1);
        self.server_until(|params| params.not_after = day);
    }

    pub fn server_until(&self, change: impl FnOnce(&mut CertificateParams)) {
        let ca_key = KeyPair::generate().expect("key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(ca, ca_key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        let server = params.signed_by(&key, &issuer).expect("certificate");
        self.write("server.pem", &server.pem());
        self.write("server.key", &key.serialize_pem());
    }

    /// A line of shell in the folder; `iothub-gateway` is the binary under test.
    pub fn command(&self, line: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_iothub-gateway"));
        let bin = binary.parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(&self.0)
            .env("PATH", format!("{bin}:{path}"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a line of shell to its end.
    pub fn sh(&self, line: &str) -> Done {
        let limited = self
            .command("exec timeout 60 sh -c \"$LINE\"")
            .env("LINE", line)
            .output();
        self.done(limited.expect("sh runs"))
    }

    pub fn done(&self, output: Output) -> Done {
        Done {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// `check` with further arguments.
    pub fn check(&self, arguments: &str) -> Done {
        self.sh(&format!("iothub-gateway check -c gateway.toml {arguments}"))
    }
}
