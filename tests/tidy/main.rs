//! The rules of the house, as tests: layers, proofs, sizes, documents.
//!
//! `rules` holds the checks as functions over text, each shown to fail by a test of its own;
//! this file runs them over the tree.

mod documents;
mod rules;
mod runbook;

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: path relative to the root, and its text.
pub struct Source {
    /// Relative to the root.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// The folder of `Cargo.toml`.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file below `folder`.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "no sources below {folder}");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.map(|e| e.expect("readable folder").path()) {
        if entry.is_dir() {
            collect(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&entry).expect("readable source");
            let path = entry.strip_prefix(root()).expect("below the root");
            found.push(Source {
                path: path.display().to_string(),
                text,
            });
        }
    }
}

fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn layers_hold() {
    let problems: Vec<_> = sources("src")
        .iter()
        .flat_map(|s| rules::layers(&s.path, &s.text))
        .collect();
    report(&problems);
}

#[test]
fn proofs_are_made_in_one_place() {
    let problems: Vec<_> = sources("src")
        .iter()
        .flat_map(|s| rules::single_makers(&s.path, &s.text))
        .collect();
    report(&problems);
}

#[test]
fn files_and_functions_stay_small() {
    let mut problems = Vec::new();
    for folder in ["src", "tests", "benches"] {
        if folder == "benches" && !root().join(folder).exists() {
            continue;
        }
        for source in sources(folder) {
            problems.extend(rules::sizes(&source.path, &source.text));
        }
    }
    report(&problems);
}

#[test]
fn every_module_says_what_it_is_for() {
    let problems: Vec<_> = sources("src")
        .iter()
        .filter(|s| !rules::is_test(&s.path) && !s.text.starts_with("//!"))
        .map(|s| format!("{}: starts without a module header", s.path))
        .collect();
    report(&problems);
}

#[test]
fn nothing_banned_is_in_the_sources() {
    let mut problems = Vec::new();
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            if !source.path.starts_with("tests/tidy") {
                problems.extend(rules::banned(&source.path, &source.text));
            }
        }
    }
    report(&problems);
}
