//! One port, every kind of device, in one run: whole, and with all it sends cut to single bytes.
//!
//! PSK over TLS 1.2 is OpenSSL's own `s_client`, suite by suite; with `--features interop` the PSK
//! device of TLS 1.3 is `mosquitto_pub` itself.

#[path = "../support/mod.rs"]
mod support;

mod s_client;
mod single_bytes;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use support::device::{Device, Transport, Who};
use support::{
    Bench, DEVICE_KEY, HUB, Options, PASSWORD, PSK, fleet_key, now, sas, scratch, secret,
};

/// Suites of small devices, each with a fleet device of its own.
const SUITES: [&str; 3] = [
    "PSK-AES128-GCM-SHA256",
    "PSK-AES128-CCM8",
    "ECDHE-PSK-CHACHA20-POLY1305",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// A self-signed certificate: its files, and its DER.
fn self_signed(dir: &Path, id: &str) -> (PathBuf, PathBuf, Vec<u8>) {
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, id);
    let pair = rcgen::KeyPair::generate().expect("key");
    let certificate = params.self_signed(&pair).expect("certificate");
    let (pem, key) = (dir.join(format!("{id}.pem")), dir.join(format!("{id}.key")));
    std::fs::write(&pem, certificate.pem()).expect("written");
    secret(&key, &pair.serialize_pem());
    (pem, key, certificate.der().to_vec())
}

/// A device that speaks through the test's own client.
struct Honest {
    transport: Transport,
    who: Who,
}

/// The box, and the files of the devices that registered themselves.
struct Port {
    bench: Bench,
    registered: Vec<(&'static str, PathBuf, PathBuf)>,
    /// Removed with the port.
    dir: PathBuf,
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Port {
    async fn open(name: &str) -> Self {
        let dir = scratch(&format!("{name}-own"));
        let mut rules = String::new();
        let mut emulator = String::new();
        let mut registered = Vec::new();
        for id in ["self-sha256", "self-sha1"] {
            let (pem, key, der) = self_signed(&dir, id);
            let print = match id {
                "self-sha1" => hex(&Sha1::digest(&der)),
                _ => hex(&Sha256::digest(&der)),
            };
            let _ = writeln!(
                rules,
                "[[device]]\nid = \"{id}\"\nx509 = {{ thumbprint = \"{print}\" }}"
            );
            let _ = writeln!(emulator, "[[device]]\nid = \"{id}\"");
            registered.push((id, pem, key));
        }
        let options = Options {
            rules,
            emulator,
            fleet: SUITES.len(),
            ..Options::default()
        };
        let bench = Bench::start(name, options).await;
        Self {
            bench,
            registered,
            dir,
        }
    }

    fn honest(&self) -> Vec<Honest> {
        let dir = &self.bench.dir;
        let tls = |certificate| Transport::Tls {
            ca: dir.join("ca.pem"),
            certificate,
        };
        let psk = Transport::Psk {
            identity: "psk-1".to_owned(),
            key: PSK.to_vec(),
            tls13: true,
        };
        let token = sas(DEVICE_KEY, &format!("{HUB}/devices/sas-1"), now() + 3600);
        let user = format!("{HUB}/sas-1/?api-version=2021-04-12");
        let by_ca = Some((dir.join("cert-1.pem"), dir.join("cert-1.key")));
        let mut devices = vec![
            (psk, Who::id("psk-1")),
            (tls(by_ca), Who::id("cert-1")),
            (tls(None), Who::login("sas-1", &user, &token)),
            (tls(None), Who::login("pass-1", "pass-1", PASSWORD)),
        ];
        for (id, pem, key) in &self.registered {
            devices.push((tls(Some((pem.clone(), key.clone()))), Who::id(id)));
        }
        let devices = devices.into_iter();
        devices
            .map(|(transport, who)| Honest { transport, who })
            .collect()
    }

    /// Every device publishes one message to `address` and has its PUBACK.
    async fn all_publish(&self, address: SocketAddr, how: &str) {
        for Honest { transport, who } in self.honest() {
            let id = &who.client_id;
            let connected = Device::try_connect(address, &transport, &who).await;
            let connected = connected.unwrap_or_else(|error| panic!("{id} {how}: {error}"));
            let mut device = connected.unwrap_or_else(|code| panic!("{id} {how}: {code:?}"));
            let topic = format!("devices/{id}/messages/events/");
            let sent = device
                .publish(&topic, format!("{id} {how}").as_bytes())
                .await;
            sent.unwrap_or_else(|error| panic!("{id} {how}: {error}"));
            device.goodbye().await.expect("closed");
        }
        for (index, suite) in SUITES.iter().enumerate() {
            let id = format!("load-{index}");
            let body = format!("{id} {how}");
            let (key, suite) = (fleet_key(index), *suite);
            let ran = tokio::task::spawn_blocking(move || {
                s_client::publish(address, suite, &id, &key, &body);
            });
            ran.await.unwrap_or_else(|_| panic!("{suite} {how}"));
        }
    }

    /// The bodies at the hub, sorted.
    fn accepted(&self) -> Vec<String> {
        let accepted = support::fleet::ledger(&self.bench.emulator).into_iter();
        let mut bodies: Vec<_> = accepted
            .map(|message| {
                let body = String::from_utf8(message.body).expect("text");
                assert!(body.starts_with(&format!("{} ", message.device)), "{body}");
                body
            })
            .collect();
        bodies.sort();
        bodies
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_every_kind_of_device_whole_and_in_single_bytes() {
    let port = Port::open("kinds").await;
    let whole = port.bench.mqtt();
    port.all_publish(whole, "whole").await;
    let cut = single_bytes::in_front_of(whole).await;
    port.all_publish(cut, "in single bytes").await;

    let ids = [
        "cert-1",
        "load-0",
        "load-1",
        "load-2",
        "pass-1",
        "psk-1",
        "sas-1",
        "self-sha1",
        "self-sha256",
    ];
    let mut expected = Vec::new();
    for id in ids {
        expected.push(format!("{id} whole"));
        expected.push(format!("{id} in single bytes"));
    }
    expected.sort();
    assert_eq!(port.accepted(), expected);
    for (credential, version, count) in [
        ("psk", "1.2", 6.0),
        ("psk", "1.3", 2.0),
        ("x509", "1.3", 6.0),
        ("none", "1.3", 4.0),
    ] {
        let labels = [
            format!("credential=\"{credential}\""),
            format!("tls_version=\"{version}\""),
            "result=\"ok\"".to_owned(),
        ];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let shaken = port.bench.metric("handshakes_total", &labels).await;
        assert_eq!(shaken, count, "{credential} {version}");
    }
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_publishes_over_psk_in_tls_1_3() {
    let port = Port::open("kinds-mosquitto").await;
    let whole = port.bench.mqtt();
    let cut = single_bytes::in_front_of(whole).await;
    for (address, body) in [(whole, "psk-1 whole"), (cut, "psk-1 in single bytes")] {
        let ran = tokio::task::spawn_blocking(move || {
            std::process::Command::new("timeout")
                .args([
                    "20",
                    "mosquitto_pub",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &address.port().to_string(),
                ])
                .args([
                    "--psk-identity",
                    "psk-1",
                    "--psk",
                    &hex(PSK),
                    "-i",
                    "psk-1",
                    "-q",
                    "1",
                ])
                .args(["-t", "devices/psk-1/messages/events/", "-m", body])
                .status()
                .expect("mosquitto_pub runs")
        });
        assert!(ran.await.expect("joined").success(), "{body}");
    }
    assert_eq!(port.accepted(), ["psk-1 in single bytes", "psk-1 whole"]);
    let labels = ["credential=\"psk\"", "tls_version=\"1.3\"", "result=\"ok\""];
    assert_eq!(port.bench.metric("handshakes_total", &labels).await, 2.0);
}
