//! Files change under a running gateway.

use crate::support::device::{Device, Transport, Who};
use crate::support::process::Process;
use crate::support::{Options, PASSWORD, PSK, fleet_key, secret};
use crate::{closed, counted, edit, ended, logged, psk, reloaded, reloads, replace, start};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

const FLEET: usize = 51;
const FILE_LINES: usize = 100_000;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn fleet_line(index: usize) -> String {
    format!("load-{index}:{}\n", hex(&fleet_key(index)))
}

async fn fleet_device(address: std::net::SocketAddr, index: usize) -> Device {
    let id = format!("load-{index}");
    Device::connect(address, &psk(&id, &fleet_key(index), true), &Who::id(&id)).await
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words.and_then(|word| word.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_deleted_from_a_hundred_thousand_closes_its_device_and_no_other() {
    let options = Options {
        fleet: FLEET,
        ..Options::default()
    };
    let bench = start("deleted-line", options).await;
    let file = bench.dir.join("fleet.psk");
    let mut text = String::new();
    (0..FLEET).for_each(|index| text.push_str(&fleet_line(index)));
    for index in FLEET..FILE_LINES {
        let _ = writeln!(text, "meter-{index}:{:032x}", u128::MAX - index as u128);
    }
    replace(&file, &text);
    reloaded(&bench, "ok", 1.0).await;
    #[allow(clippy::disallowed_methods)] // a figure for the reader of the test
    let (before, begun) = (resident_kib(), Instant::now());
    let loaded = iothub_gateway::gateway::load(&bench.dir.join("gateway.toml"));
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
    let took = begun.elapsed();
    println!(
        "{} PSK identities loaded in {took:?}, {} KiB in the store, {} KiB more resident",
        loaded.rules.counts().psk_identities,
        loaded.rules.counts().psk_bytes / 1024,
        resident_kib().saturating_sub(before),
    );
    drop(loaded);

    let mut devices = Vec::new();
    for index in 0..FLEET {
        devices.push(fleet_device(bench.mqtt(), index).await);
    }
    assert_eq!(bench.metric("connections", &[]).await, FLEET as f64);
    let mut victim = devices.swap_remove(7);
    replace(&file, &text.replacen(&fleet_line(7), "", 1));
    // Two seconds, and the time an unoptimised build takes to read the file.
    let bound = Duration::from_secs(2) + took;
    let end = tokio::time::timeout(bound, async { while victim.receive().await.is_ok() {} });
    assert!(end.await.is_ok(), "closed within {bound:?} of the change");
    reloaded(&bench, "ok", 2.0).await;
    counted(&bench, "rights_revoked", 1.0).await;
    for device in &mut devices {
        device.ping().await.expect("untouched");
    }
    assert_eq!(bench.metric("connections", &[]).await, (FLEET - 1) as f64);
    assert_eq!(bench.metric("disconnects_total", &[]).await, 1.0);
    let (transport, who) = (psk("load-7", &fleet_key(7), true), Who::id("load-7"));
    let again = Device::try_connect(bench.mqtt(), &transport, &who);
    assert!(again.await.is_err(), "its key proves nothing any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_s_file_with_short_keys_is_taken_over_with_a_warning_at_each_load() {
    let bench = start("short-keys", Options::default()).await;
    assert_eq!(bench.metric("psk_short_keys", &[]).await, 0.0);
    secret(&bench.dir.join("broker.psk"), "old-1:0102030405060708\n");
    let rules = bench.dir.join("rules.toml");
    let before = fs::read_to_string(&rules).expect("rules");
    let file = "\n[[psk_file]]\npath = \"broker.psk\"\n";
    replace(&rules, &format!("{before}{file}"));
    reloaded(&bench, "failed", 1.0).await;
    replace(&rules, &format!("{before}{file}min_key_bytes = 8\n"));
    reloaded(&bench, "ok", 1.0).await;
    assert_eq!(bench.metric("psk_short_keys", &[]).await, 1.0);
    assert!(logged(&[
        "WARN",
        "1 PSK identity has a key of less than 16 bytes"
    ]));
    for tls13 in [true, false] {
        let transport = psk("old-1", &[1, 2, 3, 4, 5, 6, 7, 8], tls13);
        Device::connect(bench.mqtt(), &transport, &Who::id("old-1")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_off_or_broken_changes_nothing() {
    let options = Options {
        fleet: 2,
        ..Options::default()
    };
    let bench = start("half-written", options).await;
    let rules = bench.dir.join("rules.toml");
    let whole = fs::read_to_string(&rules).expect("rules");
    let mut device =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
    let mut other = fleet_device(bench.mqtt(), 0).await;

    // Written in place, as an editor does it: cut to nothing, half of it, all of it.
    fs::write(&rules, "").expect("cut");
    reloaded(&bench, "failed", 1.0).await;
    let half = whole.find("[[device]]\nid = \"pass-1\"").expect("a middle") + 30;
    fs::write(&rules, &whole[..half]).expect("half");
    reloaded(&bench, "failed", 2.0).await;
    let fleet = bench.dir.join("fleet.psk");
    let lines = fs::read_to_string(&fleet).expect("fleet");
    fs::write(&rules, &whole).expect("whole");
    fs::write(&fleet, &lines[..lines.len() - 2]).expect("a line cut off");
    reloaded(&bench, "failed", 3.0).await;
    assert!(logged(&["ERROR", "half-written", "fleet.psk:3: "]));
    assert_eq!(reloads(&bench, "ok").await, 0.0);
    device.ping().await.expect("untouched");
    other.ping().await.expect("untouched");
    let login = Who::login("pass-1", "pass-1", PASSWORD);
    Device::connect(bench.mqtt(), &bench.tls(), &login).await;
    assert_eq!(ended(&bench, "rights_revoked").await, 0.0);

    // What is left of the key is long enough to be one.
    fs::write(&fleet, &lines[..lines.len() - 5]).expect("a line cut off");
    reloaded(&bench, "failed", 4.0).await;
    assert!(logged(&[
        "ERROR",
        "half-written",
        "fleet.psk:3: the file ends in the middle"
    ]));
    let one = fleet_line(0);
    fs::write(&fleet, &one[..one.len() - 5]).expect("a line cut off");
    reloaded(&bench, "failed", 5.0).await;
    assert!(logged(&[
        "ERROR",
        "half-written",
        "fleet.psk:1: the file ends in the middle"
    ]));

    fs::write(&fleet, &lines).expect("whole");
    reloaded(&bench, "ok", 1.0).await;
    device.ping().await.expect("untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_swap_of_a_link_is_a_change() {
    let bench = start("symlink-swap", Options::default()).await;
    let dir = &bench.dir;
    let version = |name: &str| {
        let folder = dir.join(name);
        fs::create_dir(&folder).expect("folder");
        for file in ["rules.toml", "fleet.psk"] {
            fs::copy(dir.join(file), folder.join(file)).expect("copied");
        }
        folder
    };
    version("..1");
    let second = version("..2");
    symlink("..1", dir.join("..data")).expect("link");
    for file in ["rules.toml", "fleet.psk"] {
        symlink(Path::new("..data").join(file), dir.join("aside")).expect("link");
        fs::rename(dir.join("aside"), dir.join(file)).expect("renamed");
    }
    reloaded(&bench, "ok", 1.0).await;
    let mut device =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
    let login = Who::login("pass-1", "pass-1", PASSWORD);
    let mut other = Device::connect(bench.mqtt(), &bench.tls(), &login).await;
    edit(
        &second.join("rules.toml"),
        "id = \"psk-1\"",
        "id = \"psk-1\"\nenabled = false",
    );
    symlink("..2", dir.join("..data_tmp")).expect("link");
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swapped");
    closed(&mut device).await;
    other.ping().await.expect("untouched");
    counted(&bench, "rights_revoked", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_loses_closes_its_session_and_what_it_keeps_does_not() {
    let bench = start("lost-rights", Options::default()).await;
    let rules = bench.dir.join("rules.toml");
    let certificate = Transport::Tls {
        ca: bench.dir.join("ca.pem"),
        certificate: Some((bench.dir.join("cert-1.pem"), bench.dir.join("cert-1.key"))),
    };
    let mut by_certificate = Device::connect(bench.mqtt(), &certificate, &Who::id("cert-1")).await;
    let login = Who::login("pass-1", "pass-1", PASSWORD);
    let mut by_password = Device::connect(bench.mqtt(), &bench.tls(), &login).await;
    let mut by_psk =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
    // A permission less, a changed key, and a device that stays as it was.
    edit(
        &rules,
        "allow = [\"telemetry\", \"commands\"]",
        "allow = [\"telemetry\"]",
    );
    closed(&mut by_certificate).await;
    edit(&rules, &hex(PSK), &hex(b"another key 1234"));
    reloaded(&bench, "ok", 2.0).await;
    by_psk
        .ping()
        .await
        .expect("a changed key counts at the next handshake");
    by_password.ping().await.expect("untouched");
    counted(&bench, "rights_revoked", 1.0).await;
    drop(by_psk);
    let old = psk("psk-1", PSK, true);
    let refused = Device::try_connect(bench.mqtt(), &old, &Who::id("psk-1")).await;
    assert!(refused.is_err());
    let new = psk("psk-1", b"another key 1234", true);
    Device::connect(bench.mqtt(), &new, &Who::id("psk-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_is_used_and_half_of_one_is_not() {
    let bench = start("server-certificate", Options::default()).await;
    let login = Who::login("pass-1", "pass-1", PASSWORD);
    let mut device =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
    let key = rcgen::KeyPair::generate().expect("key");
    let names = vec!["localhost".to_owned()];
    let params = rcgen::CertificateParams::new(names).expect("names");
    let certificate = params.self_signed(&key).expect("certificate").pem();
    fs::write(bench.dir.join("new-ca.pem"), &certificate).expect("written");
    let new = Transport::Tls {
        ca: bench.dir.join("new-ca.pem"),
        certificate: None,
    };

    fs::write(bench.dir.join("server.pem"), &certificate).expect("written");
    reloaded(&bench, "failed", 1.0).await;
    assert!(logged(&["ERROR", "server-certificate", "server.key"]));
    Device::connect(bench.mqtt(), &bench.tls(), &login).await;
    secret(&bench.dir.join("server.key"), &key.serialize_pem());
    reloaded(&bench, "ok", 1.0).await;
    assert!(
        Device::try_connect(bench.mqtt(), &bench.tls(), &login)
            .await
            .is_err()
    );
    let expiry = bench
        .metric("certificate_expiry_timestamp_seconds", &["server.pem"])
        .await;
    assert!(expiry > 0.0);
    assert_eq!(ended(&bench, "rights_revoked").await, 0.0);
    Device::connect(bench.mqtt(), &new, &login).await;
    device.ping().await.expect("untouched");
}

/// A server certificate for localhost and its key, PEM.
fn server(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    change(&mut params);
    let certificate = params.self_signed(&key).expect("certificate").pem();
    (certificate, key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_its_key_two_seconds_apart_are_one_reload() {
    let bench = start("pair-apart", Options::default()).await;
    let (certificate, key) = server(|_| {});
    fs::write(bench.dir.join("server.pem"), &certificate).expect("written");
    tokio::time::sleep(Duration::from_secs(2)).await; // what this is about
    secret(&bench.dir.join("server.key"), &key);
    reloaded(&bench, "ok", 1.0).await;
    assert_eq!(reloads(&bench, "failed").await, 0.0);
    assert!(!logged(&["ERROR", "pair-apart"]));
    let new = Transport::Tls {
        ca: bench.dir.join("server.pem"),
        certificate: None,
    };
    Device::connect(
        bench.mqtt(),
        &new,
        &Who::login("pass-1", "pass-1", PASSWORD),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_server_certificate_is_served_and_said_in_reload_and_at_start() {
    let bench = start("ended-certificate", Options::default()).await;
    let (certificate, key) = server(|params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    fs::write(bench.dir.join("server.pem"), &certificate).expect("written");
    secret(&bench.dir.join("server.key"), &key);
    reloaded(&bench, "ok", 1.0).await;
    let said = "server.pem ended 2020-01-01T00:00:00Z";
    assert!(logged(&[
        "ERROR",
        "ended-certificate",
        "listener[0].tls.cert",
        said
    ]));
    let log = bench.dir.join("log");
    let file = fs::File::create(&log).expect("log file");
    let process = Process::logging(&bench.dir.join("gateway.toml"), file.into());
    let started = async {
        loop {
            let text = fs::read_to_string(&log).expect("log");
            if text.contains("accepting devices") && text.contains(said) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(30), started).await;
    let text = text.expect("it starts and says so");
    let line = text.lines().find(|line| line.contains(said)).expect("said");
    assert!(line.contains("level=error"), "{line}");
    assert_eq!(process.terminate().await, Some(0));
}
