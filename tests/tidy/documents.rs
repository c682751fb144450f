//! Documents against the tree: their tables, the root folder, licences.

use crate::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_root_folder_holds_only_what_it_should() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "src",
        "certs",
        "config",
        "tests",
        "benches",
        "deploy",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE",
        "deny.toml",
        ".ci",
        ".gitignore",
        ".clippy.toml",
        ".rustfmt.toml",
        ".git",
        "target",
    ];
    let strangers: Vec<String> = fs::read_dir(root())
        .expect("readable root")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(
        strangers.is_empty(),
        "unexpected at the root: {strangers:?}"
    );
}

#[test]
fn the_documented_metric_table_is_what_is_exported() {
    let source = fs::read_to_string(root().join("src/telemetry/metrics.rs")).expect("metrics");
    let readme = fs::read_to_string(root().join("deploy/README.md")).expect("its README");
    let exported: BTreeSet<String> = quoted_names(&source);
    let documented: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `iothub_gateway_"))
        .filter_map(|rest| rest.split(['`', '{']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(exported, documented, "left: exported, right: documented");
}

#[test]
fn the_summary_of_the_comparison_is_part_of_the_comparison() {
    let between_markers = |file: &str| {
        let text = fs::read_to_string(root().join(file)).expect(file);
        let (_, rest) = text.split_once("<!-- compare:begin -->").expect(file);
        let (inside, _) = rest.split_once("<!-- compare:end -->").expect(file);
        inside.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let whole = between_markers("benches/README.md");
    let summary = between_markers("README.md");
    assert!(summary.len() > 5, "{summary:?}");
    for line in summary {
        assert!(whole.contains(&line), "not in benches/README.md: {line}");
    }
}

/// Every Markdown file of the tree, and what it links to in the tree: file and heading.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut files = Vec::new();
    documents(&root(), &mut files);
    let mut followed = 0;
    for file in files {
        let name = file.display();
        let text = fs::read_to_string(&file).expect("text");
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("an end");
            if link.starts_with("https://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                _ => file.with_file_name(path),
            };
            assert!(target.exists(), "{name}: {link} leads nowhere");
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("text");
                let found = text
                    .lines()
                    .any(|line| anchor(line).as_deref() == Some(heading));
                assert!(found, "{name}: {link}: no such heading");
            }
            followed += 1;
        }
    }
    assert!(followed > 15, "{followed} links found");
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("a type").is_dir() {
            if name != "target" && !name.starts_with('.') {
                documents(&entry.path(), found);
            }
        } else if name.ends_with(".md") {
            found.push(entry.path());
        }
    }
}

/// The anchor of a heading, as the repository's host makes it.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix("## ").or(line.strip_prefix("### "))?;
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || " -".contains(*c));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// The names in the block of declarations.
fn quoted_names(source: &str) -> BTreeSet<String> {
    let body = source
        .split("    families {\n")
        .nth(1)
        .expect("the declarations");
    let body = body
        .split("    held {")
        .next()
        .expect("the end of the declarations");
    let names: BTreeSet<String> = body
        .lines()
        .filter(|line| line.contains("Vec = \""))
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect();
    assert!(
        names.len() > 20,
        "declarations are not recognised any more: {names:?}"
    );
    names
}

#[test]
fn every_licence_in_the_tree_is_allowed() {
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .expect("a host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let policy = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let policy: toml::Table = policy.parse().expect("deny.toml is TOML");
    let allowed: BTreeSet<&str> = policy["licenses"]["allow"]
        .as_array()
        .expect("licenses.allow")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let mut refused = Vec::new();
    for package in tree["packages"].as_array().expect("packages") {
        let licence = package["license"].as_str().unwrap_or("none");
        if !permits(licence, &allowed) {
            refused.push(format!(
                "{} {}: {licence}",
                package["name"], package["version"]
            ));
        }
        let source = package["source"].as_str().unwrap_or("registry+");
        assert!(
            source.starts_with("registry+"),
            "{} comes from {source}",
            package["name"]
        );
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Whether an SPDX expression of ANDs of ORs can be satisfied by the allowed licences.
fn permits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    plain
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|one| allowed.contains(one.trim())))
}

#[test]
fn a_licence_outside_the_list_is_refused() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "ISC"]);
    assert!(permits("MIT OR GPL-3.0", &allowed));
    assert!(permits("MIT/Apache-2.0", &allowed));
    assert!(permits("ISC AND (Apache-2.0 OR OpenSSL)", &allowed));
    assert!(!permits("GPL-2.0-or-later", &allowed));
    assert!(!permits("MIT AND GPL-3.0", &allowed));
}

#[test]
fn minimum_versions_close_known_faults() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = lock.parse().expect("TOML");
    let at_least = [
        ("openssl", [0, 10, 79]),
        ("tracing-subscriber", [0, 3, 20]),
        ("rustls", [0, 23, 46]),
        ("bytes", [1, 11, 1]),
    ];
    for (name, minimum) in at_least {
        let packages = lock["package"].as_array().expect("packages");
        let found = packages.iter().filter(|p| p["name"].as_str() == Some(name));
        for package in found {
            let version = package["version"].as_str().expect("a version");
            let parts: Vec<u32> = version.split('.').filter_map(|p| p.parse().ok()).collect();
            assert!(
                parts.as_slice() >= minimum.as_slice(),
                "{name} {version} < {minimum:?}"
            );
        }
    }
}
