//! The code of an event: a word that stays when the text of its line is put better, for whoever
//! counts lines or waits for one.
//!
//! A call site names its event by `name:`, tracing's own word for it. The upstream's call sites
//! have none yet; theirs is found by how their text begins.

/// Codes of the upstream's lines by the beginning of their text.
const OF_THE_HUB: &[(&str, &str)] = &[
    ("hub refuses: ", "hub_refuses"),
    ("hub still refuses: ", "hub_still_refuses"),
    ("hub no longer refuses: ", "hub_refuses_no_more"),
    ("hub was not asked again ", "hub_not_asked_again"),
    ("hub connection open", "hub_connection_open"),
    ("hub connection lost", "hub_connection_lost"),
    ("cannot connect to hub", "hub_connect_failed"),
    ("the hub allows fewer sessions", "hub_sessions_fewer"),
    ("more links than devices", "hub_links_overrun"),
    ("command without a readable body", "command_unreadable"),
    ("no control thread", "control_thread_missing"),
    ("the wall clock jumped", "clock_jumped"),
    ("a renewal was decided late", "renewal_late"),
    ("the token ended", "token_ended"),
];

/// The code of an event with this name, target and text; `None` for one that has none, as those of
/// libraries.
#[must_use]
pub fn of<'a>(name: &'a str, target: &str, text: &str) -> Option<&'a str> {
    if !target.starts_with("iothub_gateway") && target != "emulator" {
        return None;
    }
    // tracing's own name of a call site that has none is "event FILE:LINE".
    if !name.contains(' ') {
        return Some(name);
    }
    let found = OF_THE_HUB.iter().find(|(begin, _)| text.starts_with(begin));
    found.map(|(_, code)| *code)
}
