//! Windows and credit: faults other engines had, each named for what it must not do here.

use super::pair::take_deliveries;
use super::pair::{Pair, Peer, Said, client, first, send, send_bytes, server};
use crate::amqp::performative::{Flow, Transfer};
use crate::amqp::{Event, Outcome, SendError};
use bytes::Bytes;

pub fn transfers(said: &[Said]) -> usize {
    let transfer = |said: &&Said| matches!(said, Said::Transfer(..));
    said.iter().filter(transfer).count()
}

fn flows(said: &[Said]) -> Vec<Flow> {
    let flow = |said: &Said| match said {
        Said::Flow(flow) => Some(*flow),
        _ => None,
    };
    said.iter().filter_map(flow).collect()
}

/// A session FLOW of the peer.
fn window(next_incoming_id: u32, incoming_window: u32) -> Flow {
    Flow {
        next_incoming_id: Some(next_incoming_id),
        incoming_window,
        outgoing_window: 100,
        ..Flow::default()
    }
}

#[test]
fn go_amqp_48_a_window_that_shrinks_below_what_is_in_flight_does_not_underflow() {
    let (mut peer, session) = Peer::with(client(), 65_536, 7, 10);
    let link = peer.sender(session, 0);
    peer.flow(Flow {
        handle: Some(0),
        delivery_count: Some(0),
        link_credit: Some(100),
        ..window(0, 10)
    });
    for token in 0..10 {
        send(&mut peer.engine, link, token).expect("window");
    }
    // The peer saw three of ten, and takes two more: seven are over.
    peer.flow(window(3, 2));
    assert_eq!(send(&mut peer.engine, link, 10), Err(SendError::WouldBlock));
    peer.flow(window(10, 1));
    send(&mut peer.engine, link, 10).expect("the window opened by one");
    assert_eq!(send(&mut peer.engine, link, 11), Err(SendError::WouldBlock));
}

#[test]
fn go_amqp_214_delivery_ids_leave_in_order_whoever_sends_and_however_large() {
    let (mut peer, session) = Peer::with(client(), 512, 7, 3);
    let one = peer.sender(session, 0);
    let two = peer.sender(session, 1);
    peer.flow(Flow {
        handle: Some(0),
        link_credit: Some(9),
        delivery_count: Some(0),
        ..window(0, 3)
    });
    peer.flow(Flow {
        handle: Some(1),
        link_credit: Some(9),
        delivery_count: Some(0),
        ..window(0, 3)
    });
    // Five frames, of which three fit: what comes after must wait.
    let large = Bytes::from(vec![1; 2_200]);
    send_bytes(&mut peer.engine, one, large, false, 0).expect("begins");
    assert_eq!(send(&mut peer.engine, two, 1), Err(SendError::WouldBlock));
    let mut said = peer.heard();
    peer.flow(window(3, 10));
    send(&mut peer.engine, two, 1).expect("window");
    send(&mut peer.engine, one, 2).expect("window");
    said.extend(peer.heard());
    let ids: Vec<u32> = said
        .iter()
        .filter_map(|said| match said {
            Said::Transfer(_, id, ..) => *id,
            _ => None,
        })
        .collect();
    assert_eq!(ids, [0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn rabbitmq_12816_a_window_of_the_largest_size_is_no_negative_one() {
    let (mut peer, session) = Peer::with(client(), 65_536, 7, u32::MAX);
    let link = peer.sender(session, 0);
    peer.flow(Flow {
        handle: Some(0),
        link_credit: Some(u32::MAX),
        delivery_count: Some(0),
        ..window(0, u32::MAX)
    });
    for token in 0..100 {
        send(&mut peer.engine, link, token).expect("window and credit");
    }
    assert_eq!(transfers(&peer.heard()), 100);
}

#[test]
fn rabbitmq_13574_the_incoming_window_is_widened_again() {
    let mut config = client();
    config.limits.session_window = 10;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 1_000);
    let mut allowed = 10;
    for id in 0..500 {
        assert!(allowed > 0, "the window closed for good at {id}");
        allowed -= 1;
        let settled = Transfer {
            settled: Some(true),
            ..first(0, id)
        };
        peer.transfer(settled, b"");
        for flow in flows(&peer.heard()) {
            assert_eq!(flow.next_incoming_id, Some(id + 1));
            allowed = flow.incoming_window;
        }
        peer.events();
    }
}

#[test]
fn uamqp_c_the_window_is_widened_at_half_not_when_it_is_closed() {
    let mut config = client();
    config.limits.session_window = 10;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 1_000);
    for id in 0..5 {
        assert_eq!(flows(&peer.heard()).len(), 0);
        let settled = Transfer {
            settled: Some(true),
            ..first(0, id)
        };
        peer.transfer(settled, b"");
    }
    assert_eq!(flows(&peer.heard())[0].incoming_window, 10);
}

#[test]
fn amqpnetlite_242_link_credit_counts_while_the_session_window_is_closed() {
    let (mut peer, session) = Peer::with(client(), 65_536, 7, 0);
    let link = peer.sender(session, 0);
    assert_eq!(send(&mut peer.engine, link, 0), Err(SendError::WouldBlock));
    peer.flow(Flow {
        handle: Some(0),
        link_credit: Some(3),
        delivery_count: Some(0),
        ..window(0, 0)
    });
    assert_eq!(peer.engine.credit(link), Ok(3));
    assert!(peer.events().is_empty(), "the window is closed");
    peer.flow(window(0, 5));
    let told = peer.events();
    assert!(
        matches!(told[..], [Event::Credit { credit: 3, .. }]),
        "{told:?}"
    );
    send(&mut peer.engine, link, 0).expect("both are open");
}

#[test]
fn rhea_426_next_incoming_id_counts_frames_once_whatever_they_carry() {
    let (mut peer, session) = Peer::of_client(client());
    peer.receiver(session, 0, 100);
    let more = Transfer {
        more: true,
        ..first(0, 0)
    };
    peer.transfer(more, b"a");
    let aborted = Transfer {
        delivery_id: Some(0),
        aborted: true,
        ..Transfer::default()
    };
    peer.transfer(aborted, b"");
    peer.transfer(first(0, 1), b"b");
    peer.flow(Flow {
        echo: true,
        ..window(0, 5)
    });
    assert_eq!(flows(&peer.heard())[0].next_incoming_id, Some(3));
}

#[test]
fn proton_echo_is_answered_once_for_session_and_link() {
    let (mut peer, session) = Peer::of_client(client());
    peer.sender(session, 3);
    for _ in 0..50 {
        peer.flow(Flow {
            echo: true,
            ..window(0, 9)
        });
    }
    assert_eq!(peer.heard().len(), 1, "one answer a turn");
    peer.flow(Flow {
        echo: true,
        handle: Some(3),
        link_credit: Some(7),
        delivery_count: Some(0),
        ..window(0, 9)
    });
    let said = flows(&peer.heard());
    assert_eq!((said[0].handle, said[0].link_credit), (Some(0), Some(7)));
}

#[test]
fn rhea_an_unsettled_delivery_does_not_hold_back_those_after_it() {
    let (mut peer, session) = Peer::of_client(client());
    let stuck = peer.sender(session, 0);
    let other = peer.sender(session, 1);
    peer.grant(0, 0, 1);
    send(&mut peer.engine, stuck, 0).expect("credit");
    for id in 1..100_000 {
        peer.grant(1, id - 1, 1);
        send(&mut peer.engine, other, id.into()).expect("credit");
        peer.disposition(id, id);
        peer.heard();
        peer.events();
    }
    peer.disposition(0, 0);
    assert!(matches!(
        peer.events()[..],
        [Event::Outcome { delivery: 0, .. }]
    ));
}

#[test]
fn rhea_a_session_sends_before_any_flow_names_next_incoming_id() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.flow(Flow {
        next_incoming_id: None,
        handle: Some(0),
        link_credit: Some(2),
        ..window(0, 100)
    });
    send(&mut peer.engine, link, 0).expect("the first id is the one of our begin");
}

#[test]
fn ntex_a_window_of_two_wakes_two_of_a_hundred_and_the_rest_in_turn() {
    let (mut peer, session) = Peer::with(client(), 65_536, 7, 0);
    let links: Vec<_> = (0..100)
        .map(|handle| peer.sender(session, handle))
        .collect();
    for (handle, link) in links.iter().enumerate() {
        peer.flow(Flow {
            handle: Some(handle as u32),
            link_credit: Some(1),
            delivery_count: Some(0),
            ..window(0, 0)
        });
        assert_eq!(send(&mut peer.engine, *link, 0), Err(SendError::WouldBlock));
    }
    peer.flow(window(0, 2));
    let woken: Vec<_> = peer.events();
    assert_eq!(woken.len(), 2);
    // The two that were woken do nothing. Nobody is forgotten for that.
    let mut others = 0;
    for _ in 0..100 {
        peer.heard();
        others += peer.events().len();
    }
    assert_eq!(others, 98);
}

#[test]
fn a_full_output_makes_senders_wait_and_wakes_them_after_the_write() {
    let mut config = client();
    config.limits.output_bytes = 100;
    let (mut peer, session) = Peer::of_client(config);
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 50);
    let mut sent = 0;
    while send(&mut peer.engine, link, sent).is_ok() {
        sent += 1;
    }
    assert!((1..10).contains(&sent), "{sent}");
    assert_eq!(transfers(&peer.heard()), sent as usize);
    let told = peer.events();
    assert!(matches!(told[..], [Event::Credit { .. }]), "{told:?}");
}

#[test]
fn too_much_unsettled_makes_senders_wait_and_wakes_them_at_the_outcome() {
    let mut config = client();
    config.limits.unsettled = 4;
    let (mut peer, session) = Peer::of_client(config);
    let link = peer.sender(session, 0);
    peer.grant(0, 0, 50);
    for token in 0..4 {
        send(&mut peer.engine, link, token).expect("room for four");
    }
    assert_eq!(send(&mut peer.engine, link, 4), Err(SendError::WouldBlock));
    peer.disposition(2, 2);
    let told = peer.events();
    assert!(matches!(told[0], Event::Outcome { delivery: 2, .. }));
    assert!(matches!(told[1], Event::Credit { .. }));
    send(&mut peer.engine, link, 4).expect("one was settled");
}

#[test]
fn unsettled_messages_that_we_keep_close_the_window_of_the_peer_and_no_more() {
    let mut config = client();
    config.limits.unsettled = 8;
    config.limits.session_window = 8;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 1_000);
    let mut allowed = 8;
    let mut id = 0;
    let mut kept = Vec::new();
    while allowed > 0 {
        allowed -= 1;
        peer.transfer(first(0, id), b"x");
        id += 1;
        if let Some(flow) = flows(&peer.heard()).last() {
            allowed = flow.incoming_window;
        }
        kept.extend(take_deliveries(&mut peer.events()));
        assert!(id < 100, "never closed");
    }
    assert_eq!(kept.len(), 8);
    for (delivery, _) in kept {
        peer.engine
            .settle(delivery, &Outcome::Accepted)
            .expect("ours");
    }
    let said = peer.heard();
    assert_eq!(
        flows(&said).last().map(|flow| flow.incoming_window),
        Some(8)
    );
}

#[test]
fn a_peer_that_ignores_a_closed_window_loses_the_session_and_nothing_else() {
    let mut config = client();
    config.limits.unsettled = 2;
    config.limits.session_window = 2;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 1_000);
    for id in 0..3 {
        peer.transfer(first(0, id), b"x");
    }
    let said = peer.heard();
    let Some(Said::End(end)) = said.last() else {
        panic!("{said:?}");
    };
    let condition = super::pair::condition(end.error.as_ref());
    assert_eq!(condition, "amqp:session:window-violation");
    peer.engine.begin().expect("the connection is open");
}

#[test]
fn fe2o3_169_ids_and_counts_wrap_in_both_directions() {
    let (mut ours, mut theirs) = (client(), server());
    ours.first_id = u32::MAX - 20;
    theirs.first_id = u32::MAX - 3;
    ours.limits.session_window = 16;
    theirs.limits.session_window = 16;
    let (mut pair, session) = Pair::open(ours, theirs);
    pair.credit = 1_000;
    let up = pair.sender(session, 0);
    let (_, down) = pair.receiver(session, 1_000, 0);
    for token in 0..100 {
        send(&mut pair.client, up, token).expect("credit");
        send(&mut pair.server, down, token).expect("credit");
        pair.run();
        let (delivery, _) = pair.arrived().remove(0);
        pair.server
            .settle(delivery, &Outcome::Accepted)
            .expect("waits");
        let (delivery, _) = take_deliveries(&mut pair.at_client).remove(0);
        pair.client
            .settle(delivery, &Outcome::Accepted)
            .expect("waits");
        pair.run();
        assert_eq!(pair.outcomes(), [(token, Outcome::Accepted)]);
    }
}
