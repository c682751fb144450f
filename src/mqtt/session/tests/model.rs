//! Random legal sequences: a model of a few lines and the session agree on every event and
//! every byte answered.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish { qos1: bool },
    Redeliver(usize),
    Ping,
    Decide(usize),
    Command { qos1: bool },
    PubAck(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(|qos1| Step::Publish { qos1 }),
        1 => (0..8_usize).prop_map(Step::Redeliver),
        1 => Just(Step::Ping),
        3 => (0..8_usize).prop_map(Step::Decide),
        2 => any::<bool>().prop_map(|qos1| Step::Command { qos1 }),
        2 => (0..3_usize).prop_map(Step::PubAck),
    ]
}

/// What the device sent and the session has not taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    Publish(Option<u16>),
    Dup(u16),
    Ping,
    PubAck(u16, u64),
}

#[derive(Debug, PartialEq)]
enum Seen {
    None,
    Publish(u64),
    Delivered(u64),
}

#[derive(Default)]
struct Model {
    wire: VecDeque<Sent>,
    uplink: VecDeque<(u64, Option<u16>, bool)>,
    downlink: Vec<(u16, u64)>,
    tickets: u64,
    last_id: u16,
    deliveries: u64,
    out: Vec<u8>,
}

impl Model {
    fn next(&mut self) -> Option<Seen> {
        let sent = *self.wire.front()?;
        let full = self.uplink.len() == 4;
        let seen = match sent {
            Sent::Dup(id) if self.in_flight(id) => Seen::None,
            Sent::Publish(_) | Sent::Dup(_) if full => return None,
            Sent::Publish(id) => self.take(id),
            Sent::Dup(id) => self.take(Some(id)),
            Sent::Ping => {
                self.out.extend([0xD0, 0]);
                Seen::None
            }
            Sent::PubAck(id, delivery) => {
                self.downlink.retain(|slot| slot.0 != id);
                Seen::Delivered(delivery)
            }
        };
        self.wire.pop_front();
        Some(seen)
    }

    fn in_flight(&self, id: u16) -> bool {
        self.uplink.iter().any(|slot| slot.1 == Some(id))
    }

    fn take(&mut self, id: Option<u16>) -> Seen {
        let ticket = self.tickets;
        self.tickets += 1;
        self.uplink.push_back((ticket, id, false));
        Seen::Publish(ticket)
    }

    fn decide(&mut self, index: usize) -> Option<u64> {
        let length = self.uplink.len();
        let slot = self.uplink.get_mut(index % length.max(1))?;
        slot.2 = true;
        let ticket = slot.0;
        while self.uplink.front().is_some_and(|slot| slot.2) {
            if let Some((_, Some(id), _)) = self.uplink.pop_front() {
                self.out.extend([0x40, 2, (id >> 8) as u8, id as u8]);
            }
        }
        Some(ticket)
    }

    /// An id the device may use for a new message.
    fn free_id(&self) -> u16 {
        let sent = |id: u16| {
            let mut wire = self.wire.iter();
            wire.any(|s| matches!(s, Sent::Publish(Some(i)) | Sent::Dup(i) if *i == id))
        };
        (1..).find(|id| !self.in_flight(*id) && !sent(*id)).unwrap()
    }

    /// Commands the device has not answered, not even on the wire.
    fn unanswered(&self) -> Vec<(u16, u64)> {
        let sent = |id: u16| {
            let mut wire = self.wire.iter();
            wire.any(|s| matches!(s, Sent::PubAck(i, _) if *i == id))
        };
        self.downlink
            .iter()
            .filter(|slot| !sent(slot.0))
            .copied()
            .collect()
    }
}

fn bytes(sent: Sent) -> Vec<u8> {
    match sent {
        Sent::Publish(None) => assemble("30 ~ 'a' \"x\""),
        Sent::Publish(Some(id)) => assemble(&format!("32 ~ 'a' {id:04X} \"x\"")),
        Sent::Dup(id) => assemble(&format!("3A ~ 'a' {id:04X} \"x\"")),
        Sent::Ping => assemble("C000"),
        Sent::PubAck(id, _) => assemble(&format!("4002 {id:04X}")),
    }
}

fn send(model: &mut Model, bench: &mut Bench, sent: Sent) {
    model.wire.push_back(sent);
    bench.input.extend_from_slice(&bytes(sent));
}

fn apply(model: &mut Model, bench: &mut Bench, step: Step) {
    match step {
        Step::Publish { qos1: false } => send(model, bench, Sent::Publish(None)),
        Step::Publish { qos1: true } => {
            let id = model.free_id();
            send(model, bench, Sent::Publish(Some(id)));
        }
        Step::Redeliver(pick) => {
            let ids: Vec<u16> = model.uplink.iter().filter_map(|slot| slot.1).collect();
            if let Some(id) = ids.get(pick % ids.len().max(1)) {
                send(model, bench, Sent::Dup(*id));
            }
        }
        Step::Ping => send(model, bench, Sent::Ping),
        Step::Decide(pick) => {
            if let Some(ticket) = model.decide(pick) {
                bench.acknowledge(Ticket(ticket));
            }
        }
        Step::Command { qos1 } => deliver(model, bench, qos1),
        Step::PubAck(pick) => {
            let open = model.unanswered();
            if let Some((id, delivery)) = open.get(pick % open.len().max(1)) {
                send(model, bench, Sent::PubAck(*id, *delivery));
            }
        }
    }
}

fn deliver(model: &mut Model, bench: &mut Bench, qos1: bool) {
    let free = 2 - model.downlink.len();
    assert_eq!(bench.session.downlink_free(), free);
    model.deliveries += 1;
    let command = Deliver {
        topic: "t".into(),
        payload: Bytes::new(),
        qos: if qos1 {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        },
        delivery: model.deliveries,
    };
    let written = bench.session.deliver(&command, &mut bench.out);
    assert_eq!(written, !qos1 || free > 0);
    if written && qos1 {
        model.last_id += 1;
        model.downlink.push((model.last_id, model.deliveries));
        model
            .out
            .extend(assemble(&format!("32 ~ 't' {:04X}", model.last_id)));
    } else if written {
        model.out.extend(assemble("30 ~ 't'"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_session_agrees_with_the_model(steps in prop::collection::vec(step(), 1..200)) {
        let mut bench = Bench::v311();
        let mut model = Model::default();
        for step in steps {
            apply(&mut model, &mut bench, step);
            loop {
                let seen = bench.next().unwrap().map(|event| match event {
                    Event::None => Seen::None,
                    Event::Publish(ticket, _) => Seen::Publish(ticket.0),
                    Event::Delivered(delivery) => Seen::Delivered(delivery),
                    event => panic!("{event:?}"),
                });
                let want = model.next();
                prop_assert_eq!(&seen, &want, "{:?}", step);
                if want.is_none() {
                    break;
                }
            }
            prop_assert_eq!(bench.session.paused(), !model.wire.is_empty());
            prop_assert_eq!(bench.answered(), std::mem::take(&mut model.out));
        }
    }
}
