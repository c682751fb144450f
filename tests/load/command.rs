//! `load` as a command: exit codes, JSON, Ctrl-C.

use crate::fake::Fake;
use crate::{bench, fleet};
use iothub_gateway::load::Options;
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// The command line; it ends by itself after a minute at most.
fn load(options: &Options, more: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args([
            "--foreground",
            "60",
            env!("CARGO_BIN_EXE_iothub-gateway"),
            "load",
        ])
        .arg(format!("--host={}", options.host))
        .arg(format!("--port={}", options.port))
        .args(more)
        .stdin(Stdio::null());
    command
}

async fn output(mut command: Command) -> Output {
    let output = spawn_blocking(move || command.output()).await;
    output.expect("no panic").expect("starts")
}

/// The process below `timeout`.
fn inner(child: &Child) -> String {
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    let children = std::fs::read_to_string(path).expect("running");
    children.trim().to_owned()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn json_on_standard_output_is_json_and_nothing_else() {
    let bench = bench("load-json", 5).await;
    let control = bench.emulator.control_addr().expect("bound");
    let keys = format!("--psk-file={}", bench.dir.join("fleet.psk").display());
    let ledger = format!("--ledger=http://{control}");
    let more = [
        keys.as_str(),
        &ledger,
        "--devices=5",
        "--duration=1s",
        "--json=-",
    ];
    let output = output(load(&fleet(&bench, 5), &more)).await;
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(json["connected"], 5);
    assert_eq!(json["acknowledged"], bench.emulator.ledger().count());
    assert_eq!(json["ledger"]["missing"], 0);
    assert!(
        json["latency"]["p999_ms"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0)
    );
    assert!(stderr.contains("sent to acknowledged"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connections_exit_with_1_and_wrong_usage_with_64() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = closed.local_addr().expect("bound").port();
    drop(closed);
    let nobody = Options {
        host: "127.0.0.1".to_owned(),
        port,
        ..Options::default()
    };
    let refused = output(load(&nobody, &["--devices=3", "--duration=1s"])).await;
    let (stdout, _) = texts(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout.contains("3 × tcp: connection refused"), "{stdout}");

    for wrong in [
        &["--devices=0"][..],
        &["--psk-file=/does/not/exist"],
        &["--devices=900000", "--payload=64"],
        &["--duration=ten"],
        &["--pid=4294967295"],
        &["--client-id=all-the-same"],
    ] {
        let output = output(load(&nobody, wrong)).await;
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {stderr}");
        assert!(!stderr.is_empty(), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_early_and_still_prints_the_table() {
    let bench = bench("load-interrupt", 3).await;
    let keys = format!("--psk-file={}", bench.dir.join("fleet.psk").display());
    let more = [keys.as_str(), "--devices=3", "--duration=10m"];
    let child = load(&fleet(&bench, 3), &more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let running = bench.emulator.ledger().grown_past(20);
    timeout(PATIENCE, running).await.expect("messages arrive");
    let killed = Command::new("kill").args(["-INT", &inner(&child)]).status();
    assert!(killed.expect("kill runs").success());
    let output = spawn_blocking(|| child.wait_with_output()).await;
    let output = output.expect("no panic").expect("output");
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stdout.contains("interrupted") && stdout.contains("messages/s"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_links_is_explained_while_and_after_devices_wait() {
    let options = crate::support::Options {
        fleet: 70,
        hub: "attach_rate = \"10/s\"\n".to_owned(),
        ..crate::support::Options::default()
    };
    let bench = crate::support::Bench::start("load-links", options).await;
    let keys = format!("--psk-file={}", bench.dir.join("fleet.psk").display());
    let more = [keys.as_str(), "--devices=70", "--duration=6s"];
    let output = output(load(&fleet(&bench, 70), &more)).await;
    let (stdout, stderr) = texts(&output);
    assert!(
        stderr.contains("wait for their first PUBACK (a gateway attaches hub.attach_rate links"),
        "{stderr}"
    );
    assert!(
        stdout.contains("hub.attach_rate links a second"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_target_nothing_is_loaded() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"));
    command.arg("load");
    let output = output(command).await;
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(
        stderr.contains("--port PORT") && stderr.contains("--host NAME"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_lines_of_progress_and_no_terminal_codes() {
    let fake = Fake::start().await;
    let more = ["--devices=2", "--rate=20", "--duration=6s"];
    let output = output(load(&fake.options(), &more)).await;
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.lines().any(|line| line.contains("connected 2 of 2")),
        "{stderr}"
    );
    assert!(
        !stderr.contains('\x1b') && stdout.contains("of 120 due"),
        "{stdout}{stderr}"
    );
}
