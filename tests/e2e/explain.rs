//! What operators ask and order: `ctl` against a gateway with its hub, and the API beneath.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, DEVICE_KEY, HUB, Options, PASSWORD, PSK, http, now, sas, secret};
use iothub_gateway::emulator::{Fault, FaultKind};
use mqttbytes::v4::ConnectReturnCode;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub const READ: &str = "read-token-0123456789";
pub const OPERATE: &str = "operate-token-0123456789";

/// A bench whose operators have tokens.
pub async fn bench(name: &str, options: Options) -> Bench {
    let tokens = format!("read_token = \"{READ}\"\noperate_token = \"{OPERATE}\"\n");
    let options = Options {
        // The [admin] table is the last one with `bind` in it.
        gateway: format!("{tokens}{}", options.gateway),
        ..options
    };
    Bench::start(name, options).await
}

/// Exit code and output of `ctl`.
async fn ctl(bench: &Bench, token: Option<&str>, arguments: &str) -> (Option<i32>, String) {
    let file: PathBuf = bench.dir.join("token-for-ctl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"));
    command.args(["ctl", "--admin", &bench.gateway.admin().to_string()]);
    command.env_remove("IOTHUB_GATEWAY_TOKEN");
    if let Some(token) = token {
        secret(&file, token);
        command.arg("--token-file").arg(file);
    }
    command.args(arguments.split(' '));
    let run = move || command.output().expect("the binary starts");
    let done = tokio::task::spawn_blocking(run).await.expect("joined");
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn explain(bench: &Bench, id: &str) -> String {
    let (code, text) = ctl(bench, Some(READ), &format!("explain {id}")).await;
    assert_eq!(code, Some(0), "{text}");
    text
}

/// Waits until `ctl explain ID` says all of `words`, with a fix.
async fn explained(bench: &Bench, id: &str, words: &[&str]) {
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let text = explain(bench, id).await;
            let block = text
                .split("\n\n")
                .find(|block| words.iter().all(|word| block.contains(word)));
            if let Some(block) = block {
                assert!(block.contains("  fix  "), "{block}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    if told.await.is_err() {
        panic!("{id} {words:?}:\n{}", explain(bench, id).await);
    }
}

pub async fn refused(bench: &Bench, transport: &Transport, who: &Who) {
    let refused = Device::try_connect(bench.mqtt(), transport, who).await;
    assert!(!matches!(refused, Ok(Ok(_))), "admitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_devices_are_explained_with_cause_and_fix() {
    let mut options = Options {
        fleet: 1,
        ..Options::default()
    };
    options.rules =
        "[[rule]]\nname = \"not these\"\nwhen = { credential = \"psk\", identity = \"load-*\" }\n\
                     deny = true\n"
            .to_owned();
    let bench = bench("explain", options).await;
    let user = |device: &str| format!("{HUB}/{device}/?api-version=2021-04-12");
    let token = |device: &str, ends| {
        let token = sas(DEVICE_KEY, &format!("{HUB}/devices/{device}"), ends);
        Who::login("sas-1", &user("sas-1"), &token)
    };
    let (tls, known) = (bench.tls(), Transport::psk("psk-1", PSK));
    let load = Transport::psk("load-0", &crate::support::fleet_key(0));
    let wrong = Transport::psk("psk-1", b"wrong-key-123456");
    let (expired, foreign) = (token("sas-1", now() - 3600), token("sas-2", now() + 3600));
    #[rustfmt::skip] // a case a line
    let cases: [(&Transport, Who, &str, &[&str]); 6] = [
        (&wrong, Who::id("psk-1"), "psk-1",
         &["psk_wrong_key", "compare the key", "--reason psk_wrong_key"]),
        (&Transport::psk("stranger", PSK), Who::id("x"), "stranger",
         &["psk_unknown", "add the identity"]),
        (&known, Who::id("other"), "other",
         &["client_id_mismatch", "expected   psk-1", "got        other"]),
        (&tls, expired, "sas-1", &["sas_expired", "401003", "renew"]),
        (&tls, foreign, "sas-1", &["sas_scope", "expected", "devices/sas-1"]),
        (&load, Who::id("load-0"), "load-0", &["rule_denied", "not these", "change that rule"]),
    ];
    for (transport, who, id, words) in cases {
        refused(&bench, transport, &who).await;
        explained(&bench, id, words).await;
    }
    let mut device = Device::connect(bench.mqtt(), &known, &Who::id("psk-1")).await;
    let foreign = device.publish("devices/sas-1/messages/events/", b"x").await;
    assert!(foreign.is_err());
    let words = [
        "topic_foreign_device",
        "expected",
        "devices/psk-1/messages/events/",
    ];
    explained(&bench, "psk-1", &words).await;
    // By the address too, and together with everybody's.
    explained(&bench, "127.0.0.1", &["psk_unknown"]).await;
    let (code, all) = ctl(&bench, Some(OPERATE), "causes").await;
    assert_eq!(code, Some(0), "{all}");
    assert!(
        all.contains("rule_denied") && all.contains("stranger"),
        "{all}"
    );
    let denied = all.lines().find(|line| line.contains("rule_denied"));
    // No terminal: a row is one line, whole.
    assert!(
        denied.is_some_and(|line| line.ends_with("change that rule if the device shall connect")),
        "{all}"
    );
    assert!(
        !all.contains("MARKER") && !all.contains("sig="),
        "no secret: {all}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_does_to_a_device_is_explained_with_its_code() {
    let bench = bench("explain-hub", Options::default()).await;
    let topic = "devices/psk-1/messages/events/";
    let (transport, who) = (Transport::psk("psk-1", PSK), Who::id("psk-1"));
    let connect = || async { Device::connect(bench.mqtt(), &transport, &who).await };
    let set = async |method: &'static str, status: &str| {
        let body = format!("{{\"status\":\"{status}\"}}");
        let (code, text) = bench.control(method, "/devices/psk-1", &body).await;
        assert!((200..300).contains(&code), "{text}");
    };
    let mut device = connect().await;
    device.publish(topic, b"x").await.expect("PUBACK");
    set("PUT", "disabled").await;
    explained(
        &bench,
        "psk-1",
        &["gone_device_disabled", "403012", "enable it"],
    )
    .await;
    set("PUT", "enabled").await;
    let mut device = connect().await;
    device.publish(topic, b"x").await.expect("PUBACK");
    let (code, _) = bench.control("DELETE", "/devices/psk-1", "").await;
    assert!((200..300).contains(&code));
    explained(
        &bench,
        "psk-1",
        &["gone_device_not_found", "404001", "create the device"],
    )
    .await;
    set("PUT", "enabled").await;
    let mut device = connect().await;
    device.publish(topic, b"x").await.expect("PUBACK");
    let stolen = Fault::new(FaultKind::DetachLink).with("amqp:link:stolen");
    bench.emulator.inject(&stolen).expect("a fault");
    explained(
        &bench,
        "psk-1",
        &["gone_stolen", "400027", "another gateway"],
    )
    .await;
    bench.emulator.clear_faults();
    let mut device = connect().await;
    bench
        .emulator
        .inject(&Fault::new(FaultKind::InvokeThrottling))
        .expect("a fault");
    device.send(topic, b"x").await.expect("sent");
    explained(
        &bench,
        "psk-1",
        &["hub refuses: throttled", "429001", "add units"],
    )
    .await;
    bench.emulator.clear_faults();
    let mut device = connect().await;
    assert!(
        device
            .publish(topic, &vec![b'x'; 256 * 1024])
            .await
            .is_err()
    );
    explained(
        &bench,
        "psk-1",
        &["message_too_large", "413001", "send smaller"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_gave_up_while_the_hub_was_away_is_not_blamed() {
    let bench = bench("explain-away", Options::default()).await;
    let device = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    for kind in [FaultKind::RefuseConnections, FaultKind::KillTcp] {
        bench.emulator.inject(&Fault::new(kind)).expect("a fault");
    }
    bench.falls("ready", 0.0).await;
    bench.reaches("hub_refusing", &[], 1.0).await;
    drop(device);
    // One that had nothing to wait for leaves no trace, another that had does.
    let who = Who::login("pass-1", "pass-1", PASSWORD);
    for (count, sends) in [(1.0, false), (2.0, true)] {
        let mut device = Device::connect(bench.plain(), &Transport::Plain, &who).await;
        if sends {
            let topic = "devices/pass-1/messages/events/";
            device.send(topic, b"x").await.expect("sent");
            bench.reaches("inflight", &["uplink"], 1.0).await;
        }
        device.goodbye().await.expect("closed");
        bench.reaches("disconnects_total", &["clean"], count).await;
        match sends {
            true => explained(&bench, "pass-1", &["hub unavailable: clean"]).await,
            false => assert!(explain(&bench, "pass-1").await.contains("nothing is known")),
        }
    }
    let waited = "the device waited for a hub that serves nobody (";
    let words = ["hub unavailable: peer_closed", waited, "hub.endpoint"];
    explained(&bench, "psk-1", &words).await;
    let text = explain(&bench, "psk-1").await;
    let first = text.lines().next().expect("a line");
    assert!(
        first.starts_with("no device can be served now: no ") && first.contains("hub.endpoint"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_and_shown() {
    let bench = bench("orders", Options::default()).await;
    let who = Who::login("pass-1", "pass-1", PASSWORD);
    let mut device = Device::connect(bench.plain(), &Transport::Plain, &who).await;
    device
        .publish("devices/pass-1/messages/events/", b"x")
        .await
        .expect("PUBACK");
    let _other = Device::connect(
        bench.mqtt(),
        &Transport::psk("psk-1", PSK),
        &Who::id("psk-1"),
    )
    .await;
    let (code, text) = ctl(&bench, Some(READ), "devices").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 of 2") && text.contains("psk-1"), "{text}");
    let (_, text) = ctl(&bench, Some(READ), "--json devices pass").await;
    let page: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(page["total"], 1);
    assert_eq!(page["connections"][0]["accepted"], 1);
    assert_eq!(page["connections"][0]["identity"], "password:pass-1");
    let (_, text) = ctl(&bench, Some(READ), "device pass-1").await;
    assert!(text.contains("admitted by    device pass-1"), "{text}");
    let (_, text) = ctl(&bench, Some(READ), "hub").await;
    assert!(text.contains("ready") && text.contains("token:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_closed_and_kept_out_by_who_may_order_it() {
    let bench = bench("closed", Options::default()).await;
    let who = Who::login("pass-1", "pass-1", PASSWORD);
    let mut device = Device::connect(bench.plain(), &Transport::Plain, &who).await;
    let (code, text) = ctl(&bench, Some(READ), "kick pass-1").await;
    assert_eq!(code, Some(77), "reading is not ordering: {text}");
    assert!(text.contains("operate_token"), "{text}");
    let (code, text) = ctl(&bench, Some(OPERATE), "kick pass-1").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(device.ping().await.is_err(), "closed");
    bench
        .reaches("disconnects_total", &["reason=\"kicked\""], 1.0)
        .await;
    let (code, text) = ctl(&bench, Some(OPERATE), "block pass-1 --for 10m").await;
    assert_eq!(code, Some(0), "{text}");
    let again = Device::try_connect(bench.plain(), &Transport::Plain, &who).await;
    assert_eq!(
        again.expect("an answer").err(),
        Some(ConnectReturnCode::NotAuthorized)
    );
    let (_, text) = ctl(&bench, Some(READ), "device pass-1").await;
    assert!(text.contains("kept out for 9m"), "{text}");
    explained(&bench, "pass-1", &["blocked", "ctl unblock"]).await;
    let (code, text) = ctl(&bench, Some(OPERATE), "unblock pass-1").await;
    assert_eq!(code, Some(0), "{text}");
    Device::connect(bench.plain(), &Transport::Plain, &who).await;
    let (code, text) = ctl(&bench, Some(OPERATE), "reload").await;
    assert_eq!(code, Some(0), "{text}");
    bench
        .reaches("config_reloads_total", &["result=\"ok\""], 1.0)
        .await;
}

/// Status, head and body of a raw request.
pub async fn raw(bench: &Bench, request: String) -> String {
    use std::io::{Read, Write};
    let admin = bench.gateway.admin();
    let exchange = move || {
        let mut stream = std::net::TcpStream::connect(admin).expect("connected");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::task::spawn_blocking(exchange).await.expect("joined")
}

/// Request line, headers, body, status, and what the answer says.
type Bad = (&'static str, String, String, u16, &'static str);

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[rustfmt::skip] // a row a line
fn bad_requests() -> Vec<Bad> {
    let large = "x".repeat(5000);
    let basic = "Authorization: Basic eA==\r\n".to_owned();
    let (reads, orders) = (bearer(READ), bearer(OPERATE));
    let row = |line, headers: &str, body: &str, status, words| {
        (line, headers.to_owned(), body.to_owned(), status, words)
    };
    vec![
        row("GET /api/v1/hub", "", "", 401, "WWW-Authenticate: Bearer realm"),
        row("GET /api/v1/hub", &bearer("wrong-token-0123456789"), "", 401, "invalid_token"),
        row("GET /api/v1/hub", &basic, "", 400, "invalid_request"),
        row("GET /api/v1/hub", &(bearer("a") + &bearer("b")), "", 400, "invalid_request"),
        row("POST /api/v1/drain", &reads, "", 403, "insufficient_scope"),
        row("GET /api/v1/drain", &orders, "", 405, "allow: POST"),
        row("POST /api/v1/reload", &orders, "x", 400, "takes no body"),
        row("POST /api/v1/drain", &orders, &large, 400, "takes no body"),
        row("DELETE /api/v1/devices/psk-1/block", &orders, "{}", 400, "takes no body"),
        row("DELETE /api/v1/devices/psk-1/connection", &orders, "{}", 400, "takes no body"),
        row("GET /api/v1/nothing", &reads, "", 404, "openapi.json"),
        row("GET /api/v1/devices/nobody", &reads, "", 404, "nothing is known"),
        row("GET /api/v1/devices/%ff", &reads, "", 400, "UTF-8"),
        row("GET /api/v1/connections?limit=0", &reads, "", 400, "1 to 1000"),
        row("GET /api/v1/connections?colour=red", &reads, "", 400, "known are"),
        row("PUT /api/v1/devices/psk-1/block", &orders, "{\"seconds\":0}", 400, "30 days"),
        row("PUT /api/v1/devices/psk-1/block", &orders, "{\"second\":1}", 400, "unknown field"),
        row("PUT /api/v1/devices/psk-1/block", &orders, &large, 413, "4096"),
        row("PUT /api/v1/devices/a%20b/block", &orders, "{\"seconds\":1}", 404, "no device id"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_a_problem_document_and_disturb_nothing() {
    let bench = bench("problems", Options::default()).await;
    for (line, headers, body, status, words) in bad_requests() {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        let answer = raw(&bench, request).await;
        let (head, document) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{line}: {answer}"
        );
        let document: Value = serde_json::from_str(document).expect("JSON");
        assert_eq!(document["status"], status, "{line}");
        let told = head + &document.to_string().to_ascii_lowercase();
        assert!(
            told.contains(&words.to_ascii_lowercase()),
            "{line}: {words} in {told}"
        );
        for token in [READ, OPERATE, "wrong-token"] {
            assert!(!answer.contains(token), "{line}: a token in the answer");
        }
    }
    let admin = bench.gateway.admin();
    let health = tokio::task::spawn_blocking(move || http::request(admin, "GET", "/ready", "").0);
    assert_eq!(health.await.expect("asked"), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_this_machine_reads_and_nobody_orders() {
    let bench = Bench::start("no-tokens", Options::default()).await;
    for (headers, status) in [
        ("Host: 127.0.0.1:9464", 200),
        ("Host: localhost", 200),
        ("Host: [::1]:9464", 200),
        ("Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:9464", 200),
        ("Host: rebound.example:9464", 403),
        ("Host: 127.0.0.1.example", 403),
        ("Host: 127.0.0.1\r\nOrigin: https://elsewhere.example", 403),
        ("Host: 127.0.0.1\r\nOrigin: null", 403),
    ] {
        let request = format!("GET /api/v1/hub HTTP/1.1\r\n{headers}\r\n\r\n");
        let answer = raw(&bench, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{headers}: {answer}"
        );
    }
    let (code, text) = ctl(&bench, None, "hub").await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = ctl(&bench, None, "drain").await;
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("admin.operate_token is set"), "{text}");
}
