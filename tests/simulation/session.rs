//! One connection of a device: what it hears, and whether it may hear that.

use crate::device::{Device, name};
use crate::line::{Client, Manner};
use crate::mqtt::{self, Packet, Version};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The longest a gateway that hears a CONNECT takes to answer it.
const ANSWER: Duration = Duration::from_secs(20);
/// Connections within a short time, from which on the next may have to wait.
const HOT: u64 = 4;
/// Messages that were refused, from which on the device may have to wait.
const LOOP: usize = 5;
/// The reason of a DISCONNECT (MQTT 5 §3.14.2.1): the device connected again.
pub const TAKEN_OVER: u8 = 0x8e;

pub struct Session {
    pub client: Client,
    /// Packet ids and numbers without a receipt, in the order they were sent.
    pub window: VecDeque<(u16, u64)>,
    /// Commands it thinks about: until when, packet id, number.
    pub held: VecDeque<(Instant, u16, u64)>,
    /// CONNECT was accepted.
    pub ready: bool,
    /// A second connection was begun while this one lived.
    pub contended: bool,
    /// When that is to happen, and until when this one has to end for it.
    pub rival_at: Option<Instant>,
    pub must_end: Option<Instant>,
    pub next_publish: Instant,
    /// Commands it has room for, and messages the gateway has.
    room: usize,
    receive_maximum: usize,
    /// What MQTT 5 was told at the end.
    pub goodbye: Option<u8>,
    begun: Instant,
    keep_alive: Option<Duration>,
    spoken: Instant,
    pings: u32,
    last_id: u16,
}

impl Session {
    pub fn new(client: Client, keep_alive_s: u16, room: usize) -> Self {
        let keep_alive = Duration::from_secs(keep_alive_s.into());
        let now = Instant::now();
        Self {
            client,
            window: VecDeque::new(),
            held: VecDeque::new(),
            ready: false,
            contended: false,
            rival_at: None,
            must_end: None,
            next_publish: now,
            room,
            receive_maximum: usize::from(u16::MAX),
            goodbye: None,
            begun: now,
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
            spoken: now,
            pings: 0,
            last_id: 0,
        }
    }

    pub fn may_send(&self, window: usize) -> bool {
        self.ready && self.window.len() < window.min(self.receive_maximum)
    }

    /// The next point in time at which something is due.
    pub fn wake(&self, may_send: bool) -> Instant {
        let ping = self.keep_alive.filter(|_| self.ready);
        let times = [
            may_send.then_some(self.next_publish),
            self.held.front().map(|(at, ..)| *at),
            ping.map(|period| self.spoken + period),
            (!self.ready).then_some(self.begun + ANSWER),
            self.rival_at,
            self.must_end,
        ];
        let far = self.begun + Duration::from_secs(3_600);
        times.into_iter().flatten().min().unwrap_or(far)
    }

    pub fn is_late(&self, now: Instant) -> bool {
        !self.ready && now >= self.begun + ANSWER
    }

    /// Shows that it lives, when it has said nothing for a keep-alive.
    pub fn ping(&mut self, now: Instant) {
        if let Some(period) = self.keep_alive
            && self.ready
            && now >= self.spoken + period
        {
            mqtt::ping(&mut self.client.out);
            self.pings += 1;
            self.spoken = now;
        }
    }

    pub fn publish(&mut self, who: &str, number: u64) {
        let id = self.next_id();
        self.window.push_back((id, number));
        let (topic, payload) = (
            format!("devices/{who}/messages/events/"),
            format!("{who}:{number}"),
        );
        let version = self.client.version;
        version.publish(id, &topic, &payload, &mut self.client.out);
        self.spoken = Instant::now();
    }

    fn subscribe(&mut self, who: &str, qos: u8) {
        let id = self.next_id();
        let filter = format!("devices/{who}/messages/devicebound/#");
        let version = self.client.version;
        version.subscribe(id, &filter, qos, &mut self.client.out);
        self.spoken = Instant::now();
    }

    pub fn say_goodbye(&mut self) {
        mqtt::disconnect(&mut self.client.out);
    }

    fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }
}

impl Device {
    /// `false`: the connection is over.
    pub fn heard(&mut self, packet: Option<Result<Packet, String>>, session: &mut Session) -> bool {
        let packet = match packet {
            Some(Ok(packet)) => packet,
            Some(Err(why)) => {
                self.wrong(&format!("was sent nonsense: {why}"));
                return false;
            }
            None => {
                self.note(|| format!("is closed: {:x?}", session.goodbye));
                self.judge_end(session);
                return false;
            }
        };
        if let Some(code) = session.goodbye {
            self.wrong(&format!("got {packet:?} after DISCONNECT {code:#x}"));
        }
        if !session.ready && !matches!(packet, Packet::Connack(..)) {
            self.wrong(&format!("got {packet:?} before CONNACK"));
        }
        match packet {
            Packet::Connack(code, maximum) => return self.connack(code, maximum, session),
            Packet::Publish(topic, id, payload) => self.command(&topic, id, &payload, session),
            Packet::Puback(id, code) => self.receipt(id, code, session),
            Packet::Suback(_, code) => {
                if code != self.qos {
                    self.wrong(&format!("subscribed and was told {code:#x}"));
                }
            }
            Packet::Pingresp => match session.pings.checked_sub(1) {
                Some(left) => session.pings = left,
                None => self.wrong("got PINGRESP without asking"),
            },
            Packet::Disconnect(code) => session.goodbye = Some(code),
        }
        true
    }

    fn connack(&mut self, code: u8, maximum: u16, session: &mut Session) -> bool {
        if session.ready {
            self.wrong("got a second CONNACK");
        }
        if code == 0 {
            session.ready = true;
            session.receive_maximum = maximum.into();
            session.subscribe(&name(self.index), self.qos);
            return true;
        }
        self.note(|| format!("is refused: {code:#x}"));
        let unavailable = match session.client.version {
            Version::V311 => 3,
            Version::V5 => 0x88,
        };
        let record = self.record();
        let often = record.sessions > HOT || record.refused.len() >= LOOP;
        let may_wait = often || Instant::now() < self.given_up || record.stopping;
        drop(record);
        if code != unavailable || !may_wait {
            self.wrong(&format!("was refused with {code:#x}"));
        }
        session.ready = true; // it was answered
        false
    }

    /// A receipt, or a refusal: only in order, and only with the hub's word.
    fn receipt(&mut self, id: u16, code: u8, session: &mut Session) {
        let Some(at) = session.window.iter().position(|(known, _)| *known == id) else {
            return self.wrong(&format!("got PUBACK {id}, which waits for none"));
        };
        if at != 0 {
            let before = session.window.front();
            self.wrong(&format!("got PUBACK {id} before that of {before:?}"));
        }
        let Some((_, number)) = session.window.remove(at) else {
            return;
        };
        let mut ledger = self.ledger.lock().expect("whole");
        let hub = ledger.device(self.index);
        let accepted = hub.accepted.contains(&number);
        let rejected = hub.rejected.contains(&number);
        drop(ledger);
        let mut record = self.record();
        match code {
            0 if accepted => drop(record.received.insert(number)),
            0x80.. if rejected => drop(record.refused.insert(number)),
            _ => {
                drop(record);
                self.wrong(&format!("got PUBACK {code:#x} for {number} (I2)"));
            }
        }
    }

    fn command(&mut self, topic: &str, id: Option<u16>, payload: &str, session: &mut Session) {
        let who = name(self.index);
        let number = payload.strip_prefix(&format!("{who}:"));
        let number = number.and_then(|number| number.parse().ok());
        let own = topic.starts_with(&format!("devices/{who}/messages/devicebound/"));
        let (Some(number), true) = (number, own) else {
            return self.wrong(&format!("was given {payload} on {topic} (I6)"));
        };
        let Some(id) = id else {
            if self.qos != 0 {
                self.wrong("was given a command at QoS 0");
            }
            self.record().taken.insert(number);
            return;
        };
        if self.qos == 0 {
            self.wrong("was given a command at QoS 1");
        }
        if session.held.iter().any(|(_, known, _)| *known == id) {
            self.wrong(&format!("was given two commands with packet id {id}"));
        }
        let at = Instant::now() + Duration::from_millis(self.chance.range(0, 3_000));
        let at = session.held.back().map_or(at, |(last, ..)| at.max(*last));
        session.held.push_back((at, id, number));
        if session.held.len() > session.room {
            self.wrong("was given more than it has room for (I9)");
        }
    }

    /// Says yes to the first command it thought about.
    pub fn take(&mut self, session: &mut Session) {
        if let Some((_, id, number)) = session.held.pop_front() {
            self.record().taken.insert(number);
            mqtt::puback(id, &mut session.client.out);
            session.spoken = Instant::now();
        }
    }

    /// The gateway closed: only for a reason, and MQTT 5 names it.
    fn judge_end(&mut self, session: &Session) {
        let client = &session.client;
        let stopping = self.record().stopping;
        if client.manner.is_broken() || (stopping && !session.ready) {
            return;
        }
        let mut ledger = self.ledger.lock().expect("whole");
        let rejected = &ledger.device(self.index).rejected;
        let refused = session
            .window
            .iter()
            .any(|(_, number)| rejected.contains(number));
        drop(ledger);
        let may = match session.goodbye {
            Some(0x8b) => stopping,
            Some(TAKEN_OVER) => session.contended,
            Some(0x97) => self.few_handles,
            Some(0x98) => self.may_be_unknown,
            Some(_) => false,
            // 3.1.1 has no word for it.
            None if client.version == Version::V311 => {
                let hub = self.few_handles || self.may_be_unknown;
                stopping || session.contended || refused || hub
            }
            // It reads so slowly that the last word had no room.
            None => client.manner == Manner::SlowReader && (stopping || session.contended),
        };
        if !may {
            let (code, version) = (session.goodbye, client.version);
            self.wrong(&format!("lost its connection: {version:?}, {code:x?}"));
        }
    }
}
