//! Bounds and lives: silence, credit, bytes, sessions that end or wear out, TLS, gauges.

use super::fake::FakeHub;
use super::{PATIENCE, accepted, config, device, message, start};
use crate::config::OnDisconnect;
use crate::hub::Hub;
use crate::hub::message::{DeviceAddress, Telemetry};
use crate::runtime::clock;
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn an_idle_connection_stays_open() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.idle_timeout = Duration::from_millis(600);
    let hub = start(settings).await;
    let mut ready = hub.shared.ready.subscribe();
    let lost = timeout(Duration::from_secs(3), ready.wait_for(|n| *n == 0)).await;
    assert!(lost.is_err(), "lost while idle: {:?}", hub.status());
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_silent_hub_is_found_dead_within_two_idle_times() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.idle_timeout = Duration::from_millis(600);
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    fake.stall();
    let stalled = clock::mono();
    links.send(2, message("into the void"));
    fake.until(|seen| seen.connections == 2).await;
    let found = clock::mono().since(stalled);
    assert!(found <= Duration::from_millis(1200 + 300), "{found:?}"); // and a new connection
    assert_eq!(accepted(&mut links).await, 2);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_device_without_credit_waits_and_its_neighbour_does_not() {
    let fake = FakeHub::start().await;
    fake.credit(Some(1));
    let mut settings = config(fake.port);
    settings.connection_bytes_max = 4096;
    settings.outcome_timeout = Duration::from_millis(200); // also probes for credit anew
    let hub = start(settings).await;
    let mut poor = device(&hub, "poor");
    let large = || Telemetry {
        body: Bytes::from(vec![b'x'; 4096]),
        ..Telemetry::default()
    };
    for ticket in 0..3 {
        poor.send(ticket, large());
    }
    assert_eq!(accepted(&mut poor).await, 0);
    let starved = timeout(Duration::from_millis(500), poor.next()).await;
    assert!(starved.is_err(), "{starved:?}");
    assert_eq!(poor.outstanding(), 2);
    fake.credit(None);
    let mut rich = device(&hub, "rich");
    for ticket in 0..5 {
        rich.send(ticket, large());
        assert_eq!(accepted(&mut rich).await, ticket);
    }
    fake.feed("poor", 5).await;
    assert_eq!(accepted(&mut poor).await, 1);
    assert_eq!(accepted(&mut poor).await, 2);
    let seen = fake.seen();
    assert_eq!((seen.transfers.len(), seen.detaches), (8, 0));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn the_bytes_of_a_connection_bound_all_its_devices() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connection_bytes_max = 3000;
    let hub = start(settings).await;
    let lane = Arc::clone(&hub.shared.pool.lanes()[0]);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let mut links = device(&hub, &format!("d{n}"));
        let lane = Arc::clone(&lane);
        tasks.spawn(async move {
            for ticket in 0..20 {
                links.send(ticket, message(&"y".repeat(1000)));
            }
            for ticket in 0..20 {
                assert_eq!(accepted(&mut links).await, ticket);
                assert!(lane.bytes.available_permits() <= 3000);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(
        lane.bytes.available_permits(),
        3000,
        "all room is given back"
    );
    assert_eq!(fake.seen().accepted.len(), 160);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_session_the_hub_ends_is_begun_again_on_the_same_connection() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    fake.end_sessions();
    links.send(2, message("y"));
    assert_eq!(accepted(&mut links).await, 2);
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn an_attach_that_is_never_answered_costs_the_connection_not_the_device() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.operation_timeout = Duration::from_millis(300);
    let hub = start(settings).await;
    fake.mute_attaches();
    let mut links = device(&hub, "d1");
    links.subscribe(1);
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    assert_eq!(fake.seen().connections, 2);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_session_that_is_never_begun_costs_the_connection_not_the_device() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.operation_timeout = Duration::from_millis(300);
    let hub = start(settings).await;
    fake.mute_begins();
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    assert_eq!(fake.seen().connections, 2);
    let lost = &hub.shared.metrics.hub_reconnects;
    assert_eq!(lost.with_label_values(&["begin"]).get(), 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn links_that_are_given_up_and_not_detached_cost_the_connection_in_time() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.operation_timeout = Duration::from_millis(300);
    let hub = start(settings).await;
    let mut stays = device(&hub, "stays");
    stays.send(1, message("x"));
    assert_eq!(accepted(&mut stays).await, 1);
    fake.mute_attaches();
    let mut leaves = device(&hub, "leaves");
    leaves.send(1, message("x"));
    tokio::select! {
        early = leaves.next() => panic!("{early:?}"),
        _ = fake.until(|seen| seen.unanswered == 1) => drop(leaves),
    }
    // Nobody waits for that link any more; who is on the connection is served by the next one.
    fake.until(|seen| seen.connections == 2).await;
    stays.send(2, message("y"));
    assert_eq!(accepted(&mut stays).await, 2);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_renewal_that_is_never_answered_disturbs_nobody_and_is_tried_again() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.operation_timeout = Duration::from_millis(300);
    settings.token_ttl = Duration::from_secs(6);
    settings.renew_at = 0.1;
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.send(0, message("x"));
    assert_eq!(accepted(&mut links).await, 0);
    let mut ticket = 1;
    fake.mute_tokens(true);
    let muted = fake.seen().tokens;
    while fake.seen().tokens < muted + 3 {
        links.send(ticket, message("x"));
        assert_eq!(accepted(&mut links).await, ticket);
        ticket += 1;
    }
    fake.mute_tokens(false);
    let metrics = &hub.shared.metrics.token_renewals;
    let renewed = metrics.with_label_values(&["accepted"]);
    let before = renewed.get();
    while renewed.get() == before {
        links.send(ticket, message("x"));
        assert_eq!(accepted(&mut links).await, ticket);
        ticket += 1;
    }
    let counted = |result| metrics.with_label_values(&[result]).get();
    assert!(counted("timeout") >= 2);
    let seen = fake.seen();
    assert_eq!((seen.connections, seen.detaches), (1, 0));
    assert_eq!(hub.status().problem, "");
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn gauges_tell_what_is_attached_and_come_back_to_zero() {
    let fake = FakeHub::start().await;
    let metrics = Arc::new(Metrics::new());
    let hub = Hub::start(Arc::new(config(fake.port)), Arc::clone(&metrics));
    assert!(hub.ready(PATIENCE).await);
    let links_of = |role, state| metrics.hub_links.with_label_values(&[role, state]).get();
    let open = || metrics.hub_connections.with_label_values(&["open"]).get();
    let mut links = hub.links(DeviceAddress::for_test("d1", Some("m1")));
    links.subscribe(1);
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    fake.until(|seen| seen.attaches == 2).await;
    assert_eq!((open(), links_of("uplink", "attached")), (1, 1));
    links.close(OnDisconnect::Release);
    fake.until(|seen| seen.detaches == 2).await;
    for role in ["uplink", "downlink"] {
        for state in ["attached", "attaching"] {
            assert_eq!(links_of(role, state), 0, "{role} {state}");
        }
    }
    assert_eq!(
        hub.shared.pool.lanes()[0].devices.load(Ordering::Relaxed),
        0
    );
    assert!(hub.shutdown(PATIENCE).await);
    assert_eq!(open(), 0);
    assert_eq!(metrics.hub_accepted.get(), 1);
}

#[test]
fn an_idle_device_costs_little_here() {
    let size = std::mem::size_of::<crate::hub::DeviceLinks>();
    assert!(size <= 160, "{size} bytes");
}
