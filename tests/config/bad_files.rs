//! Bad files, each with the key that must be named and a word of the fix; and no port opened.

#[path = "bad_files/in_front.rs"]
mod in_front;
mod rows;

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
    assert!(rows::TABLE.len() + TABLE.len() >= 60);
    for Bad {
        what,
        from,
        to,
        key,
        word,
    } in rows::TABLE.iter().chain(TABLE).chain(in_front::TABLE)
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
