//! Templates that make device ids from proved names.
//!
//! A value goes in as it is, or not at all: it has to fit the id grammar by itself and is never
//! decoded, so neither `/` nor an escape can reach an address upstream.

use crate::auth::identity::{DeviceId, ID_BYTES_MAX};

/// A parsed template such as `plant-{cn}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Value(Name),
}

/// What a template can insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The proved name: PSK identity, certificate name, SAS device, user name.
    Identity,
    /// The only common name.
    Cn,
    /// The only alternative name.
    San,
    /// MQTT user name.
    Username,
    /// MQTT client id.
    ClientId,
}

/// The names, as written.
const NAMES: [(&str, Name); 5] = [
    ("identity", Name::Identity),
    ("cn", Name::Cn),
    ("san", Name::San),
    ("username", Name::Username),
    ("client_id", Name::ClientId),
];

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the template is empty; write \"{identity}\"".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            let (literal, tail) = rest.split_at(end);
            if !literal.is_empty() {
                DeviceId::parse(literal).map_err(|e| e.to_string())?;
                parts.push(Part::Text(literal.into()));
            }
            if tail.is_empty() {
                break;
            }
            let Some((name, tail)) = tail.strip_prefix('{').and_then(|t| t.split_once('}')) else {
                return Err("a brace has no partner; values are written {cn}".to_owned());
            };
            parts.push(Part::Value(parse_name(name)?));
            rest = tail;
        }
        Ok(Self { parts })
    }

    pub(crate) fn uses(&self, name: Name) -> bool {
        self.parts.contains(&Part::Value(name))
    }

    /// Fills the template; `None` when a value is missing or the result is no id.
    pub(crate) fn render<'v>(&self, value: impl Fn(Name) -> Option<&'v str>) -> Option<DeviceId> {
        let mut id = String::with_capacity(ID_BYTES_MAX);
        for part in &self.parts {
            match part {
                Part::Text(text) => id.push_str(text),
                Part::Value(name) => {
                    let value = value(*name)?;
                    DeviceId::parse(value).ok()?;
                    id.push_str(value);
                }
            }
        }
        DeviceId::parse(&id).ok()
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    let known = NAMES.iter().find(|(name, _)| *name == text);
    known.map(|(_, name)| *name).ok_or_else(|| {
        let known: Vec<String> = NAMES.iter().map(|(n, _)| format!("{{{n}}}")).collect();
        format!(
            "there is no {{{}}}; there are {}",
            cap(text),
            known.join(" ")
        )
    })
}

/// A piece of a rules file short enough for a message.
fn cap(text: &str) -> String {
    text.chars().take(40).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(template: &str, value: &str) -> Option<String> {
        let template = Template::parse(template).unwrap();
        let id = template.render(|_| Some(value));
        id.map(|id| id.as_str().to_owned())
    }

    #[test]
    fn values_are_inserted_as_they_are() {
        assert_eq!(render("{cn}", "a%2Fb").as_deref(), Some("a%2Fb"));
        assert_eq!(render("p-{cn}-{cn}", "1").as_deref(), Some("p-1-1"));
        assert_eq!(render("fixed", "x").as_deref(), Some("fixed"));
    }

    #[test]
    fn values_outside_the_grammar_give_no_id() {
        let long = "x".repeat(128);
        for bad in [
            "",
            "a/b",
            "a+b",
            "#",
            "a b",
            "é",
            "a\0",
            "{cn}",
            long.as_str(),
        ] {
            assert_eq!(render("p-{cn}", bad), None, "{bad:?}");
        }
        let missing = Template::parse("{cn}").unwrap();
        assert!(missing.render(|_| None).is_none());
    }

    #[test]
    fn templates_that_can_never_work_are_refused() {
        for bad in [
            "", "{", "}", "{cn", "cn}", "{}", "{CN}", "{c n}", "a/{cn}", "a b", "{{cn}}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Template::parse("{device}").is_err_and(|e| e.contains("{identity}")));
    }

    proptest! {
        #[test]
        fn whatever_the_peer_sends_the_result_is_an_id_or_nothing(value in "\\PC{0,200}") {
            if let Some(id) = render("p{cn}", &value) {
                prop_assert!(DeviceId::parse(&id).is_ok());
                prop_assert!(!id.contains(['/', '+', '#', '\0']));
                prop_assert_eq!(id, format!("p{value}"));
            }
        }
    }
}
