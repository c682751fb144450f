//! A table of the configuration file, read key by key. Every problem is kept, none stops.

use crate::config::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// Problems found so far, as whole sentences.
pub(super) type Problems = RefCell<Vec<String>>;

/// One table: takes known keys out; what is left at [`Reader::finish`] is unknown.
pub(super) struct Reader<'p> {
    table: Table,
    path: String,
    known: Vec<&'static str>,
    problems: &'p Problems,
}

impl<'p> Reader<'p> {
    pub(super) fn new(table: Table, path: impl Into<String>, problems: &'p Problems) -> Self {
        Self {
            table,
            path: path.into(),
            known: Vec::new(),
            problems,
        }
    }

    /// The full name of `key`, for a problem.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn problem(&self, key: &str, text: &str) {
        self.problems
            .borrow_mut()
            .push(format!("{}: {text}", self.name(key)));
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(
                    key,
                    &format!("is {}, write it as \"text\"", other.type_str()),
                );
                None
            }
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> String {
        let absent = !self.has(key);
        let text = self.string(key);
        if absent || text.as_deref() == Some("") {
            self.problem(key, &format!("is missing, for example {key} = {example:?}"));
        }
        text.unwrap_or_default()
    }

    /// A duration such as `"250ms"`, `"5s"`, `"1m"`, `"2h"`.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        let Some(text) = self.string(key) else {
            return default;
        };
        duration(&text).unwrap_or_else(|| {
            self.problem(
                key,
                &format!("{text:?} is no duration, for example \"250ms\" or \"1m\""),
            );
            default
        })
    }

    /// A whole number within `range`.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(value) = self.take(key) else {
            return default;
        };
        match value.as_integer().and_then(|n| u64::try_from(n).ok()) {
            Some(n) if range.contains(&n) => n,
            _ => {
                let (min, max) = (range.start(), range.end());
                self.problem(key, &format!("must be a whole number from {min} to {max}"));
                default
            }
        }
    }

    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: usize,
    ) -> usize {
        let n = self.count(key, range, default as u64);
        usize::try_from(n).unwrap_or(default)
    }

    /// A rate such as `"100/s"`; absent or `"off"` is none.
    pub(super) fn rate(&mut self, key: &'static str, default: Option<u32>) -> Option<u32> {
        let Some(text) = self.string(key) else {
            return default;
        };
        if text == "off" {
            return None;
        }
        match text
            .strip_suffix("/s")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0)
        {
            Some(n) => Some(n),
            None => {
                self.problem(
                    key,
                    &format!("{text:?} is no rate, write \"100/s\" or \"off\""),
                );
                default
            }
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(_) => {
                self.problem(key, "must be true or false");
                default
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(text) = self.string(key) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let names: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.problem(key, &format!("{text:?} is not one of {}", names.join(", ")));
        default
    }

    pub(super) fn address(&mut self, key: &'static str, loopback: bool) -> Option<SocketAddr> {
        let text = self.string(key)?;
        let Ok(address) = text.parse::<SocketAddr>() else {
            self.problem(
                key,
                &format!("{text:?} is no address, for example \"127.0.0.1:5671\""),
            );
            return None;
        };
        if loopback && !address.ip().is_loopback() {
            self.problem(
                key,
                "only a loopback address is allowed here, use 127.0.0.1 or [::1], \
                 or set insecure = true at the head of the file",
            );
            return None;
        }
        Some(address)
    }

    /// Base64 key material; `${NAME}` and `${file:PATH}` are replaced first.
    pub(super) fn key(&mut self, key: &'static str, base: &Path) -> Option<Secret> {
        let text = self.string(key)?;
        let text = match reference(&text, base) {
            Ok(text) => text,
            Err(problem) => {
                self.problem(key, &problem);
                return None;
            }
        };
        match STANDARD.decode(text.trim()) {
            Ok(bytes) if !bytes.is_empty() => Some(Secret::new(bytes)),
            _ => {
                self.problem(
                    key,
                    "is no base64 key, make one with `openssl rand -base64 32`",
                );
                None
            }
        }
    }

    /// A sub-table, empty when absent.
    pub(super) fn table(&mut self, key: &'static str) -> Reader<'p> {
        let path = self.name(key);
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, &format!("must be a table, [{path}]"));
                Table::new()
            }
        };
        Reader::new(table, path, self.problems)
    }

    /// `[[key]]` tables.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Reader<'p>> {
        let path = self.name(key);
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.problem(key, &format!("must be a list of tables, [[{path}]]"));
                Vec::new()
            }
        };
        let mut readers = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(table) => {
                    readers.push(Reader::new(
                        table,
                        format!("{path}[{index}]"),
                        self.problems,
                    ));
                }
                _ => self.problem(key, &format!("entry {index} must be a table")),
            }
        }
        readers
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.iter().all(Value::is_str) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(_) => {
                self.problem(key, "must be a list of texts");
                Vec::new()
            }
        }
    }

    /// Whether the table has `key`, taken or not yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports every key nobody took.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let near = self.known.iter().min_by_key(|known| distance(known, key));
            let hint = match near {
                Some(known) if distance(known, key) <= 1 + known.len() / 4 => {
                    format!("did you mean {known:?}?")
                }
                _ => format!("known keys are {}", self.known.join(", ")),
            };
            self.problem(key, &format!("unknown key, {hint}"));
        }
    }
}

/// Resolves a value that is a reference as a whole.
fn reference(text: &str, base: &Path) -> Result<String, String> {
    let Some(inner) = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return Ok(text.to_owned());
    };
    match inner.strip_prefix("file:") {
        Some(path) => std::fs::read_to_string(base.join(path))
            .map_err(|error| format!("cannot read {path:?}: {error}")),
        None => {
            std::env::var(inner).map_err(|_| format!("environment variable {inner} is not set"))
        }
    }
}

pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// Edit distance, for the suggestion of a key.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}
