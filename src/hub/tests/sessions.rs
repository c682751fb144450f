//! Hubs that allow fewer sessions than the gateway would like.

use super::fake::FakeHub;
use super::{PATIENCE, accepted, command, config, device, gone, message, start};
use crate::config::OnDisconnect;
use crate::hub::message::Settlement;
use fe2o3_amqp::types::messaging::Outcome;
use std::time::Duration;

/// Devices of every slot send and are commanded while the token is renewed.
async fn served_with_channels(max: u16, sessions: u32) {
    let fake = FakeHub::start().await;
    fake.channel_max(max);
    let mut settings = config(fake.port);
    settings.sessions_per_connection = 4;
    settings.token_ttl = Duration::from_secs(2);
    let hub = start(settings).await;
    let mut devices: Vec<_> = (0..16).map(|n| device(&hub, &format!("d{n}"))).collect();
    for (ticket, links) in (0..).zip(&mut devices) {
        links.send(ticket, message("x"));
        assert_eq!(accepted(links).await, ticket);
    }
    let connections = fake.seen().connections;
    devices[7].subscribe(1);
    let (outcome, received) = tokio::join!(fake.command("d7", "open"), command(&mut devices[7]));
    devices[7].settle(received.delivery, Settlement::Accepted);
    let settled = tokio::select! {
        outcome = outcome => outcome.expect("settled"),
        other = devices[7].next() => panic!("{other:?}"),
    };
    assert!(matches!(settled, Outcome::Accepted(_)), "{settled:?}");
    let renewed = fake.seen().tokens + 2;
    fake.until(|seen| seen.tokens >= renewed).await;
    for (ticket, links) in (100..).zip(&mut devices) {
        links.send(ticket, message("y"));
        assert_eq!(accepted(links).await, ticket);
    }
    let seen = fake.seen();
    assert_eq!(seen.connections, connections, "nobody reconnected");
    assert_eq!(seen.detaches, 0);
    // What was begun on the connection that found the limit out counts too.
    assert!(seen.sessions <= sessions, "{}", seen.sessions);
    assert!(hub.status().problem.is_empty(), "{:?}", hub.status());
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn one_session_serves_the_token_and_every_device() {
    served_with_channels(0, 2).await;
}

#[tokio::test]
async fn two_sessions_are_shared_by_the_devices_of_four() {
    served_with_channels(1, 2).await;
}

#[tokio::test]
async fn a_lone_session_that_ends_is_replaced_with_its_connection() {
    let fake = FakeHub::start().await;
    fake.channel_max(0);
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    for ticket in 1..4 {
        links.send(ticket, message("x"));
        assert_eq!(accepted(&mut links).await, ticket);
        let connections = fake.seen().connections;
        fake.end_sessions();
        fake.until(|seen| seen.connections > connections).await;
    }
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_full_session_leaves_its_devices_to_the_others_and_the_last_ones_are_told() {
    let fake = FakeHub::start().await;
    fake.handle_max(3);
    let mut settings = config(fake.port);
    settings.sessions_per_connection = 2;
    let hub = start(settings).await;
    let mut devices: Vec<_> = (0..8).map(|n| device(&hub, &format!("d{n}"))).collect();
    for (ticket, links) in (0..).zip(&mut devices) {
        links.send(ticket, message("x"));
        assert_eq!(accepted(links).await, ticket);
    }
    let seen = fake.seen();
    assert_eq!((seen.sessions, seen.connections), (3, 1), "one is for $cbs");
    let mut ninth = device(&hub, "ninth");
    ninth.send(0, message("x"));
    assert_eq!(gone(&mut ninth).await, "hub_full");
    // Who leaves makes room.
    devices.pop().unwrap().close(OnDisconnect::Release);
    fake.until(|seen| seen.detaches == 1).await;
    hub.shared.pool.lanes()[0].detached().await;
    let mut tenth = device(&hub, "tenth");
    tenth.send(0, message("x"));
    assert_eq!(accepted(&mut tenth).await, 0);
    for (ticket, links) in (100..).zip(&mut devices) {
        links.send(ticket, message("y"));
        assert_eq!(accepted(links).await, ticket);
    }
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}
