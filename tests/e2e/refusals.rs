//! Who is refused, and that each refusal has a reason of its own.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, DEVICE_KEY, HUB, Options, PASSWORD, PSK, now, sas};
use mqttbytes::v4::ConnectReturnCode;

/// The metric reason, the transport, and what the device says of itself.
fn wrong_credentials(tls: &Transport) -> Vec<(&'static str, Transport, Who)> {
    let scope = |device: &str| format!("{HUB}/devices/{device}");
    let user = |device: &str| format!("{HUB}/{device}/?api-version=2021-04-12");
    let in_an_hour = now() + 3600;
    let wrong_key = sas(b"some other key", &scope("sas-1"), in_an_hour);
    let expired = sas(DEVICE_KEY, &scope("sas-1"), now() - 3600);
    let other_scope = sas(DEVICE_KEY, &scope("sas-12"), in_an_hour);
    let unknown = sas(DEVICE_KEY, &scope("nobody"), in_an_hour);
    let good = sas(DEVICE_KEY, &scope("sas-1"), in_an_hour);
    let token = |id: &str, token: &str| Who::login(id, &user(id), token);
    let of_another = Who::login("psk-1", &user("sas-1"), &good);
    let wrong_password = Who::login("pass-1", "pass-1", "wrong");
    let tls = || tls.clone();
    let psk = Transport::psk("psk-1", PSK);
    vec![
        ("sas_signature", tls(), token("sas-1", &wrong_key)),
        ("sas_expired", tls(), token("sas-1", &expired)),
        ("sas_scope", tls(), token("sas-1", &other_scope)),
        ("device_unknown", tls(), token("nobody", &unknown)),
        ("client_id_mismatch", tls(), of_another),
        ("bad_password", tls(), wrong_password),
        ("no_credentials", tls(), Who::id("sas-1")),
        ("client_id_mismatch", psk, Who::id("sas-1")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_credential_has_its_own_reason() {
    let bench = Bench::start("refusals", Options::default()).await;
    let tls = bench.tls();
    for (reason, transport, who) in wrong_credentials(&tls) {
        let label = format!("result=\"{reason}\"");
        let before = bench.metric("connects_total", &[&label]).await;
        let refused = Device::try_connect(bench.mqtt(), &transport, &who).await;
        let code = refused.expect("an answer").err().expect("a refusal");
        let expected = [
            ConnectReturnCode::NotAuthorized,
            ConnectReturnCode::BadUserNamePassword,
            ConnectReturnCode::BadClientId,
        ];
        assert!(expected.contains(&code), "{reason}: {code:?}");
        let after = bench.metric("connects_total", &[&label]).await;
        assert_eq!(after - before, 1.0, "{reason}:\n{}", bench.metrics().await);
    }
    let right = Who::login("pass-1", "pass-1", PASSWORD);
    let device = Device::try_connect(bench.mqtt(), &tls, &right).await;
    let admitted = device.expect("an answer").is_ok();
    assert!(admitted, "the right one still passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_psk_identity_looks_like_a_wrong_key() {
    let bench = Bench::start("psk-refusals", Options::default()).await;
    for tls13 in [true, false] {
        let mut alerts = Vec::new();
        for transport in [
            Transport::psk_in("psk-1", b"wrong-key-123456", tls13),
            Transport::psk_in("nobody", PSK, tls13),
        ] {
            let refused = Device::try_connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
            let error = refused.err().expect("no handshake").to_string();
            let alert = error
                .split("reason: \"")
                .nth(1)
                .and_then(|r| r.split('"').next());
            alerts.push(alert.map_or(error.clone(), str::to_owned));
        }
        assert_eq!(alerts[0], alerts[1], "TLS 1.3: {tls13}");
    }
    bench
        .reaches("handshakes_total", &["result=\"psk_wrong_key\""], 2.0)
        .await;
    bench
        .reaches("handshakes_total", &["result=\"psk_unknown\""], 2.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_cannot_speak_or_listen_for_another() {
    let bench = Bench::start("foreign", Options::default()).await;
    let transport = Transport::psk("psk-1", PSK);
    for topic in [
        "devices/sas-1/messages/events/",
        "devices/psk-1/",
        "anything",
    ] {
        let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
        assert!(device.publish(topic, b"x").await.is_err(), "{topic}");
    }
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    for filter in [
        "devices/sas-1/messages/devicebound/#",
        "#",
        "devices/+/messages/devicebound/#",
    ] {
        let granted = device.subscribe(filter, mqttbytes::QoS::AtLeastOnce).await;
        assert!(!granted.expect("SUBACK"), "{filter}");
    }
    assert!(
        bench
            .emulator
            .ledger()
            .messages(None, 0, usize::MAX)
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_hubs_size_is_refused_and_counted() {
    let bench = Bench::start("oversized", Options::default()).await;
    let transport = Transport::psk("psk-1", PSK);
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    let body = vec![b'x'; 256 * 1024];
    assert!(
        device
            .publish("devices/psk-1/messages/events/", &body)
            .await
            .is_err()
    );
    bench
        .reaches("messages_total", &["result=\"message_too_large\""], 1.0)
        .await;
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    let body = vec![b'x'; 250 * 1024];
    device
        .publish("devices/psk-1/messages/events/", &body)
        .await
        .expect("a large one passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_the_hub_does_not_know_loses_only_its_own_session() {
    let options = Options {
        fleet: 1,
        ..Options::default()
    };
    let bench = Bench::start("deleted", options).await;
    let transport = Transport::psk("psk-1", PSK);
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("psk-1")).await;
    device
        .publish("devices/psk-1/messages/events/", b"1")
        .await
        .expect("PUBACK");
    let fleet = Transport::psk("load-0", &crate::support::fleet_key(0));
    let mut neighbour = Device::connect(bench.mqtt(), &fleet, &Who::id("load-0")).await;
    neighbour
        .publish("devices/load-0/messages/events/", b"1")
        .await
        .expect("PUBACK");
    let (status, _) = bench.control("DELETE", "/devices/psk-1", "").await;
    assert!((200..300).contains(&status));
    assert!(
        device.receive().await.is_err(),
        "the deleted device is closed"
    );
    neighbour
        .publish("devices/load-0/messages/events/", b"2")
        .await
        .expect("PUBACK");
    bench
        .reaches("disconnects_total", &["reason=\"gone_"], 1.0)
        .await;
}
