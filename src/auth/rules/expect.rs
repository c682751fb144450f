//! `[[expect]]`: tests of the rules, beside the rules.
//!
//! ```toml
//! [[expect]]
//! connect = "psk:thermo-1"       # psk:, x509:<common name>, thumbprint:, sas:, password:
//! client_id = "thermo-1"         # default: what stands after the colon
//! source = "10.20.3.4"           # default 127.0.0.1; also listener, username, san, issuer_ca
//! publish = "devices/thermo-1/messages/events/"
//! device = "thermo-1"            # or: deny = "client_id_mismatch"; rule = "plant A" if it matters
//! ```

use super::RuleSet;
use super::probe::Probe;
use super::reader::Section;
use super::rule::parse_life;
use super::topics::{Fit, Unmatched};
use crate::auth::DENIALS;
use crate::auth::explain::Outcome;
use crate::auth::rules::Problem;
use crate::auth::x509::fingerprints;

/// One `[[expect]]`.
pub(super) struct Expectation {
    file: String,
    key: String,
    probe: Probe,
    publish: Option<String>,
    subscribe: Option<String>,
    want: Want,
    rule: Option<String>,
}

enum Want {
    Device(String),
    Deny(String),
}

/// What a topic that is not the device's, or not allowed, is called in `deny`.
const TOPIC: &str = "topic";

pub(super) fn parse(mut section: Section<'_, '_>) -> Option<Expectation> {
    let probe = section.parsed("connect", Probe::parse);
    if !section.has("connect") {
        section.problem("", "needs connect = \"psk:IDENTITY\" or the like");
    }
    let client_id = section.text("client_id");
    let listener = section.text("listener");
    let source = section.parsed("source", |t| {
        t.parse()
            .map_err(|_| "must be an address such as 10.20.3.4")
    });
    let username = section.text("username");
    let token_life = section.parsed("token_life", parse_life);
    let san = section.texts("san");
    let paths = section.texts("issuer_ca");
    let publish = section.text("publish");
    let subscribe = section.text("subscribe");
    let device = section.text("device");
    let deny = section.text("deny");
    let rule = section.text("rule");
    let mut anchors = Vec::new();
    for path in paths {
        let path = section.doc.path(&path);
        let read = (section.doc.resolvers.read)(&path);
        let found = read.and_then(|file| fingerprints(&file).map_err(str::to_owned));
        match found {
            Ok(found) => anchors.extend(found),
            Err(error) => section.problem("issuer_ca", error),
        }
    }
    let want = match (device, deny) {
        (Some(device), None) => Some(Want::Device(device)),
        (None, Some(reason)) => {
            if reason != TOPIC && !DENIALS.iter().any(|d| d.reason == reason.as_str()) {
                section.problem(
                    "deny",
                    "no refusal has this reason; see Reasons in config/README.md",
                );
            }
            Some(Want::Deny(reason))
        }
        _ => {
            section.problem("", "needs device = \"…\" or deny = \"reason\", one of them");
            None
        }
    };
    let (file, key) = (section.place(), section.path().to_owned());
    section.finish();
    let mut probe = probe?;
    probe.client_id = client_id.unwrap_or(probe.client_id);
    probe.listener = listener.unwrap_or_default();
    probe.source = source.unwrap_or(probe.source);
    probe.username = username.or(probe.username);
    probe.san = san;
    probe.token_life = token_life;
    probe.anchors = anchors;
    Some(Expectation {
        file,
        key,
        probe,
        publish,
        subscribe,
        want: want?,
        rule,
    })
}

impl RuleSet {
    /// Runs every `[[expect]]`; a problem for each that does not hold.
    #[must_use]
    pub fn run_expectations(&self) -> Vec<Problem> {
        let failures = self.expectations.iter().filter_map(|expectation| {
            let message = expectation.run(self).err()?;
            Some(Problem {
                file: expectation.file.clone(),
                key: expectation.key.clone(),
                message,
            })
        });
        failures.collect()
    }
}

impl Expectation {
    fn run(&self, rules: &RuleSet) -> Result<(), String> {
        let explanation = rules.explain_as(&self.probe);
        let decided = explanation
            .steps
            .last()
            .map_or("nothing", |s| s.name.as_str());
        if let Some(rule) = &self.rule
            && rule != decided
        {
            return Err(format!(
                "expected rule {rule} to decide, but {decided} does"
            ));
        }
        match (&self.want, &explanation.outcome) {
            (Want::Deny(want), Err(denial)) if want == denial.reason.word() => Ok(()),
            (Want::Deny(want), Err(denial)) => Err(format!(
                "expected refusal {want}, but it is refused as {denial}"
            )),
            (Want::Deny(want), Ok(got)) if want == TOPIC => match self.topics_fit(got) {
                Err(_) => Ok(()),
                Ok(()) => Err("expected the topic to be refused, but it is allowed".to_owned()),
            },
            (Want::Deny(want), Ok(got)) => Err(format!(
                "expected refusal {want}, but it is admitted as {} by {}",
                got.client_id, got.rule
            )),
            (Want::Device(want), Ok(got)) if *want == got.client_id => self.topics_fit(got),
            (Want::Device(want), Ok(got)) => Err(format!(
                "expected device {want}, but it is {} by {}",
                got.client_id, got.rule
            )),
            (Want::Device(want), Err(denial)) => Err(format!(
                "expected device {want}, but it is refused as {denial}"
            )),
        }
    }

    fn topics_fit(&self, got: &Outcome) -> Result<(), String> {
        let (device, module) = match got.client_id.split_once('/') {
            None => (&*got.client_id, None),
            Some((device, module)) => (device, Some(module)),
        };
        let base = match module {
            None => format!("devices/{device}"),
            Some(module) => format!("devices/{device}/modules/{module}"),
        };
        let topics = got.topics.as_deref();
        let below_iothub = [&self.publish, &self.subscribe];
        let below_iothub = below_iothub.map(|topic| topic.as_deref().and_then(reserved));
        for right in below_iothub.iter().flatten() {
            if !got.permissions.words().any(|word| word == *right) {
                return Err(format!("{} does not allow {right}", got.rule));
            }
        }
        let [reserved_topic, reserved_filter] = below_iothub.map(|right| right.is_some());
        if let Some(topic) = &self.publish
            && !reserved_topic
        {
            if !got.permissions.telemetry {
                return Err(format!("{} does not allow telemetry", got.rule));
            }
            let events = format!("{base}/messages/events");
            let rest = topic.strip_prefix(&events);
            let hubs = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let own = topics.is_some_and(|topics| {
                let is_hubs = topic.starts_with("devices/") || topic.starts_with('$');
                match topics.publishes(device, module, topic) {
                    Fit::Yes(_) => true,
                    Fit::Foreign => false,
                    Fit::No => topics.unmatched == Unmatched::Telemetry && !is_hubs,
                }
            });
            if !hubs && !own {
                return Err(format!(
                    "{} may publish to {base}/messages/events/, or as its rule says",
                    got.client_id
                ));
            }
        }
        if let Some(filter) = &self.subscribe
            && !reserved_filter
        {
            if !got.permissions.commands {
                return Err(format!("{} does not allow commands", got.rule));
            }
            let whole_module = module.is_some() && *filter == format!("{base}/#");
            let own = topics.is_some_and(|topics| topics.subscribes(device, module, filter));
            let hubs = *filter == format!("{base}/messages/devicebound/#");
            if !hubs && !whole_module && !own {
                return Err(format!(
                    "{} may subscribe to {base}/messages/devicebound/#",
                    got.client_id
                ));
            }
        }
        Ok(())
    }
}

/// The right a topic or filter below `$iothub/` needs (wire sheet §8.5, §8.6).
fn reserved(topic: &str) -> Option<&'static str> {
    const TOPICS: &[(&str, &str)] = &[
        ("$iothub/methods/res/", "methods"),
        ("$iothub/methods/POST/#", "methods"),
        ("$iothub/twin/GET/", "twin"),
        ("$iothub/twin/PATCH/properties/reported/", "twin"),
        ("$iothub/twin/res/#", "twin"),
        ("$iothub/twin/PATCH/properties/desired/#", "twin"),
    ];
    let mut fits = TOPICS.iter().filter(|(form, _)| match form.ends_with('#') {
        true => topic == *form,
        false => topic.starts_with(form),
    });
    fits.next().map(|(_, right)| *right)
}
