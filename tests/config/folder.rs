//! A folder with a configuration, its certificates and keys, removed at the end of the test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Base64 of a marked key: must never be seen in any output.
pub const KEY: &str = "bWFya2VkLXNlY3JldC1rZXktZG8tbm90LXByaW50ISE=";
/// The same, another key.
pub const KEY_2: &str = "c2Vjb25kLW1hcmtlZC1rZXktZG8tbm90LXByaW50ISE=";

/// The least that is good.
pub const GOOD: &str = r#"
[hub]
host = "h.example"
policy = "device"
key = "${file:hub.key}"

[[listener]]
name = "devices"
bind = "127.0.0.1:1883"

[rules]
files = ["rules.toml"]
"#;

pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// A folder with `hub.key` and a `rules.toml` that admits nobody.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iothub-gateway-config-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        let folder = Self { root };
        folder.write("hub.key", &format!("{KEY}\n"), 0o600);
        folder.write("rules.toml", "[[rule]]\ndeny = true\n", 0o600);
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Writes `text` as `gateway.toml`.
    pub fn gateway(&self, text: &str) -> PathBuf {
        self.write("gateway.toml", text, 0o600)
    }

    /// Makes an authority `ca.pem`, and `server.pem` with `server.key` signed by it, in `below`.
    pub fn certificates(&self, below: &str) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server_pem = server.signed_by(&key, &issuer).unwrap().pem();
        let at = |name: &str| Path::new(below).join(name).display().to_string();
        self.write(&at("ca.pem"), &ca_pem, 0o644);
        self.write(&at("device-ca.pem"), &ca_pem, 0o644);
        self.write(&at("server.pem"), &server_pem, 0o644);
        self.write(&at("server.key"), &key.serialize_pem(), 0o600);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
