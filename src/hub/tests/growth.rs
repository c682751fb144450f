//! A pool that costs what its devices need, and comes back at the pace the hub allows.

use super::fake::FakeHub;
use super::{PATIENCE, accepted, command, config, device, message, start};
use crate::hub::message::Settlement;
use crate::hub::{DeviceLinks, Hub};
use std::time::Duration;
use tokio::time::timeout;

fn loads(hub: &Hub) -> Vec<usize> {
    let lanes = hub.shared.pool.lanes();
    lanes.iter().map(|lane| lane.load()).collect()
}

#[tokio::test]
async fn connections_and_sessions_are_opened_when_devices_need_them() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connections = 16;
    settings.sessions_per_connection = 64;
    let hub = start(settings).await;
    let seen = fake.until(|seen| seen.tokens == 2).await;
    assert_eq!((seen.connections, seen.sessions), (2, 2), "only $cbs");
    assert_eq!(hub.status().connections_wanted, 2);
    let mut links = device(&hub, "d1");
    let quiet = timeout(Duration::from_millis(100), links.next()).await;
    assert!(quiet.is_err());
    assert_eq!(fake.seen().sessions, 2, "a silent device needs none");
    assert_eq!(loads(&hub), [0; 16]);
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    links.subscribe(1);
    links.send(2, message("x"));
    assert_eq!(accepted(&mut links).await, 2);
    assert_eq!(fake.seen().sessions, 3);
    assert!(hub.shutdown(PATIENCE).await);
}

/// Sends one message and lets what follows happen.
async fn speak(links: &mut DeviceLinks, ticket: u64) {
    links.send(ticket, message("x"));
    assert_eq!(accepted(links).await, ticket);
    let quiet = timeout(Duration::from_millis(1), links.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_grew_evens_out_and_nothing_is_lost_or_sent_twice() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connections = 4;
    settings.max_devices_per_connection = 60;
    let hub = start(settings).await;
    let mut devices = Vec::new();
    for n in 0..100 {
        let mut links = device(&hub, &format!("d{n}"));
        if n % 2 == 0 {
            links.subscribe(2);
        }
        speak(&mut links, 0).await;
        devices.push(links);
    }
    fake.until(|seen| seen.connections == 4).await;
    for round in 1..=8 {
        for links in &mut devices {
            speak(links, round).await;
        }
    }
    let loads = loads(&hub);
    let (max, min) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
    assert_eq!(loads.iter().sum::<usize>(), 100);
    assert!(*max <= *min + 5, "{loads:?}");
    let seen = fake.seen();
    assert_eq!(seen.connections, 4);
    assert_eq!((seen.transfers.len(), seen.accepted.len()), (900, 900));
    for n in (0..100).step_by(10) {
        let name = format!("d{n}");
        let (outcome, got) = tokio::join!(fake.command(&name, "c"), command(&mut devices[n]));
        devices[n].settle(got.delivery, Settlement::Accepted);
        tokio::select! {
            early = devices[n].next() => panic!("{early:?}"),
            settled = timeout(PATIENCE, outcome) => assert!(settled.unwrap().is_ok()),
        }
    }
    drop(devices);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_device_with_messages_under_way_stays_where_it_is() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connections = 2;
    let hub = start(settings).await;
    fake.until(|seen| seen.tokens == 2).await;
    let mut links = device(&hub, "d1");
    fake.on_telemetry("d1", super::fake::Telemetry::Hold);
    links.send(1, message("x"));
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        _ = fake.until(|seen| seen.transfers.len() == 1) => {}
    }
    let home = loads(&hub).iter().position(|load| *load == 1).unwrap();
    let lane = &hub.shared.pool.lanes()[home];
    lane.crowded
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let quiet = timeout(Duration::from_millis(200), links.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let seen = fake.seen();
    assert_eq!(
        (seen.attaches, seen.detaches, seen.transfers.len()),
        (1, 0, 1)
    );
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_loss_links_come_back_at_the_rate_and_senders_first() {
    const RATE: u32 = 100;
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.connections = 2;
    settings.sessions_per_connection = 8;
    settings.attach_rate_per_s = RATE;
    let hub = start(settings).await;
    fake.until(|seen| seen.tokens == 2).await;
    let mut listeners = tokio::task::JoinSet::new();
    for n in 0..150 {
        let mut links = device(&hub, &format!("listener{n}"));
        links.subscribe(1);
        listeners.spawn(async move { links.next().await });
    }
    fake.until(|seen| seen.attaches == 150).await;
    fake.kill();
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..30 {
        let mut links = device(&hub, &format!("sender{n}"));
        links.send(n, message("x"));
        senders.spawn(async move { assert_eq!(accepted(&mut links).await, n) });
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    let seen = fake.until(|seen| seen.attaches >= 330).await;
    assert!(listeners.try_join_next().is_none(), "no listener noticed");
    let again: Vec<_> = seen.attached[150..].iter().collect();
    let last = again
        .iter()
        .rposition(|(_, address)| address.contains("sender"));
    // Turns that were asked for when nobody waited to send are not taken back: one per session.
    assert!(
        last.unwrap() < 30 + 2 * 8 + 8,
        "a sender came {}th",
        last.unwrap()
    );
    for (first, (from, _)) in seen.attached.iter().enumerate() {
        let second = Duration::from_secs(1);
        let within = seen.attached[first..].iter();
        let count = within
            .take_while(|(at, _)| at.since(*from) < second)
            .count();
        // What is granted evenly may be heard in bunches; a tenth is the machine's.
        assert!(
            count <= (RATE + RATE / 10) as usize,
            "{count} attaches in a second"
        );
    }
    assert!(hub.shutdown(PATIENCE).await);
}
