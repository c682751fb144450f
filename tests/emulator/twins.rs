//! Twin links: requests, answers, changes of desired properties, and who is told.

use crate::kit::{Client, condition, detached, http, refusal, soon, start};
use crate::pairs::{Pair, address, annotation, answer, back, body, out, properties};
use fe2o3_amqp::link::{LinkStateError, ReceiverAttachError, RecvError};
use fe2o3_amqp::types::definitions::Fields;
use fe2o3_amqp::types::messaging::{Body, MessageId};
use iothub_gateway::emulator::config::ModuleConfig;
use iothub_gateway::emulator::{EmulatorHandle, Fault, FaultKind, FaultScope};
use iothub_gateway::runtime::clock;
use serde_amqp::Value;
use serde_amqp::primitives::{Symbol, Uuid};
use serde_json::{Value as Json, json};

const SUBSCRIBE: [(&str, &str); 2] = [
    ("operation", "PUT"),
    ("resource", "/notifications/twin/properties/desired"),
];
const REPORT: [(&str, &str); 2] = [("operation", "PATCH"), ("resource", "/properties/reported")];

async fn desire(hub: &EmulatorHandle, path: &str, desired: Json) -> (u16, Json) {
    let body = json!({ "properties": { "desired": desired } }).to_string();
    http(hub, "PATCH", path, body.as_bytes()).await
}

#[tokio::test]
async fn a_device_reads_reports_and_is_told_what_is_desired() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "twin", "plain-1", "1").await;
    let (status, version, twin) = pair.asked(&[("operation", "GET")], " ").await;
    assert_eq!((status, version), (200, None));
    let empty = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
    assert_eq!(twin, empty);

    let reported = pair
        .asked(&REPORT, r#"{"temp": 20, "old": {"a": 1}}"#)
        .await;
    assert_eq!(reported, (204, Some(2), Json::Null));
    let reported = pair.asked(&REPORT, r#"{"temp": 21, "old": null}"#).await;
    assert_eq!(reported, (204, Some(3), Json::Null));

    // Nobody subscribed yet: this one is read, not told.
    let path = "/devices/plain-1/twin";
    assert_eq!(desire(&hub, path, json!({"mode": "eco"})).await.0, 200);
    assert_eq!(pair.asked(&SUBSCRIBE, " ").await, (200, None, Json::Null));
    let (status, twin) = desire(&hub, path, json!({"rate": 5})).await;
    assert_eq!(status, 200);
    assert_eq!(twin["properties"]["desired"]["$version"], 3);
    assert_eq!(twin["properties"]["reported"]["temp"], 21);
    let told = pair.next().await;
    assert_eq!(body(&told), json!({"rate": 5, "$version": 3}));
    let properties = told.message().properties.as_ref();
    assert!(properties.is_none_or(|p| p.correlation_id.is_none()));
    assert_eq!(
        annotation(&told, "resource"),
        Some(&Value::String("/properties/desired".to_owned()))
    );

    let unsubscribe = [("operation", "DELETE"), SUBSCRIBE[1]];
    assert_eq!(pair.asked(&unsubscribe, " ").await.0, 200);
    desire(&hub, path, json!({"rate": null})).await;
    let (_, _, twin) = pair.asked(&[("operation", "GET")], "").await;
    let want = json!({
        "desired": {"mode": "eco", "$version": 4},
        "reported": {"temp": 21, "$version": 3},
    });
    assert_eq!(twin, want);
    assert_eq!(hub.stats().twin_pushes, 1);
}

#[tokio::test]
async fn an_answer_has_the_id_of_its_request_in_its_type() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "twin", "plain-1", "1").await;
    for id in [
        MessageId::String("Get1".to_owned()),
        MessageId::Uuid(Uuid::from([7; 16])),
        MessageId::Ulong(9),
    ] {
        let get = [("operation", Value::String("GET".to_owned()))];
        pair.ask(id.clone(), &get, " ").await;
        let answer = pair.next().await;
        let properties = answer.message().properties.as_ref().unwrap();
        assert_eq!(properties.correlation_id, Some(id));
        assert_eq!(properties.reply_to.as_deref(), Some(""));
    }
}

#[tokio::test]
async fn a_report_for_another_version_conflicts_and_bad_ones_say_why() {
    let hub = start(|config| config.limits.twin_reported_bytes = 100).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "twin", "plain-1", "1").await;
    let report = |version: Value| {
        let text = |text: &str| Value::String(text.to_owned());
        [
            ("operation", text("PATCH")),
            ("resource", text("/properties/reported")),
            ("version", version),
        ]
    };
    for (version, status) in [
        (Value::Long(1), 204),
        (Value::Long(1), 412),
        (Value::Null, 204),
        (Value::Int(3), 400),
    ] {
        let id = MessageId::String("q".to_owned());
        pair.ask(id, &report(version.clone()), r#"{"a":1}"#).await;
        let (got, _, said) = answer(&pair.next().await);
        assert_eq!(got, status, "{version:?}");
        assert_eq!(said["errorCode"].is_u64(), status >= 400, "{said}");
    }
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
    for bad in ["", "[1]", "{", r#"{"a.b":1}"#, r#"{"$version":1}"#, &large] {
        let (status, version, said) = pair.asked(&REPORT, bad).await;
        assert_eq!((status, version), (400, None), "{bad}: {said}");
    }
    for odd in [
        &[("operation", "POST")][..],
        &[("operation", "PATCH")],
        &[],
        &[("operation", "PUT"), ("resource", "/properties/desired")],
    ] {
        assert_eq!(pair.asked(odd, "{}").await.0, 400, "{odd:?}");
    }
    let (_, _, twin) = pair.asked(&[("operation", "GET")], "").await;
    assert_eq!(twin["reported"], json!({"a": 1, "$version": 3}));
}

#[tokio::test]
async fn links_without_their_properties_and_ids_used_twice_are_refused() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let twin = address("twin", "plain-1");
    let without = |key: &str| {
        let mut fields = properties("twin:1");
        fields.swap_remove(&Symbol::from(key));
        fields
    };
    for fields in [
        Fields::new(),
        without("com.microsoft:api-version"),
        without("com.microsoft:channel-correlation-id"),
        properties("methods:1"),
        properties("twin:"),
    ] {
        let (condition, _) = refusal(out(&mut client, "bad", &twin, fields.clone()).await);
        assert_eq!(condition, "amqp:invalid-field", "{fields:?}");
    }
    // Refused once, an id is used up; the other direction never was.
    let ghost = address("twin", "ghost");
    let refused = |result| async { refusal(result).0 };
    let first = out(&mut client, "g1", &ghost, properties("twin:2")).await;
    assert_eq!(refused(first).await, "amqp:not-found");
    let again = out(&mut client, "g2", &twin, properties("twin:2")).await;
    assert_eq!(refused(again).await, "com.microsoft:link-creation-conflict");
    let other = back(&mut client, "g3", &twin, properties("twin:2")).await;
    other.unwrap();
    let _open = out(&mut client, "o1", &twin, properties("twin:3"))
        .await
        .unwrap();
    let same = out(&mut client, "o2", &twin, properties("twin:3")).await;
    assert_eq!(refused(same).await, "com.microsoft:link-creation-conflict");
}

#[tokio::test]
async fn a_newer_pair_takes_the_place_of_the_older() {
    let hub = start(|_| {}).await;
    let mut first = Client::authorised(&hub).await;
    let mut older = Pair::open(&mut first, "twin", "plain-1", "1").await;
    older.asked(&SUBSCRIBE, " ").await;
    let mut second = Client::authorised(&hub).await;
    let mut newer = Pair::open(&mut second, "twin", "plain-1", "2").await;
    assert_eq!(detached(&mut older.out).await.0, "amqp:internal-error");
    // A new pair has not subscribed.
    desire(&hub, "/devices/plain-1/twin", json!({"a": 1})).await;
    newer.asked(&SUBSCRIBE, " ").await;
    desire(&hub, "/devices/plain-1/twin", json!({"a": 2})).await;
    assert_eq!(body(&newer.next().await), json!({"a": 2, "$version": 3}));
    assert_eq!(hub.stats().detaches_second_pair, 2);
}

#[tokio::test]
async fn a_module_has_a_twin_of_its_own() {
    let hub = start(|config| {
        let (id, keys) = ("vision".to_owned(), Default::default());
        config.devices[1].modules.push(ModuleConfig { id, keys });
    })
    .await;
    let mut client = Client::authorised(&hub).await;
    let identity = "plain-1/modules/vision";
    let mut pair = Pair::open(&mut client, "twin", identity, "1").await;
    pair.asked(&SUBSCRIBE, " ").await;
    let path = "/devices/plain-1/twin?$.module=vision";
    desire(&hub, "/devices/plain-1/twin", json!({"of": "device"})).await;
    desire(&hub, path, json!({"of": "module"})).await;
    let told = body(&pair.next().await);
    assert_eq!(told, json!({"of": "module", "$version": 2}));
    assert_eq!(
        desire(&hub, "/devices/plain-1/twin?$.module=no", json!({}))
            .await
            .0,
        404
    );
    let nowhere = address("twin", "plain-1/modules/no");
    let missing = out(&mut client, "m", &nowhere, properties("twin:9")).await;
    assert_eq!(refusal(missing).0, "amqp:not-found");
}

#[tokio::test]
async fn twins_end_with_their_device_and_are_bounded_together() {
    let hub = start(|config| config.limits.twins_bytes_max = 2_000).await;
    let path = |id: &str| format!("/devices/{id}/twin");
    let much = json!({"a": "x".repeat(1_500)});
    assert_eq!(desire(&hub, &path("plain-1"), much.clone()).await.0, 200);
    let (status, said) = desire(&hub, &path("plain-2"), much.clone()).await;
    assert_eq!(status, 400);
    assert!(said["error"].as_str().unwrap().contains("twins_bytes_max"));
    assert_eq!(http(&hub, "DELETE", "/devices/plain-1", b"").await.0, 200);
    assert_eq!(desire(&hub, &path("plain-2"), much).await.0, 200);
    let again = br#"{"status":"enabled"}"#;
    assert_eq!(http(&hub, "PUT", "/devices/plain-1", again).await.0, 200);
    let (_, twin) = http(&hub, "GET", &path("plain-1"), b"").await;
    assert_eq!(twin["properties"]["desired"]["$version"], 1);
}

#[tokio::test]
async fn faults_lose_delay_and_repeat_answers_and_changes() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "twin", "plain-1", "1").await;
    pair.asked(&SUBSCRIBE, " ").await;
    let on = || FaultScope::Device("plain-1".to_owned());
    let inject = |kind| hub.inject(&Fault::new(kind).on(on())).unwrap();
    let get = [("operation", "GET")];

    inject(FaultKind::TwinAnswersTwice);
    assert_eq!(pair.asked(&get, "").await.0, 200);
    assert_eq!(answer(&pair.next().await).0, 200);
    hub.clear_faults();
    inject(FaultKind::TwinAnswersLost);
    let text = |text: &str| Value::String(text.to_owned());
    let report = REPORT.map(|(key, value)| (key, text(value)));
    let id = || MessageId::String("lost".to_owned());
    pair.ask(id(), &report, r#"{"a":1}"#).await;
    let carried_out = async {
        while hub.stats().twin_requests < 3 {
            tokio::task::yield_now().await;
        }
    };
    soon("the report", carried_out).await;
    // Sent by the link's task before the fault ends.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    hub.clear_faults();
    let (_, _, twin) = pair.asked(&get, "").await;
    assert_eq!(twin["reported"], json!({"a": 1, "$version": 2}));

    inject(FaultKind::TwinAnswersDelayed);
    let began = clock::mono();
    assert_eq!(pair.asked(&get, "").await.0, 200);
    assert!(clock::mono().since(began).as_millis() >= 500);
    hub.clear_faults();
    hub.inject(&Fault::new(FaultKind::TwinStatus).with("429"))
        .unwrap();
    let (status, _, said) = pair.asked(&REPORT, r#"{"a":2}"#).await;
    assert_eq!((status, &said["errorCode"]), (429, &json!(429_001)));
    hub.clear_faults();

    inject(FaultKind::DesiredTwice);
    desire(&hub, "/devices/plain-1/twin", json!({"b": 1})).await;
    for _ in 0..2 {
        assert_eq!(body(&pair.next().await), json!({"b": 1, "$version": 2}));
    }
}

#[tokio::test]
async fn faults_detach_one_link_of_a_pair() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "twin", "plain-1", "1").await;
    hub.inject(&Fault::new(FaultKind::KillAmqpTwinLinkReq))
        .unwrap();
    assert_eq!(detached(&mut pair.out).await.0, "amqp:link:detach-forced");
    hub.inject(&Fault::new(FaultKind::KillAmqpTwinLinkResp))
        .unwrap();
    let ended = soon("a detach", pair.back.recv::<Body<Value>>()).await;
    let Err(RecvError::LinkStateError(LinkStateError::RemoteClosedWithError(error))) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(condition(&error), "amqp:link:detach-forced");
    // The same id again is no conflict once both have ended.
    soon("gone", async {
        while hub.stats().links > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let twin = address("twin", "plain-1");
    let again = back(&mut client, "again", &twin, properties("twin:1")).await;
    assert!(!matches!(
        again,
        Err(ReceiverAttachError::RemoteClosedWithError(_))
    ));
}
