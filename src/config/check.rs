//! The tree → [`Config`], every problem in one pass.
//!
//! Reads files that the configuration names (certificates, keys) but opens no port and changes
//! nothing. A bad value is reported and replaced by its default, so that the checks after it
//! still run; such a draft is never served.

mod hub;
mod listener;
mod material;
mod sections;
mod token;

use super::file::{self, Node, Origin, Table};
use super::limits::Limits;
use super::problem::Problem;
use super::reader::{Context, Reader, Setting};
use super::schema::Section;
use super::{Config, env};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration that may be served.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// Every key with its value and origin, secrets hidden.
    pub settings: Vec<Setting>,
}

/// All there is to say about a configuration file.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What could be read. Serve it only when there are no problems; use it to check more.
    /// Absent when the file has no readable TOML.
    pub draft: Option<Config>,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// Every key with its value and origin, secrets hidden.
    pub settings: Vec<Setting>,
}

/// Loads the configuration at `path`, with overrides from `env`. Opens no port.
///
/// # Errors
/// Every problem found, none of which holds a secret.
pub fn load(
    path: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, Vec<Problem>> {
    let Examination {
        draft,
        problems,
        warnings,
        settings,
    } = examine(path, env);
    match draft {
        Some(config) if problems.is_empty() => Ok(Loaded {
            config,
            warnings,
            settings,
        }),
        _ => Err(problems),
    }
}

/// Examines the configuration at `path`, with overrides from `env`, as far as it can be read.
#[must_use]
pub fn examine(path: &Path, env: impl Iterator<Item = (String, String)>) -> Examination {
    let name = crate::telemetry::log::capped(&path.display().to_string());
    let failed = |problems| Examination {
        draft: None,
        problems,
        warnings: Vec::new(),
        settings: Vec::new(),
    };
    let parsed = file::read(path, &name)
        .map_err(|problem| vec![problem])
        .and_then(|text| file::parse(&text, &name));
    let mut table = match parsed {
        Ok(table) => table,
        Err(problems) => return failed(problems),
    };
    let env: BTreeMap<String, String> = env.collect();
    let mut problems = Vec::new();
    file::check_shape(&table, Section::Root, "", &name, &mut problems);
    env::apply(&mut table, &env, &mut problems);
    let base = base_folder(path);
    let sources = env::Sources {
        env: &env,
        base: &base,
        insecure_permissions: insecure_permissions(&table),
        name: &name,
    };
    sources.interpolate(&mut table, "", &mut problems);
    let cx = Context {
        name,
        base,
        problems: RefCell::new(problems),
        warnings: RefCell::default(),
        settings: RefCell::default(),
    };
    let draft = config(&cx, &table, path);
    let mut problems = cx.problems.into_inner();
    problems.sort_by_cached_key(|problem| in_file_order(&problem.file));
    problems.dedup();
    Examination {
        draft: Some(draft),
        problems,
        warnings: cx.warnings.into_inner(),
        settings: cx.settings.into_inner(),
    }
}

/// The folder of the file, absolute, so that a later change of directory changes nothing.
fn base_folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Read ahead of everything, because it governs how secrets are read.
fn insecure_permissions(table: &Table) -> bool {
    let Some(entry) = table.get("insecure_permissions") else {
        return false;
    };
    match (&entry.node, &entry.origin) {
        (Node::Bool(value), _) => *value,
        (Node::Text(text), Origin::Env(_)) => text.value.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// `gateway.toml:12` sorts by its number; the environment comes last.
fn in_file_order(place: &str) -> (bool, usize) {
    let line = place
        .rsplit_once(':')
        .and_then(|(_, line)| line.parse().ok());
    (place.starts_with("environment "), line.unwrap_or(0))
}

fn config(cx: &Context, table: &Table, path: &Path) -> Config {
    let root = Reader::new(cx, Some(table), "");
    let insecure_permissions = root.boolean("insecure_permissions", false);
    if insecure_permissions {
        root.warning(
            "insecure_permissions",
            "secret files that others can read are taken; set it to false when they are closed",
        );
    }
    let limits_reader = Reader::new(cx, root.table("limits"), "limits");
    let limits = sections::limits(&limits_reader);
    let hub_reader = Reader::new(cx, root.table("hub"), "hub");
    if !root.has("hub") {
        root.problem("hub", "missing; add [hub] with host, policy and key");
    }
    let hub = hub::hub(&hub_reader, &limits, path, insecure_permissions);
    let admin_reader = Reader::new(cx, root.table("admin"), "admin");
    let admin = sections::admin(&admin_reader, insecure_permissions);
    let listeners = listener::listeners(&root, admin.bind, insecure_permissions);
    let rules_reader = Reader::new(cx, root.table("rules"), "rules");
    let config = Config {
        file: path.to_owned(),
        rules_files: sections::rules_files(&rules_reader),
        refused_folder: rules_reader.path("refused_folder"),
        log: sections::log(&Reader::new(cx, root.table("log"), "log")),
        otlp: super::otlp::otlp(&root),
        shutdown: sections::shutdown(&Reader::new(cx, root.table("shutdown"), "shutdown")),
        hub,
        admin,
        listeners,
        limits,
        insecure_permissions,
    };
    descriptors(&limits_reader, &config.limits, config.hub.connections);
    config
}

/// Sockets the process may need beyond devices: listeners, admin, files, the runtime's own.
const OTHER_DESCRIPTORS: usize = 128;

/// Warns when the process may not open as many sockets as the limits admit.
fn descriptors(reader: &Reader<'_>, limits: &Limits, hub_connections: usize) {
    let needed = limits
        .connections
        .saturating_add(hub_connections)
        .saturating_add(OTHER_DESCRIPTORS);
    let available = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| open_files_max(&text));
    if let Some(available) = available.filter(|available| *available < needed) {
        reader.warning(
            "connections",
            format!(
                "needs {needed} file descriptors, the process may open {available}; raise \
                 LimitNOFILE (systemd), `ulimit -n` or the container's nofile, or lower it"
            ),
        );
    }
}

/// The soft limit of open files in the text of `/proc/self/limits`.
fn open_files_max(text: &str) -> Option<usize> {
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(3)? {
        "unlimited" => None,
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_found() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files_max(text), Some(1024));
        assert_eq!(
            open_files_max("Max open files unlimited unlimited files"),
            None
        );
        assert_eq!(open_files_max(""), None);
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        assert!(in_file_order("f.toml:2") < in_file_order("f.toml:10"));
        assert!(in_file_order("f.toml:10") < in_file_order("environment X"));
        assert!(in_file_order("f.toml") < in_file_order("f.toml:1"));
    }
}
