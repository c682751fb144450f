//! Direct methods and twins over links of the hub.

use super::fake::FakeHub;
use super::fake_services::{Services, method, push, twin_answer};
use super::{PATIENCE, accepted, config, device, event, message, start};
use crate::hub::message::{MethodBounds, MethodCall, TwinAnswer, TwinAsk, TwinBounds, TwinRequest};
use crate::hub::{Busy, DeviceLinks, Hub, HubEvent, Stray, Update};
use bytes::Bytes;
use fe2o3_amqp::types::messaging::MessageId;
use fe2o3_amqp::types::primitives::{SimpleValue, Uuid};
use std::time::Duration;

const METHODS: &str = "/devices/d1/methods/devicebound";
const TWIN: &str = "/devices/d1/twin";

const CALLS: MethodBounds = MethodBounds {
    calls: 4,
    bytes: 1024,
    timeout: Duration::from_secs(60),
};

const ASKS: TwinBounds = TwinBounds {
    requests: 2,
    bytes: 1024,
    timeout: Duration::from_secs(60),
    desired_bytes: 1024,
};

fn uuid(n: u8) -> MessageId {
    MessageId::Uuid(Uuid::from([n; 16]))
}

fn get(rid: &str) -> TwinRequest {
    TwinRequest {
        rid: rid.to_owned(),
        what: TwinAsk::Get,
    }
}

fn report(rid: &str, version: Option<i64>) -> TwinRequest {
    let body = Bytes::from_static(b"{\"a\":1}");
    TwinRequest {
        rid: rid.to_owned(),
        what: TwinAsk::Report { version, body },
    }
}

async fn called(links: &mut DeviceLinks) -> MethodCall {
    match event(links).await {
        HubEvent::Method(call) => *call,
        other => panic!("{other:?}"),
    }
}

/// Whether a request or an answer of this ticket was accepted by the hub.
async fn taken(links: &mut DeviceLinks, ticket: u64) -> bool {
    match event(links).await {
        HubEvent::Taken(found, receipt) if found == ticket => receipt.is_some(),
        other => panic!("{other:?}"),
    }
}

async fn answer(links: &mut DeviceLinks) -> TwinAnswer {
    loop {
        match event(links).await {
            HubEvent::Twin(answer) => return *answer,
            HubEvent::Taken(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn changed(links: &mut DeviceLinks) -> (i64, String) {
    match event(links).await {
        HubEvent::Desired(update) => {
            links.requests_written();
            let Update { version, body } = *update;
            (version, String::from_utf8(body.to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// Polls the links while the hub's part is played.
async fn with<T>(links: &mut DeviceLinks, play: impl Future<Output = T>) -> T {
    tokio::select! {
        played = play => played,
        event = links.next() => panic!("{event:?}"),
    }
}

async fn bench() -> (FakeHub, Hub, DeviceLinks) {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let links = device(&hub, "d1");
    (fake, hub, links)
}

/// A device that follows its desired properties from `twin` on.
async fn following(services: &Services, links: &mut DeviceLinks, twin: &str) {
    links.follow_desired(ASKS);
    with(links, async {
        services.answer("GET", 200, twin).await;
        services.answer("PUT", 200, "").await;
        services.answer("GET", 200, twin).await;
    })
    .await;
}

fn metric(hub: &Hub, line: &str) -> bool {
    let text = hub.shared.metrics.render();
    text.contains(&format!("\niothub_gateway_{line}\n"))
}

#[tokio::test]
async fn a_method_is_called_answered_and_the_answer_accepted() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.call_methods(CALLS);
    with(&mut links, services.until_attached(2)).await;
    services.tell(METHODS, method(uuid(7), "blink", "{}"));
    let call = called(&mut links).await;
    assert_eq!((call.name.as_str(), &call.body[..]), ("blink", &b"{}"[..]));
    assert_eq!(links.answer(5, 99, 200, Bytes::new()), Err(Stray::Unknown));
    let body = Bytes::from_static(b"[1]");
    assert_eq!(links.answer(5, call.number, -2, body), Ok(()));
    assert_eq!(links.outstanding(), 1);
    assert!(taken(&mut links, 5).await);
    assert_eq!(links.outstanding(), 0);
    let heard = services.hear().await;
    assert_eq!((heard.id, heard.body), (uuid(7), b"[1]".to_vec()));
    assert_eq!(heard.status, Some(SimpleValue::Int(-2)));
    let again = links.answer(6, call.number, 200, Bytes::new());
    assert_eq!(again, Err(Stray::Repeated));
    assert!(metric(&hub, "method_calls_total{result=\"answered\"} 1"));
    // Both links of the pair have one channel id, and are gone when nobody listens.
    let channels = services.channels.lock().unwrap().clone();
    assert_eq!(channels.len(), 2);
    assert!(channels[0].starts_with("methods:") && channels[0] == channels[1]);
    links.call_no_methods();
    with(&mut links, fake.until(|seen| seen.detaches >= 2)).await;
    assert!(metric(
        &hub,
        "hub_links{role=\"methods\",state=\"attached\"} 0"
    ));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_call_outlives_its_links_and_each_try_has_a_channel_of_its_own() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.call_methods(CALLS);
    with(&mut links, services.until_attached(2)).await;
    services.tell(METHODS, method(uuid(1), "slow", ""));
    let call = called(&mut links).await;
    fake.kill();
    with(&mut links, services.until_attached(4)).await;
    links.answer(1, call.number, 200, Bytes::new()).unwrap();
    assert!(taken(&mut links, 1).await);
    assert_eq!(services.hear().await.id, uuid(1));
    let channels = services.channels.lock().unwrap().clone();
    assert_eq!(channels.len(), 4);
    assert_ne!(channels[0], channels[2]);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn no_more_calls_are_known_than_the_bound_says_and_no_longer() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    let bounds = MethodBounds {
        calls: 2,
        timeout: Duration::from_millis(300),
        ..CALLS
    };
    links.call_methods(bounds);
    with(&mut links, services.until_attached(2)).await;
    for n in 0..3 {
        services.tell(METHODS, method(uuid(n), "m", ""));
    }
    services.tell(METHODS, method(uuid(2), "again", ""));
    services.tell(METHODS, method(uuid(9), "m", &"x".repeat(1025)));
    let first = called(&mut links).await;
    for _ in 0..2 {
        called(&mut links).await;
    }
    assert!(metric(&hub, "requests_waiting{kind=\"method\"} 2"));
    assert!(metric(&hub, "method_calls_total{result=\"displaced\"} 1"));
    let late = links.answer(1, first.number, 200, Bytes::new());
    assert_eq!(late, Err(Stray::Late));
    links.requests_written();
    let over = tokio::time::timeout(Duration::from_secs(1), links.next()).await;
    assert!(over.is_err(), "{over:?}");
    assert!(metric(&hub, "method_calls_total{result=\"timed_out\"} 2"));
    assert!(metric(&hub, "method_calls_total{result=\"repeated\"} 1"));
    assert!(metric(&hub, "method_calls_total{result=\"too_large\"} 1"));
    assert!(metric(&hub, "requests_waiting{kind=\"method\"} 0"));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_twin_is_read_and_reported_to_and_stray_answers_are_counted() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.ask_twin(1, get("a"), ASKS).unwrap();
    links.ask_twin(2, report("b", Some(4)), ASKS).unwrap();
    assert_eq!(links.ask_twin(3, get("c"), ASKS), Err(Busy));
    assert!(taken(&mut links, 1).await);
    assert!(taken(&mut links, 2).await);
    let (asked, reported) = (services.hear().await, services.hear().await);
    assert_eq!(asked.operation(), "GET");
    assert_eq!(reported.operation(), "PATCH");
    assert_eq!(reported.body, b"{\"a\":1}");
    services.tell(TWIN, twin_answer(uuid(1), 200, None, "{}"));
    services.tell(TWIN, twin_answer(reported.id.clone(), 204, Some(5), ""));
    services.tell(TWIN, twin_answer(reported.id, 204, Some(5), ""));
    services.tell(TWIN, twin_answer(asked.id, 200, None, "{\"desired\":{}}"));
    let patched = answer(&mut links).await;
    assert_eq!((patched.rid.as_str(), patched.status), ("b", 204));
    assert_eq!(patched.version, Some(5));
    let got = answer(&mut links).await;
    assert_eq!(
        (got.rid.as_str(), &got.body[..]),
        ("a", &b"{\"desired\":{}}"[..])
    );
    assert!(metric(
        &hub,
        "twin_answers_dropped_total{reason=\"unknown\"} 1"
    ));
    assert!(metric(
        &hub,
        "twin_answers_dropped_total{reason=\"repeated\"} 1"
    ));
    assert!(metric(&hub, "requests_waiting{kind=\"twin\"} 0"));
    assert!(metric(&hub, "requests_waiting_bytes{kind=\"twin\"} 0"));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_request_is_asked_again_on_the_next_links_unless_it_may_have_been_followed() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.ask_twin(1, report("plain", None), ASKS).unwrap();
    links.ask_twin(2, report("once", Some(4)), ASKS).unwrap();
    assert!(taken(&mut links, 1).await);
    assert!(taken(&mut links, 2).await);
    let first = services.hear().await;
    assert_eq!(services.hear().await.annotations.len(), 3);
    fake.kill();
    let given_up = answer(&mut links).await;
    assert_eq!((given_up.rid.as_str(), given_up.status), ("once", 504));
    let again = with(&mut links, services.hear()).await;
    assert_eq!((&again.id, &again.body), (&first.id, &first.body));
    services.tell(TWIN, twin_answer(again.id, 204, Some(2), ""));
    assert_eq!(answer(&mut links).await.status, 204);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn what_the_hub_does_not_answer_is_answered_504_and_a_late_answer_dropped() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    let bounds = TwinBounds {
        timeout: Duration::from_millis(300),
        ..ASKS
    };
    links.ask_twin(1, get("a"), bounds).unwrap();
    assert!(taken(&mut links, 1).await);
    let asked = services.hear().await;
    let given_up = answer(&mut links).await;
    assert_eq!((given_up.rid.as_str(), given_up.status), ("a", 504));
    services.tell(TWIN, twin_answer(asked.id, 200, None, "{}"));
    links.ask_twin(2, get("b"), ASKS).unwrap();
    assert!(taken(&mut links, 2).await);
    services.answer("GET", 200, "{}").await;
    assert_eq!(answer(&mut links).await.rid, "b");
    assert!(metric(
        &hub,
        "twin_answers_dropped_total{reason=\"late\"} 1"
    ));
    let timed_out = "twin_requests_total{operation=\"get\",result=\"timed_out\"} 1";
    assert!(metric(&hub, timed_out));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn desired_changes_come_once_and_in_order_over_the_end_of_the_links() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    let twin = "{\"desired\":{\"a\":1,\"$version\":4}}";
    following(&services, &mut links, twin).await;
    services.tell(TWIN, push("{\"a\":2,\"$version\":5}"));
    let first = changed(&mut links).await;
    assert_eq!(first, (5, "{\"a\":2,\"$version\":5}".to_owned()));
    fake.kill();
    with(&mut links, services.answer("PUT", 200, "")).await;
    // Two changes were made meanwhile, and one more is pushed before the twin is read.
    services.tell(TWIN, push("{\"d\":1,\"$version\":8}"));
    let twin = "{\"desired\":{\"a\":2,\"b\":1,\"c\":1,\"d\":1,\"$version\":8}}";
    with(&mut links, services.answer("GET", 200, twin)).await;
    let missed = changed(&mut links).await;
    assert_eq!(missed.0, 8);
    let patch: serde_json::Value = serde_json::from_str(&missed.1).unwrap();
    assert_eq!(
        patch,
        serde_json::json!({"b": 1, "c": 1, "d": 1, "$version": 8})
    );
    services.tell(TWIN, push("{\"c\":null,\"$version\":9}"));
    services.tell(TWIN, push("{\"e\":1,\"$version\":10}"));
    // What was pushed first may have shown a gap; then the twin is read once more.
    assert_eq!(changed(&mut links).await.0, 9);
    assert_eq!(changed(&mut links).await.0, 10);
    assert!(metric(
        &hub,
        "desired_changes_total{result=\"delivered\"} 3"
    ));
    assert!(metric(
        &hub,
        "desired_changes_total{result=\"recovered\"} 1"
    ));
    links.leave_desired();
    with(&mut links, fake.until(|seen| seen.detaches >= 2)).await;
    assert!(metric(&hub, "requests_waiting{kind=\"desired\"} 0"));
    assert!(metric(&hub, "requests_waiting_bytes{kind=\"desired\"} 0"));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_subscription_the_hub_refuses_is_put_again() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.follow_desired(ASKS);
    let twin = "{\"desired\":{\"$version\":1}}";
    with(&mut links, async {
        services.answer("GET", 500, "").await;
        services.answer("GET", 200, "nonsense").await;
        services.answer("GET", 200, twin).await;
        services.answer("PUT", 503, "").await;
        services.answer("PUT", 200, "").await;
        services.answer("GET", 200, twin).await;
    })
    .await;
    services.tell(TWIN, push("{\"$version\":2}"));
    assert_eq!(changed(&mut links).await.0, 2);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_device_that_does_not_read_holds_no_more_changes_than_the_credit() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    following(&services, &mut links, "{\"desired\":{\"$version\":0}}").await;
    for n in 1..=20 {
        services.tell(TWIN, push(&format!("{{\"$version\":{n}}}")));
    }
    let mut held = 0;
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(300), links.next()).await {
        assert!(matches!(event, HubEvent::Desired(_)), "{event:?}");
        held += 1;
    }
    assert!(held <= 5, "{held} changes for a socket that takes none");
    links.requests_written();
    while held < 20 {
        changed(&mut links).await;
        held += 1;
    }
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_device_that_does_not_read_holds_no_more_calls_than_the_credit() {
    let (fake, hub, mut links) = bench().await;
    let services = fake.services();
    links.call_methods(MethodBounds { calls: 50, ..CALLS });
    with(&mut links, services.until_attached(2)).await;
    for n in 0..20 {
        services.tell(METHODS, method(uuid(n), "m", ""));
    }
    let mut held = 0;
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(300), links.next()).await {
        assert!(matches!(event, HubEvent::Method(_)), "{event:?}");
        held += 1;
    }
    assert_eq!(held, 4, "calls for a socket that takes none");
    while held < 20 {
        links.requests_written();
        called(&mut links).await;
        held += 1;
    }
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_hub_without_twins_is_told_as_501_and_telemetry_goes_on() {
    let (fake, hub, mut links) = bench().await;
    fake.without_services();
    links.ask_twin(1, get("a"), ASKS).unwrap();
    assert!(!taken(&mut links, 1).await);
    let given_up = answer(&mut links).await;
    assert_eq!((given_up.rid.as_str(), given_up.status), ("a", 501));
    links.send(2, message("on"));
    assert_eq!(accepted(&mut links).await, 2);
    assert!(metric(&hub, "hub_detaches_total{condition=\"unserved\"} 1"));
    assert!(hub.shutdown(PATIENCE).await);
}
