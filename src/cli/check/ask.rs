//! `check --as`: which rule or entry decides about a device, and why none before it.
//!
//! Asks the very functions that decide at CONNECT; nothing here judges on its own. The credential
//! counts as proved: no key is needed, and no key is shown.

use super::reason;
use crate::auth::identity::parse_client_id;
use crate::auth::rules::{OnRefused, Place, Probe, RuleSet, parse_life};
use crate::auth::x509::{Fingerprint, fingerprints, parse_thumbprint};
use crate::auth::{CredentialKind, Denial, Explanation, Outcome, Step};
use crate::config::named_file::{self, PEM_BYTES_MAX};
use crate::config::{Config, ListenerConfig, Setting};
use crate::router::topic_map::{Subscription, could_publish, could_subscribe};
use crate::telemetry::log::capped;
use crate::telemetry::reason::Reason;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// A connection to ask the rules about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Question {
    /// Ask who decides: psk:IDENTITY, x509:COMMON-NAME, thumbprint:HEX, sas:DEVICE, password:USER
    ///
    /// Given twice, a PSK or certificate and the token or password beside it; `none` for a client
    /// that presents nothing. Exit code 0 when the device is admitted, 1 when it is refused.
    #[arg(long = "as", value_name = "CREDENTIAL")]
    pub credentials: Vec<String>,
    /// MQTT client id, "" for none; without it, the name in CREDENTIAL
    #[arg(long, requires = "credentials", value_name = "ID")]
    pub client_id: Option<String>,
    /// Listener; without it, the first that takes the credential
    #[arg(long, requires = "credentials", value_name = "NAME")]
    pub listener: Option<String>,
    /// Address the device comes from; without it, 127.0.0.1
    #[arg(long, requires = "credentials", value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// MQTT user name
    #[arg(long, requires = "credentials", value_name = "NAME")]
    pub username: Option<String>,
    /// How long the SAS token lives from now on: 90m, 24h, 7d; without it, not too long
    #[arg(long, requires = "credentials", value_name = "TIME", value_parser = parse_life)]
    pub token_life: Option<Duration>,
    /// CA that issued the certificate: PEM file or sha256:HEX
    ///
    /// Without it, the only CA of the listener's client_ca, or nobody for a thumbprint.
    #[arg(long, requires = "credentials", value_name = "CA")]
    pub issuer_ca: Option<String>,
    /// Common name of a certificate given by its thumbprint; may be given again
    #[arg(long, requires = "credentials", value_name = "NAME")]
    pub cn: Vec<String>,
    /// Alternative name of the certificate; may be given again
    #[arg(long, requires = "credentials", value_name = "NAME")]
    pub san: Vec<String>,
    /// Topic to publish to or, when it is a filter or a command topic, to subscribe to
    #[arg(long, requires = "credentials")]
    pub topic: Option<String>,
    /// Topic to publish to
    #[arg(
        long,
        requires = "credentials",
        conflicts_with = "topic",
        value_name = "TOPIC"
    )]
    pub publish: Option<String>,
    /// Filter to subscribe to
    #[arg(
        long,
        requires = "credentials",
        conflicts_with_all = ["topic", "publish"],
        value_name = "FILTER"
    )]
    pub subscribe: Option<String>,
    /// QoS of that message or subscription
    #[arg(long, requires = "credentials", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: Option<u8>,
    /// Why it was refused, as the log has it, where that is not a matter of the rules
    #[arg(long, requires = "credentials", value_name = "REASON", value_parser = reason::parse)]
    pub reason: Option<Reason>,
}

impl Question {
    /// Whether anything is asked at all.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.credentials.is_empty()
    }

    /// What the device wants to do, where that is asked. Of a topic alone its form tells.
    fn wish(&self) -> Option<Wish<'_>> {
        let is_filter =
            |text: &str| text.contains(['#', '+']) || text.contains("/messages/devicebound");
        match (&self.publish, &self.subscribe, &self.topic) {
            (Some(topic), ..) => Some(Wish::Publish(topic)),
            (_, Some(filter), _) => Some(Wish::Subscribe(filter)),
            (.., Some(filter)) if is_filter(filter) => Some(Wish::Subscribe(filter)),
            (.., Some(topic)) => Some(Wish::Publish(topic)),
            (None, None, None) => None,
        }
    }
}

enum Wish<'a> {
    Publish(&'a str),
    Subscribe(&'a str),
}

/// The answer.
pub(super) struct Answer {
    /// For a terminal.
    pub(super) text: String,
    /// The device is admitted, and the topic, if asked about, is its own.
    pub(super) yes: bool,
}

impl Answer {
    fn refused(mut text: String, reason: Reason, why: &str) -> Self {
        let _ = writeln!(text, "refused: {reason}: {why}");
        Self { text, yes: false }
    }
}

/// Answers, or says what is wrong with the question.
pub(super) fn answer(
    question: &Question,
    config: &Config,
    rules: &RuleSet,
    settings: &[Setting],
) -> Result<Answer, String> {
    let presented: Vec<&str> = question.credentials.iter().map(String::as_str).collect();
    let mut probe = Probe::of(&presented).map_err(|form| format!("--as {form}"))?;
    let kinds: Vec<_> = probe.credentials().collect();
    let Some(listener) = listener(question, config, &kinds)? else {
        let why = format!("no listener accepts {}", labels(&kinds));
        let reason = Reason::CredentialNotAccepted;
        return Ok(Answer::refused(String::new(), reason, &why));
    };
    fill(&mut probe, question, config, listener)?;
    let mut text = asked(question, &probe);
    // What has nothing to do with the rules, and came before them.
    let outside = question.reason.filter(|reason| reason::is_outside(*reason));
    let not_taken = kinds.iter().find(|kind| !listener.accept.contains(kind));
    if let (None, Some(kind)) = (outside, not_taken) {
        let why = format!(
            "listener {} does not accept {}; add it to `accept`",
            listener.name,
            kind.label()
        );
        return Ok(Answer::refused(text, Reason::CredentialNotAccepted, &why));
    }
    if let (Err(why), None) = (trust(&mut probe, question, listener)?, outside) {
        return Ok(Answer::refused(text, Reason::X509Unknown, &why));
    }
    let explanation = rules.explain_as(&probe);
    steps(&mut text, &explanation.steps);
    if let Some(reason) = outside {
        let form = reason::waits_for_form(reason).then(|| probe.form());
        if let Some(Err(denial)) = form {
            return Ok(denied(text, denial));
        }
        reason::explain(&mut text, reason, &explanation, settings);
        return Ok(Answer { text, yes: false });
    }
    let limits = config.limits.properties;
    Ok(verdict(text, &explanation, &kinds, question, limits))
}

fn labels(kinds: &[CredentialKind]) -> String {
    let labels: Vec<_> = kinds.iter().map(|kind| kind.label()).collect();
    labels.join(" and ")
}

/// The first lines: what was asked.
fn asked(question: &Question, probe: &Probe) -> String {
    let id = match probe.client_id.as_str() {
        "" => "without client id".to_owned(),
        id => format!("client id {}", shown(id)),
    };
    format!(
        "{} at listener {} from {}, {id}\n\n",
        shown(&question.credentials.join(" ")),
        probe.listener,
        probe.source,
    )
}

/// Puts what was asked into the probe.
fn fill(
    probe: &mut Probe,
    question: &Question,
    config: &Config,
    listener: &ListenerConfig,
) -> Result<(), String> {
    let by_thumbprint = |text: &String| text.starts_with("thumbprint:");
    if let Some(id) = &question.client_id {
        probe.client_id.clone_from(id);
    } else if question.credentials.first().is_some_and(by_thumbprint) {
        if question.reason.is_none() && question.cn.is_empty() {
            let why = "--as thumbprint:… needs --client-id, which no thumbprint tells";
            return Err(why.to_owned());
        }
        probe.client_id.clear();
    } else if parse_client_id(&probe.client_id).is_err() {
        // A name that is no device id says nothing about the client id.
        probe.client_id.clear();
    }
    probe.listener.clone_from(&listener.name);
    probe.source = question.source.map_or(probe.source, |s| s.to_canonical());
    probe.username = question.username.clone().or(probe.username.take());
    probe.common_names.clone_from(&question.cn);
    probe.san.clone_from(&question.san);
    probe.token_life = question.token_life;
    probe.place = Some(Place {
        accept: listener.accept.clone(),
        hub_host: config.hub.host.clone(),
    });
    Ok(())
}

/// Names the CAs that count as having verified the certificate. The inner error: the handshake
/// fails.
fn trust(
    probe: &mut Probe,
    question: &Question,
    listener: &ListenerConfig,
) -> Result<Result<(), String>, String> {
    if !probe.is_issued() && question.issuer_ca.is_none() {
        return Ok(Ok(()));
    }
    Ok(anchors(question, listener)?.map(|found| probe.anchors = found))
}

/// The listener asked about, or the first that takes this credential.
fn listener<'c>(
    question: &Question,
    config: &'c Config,
    kinds: &[CredentialKind],
) -> Result<Option<&'c ListenerConfig>, String> {
    let Some(name) = &question.listener else {
        let takes =
            |listener: &&ListenerConfig| kinds.iter().all(|kind| listener.accept.contains(kind));
        return Ok(config.listeners.iter().find(takes));
    };
    let found = config.listeners.iter().find(|l| l.name == *name);
    found.map(Some).ok_or_else(|| {
        let names: Vec<_> = config.listeners.iter().map(|l| l.name.as_str()).collect();
        format!(
            "--listener {:?} is not configured; there is {}",
            capped(name),
            names.join(", ")
        )
    })
}

/// The CAs that count as having verified the certificate. The inner error: the handshake fails.
fn anchors(
    question: &Question,
    listener: &ListenerConfig,
) -> Result<Result<Vec<Fingerprint>, String>, String> {
    let bundle = listener.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
    let Some(bundle) = bundle else {
        let why = format!(
            "listener {} has no tls.client_ca, so no CA vouches for a name; certificates are \
             known by thumbprint there",
            listener.name
        );
        return Ok(Err(why));
    };
    let trusted = read(bundle)?;
    let Some(named) = &question.issuer_ca else {
        return match trusted.as_slice() {
            [_] => Ok(Ok(trusted)),
            _ => Err(format!(
                "give --issuer-ca FILE: {} holds {} CAs",
                capped(&bundle.display().to_string()),
                trusted.len()
            )),
        };
    };
    let mut issuers = match named.strip_prefix("sha256:") {
        Some(print) => vec![sha256(print)?],
        None => read(Path::new(named))?,
    };
    issuers.retain(|issuer| trusted.contains(issuer));
    if issuers.is_empty() {
        let why = format!(
            "the handshake fails: {} is not in tls.client_ca of listener {}",
            shown(named),
            listener.name
        );
        return Ok(Err(why));
    }
    Ok(Ok(issuers))
}

fn sha256(print: &str) -> Result<Fingerprint, String> {
    let bytes = parse_thumbprint(print).ok();
    let bytes = bytes.and_then(|bytes| Fingerprint::try_from(&*bytes).ok());
    bytes.ok_or_else(|| "--issuer-ca sha256: has 64 hex digits".to_owned())
}

fn read(path: &Path) -> Result<Vec<Fingerprint>, String> {
    let name = capped(&path.display().to_string());
    let file = named_file::read(path, PEM_BYTES_MAX).map_err(|why| format!("{name} {why}"))?;
    fingerprints(&file).map_err(|error| format!("{name} {error}"))
}

/// Each rule and entry that was asked, one a line, in columns.
fn steps(text: &mut String, steps: &[Step]) {
    let here = std::env::current_dir().unwrap_or_default();
    let here = format!("{}/", here.display());
    let place = |step: &Step| {
        let place = step.place.as_str();
        place.strip_prefix(&here).unwrap_or(place).to_owned()
    };
    let widest = |of: &dyn Fn(&Step) -> String| {
        let widths = steps.iter().map(|step| of(step).chars().count());
        widths.max().unwrap_or(0).min(60)
    };
    let (name_width, place_width) = (widest(&|s| s.name.clone()), widest(&place));
    for step in steps {
        let mark = if step.decides() { "yes" } else { "no " };
        let (Step { name, what, .. }, place) = (step, place(step));
        let _ = writeln!(
            text,
            "  {mark}  {name:name_width$}  {place:place_width$}  {what}"
        );
    }
    if !steps.is_empty() {
        text.push('\n');
    }
}

fn denied(mut text: String, mut denial: Denial) -> Answer {
    // The advice to ask here would be odd here.
    if denial.detail.contains("check --as") {
        denial.detail = "";
    }
    let _ = writeln!(text, "refused: {denial}");
    Answer { text, yes: false }
}

/// The last lines, and whether they are a yes.
fn verdict(
    mut text: String,
    explanation: &Explanation,
    kinds: &[CredentialKind],
    question: &Question,
    properties_max: usize,
) -> Answer {
    let outcome = match &explanation.outcome {
        Ok(outcome) => outcome,
        Err(denial) => return denied(text, *denial),
    };
    let proofs: Vec<_> = kinds.iter().map(|kind| proof(*kind)).collect();
    let _ = writeln!(text, "with {}: {outcome}", proofs.join(" and "));
    let yes = match question.wish() {
        Some(Wish::Publish(topic)) => {
            may_publish(&mut text, outcome, topic, question.qos, properties_max)
        }
        Some(Wish::Subscribe(filter)) => may_subscribe(&mut text, outcome, filter),
        None => true,
    };
    Answer { text, yes }
}

const fn proof(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Psk => "its key",
        CredentialKind::X509 => "its private key",
        CredentialKind::Sas => "a token signed by its key",
        CredentialKind::Password => "its password",
    }
}

fn may_publish(
    text: &mut String,
    outcome: &Outcome,
    topic: &str,
    qos: Option<u8>,
    properties_max: usize,
) -> bool {
    let (id, rights, limits) = (&outcome.client_id, outcome.permissions, outcome.limits);
    let allowed = could_publish(id, rights, topic, properties_max, limits.properties);
    let topic = shown(topic);
    if qos == Some(2) {
        let (reason, fix) = (Reason::Qos2Publish, Reason::Qos2Publish.fix());
        let _ = writeln!(text, "may not publish to {topic} with QoS 2; {fix}");
        let _ = writeln!(text, "refused: {reason}: {}", reason.means());
        return false;
    }
    let Err(error) = allowed else {
        let _ = writeln!(text, "may publish to {topic}");
        return true;
    };
    let _ = writeln!(text, "may not publish to {topic}");
    let _ = writeln!(text, "refused: {}: {error}", error.reason());
    let _ = writeln!(text, "  {}", consequence(limits.on_refused));
    false
}

fn may_subscribe(text: &mut String, outcome: &Outcome, filter: &str) -> bool {
    let allowed = could_subscribe(&outcome.client_id, outcome.permissions, filter);
    let filter = shown(filter);
    match allowed.map(Subscription::unserved) {
        Ok(None) => {
            let _ = writeln!(text, "may subscribe to {filter}");
        }
        Ok(Some(why)) => {
            let _ = writeln!(text, "may subscribe to {filter}, on which nothing comes");
            let _ = writeln!(text, "not served: {}: {why}", why.reason());
        }
        Err(error) => {
            let _ = writeln!(text, "may not subscribe to {filter}");
            let _ = writeln!(text, "refused: {}: {error}", error.reason());
        }
    }
    allowed.is_ok()
}

/// What becomes of a refused message, and of its device.
const fn consequence(on_refused: OnRefused) -> &'static str {
    match on_refused {
        OnRefused::Close => {
            "on_refused = \"close\": MQTT 5 is told in the PUBACK, an older device is closed"
        }
        OnRefused::Discard => "on_refused = \"discard\": the message is acknowledged and dropped",
        OnRefused::File => {
            "on_refused = \"file\": the message is acknowledged and kept in rules.refused_folder"
        }
    }
}

/// A text of the command line, fit for a terminal.
fn shown(text: &str) -> String {
    capped(text)
}
