//! Attach, detach, handles, sessions: faults other engines had, each named for what it must not
//! do here.

use super::pair::take_deliveries;
use super::pair::{Pair, Peer, Said, begin, client, condition, first, reply, send};
use crate::amqp::performative::{Attach, Detach, End, Flow};
use crate::amqp::{AttachError, Event, SendError, receiver, sender};
use fe2o3_amqp_types::definitions::{AmqpError, Error};

fn detach(handle: u32, closed: bool) -> Detach {
    Detach {
        handle: handle.into(),
        closed,
        error: None,
    }
}

fn attached(said: Vec<Said>) -> Attach {
    let attach = said.into_iter().find_map(|said| match said {
        Said::Attach(attach) => Some(attach),
        _ => None,
    });
    attach.expect("an attach")
}

#[test]
fn proton_853_a_closed_link_is_not_attached_again() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.engine.attach(session, sender("a", "b"), 0, 0);
    let attach = attached(peer.heard());
    peer.engine
        .detach(link.expect("mapped"), None)
        .expect("ours");
    assert!(matches!(peer.heard()[..], [Said::Detach(_)]));
    peer.say(0, &reply(attach, 0, None));
    assert_eq!(
        peer.heard(),
        [],
        "our answer to the late attach went before it"
    );
    peer.say(0, &detach(0, true));
    assert!(matches!(peer.events()[..], [Event::Detached { .. }]));
    assert_eq!(peer.heard(), []);
}

#[test]
fn proton_1831_a_second_link_of_a_name_is_refused_and_the_first_lives() {
    let (mut peer, _) = Peer::of_client(client());
    let theirs = Attach {
        handle: 4.into(),
        initial_delivery_count: Some(0),
        ..sender("same", "x")
    };
    peer.say(0, &theirs);
    let Some(Event::Attaching { link, attach }) = peer.events().pop() else {
        panic!("no attach");
    };
    peer.engine.accept(link, *attach, 10, 0).expect("waits");
    peer.heard();
    let again = Attach {
        handle: 5.into(),
        ..theirs
    };
    peer.say(0, &again);
    let said = peer.heard();
    let [Said::Attach(answer), Said::Detach(refusal)] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((&answer.source, &answer.target), (&None, &None));
    assert_eq!(condition(refusal.error.as_ref()), "amqp:not-allowed");
    assert!(peer.events().is_empty());
    peer.transfer(first(4, 0), b"x");
    assert_eq!(take_deliveries(&mut peer.events()).len(), 1);
}

#[test]
fn proton_1845_attach_after_detach_is_a_new_link() {
    let (mut pair, session) = Pair::plain();
    let mut names = std::collections::BTreeSet::new();
    for token in 0..50 {
        let link = pair.sender(session, token);
        let Some(Event::Attached { attach, .. }) = pair.at_client.pop() else {
            panic!("not attached");
        };
        assert!(names.insert(attach.name), "a name came twice");
        assert_eq!(link.handle, 0, "the handle is free again");
        pair.client.detach(link, None).expect("attached");
        pair.run();
        assert!(matches!(pair.at_client.pop(), Some(Event::Detached { .. })));
        assert_eq!(send(&mut pair.client, link, 0), Err(SendError::Stale));
    }
}

#[test]
fn amqpnetlite_360_a_name_may_be_used_once_in_each_role() {
    let (mut peer, _) = Peer::of_client(client());
    let up = Attach {
        handle: 0.into(),
        initial_delivery_count: Some(0),
        ..sender("same", "x")
    };
    let down = Attach {
        handle: 1.into(),
        ..receiver("same", "x")
    };
    peer.say(0, &up);
    peer.say(0, &down);
    let told = peer.events();
    assert!(matches!(
        told[..],
        [Event::Attaching { .. }, Event::Attaching { .. }]
    ));
}

#[test]
fn go_amqp_166_an_attach_given_up_leaks_no_handle_and_reuses_none_too_early() {
    let (mut peer, session) = Peer::of_client(client());
    for round in 0..20 {
        let link = peer.engine.attach(session, sender("a", "b"), 0, 0);
        let link = link.expect("mapped");
        let attach = attached(peer.heard());
        peer.engine.detach(link, None).expect("ours");
        // The peer has not answered: the handle is not given to another link.
        let next = peer.engine.attach(session, sender("a", "b"), 0, 0);
        let next = next.expect("mapped");
        assert_ne!(link.handle, next.handle);
        let second = attached(peer.heard());
        for (handle, attach) in [(0, attach), (1, second)] {
            peer.say(0, &reply(attach, handle, None));
        }
        peer.engine.detach(next, None).expect("attached");
        peer.say(0, &detach(0, true));
        peer.say(0, &detach(1, true));
        peer.heard();
        assert!(next.handle < 2, "handles leak in round {round}");
    }
}

#[test]
fn go_amqp_367_no_flow_goes_to_a_detached_handle() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.receiver(session, 0, 10);
    peer.engine.set_credit(link, 20).expect("attached");
    peer.say(0, &detach(0, true));
    let said = peer.heard();
    assert!(matches!(said[..], [Said::Detach(_)]), "{said:?}");
}

#[test]
fn uamqp_c_341_a_flow_to_a_detaching_link_is_ignored() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.engine.detach(link, None).expect("attached");
    peer.heard();
    peer.flow(Flow {
        echo: true,
        next_incoming_id: Some(0),
        incoming_window: 10,
        handle: Some(0),
        link_credit: Some(10),
        ..Flow::default()
    });
    assert_eq!(peer.heard(), []);
    peer.say(0, &detach(0, true));
    peer.engine
        .attach(session, sender("a", "b"), 0, 0)
        .expect("the session lives");
}

#[test]
fn transfers_that_cross_our_detach_are_ignored_and_counted() {
    let (mut peer, session) = Peer::of_client(client());
    let gone = peer.receiver(session, 0, 10);
    peer.receiver(session, 1, 10);
    peer.engine.detach(gone, None).expect("attached");
    for id in 0..3 {
        peer.transfer(first(0, id), b"late");
    }
    peer.transfer(first(1, 3), b"x");
    let arrived = take_deliveries(&mut peer.events());
    assert_eq!(arrived.len(), 1, "the other link's");
}

#[test]
fn rabbitmq_client_55_a_detach_that_does_not_close_ends_the_link_too() {
    let (mut peer, session) = Peer::of_client(client());
    peer.sender(session, 0);
    peer.say(0, &detach(0, false));
    let said = peer.heard();
    assert!(
        matches!(&said[..], [Said::Detach(d)] if !d.closed),
        "{said:?}"
    );
    assert!(matches!(peer.events()[..], [Event::Detached { .. }]));
    // And RabbitMQ 3 answers a closing detach with one that does not close.
    let link = peer.sender(session, 0);
    peer.engine.detach(link, None).expect("attached");
    peer.say(0, &detach(0, false));
    assert!(matches!(peer.events()[..], [Event::Detached { .. }]));
}

#[test]
fn rabbitmq_14389_a_link_error_ends_one_link() {
    let (mut peer, session) = Peer::of_client(client());
    let bad = peer.receiver(session, 0, 0);
    let good = peer.sender(session, 1);
    peer.transfer(first(0, 0), b"no credit");
    let said = peer.heard();
    assert!(matches!(said[..], [Said::Detach(_)]), "{said:?}");
    let told = peer.events();
    assert!(matches!(&told[..], [Event::Detached { link, alone: true, .. }] if *link == bad));
    peer.grant(1, 0, 5);
    send(&mut peer.engine, good, 0).expect("the session lives");
    peer.say(0, &detach(0, true));
    assert!(peer.events().is_empty(), "told once");
}

#[test]
fn rabbitmq_4b59c196_a_handle_in_use_ends_the_session_with_that_word() {
    let (mut peer, session) = Peer::of_client(client());
    peer.sender(session, 0);
    let theirs = Attach {
        handle: 0.into(),
        initial_delivery_count: Some(0),
        ..sender("other", "x")
    };
    peer.say(0, &theirs);
    let Some(Said::End(end)) = peer.heard().pop() else {
        panic!("no end");
    };
    assert_eq!(condition(end.error.as_ref()), "amqp:session:handle-in-use");
}

#[test]
fn an_unattached_handle_ends_the_session_with_that_word() {
    let frames: [fn(&mut Peer); 3] = [
        |peer| {
            peer.transfer(first(9, 0), b"x");
        },
        |peer| {
            peer.grant(9, 0, 1);
        },
        |peer| {
            peer.say(0, &detach(9, true));
        },
    ];
    for frame in frames {
        let (mut peer, session) = Peer::of_client(client());
        peer.sender(session, 0);
        frame(&mut peer);
        let Some(Said::End(end)) = peer.heard().pop() else {
            panic!("no end");
        };
        let found = condition(end.error.as_ref());
        assert_eq!(found, "amqp:session:unattached-handle");
        let told = peer.events();
        assert!(matches!(
            told[..],
            [Event::Detached { alone: false, .. }, Event::Ended { .. }]
        ));
        // Frames that cross our END are of no interest; the peer's END frees the channel.
        peer.grant(0, 0, 1);
        peer.say(0, &End { error: None });
        let again = peer.engine.begin().expect("the connection lives");
        assert_eq!(again.channel, 0);
        assert_eq!(peer.engine.end(session, None), Err(crate::amqp::Stale));
    }
}

#[test]
fn fe2o3_what_a_peer_says_of_a_link_that_has_ended_ends_no_session() {
    let (mut peer, session) = Peer::of_client(client());
    let good = peer.sender(session, 0);
    let bad = peer.sender(session, 1);
    peer.engine.detach(bad, None).expect("ours");
    peer.say(0, &detach(1, true));
    peer.events();
    peer.heard();
    // Its tasks speak of the link a little longer.
    peer.say(0, &detach(1, true));
    peer.grant(1, 0, 1);
    assert_eq!(peer.heard(), []);
    peer.grant(0, 0, 1);
    assert_eq!(peer.engine.credit(good), Ok(1));
    // A message is another matter: somebody would wait for its outcome.
    peer.transfer(first(1, 0), b"x");
    assert!(matches!(&peer.heard()[..], [Said::End(_)]));
}

#[test]
fn rabbitmq_6413d2d7_a_channel_may_be_used_again_right_after_its_end() {
    let (mut peer, session) = Peer::of_client(client());
    peer.sender(session, 0);
    // Both in one read, before anything is written.
    peer.say(0, &End { error: None });
    peer.say(0, &begin(None, 100));
    let told = peer.events();
    assert!(matches!(
        told[..],
        [
            Event::Detached { alone: false, .. },
            Event::Ended { .. },
            Event::Begun { by_peer: true, .. }
        ]
    ));
    let said = peer.heard();
    assert!(matches!(&said[..], [Said::End(_), Said::Begin(b)] if b.remote_channel == Some(0)));
}

#[test]
fn uamqp_python_149_an_error_of_one_link_does_not_stop_the_others() {
    let (mut peer, session) = Peer::of_client(client());
    let links: Vec<_> = (0..10).map(|handle| peer.sender(session, handle)).collect();
    for handle in 0..10 {
        peer.grant(handle, 0, 10);
    }
    let error = Error::new(AmqpError::UnauthorizedAccess, None, None);
    peer.say(
        0,
        &Detach {
            error: Some(error),
            ..detach(4, true)
        },
    );
    for (at, link) in links.iter().enumerate() {
        let sent = send(&mut peer.engine, *link, 0);
        assert_eq!(sent.is_ok(), at != 4);
    }
}

#[test]
fn a_link_that_wants_to_be_resumed_is_told_that_nothing_is_remembered() {
    let (mut peer, _) = Peer::of_client(client());
    let unsettled = [(serde_bytes(b"tag"), None)].into_iter().collect();
    let theirs = Attach {
        handle: 0.into(),
        initial_delivery_count: Some(5),
        unsettled: Some(unsettled),
        ..sender("resumed", "x")
    };
    peer.say(0, &theirs);
    let Some(Event::Attaching { link, attach }) = peer.events().pop() else {
        panic!("no attach");
    };
    peer.engine.accept(link, *attach, 10, 0).expect("waits");
    assert_eq!(attached(peer.heard()).unsettled, None);
    let resumed = crate::amqp::performative::Transfer {
        resume: true,
        ..first(0, 0)
    };
    peer.transfer(resumed, b"");
    let Some(Said::Detach(refusal)) = peer.heard().pop() else {
        panic!("no detach");
    };
    assert_eq!(condition(refusal.error.as_ref()), "amqp:not-implemented");
}

fn serde_bytes(tag: &[u8]) -> fe2o3_amqp_types::definitions::DeliveryTag {
    tag.to_vec().into()
}

#[test]
fn a_refusal_names_its_reason_even_when_it_comes_without_a_terminus() {
    let (mut peer, session) = Peer::of_client(client());
    for refused in [sender("a", "b"), receiver("a", "b")] {
        let link = peer.engine.attach(session, refused, 0, 3).expect("mapped");
        let attach = attached(peer.heard());
        let none = Attach {
            source: None,
            target: None,
            ..reply(attach, 0, Some(0))
        };
        peer.say(0, &none);
        assert!(peer.events().is_empty(), "the reason comes with the detach");
        let error = Error::new(AmqpError::NotFound, None, None);
        peer.say(
            0,
            &Detach {
                error: Some(error),
                ..detach(0, true)
            },
        );
        let Some(Event::Refused {
            link: found,
            token: 3,
            error,
        }) = peer.events().pop()
        else {
            panic!("not refused");
        };
        assert_eq!(found, link);
        assert_eq!(condition(error.as_deref()), "amqp:not-found");
        assert!(matches!(peer.heard()[..], [Said::Detach(_)]));
    }
}

#[test]
fn amqpnetlite_159_no_detach_goes_after_end() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.sender(session, 0);
    peer.engine.end(session, None).expect("mapped");
    peer.engine
        .detach(link, None)
        .expect_err("its session has ended");
    let said = peer.heard();
    assert!(matches!(said[..], [Said::End(_)]), "{said:?}");
    let attach = peer.engine.attach(session, sender("a", "b"), 0, 0);
    assert_eq!(attach, Err(AttachError::NotMapped));
}

#[test]
fn what_was_said_before_a_detach_goes_before_it() {
    let (mut peer, session) = Peer::of_client(client());
    let link = peer.receiver(session, 0, 10);
    peer.transfer(first(0, 0), b"x");
    let (delivery, _) = take_deliveries(&mut peer.events()).remove(0);
    let accepted = crate::amqp::Outcome::Accepted;
    peer.engine.settle(delivery, &accepted).expect("waits");
    peer.engine.detach(link, None).expect("attached");
    let said = peer.heard();
    assert!(matches!(said[..], [Said::Disposition(..), Said::Detach(_)]));
}
