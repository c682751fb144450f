//! Tells the program which commit it was built from.

use std::path::Path;
use std::process::Command;

const COMMIT: &str = "IOTHUB_GATEWAY_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let commit = std::env::var(COMMIT).ok().filter(|given| is_word(given));
    let commit = commit.or_else(|| release().then(from_git)?);
    println!(
        "cargo::rustc-env={COMMIT}={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

/// A debug build would be made anew after each commit, for a word nobody reads.
fn release() -> bool {
    std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// The commit of the repository this folder is the root of; none in an unpacked archive.
fn from_git() -> Option<String> {
    let root = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(&root)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None; // part of somebody else's repository
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = Path::new(&root).join(git(&["rev-parse", "--git-path", file])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| is_word(commit))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
