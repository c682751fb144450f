//! One QoS 1 message through the codec and the session, without sockets and hub: PUBLISH read,
//! acknowledged, PUBACK written. What every message costs before and after everything else.

use crate::support::Suite;
use bytes::BytesMut;
use iothub_gateway::config::limits::Limits;
use iothub_gateway::hub::outcome::{HubAccepted, Settled, Verdict, judge_settled};
use iothub_gateway::mqtt::packet::QoS as Granted;
use iothub_gateway::mqtt::session::{Deliver, Event, Session, SessionLimits};
use iothub_gateway::runtime::clock::Mono;
use mqttbytes::{QoS, v4};

/// All of them.
pub fn all(suite: &mut Suite) {
    publish(suite);
    window(suite);
    ping(suite);
    command(suite);
    connect(suite);
}

/// The hub's word, from the only place that gives it.
fn receipt() -> HubAccepted {
    match judge_settled(&Settled::Accepted).verdict {
        Verdict::Accepted(accepted) => accepted,
        other => unreachable!("accepted is judged {other:?}"),
    }
}

fn bytes(write: impl FnOnce(&mut BytesMut) -> Result<usize, mqttbytes::Error>) -> BytesMut {
    let mut bytes = BytesMut::new();
    write(&mut bytes).expect("mqttbytes writes its own packet");
    bytes
}

fn publish_packet(id: u16, payload_bytes: usize) -> BytesMut {
    let topic = "devices/thermo-1/messages/events/";
    let mut packet = v4::Publish::new(topic, QoS::AtLeastOnce, vec![0x2e; payload_bytes]);
    packet.pkid = id;
    bytes(|out| packet.write(out))
}

fn connect_packet() -> BytesMut {
    let mut connect = v4::Connect::new("thermo-1");
    connect.keep_alive = 60;
    bytes(|out| connect.write(out))
}

/// A session that was let in.
fn open() -> (Session, BytesMut) {
    let mut session = Session::new(SessionLimits::from(&Limits::default()), Mono::default());
    let mut out = BytesMut::with_capacity(512);
    let event = session.next(&mut connect_packet(), &mut out, Mono::default());
    assert!(matches!(event, Ok(Some(Event::Connect(_)))));
    session.accept(None, &mut out, Mono::default());
    out.clear();
    (session, out)
}

fn publish(suite: &mut Suite) {
    for (name, size) in [
        ("publish_16", 16),
        ("publish_256", 256),
        ("publish_4096", 4096),
    ] {
        let (mut session, mut out) = open();
        let packet = publish_packet(7, size);
        suite.op(name, || {
            out.clear();
            // A device between two messages owns no read buffer; the driver makes one per read.
            let mut input = BytesMut::from(&packet[..]);
            let event = session.next(&mut input, &mut out, Mono::default());
            let Ok(Some(Event::Publish(ticket, publish))) = event else {
                unreachable!("a legal PUBLISH");
            };
            session.acknowledge(ticket, receipt(), &mut out);
            (publish, out.len())
        });
    }
}

/// Eight messages in one read, acknowledged in order: what a busy device costs per message × 8.
fn window(suite: &mut Suite) {
    let (mut session, mut out) = open();
    let mut packets = BytesMut::new();
    (1..=8).for_each(|id| packets.extend_from_slice(&publish_packet(id, 256)));
    suite.op("publish_256_eight_in_one_read", || {
        out.clear();
        let mut input = BytesMut::from(&packets[..]);
        let mut tickets = [None; 8];
        for slot in &mut tickets {
            let event = session.next(&mut input, &mut out, Mono::default());
            let Ok(Some(Event::Publish(ticket, _))) = event else {
                unreachable!("a legal PUBLISH");
            };
            *slot = Some(ticket);
        }
        for ticket in tickets.into_iter().flatten() {
            session.acknowledge(ticket, receipt(), &mut out);
        }
        out.len()
    });
}

fn ping(suite: &mut Suite) {
    let (mut session, mut out) = open();
    suite.op("pingreq", || {
        out.clear();
        let mut input = BytesMut::from(&[0xC0, 0][..]);
        let event = session.next(&mut input, &mut out, Mono::default());
        assert!(matches!(event, Ok(Some(Event::None))));
        out.len()
    });
}

/// A command down and its PUBACK up.
fn command(suite: &mut Suite) {
    let (mut session, mut out) = open();
    let command = Deliver {
        topic: "devices/thermo-1/messages/devicebound/%24.mid=1".to_owned(),
        payload: vec![0x2e; 256].into(),
        qos: Granted::AtLeastOnce,
        delivery: 1,
    };
    suite.op("command_256", || {
        out.clear();
        assert!(session.deliver(&command, &mut out));
        // The packet id stands behind the fixed header of three bytes and the topic.
        let at = 5 + command.topic.len();
        let id = [out[at], out[at + 1]];
        let mut input = BytesMut::from(&[0x40, 2, id[0], id[1]][..]);
        let event = session.next(&mut input, &mut out, Mono::default());
        assert!(matches!(event, Ok(Some(Event::Delivered(1)))));
    });
}

fn connect(suite: &mut Suite) {
    let packet = connect_packet();
    let limits = SessionLimits::from(&Limits::default());
    suite.op("connect", || {
        let mut session = Session::new(limits, Mono::default());
        let (mut input, mut out) = (BytesMut::from(&packet[..]), BytesMut::new());
        let event = session.next(&mut input, &mut out, Mono::default());
        session.accept(None, &mut out, Mono::default());
        (event, session, out)
    });
}
