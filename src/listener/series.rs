//! The series of the listeners' counters, made to exist before anything happens.

use crate::auth::DENIALS;
use crate::telemetry::metrics::Metrics;

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
    for denial in DENIALS {
        let _ = metrics.connects.with_label_values(&[denial.reason]);
        let _ = metrics.disconnects.with_label_values(&[denial.reason]);
    }
}
