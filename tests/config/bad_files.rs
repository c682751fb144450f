//! Bad files, each with the key that must be named and a word of the fix; and no port opened.

use super::{Folder, GOOD, env};
use iothub_gateway::config::load;

struct Bad {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    key: &'static str,
    word: &'static str,
}

const fn bad(
    what: &'static str,
    from: &'static str,
    to: &'static str,
    key: &'static str,
    word: &'static str,
) -> Bad {
    Bad {
        what,
        from,
        to,
        key,
        word,
    }
}

/// `from` in the good file becomes `to`; every `from` occurs there.
const TABLE: &[Bad] = &[
    bad("no TOML", "[hub]", "[hub", "", "column"),
    bad(
        "key twice",
        "policy",
        "host = \"x\"\npolicy",
        "",
        "duplicate key",
    ),
    bad("no hub", "[hub]", "[log]", "hub", "add [hub]"),
    bad("section misspelt", "[rules]", "[rule]", "rule", "`rules`"),
    bad(
        "listener as one table",
        "[[listener]]",
        "[listener]",
        "listener",
        "[[listener]]",
    ),
    bad("no host", "host =", "#", "hub.host", "azure-devices.net"),
    bad(
        "host with a scheme",
        "h.example",
        "amqps://h.example",
        "hub.host",
        "alone",
    ),
    bad(
        "host is a number",
        "\"h.example\"",
        "7",
        "hub.host",
        "quotes",
    ),
    bad("no policy", "policy =", "#", "hub.policy", "DeviceConnect"),
    bad("no key", "key =", "#", "hub.key", "${file:PATH}"),
    bad(
        "key file absent",
        "hub.key}",
        "absent}",
        "hub.key",
        "create it",
    ),
    bad("key file a folder", "hub.key}", "/}", "hub.key", "regular"),
    bad(
        "variable not set",
        "file:hub.key",
        "HUB_KEY",
        "hub.key",
        "set it",
    ),
    bad("brace open", "hub.key}", "hub.key", "hub.key", "`}`"),
    bad(
        "unknown source",
        "file:",
        "vault:",
        "hub.key",
        "${VARIABLE}",
    ),
    bad(
        "key too short",
        "${file:hub.key}",
        "QUJD",
        "hub.key",
        "copy it whole",
    ),
    bad(
        "both ways",
        "host",
        "connection_string = \"x\"\nhost",
        "hub.host",
        "keep one",
    ),
    bad(
        "token of 1 s",
        "host",
        "token_ttl = \"1s\"\nhost",
        "hub.token_ttl",
        "from 4s",
    ),
    bad(
        "no unit",
        "host",
        "token_ttl = 3600\nhost",
        "hub.token_ttl",
        "1m30s",
    ),
    bad(
        "renewal at the end",
        "host",
        "renew_at = 1.0\nhost",
        "hub.renew_at",
        "between 0 and 1",
    ),
    bad(
        "renewal no number",
        "host",
        "renew_at = nan\nhost",
        "hub.renew_at",
        "between 0 and 1",
    ),
    bad(
        "plain far endpoint",
        "host",
        "endpoint = \"amqp://1.2.3.4\"\nhost",
        "hub.endpoint",
        "amqps",
    ),
    bad(
        "endpoint by https",
        "host",
        "endpoint = \"https://h\"\nhost",
        "hub.endpoint",
        "scheme",
    ),
    bad(
        "rate unclear",
        "host",
        "attach_rate = \"100/min\"\nhost",
        "hub.attach_rate",
        "per second",
    ),
    bad(
        "no rate",
        "host",
        "attach_rate = 90\nhost",
        "hub.attach_rate",
        "90/s",
    ),
    bad(
        "backoff reversed",
        "host",
        "backoff_min = \"6s\"\nhost",
        "hub.backoff_min",
        "backoff_max",
    ),
    bad(
        "ca absent",
        "host",
        "ca = \"absent.pem\"\nhost",
        "hub.ca",
        "correct the path",
    ),
    bad(
        "ca no PEM",
        "host",
        "ca = \"rules.toml\"\nhost",
        "hub.ca",
        "in PEM",
    ),
    bad(
        "ca no authority",
        "host",
        "ca = \"server.pem\"\nhost",
        "hub.ca",
        "authority",
    ),
    bad("no name", "name =", "#", "listener[0].name", "name it"),
    bad(
        "name with spaces",
        "\"devices\"",
        "\"my devices\"",
        "listener[0].name",
        "letters",
    ),
    bad("no bind", "bind =", "#", "listener[0].bind", "0.0.0.0:8883"),
    bad(
        "bind without port",
        "127.0.0.1:1883",
        "127.0.0.1",
        "listener[0].bind",
        "port",
    ),
    bad(
        "bind by name",
        "127.0.0.1:1883",
        "localhost:1883",
        "listener[0].bind",
        "127.0.0.1:1883",
    ),
    bad(
        "bind port too large",
        "127.0.0.1:1883",
        "127.0.0.1:70000",
        "listener[0].bind",
        "port",
    ),
    bad(
        "plain beyond loopback",
        "127.0.0.1:1883",
        "0.0.0.0:1883",
        "listener[0].bind",
        "insecure",
    ),
    bad(
        "psk without tls",
        "bind",
        "accept = [\"psk\"]\nbind",
        "listener[0].accept[0]",
        "tls = {}",
    ),
    bad(
        "x509 without tls",
        "bind",
        "accept = [\"x509\"]\nbind",
        "listener[0].accept[0]",
        "cert",
    ),
    bad(
        "credential unknown",
        "bind",
        "accept = [\"tls\"]\nbind",
        "listener[0].accept[0]",
        "sas",
    ),
    bad(
        "nothing accepted",
        "bind",
        "accept = []\nbind",
        "listener[0].accept",
        "name a credential",
    ),
    bad(
        "accept no list",
        "bind",
        "accept = \"sas\"\nbind",
        "listener[0].accept",
        "array",
    ),
    bad(
        "no version served",
        "bind",
        "mqtt_versions = []\nbind",
        "listener[0].mqtt_versions",
        "name a version",
    ),
    bad(
        "version unknown",
        "bind",
        "mqtt_versions = [\"5\", \"4\"]\nbind",
        "listener[0].mqtt_versions[1]",
        "3.1.1",
    ),
    bad(
        "version twice",
        "bind",
        "mqtt_versions = [\"5\", \"5\"]\nbind",
        "listener[0].mqtt_versions[1]",
        "twice",
    ),
    bad(
        "sas without certificate",
        "bind",
        "accept = [\"sas\"]\ntls = {}\nbind",
        "listener[0].accept[0]",
        "server certificate",
    ),
    bad(
        "cert without key",
        "bind",
        "tls = { cert = \"server.pem\" }\nbind",
        "listener[0].tls.key",
        "private key",
    ),
    bad(
        "key of another",
        "bind",
        "tls = { cert = \"ca.pem\", key = \"server.key\" }\nbind",
        "listener[0].tls.key",
        "first certificate",
    ),
    bad(
        "key open to others",
        "bind",
        "tls = { cert = \"server.pem\", key = \"open.key\" }\nbind",
        "listener[0].tls.key",
        "chmod 600",
    ),
    bad(
        "client authority is a leaf",
        "bind",
        "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"server.pem\" }\nbind",
        "listener[0].tls.client_ca",
        "authority",
    ),
    bad(
        "same name twice",
        "[rules]",
        "[[listener]]\nname = \"devices\"\nbind = \"127.0.0.1:2\"\n[rules]",
        "listener[1].name",
        "its own",
    ),
    bad(
        "same port twice",
        "[rules]",
        "[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:1883\"\n[rules]",
        "listener[1].bind",
        "change one port",
    ),
    bad(
        "the admin's port",
        "127.0.0.1:1883",
        "127.0.0.1:9464",
        "listener[0].bind",
        "[admin]",
    ),
    bad("no rules", "files =", "#", "rules.files", "rules.toml"),
    bad(
        "rules empty",
        "\"rules.toml\"",
        "",
        "rules.files",
        "name a rules file",
    ),
    bad(
        "limit of 0",
        "[rules]",
        "[limits]\nconnections = 0\n[rules]",
        "limits.connections",
        "from 1",
    ),
    bad(
        "limit negative",
        "[rules]",
        "[limits]\nproperties = -1\n[rules]",
        "limits.properties",
        "whole",
    ),
    bad(
        "limit with unit",
        "[rules]",
        "[limits]\nhandshakes = \"9s\"\n[rules]",
        "limits.handshakes",
        "whole",
    ),
    bad(
        "packet larger than window",
        "[rules]",
        "[limits]\nuplink_bytes = \"8KiB\"\n[rules]",
        "limits.uplink_bytes",
        "packet_bytes",
    ),
    bad(
        "policy unknown",
        "[rules]",
        "[limits]\ncommands_on_disconnect = \"drop\"\n[rules]",
        "limits.commands_on_disconnect",
        "release",
    ),
    bad(
        "key in wrong section",
        "[rules]",
        "[log]\nbind = \"x\"\n[rules]",
        "log.bind",
        "[[listener]]",
    ),
    bad(
        "filter unknown",
        "[rules]",
        "[log]\nfilter = \"loud\"\n[rules]",
        "log.filter",
        "debug",
    ),
    bad(
        "format unknown",
        "[rules]",
        "[log]\nformat = \"xml\"\n[rules]",
        "log.format",
        "json",
    ),
    bad(
        "admin by name",
        "[rules]",
        "[admin]\nbind = \"x\"\n[rules]",
        "admin.bind",
        "port",
    ),
    bad(
        "admin's TLS without a key",
        "[rules]",
        "[admin]\ntls = { cert = \"server.pem\" }\n[rules]",
        "admin.tls.key",
        "private key",
    ),
    bad(
        "admin's TLS of nothing",
        "[rules]",
        "[admin]\ntls = {}\n[rules]",
        "admin.tls.cert",
        "certificate",
    ),
    bad(
        "a listener's key in admin's TLS",
        "[rules]",
        "[admin.tls]\npsk_ke = true\n[rules]",
        "admin.tls.psk_ke",
        "[[listener]]",
    ),
    bad(
        "close at once",
        "[rules]",
        "[shutdown]\nclose = \"0s\"\n[rules]",
        "shutdown.close",
        "from 1s",
    ),
];

#[test]
fn every_bad_file_names_its_key_and_the_fix_and_opens_no_port() {
    let folder = Folder::new();
    folder.certificates("");
    let key = std::fs::read_to_string(folder.path("server.key")).unwrap();
    folder.write("open.key", &key, 0o644);
    assert!(TABLE.len() >= 30);
    for Bad {
        what,
        from,
        to,
        key,
        word,
    } in TABLE
    {
        assert!(GOOD.contains(from), "{what}: {from}");
        let text = GOOD.replacen(from, to, 1);
        let Err(problems) = load(&folder.gateway(&text), env(&[])) else {
            panic!("{what}: taken\n{text}")
        };
        let hit = problems
            .iter()
            .any(|p| p.key == *key && p.message.contains(word));
        assert!(hit, "{what}: no {key} with {word:?} in {problems:#?}");
        for problem in &problems {
            let shown = problem.to_string();
            assert_eq!(shown.lines().count(), 1, "{shown}");
        }
    }
    let sockets = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    assert_eq!(sockets, 0, "checking opened a socket");
}

#[test]
fn hostile_text_stays_one_printable_line() {
    let evil = "\\u001b[31m\\nforged: line\\u202e";
    let long = "x".repeat(64 * 1024);
    let folder = Folder::new();
    for text in [
        GOOD.replace("policy", &format!("\"{evil}\" = 1\npolicy")),
        GOOD.replace("h.example", evil),
        GOOD.replace("rules.toml", &format!("{evil}\", \"{evil}")),
        GOOD.replace("policy", &format!("{long} = 1\npolicy")),
        GOOD.replace("h.example", &long),
        GOOD.replace("hub.key", &long),
    ] {
        let Err(problems) = load(&folder.gateway(&text), env(&[])) else {
            panic!("taken")
        };
        for problem in problems {
            let shown = problem.to_string();
            assert!(!shown.contains(['\n', '\x1b', '\u{202e}']), "{shown:?}");
            assert!(shown.len() < 2_000, "{} bytes", shown.len());
        }
    }
}
