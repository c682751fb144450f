//! The section of config/README.md "Who may connect", run as printed.

use crate::folder::Folder;

fn section() -> String {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/config/README.md");
    let readme = std::fs::read_to_string(readme).expect("config/README.md");
    let from = readme.find("\n## Who may connect\n").expect("the section");
    let rest = &readme[from + 1..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// The contents of the fenced blocks of one language.
fn blocks<'a>(section: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts = section.split(&fence).skip(1);
    parts
        .map(|part| part.split("```").next().expect("an end"))
        .collect()
}

/// Whether `line` is what is shown; `…` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.trim_end().split('…');
    let line = line.trim_end();
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    open && shown.trim_end().ends_with('…') || rest.is_empty()
}

struct Example<'a> {
    command: &'a str,
    code: i32,
    output: Vec<&'a str>,
}

fn examples(block: &str) -> Vec<Example<'_>> {
    let mut found: Vec<Example<'_>> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => {
                let (command, code) = match command.split_once("# exit code ") {
                    Some((command, code)) => (command, code.trim().parse().expect("a number")),
                    None => (command, 0),
                };
                found.push(Example {
                    command,
                    code,
                    output: Vec::new(),
                });
            }
            (None, Some(example)) => example.output.push(line),
            (None, None) => panic!("output without a command: {line}"),
        }
    }
    found
}

/// What the section takes for granted: its rules, the keys they name, a file of another product.
fn prepared(section: &str) -> Folder {
    let folder = Folder::new();
    let rules = blocks(section, "toml")[0];
    assert!(rules.starts_with("# rules.toml\n"));
    folder.write("rules.toml", rules);
    folder.write("thermo-1.key", "00112233445566778899aabbccddeeff\n");
    folder.write(
        "pump-3.key",
        "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=\n",
    );
    folder.write("old.csv", "old-1,AAECAwQFBgcICQoLDA0ODw==\n");
    folder
}

#[test]
fn every_command_does_what_the_section_shows() {
    let section = section();
    let folder = prepared(&section);
    let mut ran = 0;
    let mut before = String::new();
    for example in blocks(&section, "console").into_iter().flat_map(examples) {
        if example.command.starts_with("umask ") {
            before = format!("{}; ", example.command);
        }
        let done = folder.sh(&format!("{before}{}", example.command));
        let Example { command, code, .. } = example;
        assert_eq!(done.code, code, "{command}\n{}{}", done.out, done.err);
        let lines: Vec<_> = done.out.lines().collect();
        let shown = &example.output;
        let as_shown =
            shown.len() == lines.len() && shown.iter().zip(&lines).all(|(s, l)| fits(s, l));
        assert!(
            as_shown,
            "{command}\nshown:\n{}\nis:\n{}",
            shown.join("\n"),
            done.out
        );
        ran += 1;
    }
    assert!(ran >= 11, "{ran} commands found");
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.err, "", "no warning");
    assert!(
        done.out.contains("expectations that hold: 1"),
        "{}",
        done.out
    );
}

#[test]
fn the_table_of_reasons_is_the_programs_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/README.md");
    let file = std::fs::read_to_string(path).expect("config/README.md");
    let table = iothub_gateway::telemetry::reason::documentation();
    assert!(
        file.contains(&format!("## Reasons\n\n{table}")),
        "the section `Reasons` of config/README.md has to begin with\n\n{table}"
    );
}

#[test]
fn the_table_of_what_the_hub_refuses_is_the_programs_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let file = std::fs::read_to_string(path).expect("README.md");
    let table = iothub_gateway::hub::refusals::documentation();
    let section = file
        .split("\n## ")
        .find(|s| s.starts_with("When the hub refuses\n"));
    let section = section.expect("a section `When the hub refuses`");
    assert!(section.contains(&table), "it has to contain\n\n{table}");
}

#[test]
fn a_shown_line_that_is_not_what_is_printed_is_found() {
    assert!(fits("a…", "abc") && fits("a…c", "abc") && fits("abc", "abc") && fits("…", ""));
    assert!(fits("…c…", "abcd"));
    assert!(!fits("a…d", "abc") && !fits("ab", "abc") && !fits("b…", "abc"));
}
