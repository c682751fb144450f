//! `[[rule]]`: who is meant, which device that is, what it may do. Ordered; first match decides.

use super::pattern::{Cidr, Glob};
use super::reader::Section;
use super::template::{Name, Template};
use super::topics::{Retain, Topics, Unmatched};
use super::{DeviceLimits, Needs, OnRefused, Properties};
use crate::auth::x509::{Fingerprint, Old, fingerprints};
use crate::auth::{CredentialKind, Permissions};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// One rule.
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// File and line, for `check --as`.
    pub(crate) place: Arc<str>,
    when: When,
    pub(crate) action: Action,
}

/// What a rule that matches does.
pub(crate) enum Action {
    Deny,
    Admit {
        device_id: Template,
        module_id: Option<Template>,
        permissions: Permissions,
        limits: DeviceLimits,
        terms: Terms,
    },
}

/// What a rule or an entry asks of a CONNECT beside its credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// A CONNECT without client id gets the device's.
    pub(crate) assign_client_id: bool,
    /// Longest time from now to the end of a SAS token.
    pub(crate) max_token_life: Option<Duration>,
    /// Old certificates that are admitted.
    pub(crate) allow_x509: Old,
    /// Topics of its own; `None`: as IoT Hub has them.
    pub(crate) topics: Option<Arc<Topics>>,
}

/// Keys of a rule that admits.
const DENY_HAS_NO: [&str; 13] = [
    "device_id",
    "module_id",
    "allow",
    "limits",
    "properties",
    "on_refused",
    "publish",
    "subscribe",
    "retain",
    "unmatched",
    "assign_client_id",
    "max_token_life",
    "allow_x509",
];

/// The conditions; all of those given have to hold.
#[derive(Default)]
struct When {
    credentials: Vec<CredentialKind>,
    issuer_ca: Option<Vec<Fingerprint>>,
    identity: Option<Glob>,
    listeners: Vec<String>,
    sources: Vec<Cidr>,
    username: Option<Glob>,
}

/// Proved and claimed names of one credential, as rules see them.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) credential: CredentialKind,
    /// The proved name; of a certificate its common name.
    pub(crate) identity: Option<&'a str>,
    /// The only alternative name of a certificate.
    pub(crate) san: Option<&'a str>,
    /// Every name of a certificate.
    pub(crate) names: (&'a [Box<str>], &'a [Box<str>]),
    /// CAs that verified the certificate.
    pub(crate) anchors: &'a [Fingerprint],
    pub(crate) listener: &'a str,
    pub(crate) source: IpAddr,
    pub(crate) username: Option<&'a str>,
    pub(crate) client_id: &'a str,
}

impl<'a> Subject<'a> {
    /// What a template may insert.
    pub(crate) fn value(&self, name: Name, by_san: bool) -> Option<&'a str> {
        match name {
            Name::Identity if by_san => self.san,
            Name::Identity => self.identity,
            Name::Cn if self.credential == CredentialKind::X509 => self.identity,
            Name::Cn => None,
            Name::San => self.san,
            Name::Username => self.username,
            Name::ClientId => Some(self.client_id),
        }
    }
}

impl Rule {
    /// Old certificates it admits.
    pub(super) fn allow_x509(&self) -> Old {
        match &self.action {
            Action::Deny => Old::default(),
            Action::Admit { terms, .. } => terms.allow_x509,
        }
    }

    pub(super) fn needs(&self) -> Needs<'_> {
        Needs {
            rule: &self.name,
            place: &self.place,
            issuer_cas: self.when.issuer_ca.as_deref().unwrap_or_default(),
            listeners: &self.when.listeners,
        }
    }

    /// Whether the rule speaks about this subject; if not, the condition that does not hold.
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> Result<(), &'static str> {
        let when = &self.when;
        if !when.credentials.is_empty() && !when.credentials.contains(&subject.credential) {
            return Err("`credential` is another kind");
        }
        let is_certificate = subject.credential == CredentialKind::X509;
        match &when.issuer_ca {
            Some(cas) if !cas.iter().any(|ca| subject.anchors.contains(ca)) => {
                return Err("`issuer_ca` did not verify the certificate");
            }
            None if is_certificate && matches!(self.action, Action::Admit { .. }) => {
                return Err("certificates are admitted only by a rule with `issuer_ca`");
            }
            _ => {}
        }
        if !when.listeners.is_empty() && !when.listeners.iter().any(|l| l == subject.listener) {
            return Err("`listener` is another one");
        }
        if !when.sources.is_empty() && !when.sources.iter().any(|s| s.contains(subject.source)) {
            return Err("`source` does not hold the address");
        }
        if let Some(glob) = &when.identity
            && !self.identity_fits(glob, subject)
        {
            return Err("`identity` does not fit");
        }
        if let Some(glob) = &when.username
            && !subject.username.is_some_and(|name| glob.matches(name))
        {
            return Err("`username` does not fit");
        }
        Ok(())
    }

    /// A rule that admits looks at the one name its template uses; a rule that denies looks at
    /// all of them, so that a second name cannot slip by.
    fn identity_fits(&self, glob: &Glob, subject: &Subject<'_>) -> bool {
        match &self.action {
            Action::Deny if subject.credential == CredentialKind::X509 => {
                let (cns, sans) = subject.names;
                cns.iter().chain(sans).any(|name| glob.matches(name))
            }
            Action::Deny => subject.identity.is_some_and(|name| glob.matches(name)),
            Action::Admit { device_id, .. } => {
                let name = subject.value(Name::Identity, device_id.uses(Name::San));
                name.is_some_and(|name| glob.matches(name))
            }
        }
    }

    pub(super) fn parse(mut section: Section<'_, '_>, index: usize) -> Option<Self> {
        let place: Arc<str> = section.place().into();
        let name = section.text("name");
        let when = section.child("when").map(parse_when);
        let deny = section.flag("deny").unwrap_or(false);
        let device_id = section.parsed("device_id", Template::parse);
        let module_id = section.parsed("module_id", Template::parse);
        let permissions = parse_allow(&mut section);
        let limits = parse_limits(&mut section);
        let terms = parse_terms(&mut section);
        let when = when.unwrap_or_default();
        let action = if deny {
            for key in DENY_HAS_NO {
                if section.has(key) {
                    section.problem(key, "means nothing in a rule with deny = true");
                }
            }
            Some(Action::Deny)
        } else {
            if !section.has("device_id") {
                section.problem(
                    "",
                    "needs device_id = \"{identity}\" or the like, or deny = true",
                );
            }
            device_id.map(|device_id| Action::Admit {
                device_id,
                module_id,
                permissions,
                limits,
                terms,
            })
        };
        if let Some(action) = &action {
            check_sense(&section, &when, action);
        }
        section.finish();
        Some(Self {
            name: name.unwrap_or_else(|| format!("rule {}", index + 1)).into(),
            place,
            when,
            action: action?,
        })
    }
}

/// Problems between the keys of a rule.
fn check_sense(section: &Section<'_, '_>, when: &When, action: &Action) {
    let only_x509 = when.credentials == [CredentialKind::X509];
    if when.issuer_ca.is_some() && !only_x509 {
        section.problem("when", "issuer_ca needs credential = \"x509\" beside it");
    }
    let Action::Admit {
        device_id,
        module_id,
        terms,
        ..
    } = action
    else {
        return;
    };
    let templates = || [Some(device_id), module_id.as_ref()].into_iter().flatten();
    let uses = |name| templates().any(|t| t.uses(name));
    if terms.assign_client_id && uses(Name::ClientId) {
        section.problem(
            "assign_client_id",
            "a client id that was not sent cannot name the device; use {identity} or the like",
        );
    }
    let kinds = &when.credentials;
    if terms.max_token_life.is_some() && !kinds.is_empty() && !kinds.contains(&CredentialKind::Sas)
    {
        section.problem("max_token_life", "is about SAS tokens; the rule is not");
    }
    if terms.allow_x509 != Old::default() && !only_x509 {
        section.problem("allow_x509", "needs when.credential = \"x509\"");
    }
    if when.credentials.contains(&CredentialKind::X509) && when.issuer_ca.is_none() {
        section.problem(
            "when",
            "a rule that admits certificates needs issuer_ca, the CA that may name devices; \
             self-signed certificates are registered by thumbprint in a [[device]]",
        );
    }
    if (uses(Name::Cn) || uses(Name::San)) && !only_x509 {
        section.problem(
            "device_id",
            "{cn} and {san} need when.credential = \"x509\"",
        );
    }
    if uses(Name::Cn) && uses(Name::San) {
        section.problem(
            "device_id",
            "a device's name comes from {cn} or from {san}, not both",
        );
    }
    let claimed = device_id.uses(Name::ClientId)
        || (device_id.uses(Name::Username) && when.credentials != [CredentialKind::Password]);
    let bound = when.identity.is_some() || when.issuer_ca.is_some();
    if claimed && (when.credentials.is_empty() || !bound) {
        section.problem(
            "device_id",
            "lets every holder of such a credential pick its device id; \
             say whose it is by when.credential and when.identity or when.issuer_ca",
        );
    }
}

fn parse_when(mut section: Section<'_, '_>) -> When {
    let mut when = When::default();
    for text in section.texts("credential") {
        match text.as_str() {
            "psk" => when.credentials.push(CredentialKind::Psk),
            "x509" => when.credentials.push(CredentialKind::X509),
            "sas" => when.credentials.push(CredentialKind::Sas),
            "password" => when.credentials.push(CredentialKind::Password),
            _ => section.problem("credential", "must be psk, x509, sas or password"),
        }
    }
    let paths = section.texts("issuer_ca");
    if section.has("issuer_ca") {
        when.issuer_ca = Some(read_cas(&section, &paths));
    }
    when.identity = section.parsed("identity", Glob::parse);
    when.username = section.parsed("username", Glob::parse);
    when.listeners = section.texts("listener");
    for text in section.texts("source") {
        match Cidr::parse(&text) {
            Ok(range) => when.sources.push(range),
            Err(error) => section.problem("source", error),
        }
    }
    section.finish();
    when
}

fn read_cas(section: &Section<'_, '_>, paths: &[String]) -> Vec<Fingerprint> {
    let mut cas = Vec::new();
    for written in paths {
        let path = section.doc.path(written);
        match (section.doc.resolvers.read)(&path) {
            Err(error) => section.problem("issuer_ca", error),
            Ok(file) => match fingerprints(&file) {
                Ok(found) => cas.extend(found),
                Err(error) => {
                    section.problem("issuer_ca", format!("{} {error}", path.display()));
                }
            },
        }
    }
    cas
}

/// `allow`, default everything.
pub(super) fn parse_allow(section: &mut Section<'_, '_>) -> Permissions {
    let texts = section.texts("allow");
    if !section.has("allow") {
        return Permissions::ALL;
    }
    let mut permissions = Permissions::NONE;
    for text in texts {
        match text.as_str() {
            "telemetry" => permissions.telemetry = true,
            "commands" => permissions.commands = true,
            "methods" => permissions.methods = true,
            "twin" => permissions.twin = true,
            _ => section.problem("allow", "must be telemetry, commands, methods or twin"),
        }
    }
    permissions
}

/// `limits = { messages = "20/s", payload = "64KiB" }`, `properties = "lenient"` and
/// `on_refused = "file"`.
pub(super) fn parse_limits(section: &mut Section<'_, '_>) -> DeviceLimits {
    let mut parsed = DeviceLimits {
        properties: section
            .parsed("properties", parse_properties)
            .unwrap_or_default(),
        on_refused: section
            .parsed("on_refused", parse_on_refused)
            .unwrap_or_default(),
        ..DeviceLimits::default()
    };
    if let Some(mut limits) = section.child("limits") {
        parsed.messages_per_s = limits.parsed("messages", parse_rate);
        parsed.payload_bytes = limits.parsed("payload", parse_size);
        limits.finish();
    }
    parsed
}

fn parse_properties(text: &str) -> Result<Properties, &'static str> {
    match text {
        "strict" => Ok(Properties::Strict),
        "lenient" => Ok(Properties::Lenient),
        _ => Err("must be \"strict\" or \"lenient\""),
    }
}

fn parse_on_refused(text: &str) -> Result<OnRefused, &'static str> {
    match text {
        "close" => Ok(OnRefused::Close),
        "discard" => Ok(OnRefused::Discard),
        "file" => Ok(OnRefused::File),
        _ => Err("must be \"close\", \"discard\" or \"file\""),
    }
}

/// `assign_client_id`, `max_token_life`, `allow_x509`, and what there is about topics.
pub(super) fn parse_terms(section: &mut Section<'_, '_>) -> Terms {
    Terms {
        assign_client_id: section.flag("assign_client_id").unwrap_or(false),
        max_token_life: section.parsed("max_token_life", parse_life),
        allow_x509: parse_old(section),
        topics: parse_topics(section),
    }
}

/// `publish`, `subscribe`, `retain` and `unmatched`.
fn parse_topics(section: &mut Section<'_, '_>) -> Option<Arc<Topics>> {
    let retain = |text: &str| match text {
        "mqtt-retain" => Ok(Retain::MqttRetain),
        "x-opt-retain" => Ok(Retain::XOptRetain),
        "refuse" => Ok(Retain::Refuse),
        _ => Err("must be \"mqtt-retain\", \"x-opt-retain\" or \"refuse\""),
    };
    let unmatched = |text: &str| match text {
        "reject" => Ok(Unmatched::Reject),
        "telemetry" => Ok(Unmatched::Telemetry),
        "drop" => Ok(Unmatched::Drop),
        _ => Err("must be \"reject\", \"telemetry\" or \"drop\""),
    };
    let publish = section.texts("publish");
    let subscribe = section.text("subscribe");
    let retain = section.parsed("retain", retain).unwrap_or_default();
    let unmatched = section.parsed("unmatched", unmatched).unwrap_or_default();
    match Topics::parse(&publish, subscribe.as_deref(), retain, unmatched) {
        Ok(topics) => (topics != Topics::default()).then(|| Arc::new(topics)),
        Err((key, error)) => {
            section.problem(key, error);
            None
        }
    }
}

/// `allow_x509 = ["v1", "any_eku"]`.
fn parse_old(section: &mut Section<'_, '_>) -> Old {
    let mut old = Old::default();
    for text in section.texts("allow_x509") {
        match text.as_str() {
            "v1" => old.v1 = true,
            "any_eku" => old.any_eku = true,
            _ => section.problem("allow_x509", "must be v1 or any_eku"),
        }
    }
    old
}

/// The life of a token: `90m`, `24h`, `7d`.
///
/// # Errors
/// How it must be written.
pub fn parse_life(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "must be a time such as \"24h\", \"90m\" or \"7d\", 1m to 3650d";
    let (digits, factor) = match text.chars().last() {
        Some('m') => (text.strip_suffix('m'), 60),
        Some('h') => (text.strip_suffix('h'), 3600),
        Some('d') => (text.strip_suffix('d'), 86_400),
        _ => (None, 0),
    };
    let count: u64 = digits.and_then(|d| d.parse().ok()).ok_or(FORM)?;
    let seconds = count.checked_mul(factor).ok_or(FORM)?;
    (60..=3650 * 86_400)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
        .ok_or(FORM)
}

fn parse_rate(text: &str) -> Result<NonZeroU32, &'static str> {
    const FORM: &str = "must be a rate such as \"20/s\", 1/s or more";
    let count = text.strip_suffix("/s").ok_or(FORM)?;
    count.trim().parse().map_err(|_| FORM)
}

fn parse_size(text: &str) -> Result<usize, &'static str> {
    const FORM: &str = "must be a size such as \"64KiB\", 1 B to 256KiB (the hub's limit)";
    const PAYLOAD_MAX: usize = 256 * 1024;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1024,
        "KB" | "kB" => 1000,
        _ => return Err(FORM),
    };
    let count: usize = digits.parse().map_err(|_| FORM)?;
    let bytes = count.checked_mul(factor).ok_or(FORM)?;
    (1..=PAYLOAD_MAX)
        .contains(&bytes)
        .then_some(bytes)
        .ok_or(FORM)
}
