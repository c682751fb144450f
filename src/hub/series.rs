//! The series of the hub's counters, made to exist before anything happens.

use super::outcome;
use crate::telemetry::metrics::Metrics;

/// `hub_connections{state}`.
const STATES: &[&str] = &["waiting", "connecting", "open"];

/// `hub_reconnects_total{cause}`: attempts that failed, then connections that ended.
const CAUSES: &[&str] = &[
    "connect_tcp",
    "connect_roots",
    "connect_tls",
    "connect_open",
    "connect_timeout",
    "begin",
    "silent",
    "token_keeper",
    "killed",
    "closed_by_hub",
    "transport",
    "protocol",
    "panic",
];

/// Outcomes that are not the hub's word.
const OWN_OUTCOMES: &[&str] = &["no_outcome", "message_too_large", "message_malformed"];

/// Makes them exist.
pub fn exist(metrics: &Metrics) {
    for state in STATES {
        let _ = metrics.hub_connections.with_label_values(&[state]);
    }
    for cause in CAUSES {
        let _ = metrics.hub_reconnects.with_label_values(&[cause]);
    }
    for label in outcome::labels() {
        let _ = metrics.hub_deliveries.with_label_values(&[label]);
        let _ = metrics.hub_detaches.with_label_values(&[label]);
    }
    let _ = metrics.hub_detaches.with_label_values(&["unserved"]);
    for outcome in ["accepted", "released", "modified", "unknown"] {
        let _ = metrics.hub_deliveries.with_label_values(&[outcome]);
    }
    for outcome in OWN_OUTCOMES {
        let _ = metrics.hub_deliveries.with_label_values(&[outcome]);
    }
}
