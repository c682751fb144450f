//! `[[device]]`: one device (or module) with its registered credentials, and `[[psk_file]]`.

use super::encoding::{
    KeyBytes, PSK_BYTES_FLOOR, PSK_BYTES_MAX, PSK_BYTES_MIN, PskHash, parse_psk, parse_sas_key,
};
use super::open_end;
use super::psk_file::{self, PskLine};
use super::psk_store::{IDENTITY_BYTES_MAX, InsertError, Owner, PskEntry};
use super::reader::Section;
use super::rule::{Terms, parse_allow, parse_limits, parse_terms};
use super::{DeviceLimits, RuleSet};
use crate::auth::Permissions;
use crate::auth::identity::{DeviceId, ModuleId};
use crate::auth::password::StoredHash;
use crate::auth::sas::DeviceKeys;
use crate::auth::x509::parse_thumbprint;
use crate::config::secret::Secret;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// One `[[device]]`.
pub(crate) struct DeviceEntry {
    pub(crate) id: DeviceId,
    pub(crate) module: Option<ModuleId>,
    /// `device thermo-1`, as logs and `check --as` name it.
    pub(crate) name: Arc<str>,
    pub(crate) place: Arc<str>,
    pub(crate) enabled: bool,
    pub(crate) permissions: Permissions,
    pub(crate) limits: DeviceLimits,
    pub(crate) terms: Terms,
    sas: Option<(Secret, Option<Secret>)>,
    pub(crate) password: Option<StoredHash>,
    pub(crate) has_psk: bool,
    pub(crate) has_x509: bool,
}

/// One `[[psk_file]]`.
pub(crate) struct Fleet {
    /// `psk_file fleet.psk`.
    pub(crate) name: Arc<str>,
    /// The file's path.
    file: Box<str>,
    pub(crate) place: Arc<str>,
    pub(crate) permissions: Permissions,
    pub(crate) limits: DeviceLimits,
    pub(crate) terms: Terms,
}

impl DeviceEntry {
    pub(crate) fn sas_keys(&self) -> Option<DeviceKeys<'_>> {
        let (primary, secondary) = self.sas.as_ref()?;
        Some(DeviceKeys {
            primary: primary.expose(),
            secondary: secondary.as_ref().map(Secret::expose),
        })
    }

    /// `device` or `device/module`.
    pub(crate) fn client_id(&self) -> String {
        match &self.module {
            None => self.id.as_str().to_owned(),
            Some(module) => format!("{}/{module}", self.id),
        }
    }

    pub(super) fn has_credential(&self) -> bool {
        self.sas.is_some() || self.password.is_some() || self.has_psk || self.has_x509
    }
}

/// Reads one `[[device]]` into the set.
pub(super) fn read_device(mut section: Section<'_, '_>, set: &mut RuleSet) {
    let id = section.parsed("id", |t| DeviceId::parse(t).map_err(|e| e.to_string()));
    if !section.has("id") {
        section.problem("", "needs id = \"…\", the device id in the hub");
    }
    let module = section.parsed("module", |t| ModuleId::parse(t).map_err(|e| e.to_string()));
    let place: Arc<str> = section.place().into();
    let index = u32::try_from(set.devices.len()).unwrap_or(u32::MAX);
    let enabled = section.flag("enabled").unwrap_or(true);
    let permissions = parse_allow(&mut section);
    let limits = parse_limits(&mut section);
    let terms = parse_terms(&mut section);
    let psk = section.child("psk");
    let x509 = section.child("x509");
    let sas = section.child("sas").map(read_sas);
    let password = section.child("password");
    // a damaged table is reported once, as what it is
    let has_credential = ["psk", "x509", "sas", "password"]
        .iter()
        .any(|key| section.has(key));
    if enabled && !has_credential {
        section.problem(
            "",
            "has no credential; add psk, x509, sas or password, or enabled = false",
        );
    }
    if section.has("allow_x509") && !section.has("x509") {
        section.problem("allow_x509", "is about x509 = { … }, which is not there");
    }
    let mut entry = DeviceEntry {
        id: id.unwrap_or_else(|| DeviceId::parse("invalid").expect("fits the grammar")),
        module,
        name: "".into(),
        place,
        enabled,
        permissions,
        limits,
        terms,
        sas: sas.flatten(),
        password: None,
        has_psk: psk.is_some(),
        has_x509: x509.is_some(),
    };
    let client_id = entry.client_id();
    entry.name = format!("device {client_id}").into();
    if let Some(psk) = psk {
        read_psk(psk, &client_id, index, set);
    }
    if let Some(x509) = x509 {
        read_x509(x509, index, set);
    }
    if let Some(password) = password {
        entry.password = read_password(password, index, set);
    }
    if section.has("id") {
        if let Some(first) = set.by_id.get(client_id.as_str()) {
            let first = &set.devices[*first as usize].place;
            section.problem("id", format!("is there twice; first in {first}"));
        } else {
            set.by_id.insert(client_id.into(), index);
        }
    }
    section.finish();
    set.devices.push(entry);
}

fn read_sas(mut section: Section<'_, '_>) -> Option<(Secret, Option<Secret>)> {
    let key = |key: KeyBytes| Secret::new(key.to_vec());
    let primary = section.parsed("primary_key", parse_sas_key).map(key);
    let secondary = section.parsed("secondary_key", parse_sas_key).map(key);
    if !section.has("primary_key") {
        section.problem("", "needs primary_key = \"…base64…\"");
    }
    section.finish();
    primary.map(|primary| (primary, secondary))
}

/// How the keys of an entry or a file are taken.
#[derive(Clone, Copy)]
struct PskTerms {
    min_key_bytes: usize,
    hash: PskHash,
}

/// `min_key_bytes = 8` and `hash = "sha384"`.
fn read_psk_terms(section: &mut Section<'_, '_>) -> PskTerms {
    let min = section.number("min_key_bytes");
    let range = PSK_BYTES_FLOOR..=PSK_BYTES_MAX;
    if min.is_some_and(|min| !range.contains(&min)) {
        section.problem(
            "min_key_bytes",
            format!("must be {PSK_BYTES_FLOOR} to {PSK_BYTES_MAX}; a shorter key is soon guessed"),
        );
    }
    let hash = |text: &str| match text {
        "sha256" => Ok(PskHash::Sha256),
        "sha384" => Ok(PskHash::Sha384),
        _ => Err("must be \"sha256\" or \"sha384\""),
    };
    PskTerms {
        min_key_bytes: min.unwrap_or(PSK_BYTES_MIN),
        hash: section.parsed("hash", hash).unwrap_or_default(),
    }
}

fn read_psk(mut section: Section<'_, '_>, client_id: &str, index: u32, set: &mut RuleSet) {
    let identity = section.text("identity");
    let identity = identity.unwrap_or_else(|| client_id.to_owned());
    if identity.is_empty() || identity.len() > IDENTITY_BYTES_MAX || identity.contains('\0') {
        section.problem("identity", "must have 1 to 128 bytes and no NUL");
    }
    let PskTerms {
        min_key_bytes,
        hash,
    } = read_psk_terms(&mut section);
    let key = section.parsed("key", |text| parse_psk(text, min_key_bytes));
    let next = section.parsed("next_key", |text| parse_psk(text, min_key_bytes));
    if !section.has("key") {
        section.problem("", "needs key = \"hex:…\", 16 bytes or more");
    }
    if let Some(key) = key {
        if next.as_ref() == Some(&key) {
            section.problem("next_key", "is the same as key; a rotation needs a new one");
        }
        let entry = PskEntry {
            key: &key,
            next_key: next.as_ref().map(|next| next.as_slice()),
            hash,
        };
        let inserted = set
            .psk
            .insert(identity.as_bytes(), entry, Owner::Device(index));
        if let Err(error) = inserted {
            let text = match error {
                InsertError::Duplicate(Owner::Fleet(first)) => {
                    let nothing_read = (u32::MAX, &[][..]);
                    let mut first_lines = Repeated::default();
                    let place = first_lines.place(&section, set, first, nothing_read, &identity);
                    format!("the PSK identity is there twice; first in {place}")
                }
                error => insert_problem(set, error),
            };
            section.problem("identity", text);
        }
    }
    section.finish();
}

fn insert_problem(set: &RuleSet, error: InsertError) -> String {
    match error {
        InsertError::Full => "there are too many PSK identities".to_owned(),
        InsertError::Duplicate(Owner::Fleet(i)) => {
            let first = set.fleets.get(i as usize).map_or("", |f| &*f.file);
            format!("the PSK identity is there twice; first in {first}")
        }
        InsertError::Duplicate(Owner::Device(i)) => {
            let first = set.devices.get(i as usize).map_or("", |d| &*d.place);
            format!("the PSK identity is there twice; first in {first}")
        }
    }
}

fn read_x509(mut section: Section<'_, '_>, index: u32, set: &mut RuleSet) {
    for key in ["thumbprint", "secondary_thumbprint"] {
        let Some(thumbprint) = section.parsed(key, parse_thumbprint) else {
            continue;
        };
        if let Some(owner) = set.by_thumbprint.insert(thumbprint, index) {
            let owner = set
                .devices
                .get(owner as usize)
                .map_or("this device", |d| &*d.name);
            section.problem(
                key,
                format!("this thumbprint is registered already for {owner}"),
            );
        }
    }
    if !section.has("thumbprint") {
        section.problem("", "needs thumbprint = \"…\", SHA-1 or SHA-256 in hex");
    }
    section.finish();
}

fn read_password(
    mut section: Section<'_, '_>,
    index: u32,
    set: &mut RuleSet,
) -> Option<StoredHash> {
    let username = section.text("username");
    let hash = section.parsed("hash", StoredHash::parse);
    for key in ["username", "hash"] {
        if !section.has(key) {
            section.problem("", format!("needs {key} = \"…\""));
        }
    }
    if let Some(username) = username {
        if username.is_empty() || username.contains('\0') {
            section.problem("username", "must not be empty or hold a NUL");
        } else if set.by_username.contains_key(username.as_str()) {
            section.problem("username", "this user name is there twice; one device each");
        } else {
            set.by_username.insert(username.into(), index);
        }
    }
    section.finish();
    hash
}

/// Reads one `[[psk_file]]` and the file it names into the set.
pub(super) fn read_psk_file(mut section: Section<'_, '_>, set: &mut RuleSet) {
    let written = section.text("path");
    if !section.has("path") {
        section.problem("", "needs path = \"fleet.psk\"");
    }
    let place: Arc<str> = section.place().into();
    let permissions = parse_allow(&mut section);
    let limits = parse_limits(&mut section);
    let terms = parse_terms(&mut section);
    if section.has("allow_x509") {
        section.problem("allow_x509", "means nothing for pre-shared keys; remove it");
    }
    let psk = read_psk_terms(&mut section);
    if let Some(written) = &written {
        let fleet = u32::try_from(set.fleets.len()).unwrap_or(u32::MAX >> 1);
        set.fleets.push(Fleet {
            name: format!("psk_file {written}").into(),
            file: section.doc.path(written).display().to_string().into(),
            place,
            permissions,
            limits,
            terms,
        });
        let path = section.doc.path(written);
        match (section.doc.resolvers.read_secret)(&path) {
            Err(error) => section.problem("path", error),
            Ok(file) => {
                let file = Zeroizing::new(file);
                let fleet = (fleet, psk);
                read_lines(&section, &path.display().to_string(), &file, fleet, set);
            }
        }
    }
    section.finish();
}

fn read_lines(
    section: &Section<'_, '_>,
    name: &str,
    file: &[u8],
    (fleet, psk): (u32, PskTerms),
    set: &mut RuleSet,
) {
    let problems = section.doc.problems;
    let lines = match psk_file::lines(file) {
        Ok(lines) => lines,
        Err(line) => {
            let text = "is not UTF-8; the file may be damaged";
            problems.add(&format!("{name}:{line}"), "", text);
            return;
        }
    };
    set.psk
        .reserve(file.iter().filter(|b| **b == b'\n').count() + 1, file.len());
    let before = set.psk.len();
    let mut seen = open_end::Lines::default();
    let mut repeated = Repeated::default();
    for (number, line) in lines {
        let place = || format!("{name}:{number}");
        let line = psk_file::parse_line(line, psk.min_key_bytes);
        if let Ok(Some(line)) = &line {
            seen.see(number, line);
        }
        match line {
            Err(error) => problems.add(&place(), "", error),
            Ok(None) => {}
            Ok(Some(line)) => match insert_line(set, &line, (fleet, psk.hash)) {
                Err(InsertError::Duplicate(Owner::Fleet(first))) if !problems.is_full() => {
                    let first = repeated.place(section, set, first, (fleet, file), line.identity);
                    let text = format!("{} is there twice; first in {first}", line.identity);
                    problems.add(&place(), "", text);
                }
                Err(error) => problems.add(&place(), "", insert_problem(set, error)),
                Ok(()) => {}
            },
        }
    }
    match seen.end(name, file) {
        Ok(end) => set.open_ends.extend(end),
        Err((line, text)) => problems.add(&format!("{name}:{line}"), "", text),
    }
    if set.psk.len() == before {
        section.problem(
            "path",
            "the file names no identity; refused, because a half-written file looks like that",
        );
    }
}

/// Finds the first line of identities that came twice; the store keeps no lines.
#[derive(Default)]
struct Repeated(HashMap<u32, HashMap<Box<str>, usize>>);

impl Repeated {
    /// `fleet.psk:3`, or the file alone when its lines are not there any more.
    fn place(
        &mut self,
        section: &Section<'_, '_>,
        set: &RuleSet,
        first: u32,
        (fleet, file): (u32, &[u8]),
        identity: &str,
    ) -> String {
        let name = set
            .fleets
            .get(first as usize)
            .map_or("", |fleet| &*fleet.file);
        let index = self.0.entry(first).or_insert_with(|| {
            if first == fleet {
                return index(file);
            }
            let again = (section.doc.resolvers.read_secret)(Path::new(name));
            again.map_or_else(|_| HashMap::new(), |file| index(&Zeroizing::new(file)))
        });
        match index.get(identity) {
            Some(line) => format!("{name}:{line}"),
            None => name.to_owned(),
        }
    }
}

/// The first line of each identity.
fn index(file: &[u8]) -> HashMap<Box<str>, usize> {
    let mut index = HashMap::new();
    for (number, line) in psk_file::lines(file).into_iter().flatten() {
        if let Ok(Some(line)) = psk_file::parse_line(line, PSK_BYTES_FLOOR) {
            index.entry(line.identity.into()).or_insert(number);
        }
    }
    index
}

fn insert_line(
    set: &mut RuleSet,
    line: &PskLine<'_>,
    (fleet, hash): (u32, PskHash),
) -> Result<(), InsertError> {
    let entry = PskEntry {
        key: &line.key,
        next_key: line.next_key.as_ref().map(|next| next.as_slice()),
        hash,
    };
    let identity = line.identity.as_bytes();
    set.psk.insert(identity, entry, Owner::Fleet(fleet))
}
