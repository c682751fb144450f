use super::{Gate, Permit, Refused, Turn};
use crate::config::limits::Limits;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Admits a socket whose handshake need not wait.
fn admit(gate: &Arc<Gate>, source: &str) -> Result<(Permit, Permit), Refused> {
    match gate.admit(ip(source), false)? {
        (connection, Turn::Now(handshake)) => Ok((connection, handshake)),
        (_, Turn::Later(_, full)) => Err(full),
    }
}

fn gate(connections: usize, per_source: usize, handshakes: usize) -> Arc<Gate> {
    Gate::new(&Limits {
        connections,
        connections_per_source: per_source,
        handshakes,
        handshakes_per_source: 2,
        password_checks: 1,
        ..Limits::default()
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_empty(gate: &Gate) {
    assert!(gate.is_idle(), "a permit or a source was kept");
}

#[test]
fn the_total_is_a_bound_and_comes_back() {
    let gate = gate(2, 2, 9);
    let a = admit(&gate, "10.0.0.1").unwrap();
    let b = admit(&gate, "10.0.0.2").unwrap();
    let over = admit(&gate, "10.0.0.3").err();
    assert_eq!(over, Some(Refused::Connections));
    drop(a);
    let c = admit(&gate, "10.0.0.3").unwrap();
    drop((b, c));
    assert_empty(&gate);
}

#[test]
fn one_source_cannot_take_the_places_of_others() {
    let gate = gate(9, 2, 9);
    let (_a, handshake) = admit(&gate, "10.0.0.1").unwrap();
    drop(handshake);
    let _b = admit(&gate, "10.0.0.1").unwrap();
    let over = admit(&gate, "10.0.0.1").err();
    assert_eq!(over, Some(Refused::ConnectionsOfSource));
    assert!(admit(&gate, "10.0.0.2").is_ok());
}

#[test]
fn half_open_handshakes_of_one_source_leave_room_for_another() {
    let gate = gate(99, 99, 3);
    let _held = [
        admit(&gate, "10.0.0.1").unwrap(),
        admit(&gate, "10.0.0.1").unwrap(),
    ];
    let over = admit(&gate, "10.0.0.1").err();
    assert_eq!(over, Some(Refused::HandshakesOfSource));
    let _other = admit(&gate, "10.0.0.2").unwrap();
    let full = admit(&gate, "10.0.0.3").err();
    assert_eq!(full, Some(Refused::Handshakes));
}

#[test]
fn a_finished_handshake_frees_its_place_while_the_connection_stays() {
    let gate = gate(99, 99, 1);
    let (connection, handshake) = admit(&gate, "10.0.0.1").unwrap();
    assert!(admit(&gate, "10.0.0.2").is_err());
    drop(handshake);
    drop(admit(&gate, "10.0.0.2").unwrap());
    drop(connection);
    assert_empty(&gate);
}

#[test]
fn a_refusal_takes_nothing() {
    let gate = gate(1, 1, 1);
    let held = admit(&gate, "10.0.0.1").unwrap();
    for _ in 0..100 {
        assert!(admit(&gate, "10.0.0.9").is_err());
    }
    drop(held);
    assert_empty(&gate);
}

#[test]
fn an_ipv6_host_is_one_source_whatever_address_it_picks() {
    let gate = gate(9, 1, 9);
    let _held = admit(&gate, "2001:db8:1:2:aaaa::1").unwrap();
    assert!(admit(&gate, "2001:db8:1:2:bbbb::2").is_err());
    assert!(admit(&gate, "2001:db8:1:3::1").is_ok());
}

#[test]
fn a_mapped_ipv4_address_is_the_ipv4_source() {
    let gate = gate(9, 1, 9);
    let _held = admit(&gate, "::ffff:10.0.0.1").unwrap();
    assert!(admit(&gate, "10.0.0.1").is_err());
}

#[test]
fn a_password_flood_of_one_source_leaves_places() {
    let gate = gate(99, 99, 99);
    let mine: Vec<_> = std::iter::from_fn(|| gate.password(ip("10.0.0.1"))).collect();
    assert_eq!(mine.len(), 6);
    let others: Vec<_> = std::iter::from_fn(|| gate.password(ip("10.0.0.2"))).collect();
    assert_eq!(others.len(), 2);
    drop((mine, others));
    assert_empty(&gate);
}

/// Answers once the turn has come or is over.
async fn come(turn: Turn) -> Result<Permit, Refused> {
    turn.come(Duration::from_secs(10)).await
}

#[tokio::test]
async fn ten_thousand_devices_of_one_address_come_back_at_once_and_every_one_gets_its_turn() {
    let gate = Gate::new(&Limits::default());
    let nat = ip("10.0.0.1");
    let mut waiting = Vec::new();
    for device in 0..10_000 {
        let (connection, turn) = gate.admit(nat, true).unwrap();
        let others = ip(&format!("10.1.{}.{}", device / 250, device % 250));
        assert!(
            gate.admit(others, false).is_ok(),
            "another address beside {device}"
        );
        waiting.push(tokio::spawn(async move {
            let _connection = connection;
            let _handshake = come(turn).await.map_err(|full| (device, full)).unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }));
    }
    for device in waiting {
        device.await.unwrap();
    }
    assert_empty(&gate);
}

#[tokio::test]
async fn a_flood_of_strangers_stands_in_a_short_line_and_gives_up() {
    let gate = Gate::new(&Limits {
        connections: 1_000,
        handshakes: 4,
        handshakes_per_source: 2,
        ..Limits::default()
    });
    let flood: Vec<_> = (0..100)
        .map(|_| gate.admit(ip("10.0.0.1"), false))
        .collect();
    let over = flood.iter().filter(|admitted| admitted.is_err()).count();
    assert_eq!(
        over,
        100 - 2 - 8,
        "two handshakes and four times that in line"
    );
    assert!(admit(&gate, "10.0.0.2").is_ok(), "nobody else waits");
    for admitted in flood.into_iter().flatten().skip(2) {
        let (_connection, turn) = admitted;
        drop(turn);
    }
    assert_empty(&gate);
    let _held = [admit(&gate, "10.0.0.1"), admit(&gate, "10.0.0.1")];
    let (_, turn) = gate.admit(ip("10.0.0.1"), false).unwrap();
    let over = turn.come(Duration::from_millis(20)).await;
    assert_eq!(over.err(), Some(Refused::HandshakesOfSource));
}

#[tokio::test]
async fn turns_go_round_by_source() {
    let gate = Gate::new(&Limits {
        connections: 1_000,
        handshakes: 2,
        handshakes_per_source: 1,
        ..Limits::default()
    });
    let sources = ["10.0.0.1", "10.0.0.2"];
    let held = sources.map(|source| admit(&gate, source).unwrap());
    let _crowd: Vec<_> = (0..100).map(|_| gate.admit(ip("10.0.0.1"), true)).collect();
    let (_connection, turn) = gate.admit(ip("10.0.0.3"), false).unwrap();
    drop(held);
    assert!(
        come(turn).await.is_ok(),
        "not behind a hundred of another address"
    );
}

#[tokio::test]
async fn silent_handshakes_make_room_for_as_many_as_wait_where_devices_proved_themselves() {
    let gate = gate(99, 99, 9);
    let source = ip("10.0.0.1");
    let (_a, first) = admit(&gate, "10.0.0.1").unwrap();
    let (_b, _second) = admit(&gate, "10.0.0.1").unwrap();
    assert!(!gate.makes_room(source), "nobody waits");
    let (_c, stranger) = gate.admit(source, false).unwrap();
    assert!(!gate.makes_room(source), "for a stranger");
    drop(stranger);
    let (_d, turn) = gate.admit(source, true).unwrap();
    assert!(!gate.makes_room(ip("10.0.0.2")), "another address");
    assert!(gate.makes_room(source));
    assert!(!gate.makes_room(source), "one waits, one goes");
    drop(first);
    let _permit = come(turn).await.unwrap();
    let (_e, _next) = gate.admit(source, true).unwrap();
    assert!(gate.makes_room(source), "the next one's turn");
}
