//! Spans of messages: one each, whatever becomes of the message.

use super::bench::{Bench, Call, EVENTS, Plan};
use crate::hub::message::Telemetry;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Ended, Outcome, Tracer};
use mqttbytes::QoS;
use std::sync::Arc;
use tokio::sync::mpsc;

async fn traced(ratio: f64) -> (Bench, mpsc::Receiver<Ended>) {
    let (tracer, spans) = Tracer::new(ratio, 16, Arc::new(Metrics::new()));
    let plan = Plan {
        tracer: Some(Arc::new(tracer)),
        ..Plan::default()
    };
    (Bench::open(plan).await, spans)
}

/// Publishes, and answers what the hub was given.
async fn given(bench: &mut Bench, bag: &str) -> (u64, Telemetry) {
    let topic = format!("{EVENTS}{bag}");
    bench.publish(&topic, QoS::AtLeastOnce, 5, "21 C").await;
    match bench.call().await {
        Call::Send(ticket, telemetry) => (ticket, telemetry),
        other => panic!("{other:?}"),
    }
}

fn property<'a>(message: &'a Telemetry, name: &str) -> Option<&'a str> {
    let found = message.application.iter().find(|(known, _)| known == name);
    found.and_then(|(_, value)| value.as_deref())
}

#[tokio::test]
async fn a_refused_message_ends_its_span_with_the_reason() {
    let (mut bench, mut spans) = traced(1.0).await;
    let (ticket, message) = given(&mut bench, "").await;
    bench.refuse(ticket);
    bench.ended("message_too_large").await;
    let ended = spans.try_recv().expect("a span");
    assert_eq!(ended.outcome, Outcome::Failed("message_too_large"));
    let carried = ended.span.context.to_string();
    assert_eq!(property(&message, "traceparent"), Some(carried.as_str()));
    let id = message.system.message_id.expect("an id");
    assert_eq!(ended.span.facts.message, id);
    assert_eq!((ended.span.facts.qos, ended.span.facts.bytes), (1, 4));
    assert!(spans.try_recv().is_err(), "one span a message");
}

#[tokio::test]
async fn a_message_nobody_decides_about_ends_its_span_with_the_connection() {
    let (mut bench, mut spans) = traced(1.0).await;
    let _ = given(&mut bench, "").await;
    bench.write(&[0xe0, 0]).await;
    bench.ended("clean").await;
    let ended = spans.recv().await.expect("a span");
    assert_eq!(ended.outcome, Outcome::Failed("abandoned"));
}

#[tokio::test]
async fn a_message_that_is_not_sampled_is_left_as_it_is() {
    let (mut bench, mut spans) = traced(0.0).await;
    let (ticket, message) = given(&mut bench, "traceparent=nonsense&tracestate=a").await;
    assert_eq!(property(&message, "traceparent"), Some("nonsense"));
    assert_eq!(property(&message, "tracestate"), Some("a"));
    assert_eq!(message.system.message_id, None);
    bench.refuse(ticket);
    bench.ended("message_too_large").await;
    assert!(spans.try_recv().is_err());
}
