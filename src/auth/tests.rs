//! CONNECTs as devices send them, against one set of rules: exactly the allowed rows pass.

use super::rules::{Resolvers, RuleSet, RulesText};
use super::*;
use crate::runtime::clock::Unix;
use base64::Engine as _;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use std::net::IpAddr;
use std::path::Path;

mod certificates;
mod order;
mod table;
mod terms;

use table::{Row, rows};

pub(super) const HUB: &str = "myhub.azure-devices.net";
pub(super) const NOW: Unix = Unix::from_secs(1_790_000_000);
pub(super) const PSK: &str = "hex:00112233445566778899aabbccddeeff";
pub(super) const ALL: &[CredentialKind] = &[
    CredentialKind::Psk,
    CredentialKind::X509,
    CredentialKind::Sas,
    CredentialKind::Password,
];
const PASSWORD: &[u8] = b"open sesame";
const SAS_KEY: [u8; 32] = [7; 32];

pub(super) fn parse_with(text: &str, files: &[(&str, &[u8])]) -> RuleSet {
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found
            .map(|(_, b)| b.to_vec())
            .ok_or_else(|| "no such file".to_owned())
    };
    let resolvers = Resolvers {
        read: &read,
        read_secret: &read,
        secret: &|_| Err("no secrets here".to_owned()),
    };
    let file = RulesText {
        name: "rules.toml",
        text,
    };
    RuleSet::parse(&[file], &resolvers).unwrap_or_else(|p| panic!("{p:#?}"))
}

pub(super) fn parse(text: &str) -> RuleSet {
    parse_with(text, &[])
}

/// Devices `a` and `b` with every kind of credential but certificates, `off` disabled.
fn rules() -> RuleSet {
    let hash = password::hash_password_with(PASSWORD, &[3; 16], (64, 1, 1)).unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode(SAS_KEY);
    let one = |id: &str, psk: &str| {
        format!(
            "[[device]]\nid = \"{id}\"\n\
             psk = {{ key = \"hex:{psk}112233445566778899aabbccddeeff\" }}\n\
             sas = {{ primary_key = \"{key}\" }}\n\
             password = {{ username = \"user-{id}\", hash = \"{hash}\" }}\n"
        )
    };
    let module =
        format!("[[device]]\nid = \"a\"\nmodule = \"m\"\nsas = {{ primary_key = \"{key}\" }}\n");
    parse(&format!(
        "{}{}{}enabled = false\n{module}",
        one("a", "00"),
        one("b", "01"),
        one("off", "02")
    ))
}

pub(super) fn claim<'a>(transport: Transport<'a>, client_id: &'a str) -> Claim<'a> {
    Claim {
        transport,
        listener: "devices",
        accept: ALL,
        source: IpAddr::from([10, 20, 3, 4]),
        client_id,
        username: None,
        password: None,
        hub_host: HUB,
        now: NOW,
    }
}

/// What the device gets in the end: its client id or the reason of the refusal.
pub(super) fn answer(rules: &RuleSet, claim: &Claim<'_>) -> Result<String, &'static str> {
    let admission = match decide(rules, claim) {
        Decision::Admit(admission) => Ok(admission),
        Decision::CheckPassword(check) => check.run(),
        Decision::Deny(denial) => Err(denial),
    };
    let device = admission.map_err(|denial| denial.reason.word())?.device;
    Ok(match device.module() {
        None => device.device().to_string(),
        Some(module) => format!("{}/{module}", device.device()),
    })
}

fn token(id: &str, key: &[u8], minutes: i64) -> String {
    let ends = NOW.as_secs().saturating_add_signed(minutes * 60);
    let resource = format!("{HUB}/devices/{}", id.replace('/', "/modules/"));
    sas::mint(&resource, key, Unix::from_secs(ends), None)
}

#[test]
fn exactly_the_allowed_connects_pass() {
    let rules = rules();
    assert!(rows().len() >= 40);
    for Row(psk, client_id, username, password, want) in rows() {
        let transport = match psk {
            "-" => Transport::None,
            identity => Transport::Psk(identity),
        };
        let mut claim = claim(transport, client_id);
        claim.username = username;
        claim.password = password.as_deref();
        let got = answer(&rules, &claim);
        assert_eq!(
            got.as_deref(),
            want.as_ref().map(|s| *s),
            "{psk} {client_id:?} {username:?}"
        );
        // a listener that takes nothing lets nobody in, whatever is presented
        claim.accept = &[];
        let got = answer(&rules, &claim);
        assert!(got.is_err(), "{psk} {client_id:?} {username:?}");
        if want.is_ok() {
            assert_eq!(got, Err("credential_not_accepted"));
        }
    }
}

#[test]
fn a_listener_takes_only_what_it_lists() {
    let rules = rules();
    let token = token("a", &SAS_KEY, 60);
    let present = |kind: CredentialKind| -> Claim<'_> {
        let mut claim = claim(Transport::None, "a");
        match kind {
            CredentialKind::Psk => claim.transport = Transport::Psk("a"),
            CredentialKind::Sas => claim.password = Some(token.as_bytes()),
            _ => {
                claim.username = Some("user-a");
                claim.password = Some(PASSWORD);
            }
        }
        claim
    };
    let kinds = [
        CredentialKind::Psk,
        CredentialKind::Sas,
        CredentialKind::Password,
    ];
    for kind in kinds {
        for accepted in ALL {
            let accept = [*accepted];
            let mut claim = present(kind);
            claim.accept = &accept;
            let want = if kind == *accepted {
                Ok("a".to_owned())
            } else {
                Err("credential_not_accepted")
            };
            assert_eq!(answer(&rules, &claim), want, "{kind:?} at {accepted:?}");
        }
    }
    // the second credential has to be accepted too
    let mut claim = present(CredentialKind::Password);
    claim.transport = Transport::Psk("a");
    claim.accept = &[CredentialKind::Psk];
    assert_eq!(answer(&rules, &claim), Err("credential_not_accepted"));
}

#[test]
fn empty_rules_admit_nobody() {
    let none = RuleSet::default();
    for Row(psk, client_id, username, password, _) in rows() {
        let transport = match psk {
            "-" => Transport::None,
            identity => Transport::Psk(identity),
        };
        let mut claim = claim(transport, client_id);
        claim.username = username;
        // the default cost of the stand-in hash is too slow for a table in a debug build
        claim.password = password.as_deref().filter(|p| sas::looks_like_token(p));
        assert!(answer(&none, &claim).is_err());
    }
}

#[test]
fn an_unknown_user_costs_what_known_users_cost() {
    let rules = rules();
    let mut claim = claim(Transport::None, "a");
    claim.password = Some(b"wrong");
    let mut cost = |username| {
        claim.username = Some(username);
        match decide(&rules, &claim) {
            Decision::CheckPassword(check) => check.memory_bytes(),
            _ => panic!("no check for {username}"),
        }
    };
    assert_eq!(cost("nobody"), cost("user-a"));
    assert_eq!(cost("user-off"), cost("user-a"));
}

#[test]
fn the_admission_says_when_the_session_ends_and_what_is_allowed() {
    let text = format!(
        "[sas]\nclock_skew = \"10s\"\n[[device]]\nid = \"a\"\nallow = \"telemetry\"\n\
         limits = {{ messages = \"20/s\", payload = \"64KiB\" }}\n\
         psk = {{ key = \"{PSK}\" }}\nsas = {{ primary_key = \"{}\" }}\n",
        base64::engine::general_purpose::STANDARD.encode(SAS_KEY)
    );
    let rules = parse(&text);
    let token = token("a", &SAS_KEY, 60);
    let mut claim = claim(Transport::None, "a");
    claim.password = Some(token.as_bytes());
    let Decision::Admit(admission) = decide(&rules, &claim) else {
        panic!("not admitted");
    };
    assert_eq!(
        admission.expires.map(Unix::as_secs),
        Some(NOW.as_secs() + 3610)
    );
    assert_eq!(admission.limits.payload_bytes, Some(65_536));
    assert_eq!(admission.limits.messages_per_s.map(|r| r.get()), Some(20));
    let device = admission.device;
    assert_eq!(device.credential(), CredentialKind::Sas);
    assert_eq!(&**device.rule(), "device a");
    let permissions = device.permissions();
    assert!(permissions.telemetry && !permissions.commands);
    // nothing secret in what is logged about a session
    let debug = format!("{device:?}");
    assert!(
        !debug.contains("SharedAccess") && !debug.contains("sig="),
        "{debug}"
    );
    // a PSK session ends only with a SAS token beside it
    claim.transport = Transport::Psk("a");
    let both = decide(&rules, &claim);
    assert!(matches!(both, Decision::Admit(a) if a.expires.is_some()
        && a.device.credential() == CredentialKind::Psk));
    claim.password = None;
    assert!(matches!(decide(&rules, &claim), Decision::Admit(a) if a.expires.is_none()));
}

/// A CA, and a certificate of it, both DER.
pub(super) fn issued(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, Vec<u8>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "plant-a-1");
    change(&mut params);
    let issuer = Issuer::new(ca, ca_key);
    let leaf = params
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    (ca_der, leaf.der().to_vec())
}
