//! The files of the repository and what `check` says of bad ones.

use crate::support::{Options, gateway_toml, scratch};
use std::process::Command;

fn check(config: &std::path::Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
        .args(["check", "-c"])
        .arg(config)
        .output()
        .expect("the binary starts");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test]
async fn check_reports_five_planted_mistakes_in_one_run() {
    let dir = scratch("mistakes");
    let hub = crate::support::hub_in(&dir, &Options::default()).await;
    let good = gateway_toml(&Options::default(), 5671, 8883, 1883, 9464);
    let path = dir.join("gateway.toml");
    std::fs::write(&path, &good).expect("written");
    let (code, text) = check(&path);
    assert_eq!(code, Some(0), "{text}");

    let bad = good
        .replace(
            "token_ttl = \"1h\"",
            "token_ttl = \"soon\"\nrenew_att = 0.5",
        )
        .replace("cert = \"server.pem\"", "cert = \"absent.pem\"")
        .replace(
            "accept = [\"sas\", \"password\"]",
            "accept = [\"sas\", \"passwort\"]",
        );
    std::fs::write(&path, bad).expect("written");
    let rules = std::fs::read_to_string(dir.join("rules.toml")).expect("rules");
    crate::support::secret(
        &dir.join("rules.toml"),
        &rules.replacen("id = \"sas-1\"", "id = \"a/b\"", 1),
    );
    let (code, text) = check(&path);
    assert_eq!(code, Some(64), "{text}");
    for part in [
        "token_ttl",
        "renew_at",
        "absent.pem",
        "passwort",
        "device[1].id",
    ] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    hub.stop().await;
}

#[test]
fn the_smallest_configuration_fits_the_emulators() {
    use iothub_gateway::emulator::EmulatorConfig;
    let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let text = std::fs::read_to_string(config.join("emulator.toml")).expect("readable");
    let emulator = EmulatorConfig::from_toml(&text, &config).expect("loads");
    let dir = scratch("minimal");
    for name in ["minimal.toml", "minimal-rules.toml"] {
        std::fs::copy(config.join(name), dir.join(name)).expect("copied");
    }
    // What the first command of the file makes.
    let line = "load-0:00112233445566778899aabbccddeeff\n";
    crate::support::secret(&dir.join("minimal.psk"), line);
    let gateway = iothub_gateway::gateway::load(&dir.join("minimal.toml"));
    let hub = gateway
        .map_err(|problems| format!("{problems:?}"))
        .expect("loads")
        .config
        .hub;
    let policy = emulator
        .policies
        .iter()
        .find(|policy| policy.name == hub.policy);
    assert_eq!(emulator.host, hub.host);
    let key = policy.expect("the policy").keys.primary.as_ref();
    assert_eq!(key, Some(&hub.key));
    assert_eq!(
        emulator.amqp.plain_bind.expect("a port").port(),
        hub.endpoint.port
    );
}
