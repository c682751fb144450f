//! What a hub announces, and time: tokens, handles, channels, silence.

use crate::hub::Stack;
use crate::rig::{Rig, device_name, options, topic};
use crate::support::device::Device;
use crate::support::http;
use crate::support::proxy::Line;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::sleep;

/// Publishes until the hub has taken `tokens` tokens more.
async fn until_renewed(rig: &mut Rig, device: &mut Device, tokens: usize) -> usize {
    let mut sent = 0;
    for _ in 0..tokens {
        loop {
            device.publish(&topic(0), b"tick").await.expect("PUBACK");
            sent += 1;
            let pause = Duration::from_millis(100);
            let token = rig.hub.take_within("token", pause, |_| true).await;
            if let Some(token) = token {
                assert!(
                    [200, 202].contains(&token["status"].as_u64().unwrap_or(0)),
                    "{token}"
                );
                break;
            }
            assert!(sent < 1000, "no renewal");
        }
    }
    sent
}

/// How many events of each kind there were.
async fn counts<const N: usize>(rig: &mut Rig, kinds: [&str; N]) -> [usize; N] {
    let mut counts = [0; N];
    for (count, kind) in counts.iter_mut().zip(kinds) {
        *count = rig.hub.all(kind).await.len();
    }
    counts
}

/// A token is renewed while it is valid, on the connection and beside the links it is for.
pub async fn tokens_are_renewed_and_nobody_notices(stack: Stack) {
    let mut options = options(1);
    options.token_ttl = "4s";
    let mut rig = Rig::start("renewal", stack, options, json!({})).await;
    rig.hub.take("token", |_| true).await;
    rig.hub.order("token", json!({"statuses": [202]})).await;
    let mut device = rig.listener(0).await;
    let sent = until_renewed(&mut rig, &mut device, 2).await;
    let kinds = ["message", "open", "detach", "refused", "close", "gone"];
    let seen = counts(&mut rig, kinds).await;
    assert_eq!(seen, [sent, 1, 0, 0, 0, 0], "{kinds:?}");
    rig.finish().await;
}

/// A renewal the hub refuses is tried again while the token still counts.
pub async fn a_refused_renewal_is_tried_again_in_time(stack: Stack) {
    let mut options = options(1);
    options.token_ttl = "6s";
    let mut rig = Rig::start("refused-renewal", stack, options, json!({})).await;
    rig.hub.take("token", |_| true).await;
    // Both keys of one attempt.
    rig.hub
        .order("token", json!({"statuses": [500, 401]}))
        .await;
    let mut device = rig.device(0).await;
    for status in [500, 401] {
        let token = rig.hub.take("token", |_| true).await;
        assert_eq!(token["status"], status, "{token}");
        device.publish(&topic(0), b"still").await.expect("PUBACK");
    }
    let token = rig.hub.take("token", |token| token["status"] == 200).await;
    assert_eq!(token["connection"], 1, "{token}");
    device.publish(&topic(0), b"again").await.expect("PUBACK");
    rig.finish().await;
}

/// One session for `$cbs` and all devices, over a renewal.
pub async fn a_hub_with_one_channel_is_served_over_it(stack: Stack) {
    let mut options = options(3);
    options.token_ttl = "4s";
    let limits = json!({"channel_max": 0});
    let mut rig = Rig::start("channel", stack, options, limits).await;
    rig.hub.take("token", |_| true).await;
    let mut devices = Vec::new();
    for index in 0..3 {
        devices.push(rig.listener(index).await);
    }
    for (index, device) in devices.iter_mut().enumerate() {
        let name = device_name(index);
        device.publish(&topic(index), b"up").await.expect("PUBACK");
        let command = json!({"device": name, "id": name, "body": "", "application": {}});
        rig.hub.order("command", command).await;
        device.command().await.expect("a command");
    }
    until_renewed(&mut rig, &mut devices[0], 1).await;
    let begun = rig.hub.all("begin").await;
    let last = rig.hub.all("open").await.len();
    let of_last = begun.iter().filter(|event| event["connection"] == last);
    assert_eq!(of_last.count(), 1, "{begun:?}");
    rig.finish().await;
}

/// Links of many devices, over sessions that hold eight each.
pub async fn more_devices_than_handles_are_spread_over_sessions(stack: Stack) {
    const DEVICES: usize = 12;
    let limits = json!({"handle_max": 7});
    let mut rig = Rig::start("handles", stack, options(DEVICES), limits).await;
    let mut devices = Vec::new();
    for index in 0..DEVICES {
        let mut device = rig.device(index).await;
        device.publish(&topic(index), b"up").await.expect("PUBACK");
        devices.push(device);
    }
    for (index, device) in devices.iter_mut().enumerate() {
        device.publish(&topic(index), b"on").await.expect("PUBACK");
    }
    assert_eq!(rig.hub.all("message").await.len(), 2 * DEVICES);
    assert_eq!(rig.hub.all("open").await.len(), 1);
    rig.finish().await;
}

/// More links than the hub allows on all sessions together: no handle beyond, a device is served
/// or closed, and who is served stays so.
pub async fn more_devices_than_all_handles(stack: Stack) {
    const HANDLES: usize = 8;
    let mut options = options(HANDLES + 4);
    options.hub.push_str("sessions_per_connection = 1\n");
    let limits = json!({"handle_max": HANDLES - 1});
    let mut rig = Rig::start("all-handles", stack, options, limits).await;
    let mut served = Vec::new();
    for index in 0..HANDLES + 4 {
        let mut device = rig.device(index).await;
        device.patience = Duration::from_secs(5);
        match device.publish(&topic(index), b"up").await {
            Ok(()) => served.push((index, device)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{index}"),
        }
    }
    assert!(served.len() >= HANDLES, "{} served", served.len());
    for (index, device) in &mut served {
        device.publish(&topic(*index), b"on").await.expect("PUBACK");
    }
    let faults = rig.hub.all("fault").await;
    assert!(faults.is_empty(), "{faults:?}");
    assert!(rig.gateway.stop().await, "a clean stop");
}

/// The hub waits for two seconds only, and there is nothing to say for ten.
pub async fn an_idle_connection_is_kept(stack: Stack) {
    let limits = json!({"idle_ms": 2000});
    let mut rig = Rig::start("idle", stack, options(1), limits).await;
    let mut device = rig.listener(0).await;
    device.publish(&topic(0), b"before").await.expect("PUBACK");
    sleep(Duration::from_secs(10)).await;
    device.publish(&topic(0), b"after").await.expect("PUBACK");
    let kinds = ["message", "open", "detach", "close", "gone"];
    let seen = counts(&mut rig, kinds).await;
    assert_eq!(seen, [2, 1, 0, 0, 0], "{kinds:?}");
    rig.finish().await;
}

/// A hub from which nothing is heard is left, and the message comes over the next connection.
pub async fn a_silent_hub_is_left(stack: Stack) {
    let mut options = options(1);
    options.proxied = true;
    options.hub.push_str("idle_timeout = \"1s\"\n");
    let mut rig = Rig::start("silence", stack, options, json!({})).await;
    let open = rig.hub.take("open", |_| true).await;
    // Half of it is announced as well, as the specification has it (AMQP 2.4.5).
    let announced = open["idle_ms"].as_u64().expect("announced");
    assert!((500..=1000).contains(&announced), "{open}");
    let mut device = rig.listener(0).await;
    device.publish(&topic(0), b"before").await.expect("PUBACK");
    let first = rig.hub.take("message", |_| true).await;
    let proxy = rig.proxy.as_ref().expect("proxied");
    let good = Line::default();
    proxy.set(Line {
        silent: true,
        ..good
    });
    let sent = device.send(&topic(0), b"after").await.expect("sent");
    left(&rig).await;
    rig.proxy.as_ref().expect("proxied").set(good);
    device.acknowledged(sent).await.expect("PUBACK");
    let over_next = |message: &Value| message["connection"] != first["connection"];
    let second = rig.hub.take("message", over_next).await;
    assert_eq!(second["body"], "YWZ0ZXI=");
    device.ping().await.expect("still connected");
    rig.gateway.stop().await;
}

/// Waits until the gateway has given a connection up.
async fn left(rig: &Rig) {
    let admin = rig.gateway.admin();
    let noticed = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let scrape = tokio::task::spawn_blocking(move || http::get(admin, "/metrics"));
            let metrics = scrape.await.expect("scraped");
            if http::metric(&metrics, "iothub_gateway_hub_reconnects_total", &[]) > 0.0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    noticed.await.expect("the silence is noticed");
}
