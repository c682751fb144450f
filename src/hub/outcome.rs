//! What counts as accepted, and what to do about everything else; pure.
//!
//! Works on condition symbols as text, so that no AMQP library is named here. The rows are in
//! `table`. Never says accepted for anything but `accepted`.

mod table;
#[cfg(test)]
mod tests;

use super::tuning::TEXT_CHARS_MAX;

/// Proof that the hub accepted a message. Only this module makes one; no PUBACK without it.
#[derive(Debug)]
pub struct HubAccepted(());

/// Why the hub, for good, does not take a message. The connection may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Metric label and log word, e.g. `message_too_large`.
    pub reason: &'static str,
    /// The hub's own words, capped and escaped.
    pub text: String,
}

/// Why the hub's side ends this device's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGone {
    /// Metric label and log word, e.g. `device_not_found`, `device_disabled`, `stolen`.
    pub reason: &'static str,
    /// The hub's own words, capped and escaped.
    pub text: String,
}

/// An AMQP error as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The condition symbol; empty when the hub gave none.
    pub condition: String,
    /// The hub's words, not yet escaped.
    pub description: String,
}

/// How the hub settled a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// `accepted`
    Accepted,
    /// `rejected`, with its error if there was one.
    Rejected(Option<Cause>),
    /// `released`
    Released,
    /// `modified`
    Modified,
    /// Settled without a terminal state.
    Unknown,
}

/// What to do about a transfer or a link.
#[derive(Debug)]
pub enum Verdict {
    /// The hub has the message.
    Accepted(HubAccepted),
    /// Not now: the message waits and is sent again.
    Retry,
    /// The hub asks for less: wait longer, then send or attach again.
    Throttled,
    /// The message itself is at fault: never again.
    Refuse(&'static str),
    /// The device is at fault: end its connection.
    Gone(&'static str),
    /// The token is missing or over: attach again once it is healthy.
    Unauthorized,
    /// The link is lost: attach again.
    Reattach,
    /// The connection is not what it should be: cut it; all links come back on a new one.
    Rebuild,
}

/// A verdict and its metric label.
#[derive(Debug)]
pub struct Row {
    /// What to do.
    pub verdict: Verdict,
    /// `hub_deliveries_total{outcome}` or `hub_detaches_total{condition}`.
    pub label: &'static str,
}

const fn row(verdict: Verdict, label: &'static str) -> Row {
    Row { verdict, label }
}

/// The proof, for `Settled::Accepted` and nothing else.
pub(in crate::hub) fn accepted() -> HubAccepted {
    HubAccepted(())
}

/// Every label an error of the hub can be counted under.
pub fn labels() -> impl Iterator<Item = &'static str> {
    let of_words = ["disabled", "rejected", "unlisted"];
    let of_table = table::CONDITIONS.iter().map(|line| line.label);
    of_table.chain(of_words)
}

/// Judges the outcome of a transfer.
#[must_use]
pub fn judge_settled(settled: &Settled) -> Row {
    match settled {
        Settled::Accepted => row(Verdict::Accepted(accepted()), "accepted"),
        Settled::Released => row(Verdict::Retry, "released"),
        Settled::Modified => row(Verdict::Retry, "modified"),
        Settled::Unknown => row(Verdict::Retry, "unknown"),
        Settled::Rejected(None) => row(Verdict::Refuse("rejected"), "rejected"),
        Settled::Rejected(Some(cause)) => table::judge(cause, table::On::Transfer),
    }
}

/// Judges why a link of a device was detached, or its attach refused. `None`: without an error.
#[must_use]
pub fn judge_detach(cause: Option<&Cause>) -> Row {
    match cause {
        Some(cause) => table::judge(cause, table::On::Link),
        None => row(Verdict::Reattach, "none"),
    }
}

impl Refusal {
    /// The MQTT 5 PUBACK reason code (OASIS MQTT 5.0 §3.4.2.1) that says this best.
    #[must_use]
    pub fn mqtt5_reason(&self) -> u8 {
        match self.reason {
            "message_too_large" => 0x97, // quota exceeded: an imposed limit
            "message_malformed" => 0x99, // payload format invalid
            _ => 0x83,                   // implementation specific error
        }
    }
}

impl DeviceGone {
    /// The MQTT 5 DISCONNECT reason code (OASIS MQTT 5.0 §3.14.2.1) that says this best.
    #[must_use]
    pub fn mqtt5_reason(&self) -> u8 {
        match self.reason {
            "stolen" => 0x8e,                               // session taken over
            "device_not_found" | "device_disabled" => 0x98, // administrative action
            "hub_full" => 0x97,                             // quota exceeded
            _ => 0x83,                                      // implementation specific error
        }
    }
}

/// Whether a refused `put-token` blames the token, so that the other key is worth a try (wire
/// sheet §3.3).
#[must_use]
pub fn token_refused(status: i64) -> bool {
    matches!(status, 401 | 403)
}

/// The hub's words fit for a log line: escaped, capped.
#[must_use]
pub fn words(cause: Option<&Cause>) -> String {
    let Some(cause) = cause else {
        return String::new();
    };
    let mut text = String::new();
    let described = table::described(&cause.description);
    let parts = [cause.condition.as_str(), described.as_ref()];
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&escaped(part));
    }
    text
}

/// Whether somebody else's words hold ours, which are in lower case.
pub(in crate::hub) fn says(text: &str, words: &str) -> bool {
    text.to_ascii_lowercase().contains(words)
}

/// Somebody else's words fit for a log line: escaped, capped.
#[must_use]
pub fn escaped(words: &str) -> String {
    let mut text = String::new();
    for c in words.chars().take(TEXT_CHARS_MAX) {
        match c {
            '"' | '\'' => text.push(c), // the log quotes by itself
            c => text.extend(c.escape_debug()),
        }
    }
    text
}
