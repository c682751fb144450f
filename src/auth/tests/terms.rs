//! What a rule or an entry asks of a CONNECT beside its credential: a client id, a token's life.

use super::*;
use crate::runtime::clock::Unix;

const DAY_S: u64 = 86_400;

fn psk(identity: &'static str) -> Claim<'static> {
    claim(Transport::Psk(identity), "")
}

fn fleet(terms: &str) -> RuleSet {
    let text = format!("[[psk_file]]\npath = \"fleet.psk\"\n{terms}\n");
    let line = b"load-1:00112233445566778899aabbccddee01\n";
    parse_with(&text, &[("fleet.psk", line)])
}

fn sas_device(terms: &str) -> RuleSet {
    let key = base64::engine::general_purpose::STANDARD.encode(SAS_KEY);
    let entry = |module: &str| {
        format!("[[device]]\nid = \"a\"\n{module}{terms}\nsas = {{ primary_key = \"{key}\" }}\n")
    };
    parse(&format!("{}{}", entry(""), entry("module = \"m\"\n")))
}

fn sas(rules: &RuleSet, client_id: &str, scope: &str, ends: Unix) -> Result<String, &'static str> {
    let token = sas::mint(&format!("{HUB}/{scope}"), &SAS_KEY, ends, None);
    let mut claim = claim(Transport::None, client_id);
    claim.password = Some(token.as_bytes());
    answer(rules, &claim)
}

#[test]
fn a_connect_without_client_id_gets_the_credentials_device_where_a_rule_allows_it() {
    let yes = "assign_client_id = true";
    assert_eq!(answer(&fleet(yes), &psk("load-1")), Ok("load-1".to_owned()));
    for no in ["", "assign_client_id = false"] {
        let missing = Err("client_id_missing");
        assert_eq!(answer(&fleet(no), &psk("load-1")), missing);
    }
    // The rule that decides has the word, not the entry.
    let rule = "[[rule]]\nname = \"r\"\ndevice_id = \"x-{identity}\"\n";
    let both = fleet(&format!("{yes}\n{rule}"));
    assert_eq!(answer(&both, &psk("load-1")), Err("client_id_missing"));
    let both = fleet(&format!("{rule}{yes}"));
    assert_eq!(answer(&both, &psk("load-1")), Ok("x-load-1".to_owned()));
    // An id that is sent is compared as ever.
    let sent = claim(Transport::Psk("load-1"), "load-2");
    assert_eq!(answer(&fleet(yes), &sent), Err("client_id_mismatch"));
}

#[test]
fn only_an_assigned_client_id_is_told() {
    let rules = fleet("assign_client_id = true");
    let told = |claim: &Claim<'_>| match decide(&rules, claim) {
        Decision::Admit(admission) => {
            let again = recheck(&rules, &admission.device, NOW);
            assert_eq!(again.unwrap().device.device().as_str(), "load-1");
            let without = recheck(&fleet(""), &admission.device, NOW);
            assert_eq!(without.is_ok(), !claim.client_id.is_empty());
            admission.device.assigned_client_id()
        }
        _ => panic!("not admitted"),
    };
    assert_eq!(told(&psk("load-1")).as_deref(), Some("load-1"));
    assert_eq!(told(&claim(Transport::Psk("load-1"), "load-1")), None);
}

#[test]
fn a_token_names_its_device_itself() {
    let rules = sas_device("assign_client_id = true");
    let ends = NOW + std::time::Duration::from_secs(60);
    for (scope, id) in [("devices/a", "a"), ("devices/a/modules/m", "a/m")] {
        assert_eq!(sas(&rules, "", scope, ends), Ok(id.to_owned()), "{scope}");
        let refused = sas(&sas_device(""), "", scope, ends);
        assert_eq!(refused, Err("client_id_missing"), "{scope}");
    }
    for (scope, reason) in [
        ("devices/nobody", "device_unknown"),
        ("devices", "sas_scope"),
        ("devices//", "sas_scope"),
        ("devices/a b", "client_id_invalid"),
        ("twins/a", "sas_scope"),
        ("devices/a/b/c", "sas_scope"),
    ] {
        assert_eq!(sas(&rules, "", scope, ends), Err(reason), "{scope}");
    }
    // With a second credential both have to name the same device.
    let token = sas::mint(&format!("{HUB}/devices/a"), &SAS_KEY, ends, None);
    let mut two = psk("load-1");
    two.password = Some(token.as_bytes());
    let key = base64::engine::general_purpose::STANDARD.encode(SAS_KEY);
    let yes = "assign_client_id = true";
    let rules = fleet(&format!(
        "{yes}\n[[device]]\nid = \"a\"\n{yes}\nsas = {{ primary_key = \"{key}\" }}"
    ));
    assert_eq!(answer(&rules, &two), Err("client_id_mismatch"));
}

#[test]
fn a_token_that_lives_longer_than_the_rule_allows_is_refused() {
    let bounded = sas_device("max_token_life = \"24h\"");
    let unbounded = sas_device("");
    let at = |seconds| Unix::from_secs(NOW.as_secs() + seconds);
    let skew = bounded.sas.clock_skew.as_secs();
    for (ends, want) in [
        (at(60), Ok("a".to_owned())),
        (at(DAY_S), Ok("a".to_owned())),
        // A device whose clock is ahead by what is granted.
        (at(DAY_S + skew), Ok("a".to_owned())),
        (at(DAY_S + skew + 1), Err("sas_life_too_long")),
        (Unix::from_secs(106_460_000_000), Err("sas_life_too_long")),
    ] {
        assert_eq!(sas(&bounded, "a", "devices/a", ends), want, "{ends:?}");
        let any = sas(&unbounded, "a", "devices/a", ends);
        assert_eq!(any, Ok("a".to_owned()), "{ends:?}");
    }
    // Whoever has no key learns nothing of the bound.
    let token = sas::mint(&format!("{HUB}/devices/a"), &[9; 32], at(9 * DAY_S), None);
    let mut forged = claim(Transport::None, "a");
    forged.password = Some(token.as_bytes());
    assert_eq!(answer(&bounded, &forged), Err("sas_signature"));
}

#[test]
fn a_rule_may_bound_tokens_too() {
    let key = base64::engine::general_purpose::STANDARD.encode(SAS_KEY);
    let rules = parse(&format!(
        "[[device]]\nid = \"a\"\nsas = {{ primary_key = \"{key}\" }}\n\
         [[rule]]\nwhen = {{ credential = \"sas\", listener = \"devices\" }}\n\
         device_id = \"{{identity}}\"\nmax_token_life = \"90m\"\n"
    ));
    let at = |seconds| Unix::from_secs(NOW.as_secs() + seconds);
    assert!(sas(&rules, "a", "devices/a", at(90 * 60)).is_ok());
    let long = sas(&rules, "a", "devices/a", at(2 * 3600));
    assert_eq!(long, Err("sas_life_too_long"));
}

#[test]
fn terms_that_make_no_sense_are_refused() {
    let rule = |keys: &str| format!("[[rule]]\n{keys}\n");
    for (text, words) in [
        (
            rule("deny = true\nassign_client_id = true"),
            "means nothing in a rule with deny",
        ),
        (
            rule("deny = true\nmax_token_life = \"1h\""),
            "means nothing in a rule with deny",
        ),
        (
            rule(
                "when = { credential = \"psk\", identity = \"x\" }\n\
                 device_id = \"{client_id}\"\nassign_client_id = true",
            ),
            "cannot name the device",
        ),
        (
            rule(
                "when = { credential = \"psk\" }\ndevice_id = \"{identity}\"\n\
                 max_token_life = \"1h\"",
            ),
            "is about SAS tokens",
        ),
        (
            rule("device_id = \"{identity}\"\nmax_token_life = \"24\""),
            "must be a time such as",
        ),
        (
            rule("device_id = \"{identity}\"\nmax_token_life = \"0h\""),
            "1m to 3650d",
        ),
        (
            rule("device_id = \"{identity}\"\nassign_client_id = \"yes\""),
            "must be true or false",
        ),
    ] {
        let file = RulesText {
            name: "rules.toml",
            text: &text,
        };
        let none = |_: &Path| Err("no files here".to_owned());
        let resolvers = Resolvers {
            read: &none,
            read_secret: &none,
            secret: &|_| Err("no secrets here".to_owned()),
        };
        let problems = RuleSet::parse(&[file], &resolvers).expect_err(&text);
        assert!(
            problems.iter().any(|p| p.message.contains(words)),
            "{problems:?}"
        );
    }
}
