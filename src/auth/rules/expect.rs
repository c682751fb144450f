//! `[[expect]]`: tests of the rules, beside the rules; and the questions of `check --as`.
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
use super::reader::Section;
use super::rule::parse_life;
use crate::auth::authorize::{Facts, Proof, authorize, check_client_id};
use crate::auth::explain::{Explanation, Outcome, PROBE_TIME, Trace};
use crate::auth::rules::Problem;
use crate::auth::x509::{Certificate, Fingerprint, Old, fingerprints, parse_thumbprint};
use crate::auth::{CredentialKind, DENIALS};
use crate::runtime::clock::Unix;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A connection one could imagine: its credential counts as proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    credential: CredentialKind,
    name: String,
    thumbprint: Option<Box<[u8]>>,
    /// MQTT client id; empty: CONNECT has none.
    pub client_id: String,
    /// Listener's name.
    pub listener: String,
    /// Peer's address.
    pub source: IpAddr,
    /// MQTT user name.
    pub username: Option<String>,
    /// Alternative names of the certificate.
    pub san: Vec<String>,
    /// CAs that verified the certificate.
    pub anchors: Vec<Fingerprint>,
    /// How long the SAS token lives from now on; any life when not given.
    pub token_life: Option<Duration>,
}

impl Probe {
    /// Parses `psk:IDENTITY`, `x509:COMMON-NAME`, `thumbprint:HEX`, `sas:DEVICE` or
    /// `password:USER`. The client id is what stands after the colon until set otherwise.
    ///
    /// # Errors
    /// How it must be written.
    pub fn parse(connect: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be psk:IDENTITY, x509:COMMON-NAME, thumbprint:HEX, sas:DEVICE or \
                            password:USER";
        let (kind, name) = connect.split_once(':').ok_or(FORM)?;
        let mut thumbprint = None;
        let credential = match kind {
            "psk" => CredentialKind::Psk,
            "x509" => CredentialKind::X509,
            "thumbprint" => {
                thumbprint = Some(parse_thumbprint(name)?);
                CredentialKind::X509
            }
            "sas" => CredentialKind::Sas,
            "password" => CredentialKind::Password,
            _ => return Err(FORM),
        };
        if name.is_empty() {
            return Err(FORM);
        }
        let is_password = credential == CredentialKind::Password;
        Ok(Self {
            credential,
            name: name.to_owned(),
            thumbprint,
            client_id: name.to_owned(),
            listener: String::new(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            username: is_password.then(|| name.to_owned()),
            san: Vec::new(),
            anchors: Vec::new(),
            token_life: None,
        })
    }

    /// The kind of credential.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// Whether it is a certificate known by its name and its CA, not by its thumbprint.
    #[must_use]
    pub fn is_issued(&self) -> bool {
        self.credential == CredentialKind::X509 && self.thumbprint.is_none()
    }

    fn proof(&self) -> Proof {
        match self.credential {
            CredentialKind::Psk => Proof::Psk {
                identity: self.name.as_str().into(),
            },
            CredentialKind::Sas => Proof::Sas,
            CredentialKind::Password => Proof::Password,
            CredentialKind::X509 => Proof::X509 {
                certificate: Box::new(self.certificate()),
                trusted: self.thumbprint.is_none(),
                anchors: self.anchors.clone(),
            },
        }
    }

    fn certificate(&self) -> Certificate {
        let print = self.thumbprint.as_deref().unwrap_or_default();
        let name = match self.thumbprint {
            None => vec![self.name.as_str().into()],
            Some(_) => Vec::new(),
        };
        Certificate {
            common_names: name,
            alternative_names: self.san.iter().map(|n| n.as_str().into()).collect(),
            sha1: print.try_into().unwrap_or_default(),
            sha256: print.try_into().unwrap_or_default(),
            not_before: Unix::from_secs(0),
            not_after: Unix::from_secs(u64::MAX),
            serial: Box::default(),
            issuer: Default::default(),
            for_clients: true,
            signs: true,
            old: Old::default(),
        }
    }
}

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
    /// Which rule would decide about a connection, and why not the ones before it.
    #[must_use]
    pub fn explain_as(&self, probe: &Probe) -> Explanation {
        let mut trace = Trace::on();
        let sent = !probe.client_id.is_empty();
        let proof = probe.proof();
        let facts = Facts {
            proofs: Vec::new(),
            listener: probe.listener.as_str().into(),
            source: probe.source,
            username: probe.username.as_deref().map(Into::into),
            client_id: match (sent, probe.credential) {
                (false, CredentialKind::Sas) => probe.name.as_str().into(),
                _ => probe.client_id.as_str().into(),
            },
            client_id_sent: sent,
            expires: probe
                .token_life
                .map(|life| PROBE_TIME + life + self.sas.clock_skew),
        };
        let id = match facts.client_id.is_empty() {
            true => Ok(()),
            false => check_client_id(&facts.client_id).map(drop),
        };
        let granted = id.and_then(|()| authorize(self, &facts, &proof, PROBE_TIME, &mut trace));
        Explanation {
            steps: trace.into_steps(),
            outcome: granted.map(|granted| Outcome::of(&granted)),
            password_pending: false,
        }
    }

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
        let base = match got.client_id.split_once('/') {
            None => format!("devices/{}", got.client_id),
            Some((device, module)) => format!("devices/{device}/modules/{module}"),
        };
        if let Some(topic) = &self.publish {
            if !got.permissions.telemetry {
                return Err(format!("{} does not allow telemetry", got.rule));
            }
            let events = format!("{base}/messages/events");
            let rest = topic.strip_prefix(&events);
            if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Err(format!(
                    "{} may publish to {base}/messages/events/",
                    got.client_id
                ));
            }
        }
        if let Some(filter) = &self.subscribe {
            if !got.permissions.commands {
                return Err(format!("{} does not allow commands", got.rule));
            }
            let whole_module = got.client_id.contains('/') && *filter == format!("{base}/#");
            if *filter != format!("{base}/messages/devicebound/#") && !whole_module {
                return Err(format!(
                    "{} may subscribe to {base}/messages/devicebound/#",
                    got.client_id
                ));
            }
        }
        Ok(())
    }
}
