//! A client engine against a server engine: what both are for.

use super::pair::{Pair, client, send, send_bytes, server, take_deliveries};
use crate::amqp::{Event, Outcome, SendError, receiver, sender};
use bytes::Bytes;
use fe2o3_amqp_types::definitions::{AmqpError, Error, ReceiverSettleMode};

#[test]
fn a_message_arrives_and_its_outcome_comes_back() {
    let (mut pair, session) = Pair::plain();
    let link = pair.sender(session, 7);
    send(&mut pair.client, link, 42).expect("credit");
    pair.run();
    let arrived = pair.arrived();
    assert_eq!(arrived.len(), 1);
    let settled = pair.server.settle(arrived[0].0, &Outcome::Accepted);
    settled.expect("waits for it");
    pair.run();
    assert_eq!(pair.outcomes(), [(42, Outcome::Accepted)]);
}

#[test]
fn every_outcome_survives_the_way() {
    let (mut pair, session) = Pair::plain();
    let link = pair.sender(session, 7);
    let error = Error::new(AmqpError::NotFound, Some("gone".to_owned()), None);
    let outcomes = [
        Outcome::Accepted,
        Outcome::Rejected(None),
        Outcome::Rejected(Some(Box::new(error))),
        Outcome::Released,
        Outcome::Modified {
            delivery_failed: true,
            undeliverable_here: false,
            message_annotations: None,
        },
        Outcome::Settled,
    ];
    for (token, outcome) in outcomes.iter().enumerate() {
        send(&mut pair.client, link, token as u64).expect("credit");
        pair.run();
        let (delivery, _) = pair.arrived().remove(0);
        pair.server.settle(delivery, outcome).expect("waits");
        pair.run();
        assert_eq!(pair.outcomes(), [(token as u64, outcome.clone())]);
    }
}

#[test]
fn large_messages_go_in_frames_both_ways_at_every_size_near_a_frame() {
    let mut small = client();
    small.limits.frame_size = 512;
    let (mut pair, session) = Pair::open(small, server());
    pair.credit = 1_000;
    let link = pair.sender(session, 0);
    let (_, down) = pair.receiver(session, 1_000, 0);
    for size in (400..540).chain(900..1000).chain([0, 1, 250_000]) {
        let body = Bytes::from((0..size).map(|i| i as u8).collect::<Vec<u8>>());
        send_bytes(&mut pair.client, link, body.clone(), true, 0).expect("credit");
        send_bytes(&mut pair.server, down, body.clone(), true, 0).expect("credit");
        pair.run();
        assert_eq!(pair.arrived().remove(0).1, body, "{size} up");
        let there = take_deliveries(&mut pair.at_client).remove(0);
        assert_eq!(there.1, body, "{size} down");
    }
}

#[test]
fn a_link_is_refused_with_a_reason_and_the_next_one_is_attached() {
    let (mut pair, session) = Pair::plain();
    let attach = pair.client.attach(session, sender("a", "secret"), 0, 1);
    let link = attach.expect("mapped");
    let mut bytes = bytes::BytesMut::new();
    pair.client.write(&mut bytes, pair.now);
    pair.server.feed(&mut bytes, pair.now);
    let Some(Event::Attaching { link: theirs, .. }) = pair.server.poll_event() else {
        panic!("no attach");
    };
    let error = Error::new(AmqpError::UnauthorizedAccess, None, None);
    pair.server.refuse(theirs, error.clone()).expect("waits");
    pair.run();
    let [
        Event::Refused {
            link: refused,
            token: 1,
            error: Some(why),
        },
    ] = &pair.at_client[..]
    else {
        panic!("{:?}", pair.at_client);
    };
    assert_eq!((*refused, &**why), (link, &error));
    pair.at_client.clear();
    let next = pair.sender(session, 2);
    assert!(matches!(pair.at_client[..], [Event::Attached { .. }]));
    assert_ne!(next, link);
    assert!(send(&mut pair.client, link, 0) == Err(SendError::Stale));
    send(&mut pair.client, next, 0).expect("credit");
}

#[test]
fn a_thousand_links_are_attached_without_waiting_and_detached_likewise() {
    let (mut pair, session) = Pair::plain();
    let links: Vec<_> = (0..500_u64)
        .flat_map(|token| {
            let up = pair.client.attach(session, sender("up", "to"), 0, token);
            let down = pair
                .client
                .attach(session, receiver("down", "from"), 5, token);
            [up.expect("mapped"), down.expect("mapped")]
        })
        .collect();
    pair.run();
    let attached = pair.at_client.iter();
    let attached = attached.filter(|event| matches!(event, Event::Attached { .. }));
    assert_eq!(attached.count(), 1_000);
    pair.at_client.clear();
    for link in links {
        pair.client.detach(link, None).expect("attached");
    }
    pair.run();
    let detached = pair.at_client.iter();
    let detached = detached.filter(|event| matches!(event, Event::Detached { error: None, .. }));
    assert_eq!(detached.count(), 1_000);
}

#[test]
fn with_rcv_settle_mode_second_the_sender_settles_last() {
    let (mut pair, session) = Pair::plain();
    let mut attach = receiver("down", "from");
    attach.rcv_settle_mode = ReceiverSettleMode::Second;
    pair.client.attach(session, attach, 10, 0).expect("mapped");
    let mut bytes = bytes::BytesMut::new();
    pair.client.write(&mut bytes, pair.now);
    pair.server.feed(&mut bytes, pair.now);
    let Some(Event::Attaching { link, attach }) = pair.server.poll_event() else {
        panic!("no attach");
    };
    pair.server.accept(link, *attach, 0, 0).expect("waits");
    pair.run();
    send(&mut pair.server, link, 9).expect("credit");
    pair.run();
    let (delivery, _) = take_deliveries(&mut pair.at_client).remove(0);
    pair.client
        .settle(delivery, &Outcome::Accepted)
        .expect("waits");
    pair.run();
    assert!(matches!(
        pair.at_server[..],
        [Event::Outcome {
            delivery: 9,
            outcome: Outcome::Accepted,
            ..
        }]
    ));
    let again = pair.client.settle(delivery, &Outcome::Released);
    again.expect_err("it is settled on both sides");
}

#[test]
fn closing_settles_first_and_tells_everybody() {
    let (mut pair, session) = Pair::plain();
    let link = pair.sender(session, 3);
    for token in 0..3 {
        send(&mut pair.client, link, token).expect("credit");
    }
    pair.run();
    let (first, _) = pair.arrived().remove(0);
    pair.server
        .settle(first, &Outcome::Accepted)
        .expect("waits");
    pair.server.close(None, pair.now);
    pair.run();
    let expected = [
        (0, Outcome::Accepted),
        (1, Outcome::Unknown),
        (2, Outcome::Unknown),
    ];
    assert_eq!(pair.outcomes(), expected);
    use crate::amqp::Closed;
    let ours = pair.at_client.last();
    assert!(matches!(ours, Some(Event::Closed(Closed::Peer(None)))));
    let theirs = pair.at_server.last();
    assert!(matches!(theirs, Some(Event::Closed(Closed::Local))));
    assert!(send(&mut pair.client, link, 0) == Err(SendError::Stale));
}
