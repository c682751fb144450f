//! Certificates: registered by thumbprint, or issued by a CA a rule names.

use super::*;
use rcgen::SanType;

const CA_RULE: &str = "[[rule]]\nname = \"plant A\"\ndevice_id = \"{cn}\"\n\
     when = { credential = \"x509\", issuer_ca = \"ca.pem\", identity = \"plant-a-*\" }\n";

fn hex(bytes: &[u8]) -> String {
    rules::encoding::encode_hex(bytes).to_string()
}

fn registered(id: &str, leaf: &[u8], sha1: bool) -> String {
    let certificate = x509::Certificate::parse(leaf).unwrap();
    let print = if sha1 {
        hex(&certificate.sha1)
    } else {
        hex(&certificate.sha256)
    };
    let unused = "ab".repeat(20);
    format!(
        "[[device]]\nid = \"{id}\"\n\
         x509 = {{ thumbprint = \"{unused}\", secondary_thumbprint = \"{print}\" }}\n"
    )
}

fn ask(
    rules: &RuleSet,
    leaf: &[u8],
    anchors: &[Vec<u8>],
    client_id: &str,
) -> Result<String, &'static str> {
    let chain = [leaf.to_vec()];
    let transport = Transport::Certificate {
        chain: &chain,
        trusted: !anchors.is_empty(),
        anchors,
    };
    answer(rules, &claim(transport, client_id))
}

#[test]
fn a_registered_thumbprint_is_its_device_and_no_other() {
    let (_, leaf) = issued(|_| {});
    let (_, stranger) = issued(|_| {});
    for sha1 in [false, true] {
        let text = format!("{}{}", registered("press-7", &leaf, sha1), device_b());
        let rules = parse(&text);
        assert_eq!(ask(&rules, &leaf, &[], "press-7"), Ok("press-7".to_owned()));
        assert_eq!(ask(&rules, &leaf, &[], "b"), Err("client_id_mismatch"));
        // the common name of a self-signed certificate is its maker's choice and means nothing
        assert_eq!(
            ask(&rules, &leaf, &[], "plant-a-1"),
            Err("client_id_mismatch")
        );
        assert_eq!(
            ask(&rules, &stranger, &[], "press-7"),
            Err("x509_thumbprint")
        );
        assert_eq!(ask(&rules, &stranger, &[], "b"), Err("x509_unknown"));
        assert_eq!(ask(&rules, &stranger, &[], "nobody"), Err("x509_unknown"));
    }
}

fn device_b() -> String {
    format!("[[device]]\nid = \"b\"\npsk = {{ key = \"{PSK}\" }}\n")
}

#[test]
fn a_registered_certificate_ends_with_its_validity() {
    let (_, leaf) = issued(|p| p.not_after = rcgen::date_time_ymd(2026, 1, 1));
    let rules = parse(&registered("press-7", &leaf, false));
    assert_eq!(ask(&rules, &leaf, &[], "press-7"), Err("x509_expired"));
    let (_, leaf) = issued(|p| p.not_before = rcgen::date_time_ymd(2100, 1, 1));
    let rules = parse(&registered("press-7", &leaf, false));
    assert_eq!(
        ask(&rules, &leaf, &[], "press-7"),
        Err("x509_not_yet_valid")
    );
    let (_, leaf) = issued(|p| {
        p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let rules = parse(&registered("press-7", &leaf, false));
    assert_eq!(ask(&rules, &leaf, &[], "press-7"), Err("x509_usage"));
}

#[test]
fn a_ca_names_devices_only_by_a_rule_that_names_the_ca() {
    let (ca, leaf) = issued(|_| {});
    let (other_ca, other_leaf) = issued(|_| {});
    let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
    let ours = [ca.clone()];
    let theirs = [other_ca];
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-1"),
        Ok("plant-a-1".to_owned())
    );
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-2"),
        Err("client_id_mismatch")
    );
    // the same name from another CA the listener trusts
    assert_eq!(
        ask(&rules, &other_leaf, &theirs, "plant-a-1"),
        Err("no_rule")
    );
    // an untrusted chain counts for nothing, even with the CA beside it
    let chain = [leaf.clone(), ca.clone()];
    let transport = Transport::Certificate {
        chain: &chain,
        trusted: false,
        anchors: &ours,
    };
    assert_eq!(
        answer(&rules, &claim(transport, "plant-a-1")),
        Err("x509_unknown")
    );
    let transport = Transport::Certificate {
        chain: &chain,
        trusted: true,
        anchors: &[],
    };
    assert_eq!(
        answer(&rules, &claim(transport, "plant-a-1")),
        Err("no_rule")
    );
    // a rule for everybody does not admit certificates
    let any = parse("[[rule]]\ndevice_id = \"{identity}\"\n");
    assert_eq!(ask(&any, &leaf, &ours, "plant-a-1"), Err("no_rule"));
}

#[test]
fn names_that_are_no_device_id_or_not_the_only_one_are_refused() {
    let named = |name: &str| {
        issued(|p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(DnType::CommonName, name);
        })
    };
    for name in [
        "plant-a-1/b",
        "plant-a-1+",
        "plant-a-#",
        "plant-a-é",
        "plant-a-1\0",
    ] {
        let (ca, leaf) = named(name);
        let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
        assert_eq!(
            ask(&rules, &leaf, &[ca], "plant-a-1"),
            Err("device_id_invalid"),
            "{name:?}"
        );
    }
    let (ca, leaf) = named("plant-b-1");
    let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
    assert_eq!(ask(&rules, &leaf, &[ca], "plant-b-1"), Err("no_rule"));
    let (ca, leaf) = issued(|p| p.distinguished_name = rcgen::DistinguishedName::new());
    let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
    assert_eq!(ask(&rules, &leaf, &[ca], "plant-a-1"), Err("no_rule"));
}

#[test]
fn the_alternative_name_counts_only_when_the_rule_says_so_and_it_is_alone() {
    let rule = "[[rule]]\ndevice_id = \"{san}\"\n\
                when = { credential = \"x509\", issuer_ca = \"ca.pem\", identity = \"press-*\" }\n";
    let with = |names: &[&str]| {
        let names: Vec<SanType> = names
            .iter()
            .map(|n| SanType::DnsName((*n).try_into().unwrap()))
            .collect();
        issued(|p| p.subject_alt_names = names)
    };
    let (ca, leaf) = with(&["press-7"]);
    let rules = parse_with(rule, &[("ca.pem", &ca)]);
    let ours = [ca];
    assert_eq!(
        ask(&rules, &leaf, &ours, "press-7"),
        Ok("press-7".to_owned())
    );
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-1"),
        Err("client_id_mismatch")
    );
    let (ca, leaf) = with(&["press-7", "press-8"]);
    let rules = parse_with(rule, &[("ca.pem", &ca)]);
    assert_eq!(ask(&rules, &leaf, &[ca], "press-7"), Err("no_rule"));
    // a rule that denies sees every name
    let (ca, leaf) = with(&["press-7", "stolen-8"]);
    let text = format!("[[rule]]\nwhen = {{ identity = \"stolen-*\" }}\ndeny = true\n{CA_RULE}");
    let rules = parse_with(&text, &[("ca.pem", &ca)]);
    assert_eq!(ask(&rules, &leaf, &[ca], "plant-a-1"), Err("rule_denied"));
}

#[test]
fn an_id_with_an_entry_cannot_be_taken_by_another_credential() {
    let (ca, leaf) = issued(|_| {});
    let entry = format!("[[device]]\nid = \"plant-a-1\"\npsk = {{ key = \"{PSK}\" }}\n");
    let rules = parse_with(&format!("{entry}{CA_RULE}"), &[("ca.pem", &ca)]);
    let ours = [ca.clone()];
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-1"),
        Err("device_reserved")
    );
    let off = "[[device]]\nid = \"plant-a-1\"\nenabled = false\n";
    let rules = parse_with(&format!("{off}{CA_RULE}"), &[("ca.pem", &ca)]);
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-1"),
        Err("device_disabled")
    );
    let own = registered("plant-a-1", &leaf, false);
    let rules = parse_with(&format!("{own}{CA_RULE}"), &[("ca.pem", &ca)]);
    assert_eq!(
        ask(&rules, &leaf, &ours, "plant-a-1"),
        Ok("plant-a-1".to_owned())
    );
}

#[test]
fn an_unverified_chain_never_counts_for_a_rule_even_when_its_thumbprint_is_registered() {
    let (ca, leaf) = issued(|_| {});
    let text = format!("{}{CA_RULE}", registered("plant-a-1", &leaf, false));
    let rules = parse_with(&text, &[("ca.pem", &ca)]);
    let (chain, anchors) = ([leaf], [ca]);
    let rule = |trusted| {
        let transport = Transport::Certificate {
            chain: &chain,
            trusted,
            anchors: &anchors,
        };
        match decide(&rules, &claim(transport, "plant-a-1")) {
            Decision::Admit(admission) => admission.device.rule().to_string(),
            _ => panic!("not admitted"),
        }
    };
    assert_eq!(rule(true), "plant A");
    assert_eq!(rule(false), "device plant-a-1");
}

#[test]
fn damaged_or_missing_certificates_are_refused() {
    let (ca, leaf) = issued(|_| {});
    let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
    for bad in [&leaf[..leaf.len() - 1], &[], b"\x30\x82\xff\xff"] {
        assert_eq!(
            ask(&rules, bad, std::slice::from_ref(&ca), "plant-a-1"),
            Err("x509_malformed")
        );
    }
    let transport = Transport::Certificate {
        chain: &[],
        trusted: true,
        anchors: std::slice::from_ref(&ca),
    };
    assert_eq!(
        answer(&rules, &claim(transport, "plant-a-1")),
        Err("x509_malformed")
    );
}

#[test]
fn old_certificates_are_admitted_by_the_rule_or_entry_that_says_so_and_no_other() {
    // openssl x509 -req without extensions, as IoT Hub's own tutorials made them
    let v1 = include_bytes!("v1.der").to_vec();
    let (ca, any) = issued(|p| {
        p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Any];
    });
    let ours = [ca.clone()];
    for (leaf, word, reason) in [(&v1, "v1", "x509_v1"), (&any, "any_eku", "x509_any_eku")] {
        let allow = format!("allow_x509 = [\"{word}\"]\n");
        let elsewhere = format!(
            "[[rule]]\nname = \"b\"\ndevice_id = \"{{cn}}\"\n{allow}\
             when = {{ credential = \"x509\", issuer_ca = \"ca.pem\", identity = \"plant-b-*\" }}\n"
        );
        let asked = |text: &str| {
            let rules = parse_with(text, &[("ca.pem", &ca)]);
            assert_eq!(
                rules.allow_x509().v1 || rules.allow_x509().any_eku,
                text.contains("allow")
            );
            ask(&rules, leaf, &ours, "plant-a-1")
        };
        let admitted = Ok("plant-a-1".to_owned());
        assert_eq!(asked(CA_RULE), Err(reason));
        assert_eq!(asked(&format!("{CA_RULE}{elsewhere}")), Err(reason));
        assert_eq!(
            asked(&CA_RULE.replace("when", &format!("{allow}when"))),
            admitted
        );
        let entry = registered("plant-a-1", leaf, false);
        assert_eq!(ask(&parse(&entry), leaf, &[], "plant-a-1"), Err(reason));
        let entry = parse(&format!("{entry}{allow}"));
        assert_eq!(ask(&entry, leaf, &[], "plant-a-1"), admitted);
    }
}

#[test]
fn a_use_that_is_any_only_above_the_leaf_is_seen_too() {
    let (ca, leaf) = issued(|_| {});
    let (_, above) = issued(|p| {
        p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Any];
    });
    let rules = parse_with(CA_RULE, &[("ca.pem", &ca)]);
    let (chain, anchors) = ([leaf, above], [ca]);
    let transport = Transport::Certificate {
        chain: &chain,
        trusted: true,
        anchors: &anchors,
    };
    assert_eq!(
        answer(&rules, &claim(transport, "plant-a-1")),
        Err("x509_any_eku")
    );
}

#[test]
fn a_key_that_may_not_sign_is_no_device_s() {
    for (usage, verdict) in [
        (
            rcgen::KeyUsagePurpose::KeyEncipherment,
            Err("x509_key_usage"),
        ),
        (
            rcgen::KeyUsagePurpose::DigitalSignature,
            Ok("press-7".to_owned()),
        ),
    ] {
        let (_, leaf) = issued(|p| p.key_usages = vec![usage]);
        let rules = parse(&registered("press-7", &leaf, false));
        assert_eq!(ask(&rules, &leaf, &[], "press-7"), verdict);
    }
}
