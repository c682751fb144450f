//! The operators' port over TLS, as `ctl`, curl and a new certificate meet it; and `ctl` where
//! there is none.

use super::log::{Stage, until};
use crate::support::certificates::{Authority, server};
use crate::support::process::Process;
use crate::support::{logfmt, secret};
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "MARKER-operators-token-0123";

/// Exit code and what was said.
fn run(program: &str, dir: &Path, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).current_dir(dir);
    let done = command.output().expect("it starts");
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (done.status.code(), text)
}

fn ctl(dir: &Path, arguments: &str) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_iothub-gateway");
    run(program, dir, &format!("ctl --token-file token {arguments}"))
}

fn curl(dir: &Path, arguments: &str) -> (Option<i32>, String) {
    run("curl", dir, &format!("-sS {arguments}"))
}

/// `gateway.toml` with TLS on the admin port.
fn secured(stage: &Stage) {
    let text = std::fs::read_to_string(&stage.config).expect("written by the stage");
    let admin = "tls = { cert = \"admin.pem\", key = \"admin.key\" }\n\
                 read_token = \"${file:read-token}\"\n\
                 operate_token = \"${file:token}\"\n[log]\n";
    std::fs::write(&stage.config, text.replace("[log]\n", admin)).expect("written");
    secret(&stage.dir.join("token"), TOKEN);
    secret(&stage.dir.join("read-token"), "a-token-to-read-0123");
}

/// A new CA in `FILE.pem`, and a certificate of it for these names.
fn certify(dir: &Path, file: &str, names: &[&str]) {
    let authority = Authority::new(file);
    std::fs::write(dir.join(format!("{file}.pem")), &authority.pem).expect("written");
    authority.sign(dir, "admin", server(names));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_ask_over_tls_and_are_refused_by_the_wrong_certificate() {
    let stage = Stage::new("admin-tls", "").await;
    secured(&stage);
    certify(&stage.dir, "first-ca", &["localhost", "127.0.0.1"]);
    let log = stage.dir.join("log");
    let file = std::fs::File::create(&log).expect("made");
    let gateway = Process::logging(&stage.config, file.into());
    let (dir, port) = (stage.dir.clone(), stage.admin.port());
    let up = move || {
        let ready = format!("-f --cacert first-ca.pem https://localhost:{port}/ready");
        curl(&dir, &ready).0 == Some(0)
    };
    until("it is ready", up).await;
    let dir = stage.dir.clone();
    let asked = tokio::task::spawn_blocking(move || asks(&dir, port));
    asked.await.expect("all of it");

    // Another certificate, for another name.
    certify(&stage.dir, "second-ca", &["gateway.example"]);
    let dir = stage.dir.clone();
    let renewed = move || {
        let url = format!("--admin https://localhost:{port} --ca second-ca.pem hub");
        let (code, text) = ctl(&dir, &url);
        code == Some(69) && text.contains("write a name or an address that stands in")
    };
    until("the new certificate is served", renewed).await;
    let dir = stage.dir.clone();
    let by_name = format!(
        "-f --cacert second-ca.pem --resolve gateway.example:{port}:127.0.0.1 \
         https://gateway.example:{port}/live"
    );
    let live = tokio::task::spawn_blocking(move || curl(&dir, &by_name)).await;
    assert_eq!(live.expect("asked"), (Some(0), "ok\n".to_owned()));
    assert_eq!(gateway.terminate().await, Some(0));

    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(!text.contains(TOKEN), "{text}");
    let lines = logfmt::lines(&log);
    let told = lines
        .iter()
        .find(|line| line["event"] == "admin_tls_refused");
    let told = told.expect("the request without TLS is told");
    assert_eq!(told["reason"], "not_tls", "{text}");
    assert!(
        told["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.1:")),
        "{text}"
    );
}

/// What is served, and who is not.
fn asks(dir: &Path, port: u16) {
    let (code, text) = curl(
        dir,
        &format!("--cacert first-ca.pem https://127.0.0.1:{port}/metrics"),
    );
    assert_eq!(code, Some(0), "{text}");
    let expiry = "iothub_gateway_certificate_expiry_timestamp_seconds{file=";
    let known = |line: &str| line.starts_with(expiry) && line.contains("admin.pem");
    assert!(text.lines().any(known), "{text}");
    let (_, page) = curl(
        dir,
        &format!("-i --cacert first-ca.pem https://localhost:{port}/"),
    );
    assert!(
        page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    let (code, text) = curl(dir, &format!("-i http://localhost:{port}/api/v1/hub"));
    assert!(
        code == Some(0) && text.starts_with("HTTP/1.1 400 "),
        "{text}"
    );
    let (code, _) = curl(
        dir,
        &format!("--cacert device-ca.pem https://localhost:{port}/live"),
    );
    assert_eq!(code, Some(60), "curl: the certificate is not trusted");
    let unasked = format!("-f --cacert first-ca.pem https://localhost:{port}/api/v1/hub");
    let (_, text) = curl(dir, &unasked);
    assert!(text.contains("401"), "no token, no answer: {text}");

    let url = format!("--admin https://localhost:{port}");
    for (arguments, exit, word) in [
        (
            format!("{url} --ca first-ca.pem hub"),
            0,
            "test.azure-devices.net",
        ),
        (format!("{url} --ca first-ca.pem reload"), 0, "reload begun"),
        (format!("{url} hub"), 69, "by --ca"),
        (format!("{url} --ca device-ca.pem hub"), 69, "by --ca"),
        (format!("{url} --ca absent.pem hub"), 66, "absent.pem"),
        (format!("{url} --ca token hub"), 64, "token"),
        (format!("--admin localhost:{port} hub"), 1, "https://"),
        (
            format!("--admin localhost:{port} --ca first-ca.pem hub"),
            64,
            "https://localhost",
        ),
    ] {
        let (code, text) = ctl(dir, &arguments);
        assert_eq!(code, Some(exit), "{arguments}: {text}");
        assert!(text.contains(word), "{arguments}: {text}");
        assert!(!text.contains(TOKEN), "{arguments}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_leaves_this_machine_in_the_clear() {
    let stage = Stage::new("admin-clear", "").await;
    secret(&stage.dir.join("token"), TOKEN);
    let asked = tokio::task::spawn_blocking(move || {
        let dir = &stage.dir;
        for admin in [
            "192.0.2.1:9464",
            "http://gateway.example",
            "[2001:db8::1]:9464",
        ] {
            let (code, text) = ctl(dir, &format!("--admin {admin} hub"));
            assert_eq!(code, Some(64), "{text}");
            assert!(
                text.contains("in the clear") && text.contains("https://"),
                "{text}"
            );
        }
        // What answers at the end of an https:// is asked nothing before it has proved itself.
        let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = plain.local_addr().expect("an address").port();
        let heard = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = plain.accept().expect("ctl comes");
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).expect("a ClientHello");
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .expect("sent");
            let mut all = bytes[..count].to_vec();
            stream.read_to_end(&mut all).expect("the rest");
            all
        });
        let (code, text) = ctl(dir, &format!("--admin https://localhost:{port} hub"));
        assert_eq!(code, Some(69), "{text}");
        assert!(text.contains("it speaks no TLS"), "{text}");
        let heard = heard.join().expect("joined");
        let token = TOKEN.as_bytes();
        assert!(!heard.windows(token.len()).any(|part| part == token));
    });
    asked.await.expect("all of it");
}
