//! Proved names × rules → which device, with what rights. No proof is checked here.
//!
//! One function serves CONNECT, the re-check after a reload, `check --as` and `[[expect]]`, so
//! that what operators test is what devices get.

use super::denial::{self, Denial};
use super::explain::Trace;
use super::identity::{DeviceId, ModuleId, is_client_id, parse_client_id};
use super::rules::{Action, DeviceEntry, DeviceLimits, Name, Owner, Rule, RuleSet, Subject, Terms};
use super::x509::{Certificate, Fingerprint};
use super::{CredentialKind, Permissions};
use crate::runtime::clock::Unix;
use std::net::IpAddr;
use std::sync::Arc;

/// A credential that was proved. Holds names, never keys.
#[derive(Debug)]
pub(crate) enum Proof {
    /// The key of this identity.
    Psk { identity: Box<str> },
    /// The private key of this certificate.
    X509 {
        certificate: Box<Certificate>,
        /// A configured CA verified it.
        trusted: bool,
        /// Which ones.
        anchors: Vec<Fingerprint>,
    },
    /// A key of the device the client id names.
    Sas,
    /// The password of the user name.
    Password,
}

impl Proof {
    pub(crate) fn kind(&self) -> CredentialKind {
        match self {
            Self::Psk { .. } => CredentialKind::Psk,
            Self::X509 { .. } => CredentialKind::X509,
            Self::Sas => CredentialKind::Sas,
            Self::Password => CredentialKind::Password,
        }
    }
}

/// What a connection proved and claimed; kept with the session, to ask again after a reload.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Transport first.
    pub(crate) proofs: Vec<Proof>,
    pub(crate) listener: Box<str>,
    pub(crate) source: IpAddr,
    pub(crate) username: Option<Box<str>>,
    /// As CONNECT has it. Without one, what a SAS token's scope names, or empty.
    pub(crate) client_id: Box<str>,
    /// Whether CONNECT had one.
    pub(crate) client_id_sent: bool,
    /// When the SAS token ends, with the clock skew that is granted.
    pub(crate) expires: Option<Unix>,
}

/// What rules or an entry give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) device: DeviceId,
    pub(crate) module: Option<ModuleId>,
    pub(crate) credential: CredentialKind,
    pub(crate) permissions: Permissions,
    pub(crate) limits: DeviceLimits,
    pub(crate) rule: Arc<str>,
    pub(crate) terms: Terms,
}

/// Where a credential is registered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    Device(u32),
    Fleet(u32),
    /// Nowhere; a CA vouches for it.
    ByCa,
}

/// Decides one proof of a connection.
///
/// # Errors
/// Why not.
pub(crate) fn authorize(
    rules: &RuleSet,
    facts: &Facts,
    proof: &Proof,
    now: Unix,
    trace: &mut Trace,
) -> Result<Granted, Denial> {
    let registered = registered(rules, facts, proof, now)?;
    let subject = subject(facts, proof);
    let granted = match first_match(rules, &subject, trace) {
        Some(rule) => by_rule(rule, &subject)?,
        None => by_entry(rules, registered, &subject, trace)?,
    };
    trace.names(&granted);
    if !facts.client_id_sent && !granted.terms.assign_client_id {
        return Err(denial::CLIENT_ID_MISSING);
    }
    let id = &*facts.client_id;
    if !id.is_empty() && !is_client_id(id, &granted.device, granted.module.as_ref()) {
        return Err(denial::CLIENT_ID_MISMATCH);
    }
    if let (Proof::Sas, Some(max), Some(ends)) =
        (proof, granted.terms.max_token_life, facts.expires)
    {
        // The device's clock may be ahead by the skew, which `ends` has in it already.
        let skew = rules.sas.clock_skew;
        if ends > now + max + skew + skew {
            return Err(denial::SAS_LIFE_TOO_LONG);
        }
    }
    if let Proof::X509 { certificate, .. } = proof {
        let (is, may) = (certificate.old, granted.terms.allow_x509);
        if is.v1 && !may.v1 {
            return Err(denial::X509_V1);
        }
        if is.any_eku && !may.any_eku {
            return Err(denial::X509_ANY_EKU);
        }
    }
    guard(rules, registered, &granted, trace)?;
    Ok(granted)
}

/// Both proofs of a connection have to name the same device; it may do what both allow.
pub(crate) fn combine(first: Option<Granted>, second: Granted) -> Result<Granted, Denial> {
    let Some(mut both) = first else {
        return Ok(second);
    };
    if both.device != second.device || both.module != second.module {
        return Err(denial::PROOFS_DISAGREE);
    }
    both.permissions.telemetry &= second.permissions.telemetry;
    both.permissions.commands &= second.permissions.commands;
    both.terms.topics = agreed(both.terms.topics, second.terms.topics);
    both.limits = DeviceLimits {
        messages_per_s: smaller(both.limits.messages_per_s, second.limits.messages_per_s),
        payload_bytes: smaller(both.limits.payload_bytes, second.limits.payload_bytes),
        properties: agreed(both.limits.properties, second.limits.properties),
        on_refused: agreed(both.limits.on_refused, second.limits.on_refused),
    };
    Ok(both)
}

/// What both say, or else the default, which allows least.
fn agreed<T: PartialEq + Default>(a: T, b: T) -> T {
    if a == b { a } else { T::default() }
}

fn smaller<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn registered(
    rules: &RuleSet,
    facts: &Facts,
    proof: &Proof,
    now: Unix,
) -> Result<Registered, Denial> {
    match proof {
        Proof::Psk { identity } => match rules.psk_owner(identity) {
            Some(Owner::Device(index)) => Ok(Registered::Device(index)),
            Some(Owner::Fleet(index)) => Ok(Registered::Fleet(index)),
            None => Err(denial::PSK_UNKNOWN),
        },
        Proof::X509 {
            certificate,
            trusted,
            ..
        } => {
            let entry = rules.device_by_certificate(certificate);
            if entry.is_none() && !trusted {
                let named = rules.device_by_id(&facts.client_id);
                return Err(match named {
                    Some((_, entry)) if entry.has_x509 => denial::X509_THUMBPRINT,
                    _ => denial::X509_UNKNOWN,
                });
            }
            certificate.check(now)?;
            Ok(entry.map_or(Registered::ByCa, |(index, _)| Registered::Device(index)))
        }
        Proof::Sas => match rules.device_by_id(&facts.client_id) {
            Some((index, entry)) if entry.sas_keys().is_some() => Ok(Registered::Device(index)),
            _ => Err(denial::DEVICE_UNKNOWN),
        },
        Proof::Password => {
            let username = facts.username.as_deref().unwrap_or_default();
            match rules.device_by_username(username) {
                Some((index, entry)) if entry.password.is_some() => Ok(Registered::Device(index)),
                _ => Err(denial::BAD_PASSWORD),
            }
        }
    }
}

fn subject<'a>(facts: &'a Facts, proof: &'a Proof) -> Subject<'a> {
    let mut subject = Subject {
        credential: proof.kind(),
        identity: None,
        san: None,
        names: (&[], &[]),
        anchors: &[],
        listener: &facts.listener,
        source: facts.source,
        username: facts.username.as_deref(),
        client_id: &facts.client_id,
    };
    match proof {
        Proof::Psk { identity } => subject.identity = Some(identity),
        Proof::X509 {
            certificate,
            trusted,
            anchors,
        } => {
            subject.identity = certificate.common_name();
            subject.san = certificate.alternative_name();
            subject.names = (&certificate.common_names, &certificate.alternative_names);
            if *trusted {
                subject.anchors = anchors;
            }
        }
        Proof::Sas => subject.identity = facts.client_id.split('/').next(),
        Proof::Password => subject.identity = facts.username.as_deref(),
    }
    subject
}

fn first_match<'r>(
    rules: &'r RuleSet,
    subject: &Subject<'_>,
    trace: &mut Trace,
) -> Option<&'r Rule> {
    for rule in &rules.rules {
        match rule.matches(subject) {
            Ok(()) => {
                trace.step(&rule.name, &rule.place, "fits and decides");
                return Some(rule);
            }
            Err(why) => trace.step(&rule.name, &rule.place, why),
        }
    }
    None
}

fn by_rule(rule: &Rule, subject: &Subject<'_>) -> Result<Granted, Denial> {
    let (device_id, module_id, permissions, limits, terms) = match &rule.action {
        Action::Deny => return Err(denial::RULE_DENIED),
        Action::Admit {
            device_id,
            module_id,
            permissions,
            limits,
            terms,
        } => (device_id, module_id, permissions, limits, terms),
    };
    let by_san = device_id.uses(Name::San);
    let value = |name| subject.value(name, by_san);
    let device = device_id.render(value).ok_or(denial::DEVICE_ID_INVALID)?;
    let module = match module_id {
        None => None,
        Some(template) => {
            let id = template.render(value).ok_or(denial::DEVICE_ID_INVALID)?;
            Some(ModuleId::parse(id.as_str()).map_err(|_| denial::DEVICE_ID_INVALID)?)
        }
    };
    Ok(Granted {
        device,
        module,
        credential: subject.credential,
        permissions: *permissions,
        limits: *limits,
        rule: rule.name.clone(),
        terms: terms.clone(),
    })
}

fn by_entry(
    rules: &RuleSet,
    registered: Registered,
    subject: &Subject<'_>,
    trace: &mut Trace,
) -> Result<Granted, Denial> {
    match registered {
        Registered::ByCa => Err(denial::NO_RULE),
        Registered::Device(index) => {
            let entry = rules.device(index).ok_or(denial::NO_RULE)?;
            trace.step(
                &entry.name,
                &entry.place,
                "registers this credential and decides",
            );
            Ok(Granted {
                device: entry.id.clone(),
                module: entry.module.clone(),
                credential: subject.credential,
                permissions: entry.permissions,
                limits: entry.limits,
                rule: entry.name.clone(),
                terms: entry.terms.clone(),
            })
        }
        Registered::Fleet(index) => {
            let fleet = rules.fleet(index).ok_or(denial::NO_RULE)?;
            trace.step(&fleet.name, &fleet.place, "lists this identity and decides");
            let identity = subject.identity.ok_or(denial::DEVICE_ID_INVALID)?;
            Ok(Granted {
                device: DeviceId::parse(identity).map_err(|_| denial::DEVICE_ID_INVALID)?,
                module: None,
                credential: subject.credential,
                permissions: fleet.permissions,
                limits: fleet.limits,
                rule: fleet.name.clone(),
                terms: fleet.terms.clone(),
            })
        }
    }
}

/// An id with an entry of its own belongs to the credentials registered there.
fn guard(
    rules: &RuleSet,
    registered: Registered,
    granted: &Granted,
    trace: &mut Trace,
) -> Result<(), Denial> {
    let device = rules.device_by_id(granted.device.as_str());
    let entry = match &granted.module {
        None => device,
        Some(module) => rules.device_by_id(&format!("{}/{module}", granted.device)),
    };
    let disabled = |found: Option<(u32, &DeviceEntry)>| found.is_some_and(|(_, e)| !e.enabled);
    if disabled(device) || disabled(entry) {
        return Err(denial::DEVICE_DISABLED);
    }
    match entry {
        Some((index, entry)) if registered != Registered::Device(index) => {
            trace.step(
                &entry.name,
                &entry.place,
                "keeps its id for its own credentials",
            );
            Err(denial::DEVICE_RESERVED)
        }
        _ => Ok(()),
    }
}

/// Whether a text can be a client id at all.
pub(crate) fn check_client_id(text: &str) -> Result<(DeviceId, Option<ModuleId>), Denial> {
    parse_client_id(text).map_err(|_| denial::CLIENT_ID_INVALID)
}
