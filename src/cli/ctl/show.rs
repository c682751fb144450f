//! What the API answers, for people.

use super::table::{table, wrapped};
use crate::admin::api::view::{Connection, Device, Hub, Page};
use crate::runtime::clock::{self, Unix};
use crate::telemetry::causes::Cause;
use crate::telemetry::event::Event;
use std::fmt::Write as _;
use std::time::Duration;

/// A time as people say it: `42s`, `3m 10s`, `5h 2m`, `12d 3h`.
fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

fn ago(at: u64) -> String {
    let passed: Duration = clock::unix().since(Unix::from_secs(at));
    format!("{} ago", span(passed.as_secs()))
}

/// Foreign text, fit for a terminal.
fn plain(text: &str) -> String {
    text.escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

pub(super) fn devices(page: &Page) -> String {
    let head = [
        "DEVICE",
        "CREDENTIAL",
        "LISTENER",
        "SOURCE",
        "CONNECTED",
        "ACCEPTED",
        "REFUSED",
        "COMMANDS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(page.connections.iter().map(|c| {
        vec![
            plain(&c.device),
            c.credential.clone(),
            c.listener.clone(),
            c.source.clone(),
            span(c.connected_s),
            c.accepted.to_string(),
            c.refused.to_string(),
            c.commands.to_string(),
        ]
    }));
    match page.connections.len() {
        0 => "no connection fits\n".to_owned(),
        _ => table(&rows) + &format!("{} of {}\n", page.connections.len(), page.total),
    }
}

pub(super) fn device(device: &Device) -> String {
    let mut text = format!("{}\n", plain(&device.device));
    if let Some(left) = device.blocked_s {
        let _ = writeln!(text, "  kept out for {} more", span(left));
    }
    match &device.connection {
        Some(connection) => connected(&mut text, connection),
        None => text.push_str("  not connected here\n"),
    }
    if device.causes > 0 {
        let _ = writeln!(
            text,
            "  causes known: {}; see them by `ctl explain`",
            device.causes
        );
    }
    text
}

fn connected(text: &mut String, connection: &Connection) {
    for (name, value) in [
        ("connected", span(connection.connected_s)),
        (
            "from",
            format!("{} at listener {}", connection.source, connection.listener),
        ),
        (
            "credential",
            format!(
                "{} ({})",
                connection.credential,
                plain(&connection.identity)
            ),
        ),
        ("admitted by", plain(&connection.rule)),
        ("may send/take", connection.allow.join(", ")),
        ("accepted", connection.accepted.to_string()),
        ("refused", connection.refused.to_string()),
        ("commands", connection.commands.to_string()),
    ] {
        let _ = writeln!(text, "  {name:13}  {value}");
    }
}

/// What holds for every device: none can be served. Empty otherwise.
pub(super) fn away(hub: &Hub) -> String {
    match hub.status.as_str() {
        "unavailable" => format!("no device can be served now: {}\n\n", plain(&hub.reason)),
        _ => String::new(),
    }
}

pub(super) fn causes(id: &str, causes: &[Cause]) -> String {
    if causes.is_empty() {
        return format!("nothing is known against {}\n", plain(id));
    }
    causes.iter().map(cause).collect::<Vec<_>>().join("\n")
}

fn cause(cause: &Cause) -> String {
    let code = match &*cause.code {
        "" => String::new(),
        code => format!(" (IoT Hub {code})"),
    };
    let times = match cause.count {
        1 => ago(cause.at),
        count => format!(
            "{count} times, first {}, last {}",
            ago(cause.first),
            ago(cause.at)
        ),
    };
    let mut text = format!("{}: {}{code}, {times}\n", cause.what, cause.reason);
    let source = match cause.listener.as_str() {
        "" => String::new(),
        listener => format!("{} at listener {listener}", cause.source),
    };
    for (name, value) in [
        ("says", Some(&cause.text)),
        ("identity", Some(&cause.identity)),
        ("client id", Some(&cause.client_id)),
        ("from", Some(&source)),
        ("rule", cause.rule.as_ref()),
        ("expected", cause.expected.as_ref()),
        ("got", cause.got.as_ref()),
        ("fix", Some(&cause.fix.to_string())),
        ("ask again", cause.hint.as_ref()),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "  {name:9}  {}", plain(value));
        }
    }
    text
}

/// One line: time of day, what, and more.
pub(super) fn event(event: &Event) -> String {
    let of_day = event.at_ms % 86_400_000;
    let (seconds, ms) = (of_day / 1000, of_day % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{ms:03}Z  {:15}  {}",
        seconds % 60,
        event.what,
        plain(&event.text)
    )
}

/// What is known of everybody; in a terminal of `width` columns it wraps, else a row is a line.
pub(super) fn latest(causes: &[Cause], width: Option<usize>) -> String {
    let head = ["LAST", "COUNT", "REASON", "WHO", "SAYS", "FIX"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for cause in causes {
        rows.push(vec![
            ago(cause.at),
            cause.count.to_string(),
            cause.reason.to_string(),
            plain(cause.who()),
            plain(&cause.text),
            plain(&cause.fix),
        ]);
    }
    match (causes.len(), width) {
        (0, _) => "nobody was refused or lost\n".to_owned(),
        (_, Some(width)) => wrapped(&rows, 3, width),
        (_, None) => table(&rows),
    }
}

pub(super) fn hub(hub: &Hub) -> String {
    let mut text = format!("{}: {}\n", hub.host, hub.status);
    if !hub.reason.is_empty() {
        let _ = writeln!(text, "  {}", plain(&hub.reason));
    }
    let _ = writeln!(
        text,
        "  connections with a valid token: {} of {}",
        hub.connections_ready, hub.connections_wanted
    );
    let _ = writeln!(text, "  {}", life(hub));
    for refusal in &hub.refuses {
        let _ = writeln!(
            text,
            "  refuses: {} {} ({} times in {}): {}\n    fix: {}",
            refusal.cause,
            refusal.code,
            refusal.count,
            span(refusal.lasts_s),
            refusal.says,
            refusal.fix
        );
    }
    text
}

fn life(hub: &Hub) -> String {
    match hub.token_expires_in_s {
        Some(left) => format!("token: {} left, from {}", span(left), hub.token_from),
        None => "token: none that the hub holds valid".to_owned(),
    }
}

pub(super) fn token(hub: &Hub) -> String {
    life(hub) + "\n"
}

#[cfg(test)]
mod tests {
    use super::{plain, span};

    #[test]
    fn times_are_said_in_two_units() {
        let said = [0, 59, 60, 3_700, 90_000].map(span);
        assert_eq!(said, ["0s", "59s", "1m 0s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2J\n\"b'"), "a\\u{1b}[2J\\n\"b'");
    }
}
