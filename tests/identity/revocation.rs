//! A certificate is revoked, or its CA removed, while its device is connected.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Options, PSK, scratch, secret};
use crate::{closed, counted, edit, psk, reloaded, start};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::fs;
use std::path::Path;
use time::OffsetDateTime;

fn ca() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let name = "plant ca";
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("key");
    let pem = params.self_signed(&key).expect("CA").pem();
    (Issuer::new(params, key), pem)
}

fn device(dir: &Path, issuer: &Issuer<'_, KeyPair>, name: &str, serial: u64) {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("key");
    let pem = params.signed_by(&key, issuer).expect("certificate").pem();
    fs::write(dir.join(format!("{name}.pem")), pem).expect("written");
    secret(&dir.join(format!("{name}.key")), &key.serialize_pem());
}

fn crl(issuer: &Issuer<'_, KeyPair>, number: u64, revoked: &[u64]) -> String {
    let now = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(crate::support::now() as i64);
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: now - time::Duration::hours(1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: now - time::Duration::hours(1),
        next_update: now + time::Duration::days(1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuer).expect("list");
    list.pem().expect("PEM")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_and_a_removed_ca_close_their_sessions() {
    let dir = scratch("revocation-files");
    let (issuer, ca_pem) = ca();
    fs::write(dir.join("plant.pem"), &ca_pem).expect("written");
    fs::write(dir.join("crl.pem"), crl(&issuer, 1, &[99])).expect("written");
    device(&dir, &issuer, "cert-1", 0x8001);
    device(&dir, &issuer, "load-0", 2);
    let file = |name: &str| dir.join(name).display().to_string();
    let mut options = Options {
        fleet: 1,
        ..Options::default()
    };
    options.gateway = format!(
        "[[listener]]\nname = \"plant\"\nbind = \"127.0.0.1:0\"\naccept = [\"x509\"]\n\
         tls = {{ cert = \"server.pem\", key = \"server.key\", client_ca = {:?}, crl = {:?} }}\n",
        file("plant.pem"),
        file("crl.pem"),
    );
    let bench = start("revocation", options).await;
    // The rules keep the first CA: what closes the sessions is the listener's own files.
    fs::write(bench.dir.join("plant.pem"), &ca_pem).expect("written");
    edit(
        &bench.dir.join("rules.toml"),
        "[[rule]]",
        "[[rule]]\nname = \"plant\"\nwhen = { credential = \"x509\", issuer_ca = \"plant.pem\" }\n\
         device_id = \"{cn}\"\nallow = [\"telemetry\"]\n[[rule]]",
    );
    reloaded(&bench, "ok", 1.0).await;
    let plant = bench.gateway.listener("plant").expect("listener");
    let of = |folder: &Path, name: &str| Transport::Tls {
        ca: bench.dir.join("ca.pem"),
        certificate: Some((
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        )),
    };
    let mut first = Device::connect(plant, &of(&dir, "cert-1"), &Who::id("cert-1")).await;
    let mut second = Device::connect(plant, &of(&dir, "load-0"), &Who::id("load-0")).await;
    let mut third =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;

    fs::write(dir.join("crl.pem"), crl(&issuer, 2, &[99, 0x8001])).expect("written");
    closed(&mut first).await;
    counted(&bench, "rights_revoked", 1.0).await;
    second.ping().await.expect("not revoked");
    let again = Device::try_connect(plant, &of(&dir, "cert-1"), &Who::id("cert-1")).await;
    assert!(again.is_err(), "revoked");

    // Another CA of the same name, with its own list.
    let (issuer, ca_pem) = ca();
    fs::write(dir.join("plant.pem"), &ca_pem).expect("written");
    fs::write(dir.join("crl.pem"), crl(&issuer, 1, &[99])).expect("written");
    closed(&mut second).await;
    counted(&bench, "rights_revoked", 2.0).await;
    third.ping().await.expect("untouched");
}
