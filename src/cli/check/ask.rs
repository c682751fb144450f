//! `check --as`: which rule or entry decides about a device, and why none before it.
//!
//! Asks the very functions that decide at CONNECT; nothing here judges on its own. The credential
//! counts as proved: no key is needed, and no key is shown.

use crate::auth::rules::{Probe, RuleSet, parse_life};
use crate::auth::x509::{Fingerprint, fingerprints};
use crate::auth::{CredentialKind, Explanation, Outcome, Step};
use crate::config::{Config, ListenerConfig};
use crate::router::topic_map::{Subscription, could_publish, could_subscribe};
use crate::telemetry::log::capped;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A connection to ask the rules about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Question {
    /// Ask who decides: psk:IDENTITY, x509:COMMON-NAME, thumbprint:HEX, sas:DEVICE, password:USER
    ///
    /// Exit code 0 when the device is admitted, 1 when it is refused.
    #[arg(long = "as", value_name = "CREDENTIAL")]
    pub credential: Option<String>,
    /// MQTT client id, "" for none; without it, the name in CREDENTIAL
    #[arg(long, requires = "credential", value_name = "ID")]
    pub client_id: Option<String>,
    /// Listener; without it, the first that takes the credential
    #[arg(long, requires = "credential", value_name = "NAME")]
    pub listener: Option<String>,
    /// Address the device comes from; without it, 127.0.0.1
    #[arg(long, requires = "credential", value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// MQTT user name
    #[arg(long, requires = "credential", value_name = "NAME")]
    pub username: Option<String>,
    /// How long the SAS token lives from now on: 90m, 24h, 7d; without it, not too long
    #[arg(long, requires = "credential", value_name = "TIME", value_parser = parse_life)]
    pub token_life: Option<Duration>,
    /// CA that issued the certificate, PEM; without it, the only one of the listener's client_ca
    #[arg(long, requires = "credential", value_name = "FILE")]
    pub issuer_ca: Option<PathBuf>,
    /// Alternative name of the certificate; may be given again
    #[arg(long, requires = "credential", value_name = "NAME")]
    pub san: Vec<String>,
    /// Topic to publish to or, when it is a filter or a command topic, to subscribe to
    #[arg(long, requires = "credential")]
    pub topic: Option<String>,
}

impl Question {
    /// Whether anything is asked at all.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.credential.is_some()
    }
}

/// The answer.
pub(super) struct Answer {
    /// For a terminal.
    pub(super) text: String,
    /// The device is admitted, and the topic, if asked about, is its own.
    pub(super) yes: bool,
}

impl Answer {
    fn refused(mut text: String, why: &str) -> Self {
        let _ = writeln!(text, "refused: {why}");
        Self { text, yes: false }
    }
}

/// Answers, or says what is wrong with the question.
pub(super) fn answer(
    question: &Question,
    config: &Config,
    rules: &RuleSet,
) -> Result<Answer, String> {
    let credential = question.credential.as_deref().unwrap_or_default();
    let mut probe = Probe::parse(credential).map_err(|form| format!("--as {form}"))?;
    let kind = probe.credential();
    let Some(listener) = listener(question, config, kind)? else {
        let why = format!("no listener accepts {}", kind.label());
        return Ok(Answer::refused(String::new(), &why));
    };
    if let Some(id) = &question.client_id {
        probe.client_id.clone_from(id);
    } else if credential.starts_with("thumbprint:") {
        return Err("--as thumbprint:… needs --client-id, which no thumbprint tells".to_owned());
    }
    probe.listener.clone_from(&listener.name);
    probe.source = question.source.map_or(probe.source, |s| s.to_canonical());
    probe.username = question.username.clone().or(probe.username);
    probe.san.clone_from(&question.san);
    probe.token_life = question.token_life;
    let id = match probe.client_id.as_str() {
        "" => "without client id".to_owned(),
        id => format!("client id {}", shown(id)),
    };
    let mut text = format!(
        "{} at listener {} from {}, {id}\n\n",
        shown(credential),
        listener.name,
        probe.source,
    );
    if !listener.accept.contains(&kind) {
        let why = format!(
            "listener {} does not accept {}; add it to `accept`",
            listener.name,
            kind.label()
        );
        return Ok(Answer::refused(text, &why));
    }
    if probe.is_issued() {
        match anchors(question, listener)? {
            Ok(found) => probe.anchors = found,
            Err(why) => return Ok(Answer::refused(text, &why)),
        }
    }
    let explanation = rules.explain_as(&probe);
    steps(&mut text, &explanation.steps);
    let topic = question.topic.as_deref();
    let properties = config.limits.properties;
    let yes = verdict(&mut text, &explanation, kind, topic, properties);
    Ok(Answer { text, yes })
}

/// The listener asked about, or the first that takes this credential.
fn listener<'c>(
    question: &Question,
    config: &'c Config,
    kind: CredentialKind,
) -> Result<Option<&'c ListenerConfig>, String> {
    let Some(name) = &question.listener else {
        let mut listeners = config.listeners.iter();
        return Ok(listeners.find(|listener| listener.accept.contains(&kind)));
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
    let Some(path) = &question.issuer_ca else {
        return match trusted.as_slice() {
            [_] => Ok(Ok(trusted)),
            _ => Err(format!(
                "give --issuer-ca FILE: {} holds {} CAs",
                capped(&bundle.display().to_string()),
                trusted.len()
            )),
        };
    };
    let mut issuers = read(path)?;
    issuers.retain(|issuer| trusted.contains(issuer));
    if issuers.is_empty() {
        let why = format!(
            "the handshake fails: {} is not in tls.client_ca of listener {}",
            capped(&path.display().to_string()),
            listener.name
        );
        return Ok(Err(why));
    }
    Ok(Ok(issuers))
}

fn read(path: &Path) -> Result<Vec<Fingerprint>, String> {
    let name = capped(&path.display().to_string());
    let file = std::fs::read(path).map_err(|error| format!("{name} cannot be read ({error})"))?;
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

/// The last lines; whether they are a yes.
fn verdict(
    text: &mut String,
    explanation: &Explanation,
    kind: CredentialKind,
    topic: Option<&str>,
    properties_max: usize,
) -> bool {
    let outcome = match &explanation.outcome {
        Ok(outcome) => outcome,
        Err(denial) => {
            let mut denial = *denial;
            // The advice to ask here would be odd here.
            if denial.detail.contains("check --as") {
                denial.detail = "";
            }
            let _ = writeln!(text, "refused: {denial}");
            return false;
        }
    };
    let condition = match kind {
        CredentialKind::Psk => "with its key: ",
        CredentialKind::X509 => "with its private key: ",
        CredentialKind::Sas => "with a token signed by its key: ",
        CredentialKind::Password => "with its password: ",
    };
    let _ = writeln!(text, "{condition}{outcome}");
    topic.is_none_or(|topic| may_use(text, outcome, topic, properties_max))
}

fn may_use(text: &mut String, outcome: &Outcome, topic: &str, properties_max: usize) -> bool {
    let (id, rights) = (&outcome.client_id, outcome.permissions);
    let listens = topic.contains(['#', '+']) || topic.contains("/messages/devicebound");
    let (verb, allowed) = match listens {
        true => (
            "subscribe to",
            could_subscribe(id, rights, topic).map(Subscription::unserved),
        ),
        false => {
            let manner = outcome.limits.properties;
            let could = could_publish(id, rights, topic, properties_max, manner);
            ("publish to", could.map(|()| None))
        }
    };
    let topic = shown(topic);
    let _ = match allowed {
        Ok(None) => writeln!(text, "may {verb} {topic}"),
        Ok(Some(why)) => writeln!(text, "may {verb} {topic}, on which nothing comes: {why}"),
        Err(error) => writeln!(text, "may not {verb} {topic}: {}: {error}", error.reason()),
    };
    allowed.is_ok()
}

/// A text of the command line, fit for a terminal.
fn shown(text: &str) -> String {
    capped(text).escape_debug().to_string()
}
