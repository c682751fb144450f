//! JSON merge patches as twins take them, and what the service does not take in one.

use super::{Object, TwinError};
use serde_json::{Value, json};

/// Levels of objects in one part of a twin.
const DEPTH_MAX: usize = 10;
/// Bytes of a key, and of a text value.
const KEY_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 4096;
/// Largest whole number; the smallest is its negative.
const NUMBER_MAX: i64 = 4_503_599_627_370_496;

/// Merges `patch` into `value`: null deletes, objects merge, all else replaces (RFC 7396).
pub(super) fn merge(value: &mut Object, patch: &Object) {
    for (key, new) in patch {
        match new {
            Value::Null => drop(value.remove(key)),
            Value::Object(inner) => {
                let old = value.entry(key.as_str()).or_insert_with(|| json!({}));
                if !old.is_object() {
                    *old = json!({});
                }
                if let Value::Object(old) = old {
                    merge(old, inner);
                }
            }
            other => drop(value.insert(key.clone(), other.clone())),
        }
    }
}

/// Notes in `metadata` when what `patch` sets was set.
pub(super) fn stamp(metadata: &mut Object, patch: &Object, at: &str) {
    metadata.insert("$lastUpdated".to_owned(), json!(at));
    for (key, new) in patch {
        if new.is_null() {
            metadata.remove(key);
            continue;
        }
        let inner = metadata.entry(key.as_str()).or_insert_with(|| json!({}));
        if let Value::Object(inner) = inner {
            match new {
                Value::Object(new) => stamp(inner, new, at),
                _ => {
                    inner.clear();
                    inner.insert("$lastUpdated".to_owned(), json!(at));
                }
            }
        }
    }
}

/// The patch that makes `new` of `old`: what is not in `new` is deleted.
pub(super) fn replacement(old: &Object, new: Object) -> Object {
    let mut patch = new;
    for (key, was) in old {
        match (was, patch.get_mut(key)) {
            (_, None) => drop(patch.insert(key.clone(), Value::Null)),
            (Value::Object(was), Some(Value::Object(is))) => {
                *is = replacement(was, std::mem::take(is));
            }
            _ => {}
        }
    }
    patch
}

/// Without `$version` and `$metadata`, which whoever writes back what he read sends along.
pub(super) fn without_marks(part: &Object) -> Object {
    let marks = ["$version", "$metadata"];
    let kept = part.iter().filter(|(key, _)| !marks.contains(&&***key));
    kept.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Keys, texts, numbers and depth as the service takes them.
pub(super) fn check(patch: &Object) -> Result<(), TwinError> {
    check_at(patch, 1)
}

fn check_at(patch: &Object, depth: usize) -> Result<(), TwinError> {
    let bad = |text: String| Err(TwinError::Invalid(text));
    if depth > DEPTH_MAX {
        return bad(format!("Objects are nested more than {DEPTH_MAX} deep."));
    }
    for (key, value) in patch {
        let odd = |c: char| c.is_control() || matches!(c, '.' | '$' | ' ');
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(odd) {
            let shown: String = key.chars().take(40).collect();
            return bad(format!("{shown:?} cannot be the name of a property."));
        }
        check_value(value, depth)?;
    }
    Ok(())
}

fn check_value(value: &Value, depth: usize) -> Result<(), TwinError> {
    let bad = |text: String| Err(TwinError::Invalid(text));
    match value {
        Value::Object(inner) => check_at(inner, depth + 1),
        Value::Array(items) if depth < DEPTH_MAX => items
            .iter()
            .try_for_each(|item| check_value(item, depth + 1)),
        Value::Array(_) => bad(format!("Values are nested more than {DEPTH_MAX} deep.")),
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            bad(format!("A text is longer than {TEXT_BYTES_MAX} bytes."))
        }
        Value::Number(number) if !number.is_f64() => match number.as_i64() {
            Some(n) if n.abs() <= NUMBER_MAX => Ok(()),
            _ => bad(format!("{number} is beyond {NUMBER_MAX}.")),
        },
        _ => Ok(()),
    }
}
