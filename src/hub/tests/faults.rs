//! What a bad day does: cuts, silence, refusals.

use super::fake::{FakeHub, Telemetry, telemetry_of};
use super::{PATIENCE, accepted, command, config, device, gone, message, start};
use crate::config::OnDisconnect;
use crate::hub::message::Settlement;
use crate::hub::tuning;
use fe2o3_amqp::types::messaging::Outcome;
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_loses_nothing_and_no_device_notices() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut devices = JoinSet::new();
    for n in 0..10 {
        let mut links = device(&hub, &format!("d{n}"));
        devices.spawn(async move {
            for ticket in 0..200u64 {
                links.send(ticket, message(&format!("{ticket}")));
                if ticket >= 20 {
                    assert_eq!(accepted(&mut links).await, ticket - 20);
                }
            }
            for ticket in 180..200 {
                assert_eq!(accepted(&mut links).await, ticket);
            }
        });
    }
    for cut in 1..=3 {
        fake.until(|seen| seen.accepted.len() >= 400 * cut).await;
        fake.kill();
        fake.until(|seen| seen.connections > u32::try_from(cut).unwrap())
            .await;
    }
    while let Some(done) = devices.join_next().await {
        done.unwrap();
    }
    let seen = fake.seen();
    let mut ids: HashMap<(&str, &[u8]), &str> = HashMap::new();
    for (address, id, body) in &seen.transfers {
        let first = ids.entry((address, body)).or_insert(id);
        assert_eq!(first, id, "a message sent again keeps its id");
    }
    assert_eq!(ids.len(), 2000);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn messages_in_flight_when_the_connection_dies_are_sent_again() {
    let fake = FakeHub::start().await;
    fake.on_telemetry("d1", Telemetry::Hold);
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    for ticket in 0..5 {
        links.send(ticket, message(&format!("{ticket}")));
    }
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        _ = fake.until(|seen| seen.transfers.len() == 5) => {}
    }
    fake.on_telemetry("d1", Telemetry::Accept);
    fake.kill();
    for ticket in 0..5 {
        assert_eq!(accepted(&mut links).await, ticket);
    }
    let seen = fake.seen();
    assert_eq!(seen.transfers.len(), 10);
    assert_eq!(
        seen.transfers[..5],
        seen.transfers[5..],
        "same ids, same order"
    );
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn what_was_in_flight_goes_before_what_was_waiting() {
    let fake = FakeHub::start().await;
    fake.on_telemetry("d1", Telemetry::Hold);
    let mut settings = config(fake.port);
    settings.connection_bytes_max = 2 * tuning::MESSAGE_COST_MIN;
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    for ticket in 0..5 {
        links.send(ticket, message(&format!("{ticket}")));
    }
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        _ = fake.until(|seen| seen.transfers.len() == 2) => {}
    }
    fake.on_telemetry("d1", Telemetry::Accept);
    fake.kill();
    for ticket in 0..5 {
        assert_eq!(accepted(&mut links).await, ticket);
    }
    let bodies: Vec<_> = fake.seen().transfers.into_iter().map(|t| t.2).collect();
    assert_eq!(bodies, [b"0", b"1", b"0", b"1", b"2", b"3", b"4"]);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_hub_that_is_down_for_a_while_costs_only_time() {
    let fake = FakeHub::start().await;
    let port = fake.port;
    let hub = start(config(port)).await;
    let mut links = device(&hub, "d1");
    links.subscribe(2);
    links.send(0, message("before"));
    assert_eq!(accepted(&mut links).await, 0);
    fake.stop().await;
    for ticket in 1..20 {
        links.send(ticket, message("while down"));
    }
    let quiet = timeout(Duration::from_secs(2), links.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(hub.status().connections_ready, 0);
    assert_eq!(links.outstanding(), 19);
    let fake = FakeHub::start_on(port).await;
    for ticket in 1..20 {
        assert_eq!(accepted(&mut links).await, ticket);
    }
    assert_eq!(fake.seen().accepted.len(), 19);
    let (_, got) = tokio::join!(fake.command("d1", "back"), command(&mut links));
    assert_eq!(&got.body[..], b"back");
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn an_outcome_that_never_comes_rebuilds_the_link() {
    let fake = FakeHub::start().await;
    fake.on_telemetry("d1", Telemetry::Hold);
    let mut settings = config(fake.port);
    settings.outcome_timeout = Duration::from_millis(300);
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("lost?"));
    links.send(2, message("lost too?"));
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        _ = fake.until(|seen| seen.detaches >= 1) => {}
    }
    fake.on_telemetry("d1", Telemetry::Accept);
    assert_eq!(accepted(&mut links).await, 1);
    assert_eq!(accepted(&mut links).await, 2);
    let seen = fake.seen();
    assert_eq!(seen.connections, 1, "only the link is rebuilt");
    let ids = |text: &[u8]| {
        let of = seen
            .transfers
            .iter()
            .filter(move |(_, _, body)| body == text);
        of.map(|(_, id, _)| id.clone())
            .collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(ids(b"lost?").len(), 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_device_the_hub_does_not_know_goes_alone() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.sessions_per_connection = 1;
    let hub = start(settings).await;
    let (mut bad, mut good) = (device(&hub, "bad"), device(&hub, "good"));
    for (links, ticket) in [(&mut bad, 1), (&mut good, 2)] {
        links.send(ticket, message("x"));
        assert_eq!(accepted(links).await, ticket);
    }
    fake.detach_uplink("bad", "amqp:not-found", "device not registered")
        .await;
    assert_eq!(gone(&mut bad).await, "device_not_found");
    for ticket in 3..50 {
        good.send(ticket, message("x"));
        assert_eq!(accepted(&mut good).await, ticket);
    }
    assert_eq!(fake.seen().connections, 1);
    bad.send(9, message("too late"));
    assert_eq!(bad.outstanding(), 0);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn an_attach_that_is_refused_tells_the_device() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    fake.deny(Some("amqp:not-found"));
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(gone(&mut links).await, "device_not_found");
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_stolen_command_link_ends_the_device_and_is_not_fought_over() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.subscribe(2);
    let words = "Another AMQP Client has opened a Receive Link";
    let (_, reason) = tokio::join!(
        fake.detach_downlink("d1", "amqp:internal-error", words),
        gone(&mut links)
    );
    assert_eq!(reason, "stolen");
    assert_eq!(fake.seen().attaches, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_link_detached_without_blame_comes_back() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.subscribe(2);
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    for (ticket, condition) in [(2, "amqp:link:detach-forced"), (3, "com.example:new")] {
        fake.detach_uplink("d1", condition, "").await;
        links.send(ticket, message("y"));
        assert_eq!(accepted(&mut links).await, ticket);
    }
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        () = fake.detach_downlink("d1", "amqp:link:detach-forced", "") => {}
    }
    fake.until(|seen| seen.detaches == 3).await;
    let (outcome, got) = tokio::join!(fake.command("d1", "c"), command(&mut links));
    links.settle(got.delivery, Settlement::Accepted);
    let settled = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    assert!(matches!(settled, Outcome::Accepted(_)));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn links_refused_for_lack_of_a_token_ask_for_one_and_come_back() {
    let fake = FakeHub::start().await;
    let hub = start(config(fake.port)).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    assert_eq!(fake.seen().tokens, 1);
    fake.detach_uplink("d1", "amqp:unauthorized-access", "Token Invalid.")
        .await;
    links.send(2, message("y"));
    assert_eq!(accepted(&mut links).await, 2);
    tokio::select! {
        early = links.next() => panic!("{early:?}"),
        seen = fake.until(|seen| seen.tokens >= 2) => assert_eq!(seen.connections, 1),
    }
    assert!(hub.shutdown(PATIENCE).await);
}

/// Links are dropped mid-attach and with transfers in flight, and their handles are used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_come_and_go_do_not_disturb_their_neighbour() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.sessions_per_connection = 1;
    let hub = start(settings).await;
    let mut neighbour = device(&hub, "neighbour");
    let mut ticket = 0;
    for round in 0..150u64 {
        let mut links = device(&hub, &format!("guest{}", round % 7));
        links.subscribe(3);
        links.send(1, message("hello"));
        match round % 3 {
            // Dropped while attaching: at different points of the exchange.
            0 => {
                for _ in 0..round % 8 {
                    let _ = timeout(Duration::ZERO, links.next()).await;
                    tokio::task::yield_now().await;
                }
            }
            // Dropped with a message on its way out.
            1 => drop(timeout(Duration::from_millis(round % 5), links.next()).await),
            // Closed in order.
            _ => assert_eq!(accepted(&mut links).await, 1),
        }
        links.close(OnDisconnect::Release);
        neighbour.send(ticket, message("still here"));
        assert_eq!(accepted(&mut neighbour).await, ticket);
        ticket += 1;
    }
    let seen = fake.seen();
    assert_eq!(seen.connections, 1, "no connection was lost");
    let address = telemetry_of("neighbour");
    let own = seen
        .transfers
        .iter()
        .filter(|(a, _, _)| *a == address)
        .count();
    assert_eq!(
        own as u64, ticket,
        "nothing was sent twice, so no session was lost"
    );
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_receiver_dropped_with_commands_in_flight_leaves_its_session_alone() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.sessions_per_connection = 1;
    let hub = start(settings).await;
    let mut neighbour = device(&hub, "neighbour");
    for round in 0..20 {
        let mut links = device(&hub, "d1");
        links.subscribe(8);
        let (first, _) = tokio::join!(fake.command("d1", "a"), command(&mut links));
        let second = fake.command("d1", "b").await;
        drop(links);
        // Both come back, the one the device saw and the one still on the wire; a link that is
        // closed with a delivery unseen gives none at all, which frees it as well.
        let first = timeout(PATIENCE, first).await.unwrap().unwrap();
        assert!(matches!(first, Outcome::Released(_)), "{first:?}");
        if let Ok(second) = timeout(PATIENCE, second).await.unwrap() {
            assert!(matches!(second, Outcome::Released(_)), "{second:?}");
        }
        neighbour.send(round, message("x"));
        assert_eq!(accepted(&mut neighbour).await, round);
    }
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_server_that_is_no_hub_is_named_as_the_problem() {
    use tokio::io::AsyncWriteExt;
    // Nonsense, a header of another protocol, and a frame too short to be one.
    let answers: [&[u8]; 3] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x03\x01\x00\x00\x00\x00\x00\x05\x02",
    ];
    for answer in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                open.push(stream);
            }
        });
        let mut settings = config(port);
        settings.connect_timeout = Duration::from_millis(300);
        let metrics = std::sync::Arc::new(crate::telemetry::metrics::Metrics::new());
        let hub = crate::hub::Hub::start(std::sync::Arc::new(settings), metrics);
        assert!(!hub.ready(Duration::from_millis(500)).await);
        let problem = hub.status().problem;
        assert!(problem.contains("AMQP open"), "{problem}");
        assert!(hub.shutdown(PATIENCE).await);
        server.abort();
    }
}
