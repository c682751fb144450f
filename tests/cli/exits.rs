//! Exit codes: what each command ends with, and the README's table of them.

use crate::folder::Folder;
use iothub_gateway::cli::exit::TABLE;

#[test]
fn the_table_of_exit_codes_is_the_programs_own() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let rows = TABLE.map(|(exit, means)| format!("| {} | {means} |\n", exit as u8));
    let table = format!("| code | means |\n|---|---|\n{}", rows.concat());
    assert!(readme.contains(&table), "README.md must have\n{table}");
}

/// 70 is a panic's, and 77 the answer of a gateway: `cli::exit` and `e2e::explain` have them.
#[test]
fn each_kind_of_end_has_its_code() {
    let folder = Folder::new();
    folder.write("wrong.toml", "[hub]\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    folder.write(
        "emulator.toml",
        &format!("[amqp]\nplain_bind = \"127.0.0.1:{port}\"\n[hub]\nhost = \"h\"\n"),
    );
    for (line, code) in [
        ("--version", 0),
        ("psk generate a b", 0),
        ("check -c gateway.toml --as psk:nobody", 1),
        ("", 64),
        ("nonsense", 64),
        ("psk generate --count 0", 64),
        ("check -c wrong.toml", 64),
        ("run -c wrong.toml", 64),
        ("check -c absent.toml", 66),
        ("check -c .", 66),
        ("run -c absent.toml", 66),
        ("emulator -c absent.toml", 66),
        ("refused list -c absent.toml", 66),
        ("psk lint absent.psk", 66),
        ("token read absent", 66),
        ("ctl --token-file absent hub", 66),
        ("ctl --admin 127.0.0.1:1 hub", 69),
        ("emulator -c emulator.toml", 69),
        ("man /proc/nowhere", 73),
        ("demo --dir /proc/nowhere", 73),
        ("psk generate a >/dev/full", 74),
        ("completions bash >/dev/full", 74),
        ("password </proc/self/mem", 74),
    ] {
        let done = folder.sh(&format!("iothub-gateway {line}"));
        assert_eq!(done.code, code, "{line}: {done:?}");
        assert_eq!(done.err.is_empty(), code < 2, "{line}: {}", done.err);
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let folder = Folder::new();
    let line = "(iothub-gateway psk generate --count 20000; echo $? >code) | head -1";
    let done = folder.sh(line);
    assert!(done.out.starts_with("device-0:"), "{done:?}");
    let code = std::fs::read_to_string(folder.path("code")).expect("written");
    assert_eq!((code.trim(), done.err.as_str()), ("0", ""));
}
