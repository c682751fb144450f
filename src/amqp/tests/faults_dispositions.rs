//! Dispositions: faults other engines had, each named for what it must not do here.

use super::pair::{Pair, Peer, Said, client, first, send, take_deliveries};
use crate::amqp::performative::{Disposition, Flow};
use crate::amqp::{Event, Outcome};

fn tokens(events: &[Event]) -> Vec<u64> {
    let token = |event: &Event| match event {
        Event::Outcome { delivery, .. } => Some(*delivery),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

#[test]
fn proton_1903_a_range_that_wraps_settles_what_it_names() {
    let mut config = client();
    config.first_id = u32::MAX - 1;
    let (mut peer, session) = Peer::of_client(config);
    let link = peer.sender(session, 0);
    peer.flow(Flow {
        next_incoming_id: None,
        incoming_window: 100,
        handle: Some(0),
        link_credit: Some(9),
        ..Flow::default()
    });
    for token in 0..6 {
        send(&mut peer.engine, link, token).expect("credit");
    }
    peer.disposition(u32::MAX, 1);
    assert_eq!(tokens(&peer.events()), [1, 2, 3]);
    peer.disposition(u32::MAX - 1, 3);
    assert_eq!(tokens(&peer.events()), [0, 4, 5]);
}

#[test]
fn proton_1978_the_largest_range_costs_what_is_outstanding() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 10);
    for token in 0..3 {
        send(&mut peer.engine, link, token).expect("credit");
    }
    // Walked id by id this would take hours.
    for _ in 0..10_000 {
        peer.disposition(0, u32::MAX);
        peer.disposition(5, 4);
        peer.disposition(1_000, 2_000_000_000);
    }
    assert_eq!(tokens(&peer.events()), [0, 1, 2]);
}

#[test]
fn proton_1978_ranges_over_holes_cost_what_is_outstanding() {
    let (mut peer, session) = Peer::of_client(client());
    let stuck = peer.sender(session, 0);
    let other = peer.sender(session, 1);
    peer.grant(0, 0, 2);
    peer.grant(1, 0, 300_000);
    send(&mut peer.engine, stuck, 1_000_000).expect("credit");
    for token in 0..200_000 {
        send(&mut peer.engine, other, token).expect("credit");
        if token % 1_000 == 999 {
            peer.disposition(1, u32::try_from(token).expect("small") + 1);
            peer.heard();
            peer.events();
        }
    }
    send(&mut peer.engine, stuck, 1_000_001).expect("credit");
    // Two outstanding, 200,000 apart: a range in between finds none of them, quickly.
    for _ in 0..20_000 {
        peer.disposition(1, 200_000);
    }
    assert!(tokens(&peer.events()).is_empty());
    peer.disposition(0, 200_001);
    assert_eq!(tokens(&peer.events()), [1_000_000, 1_000_001]);
}

#[test]
fn proton_2029_a_disposition_after_the_settlement_changes_nothing() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 10);
    send(&mut peer.engine, link, 7).expect("credit");
    peer.disposition(0, 0);
    assert_eq!(tokens(&peer.events()), [7]);
    for _ in 0..3 {
        peer.disposition(0, 0);
        peer.disposition(0, 5);
    }
    assert!(peer.events().is_empty());
    assert_eq!(peer.heard().len(), 1, "the transfer, and no complaint");
}

#[test]
fn go_amqp_171_nobody_waits_for_an_outcome_after_the_end() {
    type Ending = fn(&mut Peer, crate::amqp::SessionId, crate::amqp::LinkId);
    let endings: [(&str, Ending); 6] = [
        ("lost", |peer, _, _| peer.engine.lost()),
        ("garbage", |peer, _, _| {
            peer.raw(b"\0\0\0\x01garbage");
        }),
        ("their end", |peer, _, _| {
            peer.say(0, &crate::amqp::performative::End { error: None });
        }),
        ("their close", |peer, _, _| {
            peer.say(0, &crate::amqp::performative::Close { error: None });
        }),
        ("our end", |peer, session, _| {
            peer.engine.end(session, None).expect("mapped");
        }),
        ("their detach", |peer, _, _| {
            peer.say(
                0,
                &crate::amqp::performative::Detach {
                    handle: 0.into(),
                    closed: true,
                    error: None,
                },
            );
        }),
    ];
    for (name, ending) in endings {
        let (mut peer, session) = Peer::of_client(client());
        let link = peer.sender(session, 0);
        peer.grant(0, 0, 10);
        for token in 0..3 {
            send(&mut peer.engine, link, token).expect("credit");
        }
        ending(&mut peer, session, link);
        let told = peer.events();
        assert_eq!(tokens(&told), [0, 1, 2], "{name}");
        let unknown = told.iter().all(|event| {
            !matches!(event, Event::Outcome { outcome, .. } if *outcome != Outcome::Unknown)
        });
        assert!(unknown, "{name}");
        let detached = told
            .iter()
            .any(|event| matches!(event, Event::Detached { .. }));
        assert!(detached, "{name}: {told:?}");
    }
}

#[test]
fn ntex_1_a_detached_link_leaves_nothing_unsettled_behind() {
    let mut config = client();
    config.limits.unsettled = 4;
    let (mut peer, session) = Peer::of_client(config);
    for round in 0..100 {
        let link = peer.sender(session, 0);
        peer.grant(0, 0, 10);
        for token in 0..4 {
            send(&mut peer.engine, link, token).expect("room, because the last link's is gone");
        }
        peer.engine.detach(link, None).expect("attached");
        let detach = crate::amqp::performative::Detach {
            handle: 0.into(),
            closed: true,
            error: None,
        };
        peer.say(0, &detach);
        assert_eq!(tokens(&peer.events()), [0, 1, 2, 3], "{round}");
        peer.heard();
    }
}

#[test]
fn settlements_of_a_turn_leave_as_one_range() {
    let (mut pair, session) = Pair::plain();
    pair.credit = 1_000;
    let link = pair.sender(session, 0);
    for token in 0..300 {
        send(&mut pair.client, link, token).expect("credit");
    }
    pair.run();
    for (delivery, _) in pair.arrived() {
        pair.server
            .settle(delivery, &Outcome::Accepted)
            .expect("waits");
    }
    let mut bytes = bytes::BytesMut::new();
    let size = pair.server.write(&mut bytes, pair.now);
    assert!(size < 40, "{size} bytes for 300 settlements");
    pair.client.feed(&mut bytes, pair.now);
    pair.run();
    assert_eq!(pair.outcomes().len(), 300);
}

#[test]
fn ranges_grow_at_both_ends_and_break_at_another_outcome() {
    let (mut peer, session) = Peer::of_client(client());
    peer.receiver(session, 0, 100);
    for id in 0..8 {
        peer.transfer(first(0, id), b"x");
    }
    let ids = take_deliveries(&mut peer.events());
    for (at, outcome) in [
        (3, Outcome::Accepted),
        (2, Outcome::Accepted),
        (4, Outcome::Accepted),
        (5, Outcome::Released),
        (7, Outcome::Released),
        (6, Outcome::Released),
    ] {
        peer.engine.settle(ids[at].0, &outcome).expect("waits");
    }
    let ranges: Vec<(u32, u32)> = peer
        .heard()
        .iter()
        .filter_map(|said| match said {
            Said::Disposition(true, first, last, true, _) => Some((*first, *last)),
            _ => None,
        })
        .collect();
    assert_eq!(ranges, [(2, 4), (5, 5), (6, 7)]);
}

#[test]
fn an_outcome_that_waits_for_us_is_settled_by_us() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 10);
    for token in 0..3 {
        send(&mut peer.engine, link, token).expect("credit");
    }
    peer.heard();
    let state = [0x00, 0x53, 0x24, 0x45];
    let unsettled = Disposition {
        receiver: true,
        first: 0,
        last: Some(2),
        settled: false,
        state: Some(&state),
        batchable: false,
    };
    peer.hot(|out| unsettled.encode(out));
    assert_eq!(tokens(&peer.events()), [0, 1, 2]);
    assert_eq!(peer.heard(), [Said::Disposition(false, 0, 2, true, None)]);
}

#[test]
fn a_state_that_is_no_outcome_settles_nothing() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 10);
    send(&mut peer.engine, link, 0).expect("credit");
    let received = [0x00, 0x53, 0x23, 0xc0, 0x03, 0x02, 0x43, 0x44];
    let disposition = Disposition {
        receiver: true,
        state: Some(&received),
        ..Disposition::default()
    };
    peer.hot(|out| disposition.encode(out));
    assert!(peer.events().is_empty());
    peer.disposition(0, 0);
    assert_eq!(tokens(&peer.events()), [0]);
}

#[test]
fn what_the_sender_has_settled_needs_no_word_of_ours() {
    let (mut peer, session) = Peer::of_client(client());
    peer.receiver(session, 0, 100);
    for id in 0..3 {
        peer.transfer(first(0, id), b"x");
    }
    let ids = take_deliveries(&mut peer.events());
    let forget = Disposition {
        receiver: false,
        first: 0,
        last: Some(1),
        settled: true,
        ..Disposition::default()
    };
    peer.hot(|out| forget.encode(out));
    peer.engine
        .settle(ids[0].0, &Outcome::Accepted)
        .expect_err("forgotten");
    peer.engine
        .settle(ids[2].0, &Outcome::Accepted)
        .expect("waits");
    peer.engine
        .settle(ids[2].0, &Outcome::Accepted)
        .expect_err("once");
}
