//! The series of the listeners' counters, made to exist before anything happens.

use crate::auth::DENIALS;
use crate::telemetry::metrics::Metrics;

/// `messages_total{direction="uplink",result}` at either QoS, beside `accepted`: what the hub or
/// the gateway refused, and what was left undecided.
const UPLINK: &[&str] = &[
    "abandoned",
    "will_accepted",
    "will_lost",
    "payload_too_large",
    "message_too_large",
    "message_malformed",
    "rejected",
    "topic_unknown",
    "topic_foreign_device",
    "telemetry_denied",
    "bag_slash",
    "bag_escape",
    "bag_empty_key",
    "property_reserved",
    "property_unknown_system",
    "property_duplicate",
    "properties_too_many",
    "property_id",
    "property_not_ascii",
    "property_expiry",
    "twin_unsupported",
    "method_unsupported",
];

/// The same for commands.
const DOWNLINK: &[&str] = &["too_large", "no_slot"];

/// The same, at QoS 1 alone.
const ACKNOWLEDGED: &[(&str, &str)] = &[
    ("uplink", "accepted_unacknowledged"),
    ("downlink", "rejected"),
    ("downlink", "released"),
];

/// Makes them exist.
pub(super) fn exist(metrics: &Metrics) {
    for credential in ["none", "psk", "x509"] {
        for version in ["1.2", "1.3"] {
            let ok = [credential, version, "ok"];
            let _ = metrics.handshakes.with_label_values(&ok);
        }
    }
    let _ = metrics.connects.with_label_values(&["accepted"]);
    let _ = metrics.disconnects.with_label_values(&["clean"]);
    let message = |direction: &str, qos: &str, result: &str| {
        let _ = metrics
            .messages
            .with_label_values(&[direction, qos, result]);
    };
    for qos in ["0", "1"] {
        UPLINK
            .iter()
            .for_each(|result| message("uplink", qos, result));
        DOWNLINK
            .iter()
            .for_each(|result| message("downlink", qos, result));
    }
    for (direction, result) in ACKNOWLEDGED {
        message(direction, "1", result);
    }
    for denial in DENIALS {
        let _ = metrics.connects.with_label_values(&[denial.reason]);
        let _ = metrics.disconnects.with_label_values(&[denial.reason]);
    }
}
