//! Files → what the gateway starts from, or every problem of all of them.

use crate::auth::rules::{Resolvers, RuleSet, RulesText};
use crate::config::{self, Config, Problem};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A configuration and rules that may be served.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The rules it names.
    pub rules: RuleSet,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
}

/// The process's environment. Names and values that are no Unicode are taken approximately.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    let text = |raw: std::ffi::OsString| raw.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Loads the configuration at `path` and the rules it names. Opens no port.
///
/// # Errors
/// Every problem of every file, none of which holds a secret.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let environment = environment();
    let examined = config::examine(path, environment.clone().into_iter());
    let mut problems = examined.problems;
    let rules = examined
        .draft
        .as_ref()
        .map(|config| load_rules(config, &environment));
    match (examined.draft, rules) {
        (Some(config), Some(Ok(rules))) if problems.is_empty() => Ok(Loaded {
            config,
            rules,
            warnings: examined.warnings,
        }),
        (_, Some(Err(found))) => {
            problems.extend(found);
            Err(problems)
        }
        _ => Err(problems),
    }
}

/// Reads and parses the rules files of `config`.
///
/// # Errors
/// Every problem of every file.
pub fn load_rules(
    config: &Config,
    environment: &BTreeMap<String, String>,
) -> Result<RuleSet, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in &config.rules_files {
        match fs::read_to_string(path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(error) => problems.push(Problem::new(
                path.display().to_string(),
                "",
                format!("cannot be read ({error}); create it or correct rules.files"),
            )),
        }
    }
    let base = config.rules_files.first().and_then(|path| path.parent());
    let resolvers = Resolvers {
        read: &|path| fs::read(path).map_err(|error| format!("cannot be read ({error})")),
        secret: &|text| {
            let base = base.unwrap_or(Path::new(""));
            config::interpolate(text, base, environment, config.insecure_permissions)
                .map(|value| value.to_string())
        },
    };
    let texts: Vec<_> = files
        .iter()
        .map(|(name, text)| RulesText { name, text })
        .collect();
    match RuleSet::parse(&texts, &resolvers) {
        Ok(rules) if problems.is_empty() => Ok(rules),
        Ok(_) => Err(problems),
        Err(found) => {
            let found = found
                .into_iter()
                .map(|p| Problem::new(p.file, p.key, p.message));
            problems.extend(found);
            Err(problems)
        }
    }
}
