//! The session, told from the driver's side.

mod answers;
mod model;
mod windows;

use super::*;
use crate::mqtt::tests::{assemble, session_limits};
use bytes::Bytes;

pub(super) fn at(seconds: u64) -> Mono {
    Mono::from_start(Duration::from_secs(seconds))
}

/// A session with the driver's two buffers.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    pub(super) now: Mono,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            session: Session::new(session_limits(), Mono::default()),
            input: BytesMut::new(),
            out: BytesMut::new(),
            now: Mono::default(),
        }
    }

    /// A session opened by this CONNECT; its CONNACK is already taken.
    pub(super) fn open(connect: &str) -> Self {
        let mut bench = Self::new();
        assert!(matches!(bench.one(connect), Event::Connect(_)));
        bench.session.accept(None, &mut bench.out, bench.now);
        bench.out.clear();
        bench
    }

    pub(super) fn v311() -> Self {
        Self::open("10 ~ 'MQTT' 04 02 003C 'a'")
    }

    pub(super) fn v5() -> Self {
        Self::open("10 ~ 'MQTT' 05 02 003C 00 'a'")
    }

    pub(super) fn push(&mut self, line: &str) {
        self.input.extend_from_slice(&assemble(line));
    }

    pub(super) fn next(&mut self) -> Result<Option<Event>, Violation> {
        self.session.next(&mut self.input, &mut self.out, self.now)
    }

    /// The one event of `line`.
    pub(super) fn one(&mut self, line: &str) -> Event {
        self.push(line);
        self.next().unwrap().expect("a whole packet")
    }

    pub(super) fn violation(&mut self, line: &str) -> Violation {
        self.push(line);
        self.next().unwrap_err()
    }

    /// Publishes and returns the ticket.
    pub(super) fn ticket(&mut self, line: &str) -> Ticket {
        match self.one(line) {
            Event::Publish(ticket, _) => ticket,
            event => panic!("{event:?}"),
        }
    }

    pub(super) fn acknowledge(&mut self, ticket: Ticket) {
        // What `acknowledge` does, without the hub's receipt no test may forge.
        self.session
            .decide(ticket, Verdict::Accepted, &mut self.out);
    }

    /// What was answered since the last call.
    pub(super) fn answered(&mut self) -> Vec<u8> {
        self.out.split().to_vec()
    }
}

#[test]
fn a_late_connect_is_a_violation_and_a_decided_one_is_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.session.deadline(), at(5));
    assert_eq!(bench.session.expired(at(4)), None);
    assert_eq!(
        bench.session.expired(at(5)),
        Some(Violation::ConnectTimeout)
    );
    bench.now = at(4);
    bench.one("10 ~ 'MQTT' 04 02 003C 'a'");
    // The driver bounds its own decision.
    assert_eq!(bench.session.expired(at(100)), None);
    bench.session.accept(None, &mut bench.out, at(10));
    assert_eq!(bench.session.deadline(), at(100));
}

#[test]
fn keep_alive_is_one_and_a_half_times_the_clients_and_capped() {
    for (asked, want) in [
        ("0001", Duration::from_millis(1500)),
        ("003C", Duration::from_secs(90)),
        ("0499", Duration::from_millis(1_765_500)),
        ("049A", Duration::from_millis(1_765_500)),
        ("FFFF", Duration::from_millis(1_765_500)),
        ("0000", Duration::from_millis(1_765_500)),
    ] {
        let bench = Bench::open(&format!("10 ~ 'MQTT' 04 02 {asked} 'a'"));
        assert_eq!(bench.session.deadline(), Mono::from_start(want), "{asked}");
        let late = bench.session.expired(Mono::from_start(want));
        assert_eq!(late, Some(Violation::KeepAliveTimeout), "{asked}");
    }
}

#[test]
fn every_whole_packet_and_nothing_less_restarts_the_keep_alive() {
    let mut bench = Bench::v311();
    bench.now = at(80);
    bench.one("C0 00");
    assert_eq!(bench.session.deadline(), at(170));
    bench.now = at(100);
    bench.push("30 05");
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.session.deadline(), at(170));
    bench.now = at(120);
    bench.one("'a' 0000");
    assert_eq!(bench.session.deadline(), at(210));
}

#[test]
fn packets_behind_connect_wait_for_the_decision() {
    let mut bench = Bench::new();
    bench.push("10 1B 'MQTT' 04 C2 003C 'a' 'user' 'secret'");
    bench.push("30 ~ 'a'");
    let Ok(Some(Event::Connect(connect))) = bench.next() else {
        panic!()
    };
    assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
    let waiting = bench.input.len();
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.input.len(), waiting);
    assert_eq!(bench.session.needed(&bench.input), 0);
    assert!(!bench.session.paused());
    bench.session.accept(None, &mut bench.out, at(0));
    assert!(matches!(bench.next(), Ok(Some(Event::Publish(..)))));
}

#[test]
fn packets_behind_a_refused_connect_are_never_decoded() {
    let mut bench = Bench::new();
    bench.push("10 0D 'MQTT' 04 02 003C 'a' 30 ~ 'a'");
    assert!(matches!(bench.next(), Ok(Some(Event::Connect(_)))));
    bench
        .session
        .refuse(ConnectRefusal::NotAuthorized, "no", &mut bench.out);
    assert_eq!(bench.answered(), [0x20, 2, 0, 5]);
    assert_eq!(bench.next(), Ok(None));
    // Accepting now would come too late.
    bench.session.accept(None, &mut bench.out, at(0));
    assert_eq!((bench.next(), bench.answered()), (Ok(None), vec![]));
}

#[test]
fn the_will_lives_until_a_goodbye_and_is_taken_once() {
    let connect = "10 ~ 'MQTT' 04 0E 003C 'a' 't/w' 'gone'";
    let mut bench = Bench::open(connect);
    assert_eq!(bench.violation("C0 01 00"), Violation::TrailingBytes);
    let will = bench.session.take_will().expect("no DISCONNECT, so a will");
    assert_eq!((&*will.topic, &will.payload[..]), ("t/w", &b"gone"[..]));
    assert_eq!(bench.session.take_will(), None);

    let mut bench = Bench::open(connect);
    assert_eq!(bench.one("E0 00"), Event::Disconnect);
    assert_eq!(bench.session.take_will(), None);

    let mut bench = Bench::open(connect);
    bench
        .session
        .goodbye(Goodbye::TakenOver, "", &mut bench.out);
    assert!(bench.session.take_will().is_some());
}

#[test]
fn the_will_of_a_connect_that_was_not_accepted_is_never_published() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 04 06 003C 'a' 't' 'm'");
    assert_eq!(bench.session.take_will(), None);
    bench
        .session
        .refuse(ConnectRefusal::NotAuthorized, "", &mut bench.out);
    assert_eq!(bench.session.take_will(), None);
}

#[test]
fn disconnect_of_mqtt_5_keeps_the_will_unless_its_reason_is_zero() {
    for (disconnect, kept) in [("E0 00", false), ("E0 01 00", false), ("E0 01 04", true)] {
        let mut bench = Bench::open("10 ~ 'MQTT' 05 06 003C 00 'a' 00 't' 'm'");
        assert_eq!(bench.one(disconnect), Event::Disconnect);
        assert_eq!(bench.session.take_will().is_some(), kept, "{disconnect}");
    }
}

#[test]
fn the_will_kept_for_the_session_does_not_pin_the_connect_packet() {
    let mut bench = Bench::new();
    bench.input.reserve(64 * 1024);
    let range = bench.input.as_ptr_range();
    let range = range.start as usize..range.start as usize + bench.input.capacity();
    bench.one("10 ~ 'MQTT' 05 06 003C 00 'a' ( 03 'ct' 09 'cd' 26 'k' 'v' ) 't' 'm'");
    bench.session.accept(None, &mut bench.out, at(0));
    let will = bench.session.take_will().unwrap();
    let properties = will.properties.unwrap();
    for pointer in [
        will.topic.as_ptr(),
        will.payload.as_ptr(),
        properties.content_type.unwrap().as_ptr(),
        properties.correlation_data.unwrap().as_ptr(),
        properties.user[0].0.as_ptr(),
        properties.user[0].1.as_ptr(),
    ] {
        assert!(!range.contains(&(pointer as usize)));
    }
}

#[test]
fn nothing_is_decoded_or_written_once_the_session_is_closed() {
    let mut bench = Bench::v5();
    let ticket = bench.ticket("32 ~ 'a' 0001 00");
    bench.one("E0 00");
    let id = PacketId(std::num::NonZeroU16::MIN);
    bench.acknowledge(ticket);
    let _ = bench.session.suback(id, &[None], &mut bench.out);
    let _ = bench.session.unsuback(id, &[true], &mut bench.out);
    bench
        .session
        .goodbye(Goodbye::ShuttingDown, "", &mut bench.out);
    let command = Deliver {
        topic: "t".into(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        delivery: 1,
    };
    assert!(!bench.session.deliver(&command, &mut bench.out));
    bench.push("C0 00");
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.answered().is_empty());
    assert_eq!(bench.session.downlink_free(), 0);
    assert_eq!(bench.session.deadline(), Mono::far_future());
}
