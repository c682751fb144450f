//! Rules: order, conditions, fleets, explanations, and the re-check after a reload.

use super::*;

const FLEET: &[u8] = b"load-1:00112233445566778899aabbccddee01\nload-2:raw:sixteen-byte-key\n";

fn fleet(rules: &str) -> RuleSet {
    let text = format!("[[psk_file]]\npath = \"fleet.psk\"\n{rules}");
    parse_with(&text, &[("fleet.psk", FLEET)])
}

fn admit(rules: &RuleSet, claim: &Claim<'_>) -> Admission {
    match decide(rules, claim) {
        Decision::Admit(admission) => admission,
        Decision::Deny(denial) => panic!("{denial}"),
        Decision::CheckPassword(_) => panic!("no password was sent"),
    }
}

fn psk(id: &'static str) -> Claim<'static> {
    claim(Transport::Psk(id), id)
}

#[test]
fn the_first_rule_that_fits_decides() {
    let admit_rule =
        "[[rule]]\nname = \"admit\"\ndevice_id = \"{identity}\"\nallow = \"commands\"\n";
    let deny_rule = "[[rule]]\nname = \"deny\"\nwhen = { identity = \"load-1\" }\ndeny = true\n";
    let first = fleet(&format!("{deny_rule}{admit_rule}"));
    assert_eq!(answer(&first, &psk("load-1")), Err("rule_denied"));
    assert_eq!(answer(&first, &psk("load-2")), Ok("load-2".to_owned()));
    let second = fleet(&format!("{admit_rule}{deny_rule}"));
    let admission = admit(&second, &psk("load-1"));
    assert_eq!(&**admission.device.rule(), "admit");
    assert!(!admission.device.permissions().telemetry);
    // without a rule the line itself decides
    let none = admit(&fleet(""), &psk("load-1"));
    assert_eq!(&**none.device.rule(), "psk_file fleet.psk");
    assert!(none.device.permissions().telemetry && none.device.permissions().commands);
}

#[test]
fn every_condition_has_to_hold() {
    let rule = |when: &str| fleet(&format!("[[rule]]\nwhen = {{ {when} }}\ndeny = true\n"));
    let denied = |when: &str| answer(&rule(when), &psk("load-1")) == Err("rule_denied");
    assert!(denied("credential = \"psk\""));
    assert!(denied("credential = [\"sas\", \"psk\"]"));
    assert!(!denied("credential = \"sas\""));
    assert!(denied("listener = \"devices\""));
    assert!(!denied("listener = \"Devices\""));
    assert!(denied("source = [\"192.0.2.0/24\", \"10.20.0.0/16\"]"));
    assert!(!denied("source = \"10.21.0.0/16\""));
    assert!(denied("identity = \"load-?\""));
    assert!(!denied("identity = \"LOAD-?\""));
    assert!(!denied("username = \"*\""), "no user name was sent");
    assert!(!denied("identity = \"load-1\", source = \"10.21.0.0/16\""));
    let mut named = psk("load-1");
    named.username = Some("line-4");
    let by_user = rule("username = \"line-*\"");
    assert_eq!(answer(&by_user, &named), Err("rule_denied"));
}

#[test]
fn a_shared_key_reaches_only_ids_without_an_entry() {
    let text = format!(
        "[[device]]\nid = \"site\"\npsk = {{ identity = \"site-key\", key = \"{PSK}\" }}\n\
         [[device]]\nid = \"safe\"\npsk = {{ key = \"raw:another-16-bytes\" }}\n\
         [[rule]]\nwhen = {{ credential = \"psk\", identity = \"site-*\" }}\n\
         device_id = \"{{client_id}}\"\n"
    );
    let rules = parse(&text);
    let ask = |id| answer(&rules, &claim(Transport::Psk("site-key"), id));
    assert_eq!(ask("sensor-1"), Ok("sensor-1".to_owned()));
    assert_eq!(ask("site"), Ok("site".to_owned()));
    assert_eq!(ask("safe"), Err("device_reserved"));
    assert_eq!(ask("sensor-1/m"), Err("device_id_invalid"));
}

#[test]
fn a_rule_can_name_modules() {
    let rules = fleet("[[rule]]\ndevice_id = \"edge\"\nmodule_id = \"{identity}\"\n");
    let ask = |id| answer(&rules, &claim(Transport::Psk("load-1"), id));
    assert_eq!(ask("edge/load-1"), Ok("edge/load-1".to_owned()));
    assert_eq!(ask("edge"), Err("client_id_mismatch"));
    assert_eq!(ask("edge/load-2"), Err("client_id_mismatch"));
}

#[test]
fn a_fleet_device_is_switched_off_by_an_entry_without_credentials() {
    let rules = fleet("[[device]]\nid = \"load-1\"\nenabled = false\n");
    assert_eq!(answer(&rules, &psk("load-1")), Err("device_disabled"));
    assert_eq!(answer(&rules, &psk("load-2")), Ok("load-2".to_owned()));
    assert_eq!(
        answer(&rules, &claim(Transport::Psk("load-2"), "load-1")),
        Err("client_id_mismatch"),
        "whether load-1 is enabled is none of load-2's business"
    );
}

#[test]
fn two_credentials_give_what_both_allow() {
    let key = base64::engine::general_purpose::STANDARD.encode(SAS_KEY);
    let text = format!(
        "[[device]]\nid = \"a\"\npsk = {{ key = \"{PSK}\" }}\nsas = {{ primary_key = \"{key}\" }}\n\
         limits = {{ payload = \"1KiB\" }}\n\
         [[rule]]\nwhen = {{ credential = \"sas\" }}\ndevice_id = \"{{identity}}\"\n\
         allow = \"telemetry\"\nlimits = {{ messages = \"5/s\", payload = \"2KiB\" }}\n"
    );
    let rules = parse(&text);
    let token = token("a", &SAS_KEY, 5);
    let mut both = psk("a");
    both.password = Some(token.as_bytes());
    let admission = admit(&rules, &both);
    let permissions = admission.device.permissions();
    assert!(permissions.telemetry && !permissions.commands);
    assert_eq!(admission.limits.payload_bytes, Some(1024));
    assert_eq!(admission.limits.messages_per_s.map(|r| r.get()), Some(5));
}

#[test]
fn an_explanation_names_each_rule_and_why_it_did_not_fit() {
    let rules = fleet(
        "[[rule]]\nname = \"plant A\"\nwhen = { source = \"192.0.2.0/24\" }\ndeny = true\n\
         [[rule]]\nname = \"certs\"\nwhen = { credential = \"x509\" }\ndeny = true\n",
    );
    let explanation = explain(&rules, &psk("load-1"));
    assert_eq!(
        explanation.to_string(),
        "plant A [rules.toml:3]: `source` does not hold the address\n\
         certs [rules.toml:7]: `credential` is another kind\n\
         psk_file fleet.psk [rules.toml:1]: lists this identity and decides\n\
         admitted as load-1 by psk_file fleet.psk (psk), allowed: \
         telemetry, commands, methods, twin"
    );
    let refused = explain(&rules, &claim(Transport::Psk("load-1"), "load-2"));
    assert!(
        refused
            .to_string()
            .ends_with(&format!("refused: {}", denial::CLIENT_ID_MISMATCH))
    );
    let probe = rules::Probe::parse("psk:load-1").unwrap();
    assert!(rules.explain_as(&probe).outcome.is_ok());
    assert_eq!(
        rules
            .explain_as(&rules::Probe::parse("psk:load-9").unwrap())
            .outcome,
        Err(denial::PSK_UNKNOWN)
    );
}

#[test]
fn an_explanation_of_a_password_says_that_it_was_not_checked() {
    let rules = super::rules();
    let mut claim = claim(Transport::None, "a");
    claim.username = Some("user-a");
    claim.password = Some(b"wrong");
    let explanation = explain(&rules, &claim);
    assert!(explanation.password_pending && explanation.outcome.is_ok());
    assert!(explanation.to_string().contains("with the right password:"));
}

#[test]
fn after_a_reload_only_what_the_new_rules_admit_stays() {
    let before = fleet("");
    let device = admit(&before, &psk("load-1")).device;
    let reason = |rules: &RuleSet| {
        recheck(rules, &device, NOW)
            .map(|_| ())
            .map_err(|d| d.reason.word())
    };
    assert_eq!(reason(&before), Ok(()));
    let line_gone = parse_with(
        "[[psk_file]]\npath = \"f\"\n",
        &[("f", b"load-2:00112233445566778899aabbccddee01\n")],
    );
    assert_eq!(reason(&line_gone), Err("psk_unknown"));
    assert_eq!(reason(&RuleSet::default()), Err("psk_unknown"));
    let off = "[[device]]\nid = \"load-1\"\nenabled = false\n";
    assert_eq!(reason(&fleet(off)), Err("device_disabled"));
    let moved = "[[rule]]\ndevice_id = \"x-{identity}\"\n";
    assert_eq!(reason(&fleet(moved)), Err("client_id_mismatch"));
    let elsewhere = "[[rule]]\nwhen = { source = \"10.20.0.0/16\" }\ndeny = true\n";
    assert_eq!(reason(&fleet(elsewhere)), Err("rule_denied"));
    // fewer rights: the session goes on with those
    let less = fleet("[[rule]]\ndevice_id = \"{identity}\"\nallow = \"commands\"\n");
    let now = recheck(&less, &device, NOW).unwrap();
    assert!(!now.device.permissions().telemetry);
    // a changed key counts from the next handshake on
    let other_key = parse_with(
        "[[psk_file]]\npath = \"f\"\n",
        &[("f", b"load-1:raw:quite-another-key\n")],
    );
    assert_eq!(reason(&other_key), Ok(()));
}

#[test]
fn after_a_reload_sas_password_and_certificate_sessions_are_asked_too() {
    let rules = super::rules();
    let token = token("a", &SAS_KEY, 60);
    let mut by_token = claim(Transport::None, "a");
    by_token.password = Some(token.as_bytes());
    let device = admit(&rules, &by_token).device;
    let again = recheck(&rules, &device, NOW).unwrap();
    assert_eq!(again.expires.map(Unix::as_secs), Some(NOW.as_secs() + 3900));
    assert!(recheck(&fleet(""), &device, NOW).is_err_and(|d| d.reason.word() == "device_unknown"));

    let mut by_password = claim(Transport::None, "a");
    by_password.username = Some("user-a");
    by_password.password = Some(PASSWORD);
    let Decision::CheckPassword(check) = decide(&rules, &by_password) else {
        panic!("no check");
    };
    let device = check.run().unwrap().device;
    assert!(recheck(&rules, &device, NOW).is_ok());
    assert!(recheck(&fleet(""), &device, NOW).is_err_and(|d| d.reason.word() == "bad_password"));

    let (_, leaf) = issued(|p| p.not_after = rcgen::date_time_ymd(2027, 1, 1));
    let print = rules::encoding::encode_hex(&x509::fingerprint(&leaf));
    let text = format!(
        "[[device]]\nid = \"a\"\nx509 = {{ thumbprint = \"{}\" }}\n",
        *print
    );
    let rules = parse(&text);
    let chain = [leaf];
    let transport = Transport::Certificate {
        chain: &chain,
        trusted: false,
        anchors: &[],
    };
    let device = admit(&rules, &claim(transport, "a")).device;
    assert!(recheck(&rules, &device, NOW).is_ok());
    let later = Unix::from_secs(1_900_000_000);
    assert!(recheck(&rules, &device, later).is_err_and(|d| d.reason.word() == "x509_expired"));
}
