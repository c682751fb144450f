//! What works on a good day: acceptance, order, renewal, commands.

use super::fake::{FakeHub, Telemetry, telemetry_of};
use super::{PATIENCE, accepted, command, config, device, message, sent, start};
use crate::config::OnDisconnect;
use crate::config::secret::Secret;
use crate::hub::message::Settlement;
use fe2o3_amqp::types::messaging::Outcome;
use std::collections::HashSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test]
async fn a_message_is_accepted_by_the_hub_and_only_then_reported() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.send(7, message("hello"));
    assert_eq!(links.outstanding(), 1);
    assert_eq!(accepted(&mut links).await, 7);
    assert_eq!(links.outstanding(), 0);
    let seen = fake.seen();
    assert_eq!(seen.accepted.len(), 1);
    let (address, id, body) = &seen.accepted[0];
    assert_eq!(address, &telemetry_of("d1"));
    assert_eq!(id.len(), 32, "128 bits in hex: {id}");
    assert_eq!(body, b"hello");
    let status = hub.status();
    assert_eq!(
        (status.connections_ready, status.key_in_use),
        (1, "primary")
    );
    assert!(status.token_expiry.is_some());
    links.close(OnDisconnect::Release);
    assert!(hub.shutdown(PATIENCE).await);
    fake.until(|seen| seen.detaches == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_devices_pipeline_a_thousand_messages_in_order() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connections = 2;
    let hub = start(settings).await;
    let mut devices = JoinSet::new();
    for n in 0..20 {
        let mut links = device(&hub, &format!("d{n}"));
        devices.spawn(async move {
            for ticket in 0..50u64 {
                links.send(ticket, message(&format!("{ticket}")));
            }
            for ticket in 0..50 {
                assert_eq!(accepted(&mut links).await, ticket);
            }
        });
    }
    while let Some(done) = devices.join_next().await {
        done.unwrap();
    }
    let seen = fake.seen();
    assert_eq!(seen.accepted.len(), 1000);
    let ids: HashSet<_> = seen.accepted.iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids.len(), 1000, "every message has its own id");
    for n in 0..20 {
        let address = telemetry_of(&format!("d{n}"));
        let of_device = seen.accepted.iter().filter(|(a, _, _)| *a == address);
        let order: Vec<u64> = of_device
            .map(|(_, _, body)| String::from_utf8_lossy(body).parse().unwrap())
            .collect();
        assert!(order.is_sorted(), "{order:?}");
    }
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn renewing_the_token_touches_no_link() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.token_ttl = Duration::from_secs(2);
    settings.renew_at = 0.3;
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.subscribe(4);
    let mut ticket = 0;
    while fake.seen().tokens < 5 {
        links.send(ticket, message("x"));
        assert_eq!(accepted(&mut links).await, ticket);
        ticket += 1;
        tokio::task::yield_now().await;
    }
    let seen = fake.seen();
    assert_eq!(
        (seen.detaches, seen.connections, seen.tokens_refused),
        (0, 1, 0)
    );
    assert_eq!(hub.status().connections_ready, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_refused_primary_key_is_replaced_by_the_secondary_at_once() {
    let fake = FakeHub::start().await;
    fake.signed_with("secondary-key");
    let mut settings = config(fake.port);
    settings.secondary_key = Some(Secret::from("secondary-key"));
    settings.backoff_min = Duration::from_secs(600);
    settings.backoff_max = Duration::from_secs(600);
    let hub = start(settings).await;
    assert_eq!(hub.status().key_in_use, "secondary");
    assert_eq!(hub.status().problem, "");
    let seen = fake.seen();
    assert_eq!((seen.tokens_refused, seen.tokens), (1, 1));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_hub_that_refuses_every_key_is_never_ready_and_says_why() {
    let fake = FakeHub::start().await;
    fake.signed_with("another key");
    let hub = crate::hub::Hub::start(
        std::sync::Arc::new(config(fake.port)),
        std::sync::Arc::new(crate::telemetry::metrics::Metrics::new()),
    );
    fake.until(|seen| seen.tokens_refused >= 2).await;
    assert!(!hub.ready(Duration::from_millis(10)).await);
    let problem = hub.status().problem;
    assert!(problem.contains("401"), "{problem}");
    assert_eq!(fake.seen().connections, 1, "the connection stays");
    fake.signed_with("primary-key");
    assert!(hub.ready(PATIENCE).await);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_command_is_completed_only_when_the_device_has_it() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.subscribe(2);
    let (outcome, got) = tokio::join!(fake.command("d1", "on"), command(&mut links));
    assert_eq!(&got.body[..], b"on");
    let mut outcome = outcome;
    assert!(outcome.try_recv().is_err(), "the device has not settled it");
    links.settle(got.delivery, Settlement::Accepted);
    let settled = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    assert!(matches!(settled, Outcome::Accepted(_)), "{settled:?}");
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn no_more_commands_arrive_than_the_device_has_room_for() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.subscribe(1);
    let (_first, one) = tokio::join!(fake.command("d1", "1"), command(&mut links));
    let _second = fake.command("d1", "2").await;
    let early = timeout(Duration::from_millis(100), links.next()).await;
    assert!(early.is_err(), "{early:?}");
    links.settle(one.delivery, Settlement::Accepted);
    let two = command(&mut links).await;
    assert_eq!(&two.body[..], b"2");
    assert_ne!(one.delivery, two.delivery);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn closing_gives_unsettled_commands_back_as_the_policy_says() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    for (policy, expected) in [
        (OnDisconnect::Release, "Released"),
        (OnDisconnect::Abandon, "Modified"),
    ] {
        let name = format!("d-{policy:?}");
        let mut links = device(&hub, &name);
        links.subscribe(2);
        let (outcome, _) = tokio::join!(fake.command(&name, "x"), command(&mut links));
        links.close(policy);
        let settled = timeout(PATIENCE, outcome).await.unwrap().unwrap();
        let shown = format!("{settled:?}");
        assert!(shown.starts_with(expected), "{shown}");
    }
    let mut links = device(&hub, "lock");
    links.subscribe(2);
    let (outcome, _) = tokio::join!(fake.command("lock", "x"), command(&mut links));
    links.close(OnDisconnect::LockExpiry);
    assert!(
        timeout(PATIENCE, outcome).await.unwrap().is_err(),
        "no disposition"
    );
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_message_the_hub_refuses_is_reported_and_the_next_ones_go_on() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    fake.on_telemetry("d1", Telemetry::Reject("amqp:link:message-size-exceeded"));
    let mut links = device(&hub, "d1");
    links.send(1, message("too large"));
    let (ticket, result) = sent(&mut links).await;
    assert_eq!(
        (ticket, result.unwrap_err().reason),
        (1, "message_too_large")
    );
    fake.on_telemetry("d1", Telemetry::Accept);
    links.send(2, message("fits"));
    assert_eq!(accepted(&mut links).await, 2);
    assert_eq!(fake.seen().detaches, 0);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_released_message_is_sent_again_with_the_same_id() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    fake.on_telemetry("d1", Telemetry::Release(2));
    let mut links = device(&hub, "d1");
    links.send(1, message("again"));
    assert_eq!(accepted(&mut links).await, 1);
    let seen = fake.seen();
    assert_eq!(seen.transfers.len(), 3);
    assert!(seen.transfers.iter().all(|t| *t == seen.transfers[0]));
    assert_eq!(seen.accepted.len(), 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_pool_without_room_refuses_the_device() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.max_devices_per_connection = 1;
    let hub = start(settings).await;
    let first = device(&hub, "d1");
    let mut second = device(&hub, "d2");
    assert_eq!(super::gone(&mut second).await, "hub_full");
    drop(first);
    let mut third = device(&hub, "d3");
    third.send(1, message("room again"));
    assert_eq!(accepted(&mut third).await, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_shutdown_without_a_hub_is_quick() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let hub = crate::hub::Hub::start(
        std::sync::Arc::new(config(port)),
        std::sync::Arc::new(crate::telemetry::metrics::Metrics::new()),
    );
    assert!(!hub.ready(Duration::from_millis(50)).await);
    assert!(
        hub.status().problem.contains("127.0.0.1"),
        "{:?}",
        hub.status()
    );
    assert!(hub.shutdown(Duration::from_secs(5)).await);
}
