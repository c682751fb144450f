//! What is shown from the start, and what moves with the gateway.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PASSWORD, PSK, secret};
use mqttbytes::QoS;
use std::collections::BTreeSet;

/// Every series but those whose labels come with a file or a reason.
fn series(exposition: &str) -> BTreeSet<String> {
    let open = [
        "certificate_expiry",
        "connections{",
        "handshakes_total{",
        "disconnects_total{",
    ];
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned()));
    names
        .filter(|name| !open.iter().any(|open| name.contains(open)))
        .collect()
}

async fn shows_a_fresh_start(bench: &Bench) {
    for (name, label, value) in [
        ("ready", "", 1.0),
        ("config_last_reload_successful", "", 1.0),
        ("loaded_identities", "credential=\"psk\"", 2.0),
        ("loaded_identities", "credential=\"sas\"", 1.0),
        ("loaded_identities", "credential=\"password\"", 1.0),
        ("loaded_identities", "credential=\"x509\"", 0.0),
        ("loaded_rules", "", 1.0),
        ("limit", "limit=\"connections\"", 40.0),
        ("limit", "limit=\"handshakes\"", 10.0),
        ("limit_in_use", "limit=\"connections\"", 0.0),
        ("limit_in_use", "limit=\"hub_devices\"", 0.0),
    ] {
        let labels: &[&str] = if label.is_empty() { &[] } else { &[label] };
        assert_eq!(bench.metric(name, labels).await, value, "{name} {label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_say_what_is_in_force_and_how_much_of_each_limit_is_in_use() {
    let options = Options {
        gateway: "[limits]\nconnections = 40\nhandshakes = 10\n".to_owned(),
        ..Options::default()
    };
    let bench = Bench::start("gauges", options).await;
    shows_a_fresh_start(&bench).await;
    let mut device = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    device
        .publish("devices/psk-1/messages/events/", b"x")
        .await
        .expect("PUBACK");
    for limit in ["limit=\"connections\"", "limit=\"hub_devices\""] {
        bench.reaches("limit_in_use", &[limit], 1.0).await;
    }
    assert!(bench.metric("limit", &["limit=\"hub_devices\""]).await > 900.0);

    let read = bench
        .metric("config_last_reload_success_timestamp_seconds", &[])
        .await;
    let rules = bench.dir.join("rules.toml");
    let good = std::fs::read_to_string(&rules).expect("rules");
    secret(&rules, &format!("{good}\n[[rul]]\n"));
    bench
        .reaches("config_reloads_total", &["result=\"failed\""], 1.0)
        .await;
    assert_eq!(
        bench.metric("config_last_reload_successful", &[]).await,
        0.0
    );
    let kept = bench
        .metric("config_last_reload_success_timestamp_seconds", &[])
        .await;
    assert_eq!(kept, read, "what was read then is still in force");
    let extra = "[[device]]\nid = \"more\"\npassword = { username = \"more\", hash = ";
    let hash = good
        .split("hash = ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let extra = format!("{good}\n{extra}{} }}\n", hash.expect("a hash"));
    secret(&rules, &extra);
    bench
        .reaches("config_reloads_total", &["result=\"ok\""], 1.0)
        .await;
    assert_eq!(
        bench.metric("config_last_reload_successful", &[]).await,
        1.0
    );
    let passwords = ["credential=\"password\""];
    assert_eq!(bench.metric("loaded_identities", &passwords).await, 2.0);
    assert!(
        bench
            .metric("config_last_reload_success_timestamp_seconds", &[])
            .await
            >= read
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commands_way_is_timed_and_no_series_appears_with_its_first_event() {
    let bench = Bench::start("series", Options::default()).await;
    let before = series(&bench.metrics().await);
    let mut device = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    let filter = "devices/psk-1/messages/devicebound/#";
    assert!(
        device
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .expect("SUBACK")
    );
    let (status, answer) = bench.control("POST", "/devices/psk-1/commands", "go").await;
    assert!((200..300).contains(&status), "{status} {answer}");
    device.command().await.expect("a command");
    device
        .publish("devices/psk-1/messages/events/", b"x")
        .await
        .expect("PUBACK");
    bench
        .reaches("downlink_duration_seconds_count", &[], 1.0)
        .await;
    let sum = bench.metric("downlink_duration_seconds_sum", &[]).await;
    assert!(sum > 0.0 && sum < 30.0, "{sum} s");
    device.goodbye().await.expect("closed");
    let mut bad = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    let foreign = bad.publish("devices/sas-1/messages/events/", b"x").await;
    assert!(foreign.is_err(), "not its topic");
    let wrong = Transport::psk("psk-1", b"some-other-key-1");
    let _ = Device::try_connect(bench.mqtt(), &wrong, &Who::id("psk-1")).await;
    let wrong = Who::login("pass-1", "pass-1", "wrong");
    let _ = Device::try_connect(bench.plain(), &Transport::Plain, &wrong).await;
    let right = Who::login("pass-1", "pass-1", PASSWORD);
    let device = Device::connect(bench.plain(), &Transport::Plain, &right).await;
    drop(device);
    bench.reaches("disconnects_total", &[], 5.0).await;
    let (status, _) = bench
        .control("POST", "/faults", "{\"name\":\"KillTcp\"}")
        .await;
    assert!((200..300).contains(&status), "{status}");
    bench.reaches("hub_reconnects_total", &[], 1.0).await;
    let after = series(&bench.metrics().await);
    let appeared: Vec<_> = after.difference(&before).collect();
    assert!(appeared.is_empty(), "{appeared:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_may_be_silent_for_longer_than_a_load_balancer_likes_is_shown() {
    let bench = Bench::start("keep-alive", Options::default()).await;
    let name = "long_keep_alive_connections";
    let short = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    assert_eq!(bench.metric(name, &[]).await, 0.0);
    drop(short);
    for keep_alive_s in [241, 0] {
        let who = Who {
            keep_alive_s,
            ..Who::id("psk-1")
        };
        let long = Device::connect(bench.mqtt(), &Transport::psk("psk-1", PSK), &who).await;
        assert_eq!(bench.metric(name, &[]).await, 1.0, "{keep_alive_s}");
        long.goodbye().await.expect("closed");
        bench.falls(name, 0.0).await;
    }
}
