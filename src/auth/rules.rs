//! The local rules: devices, rules, PSK files. Deny by default.
//!
//! How a proved credential becomes a device:
//!
//! 1. The `[[rule]]`s are asked in order, file by file; the first whose `when` fits decides.
//! 2. A credential no rule speaks about is decided by its own entry: the `[[device]]` that
//!    registers it, or its line in a `[[psk_file]]`.
//! 3. Nothing left: denied.
//!
//! Whatever decided, a device id that has a `[[device]]` of its own can be taken only by a
//! credential registered there, and not at all while `enabled = false`.
//!
//! Parsing is pure and whole: it gets texts and resolvers, reports all problems of one pass, and
//! yields either a complete set or none, so that a reload changes everything or nothing.

mod device;
pub mod encoding;
mod expect;
mod open_end;
mod pattern;
mod probe;
pub mod psk_file;
mod psk_store;
mod reader;
mod rule;
mod template;
mod topics;

pub use encoding::PskHash;
pub use pattern::Cidr;
pub use probe::{Place, Probe};
pub use psk_store::{IDENTITY_BYTES_MAX, PskEntry};
pub use reader::Resolvers;
pub use rule::parse_life;
pub use topics::{Fit, Retain, Topics, Unmatched};

pub(crate) use device::{DeviceEntry, Fleet};
pub(crate) use psk_store::Owner;
pub(crate) use rule::{Action, Rule, Subject, Terms};
pub(crate) use template::Name;

use super::password::{DEFAULT_COST, StoredHash};
use super::sas::SasSettings;
use super::x509::{Certificate, Fingerprint, Old};
use psk_store::PskStore;
use reader::{Document, Problems, Section};
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;
use subtle::ConstantTimeEq;
use toml::de::DeTable;

/// One thing wrong in a file, and how to put it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it, with the line when it is known: `rules.toml:17`.
    pub file: String,
    /// What of it: `device[2].psk.key`, or empty.
    pub key: String,
    /// What is wrong and what to do. Never a value that may be secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}: {}: {}", self.file, self.key, self.message)
        }
    }
}

/// A rules file, already read.
#[derive(Clone, Copy)]
pub struct RulesText<'a> {
    /// Its path; paths inside are relative to its folder.
    pub name: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// How property bags that break the rules of wire sheet §8.2 are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Properties {
    /// The message is refused.
    #[default]
    Strict,
    /// Bad escapes stay as they are, the last of equal names counts, nameless ones are dropped.
    Lenient,
}

/// What becomes of a QoS 1 message the hub will never take, and MQTT 3.1.1 cannot refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefused {
    /// The connection is closed; the device sends it again.
    #[default]
    Close,
    /// It is acknowledged and gone.
    Discard,
    /// It is kept in `rules.refused_folder` and acknowledged.
    File,
}

/// Bounds of one device's traffic, and what becomes of messages outside them. `None` leaves the
/// process's own bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Uplink messages a second.
    pub messages_per_s: Option<NonZeroU32>,
    /// Uplink payload, bytes.
    pub payload_bytes: Option<usize>,
    /// Malformed property bags.
    pub properties: Properties,
    /// Messages that will never be accepted.
    pub on_refused: OnRefused,
}

/// What a rule set holds, for `check` and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounts {
    /// `[[device]]`
    pub devices: usize,
    /// `[[rule]]`
    pub rules: usize,
    /// PSK identities, of devices and files.
    pub psk_identities: usize,
    /// Those of them with a key of less than 16 bytes.
    pub psk_short_keys: usize,
    /// Memory of the PSK identities, bytes.
    pub psk_bytes: usize,
    /// `[[expect]]`
    pub expectations: usize,
}

impl RuleCounts {
    /// A warning about pre-shared keys that are soon guessed, if there are any.
    #[must_use]
    pub fn short_keys(&self) -> Option<String> {
        let noun = match self.psk_short_keys {
            0 => return None,
            1 => "identity has a key",
            _ => "identities have keys",
        };
        Some(format!(
            "{} PSK {noun} of less than 16 bytes, taken by min_key_bytes: who hears one handshake \
             can guess such a key; `psk lint` names them",
            self.psk_short_keys
        ))
    }
}

/// Everything the rules files say, checked and indexed. Swapped whole on reload.
#[derive(Default)]
pub struct RuleSet {
    devices: Vec<DeviceEntry>,
    /// By client id: `device` or `device/module`.
    by_id: HashMap<Box<str>, u32>,
    by_thumbprint: HashMap<Box<[u8]>, u32>,
    by_username: HashMap<Box<str>, u32>,
    psk: PskStore,
    fleets: Vec<Fleet>,
    open_ends: Vec<open_end::OpenEnd>,
    pub(crate) rules: Vec<Rule>,
    expectations: Vec<expect::Expectation>,
    /// Cost of the check an unknown user causes: the most frequent among the real ones.
    dummy_cost: Option<(u32, u32, u32)>,
    /// Old certificates any rule or device admits.
    allow_x509: Old,
    /// How SAS tokens are taken.
    pub sas: SasSettings,
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RuleSet").field(&self.counts()).finish()
    }
}

impl RuleSet {
    /// Parses rules files, in order.
    ///
    /// A file without any `[[device]]`, `[[rule]]` or `[[psk_file]]` is refused: an empty or cut
    /// off file must not lock out a fleet. So is a call without files.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn parse(files: &[RulesText<'_>], resolvers: &Resolvers<'_>) -> Result<Self, Vec<Problem>> {
        let problems = Problems::default();
        let mut set = Self::default();
        for file in files {
            set.read_file(*file, resolvers, &problems);
        }
        set.check_fleets(&problems);
        let rules = set.rules.iter().map(Rule::allow_x509);
        let devices = set.devices.iter().map(|device| device.terms.allow_x509);
        set.allow_x509 = rules.chain(devices).fold(Old::default(), Old::or);
        set.dummy_cost = set.most_frequent_cost();
        let problems = problems.into_vec();
        if problems.is_empty() {
            Ok(set)
        } else {
            Err(problems)
        }
    }

    fn read_file(&mut self, file: RulesText<'_>, resolvers: &Resolvers<'_>, problems: &Problems) {
        let text = file.text.strip_prefix('\u{feff}').unwrap_or(file.text);
        let doc = Document::new(file.name, text, resolvers, problems);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            let what = error.message().replace('\n', ", ");
            let text = format!("is not TOML at column {}: {what}", doc.column(at));
            problems.add(&doc.place(at), "", text);
        }
        if !errors.is_empty() {
            return; // what the rest would mean is a guess
        }
        let mut root = Section::new(&doc, table.get_ref());
        let entries = ["device", "rule", "psk_file"];
        if !entries.iter().any(|key| root.has(key)) {
            problems.add(
                file.name,
                "",
                "holds no [[device]], [[rule]] or [[psk_file]]; write one, or take the file out \
                 of [rules] files",
            );
        }
        if let Some(mut sas) = root.child("sas") {
            if let Some(skew) = sas.parsed("clock_skew", parse_skew) {
                self.sas.clock_skew = skew;
            }
            sas.finish();
        }
        for section in root.children("device") {
            device::read_device(section, self);
        }
        for section in root.children("psk_file") {
            device::read_psk_file(section, self);
        }
        for section in root.children("rule") {
            let index = self.rules.len();
            self.rules.extend(Rule::parse(section, index));
        }
        for section in root.children("expect") {
            self.expectations.extend(expect::parse(section));
        }
        root.finish();
    }

    /// An id stands in one place: in a file, or in an entry; an entry may only switch it off.
    fn check_fleets(&self, problems: &Problems) {
        for entry in self
            .devices
            .iter()
            .filter(|d| d.enabled || d.has_credential())
        {
            let id = entry.client_id();
            if let Some((Owner::Fleet(fleet), _)) = self.psk.get(id.as_bytes()) {
                let name = self.fleets.get(fleet as usize).map_or("", |f| &*f.name);
                let message = format!("{id} has a [[device]] and a line in {name}; keep one");
                problems.add(&entry.place, "", message);
            }
        }
    }

    fn most_frequent_cost(&self) -> Option<(u32, u32, u32)> {
        let mut count: HashMap<(u32, u32, u32), usize> = HashMap::new();
        for hash in self.devices.iter().filter_map(|d| d.password.as_ref()) {
            *count.entry(hash.cost()).or_default() += 1;
        }
        count
            .into_iter()
            .map(|(cost, n)| (n, cost))
            .max()
            .map(|(_, cost)| cost)
    }

    /// The keys of a PSK identity, for the TLS callback. Disabled devices are found too: they
    /// are refused at CONNECT, with a reason.
    #[must_use]
    pub fn psk(&self, identity: &[u8]) -> Option<PskEntry<'_>> {
        self.psk.get(identity).map(|(_, entry)| entry)
    }

    /// What is in the set.
    #[must_use]
    pub fn counts(&self) -> RuleCounts {
        RuleCounts {
            devices: self.devices.len(),
            rules: self.rules.len(),
            psk_identities: self.psk.len(),
            psk_short_keys: self.psk.short(),
            psk_bytes: self.psk.memory_bytes(),
            expectations: self.expectations.len(),
        }
    }

    /// Identities known by name, by the label of their credential.
    #[must_use]
    pub fn identities(&self) -> [(&'static str, usize); 4] {
        let sas = self
            .devices
            .iter()
            .filter(|device| device.sas_keys().is_some());
        [
            ("psk", self.psk.len()),
            (
                "x509",
                self.devices.iter().filter(|device| device.has_x509).count(),
            ),
            ("sas", sas.count()),
            ("password", self.by_username.len()),
        ]
    }

    pub(crate) fn psk_owner(&self, identity: &str) -> Option<Owner> {
        self.psk.get(identity.as_bytes()).map(|(owner, _)| owner)
    }

    pub(crate) fn device(&self, index: u32) -> Option<&DeviceEntry> {
        self.devices.get(index as usize)
    }

    pub(crate) fn fleet(&self, index: u32) -> Option<&Fleet> {
        self.fleets.get(index as usize)
    }

    /// The entry of a client id.
    pub(crate) fn device_by_id(&self, client_id: &str) -> Option<(u32, &DeviceEntry)> {
        let index = *self.by_id.get(client_id)?;
        Some((index, self.device(index)?))
    }

    /// Some user name of the rules, and its device.
    pub(crate) fn any_user(&self) -> Option<(&str, &str)> {
        let (name, index) = self.by_username.iter().next()?;
        Some((name, self.device(*index)?.id.as_str()))
    }

    pub(crate) fn device_by_username(&self, username: &str) -> Option<(u32, &DeviceEntry)> {
        let index = *self.by_username.get(username)?;
        Some((index, self.device(index)?))
    }

    /// The entry that registers a certificate, by SHA-256 or SHA-1 thumbprint.
    pub(crate) fn device_by_certificate(
        &self,
        certificate: &Certificate,
    ) -> Option<(u32, &DeviceEntry)> {
        let prints: [&[u8]; 2] = [&certificate.sha256, &certificate.sha1];
        let (_, index) = prints.iter().find_map(|print| {
            let (known, index) = self.by_thumbprint.get_key_value(*print)?;
            bool::from(known.ct_eq(print)).then_some((known, *index))
        })?;
        Some((index, self.device(index)?))
    }

    /// Whether a `[[device]]` registers this certificate (DER) by its thumbprint.
    #[must_use]
    pub fn registers_certificate(&self, der: &[u8]) -> bool {
        let parsed = Certificate::parse(der);
        parsed.is_ok_and(|certificate| self.device_by_certificate(&certificate).is_some())
    }

    /// Old certificates that any rule or device admits, for the handshake; the one that decides has
    /// the last word.
    #[must_use]
    pub const fn allow_x509(&self) -> Old {
        self.allow_x509
    }

    /// The hash an unknown user is checked against.
    pub(crate) fn dummy_password(&self) -> StoredHash {
        StoredHash::dummy(self.dummy_cost.unwrap_or(DEFAULT_COST))
    }

    /// Where a rule or entry says `on_refused = "file"`: what needs a folder.
    #[must_use]
    pub fn keeps_refused(&self) -> Option<&str> {
        let keeps = |limits: &DeviceLimits| limits.on_refused == OnRefused::File;
        let devices = self.devices.iter().map(|d| (&d.place, &d.limits));
        let fleets = self.fleets.iter().map(|f| (&f.place, &f.limits));
        let rules = self.rules.iter().filter_map(|rule| match &rule.action {
            Action::Admit { limits, .. } => Some((&rule.place, limits)),
            Action::Deny => None,
        });
        let mut all = devices.chain(fleets).chain(rules);
        all.find(|(_, limits)| keeps(limits))
            .map(|(place, _)| &**place)
    }

    /// What each rule expects of the configuration around it, for `check`.
    pub fn needs(&self) -> impl Iterator<Item = Needs<'_>> {
        self.rules.iter().map(Rule::needs)
    }
}

/// What a rule expects of the configuration around it.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The rule's name.
    pub rule: &'a str,
    /// File and line.
    pub place: &'a str,
    /// Certificates of `when.issuer_ca`: a listener's `client_ca` must hold one of them.
    pub issuer_cas: &'a [Fingerprint],
    /// `when.listener`: names of listeners.
    pub listeners: &'a [String],
}

fn parse_skew(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "must be a time such as \"5m\" or \"30s\", at most an hour";
    let (digits, factor) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').ok_or(FORM)?, 1),
    };
    let count: u64 = digits.parse().map_err(|_| FORM)?;
    let seconds = count.checked_mul(factor).filter(|s| *s <= 3600);
    seconds.map(Duration::from_secs).ok_or(FORM)
}

#[cfg(test)]
mod tests;
