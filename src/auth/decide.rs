//! The decision about a CONNECT: check what was presented, then ask the rules.
//!
//! Every credential presented has to hold. A PSK or certificate device that also sends a
//! password or a SAS token is refused when that one is wrong, not accepted by that listener, or
//! names another device: a second credential can take rights away, never be ignored. An empty
//! password is no credential. A user name without a password proves nothing; after a PSK or a
//! certificate it is only looked at by rules, and, in IoT Hub's form, has to name the client id.
//!
//! What a device that proved nothing can learn depends only on what it sent: form, client id,
//! scope and expiry are judged before the registry is looked at, and after that an unknown
//! device costs the same work as a wrong key and gets the same words.

use super::authorize::{Facts, Granted, Proof, authorize, check_client_id, combine};
use super::denial::{self, Denial};
use super::explain::Trace;
use super::identity::{IdError, parse_client_id};
use super::rules::RuleSet;
use super::x509::{Certificate, fingerprint};
use super::{
    Admission, AuthenticatedDevice, Claim, CredentialKind, Decision, PasswordCheck, Permissions,
    Transport, sas, username,
};
use crate::runtime::clock::Unix;
use std::sync::Arc;

/// As [`super::decide`], with a record of the rules asked.
pub(crate) fn evaluate(rules: &RuleSet, claim: &Claim<'_>, trace: &mut Trace) -> Decision {
    match prove(rules, claim) {
        Err(denial) => Decision::Deny(denial),
        Ok(facts) => grant(rules, claim, facts, trace),
    }
}

/// Asks the rules again about a session that was admitted under older ones. Keys are not proved
/// again; a changed key counts from the next handshake on.
///
/// # Errors
/// Why the session has to end: its credential, entry or rule is gone, the device is disabled,
/// the certificate expired, or the rules give another device now.
pub fn recheck(
    rules: &RuleSet,
    device: &AuthenticatedDevice,
    now: Unix,
) -> Result<Admission, Denial> {
    let facts = &device.facts;
    let mut granted = None;
    for proof in &facts.proofs {
        let next = authorize(rules, facts, proof, now, &mut Trace::off())?;
        granted = Some(combine(granted, next)?);
    }
    let granted = granted.ok_or(denial::NO_CREDENTIALS)?;
    Ok(admission(granted, facts.clone()))
}

/// The device that had proved itself when a message of it was put on record, for the operator who
/// sends it again: with no right but to send, and no proof that would keep a session.
///
/// # Errors
/// When no device can have this client id.
pub fn on_record(client_id: &str) -> Result<AuthenticatedDevice, IdError> {
    let (device, module) = parse_client_id(client_id)?;
    Ok(AuthenticatedDevice {
        device,
        module,
        credential: CredentialKind::Psk,
        permissions: Permissions {
            telemetry: true,
            ..Permissions::NONE
        },
        topics: None,
        rule: "on record".into(),
        facts: Arc::new(Facts {
            proofs: Vec::new(),
            listener: "".into(),
            source: std::net::Ipv4Addr::UNSPECIFIED.into(),
            username: None,
            client_id: client_id.into(),
            client_id_sent: true,
            expires: None,
        }),
    })
}

/// Checks everything presented but a password, which the driver checks at the end.
fn prove(rules: &RuleSet, claim: &Claim<'_>) -> Result<Facts, Denial> {
    let sent = !claim.client_id.is_empty();
    if sent {
        check_client_id(claim.client_id)?;
    }
    let accepts = |kind: CredentialKind| {
        let accepted = claim.accept.contains(&kind);
        accepted.then_some(()).ok_or(denial::NOT_ACCEPTED)
    };
    let mut facts = Facts {
        proofs: Vec::with_capacity(1),
        listener: claim.listener.into(),
        source: claim.source,
        username: claim.username.map(Into::into),
        client_id: claim.client_id.into(),
        client_id_sent: sent,
        expires: None,
    };
    match claim.transport {
        Transport::None => {}
        Transport::Psk(identity) => {
            accepts(CredentialKind::Psk)?;
            let identity = identity.into();
            facts.proofs.push(Proof::Psk { identity });
        }
        Transport::Certificate {
            chain,
            trusted,
            anchors,
        } => {
            accepts(CredentialKind::X509)?;
            facts.proofs.push(Proof::X509 {
                certificate: Box::new(Certificate::of_chain(chain)?),
                trusted,
                anchors: anchors.iter().map(|der| fingerprint(der)).collect(),
            });
        }
    }
    let hub = claim.hub_host;
    match claim.password.filter(|password| !password.is_empty()) {
        None => {
            let named = claim.username.filter(|name| username::names_hub(name, hub));
            if let Some(name) = named.filter(|_| sent) {
                username::check(name, hub, claim.client_id)?;
            }
        }
        Some(token) if sas::looks_like_token(token) => {
            accepts(CredentialKind::Sas)?;
            prove_token(rules, claim, token, &mut facts)?;
        }
        Some(_) => {
            accepts(CredentialKind::Password)?;
            if claim.username.is_none_or(str::is_empty) {
                return Err(denial::USERNAME_MISSING);
            }
            facts.proofs.push(Proof::Password);
        }
    }
    if facts.proofs.is_empty() {
        return Err(denial::NO_CREDENTIALS);
    }
    Ok(facts)
}

/// Checks a token. Without a client id only its scope says whose it is.
fn prove_token(
    rules: &RuleSet,
    claim: &Claim<'_>,
    token: &[u8],
    facts: &mut Facts,
) -> Result<(), Denial> {
    let hub = claim.hub_host;
    let token = std::str::from_utf8(token).map_err(|_| denial::SAS_MALFORMED)?;
    if !facts.client_id_sent {
        facts.client_id = sas::device_of(token)?.into();
    }
    let id = &*facts.client_id;
    if let Some(name) = claim.username.filter(|name| !name.is_empty()) {
        username::check(name, hub, id)?;
    }
    let (device, module) = check_client_id(id)?;
    let entry = rules.device_by_id(id);
    let keys = entry.and_then(|(_, entry)| entry.sas_keys());
    let of = (&device, module.as_ref());
    facts.expires = Some(sas::verify(token, of, hub, keys, claim.now, rules.sas)?);
    facts.proofs.push(Proof::Sas);
    Ok(())
}

/// Asks the rules about every proof, transport first. A refusal that depends on the password
/// being right waits for the check.
fn grant(rules: &RuleSet, claim: &Claim<'_>, facts: Facts, trace: &mut Trace) -> Decision {
    let mut granted: Result<Option<Granted>, Denial> = Ok(None);
    let mut pending = false;
    for proof in &facts.proofs {
        pending |= matches!(proof, Proof::Password);
        granted = granted.and_then(|first| {
            let next = authorize(rules, &facts, proof, claim.now, trace)?;
            combine(first, next).map(Some)
        });
        if let (Err(denial), false) = (&granted, pending) {
            return Decision::Deny(*denial);
        }
    }
    let granted = granted.and_then(|granted| granted.ok_or(denial::NO_CREDENTIALS));
    let password = claim.password.filter(|_| pending);
    let user = claim.username.filter(|_| password.is_some());
    let entry = user.and_then(|name| rules.device_by_username(name));
    let known = entry.and_then(|(_, entry)| entry.password.clone());
    let outcome = match (granted, password, &known) {
        (Err(denial), Some(_), None) => {
            as_if_known(rules, claim, facts);
            Err(denial)
        }
        (granted, ..) => granted.map(|granted| admission(granted, Arc::new(facts))),
    };
    match password {
        Some(password) => {
            // without a hash the outcome is a refusal already; the work hides which one
            let hash = known.unwrap_or_else(|| rules.dummy_password());
            Decision::CheckPassword(PasswordCheck::new(password, hash, outcome))
        }
        None => match outcome {
            Ok(admission) => Decision::Admit(admission),
            Err(denial) => Decision::Deny(denial),
        },
    }
}

/// Does for a user that nobody is what is done for one of the rules, in the same time, and drops
/// what comes of it.
fn as_if_known(rules: &RuleSet, claim: &Claim<'_>, mut facts: Facts) {
    let Some((name, device)) = rules.any_user() else {
        return;
    };
    facts.username = Some(name.into());
    facts.client_id = device.into();
    let proof = Proof::Password;
    let granted = authorize(rules, &facts, &proof, claim.now, &mut Trace::off());
    let made = granted.map(|granted| admission(granted, Arc::new(facts)));
    drop(std::hint::black_box(made));
}

/// The one place where the [`AuthenticatedDevice`] of a connection is made.
fn admission(granted: Granted, facts: Arc<Facts>) -> Admission {
    Admission {
        expires: facts.expires,
        limits: granted.limits,
        device: AuthenticatedDevice {
            device: granted.device,
            module: granted.module,
            credential: granted.credential,
            permissions: granted.permissions,
            topics: granted.terms.topics,
            rule: granted.rule,
            facts,
        },
    }
}
