//! Typed access to the tree: every getter reports its own problem and goes on with the default.
//!
//! Everything read is also noted as a [`Setting`] for the summary of `check`; secrets are noted
//! as set, never by value.

use super::file::{Entry, Node, Origin, Table, join, place};
use super::problem::Problem;
use super::values;
use crate::telemetry::log::capped;
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// What stands for a secret.
const SECRET: &str = "(secret)";

/// One key of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Path of the key.
    pub key: String,
    /// Its value as the file would have it; `(secret)` for secrets.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// What a check collects.
pub(super) struct Context {
    /// The configuration file, as problems name it.
    pub(super) name: String,
    /// Relative paths start here.
    pub(super) base: PathBuf,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<Problem>>,
    pub(super) settings: RefCell<Vec<Setting>>,
}

/// A section being read. A missing section reads as an empty one.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) cx: &'a Context,
    table: Option<&'a Table>,
    path: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(cx: &'a Context, table: Option<&'a Table>, path: &'a str) -> Self {
        Self { cx, table, path }
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.table.and_then(|table| table.get(key))
    }

    /// Whether the section itself is there; keys missing from a missing section are not reported.
    pub(super) fn table_is_there(&self) -> bool {
        self.table.is_some()
    }

    /// The path of the section.
    pub(super) fn path_name(&self) -> &'a str {
        self.path
    }

    /// Whether the file or the environment sets `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The table at `key`, if there is one; a value of another shape was reported before.
    pub(super) fn table(&self, key: &str) -> Option<&'a Table> {
        match self.entry(key).map(|entry| &entry.node) {
            Some(Node::Table(table)) => Some(table),
            _ => None,
        }
    }

    /// The elements at `key`.
    pub(super) fn list(&self, key: &str) -> Option<&'a [Entry]> {
        match self.entry(key).map(|entry| &entry.node) {
            Some(Node::List(items)) => Some(items),
            _ => None,
        }
    }

    /// Where `key` is, for a problem; the file when it is not set.
    fn place(&self, key: &str) -> String {
        match self.entry(key) {
            Some(entry) => place(&self.cx.name, &entry.origin),
            None => self.cx.name.clone(),
        }
    }

    /// Reports a problem at `key` of this section.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let problem = Problem::new(self.place(key), join(self.path, key), message);
        self.cx.problems.borrow_mut().push(problem);
    }

    /// Reports a problem at the line of `entry`.
    pub(super) fn problem_at(&self, key: &str, entry: &Entry, message: impl Into<String>) {
        let place = place(&self.cx.name, &entry.origin);
        let problem = Problem::new(place, join(self.path, key), message);
        self.cx.problems.borrow_mut().push(problem);
    }

    /// Reports something worth a second look.
    pub(super) fn warning(&self, key: &str, message: impl Into<String>) {
        let problem = Problem::new(self.place(key), join(self.path, key), message);
        self.cx.warnings.borrow_mut().push(problem);
    }

    /// Notes a value that was not read by a getter of this type.
    pub(super) fn note(&self, key: &str, value: impl Into<String>) {
        let origin = self
            .entry(key)
            .map_or(Origin::Default, |entry| entry.origin.clone());
        self.cx.settings.borrow_mut().push(Setting {
            key: join(self.path, key),
            value: value.into(),
            origin,
        });
    }

    /// Reads `key` with `parse`; notes it with `show`. Nothing when it is not set or bad; what is
    /// bad is reported.
    fn get<T>(
        &self,
        key: &str,
        parse: impl Fn(&Entry) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        if matches!(entry.node, Node::Failed | Node::List(_) | Node::Table(_)) {
            return None; // reported already
        }
        match parse(entry) {
            Ok(value) => {
                let interpolated = matches!(&entry.node, Node::Text(text) if text.interpolated);
                let shown = show(&value);
                let hide = interpolated && shown != SECRET;
                self.note(key, if hide { "(from ${…})" } else { &shown });
                Some(value)
            }
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
    }

    /// A string, given to `parse`, whose sentence follows the text in a problem.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let parse = |entry: &Entry| {
            let text = text_of(entry)?;
            parse(text).map_err(|message| complain(entry, &message))
        };
        self.get(key, parse, show)
    }

    /// As [`Self::parsed`], and bare numbers are given to `parse` too, to say what they lack.
    pub(super) fn measured<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let parse = |entry: &Entry| {
            let text = match &entry.node {
                Node::Integer(digits) | Node::Float(digits) => digits,
                _ => text_of(entry)?,
            };
            parse(text).map_err(|message| complain(entry, &message))
        };
        self.get(key, parse, show)
    }

    /// A string that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let parse = |text: &str| match text.trim() {
            "" => Err("is empty; give it a value or remove the key".to_owned()),
            text => Ok(text.to_owned()),
        };
        self.parsed(key, parse, |text| capped(text))
    }

    /// A secret string that is not empty; never shown.
    pub(super) fn secret(&self, key: &str) -> Option<Zeroizing<String>> {
        let parse = |entry: &Entry| {
            let text = text_of(entry)?.trim();
            if text.is_empty() {
                return Err("is empty; give it a value or remove the key".to_owned());
            }
            Ok(Zeroizing::new(text.to_owned()))
        };
        self.get(key, parse, |_| SECRET.to_owned())
    }

    /// Whether the secret at `key` is written out in the file itself.
    pub(super) fn is_inline(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| {
            matches!(entry.origin, Origin::File(_))
                && matches!(&entry.node, Node::Text(text) if !text.interpolated)
        })
    }

    /// A path; relative ones start at the configuration file's folder.
    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        let base = &self.cx.base;
        let parse = |text: &str| absolute(base, text);
        self.parsed(key, parse, |path| capped(&path.display().to_string()))
    }

    /// A boolean, or `default`.
    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        let parse = |entry: &Entry| match (&entry.node, &entry.origin) {
            (Node::Bool(value), _) => Ok(*value),
            (Node::Text(text), Origin::Env(_)) => match text.value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(complain(entry, "must be true or false")),
            },
            _ => Err(complain(entry, "must be true or false")),
        };
        self.or_default(
            key,
            default,
            self.get(key, parse, bool::to_string),
            bool::to_string,
        )
    }

    /// A number of things in `range`, or `default`.
    pub(super) fn count(&self, key: &str, default: usize, range: (usize, usize)) -> usize {
        let read = self.count_if_set(key, range);
        self.or_default(key, default, read, usize::to_string)
    }

    /// A number of things in `range`, if it is set.
    pub(super) fn count_if_set(&self, key: &str, range: (usize, usize)) -> Option<usize> {
        let (min, max) = range;
        let parse = |entry: &Entry| {
            let value = count_of(entry)?;
            usize::try_from(value)
                .ok()
                .filter(|value| (min..=max).contains(value))
                .ok_or_else(|| complain(entry, &format!("must be from {min} to {max}")))
        };
        self.get(key, parse, usize::to_string)
    }

    /// Bytes in `range`, or `default`.
    pub(super) fn size(&self, key: &str, default: usize, range: (usize, usize)) -> usize {
        let (min, max) = range;
        let show = |value: &usize| values::show_size(*value as u64);
        let parse = |entry: &Entry| {
            let value = size_of(entry)?;
            usize::try_from(value)
                .ok()
                .filter(|value| (min..=max).contains(value))
                .ok_or_else(|| {
                    let range = format!("must be from {} to {}", show(&min), show(&max));
                    complain(entry, &range)
                })
        };
        self.or_default(key, default, self.get(key, parse, show), show)
    }

    /// A duration in `range`, or `default`.
    pub(super) fn time(
        &self,
        key: &str,
        default: Duration,
        range: (Duration, Duration),
    ) -> Duration {
        let (min, max) = range;
        let show = |value: &Duration| values::show_duration(*value);
        let parse = |entry: &Entry| {
            let value = time_of(entry)?;
            if (min..=max).contains(&value) {
                return Ok(value);
            }
            let range = format!("must be from {} to {}", show(&min), show(&max));
            Err(complain(entry, &range))
        };
        self.or_default(key, default, self.get(key, parse, show), show)
    }

    /// A number, or `default`.
    pub(super) fn float(&self, key: &str, default: f64, check: fn(f64) -> bool, is: &str) -> f64 {
        let parse = |entry: &Entry| {
            float_of(entry)
                .filter(|value| check(*value))
                .ok_or_else(|| complain(entry, is))
        };
        self.or_default(
            key,
            default,
            self.get(key, parse, f64::to_string),
            f64::to_string,
        )
    }

    /// A bound of the table of limits.
    pub(super) fn bound(&self, row: &super::limits::Row) -> Option<super::limits::Bound> {
        use super::limits::Bound;
        let parse = |entry: &Entry| {
            let value = match row.default {
                Bound::Count(_) => Bound::Count(count_of(entry)?),
                Bound::Bytes(_) => Bound::Bytes(size_of(entry)?),
                Bound::Time(_) => Bound::Time(time_of(entry)?),
            };
            if row.admits(value) {
                return Ok(value);
            }
            let range = format!("must be from {} to {}", row.min, row.max);
            Err(complain(entry, &range))
        };
        let read = self.get(row.key, parse, ToString::to_string);
        if read.is_none() && !self.has(row.key) {
            self.note(row.key, row.default.to_string());
        }
        read
    }

    /// `read`, or the default, noted when the key is not set.
    pub(super) fn or_default<T>(
        &self,
        key: &str,
        default: T,
        read: Option<T>,
        show: impl Fn(&T) -> String,
    ) -> T {
        read.unwrap_or_else(|| {
            if !self.has(key) {
                self.note(key, show(&default));
            }
            default
        })
    }
}

/// A path made absolute.
pub(super) fn absolute(base: &Path, text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() {
        return Err("is empty; name a file or remove the key".to_owned());
    }
    if text.contains('\0') {
        return Err("holds a NUL character; name a file".to_owned());
    }
    Ok(base.join(text))
}

/// The string of an entry.
pub(super) fn text_of(entry: &Entry) -> Result<&str, String> {
    match &entry.node {
        Node::Text(text) => Ok(&text.value),
        other => Err(format!("must be a string in quotes, not {}", other.kind())),
    }
}

/// A whole number; one too large for any range is the largest, so that the range is said of it.
fn count_of(entry: &Entry) -> Result<u64, String> {
    let help = "must be a whole number, not negative";
    let parse = |digits: &str| match digits.parse() {
        Ok(count) => Ok(count),
        Err(_) if is_huge(digits) => Ok(u64::MAX),
        Err(_) => Err(complain(entry, help)),
    };
    match (&entry.node, &entry.origin) {
        (Node::Integer(digits), _) => parse(digits),
        (Node::Text(text), Origin::Env(_)) => parse(text.value.trim()),
        _ => Err(complain(entry, help)),
    }
}

fn is_huge(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

fn size_of(entry: &Entry) -> Result<u64, String> {
    match &entry.node {
        Node::Text(text) => values::size(&text.value).map_err(|m| complain(entry, &m)),
        Node::Integer(digits) => values::size(digits).map_err(|m| complain(entry, &m)),
        _ => values::size("").map_err(|m| complain(entry, &m)),
    }
}

fn time_of(entry: &Entry) -> Result<Duration, String> {
    let text = if let Node::Text(text) = &entry.node {
        text.value.as_str()
    } else {
        ""
    };
    values::duration(text).map_err(|message| complain(entry, &message))
}

fn float_of(entry: &Entry) -> Option<f64> {
    match (&entry.node, &entry.origin) {
        (Node::Float(text) | Node::Integer(text), _) => text.parse().ok(),
        (Node::Text(text), Origin::Env(_)) => text.value.trim().parse().ok(),
        _ => None,
    }
}

/// The text without what may be a secret of a URL: who asks, and the query.
fn masked(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Cow::Borrowed(text);
    };
    // The last one, because a password may hold any character itself.
    let (who, rest) = rest
        .rsplit_once('@')
        .map_or(("", rest), |(_, rest)| ("…@", rest));
    let (place, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?…"),
        None => (rest, ""),
    };
    Cow::Owned(format!("{scheme}://{who}{place}{query}"))
}

/// The value, if it may be shown, and what is wrong with it.
pub(super) fn complain(entry: &Entry, message: &str) -> String {
    let shown = match &entry.node {
        Node::Text(text) if text.interpolated => "the value of ${…}".to_owned(),
        Node::Text(text) => format!("\"{}\"", capped(&masked(&text.value))),
        Node::Integer(digits) | Node::Float(digits) => capped(digits),
        Node::Bool(value) => value.to_string(),
        other => other.kind().to_owned(),
    };
    format!("{shown}: {message}")
}

#[cfg(test)]
mod tests {
    use super::{is_huge, masked};

    #[test]
    fn who_asks_and_what_is_no_part_of_a_quoted_url() {
        for (text, shown) in [
            ("https://me:secret@h.example/t", "https://…@h.example/t"),
            (
                "https://me:se?c/r#e@t@h.example/t?code=secret",
                "https://…@h.example/t?…",
            ),
            ("ftp://h.example:1/t#secret", "ftp://h.example:1/t?…"),
            ("h.example", "h.example"),
        ] {
            assert_eq!(masked(text), shown);
        }
        assert!(is_huge("99999999999999999999") && !is_huge("-1") && !is_huge(""));
    }
}
