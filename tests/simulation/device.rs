//! A device behind the gateway: an MQTT client with a window of messages, one connection after the
//! other and now and then two at once, over good lines and bad ones.

use crate::chance::Chance;
use crate::gateway::{Gateway, ROOM};
use crate::ledger::Ledger;
use crate::line::{Client, Manner};
use crate::mqtt::{Packet, Version};
use crate::session::{Session, TAKEN_OVER};
use iothub_gateway::runtime::clock;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Messages under way at once.
const WINDOW: usize = 8;
/// Numbers from here on are of messages that the hub never takes.
const POISON: u64 = 1 << 40;

pub fn name(index: usize) -> String {
    format!("sim-{index}")
}

pub fn is_poison(number: u64) -> bool {
    number & POISON != 0
}

/// Where a message stands in the order in which the device sends.
pub fn place(number: u64) -> u64 {
    number & (POISON - 1)
}

/// What the test knows of a device.
#[derive(Debug, Default)]
pub struct Record {
    /// Messages with a receipt.
    pub received: BTreeSet<u64>,
    /// Messages that were refused for good.
    pub refused: BTreeSet<u64>,
    /// Commands this device has said yes to.
    pub taken: BTreeSet<u64>,
    /// Nothing is left to do.
    pub done: bool,
    /// The latest message that was sent at all.
    pub sent: Option<u64>,
    /// The next new message is poison.
    pub poison: bool,
    /// A connection ended before all of its messages had a receipt.
    pub broken: bool,
    /// A connection that took commands at QoS 0 ended.
    pub may_miss: bool,
    /// The gateway is told to stop.
    pub stopping: bool,
    /// Connections, and those that took an older one over.
    pub sessions: u64,
    pub takeovers: u64,
}

/// What others may do to it.
#[derive(Default)]
pub struct Handle {
    pub record: Mutex<Record>,
    pub leave: Notify,
}

pub struct Device {
    pub index: usize,
    pub messages: u64,
    pub gateway: Arc<Gateway>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub handle: Arc<Handle>,
    pub chance: Chance,
    /// Of a thousand lines, how many are bad, and of a thousand connections, how many are taken
    /// over by a second one; before `calm_at`.
    pub rough: u64,
    pub takeovers: u64,
    pub calm_at: Instant,
    /// The hub has room for the links of all, but not for those that are closed yet.
    pub few_handles: bool,
    /// The hub may say that it does not know it.
    pub may_be_unknown: bool,
    /// The QoS of its subscription.
    pub qos: u8,
    /// Until when an attempt to connect that the device did not wait for may stand in the gateway.
    pub given_up: Instant,
}

impl Device {
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.handle.record.lock().expect("whole")
    }

    pub fn wrong(&self, what: &str) {
        let who = name(self.index);
        let mut ledger = self.ledger.lock().expect("whole");
        ledger.wrong(format!("{who} {what}"));
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if !self.record().stopping {
            let (who, now) = (name(self.index), clock::mono());
            let mut ledger = self.ledger.lock().expect("whole");
            ledger.note(|| format!("{now:?} {who}: {}", what()));
        }
    }

    /// Sends its messages, one connection after the other, until all have a receipt; then takes
    /// commands, until the gateway stops.
    pub async fn run(mut self) {
        let mut backlog: VecDeque<u64> = (0..self.messages).collect();
        loop {
            let mut session = Some(self.open());
            while let Some(current) = session {
                session = self.serve(current, &mut backlog).await;
            }
            self.record().done = false;
            if self.record().stopping {
                break;
            }
            // Longer than a line's latency: the CONNECT of the one before has come by then.
            sleep(Duration::from_millis(self.chance.range(100, 2_000))).await;
        }
    }

    /// A new connection, with its CONNECT on the way.
    fn open(&mut self) -> Session {
        let calm = Instant::now() >= self.calm_at;
        let manner = match !calm && self.chance.happens(self.rough) {
            true => Manner::of(&mut self.chance),
            false => Manner::Sound,
        };
        let version = self.chance.pick(&[Version::V311, Version::V5]);
        let latency = Duration::from_millis(self.chance.pick(&[0, 0, 5, 40]));
        let keep_alive_s = self.chance.pick(&[0, 10, 30, 300]);
        let receive_maximum = self.chance.pick(&[2, 65_535]);
        let (mut client, line) = Client::open(version, manner, latency);
        let (id, out) = (name(self.index), &mut client.out);
        version.connect(&id, keep_alive_s, receive_maximum, out);
        self.gateway.take(self.index, line);
        self.record().sessions += 1;
        self.note(|| format!("connects: {version:?}, {manner:?}, {latency:?}, {keep_alive_s} s"));
        // What is on a bad line when the run ends was never read.
        self.record().may_miss |= self.qos == 0 && !matches!(manner, Manner::Sound);
        let room = match version {
            Version::V5 => ROOM.min(receive_maximum.into()),
            Version::V311 => ROOM,
        };
        let mut session = Session::new(client, keep_alive_s, room);
        if !calm && self.chance.happens(self.takeovers) {
            let after = Duration::from_millis(self.chance.range(0, 10_000));
            session.rival_at = Some(Instant::now() + after);
        }
        session
    }

    /// Until the connection ends; what has no receipt is to be sent again. The connection that
    /// took it over, if one did.
    async fn serve(
        &mut self,
        mut session: Session,
        backlog: &mut VecDeque<u64>,
    ) -> Option<Session> {
        let mut rival: Option<Session> = None;
        let goes_on = loop {
            let idle = session.window.is_empty() && session.held.is_empty();
            self.record().done = backlog.is_empty() && idle && session.ready && rival.is_none();
            let may_send = session.may_send(WINDOW) && !backlog.is_empty();
            let wake = session.wake(may_send);
            let challenger = async {
                match &mut rival {
                    Some(rival) => rival.client.next().await,
                    None => std::future::pending().await,
                }
            };
            let handle = Arc::clone(&self.handle);
            tokio::select! {
                biased;
                () = handle.leave.notified() => break false,
                packet = session.client.next() => {
                    if !self.heard(packet, &mut session) {
                        break true;
                    }
                }
                packet = challenger => self.challenged(packet, &mut session, &mut rival),
                () = sleep_until(wake) => {
                    if may_send && Instant::now() >= session.next_publish {
                        self.publish(&mut session, backlog);
                    }
                    if !self.on_time(&mut session, &mut rival) {
                        break false;
                    }
                }
            }
        };
        self.given_up(&session);
        self.put_back(&mut session, backlog);
        if goes_on {
            self.record().takeovers += u64::from(session.goodbye == Some(TAKEN_OVER));
            return rival;
        }
        if let Some(rival) = &rival {
            self.given_up(rival);
        }
        self.note(|| "leaves".to_owned());
        if self.chance.happens(500) {
            session.say_goodbye();
            session.client.leave().await;
        }
        None
    }

    /// What the older connection's rival was told.
    fn challenged(
        &mut self,
        packet: Option<Result<Packet, String>>,
        session: &mut Session,
        rival: &mut Option<Session>,
    ) {
        let Some(newer) = rival else { return };
        if !self.heard(packet, newer) {
            self.given_up(newer);
            *rival = None;
        } else if newer.ready && !newer.contended && session.must_end.is_none() {
            // It has ended already; what it was told may be on its way.
            let within = match session.client.manner {
                Manner::Sound => 2,
                _ => 15,
            };
            session.must_end = Some(Instant::now() + Duration::from_secs(within));
        }
    }

    fn given_up(&mut self, session: &Session) {
        if !session.ready {
            self.given_up = Instant::now() + Duration::from_secs(15);
        }
    }

    /// What is due now; `false`: it leaves.
    fn on_time(&mut self, session: &mut Session, rival: &mut Option<Session>) -> bool {
        let now = Instant::now();
        session.ping(now);
        let sound = !session.client.manner.is_broken();
        if session.is_late(now) {
            if sound {
                self.wrong("got no answer to CONNECT");
            }
            return false;
        }
        if session.must_end.is_some_and(|at| now >= at) {
            if sound {
                self.wrong("was taken over, and the older connection lives");
            }
            return false;
        }
        if session.rival_at.is_some_and(|at| now >= at) {
            session.rival_at = None;
            session.contended = true;
            self.given_up(session);
            self.note(|| "connects again, though it is connected".to_owned());
            let mut newer = self.open();
            // On a faster line its CONNECT may be the older one.
            newer.contended = !session.ready;
            *rival = Some(newer);
        }
        while session.held.front().is_some_and(|(at, ..)| now >= *at) {
            if self.chance.happens(50) {
                return false;
            }
            self.take(session);
        }
        true
    }

    fn publish(&mut self, session: &mut Session, backlog: &mut VecDeque<u64>) {
        let Some(next) = backlog.front().copied() else {
            return;
        };
        let mut record = self.handle.record.lock().expect("whole");
        // In the order of the others: before one that was never sent.
        let is_new = record.sent.is_none_or(|sent| place(next) > sent);
        let number = match is_new && std::mem::take(&mut record.poison) {
            true => next | POISON,
            false => {
                backlog.pop_front();
                record.sent = record.sent.max(Some(place(next)));
                next
            }
        };
        drop(record);
        session.publish(&name(self.index), number);
        // Several at once, now and then.
        let most = self.chance.pick(&[0, 3_000, 4_000]);
        let pause = Duration::from_millis(self.chance.range(0, most));
        session.next_publish = Instant::now() + pause;
    }

    /// What had no receipt is sent again, but not what it was sent away for.
    fn put_back(&mut self, session: &mut Session, backlog: &mut VecDeque<u64>) {
        let mut ledger = self.ledger.lock().expect("whole");
        let rejected = &ledger.device(self.index).rejected;
        let mut record = self.handle.record.lock().expect("whole");
        record.broken |= !session.window.is_empty();
        record.may_miss |= self.qos == 0;
        while let Some((_, number)) = session.window.pop_back() {
            match rejected.contains(&number) {
                true => drop(record.refused.insert(number)),
                false => backlog.push_front(number),
            }
        }
    }
}
