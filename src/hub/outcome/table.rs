//! Every condition of wire sheet §6.2 and every code of §6.4 that matters here, one row each; pure.
//!
//! A code in the hub's description is more precise than the condition and is asked first; then
//! the hub's words where they refine a condition; then the condition. What is not listed is taken
//! as passing, as the SDKs take it.

use super::{Cause, Row, Verdict, row, says};
use std::borrow::Cow;

/// What the error came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A rejected transfer.
    Transfer,
    /// A detached link, or an attach that was refused.
    Link,
}

/// [`Verdict`] without the proof, so that it can stand in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Again, a little later: a transfer is sent again, a link attached again.
    Again,
    Throttled,
    Refuse(&'static str),
    Gone(&'static str),
    Unauthorized,
    Rebuild,
}

use Act::{Again, Gone, Rebuild, Refuse, Throttled, Unauthorized};

/// One row.
pub(super) struct Line {
    pub(super) condition: &'static str,
    pub(super) transfer: Act,
    pub(super) link: Act,
    pub(super) label: &'static str,
}

const fn line(condition: &'static str, transfer: Act, link: Act, label: &'static str) -> Line {
    Line {
        condition,
        transfer,
        link,
        label,
    }
}

const MALFORMED: Act = Refuse("message_malformed");
const TOO_LARGE: Act = Refuse("message_too_large");
const UNKNOWN_DEVICE: Act = Gone("device_not_found");

/// Wire sheet §6.2, in its order.
#[rustfmt::skip]
pub(super) const CONDITIONS: &[Line] = &[
    line("amqp:unauthorized-access", Unauthorized, Unauthorized, "unauthorized"),
    line("amqp:not-found", UNKNOWN_DEVICE, UNKNOWN_DEVICE, "not_found"),
    line("amqp:internal-error", Again, Again, "internal_error"),
    line("amqp:not-allowed", MALFORMED, Again, "not_allowed"),
    line("amqp:not-implemented", MALFORMED, Again, "not_implemented"),
    line("amqp:precondition-failed", MALFORMED, Again, "precondition_failed"),
    line("com.microsoft:precondition-failed", MALFORMED, Again, "precondition_failed"),
    line("amqp:invalid-field", MALFORMED, Again, "malformed"),
    line("amqp:decode-error", MALFORMED, Again, "malformed"),
    // States and frames are between the two AMQP ends; no message is to blame for them.
    line("amqp:illegal-state", Again, Again, "illegal_state"),
    line("amqp:frame-size-too-small", Again, Rebuild, "frame_size"),
    line("amqp:resource-deleted", Again, Again, "resource_deleted"),
    line("amqp:resource-locked", Again, Again, "resource_locked"),
    line("amqp:resource-limit-exceeded", Throttled, Throttled, "quota_exceeded"),
    line("amqp:link:message-size-exceeded", TOO_LARGE, TOO_LARGE, "too_large"),
    line("amqp:link:detach-forced", Throttled, Again, "detach_forced"),
    // Another holder has it: this gateway does not fight for it.
    line("amqp:link:stolen", Again, Gone("stolen"), "stolen"),
    // A redirect belongs to endpoints that are not used here; following it would not help.
    line("amqp:link:redirect", Again, Throttled, "redirect"),
    line("amqp:connection:redirect", Again, Rebuild, "redirect"),
    line("amqp:link:transfer-limit-exceeded", Throttled, Again, "transfer_limit"),
    line("amqp:connection:forced", Again, Again, "connection_forced"),
    line("amqp:connection:framing-error", Again, Rebuild, "framing_error"),
    line("amqp:session:window-violation", Again, Again, "session_error"),
    line("amqp:session:errant-link", Again, Again, "session_error"),
    line("amqp:session:handle-in-use", Again, Again, "session_error"),
    line("amqp:session:unattached-handle", Again, Again, "session_error"),
    line("com.microsoft:timeout", Again, Again, "hub_timeout"),
    line("com.microsoft:device-container-throttled", Throttled, Throttled, "throttled"),
    line("com.microsoft:message-lock-lost", Again, Again, "lock_lost"),
    line("com.microsoft:link-creation-conflict", Again, Again, "conflict"),
    line("com.microsoft:argument-error", MALFORMED, Again, "malformed"),
    line("com.microsoft:argument-out-of-range", MALFORMED, Again, "malformed"),
    line("com.microsoft:iot-hub-suspended", Throttled, Throttled, "hub_suspended"),
    line("com.microsoft:iot-hub-not-found-error", Throttled, Throttled, "hub_suspended"),
    line("com.microsoft:quota-exceeded", Throttled, Throttled, "quota_exceeded"),
    line("com.microsoft:device-already-exists", Again, Again, "device_exists"),
    line("com.microsoft:dead-letter", Refuse("rejected"), Again, "dead_letter"),
    // An error without a condition.
    line("", Refuse("rejected"), Again, "none"),
];

/// Judges an error.
pub fn judge(cause: &Cause, on: On) -> Row {
    let (act, label) = by_code(cause)
        .or_else(|| by_words(cause, on))
        .or_else(|| by_condition(cause, on))
        .unwrap_or((Again, "unlisted"));
    let verdict = match act {
        Again if on == On::Transfer => Verdict::Retry,
        Again => Verdict::Reattach,
        Throttled => Verdict::Throttled,
        Refuse(reason) => Verdict::Refuse(reason),
        Gone(reason) => Verdict::Gone(reason),
        Unauthorized => Verdict::Unauthorized,
        Rebuild => Verdict::Rebuild,
    };
    row(verdict, label)
}

type Judged = (Act, &'static str);

fn by_condition(cause: &Cause, on: On) -> Option<Judged> {
    let found = CONDITIONS
        .iter()
        .find(|line| line.condition == cause.condition)?;
    let act = match on {
        On::Transfer => found.transfer,
        On::Link => found.link,
    };
    Some((act, found.label))
}

/// Where the hub's words say more than the condition (wire sheet §5, §6.2).
fn by_words(cause: &Cause, on: On) -> Option<Judged> {
    let says = |words| says(&cause.description, words);
    match (cause.condition.as_str(), on) {
        ("amqp:not-found" | "amqp:not-allowed", On::Link) if says("disabled") => {
            Some((Gone("device_disabled"), "disabled"))
        }
        ("amqp:internal-error", On::Link) if says("another amqp client") => {
            Some((Gone("stolen"), "stolen"))
        }
        ("amqp:link:detach-forced", On::Link) if says("server busy") => {
            Some((Throttled, "throttled"))
        }
        _ => None,
    }
}

/// Wire sheet §6.4, as far as a code says more than the conditions it comes with.
fn by_code(cause: &Cause) -> Option<Judged> {
    Some(match error_code(&cause.description)? {
        400_004..=400_006 | 403_009 => (MALFORMED, "malformed"),
        400_027 => (Gone("stolen"), "stolen"),
        401_000..=401_999 => (Unauthorized, "unauthorized"),
        403_001 => (Throttled, "hub_suspended"),
        403_002 => (Throttled, "quota_exceeded"),
        403_012 => (Gone("device_disabled"), "disabled"),
        // The service has no code of its own for a device link; ids hold no spaces.
        404_001 if says(&cause.description, " is disabled") => {
            (Gone("device_disabled"), "disabled")
        }
        404_001 | 404_010 => (UNKNOWN_DEVICE, "not_found"),
        413_001 => (TOO_LARGE, "too_large"),
        429_000..=429_999 | 503_001 | 503_005 => (Throttled, "throttled"),
        500_008 | 504_101 => (Again, "hub_timeout"),
        _ => return None,
    })
}

/// The code, the message and the tracking id of a JSON description (wire sheet §6.1); any other
/// as it is.
pub(super) fn described(description: &str) -> Cow<'_, str> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Described {
        error_code: u64,
        #[serde(default)]
        message: String,
        tracking_id: Option<String>,
    }
    match serde_json::from_str(description) {
        Ok(Described {
            error_code,
            message,
            tracking_id: Some(tracking_id),
        }) => format!("{error_code} {message} (tracking id {tracking_id})").into(),
        Ok(Described {
            error_code,
            message,
            ..
        }) => format!("{error_code} {message}").into(),
        Err(_) => description.into(),
    }
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
