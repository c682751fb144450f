//! The series of the listeners' counters, made to exist before anything happens.

use crate::auth::DENIALS;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::reason::{Reason, Stage};

/// `messages_total{direction="uplink",result}` at either QoS, beside `accepted` and the reasons of
/// refusals: what was left undecided.
const UPLINK: &[&str] = &["abandoned", "will_accepted", "will_lost"];

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
    let message = |direction: &str, qos: &str, result: &str| {
        let _ = metrics
            .messages
            .with_label_values(&[direction, qos, result]);
    };
    for qos in ["0", "1"] {
        for result in UPLINK.iter().copied().chain(said_at(Stage::Message)) {
            message("uplink", qos, result);
        }
        DOWNLINK
            .iter()
            .for_each(|result| message("downlink", qos, result));
    }
    for (direction, result) in ACKNOWLEDGED {
        message(direction, "1", result);
    }
    for denial in DENIALS {
        let _ = metrics.connects.with_label_values(&[denial.reason.word()]);
    }
    for stage in [Stage::Handshake, Stage::Connect, Stage::Session] {
        for reason in said_at(stage) {
            let _ = metrics.disconnects.with_label_values(&[reason]);
        }
    }
}

/// The words of a stage.
fn said_at(stage: Stage) -> impl Iterator<Item = &'static str> {
    let said = Reason::ALL.iter().filter(move |r| r.is_said_at(stage));
    said.map(|reason| reason.word())
}
