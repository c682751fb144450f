//! Reads TOML tables key by key and collects every problem with its place.
//!
//! A section remembers which keys were asked for; whatever else stands in the table is an error
//! that suggests the nearest key. Messages never repeat a value, since it may be a secret.

use super::Problem;
use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

/// Problems kept of one parse; more are counted.
const PROBLEMS_MAX: usize = 200;

/// What the rules need from outside, passed in because this module touches no files.
pub struct Resolvers<'a> {
    /// Reads a file named by `issuer_ca`. Relative paths were already joined to the folder of the
    /// rules file. The error is one sentence without secrets.
    pub read: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
    /// The same for a `psk_file`, which nobody else may read.
    pub read_secret: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
    /// Replaces `${ENV}` and `${file:PATH}` in a value that holds `${`. The error is one sentence
    /// without secrets.
    pub secret: &'a dyn Fn(&str) -> Result<String, String>,
}

/// Problems of all files, in the order found.
#[derive(Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
    left_out: std::cell::Cell<usize>,
}

impl Problems {
    /// Whether more problems are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= PROBLEMS_MAX
    }

    /// `file` with its line, where there is one: `rules.toml:17`.
    pub(super) fn add(&self, file: &str, key: &str, message: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() >= PROBLEMS_MAX {
            self.left_out.set(self.left_out.get() + 1);
            return;
        }
        found.push(Problem {
            file: file.to_owned(),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        if let (left_out @ 1.., Some(last)) = (self.left_out.get(), found.last()) {
            let file = last.file.trim_end_matches(|c: char| c.is_ascii_digit());
            let file = file.strip_suffix(':').unwrap_or(&last.file).to_owned();
            found.push(Problem {
                file,
                key: String::new(),
                message: format!("{left_out} more problems are not shown"),
            });
        }
        found
    }
}

/// One file being read.
pub(super) struct Document<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) resolvers: &'a Resolvers<'a>,
    pub(super) problems: &'a Problems,
    line_ends: OnceCell<Vec<usize>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        file: &'a str,
        text: &'a str,
        resolvers: &'a Resolvers<'a>,
        problems: &'a Problems,
    ) -> Self {
        Self {
            file,
            text,
            resolvers,
            problems,
            line_ends: OnceCell::new(),
        }
    }

    /// The line of byte `at`, from 1. Every entry asks, so the lines are counted once.
    fn line(&self, at: usize) -> usize {
        let ends = self.line_ends.get_or_init(|| {
            let bytes = self.text.bytes().enumerate();
            bytes
                .filter(|(_, b)| *b == b'\n')
                .map(|(end, _)| end)
                .collect()
        });
        1 + ends.partition_point(|end| *end < at)
    }

    /// The column of byte `at`, from 1, in characters.
    pub(super) fn column(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        1 + line.chars().count()
    }

    /// `rules.toml:17` of byte `at`.
    pub(super) fn place(&self, at: usize) -> String {
        format!("{}:{}", self.file, self.line(at))
    }

    /// A path of a rules file, relative to the file it stands in.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let folder = Path::new(self.file).parent();
        folder.unwrap_or(Path::new("")).join(written)
    }
}

/// One table of a document.
pub(super) struct Section<'s, 'i> {
    pub(super) doc: &'s Document<'s>,
    table: &'s DeTable<'i>,
    path: String,
    at: usize,
    asked: Vec<&'static str>,
}

impl<'s, 'i> Section<'s, 'i> {
    pub(super) fn new(doc: &'s Document<'s>, table: &'s DeTable<'i>) -> Self {
        Self {
            doc,
            table,
            path: String::new(),
            at: 0,
            asked: Vec::new(),
        }
    }

    /// Where this table begins: `rules.toml:17`.
    pub(super) fn place(&self) -> String {
        self.doc.place(self.at)
    }

    /// Which table this is: `device[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reports a problem with a key, or with the table when the key is absent or empty.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let problems = self.doc.problems;
        match self.find(key) {
            Some((span, _)) => {
                problems.add(&self.doc.place(span.start), &self.child_path(key), message);
            }
            None => problems.add(&self.place(), &self.path, message),
        }
    }

    fn find(&self, key: &str) -> Option<(Range<usize>, &'s DeValue<'i>)> {
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((name.span(), value.get_ref()))
    }

    fn ask(&mut self, key: &'static str) -> Option<&'s DeValue<'i>> {
        self.asked.push(key);
        self.find(key).map(|(_, value)| value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn resolve(&self, key: &str, text: &str) -> Option<Zeroizing<String>> {
        if !text.contains("${") {
            return Some(Zeroizing::new(text.to_owned()));
        }
        match (self.doc.resolvers.secret)(text) {
            Ok(value) => Some(Zeroizing::new(value)),
            Err(error) => {
                self.problem(key, error);
                None
            }
        }
    }

    /// A text that may be a secret.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Zeroizing<String>> {
        match self.ask(key)? {
            DeValue::String(text) => self.resolve(key, text),
            _ => {
                self.problem(key, "must be a text in quotes");
                None
            }
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.secret(key).map(|text| text.to_string())
    }

    /// A text or a list of texts; empty when absent.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let value = match self.ask(key) {
            None => return Vec::new(),
            Some(value) => value,
        };
        let items: Vec<&DeValue<'_>> = match value {
            DeValue::Array(items) => items.iter().map(|item| item.get_ref()).collect(),
            single => vec![single],
        };
        if items.is_empty() {
            self.problem(key, "the list is empty; leave the key out or list a value");
        }
        let texts = items.into_iter().filter_map(|item| match item.as_str() {
            Some(text) => self.resolve(key, text).map(|t| t.to_string()),
            None => {
                self.problem(key, "must be a text in quotes, or a list of them");
                None
            }
        });
        texts.collect()
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.ask(key)?;
        if value.as_bool().is_none() {
            self.problem(key, "must be true or false");
        }
        value.as_bool()
    }

    /// A whole number, not negative.
    pub(super) fn number(&mut self, key: &'static str) -> Option<usize> {
        let value = self.ask(key)?;
        let integer = value.as_integer();
        let number = integer.and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok());
        if number.is_none() {
            self.problem(key, "must be a whole number");
        }
        number
    }

    /// A value parsed from text; a problem when it does not parse.
    pub(super) fn parsed<T, E: Into<String>>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.secret(key)?;
        parse(&text).map_err(|error| self.problem(key, error)).ok()
    }

    /// A table below this one.
    pub(super) fn child(&mut self, key: &'static str) -> Option<Section<'s, 'i>> {
        let value = self.ask(key)?;
        let at = self.find(key).map_or(self.at, |(span, _)| span.start);
        match value.as_table() {
            Some(table) => Some(Section {
                doc: self.doc,
                table,
                path: self.child_path(key),
                at,
                asked: Vec::new(),
            }),
            None => {
                self.problem(key, "must be a table: { … }");
                None
            }
        }
    }

    /// The tables of an array of tables, `[[key]]`.
    pub(super) fn children(&mut self, key: &'static str) -> Vec<Section<'s, 'i>> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            self.problem(key, format!("is written [[{key}]], with two brackets"));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section {
                    doc: self.doc,
                    table,
                    path: format!("{}[{i}]", self.child_path(key)),
                    at: item.span().start,
                    asked: Vec::new(),
                }),
                None => self.problem(key, format!("is written [[{key}]], with two brackets")),
            }
        }
        sections
    }

    /// Reports every key nobody asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.table {
            let key = name.get_ref().as_ref();
            if self.asked.contains(&key) {
                continue;
            }
            let shown: String = key.chars().filter(|c| !c.is_control()).take(40).collect();
            let message = match nearest(key, &self.asked) {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => format!("unknown key; known here: {}", self.asked.join(", ")),
            };
            let place = self.doc.place(name.span().start);
            self.doc
                .problems
                .add(&place, &self.child_path(&shown), message);
        }
    }
}

/// The known key nearest to a mistyped one, when it is near enough to be meant.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    if key.len() > 64 {
        return None;
    }
    let ranked = known.iter().map(|name| (distance(&key, name), *name));
    let (distance, name) = ranked.min()?;
    (distance <= 1 + name.len() / 4).then_some(name)
}

/// Levenshtein distance in bytes; two neighbours swapped count as one mistake.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let substituted = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = substituted.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested_when_it_is_near() {
        let known = ["identity", "key", "next_key", "thumbprint"];
        assert_eq!(nearest("idenity", &known), Some("identity"));
        assert_eq!(nearest("next-key", &known), Some("next_key"));
        assert_eq!(nearest("Thumbprint", &known), Some("thumbprint"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("pks", &["id", "psk"]), Some("psk"));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
