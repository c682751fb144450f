use super::*;

fn read(text: &str) -> Result<EmulatorConfig, Vec<String>> {
    EmulatorConfig::from_toml(text, Path::new("/nowhere"))
}

const GOOD: &str = r#"
[amqp]
plain_bind = "127.0.0.1:0"
[hub]
host = "myhub.azure-devices.net"
[[policy]]
name = "device"
rights = ["DeviceConnect"]
primary_key = "c2VjcmV0"
[[device]]
id = "thermo-1"
status = "disabled"
sas = { primary_key = "c2VjcmV0", secondary_key = "cGFzc3dvcmQ=" }
modules = [{ id = "m1" }]
[[device_range]]
prefix = "load-"
count = 20000
[limits]
attach_rate = "100/s"
token_skew = "0s"
command_lock = "1s"
[switches]
second_receiver = "stolen"
"#;

#[test]
fn a_good_file_is_read_whole() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.limits.attach_rate, Some(100));
    assert_eq!(config.limits.token_skew, Duration::ZERO);
    assert_eq!(config.limits.command_queue, 50);
    assert_eq!(config.switches.second_receiver, SecondReceiver::Stolen);
    assert!(config.policies[0].rights.device_connect);
    assert!(!config.devices[0].enabled);
    assert_eq!(config.devices[0].keys.iter().count(), 2);
    assert_eq!(config.devices[0].modules[0].id, "m1");
    assert_eq!(config.ranges[0].count, 20_000);
}

#[test]
fn every_problem_is_reported_in_one_run_with_its_key() {
    let problems = read(
        r#"
[amqp]
bind = "here"
plain_bnd = "127.0.0.1:0"
[control]
bind = "0.0.0.0:5680"
[hub]
[[policy]]
name = "device"
rights = ["DeviceConect"]
primary_key = "***"
[[device]]
id = "a b"
[[device]]
id = "x"
[[device]]
id = "x"
[limits]
attach_rate = "fast"
command_queue = 0
comand_lock = "1m"
"#,
    )
    .unwrap_err();
    let text = problems.join("\n");
    for needle in [
        "amqp.bind: \"here\" is no address",
        "amqp.tls: is missing",
        "amqp.plain_bnd: unknown key, did you mean \"plain_bind\"?",
        "control.bind: only a loopback address",
        "hub.host: is missing",
        "policy[0].rights: \"DeviceConect\" is not one of",
        "policy[0].primary_key: is no base64 key",
        "device[0].id: must be 1 to 128",
        "device[2].id: \"x\" is there twice",
        "limits.attach_rate: \"fast\" is no rate",
        "limits.command_queue: must be a whole number",
        "limits.comand_lock: unknown key, did you mean \"command_lock\"?",
    ] {
        assert!(text.contains(needle), "{needle} not in\n{text}");
    }
}

#[test]
fn a_plain_port_off_loopback_is_refused() {
    let problems = read(&GOOD.replace("127.0.0.1:0", "192.0.2.1:5672")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("amqp.plain_bind: only a loopback"));
}

#[test]
fn an_unreadable_certificate_names_its_key_and_path() {
    let text = GOOD.replace(
        "[hub]",
        "bind = \"127.0.0.1:0\"\ntls = { cert = \"no.pem\", key = \"no.key\" }\n[hub]",
    );
    let problems = read(&text).unwrap_err().join("\n");
    assert!(
        problems.contains("amqp.tls.cert: cannot read \"no.pem\""),
        "{problems}"
    );
    assert!(
        problems.contains("amqp.tls.key: cannot read \"no.key\""),
        "{problems}"
    );
}

#[test]
fn no_toml_is_one_problem() {
    let problems = read("[amqp").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("not TOML"));
}

#[test]
fn a_key_may_come_from_a_variable_or_a_file_and_never_shows() {
    let problems = read(&GOOD.replace("\"c2VjcmV0\"", "\"${NO_SUCH_VARIABLE_1}\"")).unwrap_err();
    assert!(
        problems
            .join("\n")
            .contains("NO_SUCH_VARIABLE_1 is not set")
    );
    let shown = format!("{:?}", read(GOOD).unwrap());
    assert!(
        !shown.contains("c2VjcmV0") && !shown.contains("secret"),
        "{shown}"
    );
}

#[test]
fn the_example_file_is_good() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let text = std::fs::read_to_string(base.join("emulator.toml")).unwrap();
    let config = EmulatorConfig::from_toml(&text, &base).unwrap();
    assert_eq!(
        config.limits,
        EmulatorLimits::default(),
        "the comments show the defaults"
    );
    assert_eq!(config.devices[1].modules[0].id, "vision");
}
