//! Why a device is admitted or refused, step by step, for `check --as` and for tests of rules.

use super::authorize::Granted;
use super::denial::Denial;
use super::rules::{DeviceLimits, RuleSet, Topics};
use super::{Claim, CredentialKind, Decision, Permissions, decide};
use crate::runtime::clock::Unix;
use std::fmt;
use std::sync::Arc;

/// One rule or entry that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Name of the rule or entry.
    pub name: String,
    /// File and line.
    pub place: String,
    /// That it decides, or the condition that did not hold.
    pub what: &'static str,
}

impl Step {
    /// Whether this rule or entry is the one that decides.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.what.ends_with("decides")
    }
}

/// What would be granted. Not a proof: nothing upstream can be built from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `device` or `device/module`.
    pub client_id: String,
    /// The credential that counted.
    pub credential: CredentialKind,
    /// The rule or entry that decided.
    pub rule: Arc<str>,
    /// What the device may do.
    pub permissions: Permissions,
    /// Bounds of its traffic.
    pub limits: DeviceLimits,
    /// Topics of its own.
    pub topics: Option<Arc<Topics>>,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Rules and entries in the order asked; the last one decided, unless none did.
    pub steps: Vec<Step>,
    /// The device the rules name for the credential, whatever came of it.
    pub device: Option<String>,
    /// What came of it.
    pub outcome: Result<Outcome, Denial>,
    /// The password was not checked: the outcome is the one with the right password.
    pub password_pending: bool,
}

/// Explains the decision about a claim.
#[must_use]
pub fn explain(rules: &RuleSet, claim: &Claim<'_>) -> Explanation {
    let mut trace = Trace::on();
    let (decision, password_pending) = match decide::evaluate(rules, claim, &mut trace) {
        Decision::Admit(admission) => (Ok(admission), false),
        Decision::Deny(denial) => (Err(denial), false),
        Decision::CheckPassword(check) => (*check.outcome, true),
    };
    let outcome = decision.map(|a| Outcome {
        client_id: match a.device.module() {
            None => a.device.device().to_string(),
            Some(module) => format!("{}/{module}", a.device.device()),
        },
        credential: a.device.credential(),
        rule: a.device.rule().clone(),
        permissions: a.device.permissions(),
        limits: a.limits,
        topics: a.device.topics.clone(),
    });
    Explanation {
        device: trace.device().map(str::to_owned),
        steps: trace.into_steps(),
        outcome,
        password_pending,
    }
}

impl Outcome {
    pub(crate) fn of(granted: &Granted) -> Self {
        Self {
            client_id: match &granted.module {
                None => granted.device.to_string(),
                Some(module) => format!("{}/{module}", granted.device),
            },
            credential: granted.credential,
            rule: granted.rule.clone(),
            permissions: granted.permissions,
            limits: granted.limits,
            topics: granted.terms.topics.clone(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{} [{}]: {}", step.name, step.place, step.what)?;
        }
        if self.password_pending {
            writeln!(f, "with the right password:")?;
        }
        match &self.outcome {
            Err(denial) => write!(f, "refused: {denial}"),
            Ok(outcome) => write!(f, "{outcome}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<_> = self.permissions.words().collect();
        let rights = match rights.is_empty() {
            true => "nothing".to_owned(),
            false => rights.join(", "),
        };
        write!(
            f,
            "admitted as {} by {} ({}), allowed: {rights}",
            self.client_id,
            self.rule,
            self.credential.label()
        )?;
        if let Some(rate) = self.limits.messages_per_s {
            write!(f, ", {rate} messages/s")?;
        }
        match self.limits.payload_bytes {
            Some(bytes) => write!(f, ", payload up to {bytes} B"),
            None => Ok(()),
        }
    }
}

/// Collects steps when somebody asked for them; costs nothing otherwise.
pub(crate) struct Trace(Option<Seen>);

#[derive(Default)]
struct Seen {
    steps: Vec<Step>,
    device: Option<String>,
}

impl Trace {
    pub(crate) const fn off() -> Self {
        Self(None)
    }

    pub(crate) fn on() -> Self {
        Self(Some(Seen::default()))
    }

    pub(crate) fn step(&mut self, name: &str, place: &str, what: &'static str) {
        if let Some(seen) = &mut self.0 {
            seen.steps.push(Step {
                name: name.to_owned(),
                place: place.to_owned(),
                what,
            });
        }
    }

    /// The rules name this device.
    pub(crate) fn names(&mut self, granted: &Granted) {
        if let Some(seen) = &mut self.0 {
            seen.device = Some(Outcome::of(granted).client_id);
        }
    }

    pub(crate) fn device(&self) -> Option<&str> {
        self.0.as_ref()?.device.as_deref()
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.0.map(|seen| seen.steps).unwrap_or_default()
    }
}

/// A time no certificate of a probe is outside of.
pub(crate) const PROBE_TIME: Unix = Unix::from_secs(1);
