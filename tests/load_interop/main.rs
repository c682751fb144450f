//! The load generator against a broker that is not ours: the example of src/load/README.md, as
//! it stands there.
//! Built only with `--features interop`, since the broker must be installed; `tests/run` does.
#![cfg(feature = "interop")]

#[path = "../support/process.rs"]
mod process;

use process::free_port;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first shell example of src/load/README.md.
fn example() -> String {
    let readme = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/load/README.md");
    let readme = std::fs::read_to_string(readme).expect("src/load/README.md");
    let block = readme.split("```sh\n").nth(1).expect("an example");
    block.split("```").next().expect("its end").to_owned()
}

/// Debian keeps the broker where only root's PATH looks.
fn path() -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_iothub-gateway"));
    let own = binary.parent().expect("a folder").display();
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{own}:{path}:/usr/sbin")
}

#[test]
fn the_readmes_example_drives_mosquitto_with_pre_shared_keys() {
    let installed = Command::new("sh")
        .args(["-c", "command -v mosquitto"])
        .env("PATH", path())
        .stdout(Stdio::null())
        .status();
    assert!(
        installed.is_ok_and(|status| status.success()),
        "mosquitto is not installed; tests/run installs it"
    );
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load-interop");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("scratch folder");
    for tls in ["1.2", "1.3"] {
        let example = example();
        assert!(
            example.contains(" 8884 ") && example.contains("--port 8884"),
            "{example}"
        );
        // Another port, and a result to look at; the rest as it stands.
        let script = example.replace("8884", &free_port().to_string()).replace(
            "--pid $!",
            &format!("--pid $! --tls {tls} --json result.json; code=$?"),
        );
        // `kill %1` needs job control
        let output = Command::new("timeout")
            .args(["120", "bash", "-mc", &format!("{script}\nexit $code")])
            .current_dir(&dir)
            .env("PATH", path())
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = format!("{script}\n{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{all}");
        let json = std::fs::read_to_string(dir.join("result.json")).expect("a result");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["connected"], 500, "{all}");
        assert_eq!(json["acknowledged"], 10_000, "{all}");
        let cpu = json["server"]["cpu_us_per_message"].as_f64();
        assert!(cpu.is_some_and(|us| us > 0.0), "{all}");
    }
}
