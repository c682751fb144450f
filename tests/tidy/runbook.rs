//! The runbook against what it is about: a section for each alert, a line for each log event at
//! warn or above, and neither for anything else; no metric that nobody looks at.

use crate::{Source, root, sources};
use iothub_gateway::telemetry::log::codes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What a section has to say.
const PARTS: [&str; 4] = ["**Symptom**", "**Cause**", "**Show**", "**Fix**"];

fn runbook() -> String {
    fs::read_to_string(root().join("deploy/RUNBOOK.md")).expect("the runbook")
}

fn alerts() -> BTreeSet<String> {
    let rules = fs::read_to_string(root().join("deploy/prometheus/rules.yaml")).expect("rules");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

/// Sections by heading of the third level.
fn sections(text: &str) -> BTreeMap<String, String> {
    let parts = text.split("\n### ").skip(1);
    let section = |part: &str| {
        let (heading, body) = part.split_once('\n').unwrap_or((part, ""));
        let body = body.split("\n## ").next().unwrap_or_default();
        (heading.to_owned(), body.to_owned())
    };
    parts.map(section).collect()
}

/// What a section lacks.
fn lacks(body: &str) -> Vec<&'static str> {
    let said = |part: &&str| {
        let rest = body.split_once(*part).map(|(_, rest)| rest);
        let words = rest.and_then(|rest| rest.split("**").next());
        words.is_some_and(|words| words.split_whitespace().count() >= 3)
    };
    let mut missing: Vec<_> = PARTS.into_iter().filter(|part| !said(part)).collect();
    if !body.contains("```sh\n") {
        missing.push("a command");
    }
    missing
}

#[test]
fn each_alert_has_a_whole_section_and_each_section_an_alert() {
    let sections = sections(&runbook());
    let named: BTreeSet<String> = sections.keys().cloned().collect();
    assert_eq!(alerts(), named, "left: alerts, right: sections");
    for (alert, body) in sections {
        assert_eq!(lacks(&body), Vec::<&str>::new(), "{alert}");
    }
}

#[test]
fn a_section_without_a_fix_or_a_command_is_noticed() {
    let whole = "**Symptom** a b c\n**Cause** a b c\n**Show**\n```sh\ncurl x y z\n```\n\
                 **Fix** a b c";
    assert_eq!(lacks(whole), Vec::<&str>::new());
    assert_eq!(
        lacks(&whole.replace("**Fix** a b c", "**Fix**")),
        ["**Fix**"]
    );
    assert_eq!(lacks(&whole.replace("```sh", "```")), ["a command"]);
}

#[test]
fn each_metric_is_in_an_alert_or_on_a_dashboard() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect(path);
    let mut shown = read("deploy/prometheus/rules.yaml");
    for name in ["overview", "devices", "hub"] {
        let path = format!("deploy/grafana/dashboards/iothub-gateway-{name}.json");
        shown.push_str(&read(&path));
    }
    let table = read("deploy/README.md");
    let names = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `iothub_gateway_"));
    let names: BTreeSet<&str> = names
        .filter_map(|rest| rest.split(['`', '{']).next())
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let unseen = |name: &&&str| {
        let name = format!("iothub_gateway_{name}");
        let mut at = shown.match_indices(&name);
        let is_all = |(at, found): (usize, &str)| {
            let rest = &shown[at + found.len()..];
            let rest =
                ["_bucket", "_sum", "_count"].map(|part| rest.strip_prefix(part).unwrap_or(rest));
            rest.iter()
                .any(|rest| !rest.starts_with(|c: char| c == '_' || c.is_ascii_lowercase()))
        };
        !at.any(is_all)
    };
    let unseen: Vec<_> = names.iter().filter(unseen).collect();
    assert!(unseen.is_empty(), "nobody looks at {unseen:?}");
}

/// Code, level, target and message of an event; what is filled in is `…`. A call site without a
/// name that has no code by its text either has an empty one.
type Event = (String, String, String, String);

/// The events of these levels of one file, tests left out.
fn events(source: &Source, levels: &[&str]) -> Vec<Event> {
    let code = source
        .text
        .split("\nmod tests {")
        .next()
        .unwrap_or_default();
    let mut found = Vec::new();
    for level in levels {
        for (at, _) in code.match_indices(&format!("{level}!(")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue; // another macro
            }
            let arguments = &code[at + level.len() + 2..];
            let (name, arguments) = named(arguments);
            let target = match arguments.starts_with("target: REFUSAL") {
                true => "iothub_gateway::refusal".to_owned(),
                false => target(&source.path),
            };
            let message = message(arguments);
            let code = codes::of(name, &target, &message).unwrap_or_default();
            let message = filled(&message);
            found.push((code.to_owned(), (*level).to_owned(), target, message));
        }
    }
    found
}

/// The name of an event, and its other arguments; without one, what tracing calls it.
fn named(arguments: &str) -> (&str, &str) {
    let arguments = arguments.trim_start();
    let named = arguments.strip_prefix("name: \"");
    let parts = named.and_then(|rest| rest.split_once("\","));
    parts.map_or(("event src", arguments), |(name, rest)| {
        (name, rest.trim_start())
    })
}

/// The module of a file, as log lines name it.
fn target(path: &str) -> String {
    let module = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = module.trim_end_matches("/mod").replace('/', "::");
    format!("iothub_gateway::{module}")
}

/// The first literal among a macro's own arguments that is no field's value.
fn message(arguments: &str) -> String {
    let (mut depth, mut previous) = (0, ' ');
    let mut rest = arguments.chars();
    while let Some(c) = rest.next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let literal = literal(&mut rest);
                if depth == 0 && previous != '=' {
                    return literal;
                }
            }
            _ => {}
        }
        if !c.is_whitespace() {
            previous = c;
        }
    }
    String::new()
}

/// A string literal whose opening quote was read; a line's continuation is taken out.
fn literal(rest: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next() {
                Some('\n') => *rest = rest.as_str().trim_start().chars(),
                Some(other) => text.push(other),
                None => break,
            },
            other => text.push(other),
        }
    }
    text
}

/// The message with each `{…}` as an ellipsis.
fn filled(message: &str) -> String {
    let mut text = String::new();
    for (index, part) in message.split('{').enumerate() {
        let part = match (index, part.split_once('}')) {
            (0, _) | (_, None) => part,
            (_, Some((_, rest))) => {
                text.push('…');
                rest
            }
        };
        text.push_str(part);
    }
    text
}

/// The rows of the runbook's table of log lines.
fn documented(text: &str) -> Vec<Vec<String>> {
    let table = text
        .split_once("\n## Log lines")
        .map_or("", |(_, rest)| rest);
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| -> Vec<String> {
        let cells = row.trim_matches('|').split(" | ");
        let cells = cells.map(|cell| cell.trim().trim_matches('`').to_owned());
        cells.collect()
    };
    rows.map(cells).collect()
}

/// The events of the gateway at these levels.
fn logged(levels: &[&str]) -> BTreeSet<Event> {
    let of_the_gateway = |source: &&Source| {
        let path = &source.path;
        let others = ["src/emulator", "src/load"];
        !others.iter().any(|other| path.starts_with(other)) && !path.ends_with("tests.rs")
    };
    let sources = sources("src");
    let ours = sources.iter().filter(of_the_gateway);
    ours.flat_map(|source| events(source, levels)).collect()
}

#[test]
fn each_event_at_info_or_above_has_a_code_and_each_code_is_documented() {
    let mut meanings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (code, _, _, message) in logged(&["info", "warn", "error"]) {
        let word = |c: char| c == '_' || c.is_ascii_lowercase();
        assert!(!code.is_empty() && code.chars().all(word), "{message:?}");
        meanings.entry(code).or_default().insert(message);
    }
    for (code, messages) in &meanings {
        let several = ["panic", "config_warning"].contains(&code.as_str());
        assert!(messages.len() == 1 || several, "{code}: {messages:?}");
    }
    let read = |path: &str| fs::read_to_string(root().join(path)).expect(path);
    let documents = read("deploy/README.md") + &read("deploy/RUNBOOK.md");
    let documented = |code: &&String| documents.contains(&format!("| `{code}` |"));
    let missing: Vec<_> = meanings.keys().filter(|code| !documented(code)).collect();
    assert!(missing.is_empty(), "in no document: {missing:?}");
}

#[test]
fn each_log_event_at_warn_or_above_has_a_line_that_says_what_to_do() {
    let logged = logged(&["warn", "error"]);
    assert!(logged.len() > 20, "{logged:?}");
    let mut described = BTreeSet::new();
    for row in documented(&runbook()) {
        let cells = <[String; 6]>::try_from(row).expect("six cells");
        let [code, message, level, target, means, fix] = cells;
        assert!(means.len() > 5 && fix.len() > 5, "{message}");
        described.insert((code, level, target, message));
    }
    let missing: Vec<_> = logged.difference(&described).collect();
    let stale: Vec<_> = described.difference(&logged).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "not in deploy/RUNBOOK.md: {missing:#?}\nin no source: {stale:#?}"
    );
}

#[test]
fn events_are_found_in_all_their_shapes() {
    let text = r#"
        tracing::warn!("plain");
        tracing::error!(%error, keys = %list.join(", "), "with fields: {error}; \
             and {more}");
        warn!(
            name: "values_named",
            target: REFUSAL, kind = "x", "named {}", value
        );
        compile_error!("no event");
mod tests {
        tracing::warn!("of a test");
    "#;
    let source = Source {
        path: "src/hub/mod.rs".to_owned(),
        text: text.to_owned(),
    };
    let event = |code: &str, level: &str, target: &str, message: &str| {
        let owned = |text: &str| text.to_owned();
        (owned(code), owned(level), owned(target), owned(message))
    };
    let (hub, refusal) = ("iothub_gateway::hub", "iothub_gateway::refusal");
    let expected = [
        event("", "warn", hub, "plain"),
        event("values_named", "warn", refusal, "named …"),
        event("", "error", hub, "with fields: …; and …"),
    ];
    assert_eq!(events(&source, &["warn", "error"]), expected);
}
