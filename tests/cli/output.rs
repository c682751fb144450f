//! Output that is lost is said and counts; a reader that goes is no failure.

use crate::folder::{Folder, GATEWAY};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

/// A server that answers every connection with these bytes; its address.
fn server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn with_refused_folder() -> Folder {
    let folder = Folder::new();
    folder.write(
        "gateway.toml",
        &(GATEWAY.to_owned() + "refused_folder = \"refused\"\n"),
    );
    std::fs::create_dir(folder.path("refused")).expect("a folder");
    folder
}

#[test]
fn output_that_is_lost_is_said_and_is_no_success() {
    let folder = with_refused_folder();
    for command in [
        "psk generate thermo-1",
        "token mint --host h.example --device d --key-env KEY",
        "check -c gateway.toml",
        "check -c gateway.toml --as psk:thermo-1",
        "refused drop -c gateway.toml 1-1",
        "--help",
    ] {
        std::fs::write(folder.path("refused/1-1.msg"), "x").expect("written");
        let done = folder.sh(&format!("KEY=QUJD iothub-gateway {command} >/dev/full"));
        // A message that was dropped without a word is one that was not handled.
        let code = if command.starts_with("refused") {
            1
        } else {
            74
        };
        assert_eq!(done.code, code, "{command}: {done:?}");
        assert!(
            done.err.contains("standard output cannot be written"),
            "{command}: {done:?}"
        );
    }
    let done = folder.sh("echo secret | iothub-gateway password --memory 8 >/dev/full");
    assert_eq!(done.code, 74, "{done:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_every_command_quietly() {
    let folder = with_refused_folder();
    let causes = format!("[{}0]", "0,".repeat(1_000_000));
    let admin = server(http("200 OK", &causes));
    let first = "{\"next\":1,\"events\":[";
    let event = "{\"seq\":1,\"at_ms\":1,\"what\":\"x\",\"text\":\"y\"}";
    let events = format!("{first}{}]}}", [event; 5000].join(","));
    let watched = server(http("200 OK", &events));
    for command in [
        format!("ctl --admin {admin} --json causes"),
        format!("ctl --admin {watched} --json watch thermo-1"),
        "psk generate --count 9999".to_owned(),
        "check -c gateway.toml".to_owned(),
        "load --help".to_owned(),
    ] {
        // The pipe is closed before anything is written.
        let line = format!("{{ sleep 0.2; iothub-gateway {command}; echo $? >code; }} | true");
        let done = folder.sh(&line);
        assert_eq!(done.err, "", "{command}: {done:?}");
        folder.sh("while ! [ -s code ]; do sleep 0.05; done");
        let code = std::fs::read_to_string(folder.path("code")).expect("a code");
        assert_eq!(code.trim(), "0", "{command}");
        std::fs::remove_file(folder.path("code")).expect("removed");
    }
}

#[test]
fn a_server_that_is_no_gateways_admin_port_is_asked_about() {
    let folder = Folder::new();
    for answer in [
        b"AMQP\0\x01\0\0".to_vec(),
        b"\x20\x02\0\x01".to_vec(),
        b"\x15\x03\x03\0\x02\x02\x32".to_vec(),
        Vec::new(),
        http("404 Not Found", "no such thing"),
        http("404 Not Found", "{\"error\":\"no such path\"}"),
        http("200 OK", "<html></html>"),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let admin = server(answer);
        for order in ["causes", "hub", "kick thermo-1"] {
            let done = folder.sh(&format!("iothub-gateway ctl --admin {admin} {order}"));
            if order.starts_with("kick") && shown.contains("200") {
                continue; // an order's answer has no form
            }
            assert_eq!(done.code, 69, "{shown:?}: {done:?}");
            assert!(
                done.err.contains("is this its admin.bind?"),
                "{shown:?}: {done:?}"
            );
        }
    }
}

#[test]
fn a_token_that_is_none_is_named() {
    let folder = Folder::new();
    folder.write("token", "a\nb\n");
    for (command, words) in [
        (
            "IOTHUB_GATEWAY_TOKEN= iothub-gateway ctl causes",
            "IOTHUB_GATEWAY_TOKEN is empty",
        ),
        (
            "IOTHUB_GATEWAY_TOKEN=\"$(printf 'a\\nb')\" iothub-gateway ctl causes",
            "IOTHUB_GATEWAY_TOKEN holds more than a token",
        ),
        (
            "iothub-gateway ctl --token-file token causes",
            "token holds more than a token",
        ),
    ] {
        let done = folder.sh(command);
        assert_eq!(done.code, 64, "{done:?}");
        assert!(done.err.contains(words), "{done:?}");
    }
}
