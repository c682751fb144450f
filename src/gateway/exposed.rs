//! Files with device keys that others than the gateway's own can read: said by `check`, at a start
//! and at each reload, with the words that refuse a private key.
//!
//! They are served all the same. A fleet's keys come from elsewhere, with the mode they had there,
//! and an example out of a clone of the repository has the mode git gives it.

use crate::config::named_file::{self, RULES_BYTES_MAX};
use crate::config::{Config, Problem, secret_file};
use crate::telemetry::log::capped;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A warning for each such file, unless the configuration takes them.
#[must_use]
pub fn exposed(config: &Config) -> Vec<Problem> {
    let mut warnings = Vec::new();
    if config.insecure_permissions {
        return warnings;
    }
    let mut seen = HashSet::new();
    for path in &config.rules_files {
        let (holds_keys, fleets) = secrets_of(path);
        let own = holds_keys.then(|| path.clone());
        for file in own.into_iter().chain(fleets) {
            if !seen.insert(file.clone()) {
                continue;
            }
            if let Err(text) = secret_file::check_permissions(&file) {
                let name = capped(&file.display().to_string());
                let what = text.strip_prefix(&name).unwrap_or(&text).trim();
                warnings.push(Problem::new(name.clone(), "", what));
            }
        }
    }
    warnings
}

/// Whether a rules file itself holds keys, and the PSK files it names.
fn secrets_of(path: &Path) -> (bool, Vec<PathBuf>) {
    let text = named_file::read(path, RULES_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let table: toml::Table = text.parse().unwrap_or_default();
    let entries = |key: &str| {
        let array = table.get(key).and_then(toml::Value::as_array);
        array.map(Vec::as_slice).unwrap_or_default().to_vec()
    };
    let holds_keys = entries("device").iter().any(|device| {
        let secret = |kind: &str, key: &str| {
            let value = device.get(kind).and_then(|table| table.get(key));
            value
                .and_then(toml::Value::as_str)
                .is_some_and(|text| !text.starts_with("${"))
        };
        secret("psk", "key")
            || secret("psk", "next_key")
            || secret("sas", "primary_key")
            || secret("sas", "secondary_key")
            || secret("password", "hash")
    });
    let folder = path.parent().unwrap_or(Path::new(""));
    let fleets = entries("psk_file");
    let fleets = fleets
        .iter()
        .filter_map(|fleet| fleet.get("path").and_then(toml::Value::as_str))
        .map(|name| folder.join(name));
    (holds_keys, fleets.collect())
}
