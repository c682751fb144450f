//! The configuration as an operator meets it: files, environment, and what `check` says of them.

#![allow(clippy::unwrap_used)] // a failed step of a test is a failed test

mod bad_files;
mod folder;

use folder::{Folder, GOOD, KEY, KEY_2};
use iothub_gateway::auth::CredentialKind;
use iothub_gateway::cli::check::{Args, check_all, run};
use iothub_gateway::config::values::human_size;
use iothub_gateway::config::{
    Config, Loaded, OnDisconnect, Origin, Problem, examine, limits, load,
};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

type Env<'a> = &'a [(&'a str, &'a str)];

fn env(pairs: Env<'_>) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    pairs.into_iter()
}

fn loaded(path: &Path, pairs: Env<'_>) -> Loaded {
    load(path, env(pairs)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn config(text: &str, pairs: Env<'_>) -> Config {
    let folder = Folder::new();
    loaded(&folder.gateway(text), pairs).config
}

fn problems(text: &str, pairs: Env<'_>) -> Vec<Problem> {
    let folder = Folder::new();
    let Err(problems) = load(&folder.gateway(text), env(pairs)) else {
        panic!("taken:\n{text}")
    };
    problems
}

/// The one problem there must be.
fn problem(text: &str, pairs: Env<'_>) -> Problem {
    let mut all = problems(text, pairs);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn the_least_file_gets_the_documented_defaults() {
    let config = config(GOOD, &[]);
    assert_eq!(config.hub.audience, "h.example/devices");
    assert_eq!(config.hub.endpoint.to_string(), "amqps://h.example:5671");
    assert_eq!(config.hub.token_ttl, Duration::from_secs(3600));
    assert!((config.hub.renew_at - 0.85).abs() < f64::EPSILON);
    assert_eq!(config.hub.max_devices_per_connection, 995);
    assert_eq!(config.hub.connections, 16, "15,000 devices over 995 each");
    assert_eq!(config.hub.attach_rate_per_s, 90);
    assert_eq!(config.limits, limits::Limits::default());
    assert_eq!(
        config.listeners[0].accept,
        [CredentialKind::Sas, CredentialKind::Password]
    );
    assert!(config.hub.key.ct_eq(b"marked-secret-key-do-not-print!!"));
    assert!(config.rules_files[0].is_absolute());
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:9464");
}

#[test]
fn the_pool_follows_the_number_of_devices_but_is_never_one() {
    let small = config(&format!("{GOOD}\n[limits]\nconnections = 10\n"), &[]);
    assert_eq!(small.hub.connections, 2);
    let exact = config(&format!("{GOOD}\n[limits]\nconnections = 2985\n"), &[]);
    assert_eq!(exact.hub.connections, 3);
    let given = GOOD.replace("policy", "connections = 1\npolicy");
    let folder = Folder::new();
    let given = loaded(&folder.gateway(&given), &[]);
    assert_eq!(given.config.hub.connections, 1);
    assert!(
        given.warnings.iter().any(|w| w.key == "hub.connections"),
        "{:?}",
        given.warnings
    );
}

#[test]
fn the_former_name_of_a_key_is_taken_with_a_warning_that_says_the_new_one() {
    let name = "name = \"devices\"";
    let text = |tls: &str| GOOD.replace(name, &format!("{name}\n{tls}\naccept = [\"psk\"]"));
    let folder = Folder::new();
    for (written, ffdhe, warned) in [
        ("tls = { dhe_psk = true }", true, true),
        ("tls = { dhe_psk = false }", false, true),
        ("tls = { psk_ffdhe = true }", true, false),
    ] {
        let loaded = loaded(&folder.gateway(&text(written)), &[]);
        let tls = loaded.config.listeners[0].tls.as_ref().expect("TLS");
        assert_eq!(tls.psk.ffdhe, ffdhe, "{written}");
        let warning = loaded.warnings.iter().find(|w| w.key.ends_with("dhe_psk"));
        assert_eq!(warning.is_some(), warned, "{written}");
        if let Some(warning) = warning {
            assert!(warning.message.contains("psk_ffdhe"), "{warning}");
        }
    }
}

#[test]
fn five_mistakes_are_reported_in_one_run_with_file_line_key_and_fix() {
    let text = r#"
[hub]
host = "https://h.example"
polcy = "device"
policy = "device"
key = "not base64"
token_ttl = "1 fortnight"

[[listener]]
name = "devices"
bind = "0.0.0.0:8883"

[rules]
files = ["rules.toml"]
"#;
    let found = problems(text, &[]);
    let expected = [
        (3, "hub.host", "myhub.azure-devices.net"),
        (4, "hub.polcy", "did you mean `policy`?"),
        (6, "hub.key", "base64"),
        (7, "hub.token_ttl", "1m30s"),
        (11, "listener[0].bind", "tls = {"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (problem, (line, key, fix)) in found.iter().zip(expected) {
        assert!(
            problem.file.ends_with(&format!("gateway.toml:{line}")),
            "{problem}"
        );
        assert_eq!(problem.key, key);
        assert!(problem.message.contains(fix), "{problem}");
        let shown = problem.to_string();
        assert_eq!(
            shown,
            format!("{}: {}: {}", problem.file, problem.key, problem.message)
        );
    }
}

#[test]
fn check_exits_64_on_problems_and_0_without() {
    let folder = Folder::new();
    let good = Args {
        config: folder.write("good.toml", GOOD, 0o600),
        ..Args::default()
    };
    assert_eq!(run(&good), ExitCode::SUCCESS);
    let bad = Args {
        config: folder.write("bad.toml", "[hub]\n", 0o600),
        ..Args::default()
    };
    assert_eq!(run(&bad), ExitCode::from(64));
    let absent = Args {
        config: folder.path("absent.toml"),
        ..Args::default()
    };
    assert_eq!(run(&absent), ExitCode::from(66));
}

#[test]
fn check_reports_unreadable_rules_next_to_other_mistakes() {
    let folder = Folder::new();
    let text = GOOD
        .replace("rules.toml", "absent.toml")
        .replace("127.0.0.1:1883", "nowhere");
    let report = check_all(&folder.gateway(&text), env(&[]));
    let keys: Vec<_> = report.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["listener[0].bind", ""]);
    assert!(report.problems[1].file.contains("absent.toml"));
}

#[test]
fn environment_overrides_values_sections_and_elements() {
    let config = config(
        GOOD,
        &[
            ("IOTHUB_GATEWAY__HUB__TOKEN_TTL", "6s"),
            ("iothub_gateway__limits__connections", "20"),
            ("IOTHUB_GATEWAY__LIMITS__COMMANDS_ON_DISCONNECT", "abandon"),
            ("IOTHUB_GATEWAY__LISTENER__0__BIND", "127.0.0.1:2000"),
            ("IOTHUB_GATEWAY__LISTENER__0__ACCEPT", "[\"sas\"]"),
            ("IOTHUB_GATEWAY__LISTENER__1__NAME", "second"),
            ("IOTHUB_GATEWAY__LISTENER__1__BIND", "127.0.0.1:2001"),
            ("IOTHUB_GATEWAY__LISTENER__1__ACCEPT__0", "password"),
            ("IOTHUB_GATEWAY__RULES__FILES__1", "more.toml"),
            ("IOTHUB_GATEWAY__HUB__RENEW_AT", "0.5"),
            ("IOTHUB_GATEWAY__LISTENER__0__INSECURE", "false"),
            ("IOTHUB_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.hub.token_ttl, Duration::from_secs(6));
    assert!((config.hub.renew_at - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.limits.connections, 20);
    assert_eq!(config.limits.commands_on_disconnect, OnDisconnect::Abandon);
    assert_eq!(config.listeners[0].bind.port(), 2000);
    assert_eq!(config.listeners[0].accept, [CredentialKind::Sas]);
    assert_eq!(config.listeners[1].name, "second");
    assert_eq!(config.listeners[1].accept, [CredentialKind::Password]);
    assert_eq!(config.rules_files.len(), 2);
}

#[test]
fn a_variable_that_names_nothing_is_a_problem_with_a_suggestion() {
    for (variable, word) in [
        (
            "IOTHUB_GATEWAY__HUB__TOKEN_TLL",
            "IOTHUB_GATEWAY__HUB__TOKEN_TTL?",
        ),
        (
            "IOTHUB_GATEWAY__HBU__TOKEN_TTL",
            "IOTHUB_GATEWAY__HUB__TOKEN_TTL?",
        ),
        ("IOTHUB_GATEWAY__COLOUR", "unset it"),
        ("IOTHUB_GATEWAY__İİİ__ホスト", "unset it"),
        ("IOTHUB_GATEWAY__HUB", "add one of its keys"),
        ("IOTHUB_GATEWAY__", "names no key"),
        ("IOTHUB_GATEWAY__HUB__HOST__X", "one value"),
        ("IOTHUB_GATEWAY__LISTENER__2__NAME", "the next to add is 1"),
        ("IOTHUB_GATEWAY__LISTENER__X__NAME", "number"),
        ("IOTHUB_GATEWAY__LISTENER__0", "name an element"),
        ("IOTHUB_GATEWAY__RULES__FILES", "TOML array"),
    ] {
        let problem = problem(GOOD, &[(variable, "1")]);
        assert!(problem.file.contains(variable), "{problem}");
        assert!(problem.message.contains(word), "{problem}");
    }
}

#[test]
fn a_bad_value_from_the_environment_names_variable_and_key() {
    let problem = problem(GOOD, &[("IOTHUB_GATEWAY__HUB__TOKEN_TTL", "1s")]);
    assert_eq!(problem.file, "environment IOTHUB_GATEWAY__HUB__TOKEN_TTL");
    assert_eq!(problem.key, "hub.token_ttl");
    assert!(problem.message.contains("from 4s"), "{problem}");
}

#[test]
fn two_spellings_of_one_variable_are_a_problem() {
    let pairs = [
        ("IOTHUB_GATEWAY__HUB__TOKEN_TTL", "6s"),
        ("iothub_gateway__hub__token_ttl", "7s"),
    ];
    assert!(problem(GOOD, &pairs).message.contains("keep one"));
}

#[test]
fn secrets_come_from_variables_files_and_links() {
    let from_env = GOOD.replace("${file:hub.key}", "${HUB_KEY}");
    let same = config(&from_env, &[("HUB_KEY", KEY)]);
    assert!(same.hub.key.ct_eq(b"marked-secret-key-do-not-print!!"));

    let folder = Folder::new();
    std::os::unix::fs::symlink(folder.path("hub.key"), folder.path("link")).unwrap();
    let linked = folder.gateway(&GOOD.replace("file:hub.key", "file:link"));
    assert!(loaded(&linked, &[]).config.hub.key == same.hub.key);

    let string = format!(
        "[hub]\nconnection_string = \"HostName=${{NAME}};SharedAccessKeyName=device;\
         SharedAccessKey=${{file:hub.key}}\"\n{}",
        &GOOD[GOOD.find("[[").unwrap()..]
    );
    let joined = config(&string, &[("NAME", "other.example")]);
    assert_eq!(joined.hub.host, "other.example");
    assert_eq!(joined.hub.policy, "device");
    assert!(joined.hub.key == same.hub.key);
    assert_eq!(joined.hub.endpoint.host, "other.example");

    // systemd's LoadCredential
    let nested = GOOD.replace(
        "${file:hub.key}",
        "${file:${CREDENTIALS_DIRECTORY}/hub.key}",
    );
    let path = folder.gateway(&nested);
    let directory = folder.path("").display().to_string();
    let credentials = loaded(&path, &[("CREDENTIALS_DIRECTORY", &directory)]);
    assert!(credentials.config.hub.key == same.hub.key);

    let literal = GOOD.replace("\"device\"", "\"$${device}\"");
    assert_eq!(config(&literal, &[]).hub.policy, "${device}");
}

#[test]
fn a_secret_file_open_to_others_is_refused_until_told_otherwise() {
    let folder = Folder::new();
    folder.write("hub.key", KEY, 0o644);
    let path = folder.gateway(GOOD);
    let problems = load(&path, env(&[])).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "hub.key");
    assert!(problems[0].message.contains("chmod 600"), "{}", problems[0]);
    assert!(problems[0].message.contains("insecure_permissions = true"));

    let allowed = loaded(&path, &[("IOTHUB_GATEWAY__INSECURE_PERMISSIONS", "true")]);
    assert!(
        allowed
            .warnings
            .iter()
            .any(|w| w.key == "insecure_permissions")
    );
    let allowed = folder.gateway(&format!("insecure_permissions = true\n{GOOD}"));
    assert!(load(&allowed, env(&[])).is_ok());
}

#[test]
fn a_key_written_out_in_a_readable_file_is_warned_of_unless_it_is_the_emulators() {
    let folder = Folder::new();
    let text = GOOD.replace("${file:hub.key}", KEY);
    let path = folder.write("gateway.toml", &text, 0o644);
    let warnings = loaded(&path, &[]).warnings;
    assert!(warnings.iter().any(|w| w.key == "hub.key"), "{warnings:?}");
    let emulator = text.replace("policy", "endpoint = \"amqp://127.0.0.1\"\npolicy");
    let path = folder.write("gateway.toml", &emulator, 0o644);
    let warnings = loaded(&path, &[]).warnings;
    assert!(!warnings.iter().any(|w| w.key == "hub.key"), "{warnings:?}");
}

#[test]
fn secrets_are_in_no_output_whatever_is_wrong() {
    let folder = Folder::new();
    folder.certificates("");
    let tls_key = std::fs::read_to_string(folder.path("server.key")).unwrap();
    let tls_line = tls_key.lines().nth(1).unwrap();
    let texts = [
        GOOD.replace("${file:hub.key}", KEY),
        GOOD.replace("policy", &format!("secondary_key = \"{KEY_2}\"\npolicy")),
        // Broken in every way that could make a message repeat it.
        GOOD.replace("\"${file:hub.key}\"", &format!("\"{KEY}")),
        GOOD.replace("\"${file:hub.key}\"", KEY),
        GOOD.replace("${file:hub.key}", &KEY[1..]),
        GOOD.replace("key = \"${file:hub.key}\"", &format!("key = [\"{KEY}\"]")),
        GOOD.replace("\"h.example\"", "\"${file:hub.key}\""),
        GOOD.replace("policy = \"device\"", "policy = \"${file:hub.key}\""),
        GOOD.replace("host =", "token_ttl = \"${file:hub.key}\"\nhost ="),
        GOOD.replace("host =", "endpoint = \"${SECRET}\"\nhost ="),
        GOOD.replace("host =", "renew_at = \"${SECRET}\"\nhost ="),
        GOOD.replace(
            "[\"rules.toml\"]",
            "[\"rules.toml\", \"rules.toml\"]\nx = \"${SECRET}\"",
        ),
        GOOD.replace("host =", &format!("connection_string = \"{KEY}\"\nhost =")),
        GOOD.replace(
            "host =",
            &format!("ca = \"server.key\"\nsecondary_key = \"{KEY}!\"\nhost ="),
        ),
        GOOD.replace(
            "bind =",
            "tls = { cert = \"server.key\", key = \"server.pem\" }\nbind =",
        ),
        GOOD.replace("host =", "ca = \"${file:hub.key}\"\nhost ="),
        GOOD.replace("bind =", "tls = { cert = \"x${file:hub.key}y\" }\nbind ="),
        GOOD.replace("bind =", "accept = [\"${SECRET}\"]\nbind ="),
        GOOD.replace("bind =", "bind = \"${SECRET}\"\nx ="),
    ];
    for text in &texts {
        let path = folder.gateway(text);
        let pairs = [
            ("SECRET", KEY_2),
            ("IOTHUB_GATEWAY__HUB__BACKOFF_MIN", "${file:hub.key}"),
        ];
        let examined = examine(&path, env(&pairs));
        let report = check_all(&path, env(&pairs));
        let mut output = format!("{examined:?}\n{report:?}\n");
        for problem in report.problems.iter().chain(&report.warnings) {
            output.push_str(&problem.to_string());
        }
        for secret in [
            KEY,
            &KEY[1..20],
            KEY_2,
            "marked-secret",
            "second-marked",
            tls_line,
        ] {
            assert!(
                !output.contains(secret),
                "{secret} in\n{output}\nof\n{text}"
            );
        }
    }
}

#[test]
fn settings_say_who_set_them() {
    let folder = Folder::new();
    let path = folder.gateway(GOOD);
    let settings = loaded(&path, &[("IOTHUB_GATEWAY__LOG__FILTER", "debug")]).settings;
    let find = |key: &str| {
        settings
            .iter()
            .find(|s| s.key == key)
            .unwrap_or_else(|| panic!("{key}"))
    };
    assert_eq!(find("hub.host").origin, Origin::File(3));
    assert_eq!(find("hub.token_ttl").origin, Origin::Default);
    assert_eq!(find("hub.token_ttl").value, "1h");
    let named = GOOD.replace("\"device\"", "\"${POLICY}\"");
    let hidden = loaded(&folder.gateway(&named), &[("POLICY", "device")]).settings;
    assert!(
        hidden
            .iter()
            .any(|s| s.key == "hub.policy" && s.value == "(from ${…})")
    );
    assert_eq!(find("limits.connections").value, "15000");
    let variable = "IOTHUB_GATEWAY__LOG__FILTER".to_owned();
    assert_eq!(find("log.filter").origin, Origin::Env(variable));
    assert_eq!(find("hub.key").value, "(secret)");
}

/// A folder with the repository's `config/` and what its files refer to.
fn shipped() -> Folder {
    let folder = Folder::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for name in ["gateway.toml", "minimal.toml"] {
        let text = std::fs::read_to_string(source.join(name)).unwrap();
        folder.write(&format!("config/{name}"), &text, 0o644);
    }
    folder.write("config/rules.toml", "", 0o600);
    folder.write("config/minimal-rules.toml", "", 0o600);
    folder.write("certs/dev/rules.toml", "", 0o600);
    folder.certificates("certs/dev");
    folder.write("certs/dev/hub.key", KEY, 0o600);
    folder.write("certs/dev/hub-2.key", KEY_2, 0o600);
    folder
}

#[test]
fn every_shipped_file_loads_as_it_is() {
    let folder = shipped();
    let full = loaded(&folder.path("config/gateway.toml"), &[]);
    assert_eq!(full.config.listeners.len(), 2);
    assert_eq!(full.config.listeners[0].accept.len(), 4);
    let minimal = loaded(&folder.path("config/minimal.toml"), &[]);
    assert!(!minimal.config.hub.endpoint.tls);
    for loaded in [&full, &minimal] {
        let own = |w: &&Problem| !w.message.contains("file descriptors");
        let warnings: Vec<_> = loaded.warnings.iter().filter(own).collect();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn the_complete_file_has_every_key_at_its_default() {
    let folder = shipped();
    let full = loaded(&folder.path("config/gateway.toml"), &[]).settings;
    let minimal = loaded(&folder.path("config/minimal.toml"), &[]).settings;
    for setting in &full {
        if setting.origin == Origin::Default {
            let (_, rest) = setting.key.split_once(']').unwrap_or(("", &setting.key));
            let others = [0, 1].map(|index| format!("listener[{index}]{rest}"));
            let shown = full
                .iter()
                .any(|s| others.contains(&s.key) && s.origin != Origin::Default);
            assert!(shown, "config/gateway.toml does not show {}", setting.key);
        }
        let least = minimal.iter().find(|s| s.key == setting.key);
        if let Some(least) = least.filter(|s| s.origin == Origin::Default)
            && setting.key != "listener[0].accept"
        {
            assert_eq!(least.value, setting.value, "default of {}", setting.key);
        }
    }
}

#[test]
fn the_complete_file_documents_what_the_table_of_limits_says() {
    let folder = shipped();
    let text = std::fs::read_to_string(folder.path("config/gateway.toml")).unwrap();
    for commented in ["connection_string", "crl"] {
        assert!(text.contains(&format!("# {commented} = ")), "{commented}");
    }
    assert!(
        text.contains(&limits::reference()),
        "[limits] of config/gateway.toml must be:\n{}",
        limits::reference()
    );
    let limits = limits::Limits::default();
    let worst = limits.worst_case_bytes(16, 4, 2 * 1024 * 1024);
    let (total, idle) = (human_size(worst.total()), human_size(worst.idle()));
    let sums = format!("{total} when 15,000 devices are hostile, {idle} when silent");
    assert!(text.contains(&sums), "{sums}");
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}
