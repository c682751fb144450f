//! `ctl watch`: one device, packet by packet.

use crate::explain::{READ, bearer, bench, raw, refused};
use crate::support::device::{Device, Transport, Who};
use crate::support::{Options, PSK};
use std::process::Command;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_device_shows_what_it_does_and_no_payload() {
    let bench = bench("watch", Options::default()).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"));
    command.args(["ctl", "--admin", &bench.gateway.admin().to_string()]);
    command.env("IOTHUB_GATEWAY_TOKEN", READ);
    command.args(["watch", "psk-1", "--count", "8"]);
    let watch = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    // The watch begins with the first question that is answered.
    let question = "GET /api/v1/devices/psk-1/events HTTP/1.1\r\nHost: x\r\n";
    raw(&bench, format!("{question}{}\r\n", bearer(READ))).await;
    let wrong = Transport::psk("psk-1", b"wrong-key-123456");
    refused(&bench, &wrong, &Who::id("psk-1")).await;
    // Its key names it, whatever it calls itself.
    refused(&bench, &Transport::psk("psk-1", PSK), &Who::id("psk-1 ")).await;
    // Somebody else.
    refused(
        &bench,
        &Transport::psk("stranger", PSK),
        &Who::id("stranger"),
    )
    .await;
    let mut device = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    let filter = "devices/psk-1/messages/devicebound/#";
    device
        .subscribe(filter, mqttbytes::QoS::AtLeastOnce)
        .await
        .expect("SUBACK");
    let events = "devices/psk-1/messages/events/";
    device
        .publish(events, b"SECRET-PAYLOAD")
        .await
        .expect("PUBACK");
    assert!(
        device
            .publish("devices/sas-1/messages/events/", b"x")
            .await
            .is_err()
    );
    let done = tokio::time::timeout(Duration::from_secs(20), watch).await;
    let done = done.expect("eight events").expect("joined");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let words: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let expected = [
        "connect_refused",
        "connect_refused",
        "connected",
        "subscribe",
        "publish",
        "accepted",
        "publish",
        "refused",
    ];
    assert_eq!(words, expected, "{text}");
    assert!(
        text.contains("devices/psk-1/messages/events/ QoS 1, 14 B"),
        "{text}"
    );
    for why in ["psk_wrong_key: ", "client_id_invalid: "] {
        assert!(text.contains(why), "{text}");
    }
    assert!(!text.contains("SECRET"), "{text}");
}
