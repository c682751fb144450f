//! The load generator against the gateway and its hub, and against servers that misbehave.

#[path = "../support/mod.rs"]
mod support;

mod command;
mod fake;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fake::Fake;
use iothub_gateway::load::{Credentials, Options, Pace, Report, TlsVersion, run};
use std::future::pending;
use std::time::Duration;
use support::{Bench, secret};

const SECOND: Duration = Duration::from_secs(1);

/// Against the TLS listener.
fn against(bench: &Bench) -> Options {
    Options {
        port: bench.mqtt().port(),
        ..Options::default()
    }
}

/// `devices` of the fleet, with their keys.
fn fleet(bench: &Bench, devices: usize) -> Options {
    Options {
        devices,
        credentials: Credentials::Psk {
            identity: None,
            file: Some(bench.dir.join("fleet.psk").display().to_string()),
            template: None,
        },
        duration: SECOND,
        ..against(bench)
    }
}

async fn bench(name: &str, fleet: usize) -> Bench {
    let options = support::Options {
        fleet,
        ..support::Options::default()
    };
    Bench::start(name, options).await
}

async fn report(options: Options) -> Report {
    run(options, pending()).await.expect("options are fine")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_of_a_hundred_psk_devices_counts_what_the_ledger_counts() {
    let bench = bench("load-closed", 100).await;
    let control = bench.emulator.control_addr().expect("bound");
    let options = Options {
        duration: 2 * SECOND,
        ledger: Some(format!("http://{control}")),
        pid: Some(std::process::id()),
        ..fleet(&bench, 100)
    };
    let report = report(options).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.connected, report.failed, report.lost), (100, 0, 0));
    let accepted = bench.emulator.ledger().count();
    let verdict = report.ledger.expect("asked for");
    assert!(accepted >= 100, "{report}");
    assert_eq!(report.acknowledged, accepted, "{report}");
    assert_eq!(report.unacknowledged, report.sent - report.acknowledged);
    assert_eq!((verdict.arrived, verdict.missing), (accepted, 0));
    assert_eq!(
        (verdict.duplicated, verdict.misordered, verdict.foreign),
        (0, 0, 0)
    );
    assert!(report.latency.count > 0 && report.latency.p50_ms > 0.0);
    assert!(report.latency.p50_ms <= report.latency.p99_ms);
    let server = report.server.expect("asked for");
    assert!(
        server.cpu_us_per_message.is_some_and(|us| us > 0.0),
        "{report}"
    );
    assert!(
        server.cpu_us_per_connect.is_some_and(|us| us > 0.0),
        "{report}"
    );
    assert!(server.resident_kib_before > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_does_not_judge_the_messages_of_the_first() {
    let bench = bench("load-second", 3).await;
    let control = bench.emulator.control_addr().expect("bound");
    let options = Options {
        ledger: Some(format!("http://{control}/")),
        pace: Pace::Open { rate: 30 },
        window: 100,
        ..fleet(&bench, 3)
    };
    for _ in 0..2 {
        let report = report(options.clone()).await;
        let verdict = report.ledger.expect("asked for");
        assert!(report.is_clean(), "{report}");
        assert_eq!((verdict.arrived, verdict.duplicated), (30, 0), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_exactly_what_is_due() {
    let fake = Fake::start().await;
    let options = Options {
        devices: 7,
        pace: Pace::Open { rate: 200 },
        window: 100,
        warmup: SECOND / 2,
        duration: SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    assert_eq!(report.planned, Some(300));
    assert_eq!((report.sent, report.acknowledged), (300, 300), "{report}");
    assert_eq!(report.latency.count, 200, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_for_a_second_is_charged_for_every_message_that_was_due() {
    let fake = Fake::stalling(100, SECOND).await;
    let options = Options {
        devices: 1,
        pace: Pace::Open { rate: 100 },
        window: 1000,
        duration: 3 * SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    assert!(report.latency.max_ms >= 1000.0, "{report}");
    // A hundred messages were due during the stall; one that measures from the moment of sending
    // would have seen a single slow one.
    assert!(report.latency.p90_ms >= 400.0, "{report}");
    assert_eq!(report.acknowledged, 300, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_delays_but_never_hides_messages() {
    let fake = Fake::stalling(10, SECOND).await;
    let options = Options {
        devices: 1,
        pace: Pace::Open { rate: 100 },
        window: 1,
        duration: 2 * SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    let lateness = report.lateness.expect("open loop");
    assert!(lateness.max_ms >= 900.0, "{report}");
    assert!(report.latency.max_ms >= lateness.max_ms, "{report}");
}

/// One run for each kind of credential, with its files written.
fn kinds(bench: &Bench) -> [(&'static str, Options); 6] {
    let file = |name: &str| bench.dir.join(name).display().to_string();
    let passwords = format!("pass-1:{}\n", support::PASSWORD);
    secret(&bench.dir.join("passwords"), &passwords);
    secret(&bench.dir.join("sas"), &BASE64.encode(support::DEVICE_KEY));
    secret(&bench.dir.join("template"), "raw:fleet-key-{n:010}\n");
    let one = |client_id: &str, credentials| Options {
        devices: 1,
        first: 1,
        client_id: client_id.to_owned(),
        credentials,
        ca: Some(bench.dir.join("ca.pem")),
        duration: SECOND / 2,
        ..against(bench)
    };
    let psk = |tls| Options {
        tls,
        ..fleet(bench, 2)
    };
    let template = Options {
        credentials: Credentials::Psk {
            identity: Some("load-{n}".to_owned()),
            file: None,
            template: Some(file("template")),
        },
        ..fleet(bench, 2)
    };
    let certificate = Credentials::Certificate {
        cert: file("cert-{n}.pem"),
        key: file("cert-{n}.key"),
    };
    let sas = Credentials::Sas {
        keys: file("sas"),
        hub: support::HUB.to_owned(),
        ttl: Duration::from_secs(600),
    };
    let password = Credentials::Password {
        username: "pass-{n}".to_owned(),
        passwords: file("passwords"),
    };
    [
        ("psk 1.2", psk(Some(TlsVersion::V12))),
        ("psk 1.3", psk(Some(TlsVersion::V13))),
        ("psk template", template),
        ("x509", one("cert-{n}", certificate)),
        ("sas", one("sas-{n}", sas)),
        ("password", one("pass-{n}", password)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_credential_connects() {
    let bench = bench("load-kinds", 2).await;
    for (kind, options) in kinds(&bench) {
        let report = report(options).await;
        assert!(report.is_clean(), "{kind}:\n{report}");
        assert!(report.acknowledged > 0, "{kind}:\n{report}");
    }
    for version in ["1.2", "1.3"] {
        let version = format!("tls_version=\"{version}\"");
        let labels = ["credential=\"psk\"", &version, "result=\"ok\""];
        let count = bench.metric("handshakes_total", &labels).await;
        assert!(count >= 2.0, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_counted_by_reason() {
    let bench = bench("load-wrong", 3).await;
    secret(
        &bench.dir.join("wrong"),
        "hex:00112233445566778899aabbccddeeff\n",
    );
    for tls in [TlsVersion::V12, TlsVersion::V13] {
        let options = Options {
            tls: Some(tls),
            credentials: Credentials::Psk {
                identity: None,
                file: None,
                template: Some(bench.dir.join("wrong").display().to_string()),
            },
            ..fleet(&bench, 3)
        };
        let report = report(options).await;
        assert_eq!((report.connected, report.failed, report.sent), (0, 3, 0));
        assert!(!report.is_clean());
        let (reason, count) = report.failures.first_key_value().expect("a reason");
        assert!(
            reason.starts_with("tls: ") && reason.contains("alert"),
            "{reason}"
        );
        assert_eq!(*count, 3);
    }
    secret(&bench.dir.join("password"), "not the password\n");
    let options = Options {
        port: bench.plain().port(),
        devices: 1,
        first: 1,
        client_id: "pass-{n}".to_owned(),
        credentials: Credentials::Password {
            username: "pass-{n}".to_owned(),
            passwords: bench.dir.join("password").display().to_string(),
        },
        ..Options::default()
    };
    let report = report(options).await;
    let (reason, _) = report.failures.first_key_value().expect("a reason");
    assert!(reason.contains("CONNACK"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_connects_everyone_with_few_at_a_time() {
    let bench = bench("load-storm", 100).await;
    let options = Options {
        connect_rate: None,
        concurrency: 10,
        pace: Pace::Idle,
        ..fleet(&bench, 100)
    };
    let report = report(options).await;
    assert!(report.is_clean() && report.connected == 100, "{report}");
    assert_eq!((report.connect.count, report.sent), (100, 0));
    assert!(report.connects_per_second > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_subscribers_keep_their_connection_and_count_commands() {
    let bench = bench("load-idle", 2).await;
    for device in ["load-0", "load-1"] {
        let path = format!("/devices/{device}/commands");
        assert_eq!(bench.control("POST", &path, "open").await.0, 201);
    }
    let options = Options {
        pace: Pace::Idle,
        keep_alive_s: 1,
        duration: 3 * SECOND,
        subscribe: Some("devices/{id}/messages/devicebound/#".to_owned()),
        ..fleet(&bench, 2)
    };
    let report = report(options).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.commands, report.sent), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_slow() {
    let fake = Fake::start().await;
    let options = Options {
        devices: 1,
        slow_reader: Some(SECOND / 4),
        duration: SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    assert!((2..=6).contains(&report.sent), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_connect_from_the_sources_in_turn() {
    let fake = Fake::start().await;
    let options = Options {
        devices: 4,
        sources: iothub_gateway::load::sources("127.0.0.2-127.0.0.3").expect("a range"),
        pace: Pace::Idle,
        duration: SECOND / 10,
        ..fake.options()
    };
    assert!(report(options).await.is_clean());
    let mut peers = fake.peers();
    peers.sort();
    assert_eq!(peers, ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_at_qos_0_are_sent_and_none_is_expected_back() {
    let fake = Fake::start().await;
    let options = Options {
        devices: 2,
        qos: 0,
        pace: Pace::Open { rate: 100 },
        duration: SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    assert_eq!(report.sent, 100, "{report}");
    assert_eq!((report.acknowledged, report.unacknowledged), (0, 0));
    assert_eq!(report.latency.count, report.sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_counted_and_not_forgiven() {
    let fake = Fake::hanging_up(5).await;
    let options = Options {
        devices: 1,
        duration: SECOND,
        ..fake.options()
    };
    let report = report(options).await;
    assert_eq!((report.connected, report.lost), (1, 1), "{report}");
    assert!(!report.is_clean());
    let (reason, _) = report.losses.first_key_value().expect("a reason");
    assert!(reason.starts_with("mqtt: "), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_and_a_dead_ledger_are_found_before_the_first_connection() {
    let fake = Fake::start().await;
    let dir = support::scratch("load-usage");
    secret(&dir.join("keys"), "load-0:00ff\n");
    let file = Some(dir.join("keys").display().to_string());
    let no_key = Options {
        devices: 2,
        credentials: Credentials::Psk {
            identity: None,
            file,
            template: None,
        },
        ..fake.options()
    };
    let problems = run(no_key, pending()).await.expect_err("load-1 has no key");
    let sentence = problems.join(" ");
    assert!(
        sentence.contains("\"load-1\", but one for \"load-0\""),
        "{sentence}"
    );
    let small = Options {
        payload: 5,
        ..fake.options()
    };
    assert!(
        run(small, pending())
            .await
            .expect_err("too small")
            .join(" ")
            .contains("--payload")
    );
    let no_ledger = Options {
        ledger: Some("http://127.0.0.1:1".to_owned()),
        ..fake.options()
    };
    assert!(
        run(no_ledger, pending())
            .await
            .expect_err("no ledger")
            .join(" ")
            .contains("--ledger")
    );
    assert!(fake.peers().is_empty());
}
