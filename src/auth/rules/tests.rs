//! Rules files, good and bad.

use super::*;
use std::path::Path;

mod psk_files;
mod topics;

const KEY: &str = "hex:00112233445566778899aabbccddeeff";
const OTHER: &str = "hex:ffeeddccbbaa99887766554433221100";
const CA: &[u8] = include_bytes!("../../../config/plant-a.pem");

fn read(path: &Path) -> Result<Vec<u8>, String> {
    match path.to_str() {
        Some("etc/fleet.psk") => Ok(format!("load-1:{}\n", &KEY[4..]).into_bytes()),
        Some("etc/twice.psk") => Ok(format!(
            "# some come twice\n\nload-2:{0}\nload-1:{0}\nload-2:{0}\n",
            &OTHER[4..]
        )
        .into_bytes()),
        Some("etc/empty.psk") => Ok(b"# nothing yet\n\n".to_vec()),
        Some("etc/bad.psk") => Ok(b"load-1:00\nno colon\nload-2:raw:sixteen-byte-key\n".to_vec()),
        Some("etc/cut.psk") => Ok(b"load-1:00112233445566778899aabbccddeeff\nload-2\xff".to_vec()),
        Some("etc/short.psk") => Ok(format!(
            "load-1:0102030405060708\nload-2:{}\nload-3:{} next=raw:abcd5678\n",
            &KEY[4..],
            &OTHER[4..]
        )
        .into_bytes()),
        Some("etc/ca.pem") => Ok(CA.to_vec()),
        _ => Err(format!("{}: no such file", path.display())),
    }
}

fn secret(text: &str) -> Result<String, String> {
    match text {
        "${PSK}" => Ok(OTHER.to_owned()),
        _ => Err("the variable is not set".to_owned()),
    }
}

fn parse(text: &str) -> Result<RuleSet, Vec<Problem>> {
    let name = "etc/rules.toml";
    let resolvers = Resolvers {
        read: &read,
        read_secret: &read,
        secret: &secret,
    };
    RuleSet::parse(&[RulesText { name, text }], &resolvers)
}

/// All problems of a text, one a line.
fn problems(text: &str) -> String {
    let problems = parse(text).err().unwrap_or_default();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[track_caller]
fn refused(text: &str, part: &str) {
    let found = problems(text);
    assert!(found.contains(part), "expected {part:?} in:\n{found}");
}

fn device(id: &str, rest: &str) -> String {
    format!("[[device]]\nid = \"{id}\"\n{rest}\n")
}

fn psk(id: &str) -> String {
    device(id, &format!("psk = {{ key = \"{KEY}\" }}"))
}

#[test]
fn a_file_that_admits_nobody_is_refused_because_it_may_be_half_written() {
    for text in [
        "",
        "\n\n",
        "# a comment\n",
        "\u{feff}",
        "\u{feff}# c\r\n",
        "[sas]\n",
    ] {
        refused(text, "holds no [[device]]");
    }
}

#[test]
fn a_file_cut_off_anywhere_inside_an_entry_is_refused() {
    let text = psk("a");
    for end in 1..text.len() - 2 {
        let Some(cut) = text.get(..end) else { continue };
        assert!(parse(cut).is_err(), "{cut:?}");
    }
    assert!(parse(&text).is_ok());
}

#[test]
fn byte_order_mark_and_crlf_change_nothing() {
    let text = format!("{}{}", psk("a"), device("b", "enabled = false"));
    for text in [
        text.clone(),
        format!("\u{feff}{}", text.replace('\n', "\r\n")),
    ] {
        let set = parse(&text).unwrap();
        assert_eq!(set.counts().devices, 2);
        assert!(set.psk(b"a").is_some());
        assert!(set.psk(b"a\r").is_none());
    }
}

#[test]
fn duplicates_are_refused_and_both_places_named() {
    refused(
        &format!("{}{}", psk("a"), psk("a")),
        "first in etc/rules.toml:1",
    );
    let same = |id: &str, field: &str| device(id, field);
    let twice = |field: &str| format!("{}{}", same("a", field), same("b", field));
    let identity = format!("psk = {{ identity = \"x\", key = \"{KEY}\" }}");
    refused(
        &twice(&identity),
        "etc/rules.toml:6: device[1].psk.identity: the PSK identity is there twice",
    );
    let print = format!("x509 = {{ thumbprint = \"{}\" }}", "ab".repeat(20));
    refused(&twice(&print), "registered already for device a");
    let hash =
        "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let password = format!("password = {{ username = \"u\", hash = \"{hash}\" }}");
    refused(&twice(&password), "this user name is there twice");
    let both = format!("{}[[psk_file]]\npath = \"fleet.psk\"\n", psk("load-1"));
    refused(
        &both,
        "etc/fleet.psk:1: the PSK identity is there twice; first in etc/rules.toml:1",
    );
    let fleet_and_sas = format!(
        "{}[[psk_file]]\npath = \"fleet.psk\"\n",
        device(
            "load-1",
            &format!("psk = {{ identity = \"x\", key = \"{KEY}\" }}")
        )
    );
    refused(
        &fleet_and_sas,
        "has a [[device]] and a line in psk_file fleet.psk",
    );
}

#[test]
fn all_problems_come_in_one_pass_with_line_and_suggestion() {
    let text = r#"
[[device]]
id = "a b"
pks = { key = "x" }
[[device]]
id = "ok"
psk = { idenity = "ok", key = "hex:0011" }
[[rule]]
when = { credental = "psk", source = "10.0.0.1/8" }
device_id = "{devce}"
[[rul]]
"#;
    let found = problems(text);
    for expected in [
        "etc/rules.toml:3: device[0].id: an id may only hold",
        "etc/rules.toml:4: device[0].pks: unknown key; did you mean `psk`?",
        "etc/rules.toml:2: device[0]: has no credential",
        "etc/rules.toml:7: device[1].psk.idenity: unknown key; did you mean `identity`?",
        "etc/rules.toml:7: device[1].psk.key: the key is shorter than 16 bytes",
        "etc/rules.toml:9: rule[0].when.credental: unknown key; did you mean `credential`?",
        "etc/rules.toml:9: rule[0].when.source: the address has bits beyond the prefix",
        "etc/rules.toml:10: rule[0].device_id: there is no {devce}",
        "etc/rules.toml:11: rul: unknown key; did you mean `rule`?",
    ] {
        assert!(found.contains(expected), "{expected}\n---\n{found}");
    }
}

#[test]
fn problems_never_repeat_a_secret() {
    let canary = "CANARY0123456789CANARY";
    for text in [
        device("a", &format!("psk = {{ key = \"{canary}\" }}")),
        device(
            "a",
            &format!("psk = {{ key = \"raw:{canary}\", next_key = \"raw:{canary}\" }}"),
        ),
        device("a", &format!("sas = {{ primary_key = \"{canary}\" }}")),
        device(
            "a",
            &format!("password = {{ username = \"u\", hash = \"{canary}\" }}"),
        ),
        device("a", &format!("psk = {{ key = \"{canary} }}")),
        device("a", &format!("psk = {canary}")),
        device("a", &format!("x509 = {{ thumbprint = \"{canary}\" }}")),
        format!("[[expect]]\nconnect = \"{canary}\"\n"),
    ] {
        let found = problems(&text);
        assert!(!found.is_empty() && !found.contains("CANARY"), "{found}");
    }
    let set = parse(&device("a", &format!("psk = {{ key = \"raw:{canary}\" }}"))).unwrap();
    assert!(!format!("{set:?}").contains("CANARY"));
}

#[test]
fn entries_that_can_never_work_are_refused() {
    refused(&device("a", ""), "has no credential");
    refused("[[device]]\nenabled = false\n", "needs id");
    refused("[device]\nid = \"a\"\n", "is written [[device]]");
    refused("rule = 1\n", "is written [[rule]]");
    refused(&device("a", "psk = {}"), "needs key");
    refused(&device("a", "sas = {}"), "needs primary_key");
    refused(&device("a", "x509 = {}"), "needs thumbprint");
    refused(&device("a", "password = {}"), "needs username");
    refused(&device("a", "psk = \"x\""), "must be a table");
    refused(&device("a", "enabled = \"no\""), "must be true or false");
    let allow = |allow: &str| psk("a") + &format!("allow = {allow}\n");
    refused(&allow("[\"telemetri\"]"), "must be telemetry, commands");
    refused(&allow("[]"), "the list is empty");
    refused(&allow("[1]"), "must be a text in quotes");
    let identity = |id: &str| {
        device(
            "a",
            &format!("psk = {{ identity = \"{id}\", key = \"{KEY}\" }}"),
        )
    };
    refused(&identity(""), "1 to 128 bytes");
    refused(&identity(&"x".repeat(129)), "1 to 128 bytes");
    refused(&identity("a\\u0000b"), "no NUL");
    assert!(parse(&identity(&"x".repeat(128))).is_ok());
    assert!(parse(&identity("dévicé:日本")).is_ok());
    refused(
        &device(
            "a",
            &format!("psk = {{ key = \"{KEY}\", next_key = \"{KEY}\" }}"),
        ),
        "a rotation needs a new one",
    );
    refused(
        &format!(
            "{}limits = {{ messages = \"0/s\", payload = \"1MiB\" }}\n",
            psk("a")
        ),
        "limits.payload",
    );
    refused(
        &format!("[sas]\nclock_skew = \"2h\"\n{}", psk("a")),
        "at most an hour",
    );
}

#[test]
fn rules_that_would_let_devices_pick_their_name_are_refused() {
    let rule =
        |when: &str, id: &str| format!("[[rule]]\nwhen = {{ {when} }}\ndevice_id = \"{id}\"\n");
    refused(&rule("", "{client_id}"), "pick its device id");
    refused(
        &rule("credential = \"psk\"", "{client_id}"),
        "pick its device id",
    );
    refused(
        &rule("credential = \"psk\"", "{username}"),
        "pick its device id",
    );
    assert!(
        parse(&rule(
            "credential = \"psk\", identity = \"site-*\"",
            "{client_id}"
        ))
        .is_ok()
    );
    assert!(parse(&rule("credential = \"password\"", "{username}")).is_ok());
    refused(&rule("credential = \"x509\"", "{cn}"), "needs issuer_ca");
    refused(
        &rule("issuer_ca = \"ca.pem\"", "{identity}"),
        "needs credential",
    );
    refused(
        &rule("credential = \"psk\"", "{cn}"),
        "need when.credential = \"x509\"",
    );
    let ca = "credential = \"x509\", issuer_ca = \"ca.pem\"";
    assert!(parse(&rule(ca, "{cn}")).is_ok());
    refused(&rule(ca, "{cn}{san}"), "not both");
    refused(
        &rule("credential = \"x509\", issuer_ca = \"gone.pem\"", "{cn}"),
        "no such file",
    );
    refused(
        &rule("credential = \"x509\", issuer_ca = \"fleet.psk\"", "{cn}"),
        "no certificate",
    );
    refused(
        "[[rule]]\ndeny = true\ndevice_id = \"a\"\n",
        "means nothing in a rule with deny",
    );
    refused("[[rule]]\nname = \"x\"\n", "needs device_id");
}

#[test]
fn secrets_come_from_outside_only_where_asked() {
    let with = |key: &str| device("a", &format!("psk = {{ key = \"{key}\" }}"));
    let set = parse(&with("${PSK}")).unwrap();
    assert_eq!(set.psk(b"a").unwrap().key[0], 0xff);
    refused(
        &with("${GONE}"),
        "etc/rules.toml:3: device[0].psk.key: the variable is not set",
    );
}

#[test]
fn both_keys_of_a_rotation_are_found() {
    let text = device(
        "a",
        &format!("psk = {{ key = \"{KEY}\", next_key = \"{OTHER}\" }}"),
    );
    let set = parse(&text).unwrap();
    let entry = set.psk(b"a").unwrap();
    assert_eq!((entry.key[0], entry.next_key.unwrap()[0]), (0x00, 0xff));
    assert!(set.psk(b"b").is_none() && set.psk(b"").is_none());
}

#[test]
fn no_flood_of_problems_fills_the_memory() {
    let text = "[[rule]]\n".repeat(5_000);
    let found = parse(&text).err().unwrap();
    assert!(found.len() <= 201, "{}", found.len());
    assert!(found.last().unwrap().message.contains("more problems"));
}

#[test]
fn a_fleet_file_of_100_000_lines_is_read_whole() {
    let mut file = String::new();
    for i in 0..100_000u32 {
        file.push_str(&format!("load-{i}:{i:032x}{:032x}\n", !i));
    }
    let resolvers = Resolvers {
        read: &read,
        read_secret: &|_| Ok(file.clone().into_bytes()),
        secret: &secret,
    };
    let text = "[[psk_file]]\npath = \"fleet.psk\"\n";
    let set = RuleSet::parse(&[RulesText { name: "r", text }], &resolvers).unwrap();
    let counts = set.counts();
    assert_eq!(counts.psk_identities, 100_000);
    assert!(counts.psk_bytes < 20 << 20, "{}", counts.psk_bytes);
    let last = set.psk(b"load-99999").unwrap();
    assert_eq!(last.key.len(), 32);
    assert_eq!(last.key[12..16], 99_999u32.to_be_bytes());
}

#[test]
fn the_example_files_load_and_their_expectations_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let name = folder.join("rules.toml");
    let text = std::fs::read_to_string(&name).unwrap();
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let resolvers = Resolvers {
        read: &read,
        read_secret: &read,
        secret: &secret,
    };
    let file = RulesText {
        name: name.to_str().unwrap(),
        text: &text,
    };
    let set = RuleSet::parse(&[file], &resolvers).unwrap_or_else(|p| panic!("{p:?}"));
    assert_eq!(set.run_expectations(), []);
    assert_eq!(set.counts().expectations, 6);
    assert_eq!(set.counts().psk_identities, 4);
    // nobody gets in with a published key
    for probe in [
        "psk:example-1",
        "psk:example-3",
        "psk:thermo-1",
        "sas:pump-3",
    ] {
        assert!(
            set.explain_as(&Probe::parse(probe).unwrap())
                .outcome
                .is_err(),
            "{probe}"
        );
    }
    for probe in [
        "password:valve-9",
        &format!("thumbprint:{}", "ab".repeat(20)),
    ] {
        assert!(
            set.explain_as(&Probe::parse(probe).unwrap())
                .outcome
                .is_err(),
            "{probe}"
        );
    }
}

#[test]
fn each_right_is_given_or_withheld_alone_and_expectations_hold_it() {
    let asked = [
        ("telemetry", "publish", "devices/a/messages/events/"),
        ("commands", "subscribe", "devices/a/messages/devicebound/#"),
        ("methods", "subscribe", "$iothub/methods/POST/#"),
        ("twin", "publish", "$iothub/twin/GET/?$rid=1"),
    ];
    for right in [
        None,
        Some("telemetry"),
        Some("commands"),
        Some("methods"),
        Some("twin"),
    ] {
        let allow = right.map_or(String::new(), |right| format!("allow = [\"{right}\"]\n"));
        for (needs, verb, topic) in asked {
            let want = match right.is_none_or(|right| right == needs) {
                true => "device = \"a\"",
                false => "deny = \"topic\"",
            };
            let device = psk("a");
            let set = parse(&format!(
                "{device}{allow}[[expect]]\nconnect = \"psk:a\"\n{verb} = '{topic}'\n{want}\n"
            ));
            let problems = set.unwrap().run_expectations();
            assert!(problems.is_empty(), "{right:?} {topic}: {}", problems[0]);
        }
    }
}

#[test]
fn an_expectation_that_does_not_hold_is_a_problem_with_its_place() {
    let base = format!("{}allow = [\"telemetry\"]\n", psk("a"));
    let run = |expect: &str| {
        let set = parse(&format!(
            "{base}[[expect]]\nconnect = \"psk:a\"\n{expect}\n"
        ))
        .unwrap();
        let problems = set.run_expectations();
        problems
            .first()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    assert_eq!(run("device = \"a\""), "");
    assert_eq!(
        run("device = \"a\"\npublish = \"devices/a/messages/events/x=1\""),
        ""
    );
    assert_eq!(
        run("deny = \"topic\"\npublish = \"devices/b/messages/events/\""),
        ""
    );
    assert_eq!(
        run("deny = \"topic\"\nsubscribe = \"devices/a/messages/devicebound/#\""),
        ""
    );
    assert_eq!(run("deny = \"client_id_mismatch\"\nclient_id = \"b\""), "");
    assert_eq!(
        run("deny = \"client_id_invalid\"\nclient_id = \"b/c/d\""),
        ""
    );
    let failed = run("device = \"b\"");
    assert!(
        failed.starts_with("etc/rules.toml:5: expect[0]: expected device b"),
        "{failed}"
    );
    assert!(run("deny = \"no_rule\"").contains("admitted as a by device a"));
    assert!(
        run("device = \"a\"\npublish = \"devices/b/messages/events/\"").contains("may publish")
    );
    assert!(run("device = \"a\"\nrule = \"x\"").contains("but device a does"));
    refused(
        &format!("{base}[[expect]]\nconnect = \"psk:a\"\n"),
        "needs device",
    );
    let typo = "[[expect]]\nconnect = \"psk:a\"\ndeny = \"no_rul\"\n";
    refused(&format!("{base}{typo}"), "no refusal has this reason");
    refused(
        &format!("{base}[[expect]]\nconnect = \"psk\"\ndevice = \"a\"\n"),
        "expect[0].connect",
    );
}

#[test]
fn allow_x509_stands_only_where_it_means_something() {
    let old = "allow_x509 = \"v1\"\n";
    let file = format!("[[psk_file]]\npath = \"fleet.psk\"\n{old}");
    refused(&file, "allow_x509: means nothing for pre-shared keys");
    let rule = format!("[[rule]]\ndevice_id = \"{{identity}}\"\n{old}");
    refused(&rule, "allow_x509: needs when.credential = \"x509\"");
    refused(
        &format!("[[rule]]\ndeny = true\n{old}"),
        "means nothing in a rule with deny",
    );
    refused(&old.replace("v1", "v2"), "unknown key");
    let two = psk("a") + &old.replace("v1", "v2");
    refused(&two, "allow_x509: must be v1 or any_eku");
    refused(&(psk("a") + old), "allow_x509: is about x509");
}
