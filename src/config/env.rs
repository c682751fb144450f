//! Environment: `IOTHUB_GATEWAY__SECTION__KEY` overrides, and `${…}` inside string values.
//!
//! Both work on the tree, before values get their types. A variable that names no key is a
//! problem, not a shrug: a misspelt override would silently leave the old value in force.

use super::file::{Entry, Node, Origin, Table, join, place};
use super::problem::Problem;
use super::schema::{Section, Shape, nearest};
use super::secret_file;
use crate::telemetry::log::capped;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What an override's name starts with, in any case.
pub const PREFIX: &str = "IOTHUB_GATEWAY__";

/// Applies the overrides of `env` to `table`.
pub(super) fn apply(
    table: &mut Table,
    env: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) {
    let mut overrides: Vec<(Vec<String>, &str, &str)> = env
        .iter()
        .filter_map(|(name, value)| {
            let prefix = name.get(..PREFIX.len())?;
            if !prefix.eq_ignore_ascii_case(PREFIX) {
                return None;
            }
            let path = name[PREFIX.len()..].to_ascii_lowercase();
            let path = path.split("__").map(str::to_owned).collect();
            Some((path, name.as_str(), value.as_str()))
        })
        .collect();
    // Elements in numeric order, so that LISTENER__10 comes after LISTENER__2.
    overrides.sort_by_cached_key(|(path, ..)| -> Vec<(u64, String)> {
        path.iter()
            .map(|part| (part.parse().unwrap_or(0), part.clone()))
            .collect()
    });
    let mut seen: Option<&[String]> = None;
    for (path, variable, value) in &overrides {
        let result = if seen == Some(path) {
            Err("the same key is set by another spelling of this variable; keep one".to_owned())
        } else {
            set(table, Section::Root, path, variable, value)
        };
        seen = Some(path);
        if let Err(message) = result {
            let key = capped(&path.join("."));
            let file = format!("environment {}", capped(variable));
            problems.push(Problem::new(file, key, message));
        }
    }
}

/// Sets one key in `table`, which is a `section`.
fn set(
    table: &mut Table,
    section: Section,
    path: &[String],
    variable: &str,
    value: &str,
) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        return Err(format!(
            "names no key; {} has: {}",
            section.title(),
            section.keys().join(", ")
        ));
    };
    let shape = section
        .shape(key)
        .ok_or_else(|| unknown_variable(section, key, variable, rest))?;
    let origin = Origin::Env(variable.to_owned());
    match (shape, rest) {
        (Shape::Value, []) => {
            let node = Node::text(value);
            table.insert(key.clone(), Entry { node, origin });
            Ok(())
        }
        (Shape::Value, _) => Err(format!("`{key}` holds one value; end the name there")),
        (Shape::Table(inner), [_, ..]) => {
            let table = subtable(table, key, origin)?;
            set(table, inner, rest, variable, value)
        }
        (Shape::Table(inner), []) => Err(format!(
            "`{key}` is a section; add one of its keys: {}",
            inner.keys().join(", ")
        )),
        (Shape::Tables(inner), [index, more @ ..]) if !more.is_empty() => {
            let items = sublist(table, key, &origin)?;
            let at = element(index, items.len())?;
            if at == items.len() {
                let node = Node::Table(Table::new());
                items.push(Entry { node, origin });
            }
            match &mut items[at].node {
                Node::Table(table) => set(table, inner, more, variable, value),
                _ => Err(format!(
                    "`{key}` in the file is no [[{key}]]; correct it there"
                )),
            }
        }
        (Shape::Tables(_), _) => Err(format!(
            "name an element and a key, as in {PREFIX}{}__0__NAME",
            key.to_uppercase()
        )),
        (Shape::List, index) => set_in_list(table, key, index, value, origin),
    }
}

/// Sets a whole array of strings, or one of its elements.
fn set_in_list(
    table: &mut Table,
    key: &str,
    index: &[String],
    value: &str,
    origin: Origin,
) -> Result<(), String> {
    let index = match index {
        [] => {
            let node = super::file::parse_value(value, &origin)
                .filter(|node| matches!(node, Node::List(_)))
                .ok_or(
                    r#"write a TOML array, as in ["psk", "sas"], or set elements: …__0, …__1"#,
                )?;
            table.insert(key.to_owned(), Entry { node, origin });
            return Ok(());
        }
        [index] => index,
        _ => {
            return Err(format!(
                "elements of `{key}` are values; end the name there"
            ));
        }
    };
    let items = sublist(table, key, &origin)?;
    let at = element(index, items.len())?;
    let node = Node::text(value);
    let entry = Entry { node, origin };
    match items.get_mut(at) {
        Some(item) => *item = entry,
        None => items.push(entry),
    }
    Ok(())
}

fn unknown_variable(section: Section, key: &str, variable: &str, rest: &[String]) -> String {
    let tail_len: usize = rest.iter().map(|part| part.len() + 2).sum();
    let head_len = variable.len().saturating_sub(tail_len + key.len());
    match nearest(key, &section.keys()) {
        Some(near) => {
            let head = variable.get(..head_len).unwrap_or(PREFIX);
            let tail = variable
                .get(variable.len().saturating_sub(tail_len)..)
                .unwrap_or("");
            let meant = format!("{head}{}{tail}", near.to_uppercase());
            format!("names no key; did you mean {}?", capped(&meant))
        }
        None => format!(
            "names no key; unset it. {} has: {}",
            section.title(),
            section.keys().join(", ")
        ),
    }
}

fn subtable<'a>(table: &'a mut Table, key: &str, origin: Origin) -> Result<&'a mut Table, String> {
    let entry = table.entry(key.to_owned()).or_insert_with(|| Entry {
        node: Node::Table(Table::new()),
        origin,
    });
    match &mut entry.node {
        Node::Table(table) => Ok(table),
        _ => Err(format!("`{key}` in the file is no table; correct it there")),
    }
}

fn sublist<'a>(
    table: &'a mut Table,
    key: &str,
    origin: &Origin,
) -> Result<&'a mut Vec<Entry>, String> {
    let entry = table.entry(key.to_owned()).or_insert_with(|| Entry {
        node: Node::List(Vec::new()),
        origin: origin.clone(),
    });
    match &mut entry.node {
        Node::List(items) => Ok(items),
        _ => Err(format!("`{key}` in the file is no array; correct it there")),
    }
}

/// An element that exists, or the one after the last.
fn element(index: &str, len: usize) -> Result<usize, String> {
    match index.parse::<usize>() {
        Ok(at) if at <= len => Ok(at),
        Ok(_) => Err(format!(
            "there are {len} elements; the next to add is {len}"
        )),
        Err(_) => Err(format!("an element is a number from 0 to {len}")),
    }
}

/// `text` with every `${ENV}` and `${file:PATH}` replaced; relative paths start at `base`.
///
/// # Errors
/// One sentence that names the fix and holds no secret.
pub fn interpolate(
    text: &str,
    base: &Path,
    env: &BTreeMap<String, String>,
    insecure_permissions: bool,
) -> Result<Zeroizing<String>, String> {
    let sources = Sources {
        env,
        base,
        insecure_permissions,
        name: "",
    };
    // The caller asks for secrets only.
    sources.expand(text, SECRET_KEYS[0]).map(|(text, _)| text)
}

/// The files `text` takes secrets from by `${file:PATH}`, for a watch on them.
#[must_use]
pub fn files_named(text: &str, base: &Path, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let sources = Sources {
        env,
        base,
        insecure_permissions: false,
        name: "",
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${file:") {
        rest = &rest[at + 2..];
        let file = split_closing(rest).and_then(|(name, _)| name.strip_prefix("file:"));
        if let Some(Ok((file, _))) = file.map(|file| sources.expand(file, "")) {
            found.push(base.join(file.as_str()));
        }
    }
    found
}

/// Where `${…}` finds its values.
pub(super) struct Sources<'a> {
    /// The process's environment.
    pub(super) env: &'a BTreeMap<String, String>,
    /// Relative paths start here.
    pub(super) base: &'a Path,
    /// Files others can read are taken.
    pub(super) insecure_permissions: bool,
    /// The configuration file's name, for problems.
    pub(super) name: &'a str,
}

impl Sources<'_> {
    /// Replaces every `${…}` in the strings below `table`.
    pub(super) fn interpolate(&self, table: &mut Table, path: &str, problems: &mut Vec<Problem>) {
        for (key, entry) in table {
            self.interpolate_entry(entry, &join(path, key), problems);
        }
    }

    fn interpolate_entry(&self, entry: &mut Entry, path: &str, problems: &mut Vec<Problem>) {
        match &mut entry.node {
            Node::Text(text) if text.value.contains("${") => match self.expand(&text.value, path) {
                Ok((value, interpolated)) => {
                    text.value = value;
                    text.interpolated |= interpolated;
                }
                Err(message) => {
                    let place = place(self.name, &entry.origin);
                    problems.push(Problem::new(place, capped(path), message));
                    entry.node = Node::Failed;
                }
            },
            Node::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.interpolate_entry(item, &format!("{path}[{index}]"), problems);
                }
            }
            Node::Table(table) => self.interpolate(table, path, problems),
            _ => {}
        }
    }

    /// The text with every `${…}` replaced, and whether there was any. `$${` stands for `${`.
    fn expand(&self, text: &str, key: &str) -> Result<(Zeroizing<String>, bool), String> {
        let mut out = Zeroizing::new(String::with_capacity(text.len()));
        let mut interpolated = false;
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let (name, after) = split_closing(&rest[at + 2..])
                .ok_or("`${` has no `}`; close it, or write `$${` for the characters")?;
            match name.strip_prefix("file:") {
                Some(file) => out.push_str(&self.file(file, key)?),
                None => out.push_str(self.variable(name)?),
            }
            interpolated = true;
            rest = after;
        }
        out.push_str(rest);
        Ok((out, interpolated))
    }

    /// The secret in `file`, whose name may itself hold variables, as systemd's credentials do:
    /// `${file:${CREDENTIALS_DIRECTORY}/hub-key}`.
    fn file(&self, file: &str, key: &str) -> Result<Zeroizing<String>, String> {
        if !SECRET_KEYS.contains(&key) {
            // What is no secret is repeated in messages and listings; a secret must not get there.
            return Err(format!(
                "`${{file:…}}` is for secrets ({}); write the value here, or `${{VARIABLE}}`",
                SECRET_KEYS.join(", ")
            ));
        }
        if file.contains("${file:") {
            return Err("a file cannot name a file; write `${file:PATH}`".to_owned());
        }
        let (path, _) = self.expand(file, "")?;
        if path.is_empty() {
            return Err("`${file:}` names no file; write `${file:PATH}`".to_owned());
        }
        secret_file::read(&self.base.join(path.as_str()), self.insecure_permissions)
    }

    fn variable(&self, name: &str) -> Result<&str, String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(word) {
            return Err(format!(
                "`${{{}}}` is neither `${{VARIABLE}}` nor `${{file:PATH}}`",
                capped(name)
            ));
        }
        match self.env.get(name) {
            Some(value) if value.is_empty() => Err(format!(
                "environment variable {name} is empty; give it a value"
            )),
            Some(value) => Ok(value),
            None => Err(format!(
                "environment variable {name} is not set; set it, or use `${{file:PATH}}`"
            )),
        }
    }
}

/// The keys `${file:…}` may stand in: those whose values are never shown.
const SECRET_KEYS: &[&str] = &[
    "hub.key",
    "hub.secondary_key",
    "hub.connection_string",
    "admin.read_token",
    "admin.operate_token",
];

/// Splits at the `}` that closes a `${` before `text`, with pairs of braces inside.
fn split_closing(text: &str) -> Option<(&str, &str)> {
    let mut open = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}
