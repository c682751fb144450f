//! Framing and memory: faults other engines had, each named for what it must not do here.

use super::pair::take_deliveries;
use super::pair::{Pair, Peer, Said, client, condition, first, send_bytes, server};
use crate::amqp::performative::Transfer;
use crate::amqp::types::{self, Malformed};
use crate::amqp::{Closed, Event, Limits, Outcome, SendError, receiver};
use bytes::Bytes;

/// The condition the peer is told in CLOSE, and the one the user sees.
fn told_both(peer: &mut Peer) -> String {
    let Some(Said::Close(close)) = peer.heard().pop() else {
        panic!("no close");
    };
    let on_the_wire = condition(close.error.as_ref());
    let Some(Event::Closed(Closed::Fault(fault))) = peer.events().pop() else {
        panic!("no fault");
    };
    assert_eq!(fault.condition(), on_the_wire);
    on_the_wire
}

fn more(id: u32) -> Transfer<'static> {
    Transfer {
        more: true,
        ..first(0, id)
    }
}

#[test]
fn proton_2952_a_message_without_end_is_cut_off_at_its_size() {
    let mut config = client();
    config.limits.message_size = 10_000;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 10);
    let frame = [0; 1_000];
    for sent in 0..20 {
        peer.transfer(more(0), &frame);
        if let Some(Said::Detach(detach)) = peer.heard().pop() {
            let found = condition(detach.error.as_ref());
            assert_eq!(found, "amqp:link:message-size-exceeded");
            assert_eq!(sent, 10, "at the first byte too many");
            return;
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn proton_2952_many_messages_that_never_end_share_one_bound() {
    let mut config = client();
    config.limits.incoming_bytes = 5_000;
    let (mut peer, session) = Peer::of_client(config);
    for handle in 0..10 {
        peer.receiver(session, handle, 10);
    }
    for handle in 0..6 {
        peer.transfer(
            Transfer {
                handle,
                ..more(handle)
            },
            &[0; 1_000],
        );
    }
    let Some(Said::Detach(detach)) = peer.heard().pop() else {
        panic!("no detach");
    };
    let found = condition(detach.error.as_ref());
    assert_eq!(
        (detach.handle.0, &*found),
        (5, "amqp:resource-limit-exceeded")
    );
}

#[test]
fn proton_2954_a_short_array_of_a_million_nothings_is_not_built() {
    // array32, 4,000,000,000 elements of null.
    let array = b"\xf0\x00\x00\x00\x05\xee\x6b\x28\x00\x40";
    let limits = Limits::default();
    let found = types::checked(&mut &array[..], &limits);
    assert_eq!(
        found,
        Err(Malformed("more values than are allowed in one frame"))
    );
    let mut open = b"\x00\x53\x10\xd0\x00\x00\x00\x20\x00\x00\x00\x0a\xa1\x01c".to_vec();
    open.extend_from_slice(&[0x40; 8]);
    open.extend_from_slice(array);
    open.resize(open.len() + 3, 0x40);
    let fault = crate::amqp::performative::decode(&open, &limits).expect_err("too many");
    assert_eq!(fault.condition(), "amqp:decode-error");
}

#[test]
fn fe2o3_f11_deep_nesting_is_refused_before_anything_recurses() {
    let limits = Limits::default();
    for (head, tail) in [(&b"\x00"[..], &b"\x40"[..]), (b"\xe0\x7f\x01\x00", b"\x40")] {
        let bytes = [head.repeat(20_000), tail.to_vec()].concat();
        types::checked(&mut &bytes[..], &limits).expect_err("too deep");
    }
    let mut lists = vec![0x45];
    for _ in 0..16 {
        let size = (lists.len() as u32 + 4).to_be_bytes();
        lists = [&[0xd0][..], &size, &1_u32.to_be_bytes(), &lists].concat();
    }
    types::checked(&mut &lists[..], &limits).expect("as deep as is allowed");
}

#[test]
fn fe2o3_f12_a_length_beyond_the_frame_is_not_believed() {
    let limits = Limits::default();
    for code in [0xb0, 0xb1, 0xb3] {
        let bytes = [code, 0x71, 0, 0, 0, b'x'];
        types::checked(&mut &bytes[..], &limits).expect_err("too long");
    }
}

#[test]
fn proton_2945_sasl_has_no_place_in_the_amqp_layer() {
    let outcome = b"\x00\x53\x44\xc0\x03\x01\x50\x00";
    for kind in [1, 0] {
        let (mut peer, _) = Peer::of_client(client());
        let mut frame = vec![0, 0, 0, 16, 2, kind, 0, 0];
        frame.extend_from_slice(outcome);
        peer.raw(&frame);
        let expected = match kind {
            1 => "amqp:connection:framing-error",
            _ => "amqp:decode-error",
        };
        assert_eq!(told_both(&mut peer), expected);
    }
}

#[test]
fn proton_1514_settled_on_any_frame_settles() {
    for at in 0..3 {
        let (mut peer, session) = Peer::of_client(client());
        peer.receiver(session, 0, 10);
        for number in 0..3 {
            let transfer = Transfer {
                settled: (number == at).then_some(true),
                more: number < 2,
                ..first(0, 0)
            };
            peer.transfer(transfer, b"abc");
        }
        let told = peer.events();
        let [
            Event::Delivery {
                settled: true,
                payload,
                ..
            },
        ] = &told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!(&payload[..], b"abcabcabc");
    }
}

#[test]
fn proton_2005_an_aborted_message_gives_its_bytes_back() {
    let mut config = client();
    config.limits.incoming_bytes = 2_000;
    let (mut peer, session) = Peer::of_client(config);
    peer.receiver(session, 0, 1_000);
    for id in 0..100 {
        peer.transfer(more(id), &[0; 1_500]);
        let aborted = Transfer {
            aborted: true,
            ..Transfer::default()
        };
        peer.transfer(aborted, b"");
    }
    peer.transfer(first(0, 100), b"x");
    assert_eq!(take_deliveries(&mut peer.events()).len(), 1);
    // A link that goes in the middle of one gives them back too.
    for round in 0..10 {
        peer.receiver(session, 1, 10);
        peer.transfer(
            Transfer {
                handle: 1,
                ..more(101 + round)
            },
            &[0; 1_500],
        );
        peer.say(
            0,
            &crate::amqp::performative::Detach {
                handle: 1.into(),
                closed: true,
                error: None,
            },
        );
        let told = peer.events();
        assert!(
            matches!(told[..], [Event::Detached { error: None, .. }]),
            "{told:?}"
        );
        peer.heard();
    }
}

#[test]
fn rabbitmq_64fdb25f_no_frame_is_a_byte_too_large() {
    for frame in [512, 513, 700, 1_024] {
        for size in (frame - 60..frame + 60).chain([5_000]) {
            let (mut peer, session) = Peer::with(client(), frame as u32, 7, 5_000);
            let link = peer.sender(session, 0);
            peer.grant(0, 0, 10);
            let body = Bytes::from(vec![3; size]);
            send_bytes(&mut peer.engine, link, body.clone(), false, 0).expect("credit");
            let mut out = bytes::BytesMut::new();
            peer.engine.write(&mut out, peer.now);
            let mut rest = &out[..];
            while !rest.is_empty() {
                let head = crate::amqp::frame::head(rest, frame as u32);
                rest = &rest[head.expect("not too large").expect("whole").size..];
            }
            let whole: Vec<u8> = super::pair::parse(&out)
                .into_iter()
                .flat_map(|(_, said)| match said {
                    Said::Transfer(.., payload) => payload,
                    _ => Vec::new(),
                })
                .collect();
            assert_eq!(whole, body, "{size} in {frame}");
        }
    }
}

#[test]
fn rabbitmq_fa81fc8d_large_arrays_cost_their_length() {
    let mut limits = Limits::default();
    let mut cost = Vec::new();
    for count in [10_000_u32, 1_000_000] {
        limits.values = count + 2;
        let mut array = vec![0xf0];
        array.extend((count + 5).to_be_bytes());
        array.extend(count.to_be_bytes());
        array.push(0x50);
        array.resize(array.len() + count as usize, 7);
        let begun = crate::runtime::clock::mono();
        types::checked(&mut &array[..], &limits).expect("legal");
        cost.push(crate::runtime::clock::mono().since(begun).as_secs_f64());
    }
    assert!(cost[1] < 1.0, "a million bytes took {} s", cost[1]);
}

#[test]
fn frames_that_are_none_end_with_a_framing_error() {
    let cases: [&[u8]; 6] = [
        b"\x00\x00\x00\x00\x02\x00\x00\x00",
        b"\x00\x00\x00\x07\x02\x00\x00\x00",
        b"\x00\x00\x00\x08\x01\x00\x00\x00",
        b"\x00\x00\x00\x08\x03\x00\x00\x00",
        b"\x00\x00\x00\x08\x02\x07\x00\x00",
        b"\xff\xff\xff\xff\x02\x00\x00\x00",
    ];
    for bytes in cases {
        let (mut peer, _) = Peer::of_client(client());
        peer.raw(bytes);
        assert_eq!(
            told_both(&mut peer),
            "amqp:connection:framing-error",
            "{bytes:x?}"
        );
    }
}

#[test]
fn a_frame_too_large_is_refused_before_it_is_waited_for() {
    let (mut peer, _) = Peer::of_client(client());
    peer.raw(&65_537_u32.to_be_bytes());
    assert_eq!(told_both(&mut peer), "amqp:connection:framing-error");
}

#[test]
fn an_extended_header_is_skipped() {
    let (mut peer, _) = Peer::of_client(client());
    peer.raw(b"\x00\x00\x00\x0c\x03\x00\x00\x00junk");
    peer.raw(b"\x00\x00\x00\x10\x03\x00\x00\x00junk\x00\x53\x18\x45");
    let told = peer.events();
    assert!(
        matches!(told.last(), Some(Event::Closed(Closed::Peer(None)))),
        "{told:?}"
    );
}

#[test]
fn channels_and_handles_out_of_range_are_framing_errors() {
    let (mut peer, _) = Peer::of_client(client());
    peer.say(256, &super::pair::begin(None, 1));
    assert_eq!(told_both(&mut peer), "amqp:connection:framing-error");
    let (mut peer, _) = Peer::of_client(client());
    let attach = crate::amqp::performative::Attach {
        handle: 32_768.into(),
        ..receiver("x", "y")
    };
    peer.say(0, &attach);
    assert_eq!(told_both(&mut peer), "amqp:connection:framing-error");
}

#[test]
fn frames_on_channels_without_session_and_frames_out_of_turn_close() {
    let (mut peer, _) = Peer::of_client(client());
    peer.say(3, &receiver("x", "y"));
    assert_eq!(told_both(&mut peer), "amqp:not-allowed");
    let (mut peer, _) = Peer::of_client(client());
    peer.say(0, &super::pair::open(512, 0));
    assert_eq!(told_both(&mut peer), "amqp:illegal-state");
    let (mut peer, _) = Peer::of_client(client());
    peer.say(9, &super::pair::begin(Some(0), 1));
    assert_eq!(told_both(&mut peer), "amqp:illegal-state");
}

#[test]
fn a_peer_that_only_asks_is_not_listened_to_until_its_answers_are_written() {
    let mut config = client();
    config.limits.output_bytes = 1_000;
    config.limits.events = 10;
    let (mut peer, session) = Peer::of_client(config);
    peer.sender(session, 0);
    let mut largest = 0;
    for number in 0..2_000 {
        // Attach and detach for ever, without reading one answer.
        let attach = crate::amqp::performative::Attach {
            handle: 1.into(),
            initial_delivery_count: Some(0),
            ..crate::amqp::sender("theirs", "x")
        };
        let fed = peer.say(0, &attach);
        peer.say(
            0,
            &crate::amqp::performative::Detach {
                handle: 1.into(),
                closed: true,
                error: None,
            },
        );
        largest = number;
        if fed == crate::amqp::Fed::Busy {
            break;
        }
    }
    assert!(largest < 50, "listened to {largest} times");
    // Events taken and answers written: it goes on.
    peer.events();
    peer.heard();
    assert_ne!(peer.raw(b""), crate::amqp::Fed::Over);
}

#[test]
fn a_message_larger_than_the_peer_takes_is_not_sent() {
    let mut theirs = server();
    theirs.limits.message_size = 100;
    let (mut pair, session) = Pair::open(client(), theirs);
    let link = pair.sender(session, 0);
    let large = Bytes::from(vec![0; 101]);
    let sent = send_bytes(&mut pair.client, link, large, false, 0);
    assert_eq!(sent, Err(SendError::TooLarge { limit: 100 }));
    let right = Bytes::from(vec![0; 100]);
    send_bytes(&mut pair.client, link, right, false, 0).expect("fits");
    pair.run();
    assert_eq!(pair.arrived().len(), 1);
}

#[test]
fn a_message_the_window_holds_back_can_be_withdrawn() {
    let (mut peer, session) = Peer::with(client(), 512, 7, 2);
    let link = peer.sender(session, 0);
    let credit = crate::amqp::performative::Flow {
        next_incoming_id: Some(0),
        incoming_window: 2,
        handle: Some(0),
        delivery_count: Some(0),
        link_credit: Some(5),
        ..Default::default()
    };
    peer.flow(credit);
    let large = Bytes::from(vec![0; 5_000]);
    let delivery = send_bytes(&mut peer.engine, link, large, false, 9).expect("begins");
    assert!(peer.engine.abort(delivery));
    assert!(!peer.engine.abort(delivery), "once");
    let told = peer.events();
    assert!(matches!(
        told[..],
        [Event::Outcome {
            delivery: 9,
            outcome: Outcome::Unknown,
            ..
        }]
    ));
    peer.heard();
    peer.flow(crate::amqp::performative::Flow {
        next_incoming_id: Some(2),
        handle: None,
        delivery_count: None,
        link_credit: None,
        ..credit
    });
    let said = peer.heard();
    assert!(
        matches!(said[..], [Said::Transfer(0, Some(0), _, false, true, _)]),
        "{said:?}"
    );
}
