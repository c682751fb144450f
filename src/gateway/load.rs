//! Files → what the gateway starts from, or every problem of all of them.

use super::exposed;
use crate::auth::rules::{Resolvers, RuleSet, RulesText};
use crate::config::named_file::{self, PEM_BYTES_MAX, RULES_BYTES_MAX, Unreadable};
use crate::config::reload::Files;
use crate::config::secret_file;
use crate::config::{self, Config, Problem, Setting};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration and rules that may be served.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The rules it names.
    pub rules: RuleSet,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// Where both came from, for [`super::Gateway::watch`].
    pub sources: Sources,
}

/// Where a configuration came from.
#[derive(Clone)]
pub struct Sources {
    /// The configuration file.
    pub(super) path: PathBuf,
    /// Every key of it, to tell what changed.
    pub(super) settings: Vec<Setting>,
    /// All files read, as they were then.
    pub(super) files: Files,
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
    if named_file::is_stream(path) && !path.is_file() {
        let name = path.display().to_string();
        return Err(vec![Problem::new(
            name,
            "",
            Unreadable::Irregular.to_string(),
        )]);
    }
    let environment = environment();
    let mut files = Files::default();
    note_configuration(path, &environment, &mut files);
    let examined = config::examine(path, environment.clone().into_iter());
    let mut problems = examined.problems;
    let rules = examined.draft.as_ref().map(|config| {
        // What `examine` read of these is read again when listeners are built.
        note_tls(config, &mut files);
        load_rules_noting(config, &environment, &mut files)
    });
    match (examined.draft, rules) {
        (Some(config), Some(Ok(rules))) if problems.is_empty() => Ok(Loaded {
            warnings: [examined.warnings, exposed(&config)].concat(),
            config,
            rules,
            sources: Sources {
                path: path.to_owned(),
                settings: examined.settings,
                files,
            },
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
    load_rules_noting(config, environment, &mut Files::default())
}

/// Notes the configuration file and the files it takes secrets from: a key that is rotated there
/// counts.
pub(super) fn note_configuration(
    path: &Path,
    environment: &BTreeMap<String, String>,
    files: &mut Files,
) {
    files.note(path);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = absolute.parent().unwrap_or(Path::new(""));
    let text = named_file::read(path, RULES_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    for secret in config::files_named(&text, base, environment) {
        files.note(&secret);
    }
}

/// Notes the files of the TLS of all listeners and of the admin port.
pub(super) fn note_tls(config: &Config, files: &mut Files) {
    let listeners = config.listeners.iter().filter_map(|l| l.tls.as_ref());
    for tls in listeners.chain(&config.admin.tls) {
        let named = [&tls.cert, &tls.key, &tls.client_ca, &tls.crl];
        named
            .into_iter()
            .flatten()
            .for_each(|path| files.note(path));
    }
}

fn rules_text(path: &Path, name: &str) -> Result<String, Problem> {
    let mut bytes = named_file::read(path, RULES_BYTES_MAX).map_err(|unreadable| {
        let text = unreadable.with_fix("create it or correct rules.files");
        Problem::new(name, "", text)
    })?;
    String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let text = "is not UTF-8; save it as UTF-8 text";
        Problem::new(format!("{name}:{line}"), "", text)
    })
}

/// As [`load_rules`]; every file is noted before it is read.
pub(super) fn load_rules_noting(
    config: &Config,
    environment: &BTreeMap<String, String>,
    noted: &mut Files,
) -> Result<RuleSet, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in &config.rules_files {
        noted.note(path);
        let name = path.display().to_string();
        match rules_text(path, &name) {
            Ok(text) => files.push((name, text)),
            Err(problem) => problems.push(problem),
        }
    }
    let base = config.rules_files.first().and_then(|path| path.parent());
    let base = base.unwrap_or(Path::new(""));
    let noted = RefCell::new(noted);
    let resolvers = Resolvers {
        read: &|path| {
            noted.borrow_mut().note(path);
            named_file::read(path, PEM_BYTES_MAX)
                .map(|mut bytes| std::mem::take(&mut *bytes))
                .map_err(|unreadable| unreadable.to_string())
        },
        read_secret: &|path| {
            noted.borrow_mut().note(path);
            secret_file::read_all(path)
        },
        secret: &|text| {
            for path in config::files_named(text, base, environment) {
                noted.borrow_mut().note(&path);
            }
            config::interpolate(text, base, environment, config.insecure_permissions)
                .map(|value| value.to_string())
        },
    };
    let texts: Vec<_> = files
        .iter()
        .map(|(name, text)| RulesText { name, text })
        .collect();
    match RuleSet::parse(&texts, &resolvers) {
        Ok(rules) if problems.is_empty() => match rules.keeps_refused() {
            Some(place) if config.refused_folder.is_none() => Err(vec![Problem::new(
                place,
                "on_refused",
                "\"file\" needs a folder to keep messages in; add refused_folder = \"refused\" to \
                 [rules] of the configuration",
            )]),
            _ => Ok(rules),
        },
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
