//! The file's text → a tree that knows where each value came from; unknown keys are problems.
//!
//! A tree of our own instead of derived types, because a derived parser stops at the first
//! mistake and repeats the offending text, which may be a key.

use super::named_file::{self, Unreadable};
use super::problem::Problem;
use super::schema::{Section, Shape, unknown_key};
use crate::telemetry::log::Capped;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

/// The largest configuration file read, bytes.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// This line of the file.
    File(usize),
    /// This environment variable.
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(line) => write!(f, "line {line}"),
            Self::Env(variable) => write!(f, "{}", Capped(variable)),
        }
    }
}

/// A value and its origin. No `Debug`: it may hold a secret.
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) origin: Origin,
}

pub(super) type Table = BTreeMap<String, Entry>;

/// A TOML value.
pub(super) enum Node {
    Text(Text),
    Integer(String),
    Float(String),
    Bool(bool),
    Date,
    /// Its `${…}` failed; that problem is reported already.
    Failed,
    List(Vec<Entry>),
    Table(Table),
}

/// A string, wiped on drop because it may be key material.
pub(super) struct Text {
    pub(super) value: Zeroizing<String>,
    /// Made from `${…}`: never repeated in a message.
    pub(super) interpolated: bool,
}

impl Node {
    pub(super) fn text(value: impl Into<String>) -> Self {
        Self::Text(Text {
            value: Zeroizing::new(value.into()),
            interpolated: false,
        })
    }

    /// The word for this kind of value, with its article.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Date => "a date",
            Self::Failed => "a string",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// Reads the file as text. A stream, such as `/dev/stdin`, is read to its end.
///
/// # Errors
/// The problem, when it cannot be read, is too large or no UTF-8.
pub(super) fn read(path: &Path, name: &str) -> Result<Zeroizing<String>, Problem> {
    let fail = |message: String| Problem::new(name, "", message);
    let opened = match named_file::is_stream(path) {
        true => File::open(path).map_err(Unreadable::Failed),
        false => named_file::open(path),
    };
    let file = opened.map_err(|e| fail(e.with_fix("name a file with -c FILE")))?;
    let bytes = named_file::take(file, FILE_BYTES_MAX);
    let bytes = bytes.map_err(|e| fail(e.with_fix("it must be a TOML file")))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let at = e.valid_up_to();
        fail(format!("not UTF-8 at byte {at}; save it as UTF-8 text"))
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Parses the text.
///
/// # Errors
/// Every syntax error, with line and column, at most one a line.
pub(super) fn parse(text: &str, name: &str) -> Result<Table, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let lines = Lines::new(text);
        return Ok(convert_table(table.get_ref(), &|at| {
            Origin::File(lines.line(at))
        }));
    }
    let lines = Lines::new(text);
    let mut problems: Vec<(usize, Problem)> = errors
        .iter()
        .map(|error| {
            let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
            // `message()` names the grammar's expectation only; the full text quotes the line.
            let what = error.message().replace('\n', ", ");
            let message = format!("is not TOML at column {column}: {what}");
            (line, Problem::new(format!("{name}:{line}"), "", message))
        })
        .collect();
    problems.sort_by_key(|(line, _)| *line);
    problems.dedup_by_key(|(line, _)| *line);
    Err(problems.into_iter().map(|(_, problem)| problem).collect())
}

/// Parses one TOML value out of an environment variable.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    Some(convert(value.get_ref(), &|_| origin.clone()))
}

fn convert_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let entry = Entry {
                node: convert(value.get_ref(), origin),
                origin: origin(key.span().start),
            };
            (key.get_ref().to_string(), entry)
        })
        .collect()
}

fn convert(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Node {
    match value {
        DeValue::String(text) => Node::text(text.as_ref()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Node::Integer(parsed.map_or_else(|_| number.to_string(), |n| n.to_string()))
        }
        DeValue::Float(number) => Node::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Node::Bool(*value),
        DeValue::Datetime(_) => Node::Date,
        DeValue::Array(items) => Node::List(
            items
                .iter()
                .map(|item| Entry {
                    node: convert(item.get_ref(), origin),
                    origin: origin(item.span().start),
                })
                .collect(),
        ),
        DeValue::Table(table) => Node::Table(convert_table(table, origin)),
    }
}

/// Start offsets of lines.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(after_breaks).collect();
        Self { text, starts }
    }

    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1)
    }

    /// Line and column, both from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or("");
        (line, before.chars().count() + 1)
    }
}

/// The place of `origin` for a problem.
pub(super) fn place(name: &str, origin: &Origin) -> String {
    match origin {
        Origin::Default => name.to_owned(),
        Origin::File(line) => format!("{name}:{line}"),
        Origin::Env(variable) => format!("environment {variable}"),
    }
}

/// Reports keys that no section has and values of the wrong shape.
pub(super) fn check_shape(
    table: &Table,
    section: Section,
    path: &str,
    name: &str,
    problems: &mut Vec<Problem>,
) {
    for (key, entry) in table {
        let full = join(path, key);
        let place = place(name, &entry.origin);
        let Some(shape) = section.shape(key) else {
            let message = unknown_key(section, key);
            let shown = crate::telemetry::log::capped(&full);
            problems.push(Problem::new(place, shown, message));
            continue;
        };
        match (shape, &entry.node) {
            (Shape::Value, Node::List(_) | Node::Table(_)) => {
                let message = format!("holds one value, not {}", entry.node.kind());
                problems.push(Problem::new(place, full, message));
            }
            (Shape::List, Node::List(_)) | (Shape::Value, _) => {}
            (Shape::List, other) => {
                let message = format!("must be an array, as in [\"…\"], not {}", other.kind());
                problems.push(Problem::new(place, full, message));
            }
            (Shape::Table(inner), Node::Table(table)) => {
                check_shape(table, inner, &full, name, problems);
            }
            (Shape::Tables(inner), Node::List(items))
                if items.iter().all(|i| matches!(i.node, Node::Table(_))) =>
            {
                for (index, item) in items.iter().enumerate() {
                    if let Node::Table(table) = &item.node {
                        check_shape(table, inner, &format!("{full}[{index}]"), name, problems);
                    }
                }
            }
            (Shape::Table(inner) | Shape::Tables(inner), other) => {
                let message = format!("must be written {}, not {}", inner.title(), other.kind());
                problems.push(Problem::new(place, full, message));
            }
        }
    }
}

/// `a.b`, or `b` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_syntax_error_has_line_and_column_and_no_content() {
        let text = "a = 1\nb = \"hunter2\nc = = 3\nd = 4\n";
        let Err(problems) = parse(text, "f.toml") else {
            panic!("parsed")
        };
        assert!(
            problems.iter().any(|p| p.file == "f.toml:2"),
            "{problems:?}"
        );
        assert!(
            problems.iter().any(|p| p.file == "f.toml:3"),
            "{problems:?}"
        );
        assert!(problems.iter().all(|p| p.message.contains("column")));
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    #[test]
    fn values_know_their_line() {
        let Ok(table) = parse("[hub]\n\nhost = 'a'\nkey = 'b'\n", "f.toml") else {
            panic!("not parsed")
        };
        let Some(Node::Table(hub)) = table.get("hub").map(|e| &e.node) else {
            panic!("no table")
        };
        assert_eq!(hub["key"].origin, Origin::File(4));
    }

    #[test]
    fn wrong_shapes_say_how_the_section_is_written() {
        let text = "hub = 1\nrules = { files = 'x' }\nadmin = { bind = ['a'] }\n[listener]\n";
        let Ok(table) = parse(text, "f") else {
            panic!("not parsed")
        };
        let mut problems = Vec::new();
        check_shape(&table, Section::Root, "", "f", &mut problems);
        let text = format!("{problems:?}");
        for expected in ["[hub]", "[[listener]]", "must be an array", "one value"] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
    }
}
