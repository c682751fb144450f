//! Silence, trickles, half-open handshakes, and whether every permit comes back.

use crate::raw::{Connect, Raw, SOON, connected, ended, metric_is, options, packet, publish};
use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK, fleet_key};
use crate::timing::hello;
use std::time::Duration;

fn psk() -> Transport {
    Transport::Psk {
        identity: "psk-1".to_owned(),
        key: PSK.to_vec(),
        tls13: true,
    }
}

/// Sends one byte each `pause` until the other side closes; how many went out.
async fn trickle(raw: &mut Raw, bytes: &[u8], pause: Duration) -> usize {
    let mut one = [0];
    for (sent, byte) in bytes.iter().enumerate() {
        if raw.send(&[*byte]).await.is_err() {
            return sent;
        }
        let read = tokio::io::AsyncReadExt::read(&mut raw.0, &mut one);
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(pause, read).await {
            return sent;
        }
    }
    bytes.len()
}

/// A-19 before CONNECT, on each layer, and A-1: a length announced and never delivered.
#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_does_not_hold_a_place_beyond_its_deadline() {
    let options = crate::raw::options(
        "hello_timeout = \"400ms\"\ntls_timeout = \"800ms\"\nconnect_timeout = \"400ms\"\n\
         packet_timeout = \"400ms\"\n",
    );
    let bench = Bench::start("trickle", options).await;
    let pause = Duration::from_millis(50);
    let patient = |raw: Raw, bytes: Vec<u8>| async move {
        let mut raw = raw;
        let sent = tokio::time::timeout(SOON, trickle(&mut raw, &bytes, pause)).await;
        let sent = sent.expect("closed in time");
        assert!(sent < bytes.len(), "all of it was taken");
    };
    let hello = [vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], vec![7; 400]].concat();
    patient(Raw::plain(bench.mqtt()).await, hello).await;
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"hello_timeout\""],
        1.0,
    )
    .await;

    let mut connect = Connect::pass_1();
    connect.client_id = vec![b'x'; 1000];
    patient(Raw::plain(bench.plain()).await, connect.packet()).await;
    let tls = Raw::over(bench.mqtt(), &psk()).await.expect("a handshake");
    patient(tls, connect.packet()).await;
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"connect_timeout\""],
        2.0,
    )
    .await;

    let device = connected(&bench, &Connect::pass_1()).await;
    let topic = "devices/pass-1/messages/events/";
    patient(device, publish(topic, 1, &[b'x'; 1000])).await;
    let device = connected(&bench, &Connect::sas_1()).await;
    patient(device, packet(0x32, &[b'x'; 100_000])).await;
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"packet_timeout\""],
        2.0,
    )
    .await;
    metric_is(&bench, "connections", &[], 0.0).await;
    assert!(bench.emulator.ledger().messages(None, 0, 10).is_empty());
}

/// half-open handshakes are capped per source and in total, and so is the line for them, four
/// times as long for strangers; an honest device from another source gets in while the flood
/// lasts, and the flooded source afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_are_capped_per_source_and_leave_room_for_others() {
    let options = crate::raw::options(
        "handshakes = 15\nhandshakes_per_source = 10\nhello_timeout = \"20s\"\n\
         tls_timeout = \"20s\"\nconnect_timeout = \"20s\"\n",
    );
    let bench = Bench::start("half-open", options).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::plain(bench.mqtt()).await;
        let _ = raw.send(&[22, 3, 1]).await;
        held.push(raw);
    }
    let capped = ["reason=\"limit_handshakes_per_source\""];
    metric_is(&bench, "disconnects_total", &capped, 50.0).await;
    let mut honest = Raw::from("127.0.0.9", bench.plain())
        .await
        .expect("connected");
    assert_eq!(honest.connect(&Connect::pass_1()).await, Some(0));

    // Other sources fill what is left in total, and their lines.
    for index in 0..250 {
        let source = format!("127.0.1.{}", index % 5 + 1);
        let mut raw = Raw::from(&source, bench.mqtt()).await.expect("connected");
        let _ = raw.send(&[22, 3, 1]).await;
        held.push(raw);
    }
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"limit_handshakes\""],
        45.0,
    )
    .await;
    // A device that is in does not notice.
    honest.send(&[0xC0, 0]).await.expect("sent");
    assert_eq!(honest.read(2).await, [0xD0, 0]);

    drop(held);
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"peer_closed\""],
        255.0,
    )
    .await;
    let device = Device::try_connect(bench.mqtt(), &psk(), &Who::id("psk-1")).await;
    assert!(
        device.expect("a handshake").is_ok(),
        "the places are free again"
    );
}

/// First packets, each refused for a reason of its own.
fn refused_packets() -> Vec<Vec<u8>> {
    let wrong = |id: &str, user: &str, word: &str| {
        Connect::id(id)
            .login(Some(user), Some(word.as_bytes()))
            .packet()
    };
    let mut expired = Connect::sas_1();
    let scope = format!("{}/devices/sas-1", crate::support::HUB);
    let token = crate::support::sas(crate::support::DEVICE_KEY, &scope, 1);
    expired.password = Some(token.into_bytes());
    let mut will = Connect::pass_1();
    will.will = Some((b"devices/sas-1/messages/events/".to_vec(), b"x".to_vec()));
    vec![
        wrong("pass-1", "pass-1", "wrong"),
        wrong("nobody", "nobody", "wrong"),
        wrong("pass-1", "pass-1", "SharedAccessSignature sr=x"),
        wrong("a/b/c", "x", "y"),
        wrong("sas-1", "pass-1", crate::support::PASSWORD),
        expired.packet(),
        will.packet(),
        Connect::id("pass-1").packet(),
        Connect::id("pass-1").login(Some("x\0y"), None).packet(),
        packet(0x30, b"\0\x01a"),
        packet(0x10, b"\0\x04MQTT\x06\x02\0\0\0\0"),
        packet(0x10, b"\0\x04NOPE\x04\x02\0\0\0\0"),
        packet(0x13, &[]),
        vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
        packet(0x10, &[0; 5000])[..5].to_vec(),
    ]
}

/// each way to be refused closes the socket within a second and gives its permits back.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refusals_leave_every_permit_where_it_was() {
    const PLACES: usize = 8;
    let options = crate::raw::options(&format!(
        "connections = 16\nconnections_per_source = 16\nhandshakes = {PLACES}\n\
         handshakes_per_source = {PLACES}\nconnect_timeout = \"30s\"\n"
    ));
    let bench = Bench::start("permits", options).await;
    let plain = refused_packets();
    let tls: [&[u8]; 4] = [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x10\0",
        b"\x16\x03\x01\0\x04\x02\0\0\0",
        b"\x16\x09",
    ];
    let mut count = 0;
    while count < 1000 {
        for (address, bytes) in plain
            .iter()
            .map(|bytes| (bench.plain(), &bytes[..]))
            .chain(tls.iter().map(|bytes| (bench.mqtt(), *bytes)))
        {
            let mut raw = Raw::plain(address).await;
            let _ = raw.send(bytes).await;
            raw.closed_within(Duration::from_secs(1)).await;
            count += 1;
        }
    }
    assert_eq!(
        ended(&bench, "limit_").await,
        0.0,
        "{}",
        bench.metrics().await
    );
    assert_eq!(ended(&bench, "dropped").await, 0.0);
    let total = f64::from(u32::try_from(count).expect("small"));
    metric_is(&bench, "disconnects_total", &[], total).await;
    assert_eq!(bench.metric("connections", &[]).await, 0.0);

    // Exactly the configured number fits, as on the first day.
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(Raw::plain(bench.plain()).await);
    }
    for raw in &mut held {
        raw.send(&[0x10]).await.expect("a place");
    }
    let mut one_more = Raw::plain(bench.plain()).await;
    one_more
        .send(&Connect::pass_1().packet())
        .await
        .expect("sent");
    let mut byte = [0];
    let answer = tokio::io::AsyncReadExt::read(&mut one_more.0, &mut byte);
    let answer = tokio::time::timeout(Duration::from_millis(300), answer).await;
    assert!(answer.is_err(), "it stands in line");
    drop(held.pop());
    assert_eq!(one_more.read(4).await, [0x20, 2, 0, 0], "its turn");
    for raw in &mut held {
        raw.send(&Connect::pass_1().packet()[1..])
            .await
            .expect("the place is held");
    }
}

/// keep-alive 0 and 65535 are bounded by `limits.keep_alive_max`.
#[tokio::test(flavor = "multi_thread")]
async fn no_keep_alive_of_a_device_is_longer_than_the_gateways() {
    let bench = Bench::start("keep-alive", options("keep_alive_max = \"1s\"\n")).await;
    for keep_alive_s in [0, 65_535] {
        let mut connect = Connect::pass_1();
        connect.keep_alive_s = keep_alive_s;
        let mut device = connected(&bench, &connect).await;
        let begun = iothub_gateway::runtime::clock::mono();
        device.closed_within(SOON).await;
        let held = iothub_gateway::runtime::clock::mono().since(begun);
        assert!(held >= Duration::from_millis(1400), "{held:?}");
    }
    metric_is(
        &bench,
        "disconnects_total",
        &["reason=\"keep_alive_timeout\""],
        2.0,
    )
    .await;
}

/// A-3 among neighbours: one of an address keeps 600 handshakes open and says nothing; devices of
/// the same address, from which one had proved itself, get in all the same.
#[tokio::test(flavor = "multi_thread")]
async fn silent_handshakes_do_not_shut_out_the_devices_behind_the_same_address() {
    let options = crate::raw::options("");
    let bench = Bench::start(
        "neighbours",
        Options {
            fleet: 20,
            ..options
        },
    )
    .await;
    let proved = Device::try_connect(bench.mqtt(), &psk(), &Who::id("psk-1")).await;
    drop(proved.expect("a handshake").expect("admitted"));
    let address = bench.mqtt();
    let hello = hello("psk-1", PSK, true).await;
    let flood: Vec<_> = (0..600)
        .map(|_| {
            let hello = hello.clone();
            tokio::spawn(async move {
                loop {
                    let mut raw = Raw::plain(address).await;
                    let _ = raw.send(&hello).await;
                    let _ = tokio::io::copy(&mut raw.0, &mut tokio::io::sink()).await;
                }
            })
        })
        .collect();
    // As many as one address may have.
    metric_is(&bench, "limit_in_use", &["limit=\"handshakes\""], 500.0).await;
    let devices: Vec<_> = (0..20)
        .map(|index| {
            tokio::spawn(async move {
                let (identity, key) = (format!("load-{index}"), fleet_key(index));
                let who = Who::id(&identity);
                let transport = Transport::Psk {
                    identity,
                    key,
                    tls13: true,
                };
                let device = Device::try_connect(address, &transport, &who);
                let device = tokio::time::timeout(Duration::from_secs(8), device).await;
                device.expect("in time").expect("a handshake").is_ok()
            })
        })
        .collect();
    for device in devices {
        assert!(device.await.expect("connected"));
    }
    for task in flood {
        task.abort();
    }
}
