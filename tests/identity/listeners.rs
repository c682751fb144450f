//! What a reload takes of the configuration itself: listeners, limits, rules files.

use crate::support::device::{Device, Transport, Who};
use crate::support::process::free_port;
use crate::support::{Bench, Options, PASSWORD, PSK, secret};
use crate::{edit, logged, psk, reloaded, start};
use std::net::{SocketAddr, TcpListener};

fn who() -> Who {
    Who::login("pass-1", "pass-1", PASSWORD)
}

async fn device(address: SocketAddr) -> Device {
    Device::connect(address, &Transport::Plain, &who()).await
}

async fn is_refused(address: SocketAddr) -> bool {
    let tried = Device::try_connect(address, &Transport::Plain, &who()).await;
    !matches!(tried, Ok(Ok(_)))
}

/// Appends to the configuration, before its `[rules]`.
fn add(bench: &Bench, text: &str) {
    edit(
        &bench.dir.join("gateway.toml"),
        "[rules]",
        &format!("{text}\n[rules]"),
    );
}

fn second(port: u16, accept: &str) -> String {
    format!(
        "[[listener]]\nname = \"second\"\nbind = \"127.0.0.1:{port}\"\naccept = [\"{accept}\"]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_go_and_change_by_a_reload_and_nobody_is_closed() {
    let bench = start("listeners", Options::default()).await;
    let file = bench.dir.join("gateway.toml");
    let plain = bench.plain();
    let mut first =
        Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
    let port = free_port();
    add(&bench, &second(port, "password"));
    reloaded(&bench, "ok", 1.0).await;
    let there = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(bench.gateway.listener("second"), Some(there));
    let mut device_of_second = device(there).await;

    // Another one at the same port takes it over; whom it had stays.
    edit(&file, &second(port, "password"), &second(port, "sas"));
    reloaded(&bench, "ok", 2.0).await;
    assert!(is_refused(there).await, "no passwords any more");
    device_of_second.ping().await.expect("stays");

    // The old ones go: their ports are closed, their devices stay.
    let text = std::fs::read_to_string(&file).expect("readable");
    let begin = text.find("[[listener]]\nname = \"plain\"").expect("there");
    let end = begin
        + text[begin..]
            .find("[[listener]]\nname = \"second\"")
            .expect("behind");
    edit(&file, &text[begin..end], "");
    reloaded(&bench, "ok", 3.0).await;
    assert_eq!(bench.gateway.listener("plain"), None);
    let mut tries = 0;
    while tokio::net::TcpStream::connect(plain).await.is_ok() {
        tries += 1;
        assert!(tries < 200, "the port closes");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    device_of_second.ping().await.expect("stays");
    first.ping().await.expect("stays");
    assert_eq!(bench.metric("connections", &[]).await, 2.0);

    // One that cannot be bound changes nothing, and is named.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    edit(
        &file,
        &second(port, "sas"),
        &second(address.port(), "password"),
    );
    reloaded(&bench, "failed", 1.0).await;
    assert!(logged(&[
        "cannot bind listener",
        "second",
        &address.to_string()
    ]));
    assert_eq!(bench.gateway.listener("second"), Some(there));
    drop(taken);
    edit(
        &file,
        &second(address.port(), "password"),
        &second(port, "password"),
    );
    reloaded(&bench, "ok", 4.0).await;
    device(there).await.ping().await.expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_by_a_reload_and_what_waits_for_a_start_is_named() {
    let bench = start("limits", Options::default()).await;
    let mut first = device(bench.plain()).await;
    add(
        &bench,
        "[limits]\nconnections = 1\nconnections_per_source = 1\ncauses = 7\n",
    );
    reloaded(&bench, "ok", 1.0).await;
    let named = ["changed keys need a restart", "limits.causes"];
    assert!(logged(&named));
    assert!(!logged(&[
        "changed keys need a restart",
        "limits.connections"
    ]));
    assert!(is_refused(bench.plain()).await);
    first.ping().await.expect("stays");
    let limit = "limit=\"connections\"";
    assert_eq!(bench.metric("limit", &[limit]).await, 1.0);

    edit(
        &bench.dir.join("gateway.toml"),
        "connections = 1\n",
        "connections = 5\n",
    );
    edit(
        &bench.dir.join("gateway.toml"),
        "per_source = 1\n",
        "per_source = 5\n",
    );
    reloaded(&bench, "ok", 2.0).await;
    assert_eq!(bench.metric("limit", &[limit]).await, 5.0);
    Device::connect(bench.mqtt(), &psk("psk-1", PSK, true), &Who::id("psk-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_files_are_added_by_a_reload() {
    let bench = start("rules-files", Options::default()).await;
    let text = std::fs::read_to_string(bench.dir.join("rules.toml")).expect("readable");
    let entry = text.lines().find(|line| line.starts_with("password = "));
    let entry = entry.expect("there").replace("\"pass-1\"", "\"extra-1\"");
    secret(
        &bench.dir.join("more.toml"),
        &format!("[[device]]\nid = \"extra-1\"\n{entry}\n"),
    );
    let extra = Who::login("extra-1", "extra-1", PASSWORD);
    let tried = Device::try_connect(bench.plain(), &Transport::Plain, &extra).await;
    assert!(!matches!(tried, Ok(Ok(_))), "unknown yet");
    let (before, after) = ("[\"rules.toml\"]", "[\"rules.toml\", \"more.toml\"]");
    edit(&bench.dir.join("gateway.toml"), before, after);
    reloaded(&bench, "ok", 1.0).await;
    Device::connect(bench.plain(), &Transport::Plain, &extra).await;
}
