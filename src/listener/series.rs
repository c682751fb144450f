//! The series of the listeners' counters, made to exist before anything happens.

use crate::telemetry::metrics::Metrics;
use crate::telemetry::reason::{Basis, Reason, Stage};

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
    for reason in Reason::ALL
        .iter()
        .filter(|r| r.is_said_at(Stage::Handshake))
    {
        let (credentials, versions) = handshakes(*reason);
        for credential in credentials {
            for version in versions {
                let failed = [credential, version, reason.word()];
                let _ = metrics.handshakes.with_label_values(&failed);
            }
        }
    }
    let _ = metrics.connects.with_label_values(&["accepted"]);
    for reason in Reason::ALL
        .iter()
        .filter(|reason| answers_connect(**reason))
    {
        let _ = metrics.connects.with_label_values(&[reason.word()]);
    }
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
    for stage in [Stage::Handshake, Stage::Connect, Stage::Session] {
        for reason in said_at(stage) {
            let _ = metrics.disconnects.with_label_values(&[reason]);
        }
    }
}

/// Whether a whole CONNECT is answered with it; what is no CONNECT only ends its connection.
fn answers_connect(reason: Reason) -> bool {
    let told = !matches!(reason.basis(), Basis::Wire | Basis::End) && reason != Reason::Drain;
    told && reason.is_said_at(Stage::Connect)
}

/// Credentials and versions of `handshakes_total` that a failed handshake is counted under. None:
/// the socket was never looked at, which `disconnects_total` alone counts.
fn handshakes(reason: Reason) -> (&'static [&'static str], &'static [&'static str]) {
    const BOTH: &[&str] = &["1.2", "1.3"];
    let word = reason.word();
    match reason {
        Reason::HelloTimeout
        | Reason::HelloMalformed
        | Reason::HelloTooLarge
        | Reason::PlainMqtt
        | Reason::NotTls
        | Reason::ProxyUnexpected
        | Reason::TlsVersion
        | Reason::AcceptFailed => (&["none"], &["none"]),
        Reason::ThrottledIdentity => (&["psk"], BOTH),
        Reason::ThrottledSource | Reason::Drain => (&[], &[]),
        _ if word.starts_with("proxy_") => (&[], &[]),
        _ if word.starts_with("limit_") => (&[], &[]),
        _ if word.starts_with("psk_") => (&["psk"], BOTH),
        _ if word.starts_with("x509_") => (&["x509"], BOTH),
        _ => (&["none", "psk"], BOTH),
    }
}

/// The words of a stage.
fn said_at(stage: Stage) -> impl Iterator<Item = &'static str> {
    let said = Reason::ALL.iter().filter(move |r| r.is_said_at(stage));
    said.map(|reason| reason.word())
}
