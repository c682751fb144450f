//! `SELECT * FROM devices WHERE tags.site = 'north' AND properties.reported.temp > 20`: parsed into
//! conditions that all must hold. Pure.

use serde_json::Value;
use std::cmp::Ordering;

/// Longest query, bytes, and most conditions.
const QUERY_BYTES_MAX: usize = 4_096;
const CONDITIONS_MAX: usize = 16;

/// What is selected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Devices,
    Modules,
}

/// A parsed query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    pub(super) source: Source,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Compare(Vec<String>, Operator, Value),
    Defined(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Literal(Value),
    Operator(Operator),
    Open,
    Close,
}

const KNOWN: &str = "The emulator knows SELECT * FROM devices or devices.modules, and WHERE with \
                     =, !=, <, <=, >, >= and is_defined(), joined by AND.";

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > QUERY_BYTES_MAX {
            return Err("The query is too long.");
        }
        let tokens = tokens(text).ok_or(KNOWN)?;
        let mut tokens = tokens.into_iter();
        word(&mut tokens, "select")?;
        word(&mut tokens, "*")?;
        word(&mut tokens, "from")?;
        let source = match tokens.next() {
            Some(Token::Word(name)) if name.eq_ignore_ascii_case("devices") => Source::Devices,
            Some(Token::Word(name)) if name.eq_ignore_ascii_case("devices.modules") => {
                Source::Modules
            }
            _ => return Err(KNOWN),
        };
        let mut conditions = Vec::new();
        let mut joint = "where";
        while let Some(next) = tokens.next() {
            if !matches!(&next, Token::Word(name) if name.eq_ignore_ascii_case(joint)) {
                return Err(KNOWN);
            }
            joint = "and";
            if conditions.len() == CONDITIONS_MAX {
                return Err("The query has too many conditions.");
            }
            conditions.push(condition(&mut tokens)?);
        }
        Ok(Self { source, conditions })
    }

    /// Whether `twin` meets every condition.
    pub(super) fn matches(&self, twin: &Value) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Defined(path) => look_up(twin, path).is_some(),
            Condition::Compare(path, operator, literal) => {
                let found = look_up(twin, path);
                found.is_some_and(|found| operator.holds(found, literal))
            }
        })
    }
}

fn word(tokens: &mut impl Iterator<Item = Token>, expected: &str) -> Result<(), &'static str> {
    match tokens.next() {
        Some(Token::Word(name)) if name.eq_ignore_ascii_case(expected) => Ok(()),
        _ => Err(KNOWN),
    }
}

fn condition(tokens: &mut impl Iterator<Item = Token>) -> Result<Condition, &'static str> {
    let Some(Token::Word(name)) = tokens.next() else {
        return Err(KNOWN);
    };
    if name.eq_ignore_ascii_case("is_defined") {
        return match (tokens.next(), tokens.next(), tokens.next()) {
            (Some(Token::Open), Some(Token::Word(name)), Some(Token::Close)) => {
                Ok(Condition::Defined(path(&name)))
            }
            _ => Err(KNOWN),
        };
    }
    match (tokens.next(), tokens.next()) {
        (Some(Token::Operator(operator)), Some(Token::Literal(literal))) => {
            Ok(Condition::Compare(path(&name), operator, literal))
        }
        _ => Err(KNOWN),
    }
}

fn path(name: &str) -> Vec<String> {
    name.split('.').map(str::to_owned).collect()
}

fn look_up<'a>(twin: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(twin, |value, part| value.get(part))
}

impl Operator {
    fn holds(self, found: &Value, literal: &Value) -> bool {
        let order = match (found, literal) {
            (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
            (Value::Number(one), Value::Number(other)) => one
                .as_f64()
                .zip(other.as_f64())
                .and_then(|(one, other)| one.partial_cmp(&other)),
            (one, other) => (one == other).then_some(Ordering::Equal),
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// `None`: something that is no token.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '*' => (Token::Word("*".to_owned()), 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '\'' | '"' => quoted(rest, first)?,
            '=' | '!' | '<' | '>' => operator(rest)?,
            _ => plain(rest)?,
        };
        tokens.push(token);
        rest = rest.get(length..)?.trim_start();
    }
    Some(tokens)
}

fn quoted(text: &str, quote: char) -> Option<(Token, usize)> {
    let inside = text.get(1..)?;
    let end = inside.find(quote)?;
    let literal = Value::String(inside[..end].to_owned());
    Some((Token::Literal(literal), end + 2))
}

fn operator(text: &str) -> Option<(Token, usize)> {
    let known = [
        ("!=", Operator::Unequal),
        ("<>", Operator::Unequal),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let (sign, operator) = known.iter().find(|(sign, _)| text.starts_with(sign))?;
    Some((Token::Operator(*operator), sign.len()))
}

/// A number, a word of JSON, or a name.
fn plain(text: &str) -> Option<(Token, usize)> {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$' | '+');
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    let name = text.get(..end).filter(|name| !name.is_empty())?;
    let token = match serde_json::from_str(&name.to_ascii_lowercase()) {
        Ok(literal @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => Token::Literal(literal),
        _ => Token::Word(name.to_owned()),
    };
    Some((token, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(text: &str) -> bool {
        let twin = json!({
            "deviceId": "thermo-1",
            "status": "enabled",
            "tags": { "site": "north" },
            "properties": { "reported": { "temp": 21.5, "on": true } },
        });
        Query::parse(text).unwrap().matches(&twin)
    }

    #[test]
    fn conditions_select() {
        for (condition, holds) in [
            ("", true),
            ("where deviceId = 'thermo-1'", true),
            ("WHERE deviceId=\"thermo-2\"", false),
            ("where tags.site = 'north' and status != 'disabled'", true),
            ("where properties.reported.temp > 21", true),
            ("where properties.reported.temp <= 21", false),
            (
                "where properties.reported.temp >= -5 AND properties.reported.on = TRUE",
                true,
            ),
            ("where properties.reported.none = 1", false),
            ("where is_defined(tags.site)", true),
            ("where is_defined(tags.none)", false),
        ] {
            let text = format!("SELECT * FROM devices {condition}");
            assert_eq!(matches(&text), holds, "{text}");
        }
        let modules = Query::parse("select * from devices.modules").unwrap();
        assert_eq!(modules.source, Source::Modules);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let many = format!(
            "select * from devices where a=1{}",
            " and a=1".repeat(CONDITIONS_MAX)
        );
        let long = format!("select * from devices {}", " ".repeat(QUERY_BYTES_MAX));
        for text in [
            "",
            "select",
            "select deviceId from devices",
            "select * from jobs",
            "select * from devices where",
            "select * from devices where a = ",
            "select * from devices where a = 'x",
            "select * from devices where a = 1 or b = 2",
            "select * from devices where (a = 1)",
            "select * from devices where a like 1",
            "select * from devices; drop",
            "select * from devices where é = \u{1F980}",
            &many,
            &long,
        ] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
    }
}
