//! Texts with holes: `{n}` is the device's number, `{n:06}` padded with zeros, `{n:08x}` in hex,
//! `{id}` its client id. Pure.

use std::fmt::Write as _;

/// Widest padding, digits.
const WIDTH_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Number { width: usize, hex: bool },
    Id,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Parses; a brace that opens no hole stands for itself.
    ///
    /// # Errors
    /// A sentence, for a hole in `{n…}` form that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, hole) = rest.split_at(open);
            let close = hole.find('}').map(|at| (&hole[1..at], &hole[at + 1..]));
            let part = match close {
                Some(("id", after)) => Some((Part::Id, after)),
                Some(("n", after)) => Some((
                    Part::Number {
                        width: 0,
                        hex: false,
                    },
                    after,
                )),
                Some((inner, after)) if inner.starts_with("n:") => {
                    Some((number(&inner[2..])?, after))
                }
                _ => None,
            };
            if let Some((part, after)) = part {
                parts.push(Part::Text(before.to_owned()));
                parts.push(part);
                rest = after;
            } else {
                parts.push(Part::Text(rest[..=open].to_owned()));
                rest = &rest[open + 1..];
            }
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Self(parts))
    }

    /// Whether it is the same text for every device.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The text for device `n` with client id `id`.
    #[must_use]
    pub fn fill(&self, n: u64, id: &str) -> String {
        let mut text = String::new();
        for part in &self.0 {
            let _ = match part {
                Part::Text(part) => text.write_str(part),
                Part::Id => text.write_str(id),
                Part::Number { width, hex: false } => write!(text, "{n:0width$}"),
                Part::Number { width, hex: true } => write!(text, "{n:0width$x}"),
            };
        }
        text
    }
}

fn number(format: &str) -> Result<Part, String> {
    let (digits, hex) = match format.strip_suffix('x') {
        Some(digits) => (digits, true),
        None => (format, false),
    };
    match digits.parse() {
        Ok(width) if width <= WIDTH_MAX => Ok(Part::Number { width, hex }),
        _ if digits.is_empty() && hex => Ok(Part::Number { width: 0, hex }),
        _ => Err(format!(
            "{{n:{}}} is not understood; write {{n}}, {{n:06}} or {{n:08x}}",
            format.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::Template;

    fn fill(text: &str) -> String {
        Template::parse(text).unwrap().fill(26, "dev")
    }

    #[test]
    fn holes_are_filled_and_other_braces_stay() {
        assert_eq!(fill("load-{n}"), "load-26");
        assert_eq!(fill("{n:05}/{n:04x}/{n:x}"), "00026/001a/1a");
        assert_eq!(fill("devices/{id}/messages"), "devices/dev/messages");
        assert_eq!(fill("{\"a\":{n}} {"), "{\"a\":26} {");
    }

    #[test]
    fn a_hole_that_is_not_understood_is_named() {
        for bad in ["{n:5d}", "{n:99999}", "{n:}", "{n:-1}"] {
            let problem = Template::parse(bad).unwrap_err();
            assert!(problem.contains("not understood"), "{bad}: {problem}");
        }
    }

    #[test]
    fn a_text_without_holes_is_constant() {
        assert!(Template::parse("a{b}").unwrap().is_constant());
        assert!(!Template::parse("a{id}").unwrap().is_constant());
    }
}
