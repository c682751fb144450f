//! Topics of firmware nobody will change: templates for telemetry and commands, and what becomes
//! of retained messages and of topics nothing fits; pure.
//!
//! A template is levels of text and holes: `factory/{line}/{device}/temp`. A hole takes one whole
//! level, as it came. `{device}` and `{module}` take the authenticated ids and nothing else, so a
//! template lets no device speak for another. Topics below `devices/` and `$` stay the hub's.

use std::borrow::Cow;

/// Levels of a template.
const LEVELS_MAX: usize = 16;
/// Its length, bytes.
const BYTES_MAX: usize = 512;
/// Templates of one rule.
const TEMPLATES_MAX: usize = 16;
/// Name of a hole, bytes.
const NAME_MAX: usize = 64;

/// What a rule says of topics; the default is what IoT Hub does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    publish: Vec<Template>,
    subscribe: Option<Template>,
    /// Messages with the retain flag.
    pub retain: Retain,
    /// Messages to topics nothing fits.
    pub unmatched: Unmatched,
}

/// What becomes of the retain flag: nothing is ever kept for later subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain {
    /// The message carries the property `mqtt-retain`.
    #[default]
    MqttRetain,
    /// The message carries the property `x-opt-retain`, as it was called before.
    XOptRetain,
    /// The message is refused.
    Refuse,
}

/// What becomes of a message to a topic nothing fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// It is refused.
    #[default]
    Reject,
    /// It is telemetry, with the topic in the property `mqtt-topic`.
    Telemetry,
    /// It is acknowledged, counted and gone.
    Drop,
}

/// How a topic fits the templates of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit<'t> {
    /// It does, with the properties of its holes.
    Yes(Vec<(&'t str, &'t str)>),
    /// It would, for another device or module.
    Foreign,
    /// It does not.
    No,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    levels: Vec<Level>,
    /// Ends in `#`: the bag of a command's properties.
    bag: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    Device,
    Module,
    Hole(Box<str>),
}

impl Topics {
    /// Reads the templates.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn parse(
        publish: &[String],
        subscribe: Option<&str>,
        retain: Retain,
        unmatched: Unmatched,
    ) -> Result<Self, (&'static str, Cow<'static, str>)> {
        if publish.len() > TEMPLATES_MAX {
            return Err(("publish", "more than 16 templates; take some out".into()));
        }
        let templates = publish.iter().map(|text| Template::publish(text));
        let publish = templates.collect::<Result<_, _>>();
        let subscribe = subscribe.map(Template::subscribe).transpose();
        Ok(Self {
            publish: publish.map_err(|error| ("publish", error))?,
            subscribe: subscribe.map_err(|error| ("subscribe", error))?,
            retain,
            unmatched,
        })
    }

    /// Whether telemetry may go to `topic`; the first template that fits counts.
    #[must_use]
    pub fn publishes<'t>(&'t self, device: &str, module: Option<&str>, topic: &'t str) -> Fit<'t> {
        let mut found = Fit::No;
        for template in &self.publish {
            match template.fit(device, module, topic) {
                Fit::No => {}
                Fit::Foreign => found = Fit::Foreign,
                fits @ Fit::Yes(_) => return fits,
            }
        }
        found
    }

    /// Whether commands come by `filter`: the rule's own, word for word.
    #[must_use]
    pub fn subscribes(&self, device: &str, module: Option<&str>, filter: &str) -> bool {
        self.filter(device, module).is_some_and(|own| own == filter)
    }

    /// The filter commands come by, when the rule gives one.
    #[must_use]
    pub fn filter(&self, device: &str, module: Option<&str>) -> Option<String> {
        let template = self.subscribe.as_ref()?;
        let mut filter = template.fill(device, module)?;
        if template.bag {
            filter.push_str("/#");
        }
        Some(filter)
    }

    /// The topic a command goes to, as far as its bag of properties; `true` when one follows.
    #[must_use]
    pub fn command(&self, device: &str, module: Option<&str>) -> Option<(String, bool)> {
        let template = self.subscribe.as_ref()?;
        let mut topic = template.fill(device, module)?;
        if template.bag {
            topic.push('/');
        }
        Some((topic, template.bag))
    }
}

impl Template {
    fn publish(text: &str) -> Result<Self, Cow<'static, str>> {
        let template = Self::parse(text)?;
        match template.bag {
            true => {
                Err("a template of publish has no wildcard; name each level {like_this}".into())
            }
            false => Ok(template),
        }
    }

    fn subscribe(text: &str) -> Result<Self, Cow<'static, str>> {
        let template = Self::parse(text)?;
        let hole = template.levels.iter().find_map(|level| match level {
            Level::Hole(name) => Some(name),
            _ => None,
        });
        match hole {
            None => Ok(template),
            Some(name) => Err(format!(
                "nothing fills {{{name}}} of a command; there are {{device}} and {{module}}, and \
                 # at the end for its properties"
            )
            .into()),
        }
    }

    fn parse(text: &str) -> Result<Self, Cow<'static, str>> {
        if text.len() > BYTES_MAX || text.split('/').count() > LEVELS_MAX {
            return Err("a template has at most 512 bytes and 16 levels".into());
        }
        let (text, bag) = match text.strip_suffix("/#") {
            Some(front) => (front, true),
            None => (text, false),
        };
        if text.starts_with('$') || text == "devices" || text.starts_with("devices/") {
            return Err("topics below devices/ and $ are the hub's own; use others".into());
        }
        let mut levels = Vec::new();
        for level in text.split('/') {
            let level = Level::parse(level)?;
            let twice = matches!(level, Level::Hole(_)) && levels.contains(&level);
            if twice {
                return Err("a hole stands twice; give each its own name".into());
            }
            levels.push(level);
        }
        Ok(Self { levels, bag })
    }

    fn fit<'t>(&'t self, device: &str, module: Option<&str>, topic: &'t str) -> Fit<'t> {
        let mut holes = Vec::new();
        let mut foreign = false;
        let mut parts = topic.split('/');
        for level in &self.levels {
            let Some(part) = parts.next() else {
                return Fit::No;
            };
            match level {
                Level::Text(text) if **text == *part => {}
                Level::Text(_) => return Fit::No,
                _ if part.is_empty() => return Fit::No,
                Level::Device => foreign |= part != device,
                Level::Module => foreign |= Some(part) != module,
                Level::Hole(name) => holes.push((&**name, part)),
            }
        }
        match (parts.next(), foreign) {
            (Some(_), _) => Fit::No,
            (None, true) => Fit::Foreign,
            (None, false) => Fit::Yes(holes),
        }
    }

    /// The template with the ids in it; `None` for a module's template and no module.
    fn fill(&self, device: &str, module: Option<&str>) -> Option<String> {
        let mut levels: Vec<&str> = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            levels.push(match level {
                Level::Text(text) => text,
                Level::Device => device,
                Level::Module => module?,
                Level::Hole(_) => return None,
            });
        }
        Some(levels.join("/"))
    }
}

impl Level {
    fn parse(text: &str) -> Result<Self, Cow<'static, str>> {
        if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            return match name {
                "device" => Ok(Self::Device),
                "module" => Ok(Self::Module),
                "to" => Err("{to} is a name of the hub's; call it otherwise".into()),
                "" => Err("a hole has no name; write {line}".into()),
                _ if !plain || name.len() > NAME_MAX => {
                    Err("a hole's name is 1 to 64 letters, digits or _".into())
                }
                _ => Ok(Self::Hole(name.into())),
            };
        }
        match text {
            "" => Err("a level is empty; write text or {name}".into()),
            _ if text.contains(['{', '}']) => Err("a hole is a whole level: a/{name}/b".into()),
            _ if text.contains(['+', '#']) || text.chars().any(char::is_control) => {
                Err("+, # and control characters are no text of a level".into())
            }
            _ => Ok(Self::Text(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fit, Retain, Topics, Unmatched};

    fn topics(publish: &[&str], subscribe: Option<&str>) -> Result<Topics, String> {
        let publish: Vec<String> = publish.iter().map(|t| (*t).to_owned()).collect();
        let parsed = Topics::parse(&publish, subscribe, Retain::default(), Unmatched::default());
        parsed.map_err(|(key, error)| format!("{key}: {error}"))
    }

    #[test]
    fn a_topic_fits_level_by_level_and_its_holes_are_properties() {
        let topics = topics(
            &["factory/{line}/{device}/temp", "{device}/{module}/{kind}"],
            None,
        );
        let topics = topics.unwrap();
        let fit = |topic| topics.publishes("d1", Some("m"), topic);
        assert_eq!(fit("factory/7/d1/temp"), Fit::Yes(vec![("line", "7")]));
        assert_eq!(
            fit("factory/%2F +/d1/temp"),
            Fit::Yes(vec![("line", "%2F +")])
        );
        assert_eq!(fit("d1/m/x"), Fit::Yes(vec![("kind", "x")]));
        assert_eq!(fit("factory/7/d2/temp"), Fit::Foreign);
        assert_eq!(fit("d1/n/x"), Fit::Foreign);
        for topic in [
            "factory//d1/temp",
            "factory/7/d1/temp/",
            "Factory/7/d1/temp",
            "/factory/7/d1/temp",
            "factory/7/d1/temp/x",
            "",
        ] {
            assert_eq!(fit(topic), Fit::No, "{topic}");
        }
    }

    #[test]
    fn a_device_without_a_module_fits_no_template_of_modules() {
        let topics = topics(&["{device}/{module}/x"], Some("cmd/{device}/{module}")).unwrap();
        assert_eq!(topics.publishes("d", None, "d/m/x"), Fit::Foreign);
        assert_eq!(topics.filter("d", None), None);
        assert_eq!(topics.filter("d", Some("m")).as_deref(), Some("cmd/d/m"));
    }

    #[test]
    fn commands_come_by_one_filter_word_for_word() {
        let with_bag = topics(&[], Some("cmd/{device}/#")).unwrap();
        assert!(with_bag.subscribes("d", None, "cmd/d/#"));
        for filter in ["cmd/d", "cmd/+/#", "#", "cmd/e/#", "cmd/d/+"] {
            assert!(!with_bag.subscribes("d", None, filter), "{filter}");
        }
        let topic = with_bag.command("d", None);
        assert_eq!(topic, Some(("cmd/d/".to_owned(), true)));
        let fixed = topics(&[], Some("{device}/in")).unwrap();
        assert!(fixed.subscribes("d", None, "d/in"));
        assert_eq!(fixed.command("d", None), Some(("d/in".to_owned(), false)));
    }

    #[test]
    fn templates_that_can_never_work_are_refused_with_their_key() {
        for (publish, part) in [
            ("", "empty"),
            ("a//b", "empty"),
            ("a/{}", "no name"),
            ("a/{b c}", "letters"),
            ("a/{to}", "hub's"),
            ("a/{b}/{b}", "twice"),
            ("a/x{b}", "whole level"),
            ("a/+/b", "no text"),
            ("a/#", "no wildcard"),
            ("a/#/b", "no text"),
            ("devices/{device}/x", "hub's own"),
            ("$iothub/{x}", "hub's own"),
            ("a\u{7}", "no text"),
        ] {
            let error = topics(&[publish], None).unwrap_err();
            assert!(error.starts_with("publish: "), "{error}");
            assert!(error.contains(part), "{publish}: {error}");
        }
        let error = topics(&[], Some("cmd/{device}/{verb}")).unwrap_err();
        assert!(error.contains("{verb}"), "{error}");
        assert!(topics(&["a/{x}"; 17], None).is_err());
        assert!(topics(&[&"a/".repeat(17)], None).is_err());
    }
}
