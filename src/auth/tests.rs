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
    let resolvers = Resolvers {
        read: &|path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found
                .map(|(_, b)| b.to_vec())
                .ok_or_else(|| "no such file".to_owned())
        },
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
    let device = admission.map_err(|denial| denial.reason)?.device;
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

/// Who presents what. `P`: PSK proved for this identity; `-`: no transport proof.
struct Row(
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<Vec<u8>>,
    Result<&'static str, &'static str>,
);

fn rows() -> Vec<Row> {
    let hub_user = |text: &'static str| Some(text);
    let sas = |id: &str| Some(token(id, &SAS_KEY, 60).into_bytes());
    let secret = |text: &str| Some(text.as_bytes().to_vec());
    let right = || Some(PASSWORD.to_vec());
    let a = hub_user("myhub.azure-devices.net/a/?api-version=2021-04-12");
    let b = hub_user("myhub.azure-devices.net/b/?api-version=2021-04-12");
    let bad_sas = |id: &str| Some(token(id, &[8; 32], 60).into_bytes());
    vec![
        // nothing, or half of something
        Row("-", "a", None, None, Err("no_credentials")),
        Row("-", "a", Some(""), None, Err("no_credentials")),
        Row("-", "a", Some("user-a"), None, Err("no_credentials")),
        Row("-", "a", a, None, Err("no_credentials")),
        Row("-", "a", Some("user-a"), secret(""), Err("no_credentials")),
        Row("-", "a", None, secret(""), Err("no_credentials")),
        Row("-", "a", b, None, Err("client_id_mismatch")),
        Row("-", "a", None, right(), Err("username_missing")),
        Row("-", "a", Some(""), right(), Err("username_missing")),
        // client ids outside the grammar
        Row("-", "", Some("user-a"), right(), Err("client_id_invalid")),
        Row(
            "-",
            "a/m/x",
            Some("user-a"),
            right(),
            Err("client_id_invalid"),
        ),
        Row("a", "a+", None, None, Err("client_id_invalid")),
        Row("a", "a#", None, None, Err("client_id_invalid")),
        Row("a", "a\0", None, None, Err("client_id_invalid")),
        Row("a", "\u{430}", None, None, Err("client_id_invalid")),
        // passwords
        Row("-", "a", Some("user-a"), right(), Ok("a")),
        Row(
            "-",
            "a",
            Some("user-a"),
            secret("open sesam"),
            Err("bad_password"),
        ),
        Row(
            "-",
            "a",
            Some("user-a"),
            secret("open sesame\0"),
            Err("bad_password"),
        ),
        Row("-", "a", Some("user-a"), secret("\0"), Err("bad_password")),
        Row("-", "a", Some("user-a\0"), right(), Err("bad_password")),
        Row("-", "a", Some("USER-A"), right(), Err("bad_password")),
        Row("-", "a", Some("nobody"), right(), Err("bad_password")),
        Row("-", "nobody", Some("nobody"), right(), Err("bad_password")),
        Row("-", "a", Some("a"), right(), Err("bad_password")),
        Row("-", "b", Some("user-a"), right(), Err("client_id_mismatch")),
        Row(
            "-",
            "b",
            Some("user-a"),
            secret("wrong"),
            Err("bad_password"),
        ),
        Row("-", "A", Some("user-a"), right(), Err("client_id_mismatch")),
        Row(
            "-",
            "a/m",
            Some("user-a"),
            right(),
            Err("client_id_mismatch"),
        ),
        Row(
            "-",
            "off",
            Some("user-off"),
            right(),
            Err("device_disabled"),
        ),
        Row(
            "-",
            "off",
            Some("user-off"),
            secret("wrong"),
            Err("bad_password"),
        ),
        // SAS
        Row("-", "a", a, sas("a"), Ok("a")),
        Row("-", "a", None, sas("a"), Ok("a")),
        Row(
            "-",
            "a",
            Some("myhub.azure-devices.net/a"),
            sas("a"),
            Ok("a"),
        ),
        Row(
            "-",
            "a/m",
            Some("myhub.azure-devices.net/a/m/"),
            sas("a/m"),
            Ok("a/m"),
        ),
        Row("-", "a/x", None, sas("a/x"), Err("device_unknown")),
        Row(
            "-",
            "a",
            Some("user-a"),
            sas("a"),
            Err("username_malformed"),
        ),
        Row(
            "-",
            "a",
            Some("gateway.local/a/"),
            sas("a"),
            Err("username_hub"),
        ),
        Row("-", "a", b, sas("a"), Err("client_id_mismatch")),
        Row("-", "b", b, sas("a"), Err("sas_scope")),
        Row("-", "a", a, bad_sas("a"), Err("sas_signature")),
        Row(
            "-",
            "nobody",
            None,
            bad_sas("nobody"),
            Err("device_unknown"),
        ),
        Row("-", "nobody", None, sas("nobody"), Err("device_unknown")),
        Row("-", "off", None, sas("off"), Err("device_disabled")),
        Row("-", "off", None, bad_sas("off"), Err("sas_signature")),
        Row(
            "-",
            "a",
            a,
            Some(token("a", &SAS_KEY, -6).into_bytes()),
            Err("sas_expired"),
        ),
        Row(
            "-",
            "a",
            a,
            Some(token("a", &SAS_KEY, -4).into_bytes()),
            Ok("a"),
        ),
        Row(
            "-",
            "a",
            a,
            secret("SharedAccessSignature sr=a"),
            Err("sas_malformed"),
        ),
        Row(
            "-",
            "a",
            a,
            Some(b"SharedAccessSignature \xff".to_vec()),
            Err("sas_malformed"),
        ),
        Row(
            "-",
            "a",
            Some("user-a"),
            secret(" SharedAccessSignature"),
            Err("username_malformed"),
        ),
        // PSK alone, and with a second credential
        Row("a", "a", None, None, Ok("a")),
        Row("a", "a", Some("anything"), None, Ok("a")),
        Row("a", "a", Some("anything"), secret(""), Ok("a")),
        Row("a", "a", a, None, Ok("a")),
        Row("a", "a", b, None, Err("client_id_mismatch")),
        Row("a", "b", None, None, Err("client_id_mismatch")),
        Row("a", "b", b, None, Err("client_id_mismatch")),
        Row("a", "b", Some("user-b"), right(), Err("client_id_mismatch")),
        Row("a", "b", b, sas("b"), Err("client_id_mismatch")),
        Row("a", "a", Some("user-a"), right(), Ok("a")),
        Row(
            "a",
            "a",
            Some("user-a"),
            secret("wrong"),
            Err("bad_password"),
        ),
        Row(
            "a",
            "a",
            Some("nobody"),
            secret("wrong"),
            Err("bad_password"),
        ),
        Row("a", "a", Some("user-b"), right(), Err("client_id_mismatch")),
        Row("a", "a", a, sas("a"), Ok("a")),
        Row("a", "a", a, bad_sas("a"), Err("sas_signature")),
        Row(
            "a",
            "a",
            None,
            secret("SharedAccessSignature"),
            Err("sas_malformed"),
        ),
        Row("off", "off", None, None, Err("device_disabled")),
        Row("gone", "gone", None, None, Err("psk_unknown")),
        Row("", "a", None, None, Err("psk_unknown")),
    ]
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
