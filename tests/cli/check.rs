//! `check` and `check --as` on rules and files that load and still are wrong.

use crate::folder::{Folder, GATEWAY, RULES};

/// Arguments, exit code, words of the answer.
type Row = (&'static str, i32, &'static str);

#[rustfmt::skip] // one row a line
const ADMISSION: &[Row] = &[
    ("--as psk:thermo-1", 0, "by device thermo-1 (psk)"),
    ("--as psk:thermo-1 --client-id valve-9", 1, "client_id_mismatch"),
    ("--as psk:nobody", 1, "psk_unknown"),
    ("--as psk:thermo-1 --listener local", 1, "does not accept psk"),
    ("--as password:valve --client-id valve-9", 0, "with its password: admitted"),
    ("--as password:valve", 1, "client_id_mismatch"),
    ("--as x509:plant-a-1", 0, "admitted as plant-a-1 by plant A"),
    ("--as x509:plant-a-1 --issuer-ca plant-a.pem", 0, "fits and decides"),
    ("--as x509:plant-a-1 --issuer-ca server.pem", 1, "the handshake fails"),
    ("--as x509:plant-b-1", 1, "`identity` does not fit"),
    ("--as x509:thermo-1", 1, "no_rule"),
    ("--as sas:thermo-1", 1, "device_unknown"),
    ("--as psk:thermo-1 --client-id ''", 1, "client_id_missing"),
];

#[rustfmt::skip] // one row a line
const TOPICS: &[Row] = &[
    ("--as psk:thermo-1 --topic devices/thermo-1/messages/events/", 0, "may publish to"),
    ("--as psk:thermo-1 --topic devices/x/messages/events/", 1, "topic_foreign_device"),
    ("--as psk:thermo-1 --topic devices/thermo-1/messages/events/%", 1, "bag_escape"),
    ("--as psk:thermo-1 --topic '#'", 1, "filter_too_wide"),
    ("--as psk:thermo-1 --topic '$iothub/twin/GET/?$rid=1'", 1, "twin_unsupported"),
    ("--as psk:thermo-1 --topic '$iothub/twin/res/#'", 0, "on which nothing comes"),
    ("--as psk:thermo-1 --subscribe '$iothub/methods/POST/#'", 0,
     "not served: method_unsupported: "),
    ("--as psk:thermo-1 --publish devices/thermo-1/messages/devicebound/x", 1,
     "may not publish to"),
    ("--as psk:thermo-1 --subscribe devices/thermo-1/messages/events/", 1, "filter_unknown"),
    ("--as psk:thermo-1 --topic \"it's\"", 1, "may not publish to it's\n"),
    ("--as password:valve --client-id valve-9 --topic 'devices/valve-9/messages/devicebound/#'", 0,
     "may subscribe"),
    ("--as password:valve --client-id valve-9 --topic devices/valve-9/messages/events/", 1,
     "telemetry_denied"),
];

/// What a rule asks of CONNECT and token; with [`STRICT`] beside the rules.
#[rustfmt::skip] // one row a line
const TERMS: &[Row] = &[
    ("--as password:valve --client-id ''", 1, "client_id_missing"),
    ("--as psk:gauge-1 --client-id ''", 0, "from 127.0.0.1, without client id"),
    ("--as psk:gauge-1 --client-id ''", 0, "admitted as gauge-1"),
    ("--as sas:pump-3", 0, "with a token signed by its key: admitted as pump-3"),
    ("--as sas:pump-3 --token-life 24h", 0, "admitted as pump-3"),
    ("--as sas:pump-3 --token-life 25h", 1, "sas_life_too_long"),
    ("--as sas:pump-3 --client-id ''", 1, "client_id_missing"),
];

const STRICT: &str = r#"
[[device]]
id = "gauge-1"
assign_client_id = true
psk = { identity = "gauge-1", key = "hex:01112233445566778899aabbccddeeff" }

[[device]]
id = "pump-3"
max_token_life = "24h"
sas = { primary_key = "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=" }

[[expect]]
connect = "sas:pump-3"
token_life = "7d"
deny = "sas_life_too_long"

[[expect]]
connect = "psk:gauge-1"
client_id = ""
device = "gauge-1"
"#;

#[test]
fn a_rules_terms_for_connect_and_token_are_answered_for() {
    let folder = Folder::new();
    folder.write("rules.toml", &format!("{RULES}{STRICT}"));
    answers(&folder, TERMS.iter());
}

#[test]
fn each_question_has_its_answer_and_exit_code() {
    answers(&Folder::new(), ADMISSION.iter().chain(TOPICS));
}

fn answers<'a>(folder: &Folder, rows: impl Iterator<Item = &'a Row>) {
    for (arguments, code, words) in rows {
        let done = folder.check(arguments);
        assert_eq!(
            (done.code, done.err.as_str()),
            (*code, ""),
            "{arguments}\n{}",
            done.out
        );
        assert!(done.out.contains(words), "{arguments}\n{}", done.out);
    }
}

#[test]
fn a_question_that_makes_no_sense_is_a_problem_of_its_own() {
    let folder = Folder::new();
    for (arguments, words) in [
        ("--as psk", "--as must be psk:IDENTITY"),
        ("--as psk:", "--as must be psk:IDENTITY"),
        ("--as thumbprint:12", "40 (SHA-1) or 64 (SHA-256)"),
        (
            &format!("--as thumbprint:{}", "ab".repeat(20)),
            "needs --client-id",
        ),
        (
            "--as psk:thermo-1 --listener gone",
            "there is devices, local",
        ),
        ("--as psk:thermo-1 --source here", "--source"),
        ("--as psk:thermo-1 --token-life 5343", "1m to 3650d"),
        (
            "--as x509:plant-a-1 --issuer-ca absent.pem",
            "absent.pem cannot be read",
        ),
        (
            "--as x509:plant-a-1 --issuer-ca server.key",
            "holds no certificate",
        ),
        ("--topic x", "--as"),
    ] {
        let done = folder.check(arguments);
        assert_eq!((done.code, done.out.as_str()), (64, ""), "{arguments}");
        assert!(done.err.contains(words), "{arguments}\n{}", done.err);
    }
    let done = folder.check("--as \"$(printf 'psk:\\033[31mred')\"");
    assert!(!done.out.contains('\u{1b}'), "{:?}", done.out);
}

#[test]
fn two_cas_have_to_be_told_apart() {
    let folder = Folder::new();
    folder.authority("plant-b");
    folder.sh("cat plant-a.pem plant-b.pem > both.pem");
    folder.write(
        "gateway.toml",
        &GATEWAY.replace("\"plant-a.pem\"", "\"both.pem\""),
    );
    let done = folder.check("--as x509:plant-a-1");
    assert_eq!(done.code, 64);
    assert!(done.err.contains("give --issuer-ca FILE"), "{}", done.err);
    assert_eq!(
        folder
            .check("--as x509:plant-a-1 --issuer-ca plant-a.pem")
            .code,
        0
    );
    let done = folder.check("--as x509:plant-a-1 --issuer-ca plant-b.pem");
    assert_eq!(done.code, 1);
    assert!(
        done.out.contains("`issuer_ca` did not verify"),
        "{}",
        done.out
    );
}

#[test]
fn an_expectation_that_does_not_hold_is_a_problem_with_file_and_line() {
    let folder = Folder::new();
    let expect =
        |connect: &str, want: &str| format!("\n[[expect]]\nconnect = \"{connect}\"\n{want}\n");
    let good = expect("psk:thermo-1", "device = \"thermo-1\"");
    let wrong = [
        expect("psk:thermo-1", "device = \"thermo-2\""),
        expect("psk:nobody", "deny = \"no_rule\""),
        expect(
            "x509:plant-a-1",
            "issuer_ca = \"plant-a.pem\"\ndeny = \"no_rule\"",
        ),
    ];
    folder.write("rules.toml", &format!("{RULES}{good}{}", wrong.concat()));
    let done = folder.check("");
    assert_eq!((done.code, done.out.as_str()), (64, ""));
    for words in [
        ": expect[1]: ",
        "expected device thermo-2, but it is thermo-1 by device thermo-1",
        "expected refusal no_rule, but it is refused as psk_unknown",
        "expected refusal no_rule, but it is admitted as plant-a-1 by plant A",
        "3 problems",
    ] {
        assert!(done.err.contains(words), "{words}\n{}", done.err);
    }
    assert_eq!(
        folder.check("--as psk:thermo-1").code,
        64,
        "no answer from rules that fail"
    );
    folder.write("rules.toml", &format!("{RULES}{good}"));
    assert!(folder.check("").out.contains("expectations that hold: 1"));
}

#[test]
fn a_rules_file_that_is_no_toml_or_no_text_is_said_with_its_line_and_nothing_else() {
    let folder = Folder::new();
    folder.write("rules.toml", "# rules\n[[device]\nid = \"a\"\n");
    let done = folder.check("");
    assert_eq!(done.code, 64, "{}", done.err);
    assert!(
        done.err.contains("rules.toml:2: is not TOML at column "),
        "{}",
        done.err
    );
    assert!(
        done.err.contains("\n1 problem\n"),
        "no guesses: {}",
        done.err
    );
    std::fs::write(folder.path("rules.toml"), b"# rules\n# \xff\n").expect("written");
    let done = folder.check("");
    assert!(
        done.err.contains("rules.toml:2: is not UTF-8"),
        "{}",
        done.err
    );
}

#[test]
fn a_server_certificate_past_or_near_its_end_is_a_warning_as_it_is_in_run() {
    let folder = Folder::new();
    folder.server(2020);
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    for words in [
        "warning: ",
        "listener[0].tls.cert: ",
        "server.pem ended 2020-01-01T00:00:00Z, ",
        "days ago: devices that check it do not connect; renew it",
    ] {
        assert!(done.err.contains(words), "{words}\n{}", done.err);
    }
    folder.server_until(|params| {
        let now = iothub_gateway::runtime::clock::unix().as_secs();
        let ten_days = i64::try_from(now).expect("fits") + 10 * 86_400 + 3600;
        let end = time::OffsetDateTime::from_unix_timestamp(ten_days).expect("a date");
        params.not_after = end;
    });
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err
            .contains("in 10 days: then devices that check it do not connect; renew it"),
        "{}",
        done.err
    );
}

#[test]
fn the_admin_ports_certificate_is_looked_at_and_its_absence_beyond_loopback_is_said() {
    let folder = Folder::new();
    let admin = |lines: &str| {
        folder.write("gateway.toml", &format!("{GATEWAY}\n[admin]\n{lines}\n"));
        let done = folder.check("");
        assert_eq!(done.code, 0, "{}", done.err);
        done.err
    };
    let plain = "page and API are answered to this machine alone until tls = { cert";
    assert!(admin("bind = \"0.0.0.0:9464\"").contains(plain));
    let tls = "tls = { cert = \"server.pem\", key = \"server.key\" }";
    let said = admin(&format!("bind = \"0.0.0.0:9464\"\n{tls}"));
    assert!(said.contains("admin.bind: metrics and health"), "{said}");
    assert!(!said.contains(plain), "{said}");
    assert!(!admin("").contains(plain));
    folder.server(2020);
    let said = admin(tls);
    for words in [
        "admin.tls.cert: ",
        "days ago: who checks it asks the admin port no more",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
}

#[test]
fn short_pre_shared_keys_are_counted_in_a_warning() {
    let folder = Folder::new();
    let entry = "[[device]]\nid = \"old-1\"\npsk = { key = \"hex:0102030405060708\"";
    folder.write("rules.toml", &format!("{RULES}\n{entry} }}\n"));
    let done = folder.check("");
    assert_eq!(done.code, 64);
    assert!(
        done.err.contains("or take it over by min_key_bytes"),
        "{}",
        done.err
    );
    folder.write(
        "rules.toml",
        &format!("{RULES}\n{entry}, min_key_bytes = 8 }}\n"),
    );
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    let warning = "rules: 1 PSK identity has a key of less than 16 bytes";
    assert!(done.err.contains(warning), "{}", done.err);
}

#[test]
fn the_time_to_grant_a_stop_is_no_less_than_it_takes() {
    let folder = Folder::new();
    let shutdown = "[shutdown]\nannounce = \"300ms\"\nsettle = \"0s\"\nclose = \"1s\"\n";
    folder.write("gateway.toml", &format!("{GATEWAY}\n{shutdown}"));
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    let said = done.out.lines().find(|line| line.starts_with("a stop"));
    let said = said.expect("a line");
    assert!(
        said.starts_with("a stop takes at most 2 s: announce 0.3 + "),
        "{said}"
    );
    assert!(said.contains("settle 0 + close 1;"), "{said}");
}

#[test]
fn rules_no_listener_can_serve_are_warned_about() {
    let folder = Folder::new();
    folder.authority("plant-b");
    let rules = RULES.replace("issuer_ca = \"plant-a.pem\"", "issuer_ca = \"plant-b.pem\"");
    let typo = "\n[[rule]]\nname = \"typo\"\nwhen = { listener = \"device\" }\ndeny = true\n";
    folder.write("rules.toml", &format!("{rules}{typo}"));
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("plant A: never fits: issuer_ca"),
        "{}",
        done.err
    );
    assert!(
        done.err.contains("typo: names listener \"device\""),
        "{}",
        done.err
    );
    assert!(
        done.out.contains("gateway.toml is good, 2 warnings"),
        "{}",
        done.out
    );
}

#[test]
fn key_files_others_can_read_are_warned_about_unless_that_is_meant() {
    let folder = Folder::new();
    folder.write("fleet.psk", "a:00112233445566778899aabbccddeef0\n");
    folder.write(
        "rules.toml",
        &format!("{RULES}\n[[psk_file]]\npath = \"fleet.psk\"\n"),
    );
    assert_eq!(folder.check("").err, "");
    folder.mode("fleet.psk", 0o644);
    folder.mode("rules.toml", 0o644);
    let done = folder.check("");
    assert_eq!(done.code, 0, "{}", done.err);
    for file in ["fleet.psk", "rules.toml"] {
        let words = format!("{file}: is open to everybody on this machine (mode 0644)");
        assert!(done.err.contains(&words), "{words}\n{}", done.err);
    }
    folder.mode("fleet.psk", 0o440);
    folder.mode("rules.toml", 0o640);
    assert_eq!(folder.check("").err, "", "the service's own group may read");
    folder.mode("fleet.psk", 0o644);
    folder.mode("rules.toml", 0o644);
    folder.write(
        "gateway.toml",
        &format!("insecure_permissions = true\n{GATEWAY}"),
    );
    assert!(!folder.check("").err.contains("mode 0644"));
    folder.write("gateway.toml", GATEWAY);
    folder.write(
        "rules.toml",
        "[[rule]]\nname = \"no keys here\"\ndeny = true\n",
    );
    folder.mode("rules.toml", 0o644);
    assert_eq!(folder.check("").err, "");
}

#[test]
fn a_number_out_of_every_range_is_told_its_range_and_one_problem_is_one() {
    let folder = Folder::new();
    for number in ["0", "99999999999999999999"] {
        let limits = format!("[limits]\nconnections = {number}\n");
        folder.write(
            "gateway.toml",
            &(crate::folder::GATEWAY.to_owned() + &limits),
        );
        let done = folder.check("");
        assert_eq!(done.code, 64, "{done:?}");
        assert!(done.err.contains("must be from 1 to 1000000"), "{done:?}");
        let done = folder.sh("iothub-gateway run -c gateway.toml");
        assert!(
            done.err.contains("1 problem; nothing was started"),
            "{done:?}"
        );
    }
}

#[test]
fn a_quoted_url_shows_neither_password_nor_query() {
    let folder = Folder::new();
    let with = |key: &str| {
        let old = "endpoint = \"amqp://127.0.0.1:5672\"";
        let text = crate::folder::GATEWAY.replace(old, key);
        folder.write("gateway.toml", &text);
        folder.check("")
    };
    for key in [
        "token_url = \"https://me:hushhush@h.example/t?code=hushhush\"",
        "token_url = \"ftp://me:hush?hush@h.example/t?hush\"",
        "endpoint = \"amqps://me:hushhush@h.example\"",
    ] {
        let done = with(key);
        assert_eq!(done.code, 64, "{done:?}");
        assert!(done.err.contains("://…@h.example"), "{done:?}");
        assert!(!done.err.contains("hush"), "{done:?}");
    }
}
