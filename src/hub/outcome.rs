//! What counts as accepted: every AMQP outcome and error condition, one row each; pure.
//!
//! Works on condition symbols as text, so that no AMQP library is named here. The rows are wire
//! sheet §6.2, with the numeric error codes of §6.4 where the hub's description carries one: they
//! are more precise than the condition. Never says accepted for anything but `accepted`.

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

/// Judges the outcome of a transfer.
#[must_use]
pub fn judge_settled(settled: &Settled) -> Row {
    match settled {
        Settled::Accepted => row(Verdict::Accepted(accepted()), "accepted"),
        Settled::Released => row(Verdict::Retry, "released"),
        Settled::Modified => row(Verdict::Retry, "modified"),
        Settled::Unknown => row(Verdict::Retry, "unknown"),
        Settled::Rejected(None) => row(Verdict::Refuse("rejected"), "rejected"),
        Settled::Rejected(Some(cause)) => judge_rejected(cause),
    }
}

fn judge_rejected(cause: &Cause) -> Row {
    use Verdict::{Gone, Refuse, Retry, Throttled, Unauthorized};
    if let Some(row) = judge_code(cause) {
        return row;
    }
    match cause.condition.as_str() {
        "amqp:link:message-size-exceeded" => row(Refuse("message_too_large"), "too_large"),
        "amqp:decode-error"
        | "amqp:invalid-field"
        | "amqp:not-allowed"
        | "amqp:not-implemented"
        | "amqp:precondition-failed"
        | "com.microsoft:precondition-failed"
        | "com.microsoft:argument-error"
        | "com.microsoft:argument-out-of-range" => row(Refuse("message_malformed"), "malformed"),
        "com.microsoft:dead-letter" => row(Refuse("rejected"), "rejected"),
        "amqp:unauthorized-access" => row(Unauthorized, "unauthorized"),
        "amqp:not-found" => row(Gone("device_not_found"), "not_found"),
        "com.microsoft:device-container-throttled"
        | "amqp:link:detach-forced"
        | "amqp:link:transfer-limit-exceeded" => row(Throttled, "throttled"),
        "amqp:resource-limit-exceeded" | "com.microsoft:quota-exceeded" => {
            row(Throttled, "quota_exceeded")
        }
        "com.microsoft:iot-hub-suspended" | "com.microsoft:iot-hub-not-found-error" => {
            row(Throttled, "hub_suspended")
        }
        "com.microsoft:timeout" => row(Retry, "hub_timeout"),
        "amqp:internal-error" => row(Retry, "internal_error"),
        "amqp:resource-locked" => row(Retry, "resource_locked"),
        "" => row(Refuse("rejected"), "rejected"),
        _ => row(Retry, "unlisted"),
    }
}

/// Judges why a link of a device was detached, or its attach refused. `None`: without an error.
#[must_use]
pub fn judge_detach(cause: Option<&Cause>) -> Row {
    use Verdict::{Gone, Reattach, Throttled, Unauthorized};
    let Some(cause) = cause else {
        return row(Reattach, "none");
    };
    if let Some(row) = judge_code(cause) {
        return row;
    }
    match cause.condition.as_str() {
        "amqp:unauthorized-access" => row(Unauthorized, "unauthorized"),
        "amqp:not-found" if says(cause, "disabled") => row(Gone("device_disabled"), "disabled"),
        "amqp:not-found" => row(Gone("device_not_found"), "not_found"),
        "amqp:link:stolen" => row(Gone("stolen"), "stolen"),
        "amqp:internal-error" if says(cause, "another amqp client") => {
            row(Gone("stolen"), "stolen")
        }
        "amqp:not-allowed" if says(cause, "disabled") => row(Gone("device_disabled"), "disabled"),
        "amqp:internal-error" => row(Reattach, "internal_error"),
        "amqp:link:detach-forced" => row(Reattach, "detach_forced"),
        "amqp:link:message-size-exceeded" => row(Verdict::Refuse("message_too_large"), "too_large"),
        "amqp:link:transfer-limit-exceeded" => row(Reattach, "transfer_limit"),
        "amqp:link:redirect" => row(Throttled, "redirect"),
        "amqp:resource-locked" => row(Reattach, "resource_locked"),
        "amqp:resource-deleted" => row(Reattach, "resource_deleted"),
        "amqp:resource-limit-exceeded" | "com.microsoft:quota-exceeded" => {
            row(Throttled, "quota_exceeded")
        }
        "com.microsoft:device-container-throttled" => row(Throttled, "throttled"),
        "com.microsoft:iot-hub-suspended" | "com.microsoft:iot-hub-not-found-error" => {
            row(Throttled, "hub_suspended")
        }
        "com.microsoft:link-creation-conflict" => row(Reattach, "conflict"),
        "com.microsoft:timeout" => row(Reattach, "hub_timeout"),
        "amqp:connection:forced" => row(Reattach, "connection_forced"),
        "" => row(Reattach, "none"),
        condition if condition.starts_with("amqp:session:") => row(Reattach, "session_error"),
        _ => row(Reattach, "unlisted"),
    }
}

/// Whether a refused `put-token` blames the token, so that the other key is worth a try (wire
/// sheet §3.3).
#[must_use]
pub fn token_refused(status: i64) -> bool {
    matches!(status, 401 | 403)
}

/// The rows of wire sheet §6.4 that say more than the condition.
fn judge_code(cause: &Cause) -> Option<Row> {
    use Verdict::{Gone, Refuse, Throttled};
    Some(match error_code(&cause.description)? {
        403_012 => row(Gone("device_disabled"), "disabled"),
        // The service has no code of its own for a device link; ids hold no spaces.
        404_001 if says(cause, " is disabled") => row(Gone("device_disabled"), "disabled"),
        404_001 | 404_010 => row(Gone("device_not_found"), "not_found"),
        400_027 => row(Gone("stolen"), "stolen"),
        413_001 => row(Refuse("message_too_large"), "too_large"),
        400_004 | 400_005 | 400_006 | 403_009 => row(Refuse("message_malformed"), "malformed"),
        403_001 => row(Throttled, "hub_suspended"),
        403_002 => row(Throttled, "quota_exceeded"),
        429_000..=429_999 | 503_001 | 503_005 => row(Throttled, "throttled"),
        _ => return None,
    })
}

/// The number after `"errorCode":` in a JSON description (wire sheet §6.1).
fn error_code(description: &str) -> Option<u32> {
    let (_, rest) = description.split_once("\"errorCode\":")?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn says(cause: &Cause, words: &str) -> bool {
    cause.description.to_ascii_lowercase().contains(words)
}

/// The hub's words fit for a log line: escaped, capped.
#[must_use]
pub fn words(cause: Option<&Cause>) -> String {
    let Some(cause) = cause else {
        return String::new();
    };
    let mut text = String::new();
    let parts = [cause.condition.as_str(), cause.description.as_str()];
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.extend(
            part.chars()
                .take(TEXT_CHARS_MAX)
                .flat_map(char::escape_debug),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Cause, Row, Settled, Verdict, judge_detach, judge_settled, token_refused, words};

    fn cause(condition: &str, description: &str) -> Cause {
        Cause {
            condition: condition.to_owned(),
            description: description.to_owned(),
        }
    }

    fn show(row: &Row) -> String {
        let verdict = match &row.verdict {
            Verdict::Accepted(_) => "accepted".to_owned(),
            Verdict::Retry => "retry".to_owned(),
            Verdict::Throttled => "throttled".to_owned(),
            Verdict::Refuse(reason) => format!("refuse {reason}"),
            Verdict::Gone(reason) => format!("gone {reason}"),
            Verdict::Unauthorized => "unauthorized".to_owned(),
            Verdict::Reattach => "reattach".to_owned(),
        };
        format!("{verdict} [{}]", row.label)
    }

    fn rejected(condition: &str, description: &str) -> String {
        show(&judge_settled(&Settled::Rejected(Some(cause(
            condition,
            description,
        )))))
    }

    fn detached(condition: &str, description: &str) -> String {
        show(&judge_detach(Some(&cause(condition, description))))
    }

    #[test]
    fn only_accepted_is_accepted() {
        let s = |settled| show(&judge_settled(&settled));
        assert_eq!(s(Settled::Accepted), "accepted [accepted]");
        assert_eq!(s(Settled::Released), "retry [released]");
        assert_eq!(s(Settled::Modified), "retry [modified]");
        assert_eq!(s(Settled::Unknown), "retry [unknown]");
        assert_eq!(s(Settled::Rejected(None)), "refuse rejected [rejected]");
    }

    #[test]
    fn a_rejected_message_is_judged_row_by_row() {
        let rows = [
            (
                "amqp:link:message-size-exceeded",
                "refuse message_too_large [too_large]",
            ),
            ("amqp:decode-error", "refuse message_malformed [malformed]"),
            ("amqp:invalid-field", "refuse message_malformed [malformed]"),
            ("amqp:not-allowed", "refuse message_malformed [malformed]"),
            (
                "com.microsoft:argument-error",
                "refuse message_malformed [malformed]",
            ),
            ("amqp:unauthorized-access", "unauthorized [unauthorized]"),
            ("amqp:not-found", "gone device_not_found [not_found]"),
            (
                "com.microsoft:device-container-throttled",
                "throttled [throttled]",
            ),
            ("amqp:resource-limit-exceeded", "throttled [quota_exceeded]"),
            (
                "com.microsoft:iot-hub-suspended",
                "throttled [hub_suspended]",
            ),
            ("com.microsoft:timeout", "retry [hub_timeout]"),
            ("amqp:internal-error", "retry [internal_error]"),
            ("amqp:resource-locked", "retry [resource_locked]"),
            ("com.example:new", "retry [unlisted]"),
            ("", "refuse rejected [rejected]"),
        ];
        for (condition, expected) in rows {
            assert_eq!(rejected(condition, ""), expected, "{condition}");
        }
    }

    #[test]
    fn a_detached_link_is_judged_row_by_row() {
        let rows = [
            ("amqp:unauthorized-access", "unauthorized [unauthorized]"),
            ("amqp:not-found", "gone device_not_found [not_found]"),
            ("amqp:link:stolen", "gone stolen [stolen]"),
            ("amqp:internal-error", "reattach [internal_error]"),
            ("amqp:link:detach-forced", "reattach [detach_forced]"),
            (
                "amqp:link:message-size-exceeded",
                "refuse message_too_large [too_large]",
            ),
            ("amqp:resource-limit-exceeded", "throttled [quota_exceeded]"),
            (
                "com.microsoft:device-container-throttled",
                "throttled [throttled]",
            ),
            (
                "com.microsoft:link-creation-conflict",
                "reattach [conflict]",
            ),
            ("amqp:session:unattached-handle", "reattach [session_error]"),
            ("amqp:connection:forced", "reattach [connection_forced]"),
            ("com.example:new", "reattach [unlisted]"),
        ];
        for (condition, expected) in rows {
            assert_eq!(detached(condition, ""), expected, "{condition}");
        }
        assert_eq!(show(&judge_detach(None)), "reattach [none]");
    }

    #[test]
    fn the_words_of_the_hub_refine_the_condition() {
        assert_eq!(
            detached(
                "amqp:internal-error",
                "Another AMQP Client has opened a Receive Link"
            ),
            "gone stolen [stolen]"
        );
        assert_eq!(
            detached("amqp:not-found", "Device thermo-1 is disabled"),
            "gone device_disabled [disabled]"
        );
        let json = |code| format!("{{\"errorCode\":{code},\"trackingId\":\"x\"}}");
        assert_eq!(
            detached("amqp:not-allowed", &json(403_012)),
            "gone device_disabled [disabled]"
        );
        let found = |words| {
            let text = format!("{{\"errorCode\":404001,\"message\":\"Device {words}\"}}");
            detached("amqp:not-found", &text)
        };
        assert_eq!(found("a is disabled"), "gone device_disabled [disabled]");
        let unknown = "gone device_not_found [not_found]";
        assert_eq!(found("disabled-1 not registered"), unknown);
        assert_eq!(
            rejected("amqp:internal-error", &json(429_001)),
            "throttled [throttled]"
        );
        assert_eq!(
            rejected("amqp:internal-error", "{\"errorCode\": }"),
            "retry [internal_error]"
        );
    }

    #[test]
    fn the_other_key_is_tried_for_a_bad_token_only() {
        assert!(token_refused(401));
        assert!(token_refused(403));
        assert!(!token_refused(500));
        assert!(!token_refused(404));
    }

    #[test]
    fn the_words_of_the_hub_cannot_break_a_log_line() {
        let text = words(Some(&cause("a:b", "line\nbreak\u{1b}[31m")));
        assert_eq!(text, "a:b: line\\nbreak\\u{1b}[31m");
        let long = words(Some(&cause("", &"x".repeat(10_000))));
        assert_eq!(long.len(), 200);
    }
}
