//! Method links: calls, answers, and what the caller gets when there is none.

use crate::kit::{Client, http, soon, start};
use crate::pairs::{Pair, address, answer_to, body, call, out, properties};
use fe2o3_amqp::types::messaging::{MessageId, Outcome};
use fe2o3_amqp::types::primitives::SimpleValue;
use iothub_gateway::emulator::config::ModuleConfig;
use iothub_gateway::emulator::{EmulatorHandle, Fault, FaultKind};
use iothub_gateway::runtime::clock;
use serde_amqp::primitives::Uuid;
use serde_json::{Value as Json, json};
use std::time::Duration;

async fn blink(hub: &EmulatorHandle, query: &str, payload: &str) -> (u16, Json) {
    let path = format!("/devices/plain-1/methods/blink?{query}");
    http(hub, "POST", &path, payload.as_bytes()).await
}

#[tokio::test]
async fn a_call_reaches_the_device_and_its_answer_the_caller() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "methods", "plain-1", "1").await;
    let answering = async {
        let called = pair.next().await;
        assert_eq!(body(&called), json!({"times": 3}));
        let (method, id) = call(&called);
        assert_eq!(method, "blink");
        pair.answer(id, 207, r#"{"ok":true}"#).await;
        let (_, id) = call(&pair.next().await);
        pair.answer(id, 200, "").await;
    };
    let calling = async {
        let first = blink(&hub, "", r#"{"times":3}"#).await;
        assert_eq!(
            first,
            (200, json!({"status": 207, "payload": {"ok": true}}))
        );
        let second = blink(&hub, "", "null").await;
        assert_eq!(second, (200, json!({"status": 200, "payload": null})));
    };
    tokio::join!(answering, calling);
    assert_eq!(blink(&hub, "", "{").await.0, 400);
    let large = format!("\"{}\"", "x".repeat(128 * 1024));
    assert_eq!(blink(&hub, "", &large).await.0, 413);
    assert_eq!(hub.stats().method_answers, 2);
}

#[tokio::test]
async fn who_is_not_there_is_404103_and_who_is_silent_504101() {
    let hub = start(|_| {}).await;
    let (status, said) = blink(&hub, "", "").await;
    assert_eq!((status, &said["errorCode"]), (404, &json!(404_103)));
    let unknown = http(&hub, "POST", "/devices/ghost/methods/blink", b"").await;
    assert_eq!(unknown.0, 404);

    let mut client = Client::authorised(&hub).await;
    // Towards the hub alone is not there either.
    let methods = address("methods", "plain-1");
    let alone = out(&mut client, "alone", &methods, properties("methods:0")).await;
    assert_eq!(blink(&hub, "", "").await.0, 404);
    drop(alone);

    let calling = blink(&hub, "connect=9s&response=300ms", "1");
    let opening = Pair::open(&mut client, "methods", "plain-1", "1");
    let ((status, said), mut pair) = tokio::join!(calling, opening);
    assert_eq!((status, &said["errorCode"]), (504, &json!(504_101)));
    // An answer that comes late, or twice, or to no call, is taken and dropped.
    let (_, id) = call(&pair.next().await);
    pair.answer(id.clone(), 200, "1").await;
    pair.answer(id, 200, "1").await;
    pair.answer(MessageId::Uuid(Uuid::from([1; 16])), 200, "1")
        .await;
    let counted = async {
        while hub.stats().method_answers_late < 3 {
            tokio::task::yield_now().await;
        }
    };
    soon("three late answers", counted).await;
    let stats = hub.stats();
    assert_eq!(
        (stats.method_calls_offline, stats.method_calls_timed_out),
        (2, 1)
    );
}

#[tokio::test]
async fn answers_that_are_none_are_rejected_and_what_is_no_json_is_passed_on() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "methods", "plain-1", "1").await;
    let answering = async {
        let (_, id) = call(&pair.next().await);
        let text = MessageId::String("1".to_owned());
        pair.answer(text, 200, "1").await;
        pair.answer(id.clone(), 200i64, "1").await;
        pair.answer(id.clone(), SimpleValue::String("200".into()), "1")
            .await;
        pair.answer(id.clone(), 200, &"x".repeat(128 * 1024 + 1))
            .await;
        pair.answer(id, 200, "rubbish").await;
    };
    let ((), (status, said)) = tokio::join!(answering, blink(&hub, "", ""));
    // The service does not look into it either.
    let passed = r#"{"status":200,"payload":rubbish}"#;
    assert_eq!((status, said), (200, json!(passed)));
    assert_eq!(hub.stats().method_answers_bad, 4);
}

#[tokio::test]
async fn an_unsettled_answer_gets_its_outcome() {
    use fe2o3_amqp::Sender;
    use fe2o3_amqp::types::definitions::SenderSettleMode;
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let attaching = Sender::builder()
        .name("unsettled")
        .target(address("methods", "plain-1"))
        .sender_settle_mode(SenderSettleMode::Unsettled)
        .properties(properties("methods:1"))
        .attach(&mut client.session);
    let mut sender = soon("attach", attaching).await.unwrap();
    let good = answer_to(MessageId::Uuid(Uuid::from([1; 16])), 200, "1");
    let outcome = soon("an outcome", sender.send(good)).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)));
    let bad = answer_to(MessageId::Ulong(1), 200, "1");
    let outcome = soon("an outcome", sender.send(bad)).await.unwrap();
    assert!(matches!(outcome, Outcome::Rejected(_)));
}

#[tokio::test]
async fn calls_that_wait_are_bounded() {
    let hub = start(|config| config.limits.method_calls = 1).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "methods", "plain-1", "1").await;
    let first = blink(&hub, "response=5s", "1");
    let second = async {
        let (_, id) = call(&pair.next().await);
        let (status, said) = blink(&hub, "response=5s", "2").await;
        assert_eq!((status, &said["errorCode"]), (429, &json!(429_002)));
        pair.answer(id, 200, "1").await;
    };
    let ((status, _), ()) = tokio::join!(first, second);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_module_has_methods_of_its_own() {
    let hub = start(|config| {
        let (id, keys) = ("vision".to_owned(), Default::default());
        config.devices[1].modules.push(ModuleConfig { id, keys });
    })
    .await;
    let mut client = Client::authorised(&hub).await;
    let identity = "plain-1/modules/vision";
    let mut pair = Pair::open(&mut client, "methods", identity, "1").await;
    assert_eq!(blink(&hub, "", "1").await.0, 404);
    let answering = async {
        let (_, id) = call(&pair.next().await);
        pair.answer(id, 200, "2").await;
    };
    let ((), called) = tokio::join!(answering, blink(&hub, "$.module=vision", "1"));
    assert_eq!(called, (200, json!({"status": 200, "payload": 2})));
}

#[tokio::test]
async fn faults_lose_delay_and_repeat_calls() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "methods", "plain-1", "1").await;
    hub.inject(&Fault::new(FaultKind::MethodCallsLost)).unwrap();
    assert_eq!(blink(&hub, "response=100ms", "1").await.0, 504);
    hub.clear_faults();

    hub.inject(&Fault::new(FaultKind::MethodCallsTwice))
        .unwrap();
    let answering = async {
        let first = call(&pair.next().await);
        assert_eq!(first, call(&pair.next().await));
        pair.answer(first.1, 200, "1").await;
    };
    let ((), called) = tokio::join!(answering, blink(&hub, "", "1"));
    assert_eq!(called.0, 200);
    hub.clear_faults();

    hub.inject(&Fault::new(FaultKind::MethodCallsDelayed))
        .unwrap();
    let began = clock::mono();
    let answering = async {
        let (_, id) = call(&pair.next().await);
        pair.answer(id, 200, "1").await;
    };
    let ((), called) = tokio::join!(answering, blink(&hub, "", "1"));
    assert_eq!(called.0, 200);
    assert!(clock::mono().since(began) >= Duration::from_millis(500));
}
