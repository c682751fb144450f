//! Spans → the body of an OTLP/HTTP request in JSON (OTLP 1.5, "JSON Protobuf Encoding"); pure.
//!
//! Ids are hexadecimal and 64-bit integers are strings, as that encoding has them.

use super::span::{Ended, Outcome};
use crate::runtime::clock::Unix;
use crate::runtime::hex::hex;
use serde_json::{Value, json};

/// `SPAN_KIND_PRODUCER`: who makes a message and waits for nobody to read it.
const PRODUCER: u8 = 4;

/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Who exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `service.instance.id`: this process.
    pub instance: String,
    /// `server.address`: the hub's name.
    pub hub: String,
}

/// The request that exports `spans`.
pub fn request(resource: &Resource, spans: &[Ended]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<Value> = spans.iter().map(|span| of(resource, span)).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", "iothub-gateway"),
            text("service.version", version),
            text("service.instance.id", &resource.instance),
        ]},
        "scopeSpans": [{
            "scope": {"name": "iothub-gateway", "version": version},
            "spans": spans,
        }],
    }]})
    .to_string()
}

fn of(resource: &Resource, ended: &Ended) -> Value {
    let Ended { span, end, outcome } = ended;
    let facts = &span.facts;
    let (word, status) = match outcome {
        Outcome::Accepted => ("accepted", json!({})),
        Outcome::Failed(reason) => (*reason, json!({"code": ERROR, "message": reason})),
    };
    let template = match facts.module {
        Some(_) => "/devices/{device}/modules/{module}/messages/events",
        None => "/devices/{device}/messages/events",
    };
    let mut attributes = vec![
        text("messaging.system", "iothub"),
        text("messaging.operation.name", "send"),
        text("messaging.operation.type", "send"),
        text("messaging.destination.name", &facts.destination),
        text("messaging.destination.template", template),
        text("messaging.message.id", &facts.message),
        number("messaging.message.body.size", facts.bytes),
        text("server.address", &resource.hub),
        text("iothub.device.id", &facts.device),
        text("iothub.outcome", word),
        number("mqtt.qos", usize::from(facts.qos)),
    ];
    if let Some(module) = &facts.module {
        attributes.push(text("iothub.module.id", module));
    }
    if let Outcome::Failed(reason) = outcome {
        attributes.push(text("error.type", reason));
    }
    let mut value = json!({
        "traceId": hex(&span.context.trace),
        "spanId": hex(&span.context.span),
        "name": format!("send {template}"),
        "kind": PRODUCER,
        "flags": 1,
        "startTimeUnixNano": nanoseconds(span.start),
        // The wall clock may be set back meanwhile; a span does not end before it begins.
        "endTimeUnixNano": nanoseconds((*end).max(span.start)),
        "attributes": attributes,
        "status": status,
    });
    if let Some(parent) = &span.parent {
        value["parentSpanId"] = json!(hex(parent));
    }
    if let Some(state) = &facts.state {
        value["traceState"] = json!(state);
    }
    value
}

fn nanoseconds(at: Unix) -> String {
    at.since(Unix::default()).as_nanos().to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: usize) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

/// How many spans the collector says in its answer that it did not take (`partialSuccess`).
pub fn refused(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let refused = &answer["partialSuccess"]["rejectedSpans"];
    let text = refused.as_str().and_then(|text| text.parse().ok());
    text.or(refused.as_u64()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Resource, refused, request};
    use crate::runtime::clock::Unix;
    use crate::telemetry::trace::{Context, Ended, Facts, Outcome, Span};
    use serde_json::{Value, json};
    use std::time::Duration;

    fn exported(ended: Ended) -> Value {
        let resource = Resource {
            instance: "i-1".to_owned(),
            hub: "h.example".to_owned(),
        };
        let body: Value = serde_json::from_str(&request(&resource, &[ended])).expect("JSON");
        let resource = &body["resourceSpans"][0];
        let first = &resource["resource"]["attributes"][0];
        assert_eq!(
            first,
            &json!({"key": "service.name", "value": {"stringValue": "iothub-gateway"}})
        );
        resource["scopeSpans"][0]["spans"][0].clone()
    }

    fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
        let all = span["attributes"].as_array().expect("attributes");
        let found = all.iter().find(|one| one["key"] == key)?;
        found["value"].as_object()?.values().next()
    }

    fn ended(outcome: Outcome) -> Ended {
        Ended {
            span: Span {
                context: Context {
                    trace: [0xab; 16],
                    span: [1; 8],
                    sampled: true,
                },
                parent: None,
                start: Unix::from_secs(5) + Duration::from_nanos(7),
                facts: Facts {
                    device: "dev".to_owned(),
                    destination: "/devices/dev/messages/events".to_owned(),
                    message: "m-1".to_owned(),
                    bytes: 12,
                    qos: 1,
                    ..Facts::default()
                },
            },
            end: Unix::from_secs(4),
            outcome,
        }
    }

    #[test]
    fn a_span_is_written_as_the_encoding_has_it() {
        let span = exported(ended(Outcome::Accepted));
        assert_eq!(span["traceId"], "ab".repeat(16));
        assert_eq!(span["spanId"], "01".repeat(8));
        assert_eq!(span["startTimeUnixNano"], "5000000007");
        assert_eq!(span["endTimeUnixNano"], "5000000007");
        assert_eq!(span["parentSpanId"], Value::Null);
        assert_eq!(span["status"], json!({}));
        assert_eq!(
            attribute(&span, "messaging.message.id"),
            Some(&json!("m-1"))
        );
        let size = attribute(&span, "messaging.message.body.size");
        assert_eq!(size, Some(&json!("12")));
        assert_eq!(attribute(&span, "iothub.outcome"), Some(&json!("accepted")));
        assert_eq!(attribute(&span, "error.type"), None);
    }

    #[test]
    fn a_failure_is_an_error_with_its_reason() {
        let mut failed = ended(Outcome::Failed("too_large"));
        failed.span.parent = Some([2; 8]);
        failed.span.facts.state = Some("vendor=1".to_owned());
        failed.span.facts.module = Some("m".to_owned());
        let span = exported(failed);
        assert_eq!(span["status"]["code"], 2);
        assert_eq!(span["parentSpanId"], "02".repeat(8));
        assert_eq!(span["traceState"], "vendor=1");
        assert_eq!(attribute(&span, "error.type"), Some(&json!("too_large")));
        assert_eq!(attribute(&span, "iothub.module.id"), Some(&json!("m")));
        let name = "send /devices/{device}/modules/{module}/messages/events";
        assert_eq!(span["name"], name);
    }

    #[test]
    fn what_a_collector_did_not_take_is_read_from_its_answer() {
        let says = |text: &str| refused(text.as_bytes());
        assert_eq!(says("{}"), 0);
        assert_eq!(says(r#"{"partialSuccess":{"rejectedSpans":"3"}}"#), 3);
        assert_eq!(says(r#"{"partialSuccess":{"rejectedSpans":4}}"#), 4);
        assert_eq!(says("no JSON"), 0);
    }
}
