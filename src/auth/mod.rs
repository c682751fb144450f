//! Transport proof + CONNECT → an authenticated device, or a reason.
//!
//! Pure: no sockets, no clock, no files. The only maker of [`AuthenticatedDevice`], and the only
//! place that says no to a device. No rule, no device: deny.

mod authorize;
mod decide;
mod denial;
mod explain;
pub mod identity;
pub mod password;
pub mod rules;
pub mod sas;
pub mod throttle;
pub mod username;
mod who;
pub mod x509;

pub use decide::{on_record, recheck};
pub use denial::{ALL as DENIALS, BUSY, Denial, DenialKind};
pub use explain::{Explanation, Outcome, Step, explain};
pub use who::Who;

use authorize::{Facts, Proof};
use identity::{DeviceId, ModuleId};
use rules::DeviceLimits;
use std::net::IpAddr;
use std::sync::Arc;

/// Proof that a device passed the rules. Only this module makes one; an address upstream can be
/// built from nothing else.
#[derive(Clone, Debug)]
pub struct AuthenticatedDevice {
    device: DeviceId,
    module: Option<ModuleId>,
    credential: CredentialKind,
    permissions: Permissions,
    topics: Option<Arc<rules::Topics>>,
    rule: Arc<str>,
    /// What it proved and claimed, to ask the rules again after a reload.
    facts: Arc<Facts>,
}

impl AuthenticatedDevice {
    /// The device's id in the hub's registry.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The module's id, when a module of the device connected.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleId> {
        self.module.as_ref()
    }

    /// Name of the listener it came by, and its address.
    #[must_use]
    pub fn came_by(&self) -> (&str, IpAddr) {
        (&self.facts.listener, self.facts.source)
    }

    /// Its client id, when the rules gave it because CONNECT had none.
    #[must_use]
    pub fn assigned_client_id(&self) -> Option<String> {
        let id = || match &self.module {
            None => self.device.to_string(),
            Some(module) => format!("{}/{module}", self.device),
        };
        (!self.facts.client_id_sent).then(id)
    }

    /// How it proved itself.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// Topics of its own, when its rule gives some.
    #[must_use]
    pub fn topics(&self) -> Option<&rules::Topics> {
        self.topics.as_deref()
    }

    /// What its certificate was trusted for, when a CA of the listener vouched for it.
    #[must_use]
    pub fn vouched(&self) -> Option<Vouched<'_>> {
        let vouched = |proof| match proof {
            &Proof::X509 {
                ref certificate,
                trusted: true,
                ref anchors,
            } => Some(Vouched {
                listener: &self.facts.listener,
                anchors,
                issuer: &certificate.issuer,
                serial: &certificate.serial,
            }),
            _ => None,
        };
        self.facts.proofs.iter().find_map(vouched)
    }

    /// The name of the rule or device entry that admitted it.
    #[must_use]
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }
}

/// A certificate that was trusted, as far as a listener's new CAs and revocation lists can change
/// that.
#[derive(Clone, Copy, Debug)]
pub struct Vouched<'a> {
    /// The listener whose CA it was.
    pub listener: &'a str,
    /// SHA-256 of the CAs the chain leads to.
    pub anchors: &'a [x509::Fingerprint],
    /// SHA-256 of the issuer's name.
    pub issuer: &'a x509::Fingerprint,
    /// Serial number, as encoded.
    pub serial: &'a [u8],
}

/// The kinds of credential a listener can accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// A pre-shared key proved in the TLS handshake.
    Psk,
    /// A client certificate.
    X509,
    /// A SAS token signed with the device's key, in the password field.
    Sas,
    /// A user name and a password.
    Password,
}

impl CredentialKind {
    /// The metric label and log word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Psk => "psk",
            Self::X509 => "x509",
            Self::Sas => "sas",
            Self::Password => "password",
        }
    }
}

/// What a device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// May publish telemetry.
    pub telemetry: bool,
    /// May receive commands.
    pub commands: bool,
    /// May be called direct methods.
    pub methods: bool,
    /// May read and change its twin.
    pub twin: bool,
}

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self {
        telemetry: true,
        commands: true,
        methods: true,
        twin: true,
    };

    /// Nothing.
    pub const NONE: Self = Self {
        telemetry: false,
        commands: false,
        methods: false,
        twin: false,
    };

    /// The words of what is allowed, as rules write them.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.telemetry, "telemetry"),
            (self.commands, "commands"),
            (self.methods, "methods"),
            (self.twin, "twin"),
        ];
        all.into_iter()
            .filter_map(|(may, word)| may.then_some(word))
    }
}

/// What a CONNECT claims, with what its transport proved.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// What the transport proved.
    pub transport: Transport<'a>,
    /// Name of the listener.
    pub listener: &'a str,
    /// Credentials this listener takes.
    pub accept: &'a [CredentialKind],
    /// The peer's address.
    pub source: std::net::IpAddr,
    /// MQTT client id.
    pub client_id: &'a str,
    /// MQTT user name.
    pub username: Option<&'a str>,
    /// MQTT password.
    pub password: Option<&'a [u8]>,
    /// The hub's host name, as SAS scopes and IoT Hub user names carry it.
    pub hub_host: &'a str,
    /// Wall clock.
    pub now: crate::runtime::clock::Unix,
}

/// What the transport proved.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// Nothing: plain, or TLS without a client credential.
    None,
    /// The key of this PSK identity.
    Psk(&'a str),
    /// The private key of this certificate (DER chain, end entity first).
    Certificate {
        /// DER, end entity first.
        chain: &'a [Vec<u8>],
        /// Verified against the listener's client CA.
        trusted: bool,
        /// DER of every certificate of the listener's client CA file that verified the chain;
        /// a rule's `issuer_ca` has to be among them. Empty: no rule admits the certificate.
        anchors: &'a [Vec<u8>],
    },
}

/// The answer to a claim.
pub enum Decision {
    /// Admitted.
    Admit(Admission),
    /// Admitted if the password matches; the check costs milliseconds of CPU, so the driver runs
    /// it off the data threads.
    CheckPassword(PasswordCheck),
    /// Refused.
    Deny(Denial),
}

/// An admitted device and what bounds its session.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The proof.
    pub device: AuthenticatedDevice,
    /// When its credential ends (SAS expiry); the session ends then.
    pub expires: Option<crate::runtime::clock::Unix>,
    /// Bounds of this device's traffic.
    pub limits: DeviceLimits,
}

/// A password hash to check against the password given. Run it where CPU may be spent.
pub struct PasswordCheck {
    password: crate::config::secret::Secret,
    hash: password::StoredHash,
    /// What follows when the password is right.
    outcome: Box<Result<Admission, Denial>>,
}

/// Decides a claim against the rules.
#[must_use]
pub fn decide(rules: &rules::RuleSet, claim: &Claim<'_>) -> Decision {
    decide::evaluate(rules, claim, &mut explain::Trace::off())
}

#[cfg(test)]
mod tests;
