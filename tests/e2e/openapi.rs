//! The API is what its description says: a validator reads the description, a fuzzer holds the
//! gateway to it. Both are installed by `tests/run`.

use crate::explain::{OPERATE, bench};
use crate::support::device::{Device, Transport, Who};
use crate::support::{Options, PASSWORD, http};
use std::path::Path;
use std::process::Command;

fn tool(name: &str) -> Command {
    Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/interop/bin")
            .join(name),
    )
}

fn run(mut command: Command) {
    let done = command
        .output()
        .expect("it is installed; tests/run does that");
    let text = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_and_a_fuzzer_find_nothing() {
    let bench = bench("openapi", Options::default()).await;
    let who = Who::login("pass-1", "pass-1", PASSWORD);
    let _device = Device::connect(bench.plain(), &Transport::Plain, &who).await;
    let admin = bench.gateway.admin();
    let file = bench.dir.join("openapi.json");
    let checked = tokio::task::spawn_blocking(move || {
        let described = http::get(admin, "/api/v1/openapi.json");
        std::fs::write(&file, described).expect("written");
        let mut validator = tool("openapi-spec-validator");
        validator.arg(&file);
        run(validator);
        let mut fuzzer = tool("schemathesis");
        // It leaves a folder of its own where it runs.
        fuzzer.current_dir(file.parent().expect("a folder"));
        fuzzer
            .args([
                "run",
                "--url",
                &format!("http://{admin}"),
                "--max-examples=40",
                "--seed=1",
            ])
            .args(["--header", &format!("Authorization: Bearer {OPERATE}")])
            .args(["--phases", "examples,coverage,fuzzing", "--workers=1"])
            .arg(&file);
        run(fuzzer);
    });
    checked.await.expect("nothing found");
    let (status, _) =
        tokio::task::spawn_blocking(move || http::request(admin, "GET", "/ready", ""))
            .await
            .expect("asked");
    assert_eq!(status, 200, "it serves on");
}
