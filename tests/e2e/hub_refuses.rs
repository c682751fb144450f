//! A hub that refuses: the log names cause and fix, `/ready` tells, a metric moves; and when it is
//! over, that is said too, and nothing was lost.

use crate::hub_stage::Stage;
use crate::support::certificates::{self, Authority};
use crate::support::{HUB, POLICY_KEY, now, sas, secret};
use iothub_gateway::emulator::FaultKind;
use serde_json::{Map, Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_device_connect() {
    let mut stage = Stage::new("no-device-connect").await;
    let right = stage.emulator.clone();
    stage.emulator = right.replace("[\"DeviceConnect\"]", "[\"ServiceConnect\"]");
    stage.start_hub().await;
    stage.start_gateway();
    let sent = stage.send();
    stage.refused("no_device_connect", "unavailable").await;
    stage.emulator = right;
    stage.start_hub().await;
    stage.over("no_device_connect").await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key() {
    use base64::Engine;
    let mut stage = Stage::new("wrong-key").await;
    stage.start_hub().await;
    for which in ["primary", "secondary"] {
        let new = json!({ "which": which });
        stage.control("POST", "/policies/device/rotate", new).await;
    }
    stage.start_gateway();
    stage.refused("wrong_key", "unavailable").await;
    let key = base64::engine::general_purpose::STANDARD.encode(POLICY_KEY);
    let back = json!({ "which": "primary", "key": key });
    stage.control("POST", "/policies/device/rotate", back).await;
    stage.over("wrong_key").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_whose_token_has_ended() {
    let mut stage = Stage::new("expired").await;
    let keys = "policy = \"device\"\nkey = \"${file:hub-key}\"\n\
                secondary_key = \"${file:hub-key-2}\"\n";
    assert!(stage.gateway.contains(keys), "{}", stage.gateway);
    stage.gateway = stage.gateway.replace(keys, "token_file = \"token\"\n");
    let token = |expiry| {
        let token = sas(POLICY_KEY, &format!("{HUB}/devices"), expiry);
        format!("{token}&skn=device")
    };
    secret(&stage.dir.join("token"), &token(now() - 60));
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("token_expired", "unavailable").await;
    secret(&stage.dir.join("token"), &token(now() + 3600));
    stage.over("token_expired").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_by_an_hour() {
    let mut stage = Stage::new("clock").await;
    let ttl = "token_ttl = \"1h\"";
    assert!(stage.gateway.contains(ttl));
    stage.gateway = stage.gateway.replace(ttl, "token_ttl = \"30m\"");
    stage.start_hub().await;
    stage.fault(FaultKind::ClockAhead, Some("1"));
    stage.start_gateway();
    stage.refused("clock_skew", "unavailable").await;
    stage.clear();
    stage.over("clock_skew").await;
    let sent = stage.send();
    stage.done(sent).await;
}

/// A fault that strikes messages.
async fn messages(cause: &str, status: &str, kind: FaultKind, value: Option<&str>) {
    let mut stage = Stage::new(cause).await;
    stage.gateway = stage
        .gateway
        .replace("[hub]\n", "[hub]\noutcome_timeout = \"2s\"\n");
    stage.start_hub().await;
    stage.fault(kind, value);
    stage.start_gateway();
    let sent = stage.send();
    stage.refused(cause, status).await;
    stage.clear();
    stage.over(cause).await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up() {
    let kind = FaultKind::InvokeMaxMessageQuota;
    messages("quota", "unavailable", kind, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_throttles() {
    messages("throttled", "degraded", FaultKind::InvokeThrottling, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_suspended() {
    let condition = Some("com.microsoft:iot-hub-suspended");
    messages(
        "suspended",
        "unavailable",
        FaultKind::OutcomeRejected,
        condition,
    )
    .await;
}

/// A fault that keeps every message from being accepted, without a word that says so: seen at
/// once, and where it lasts and nobody gets through, that is said too.
async fn held_up(name: &str, cause: &str, kind: FaultKind, value: Option<&str>) {
    let mut stage = Stage::new(name).await;
    stage.start_hub().await;
    stage.fault(kind, value);
    stage.start_gateway();
    let sent = stage.send();
    // A connection that is gone serves nobody at once.
    if cause != "closing" {
        stage.refused(cause, "degraded").await;
    }
    stage.lasts(cause).await;
    stage.clear();
    stage.over(cause).await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_say_whether_it_took_a_message() {
    held_up(
        "no-outcome",
        "no_outcome",
        FaultKind::DispositionNever,
        None,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_lets_nobody_send() {
    held_up("no-credit", "no_credit", FaultKind::CreditZero, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_gives_messages_back() {
    held_up("released", "given_back", FaultKind::OutcomeReleased, None).await;
    let error = Some("amqp:internal-error");
    held_up("internal", "given_back", FaultKind::OutcomeRejected, error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_closes_connections_when_a_device_comes() {
    let kind = FaultKind::CloseDuringAttach;
    held_up("closing", "closing", kind, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_unknown_when_it_sends() {
    let mut stage = Stage::new("unknown-outcome").await;
    stage.start_hub().await;
    stage.fault(FaultKind::OutcomeRejected, Some("amqp:not-found"));
    stage.start_gateway();
    let sent = stage.send();
    stage.refused("device_unknown", "degraded").await;
    stage.clear();
    stage.over("device_unknown").await;
    stage.done(sent).await;
}

/// A device whose registration is not what it should be.
async fn registration(cause: &'static str, method: &'static str, body: Value) {
    let mut stage = Stage::new(cause).await;
    stage.start_hub().await;
    stage.control(method, "/devices/pass-1", body).await;
    stage.start_gateway();
    let sent = stage.send();
    stage.refused(cause, "degraded").await;
    let well = json!({ "status": "enabled" });
    stage.control("PUT", "/devices/pass-1", well).await;
    stage.over(cause).await;
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_the_hub_does_not_know() {
    registration("device_unknown", "DELETE", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_disabled_at_the_hub() {
    registration("device_disabled", "PUT", json!({ "status": "disabled" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_refused() {
    let mut stage = Stage::new("unreachable").await;
    stage.start_gateway();
    stage.refused("unreachable", "unavailable").await;
    let lines = stage.log();
    let (code, starting) = stage.ready().await;
    let reason = starting["reason"].as_str().expect("a reason");
    assert_eq!((code, &starting["phase"]), (503, &json!("Starting")));
    for part in [
        "the phase is Starting: unreachable for ",
        "no TCP connection to the hub",
        "check hub.host",
        &format!("localhost:{}", stage.amqp),
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let lost = lines
        .iter()
        .any(|line| line["msg"] == "hub connection lost");
    assert!(!lost, "none was open: {lines:#?}");
    let tried = |line: &&Map<String, Value>| line["msg"] == "cannot connect to hub";
    let line = lines.iter().find(tried).expect("each attempt is told");
    assert_eq!(line["address"], format!("localhost:{}", stage.amqp));
    stage.start_hub().await;
    stage.over("unreachable").await;
    let sent = stage.send();
    stage.done(sent).await;
}

/// `NAME.pem` and `NAME.key` of a server of this name, signed by `own-ca.pem`.
fn signed(stage: &Stage, leaves: &[(&str, &str)]) {
    let own = Authority::new("own CA");
    std::fs::write(stage.dir.join("own-ca.pem"), &own.pem).expect("written");
    for (file, host) in leaves {
        own.sign(&stage.dir, file, certificates::server(&[host]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name() {
    let mut stage = Stage::new("tls-name").await;
    signed(&stage, &[("other", "other.example"), ("own", "localhost")]);
    stage.gateway = stage
        .gateway
        .replace("ca = \"ca.pem\"", "ca = \"own-ca.pem\"");
    let served = |name: &str| {
        let files = format!("cert = \"{name}.pem\", key = \"{name}.key\"");
        let known = "cert = \"server.pem\", key = \"server.key\"";
        stage.emulator.replace(known, &files)
    };
    let (other, own) = (served("other"), served("own"));
    stage.emulator = other;
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("tls_name", "unavailable").await;
    stage.emulator = own;
    stage.start_hub().await;
    stage.over("tls_name").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_signed_by_nobody_known() {
    let mut stage = Stage::new("tls-ca").await;
    let trusted = stage.dir.join("trusted.pem");
    std::fs::copy(stage.dir.join("device-ca.pem"), &trusted).expect("copied");
    stage.gateway = stage
        .gateway
        .replace("ca = \"ca.pem\"", "ca = \"trusted.pem\"");
    stage.start_hub().await;
    stage.start_gateway();
    stage.refused("tls_ca", "unavailable").await;
    std::fs::copy(stage.dir.join("ca.pem"), &trusted).expect("copied");
    stage.over("tls_ca").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_answer_a_token() {
    let mut stage = Stage::new("cbs-silent").await;
    let short = "[hub]\noperation_timeout = \"4s\"\n";
    stage.gateway = stage.gateway.replace("[hub]\n", short);
    stage.start_hub().await;
    stage.fault(FaultKind::CbsSilent, None);
    stage.start_gateway();
    stage.refused("cbs_silent", "unavailable").await;
    stage.clear();
    stage.over("cbs_silent").await;
    let sent = stage.send();
    stage.done(sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_an_address_and_a_port_that_speaks_no_amqp() {
    let mut stage = Stage::new("endpoint").await;
    let own = format!("amqps://localhost:{}", stage.amqp);
    let right = stage.gateway.clone();
    stage.gateway = right.replace(&own, "amqps://no-such-host.invalid:5671");
    stage.start_gateway();
    stage.refused("dns", "unavailable").await;
    stage.process = None;
    // The control API is HTTP, without TLS.
    stage.start_hub().await;
    for (scheme, cause) in [("amqps", "tls"), ("amqp", "amqp_open")] {
        let port = stage.control;
        stage.gateway = right.replace(&own, &format!("{scheme}://localhost:{port}"));
        stage.start_gateway();
        stage.refused(cause, "unavailable").await;
        stage.process = None;
    }
}
