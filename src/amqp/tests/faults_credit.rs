//! Link credit and drain: faults other engines had, each named for what it must not do here.

use super::faults_windows::transfers;
use super::pair::take_deliveries;
use super::pair::{Pair, Peer, Said, begin, client, condition, first, send, send_bytes, server};
use crate::amqp::{Event, SendError, sender};
use bytes::Bytes;

#[test]
fn rabbitmq_client_39_credit_that_crosses_a_detach_is_dropped() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.receiver(session, 0, 5);
    peer.engine.set_credit(link, 50).expect("attached");
    peer.engine.detach(link, None).expect("attached");
    let said = peer.heard();
    assert!(matches!(said[..], [Said::Detach(_)]), "{said:?}");
    peer.engine.set_credit(link, 50).expect_err("detached");
    assert_eq!(peer.heard(), []);
}

#[test]
fn uamqp_c_383_credit_counts_messages_not_frames() {
    let mut small = client();
    small.limits.frame_size = 512;
    let (mut pair, session) = Pair::open(small, server());
    pair.credit = 3;
    let link = pair.sender(session, 0);
    for token in 0..3 {
        let large = Bytes::from(vec![1; 5_000]);
        send_bytes(&mut pair.client, link, large, true, token).expect("credit for three");
    }
    let fourth = send(&mut pair.client, link, 3);
    assert_eq!(fourth, Err(SendError::WouldBlock));
    pair.run();
    assert_eq!(pair.arrived().len(), 3);
}

#[test]
fn ntex_30_a_flow_that_asks_nothing_is_not_answered() {
    let (mut pair, session) = Pair::plain();
    let link = pair.sender(session, 0);
    pair.run();
    let (mut peer, session) = Peer::of_client(client());
    let _ = (link, peer.sender(session, 0));
    for _ in 0..100 {
        peer.grant(0, 0, 10);
    }
    assert_eq!(peer.heard(), []);
    assert!(peer.events().is_empty(), "nobody waits for credit");
}

#[test]
fn rhea_a_creditless_link_does_not_hold_back_the_session() {
    let (mut peer, session) = Peer::of_client(client());
    let poor = peer.sender(session, 0);
    let rich = peer.sender(session, 1);
    peer.grant(1, 0, 2_000);
    for token in 0..2_000 {
        assert_eq!(
            send(&mut peer.engine, poor, token),
            Err(SendError::WouldBlock)
        );
        send(&mut peer.engine, rich, token).expect("credit");
    }
    assert_eq!(transfers(&peer.heard()), 2_000);
}

#[test]
fn a_peer_that_ignores_credit_loses_the_link_and_nothing_else() {
    let (mut peer, session) = Peer::of_client(client());
    peer.receiver(session, 0, 1);
    let other = peer.receiver(session, 1, 1);
    peer.transfer(first(0, 0), b"x");
    peer.transfer(first(0, 1), b"x");
    let Some(Said::Detach(detach)) = peer.heard().pop() else {
        panic!("no detach");
    };
    let condition = condition(detach.error.as_ref());
    assert_eq!(condition, "amqp:link:transfer-limit-exceeded");
    peer.events();
    peer.transfer(first(1, 2), b"y");
    let arrived = take_deliveries(&mut peer.events());
    assert_eq!(arrived[0].0.link, other);
}

#[test]
fn less_credit_does_not_punish_what_is_on_its_way() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.receiver(session, 0, 10);
    peer.engine.set_credit(link, 1).expect("attached");
    for id in 0..10 {
        peer.transfer(first(0, id), b"x");
    }
    assert_eq!(take_deliveries(&mut peer.events()).len(), 10);
    peer.transfer(first(0, 10), b"x");
    assert!(matches!(peer.events()[..], [Event::Detached { .. }]));
}

#[test]
fn drain_gives_credit_back_in_both_directions() {
    let (mut pair, session) = Pair::plain();
    pair.credit = 10;
    let up = pair.sender(session, 0);
    send(&mut pair.client, up, 0).expect("credit");
    pair.run();
    let (delivery, _) = pair.arrived().remove(0);
    pair.server.drain(delivery.link, 9).expect("attached");
    pair.run();
    assert!(
        matches!(pair.at_server[..], [Event::Drained { .. }]),
        "{:?}",
        pair.at_server
    );
    assert_eq!(pair.client.credit(up), Ok(0));
    assert_eq!(send(&mut pair.client, up, 1), Err(SendError::WouldBlock));
    pair.server.set_credit(delivery.link, 2).expect("attached");
    pair.run();
    assert_eq!(pair.client.credit(up), Ok(2));
    send(&mut pair.client, up, 1).expect("credit");
    send(&mut pair.client, up, 2).expect("credit");
    pair.run();
    assert_eq!(pair.arrived().len(), 2);
}

#[test]
fn handle_max_of_the_peer_is_kept() {
    let mut peer = Peer::opened(client(), 65_536, 7);
    let session = peer.engine.begin().expect("open");
    peer.heard();
    let answer = crate::amqp::performative::Begin {
        handle_max: 1.into(),
        ..begin(Some(0), 100)
    };
    peer.say(0, &answer);
    let attach = |peer: &mut Peer| peer.engine.attach(session, sender("a", "b"), 0, 0);
    attach(&mut peer).expect("handle 0");
    attach(&mut peer).expect("handle 1");
    let third = attach(&mut peer);
    assert_eq!(third, Err(crate::amqp::AttachError::HandleMax));
}
