//! The control API.

use crate::kit::{Client, HOST, POLICY_KEY, http, http_with, send, soon, start, token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp::types::primitives::SimpleValue;
use iothub_gateway::emulator::config::{DeviceConfig, EmulatorConfig, Keys};
use iothub_gateway::emulator::{Emulator, EmulatorError};

#[tokio::test]
async fn messages_are_listed_by_device_and_position() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut one = client.events("plain-1").await.unwrap();
    let mut two = client.events("plain-2").await.unwrap();
    for text in ["a", "b", "c"] {
        send(&mut one, text.as_bytes()).await.unwrap();
        send(&mut two, b"noise").await.unwrap();
    }
    let (status, rows) = http(&hub, "GET", "/messages?device=plain-1&after=1&limit=1", b"").await;
    assert_eq!(status, 200);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["seq"], &rows[0]["device"]),
        (&3.into(), &"plain-1".into())
    );
    assert_eq!(rows[0]["body"], STANDARD.encode("b"));
    assert_eq!(
        rows[0]["sha256"],
        "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
    );
    assert_eq!(rows[0]["system"]["iothub-connection-device-id"], "plain-1");
    assert!(
        rows[0]["system"]["iothub-connection-auth-method"]
            .as_str()
            .unwrap()
            .contains("hub")
    );
    let (_, all) = http(&hub, "GET", "/messages", b"").await;
    assert_eq!(all.as_array().unwrap().len(), 6);
    assert_eq!(http(&hub, "GET", "/messages?limit=10001", b"").await.0, 400);
    assert_eq!(http(&hub, "GET", "/messages?devise=x", b"").await.0, 400);
}

/// The commands of the emulator's README, run as printed; `…` stands for anything.
#[tokio::test]
async fn every_command_of_the_readme_does_what_it_shows() {
    let readme = include_str!("../../src/emulator/README.md");
    let (_, block) = readme.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    assert_eq!(readme.matches("```").count(), 2, "one block");
    let press = DeviceConfig::new("press-7", Keys::default());
    let hub = start(|config| config.devices.push(press)).await;
    let address = hub.control_addr().unwrap().to_string();
    let mut shown = block.lines();
    let mut ran = 0;
    while let Some(line) = shown.next() {
        let command = line.strip_prefix("$ ").unwrap();
        let command = command.replace("127.0.0.1:5680", &address);
        let sh = move || {
            let mut sh = std::process::Command::new("sh");
            sh.args(["-c", &command]).output().unwrap()
        };
        let done = tokio::task::spawn_blocking(sh).await.unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        let expected = shown.next().unwrap();
        let fits = match expected.strip_prefix('…') {
            Some(end) => said.trim_end().ends_with(end),
            None => said.trim_end() == expected,
        };
        assert!(fits && done.status.success(), "{line}\n{said}");
        ran += 1;
    }
    assert_eq!(ran, 5);
}

#[tokio::test]
async fn a_reader_can_wait_for_a_message() {
    let hub = start(|_| {}).await;
    let (status, none) = http(&hub, "GET", "/messages?wait=50ms", b"").await;
    assert_eq!((status, none.as_array().unwrap().len()), (200, 0));
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let waiting = http(&hub, "GET", "/messages?device=plain-1&wait=9s", b"");
    let sending = async {
        tokio::task::yield_now().await;
        send(&mut sender, b"x").await.unwrap();
    };
    let ((_, rows), ()) = tokio::join!(waiting, sending);
    assert_eq!(rows.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn stats_count_what_happened_and_what_is_open() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    send(&mut sender, b"xyz").await.unwrap();
    let (_, stats) = http(&hub, "GET", "/stats", b"").await;
    for (name, value) in [
        ("accepted", 1),
        ("accepted_bytes", 3),
        ("connections", 1),
        ("sessions", 1),
        ("links", 1),
        ("tokens_put", 1),
    ] {
        assert_eq!(stats[name], value, "{name}");
    }
    drop((sender, client));
    let gone = async {
        while hub.stats().links + hub.stats().sessions + hub.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("everything closed", gone).await;
    assert_eq!(
        http(&hub, "GET", "/healthz", b"").await,
        (200, "ok\n".into())
    );
}

#[tokio::test]
async fn a_rotated_key_signs_from_now_on() {
    let hub = start(|_| {}).await;
    let path = "/policies/device/rotate";
    let (status, answer) = http(&hub, "POST", path, br#"{"which":"primary"}"#).await;
    assert_eq!(status, 200);
    let key = STANDARD.decode(answer["key"].as_str().unwrap()).unwrap();
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let scope = format!("{HOST}/devices");
    let old = client
        .put(&token(POLICY_KEY, &scope, 60, Some("device")))
        .await;
    assert_eq!(old.status, SimpleValue::Int(401));
    let new = client.put(&token(&key, &scope, 60, Some("device"))).await;
    assert_eq!(new.status, SimpleValue::Int(200));
    assert_eq!(
        http(
            &hub,
            "POST",
            "/policies/x/rotate",
            br#"{"which":"primary"}"#
        )
        .await
        .0,
        404
    );
    assert_eq!(
        http(&hub, "POST", path, br#"{"which":"third"}"#).await.0,
        422
    );
}

#[tokio::test]
async fn devices_can_be_registered_shown_and_deleted() {
    let hub = start(|_| {}).await;
    assert_eq!(http(&hub, "GET", "/devices/new-1", b"").await.0, 404);
    assert_eq!(
        http(&hub, "POST", "/devices/new-1/commands", b"x").await.0,
        404
    );
    assert_eq!(
        http(&hub, "PUT", "/devices/new-1", br#"{"status":"maybe"}"#)
            .await
            .0,
        400
    );
    assert_eq!(
        http(&hub, "PUT", "/devices/a%20b", br#"{"status":"enabled"}"#)
            .await
            .0,
        400
    );
    assert_eq!(
        http(&hub, "PUT", "/devices/new-1", br#"{"status":"enabled"}"#)
            .await
            .0,
        200
    );
    let mut client = Client::authorised(&hub).await;
    let _sender = client.events("new-1").await.unwrap();
    let (_, view) = http(&hub, "GET", "/devices/new-1", b"").await;
    assert_eq!(view["connectionState"], "Connected");
    assert_eq!(view["links"][0], "messages/events");
    assert_eq!(http(&hub, "DELETE", "/devices/new-1", b"").await.0, 200);
    assert_eq!(http(&hub, "DELETE", "/devices/new-1", b"").await.0, 404);
}

#[tokio::test]
async fn commands_are_checked_and_can_be_purged() {
    let hub = start(|_| {}).await;
    let path = "/devices/plain-1/commands";
    assert_eq!(http(&hub, "POST", path, &vec![b'x'; 65_537]).await.0, 413);
    assert_eq!(
        http(&hub, "POST", &format!("{path}?$.ttl=soon"), b"x")
            .await
            .0,
        400
    );
    assert_eq!(
        http(&hub, "POST", &format!("{path}?$.what=1"), b"x")
            .await
            .0,
        400
    );
    assert_eq!(http(&hub, "POST", path, b"x").await.0, 201);
    let (_, answer) = http(&hub, "DELETE", path, b"").await;
    assert_eq!(answer["purged"], 1);
    let (_, rows) = http(&hub, "GET", path, b"").await;
    assert_eq!(rows[0]["state"], "purged");
}

#[tokio::test]
async fn a_fault_that_waits_can_be_cleared() {
    let hub = start(|_| {}).await;
    let fault = br#"{"name":"KillTcp","delay":"1h","duration":"5s"}"#;
    assert_eq!(http(&hub, "POST", "/faults", fault).await.0, 202);
    let (_, list) = http(&hub, "GET", "/faults", b"").await;
    assert_eq!(list["active"][0]["name"], "KillTcp");
    let (_, cleared) = http(&hub, "DELETE", "/faults", b"").await;
    assert_eq!(cleared["ended"], 1);
    let (_, list) = http(&hub, "GET", "/faults", b"").await;
    assert_eq!(list["active"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn foreign_pages_get_no_answer() {
    let hub = start(|_| {}).await;
    for headers in [
        "host: evil.example:80\r\n",
        "origin: http://evil.example\r\n",
    ] {
        let (status, _) = http_with(&hub, "GET", "/stats", headers, b"").await;
        assert_eq!(status, 403, "{headers}");
    }
}

#[tokio::test]
async fn only_loopback_is_bound_and_a_taken_port_is_reported() {
    for change in [
        (|c: &mut EmulatorConfig| c.control_bind = Some("192.0.2.1:0".parse().unwrap()))
            as fn(&mut EmulatorConfig),
        |c| c.amqp.plain_bind = Some("0.0.0.0:0".parse().unwrap()),
    ] {
        let mut config = EmulatorConfig::loopback(HOST);
        change(&mut config);
        let refused = Emulator::start(config).await.unwrap_err();
        assert!(
            matches!(refused, EmulatorError::NotLoopback(_)),
            "{refused}"
        );
    }
    let first = start(|_| {}).await;
    let mut config = EmulatorConfig::loopback(HOST);
    config.amqp.plain_bind = first.amqp_addr();
    let refused = Emulator::start(config).await.unwrap_err();
    assert!(matches!(refused, EmulatorError::Bind { .. }), "{refused}");
    let mut config = EmulatorConfig::loopback(HOST);
    config.amqp.plain_bind = None;
    assert!(matches!(
        Emulator::start(config).await,
        Err(EmulatorError::NoPort)
    ));
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_long_poll() {
    let hub = start(|_| {}).await;
    let address = hub.control_addr().unwrap();
    let mut poll = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /messages?wait=60s HTTP/1.1\r\nhost: localhost\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut poll, request)
        .await
        .unwrap();
    http(&hub, "GET", "/healthz", b"").await;
    let stopping = hub.stop();
    tokio::time::timeout(std::time::Duration::from_secs(4), stopping)
        .await
        .unwrap();
}
