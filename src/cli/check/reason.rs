//! `check --reason`: what the log said and no rule can repeat, explained beside what the rules say.

use crate::auth::Explanation;
use crate::config::Setting;
use crate::telemetry::reason::{Basis, Reason, Stage};
use std::fmt::Write as _;

/// The reason of a word of the command line.
pub(super) fn parse(word: &str) -> Result<Reason, String> {
    match Reason::of(word) {
        Some(reason) if reason.refuses() => Ok(reason),
        Some(reason) => Err(format!("nobody was refused: {}", reason.means())),
        None => Err("no such reason; config/README.md has the table".to_owned()),
    }
}

/// Whether the rules cannot come to this reason by themselves.
pub(super) fn is_outside(reason: Reason) -> bool {
    reason.basis() != Basis::Rules
}

/// Whether form and kind of what was sent are judged before this is found.
pub(super) fn waits_for_form(reason: Reason) -> bool {
    reason.basis() == Basis::Proof && !reason.is_said_at(Stage::Handshake)
}

/// Says what the reason means, what to do, what is configured about it, and what the rules would
/// have said.
pub(super) fn explain(
    text: &mut String,
    reason: Reason,
    explanation: &Explanation,
    settings: &[Setting],
) {
    let _ = writeln!(text, "refused: {reason}: {}", reason.means());
    let _ = writeln!(text, "  fix: {}", reason.fix());
    for setting in settings.iter().filter(|s| is_named(reason, &s.key)) {
        let Setting { key, value, origin } = setting;
        let _ = writeln!(text, "  configured: {key} = {value} ({origin})");
    }
    let _ = match &explanation.outcome {
        Ok(outcome) => writeln!(text, "  else, by the rules: {outcome}"),
        Err(denial) => writeln!(text, "  else, by the rules, {denial}"),
    };
}

/// Whether the reason's sentences name this key, as `limits.failures_per_identity`.
fn is_named(reason: Reason, key: &str) -> bool {
    let names = |sentence: &str| {
        sentence
            .split('`')
            .skip(1)
            .step_by(2)
            .any(|name| name == key)
    };
    names(reason.means()) || names(reason.fix())
}
