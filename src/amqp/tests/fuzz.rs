//! Hostile bytes: inputs that were found by fuzzing another engine, and mutations of our own
//! frames. None may panic, hang or grow; each ends in a typed result.
//!
//! The long run: `AMQP_MUTATIONS=10000000 cargo test --release --lib amqp::tests::fuzz::mutated`.

use super::pair::{Peer, client, first, open, send, server};
use crate::amqp::performative::{self, Disposition, Flow, Transfer};
use crate::amqp::sasl::Sasl;
use crate::amqp::{
    Closed, Config, Connection, Event, Fed, Limits, Message, Outcome, message, receiver, sender,
};
use crate::runtime::clock::Mono;
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::{AmqpValue, Body};
use fe2o3_amqp_types::sasl::SaslCode;
use serde_amqp::Value;

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let path = format!(
        "{}/tests/data/amqp-fuzz/{name}.bin",
        env!("CARGO_MANIFEST_DIR")
    );
    let file = std::fs::read(path).expect("the packed inputs");
    let mut rest = &file[..];
    let mut found = Vec::new();
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let (input, after) = after.split_at(u32::from_be_bytes(*size) as usize);
        found.push(input.to_vec());
        rest = after;
    }
    found
}

/// Does what a user would, with every event; how the connection ended.
fn answer(connection: &mut Connection) -> Option<Closed> {
    while let Some(event) = connection.poll_event() {
        match event {
            Event::SaslInit { .. } => connection.sasl_outcome(SaslCode::Ok),
            Event::Attaching { link, attach } => {
                // a frame behind it may have ended the link, or its session, already
                let _ = connection.accept(link, *attach, 10, 0);
            }
            Event::Begun { session, .. } => {
                let _ = connection.attach(session, sender("s", "x"), 0, 0);
                let _ = connection.attach(session, receiver("r", "x"), 10, 0);
            }
            Event::Attached { link, .. } | Event::Credit { link, .. } => {
                let message = Message {
                    body: Bytes::from_static(b"\x00\x53\x77\x40"),
                    ..Message::default()
                };
                let _ = connection.send(link, &message);
            }
            Event::Delivery { delivery, .. } => {
                let _ = connection.settle(delivery, &Outcome::Accepted);
            }
            Event::Closed(closed) => return Some(closed),
            _ => {}
        }
    }
    None
}

/// Feeds `bytes`, then says that the transport is gone.
fn whole_life(config: Config, before: &[u8], bytes: &[u8]) -> Closed {
    let now = Mono::default();
    let mut connection = Connection::new(config, now);
    let mut input = BytesMut::from(before);
    input.extend_from_slice(bytes);
    let mut out = BytesMut::new();
    loop {
        let fed = connection.feed(&mut input, now);
        if let Some(closed) = answer(&mut connection) {
            return closed;
        }
        out.clear();
        connection.write(&mut out, now);
        if let Some(closed) = answer(&mut connection) {
            return closed;
        }
        if fed != Fed::Busy {
            break;
        }
    }
    connection.lost();
    answer(&mut connection).expect("the end is told")
}

/// A frame with this performative.
fn frame<T: serde_amqp::serde::Serialize>(performative: &T) -> Vec<u8> {
    let mut out = BytesMut::new();
    let kind = crate::amqp::frame::Kind::Amqp;
    performative::encode(&mut out, kind, 0, performative, usize::MAX).expect("encodes");
    out.to_vec()
}

#[test]
fn connections_that_broke_another_engine_end_in_a_typed_result() {
    let inputs = inputs("connection");
    assert_eq!(inputs.len(), 544);
    let mut offering = server();
    offering.sasl = Sasl::Server {
        mechanisms: vec!["ANONYMOUS", "PLAIN"],
        required: false,
    };
    let opened = [
        &crate::amqp::frame::AMQP[..],
        &frame(&open(512, 9)),
        &frame(&super::pair::begin(None, 100)),
    ]
    .concat();
    let mut faults = 0;
    for input in &inputs {
        for config in [client(), server(), offering.clone()] {
            whole_life(config.clone(), b"", input);
            let inner = input
                .strip_prefix(&crate::amqp::frame::AMQP)
                .unwrap_or(input);
            let closed = whole_life(config, &opened, inner);
            if let Closed::Fault(fault) = closed {
                assert!(fault.condition().starts_with("amqp:"), "{fault}");
                faults += 1;
            }
        }
    }
    assert!(faults > 100, "only {faults} of them got as far as a fault");
}

#[test]
fn messages_that_broke_another_engine_are_read_or_refused() {
    let inputs = inputs("message");
    assert_eq!(inputs.len(), 318);
    let limits = Limits::default();
    let mut refused = 0;
    for input in &inputs {
        match message::decode(input, &limits) {
            Ok((_, body)) => {
                for section in body {
                    let _ = section.data();
                    let _ = section.decode::<AmqpValue<Value>>();
                    let _ = section.decode::<Body<Value>>();
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 300, "only {refused} of them were refused");
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }
}

/// A peer that has a link each way; what it may say next, well formed.
fn scene() -> (Peer, Vec<Vec<u8>>) {
    let mut config = client();
    config.limits.frame_size = 4_096;
    config.limits.message_size = 10_000;
    let (mut peer, session) = Peer::of_client(config);
    let up = peer.sender(session, 0);
    peer.receiver(session, 1, 1_000);
    peer.grant(0, 0, 1_000);
    for token in 0..10 {
        send(&mut peer.engine, up, token).expect("credit");
    }
    peer.heard();
    let hot = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        let at = crate::amqp::frame::begin(&mut out, crate::amqp::frame::Kind::Amqp, 0);
        write(&mut out);
        crate::amqp::frame::finish(&mut out, at);
        out.to_vec()
    };
    let flow = Flow {
        next_incoming_id: Some(10),
        incoming_window: 100,
        handle: Some(0),
        delivery_count: Some(10),
        link_credit: Some(50),
        echo: true,
        ..Flow::default()
    };
    let state = [0x00, 0x53, 0x24, 0x45];
    let settled = Disposition {
        receiver: true,
        first: 2,
        last: Some(7),
        settled: true,
        state: Some(&state),
        batchable: false,
    };
    let whole = first(1, 0);
    let more = Transfer {
        more: true,
        ..whole
    };
    let error = crate::amqp::Fault::framing("x").error();
    let frames = vec![
        hot(&|out| flow.encode(out)),
        hot(&|out| settled.encode(out)),
        hot(&|out| {
            whole.encode(out);
            out.extend_from_slice(b"\x00\x53\x75\xa0\x03abc");
        }),
        hot(&|out| {
            more.encode(out);
            out.extend_from_slice(&[0; 700]);
        }),
        frame(&super::pair::begin(None, 50)),
        frame(&performative::Attach {
            handle: 2.into(),
            initial_delivery_count: Some(0),
            ..sender("theirs", "y")
        }),
        frame(&performative::Detach {
            handle: 1.into(),
            closed: true,
            error: Some(error.clone()),
        }),
        frame(&performative::End { error: Some(error) }),
        frame(&performative::Close { error: None }),
    ];
    (peer, frames)
}

fn mutate(frame: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(frame.len());
        match dice.roll(6) {
            0 => frame[at] ^= 1 << dice.roll(8),
            1 => frame[at] = dice.roll(256) as u8,
            2 => frame[at] = [0, 0x40, 0x45, 0x7f, 0xc0, 0xd0, 0xf0, 0xff][dice.roll(8)],
            3 => frame.insert(at, dice.roll(256) as u8),
            4 if frame.len() > 9 => drop(frame.remove(at)),
            _ => {
                let from = dice.roll(other.len());
                let some = dice.roll(16).min(other.len() - from);
                let end = (at + some).min(frame.len());
                frame.splice(at..end, other[from..from + some].iter().copied());
            }
        }
    }
    if dice.roll(10) > 0 && frame.len() >= 8 {
        // Mostly the size is right: the rest of the frame is what is tried.
        let size = (frame.len() as u32).to_be_bytes();
        frame[..4].copy_from_slice(&size);
        frame[4] = 2;
        frame[5] = 0;
    }
}

#[test]
fn mutated_frames_do_not_panic_hang_or_grow_the_engine() {
    let count = std::env::var("AMQP_MUTATIONS").ok();
    let count: u64 = count.map_or(30_000, |count| count.parse().expect("a number"));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut lives, mut done) = (0_u64, 0_u64);
    let mut most = 0;
    while done < count {
        lives += 1;
        let used = allocation_counter::measure(|| {
            let (mut peer, frames) = scene();
            for _ in 0..2_000 {
                let mut frame = frames[dice.roll(frames.len())].clone();
                if dice.roll(8) > 0 {
                    let other = dice.roll(frames.len());
                    mutate(&mut frame, &frames[other], &mut dice);
                }
                done += 1;
                let fed = peer.raw(&frame);
                let closed = answer(&mut peer.engine);
                let mut out = BytesMut::new();
                peer.engine.write(&mut out, peer.now);
                if fed == Fed::Over || closed.is_some() || done >= count {
                    break;
                }
            }
        });
        most = most.max(used.bytes_max);
    }
    // Whatever is said in two thousand frames: sessions, links, deliveries, all within Limits.
    assert!(most < 24 << 20, "{most} bytes in one connection");
    assert!(lives > 1 || count < 100, "no connection ever ended");
}
