//! The table, row by row.

use super::table::CONDITIONS;
use super::{
    Cause, DeviceGone, Refusal, Row, Settled, Verdict, judge_detach, judge_settled, token_refused,
    words,
};

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
        Verdict::Rebuild => "rebuild".to_owned(),
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

const MALFORMED: &str = "refuse message_malformed";
const TOO_LARGE: &str = "refuse message_too_large";
const NO_DEVICE: &str = "gone device_not_found";

/// Wire sheet §6.2: condition, label, what a rejected transfer and what a lost link lead to.
#[rustfmt::skip]
const SHEET: &[(&str, &str, &str, &str)] = &[
    ("amqp:unauthorized-access", "unauthorized", "unauthorized", "unauthorized"),
    ("amqp:not-found", "not_found", NO_DEVICE, NO_DEVICE),
    ("amqp:internal-error", "internal_error", "retry", "reattach"),
    ("amqp:not-allowed", "not_allowed", MALFORMED, "reattach"),
    ("amqp:not-implemented", "not_implemented", MALFORMED, "reattach"),
    ("amqp:precondition-failed", "precondition_failed", MALFORMED, "reattach"),
    ("com.microsoft:precondition-failed", "precondition_failed", MALFORMED, "reattach"),
    ("amqp:invalid-field", "malformed", MALFORMED, "reattach"),
    ("amqp:decode-error", "malformed", MALFORMED, "reattach"),
    ("amqp:illegal-state", "illegal_state", "retry", "reattach"),
    ("amqp:frame-size-too-small", "frame_size", "retry", "rebuild"),
    ("amqp:resource-deleted", "resource_deleted", "retry", "reattach"),
    ("amqp:resource-locked", "resource_locked", "retry", "reattach"),
    ("amqp:resource-limit-exceeded", "quota_exceeded", "throttled", "throttled"),
    ("amqp:link:message-size-exceeded", "too_large", TOO_LARGE, TOO_LARGE),
    ("amqp:link:detach-forced", "detach_forced", "throttled", "reattach"),
    ("amqp:link:stolen", "stolen", "retry", "gone stolen"),
    ("amqp:link:redirect", "redirect", "retry", "throttled"),
    ("amqp:connection:redirect", "redirect", "retry", "rebuild"),
    ("amqp:link:transfer-limit-exceeded", "transfer_limit", "throttled", "reattach"),
    ("amqp:connection:forced", "connection_forced", "retry", "reattach"),
    ("amqp:connection:framing-error", "framing_error", "retry", "rebuild"),
    ("amqp:session:window-violation", "session_error", "retry", "reattach"),
    ("amqp:session:errant-link", "session_error", "retry", "reattach"),
    ("amqp:session:handle-in-use", "session_error", "retry", "reattach"),
    ("amqp:session:unattached-handle", "session_error", "retry", "reattach"),
    ("com.microsoft:timeout", "hub_timeout", "retry", "reattach"),
    ("com.microsoft:device-container-throttled", "throttled", "throttled", "throttled"),
    ("com.microsoft:message-lock-lost", "lock_lost", "retry", "reattach"),
    ("com.microsoft:link-creation-conflict", "conflict", "retry", "reattach"),
    ("com.microsoft:argument-error", "malformed", MALFORMED, "reattach"),
    ("com.microsoft:argument-out-of-range", "malformed", MALFORMED, "reattach"),
    ("com.microsoft:iot-hub-suspended", "hub_suspended", "throttled", "throttled"),
    ("com.microsoft:iot-hub-not-found-error", "hub_suspended", "throttled", "throttled"),
    ("com.microsoft:quota-exceeded", "quota_exceeded", "throttled", "throttled"),
    ("com.microsoft:device-already-exists", "device_exists", "retry", "reattach"),
    ("com.microsoft:dead-letter", "dead_letter", "refuse rejected", "reattach"),
    ("", "none", "refuse rejected", "reattach"),
    ("com.example:new", "unlisted", "retry", "reattach"),
];

#[test]
fn every_condition_of_the_wire_sheet_is_judged_as_written() {
    for (condition, label, transfer, link) in SHEET {
        let (transfer, link) = (format!("{transfer} [{label}]"), format!("{link} [{label}]"));
        assert_eq!(rejected(condition, ""), transfer, "{condition}");
        assert_eq!(detached(condition, ""), link, "{condition}");
    }
    assert_eq!(show(&judge_detach(None)), "reattach [none]");
    let listed: Vec<_> = CONDITIONS.iter().map(|line| line.condition).collect();
    let sheet: Vec<_> = SHEET.iter().map(|(condition, ..)| *condition).collect();
    assert_eq!(listed, sheet[..sheet.len() - 1], "one row each, in order");
}

#[test]
fn a_code_says_more_than_the_condition() {
    let json = |code: u32| format!("{{\"errorCode\":{code},\"trackingId\":\"x\"}}");
    for (code, transfer, link) in [
        (400_004, "refuse message_malformed [malformed]", None),
        (400_005, "refuse message_malformed [malformed]", None),
        (400_006, "refuse message_malformed [malformed]", None),
        (400_027, "gone stolen [stolen]", None),
        (401_002, "unauthorized [unauthorized]", None),
        (401_003, "unauthorized [unauthorized]", None),
        (403_001, "throttled [hub_suspended]", None),
        (403_002, "throttled [quota_exceeded]", None),
        (403_009, "refuse message_malformed [malformed]", None),
        (403_012, "gone device_disabled [disabled]", None),
        (404_001, "gone device_not_found [not_found]", None),
        (404_010, "gone device_not_found [not_found]", None),
        (413_001, "refuse message_too_large [too_large]", None),
        (429_000, "throttled [throttled]", None),
        (429_001, "throttled [throttled]", None),
        (429_005, "throttled [throttled]", None),
        (503_001, "throttled [throttled]", None),
        (503_005, "throttled [throttled]", None),
        (
            500_008,
            "retry [hub_timeout]",
            Some("reattach [hub_timeout]"),
        ),
        (
            504_101,
            "retry [hub_timeout]",
            Some("reattach [hub_timeout]"),
        ),
        (
            500_001,
            "retry [internal_error]",
            Some("reattach [internal_error]"),
        ),
        (
            999_999,
            "retry [internal_error]",
            Some("reattach [internal_error]"),
        ),
    ] {
        assert_eq!(
            rejected("amqp:internal-error", &json(code)),
            transfer,
            "{code}"
        );
        let link = link.unwrap_or(transfer);
        assert_eq!(detached("amqp:internal-error", &json(code)), link, "{code}");
    }
}

#[test]
fn each_reason_has_a_code_for_mqtt_5() {
    let puback = |reason| {
        Refusal {
            reason,
            text: String::new(),
        }
        .mqtt5_reason()
    };
    let disconnect = |reason| {
        DeviceGone {
            reason,
            text: String::new(),
        }
        .mqtt5_reason()
    };
    // The codes PUBACK and DISCONNECT may carry (OASIS MQTT 5.0 tables 3-4 and 3-10).
    let pubacks = [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let disconnects = [0x80, 0x83, 0x87, 0x89, 0x8b, 0x8e, 0x97, 0x98, 0x9c, 0x9d];
    for (_, _, transfer, link) in SHEET {
        for shown in [transfer, link] {
            let word = shown.split(' ').nth(1).unwrap_or_default();
            match shown.split(' ').next() {
                Some("refuse") => assert!(pubacks.contains(&puback(leak(word)))),
                Some("gone") => assert!(disconnects.contains(&disconnect(leak(word)))),
                _ => {}
            }
        }
    }
    assert_eq!(puback("message_too_large"), 0x97);
    assert_eq!(disconnect("stolen"), 0x8e);
    assert_eq!(disconnect("device_disabled"), 0x98);
}

fn leak(word: &str) -> &'static str {
    Box::leak(word.to_owned().into_boxed_str())
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
    let found = |words| {
        let text = format!("{{\"errorCode\":404001,\"message\":\"Device {words}\"}}");
        detached("amqp:not-found", &text)
    };
    assert_eq!(found("a is disabled"), "gone device_disabled [disabled]");
    let unknown = "gone device_not_found [not_found]";
    assert_eq!(found("disabled-1 not registered"), unknown);
    let json = |code| format!("{{\"errorCode\":{code},\"trackingId\":\"x\"}}");
    assert_eq!(
        detached("amqp:not-allowed", &json(403_012)),
        "gone device_disabled [disabled]"
    );
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
