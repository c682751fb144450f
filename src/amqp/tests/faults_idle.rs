//! Idle time-outs and the end: faults other engines had, each named for what it must not do here.

use super::pair::{Pair, Peer, Said, at, client, open, send};
use crate::amqp::{BeginError, Closed, Connection, Event, Outcome, SendError, performative};
use bytes::BytesMut;
use std::time::Duration;

/// A client whose peer asks for frames every `millis`.
fn with_idle(ours: Option<Duration>, theirs: Option<u32>) -> Connection {
    let mut config = client();
    config.idle_time_out = ours;
    let mut connection = Connection::new(config, at(0.0));
    let mut bytes = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    let mut open = open(65_536, 7);
    open.idle_time_out = theirs;
    let kind = crate::amqp::frame::Kind::Amqp;
    performative::encode(&mut bytes, kind, 0, &open, 512).expect("fits");
    connection.write(&mut BytesMut::new(), at(0.0));
    connection.feed(&mut bytes, at(0.0));
    connection.poll_event();
    connection
}

#[test]
fn fe2o3_f6_an_empty_frame_goes_at_half_of_the_peers_time_out() {
    let mut connection = with_idle(None, Some(2_000));
    let mut out = BytesMut::new();
    assert_eq!(connection.deadline(), at(1.0));
    connection.tick(at(0.9));
    assert_eq!(connection.write(&mut out, at(0.9)), 0);
    connection.tick(at(1.0));
    connection.write(&mut out, at(1.0));
    assert_eq!(&out[..], b"\x00\x00\x00\x08\x02\x00\x00\x00");
    assert_eq!(connection.deadline(), at(2.0));
}

#[test]
fn a_peer_that_asks_for_a_frame_every_millisecond_does_not_get_it() {
    let connection = with_idle(None, Some(1));
    assert_eq!(connection.deadline(), at(0.05));
}

#[test]
fn amqpnetlite_444_half_of_our_time_out_is_advertised_and_the_whole_is_kept() {
    let mut config = client();
    config.idle_time_out = Some(Duration::from_secs(4));
    let mut connection = Connection::new(config.clone(), at(0.0));
    let mut out = BytesMut::new();
    connection.write(&mut out, at(0.0));
    let (_, Said::Open(open)) = super::pair::parse(&out).remove(0) else {
        panic!("no open");
    };
    assert_eq!(open.idle_time_out, Some(2_000));
    config.idle_announced = Some(Duration::from_secs(3));
    let mut connection = Connection::new(config, at(0.0));
    let mut out = BytesMut::new();
    connection.write(&mut out, at(0.0));
    assert!(matches!(
        &super::pair::parse(&out)[..],
        [(_, Said::Open(open))] if open.idle_time_out == Some(3_000)
    ));
    let mut connection = with_idle(Some(Duration::from_secs(4)), None);
    connection.tick(at(3.9));
    assert!(!connection.is_over());
    connection.tick(at(4.0));
    let told = super::pair::events(&mut connection);
    assert!(matches!(told[..], [Event::Closed(Closed::Idle)]));
    let mut out = BytesMut::new();
    connection.write(&mut out, at(4.0));
    let (_, Said::Close(close)) = super::pair::parse(&out).remove(0) else {
        panic!("no close");
    };
    let found = super::pair::condition(close.error.as_ref());
    assert_eq!(found, "amqp:resource-limit-exceeded");
}

#[test]
fn proton_985_time_that_stands_still_or_goes_back_ends_nothing() {
    let mut connection = with_idle(Some(Duration::from_secs(4)), Some(2_000));
    let mut empty = BytesMut::from(&b"\x00\x00\x00\x08\x02\x00\x00\x00"[..]);
    connection.feed(&mut empty, at(100.0));
    for now in [100.0, 50.0, 0.0, 103.9] {
        connection.tick(at(now));
        assert!(!connection.is_over(), "at {now}");
    }
}

#[test]
fn amqpnetlite_303_both_close_at_once_and_both_end() {
    let (mut pair, _) = Pair::plain();
    pair.client.close(None, pair.now);
    pair.server.close(None, pair.now);
    pair.run();
    assert!(matches!(
        pair.at_client[..],
        [.., Event::Closed(Closed::Local)]
    ));
    assert!(matches!(
        pair.at_server[..],
        [.., Event::Closed(Closed::Local)]
    ));
}

#[test]
fn vcabbage_119_both_detach_and_end_at_once_and_nothing_hangs() {
    let (mut pair, session) = Pair::plain();
    let link = pair.sender(session, 0);
    send(&mut pair.client, link, 0).expect("credit");
    pair.run();
    let theirs = pair.arrived().remove(0).0.link;
    pair.client.detach(link, None).expect("attached");
    pair.server.detach(theirs, None).expect("attached");
    pair.client.end(session, None).expect("mapped");
    pair.run();
    assert_eq!(pair.outcomes(), [(0, Outcome::Unknown)]);
    let ended = pair.at_client.iter();
    let ended = ended.filter(|event| matches!(event, Event::Ended { .. }));
    assert_eq!(ended.count(), 1);
    pair.client.begin().expect("the connection lives");
}

#[test]
fn fe2o3_200_a_send_on_an_idle_connection_that_died_is_told() {
    let mut config = client();
    config.idle_time_out = Some(Duration::from_secs(4));
    let (mut peer, session) = Peer::of_client(config);
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 10);
    send(&mut peer.engine, link, 5).expect("credit");
    peer.engine.tick(at(4.0));
    let told = peer.events();
    assert!(matches!(
        told[..],
        [
            Event::Outcome {
                delivery: 5,
                outcome: Outcome::Unknown,
                ..
            },
            Event::Detached { .. },
            Event::Ended { .. },
            Event::Closed(Closed::Idle),
        ]
    ));
    assert_eq!(send(&mut peer.engine, link, 6), Err(SendError::Stale));
}

#[test]
fn fe2o3_f17_a_peer_that_never_answers_close_is_not_waited_for() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.engine.close(None, at(1.0));
    assert_eq!(peer.engine.deadline(), at(11.0));
    assert_eq!(peer.engine.begin(), Err(BeginError::NotOpen));
    assert_eq!(send(&mut peer.engine, link, 0), Err(SendError::Stale));
    peer.engine.tick(at(11.0));
    let told = peer.events();
    assert!(
        matches!(told[..], [.., Event::Closed(Closed::Timeout)]),
        "{told:?}"
    );
    assert_eq!(
        peer.engine.deadline(),
        crate::runtime::clock::Mono::far_future()
    );
}

#[test]
fn nothing_is_said_after_close() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.receiver(session, 0, 10);
    peer.transfer(super::pair::first(0, 0), b"x");
    let (delivery, _) = super::pair::take_deliveries(&mut peer.events()).remove(0);
    peer.engine.close(None, at(1.0));
    peer.engine
        .settle(delivery, &Outcome::Accepted)
        .expect_err("closing");
    peer.engine.set_credit(link, 20).expect_err("closing");
    peer.engine.detach(link, None).expect_err("closing");
    let said = peer.heard();
    assert!(matches!(said[..], [Said::Close(_)]), "{said:?}");
    // What the peer says meanwhile is discarded.
    peer.transfer(super::pair::first(7, 9), b"x");
    assert_eq!(peer.heard(), []);
}
