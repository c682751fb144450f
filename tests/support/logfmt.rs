//! A strict reader of log lines, of either format.
#![allow(dead_code)] // each test binary uses its part

use serde_json::{Map, Value};
use std::path::Path;

/// One line of logfmt: keys and values, or where it is no logfmt. A quoted value is a JSON
/// string; a bare one is a number, a boolean or text.
pub fn logfmt(line: &str) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    let mut rest = line;
    loop {
        let end = rest
            .find(['=', ' ', '"'])
            .ok_or(format!("no = in {rest:?}"))?;
        let (key, after) = rest.split_at(end);
        let after = after.strip_prefix('=').ok_or(format!("no = in {rest:?}"))?;
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(format!("no key in {rest:?}"));
        }
        let (value, after) = if after.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values
                .next()
                .ok_or("no value")?
                .map_err(|e| e.to_string())?;
            (Value::String(value), &after[values.byte_offset()..])
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (bare(&after[..end])?, &after[end..])
        };
        if fields.insert(key.to_owned(), value).is_some() {
            return Err(format!("{key} is there twice"));
        }
        if after.is_empty() {
            return Ok(fields);
        }
        rest = after
            .strip_prefix(' ')
            .ok_or(format!("no space before {after:?}"))?;
    }
}

fn bare(text: &str) -> Result<Value, String> {
    let odd = |c: char| c == '"' || c == '=' || c == '\\' || c.is_control() || c.is_whitespace();
    if text.is_empty() || text.contains(odd) {
        return Err(format!("{text:?} needs quotes"));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Every line of a log so far; a last one that is being written is left out.
pub fn lines(log: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(log).expect("read");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| logfmt(line).expect(line))
        .collect()
}

/// One line of JSON: an object of strings, numbers and booleans, no key twice.
pub fn json(line: &str) -> Result<Map<String, Value>, String> {
    let Once(fields) = serde_json::from_str(line).map_err(|e| e.to_string())?;
    match fields.iter().find(|(_, v)| v.is_object() || v.is_array()) {
        Some((key, _)) => Err(format!("{key} is nested")),
        None => Ok(fields),
    }
}

/// An object with no key twice.
struct Once(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Once {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> serde::de::Visitor<'de> for Keys {
            type Value = Once;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut fields = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(key, value).is_some() {
                        return Err(serde::de::Error::custom("a key is there twice"));
                    }
                }
                Ok(Once(fields))
            }
        }
        from.deserialize_map(Keys)
    }
}

/// What every line must have, and what none may.
pub fn check(fields: &Map<String, Value>) -> Result<(), String> {
    let text = |key: &str| {
        fields
            .get(key)
            .and_then(Value::as_str)
            .ok_or(format!("no {key}"))
    };
    let ts = text("ts")?;
    if ts.len() != "2026-01-01T00:00:00.000000Z".len() || !ts.ends_with('Z') {
        return Err(format!("{ts} is no time"));
    }
    if !["error", "warn", "info", "debug", "trace"].contains(&text("level")?) {
        return Err(format!("{} is no level", text("level")?));
    }
    let (target, _) = (text("target")?, text("msg")?);
    let ours = target.starts_with("iothub_gateway");
    for (key, value) in fields.iter().filter(|_| ours) {
        let value = value.as_str().unwrap_or_default();
        let debug = value.starts_with("Some(") || value.starts_with("Err(");
        if debug || (value.len() > 1 && value.starts_with('"') && value.ends_with('"')) {
            return Err(format!("{key} is debug text: {value}"));
        }
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let fields = logfmt(r#"ts=1 msg="a \"b\"=\n" n=-2.5 ok=true text=a-b"#).unwrap();
    assert_eq!(fields["msg"], "a \"b\"=\n");
    assert_eq!(fields["n"], -2.5);
    assert!(json("{\"a\":1,\"b\":\"x\"}").is_ok());
    for bad in ["{\"a\":1,\"a\":2}", "{\"a\":{}}", "[]", "{} {}"] {
        assert!(json(bad).is_err(), "{bad} was taken");
    }
    assert_eq!(fields["ok"], true);
    assert_eq!(fields["text"], "a-b");
    for bad in [
        "",
        "a",
        "a=",
        "=b",
        "a=b=c",
        "a=b  c=d",
        "a=\"b",
        "a=\"b\"c=d",
        "a=1 a=2",
        "a=b\"c",
        "a=b c",
    ] {
        assert!(logfmt(bad).is_err(), "{bad:?} was taken");
    }
}
