//! A device behind the gateway, as its connection task uses the upstream: a window of messages,
//! receipts in order, commands settled by the device's word.

use crate::chance::Chance;
use crate::ledger::Ledger;
use iothub_gateway::config::OnDisconnect;
use iothub_gateway::hub::message::{DeviceAddress, Settlement, Telemetry};
use iothub_gateway::hub::{DeviceLinks, Hub, HubEvent};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Messages under way at once, and commands.
const WINDOW: usize = 8;
const ROOM: u32 = 4;
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
    pub address: DeviceAddress,
    pub hub: Hub,
    pub ledger: Arc<Mutex<Ledger>>,
    pub handle: Arc<Handle>,
    pub chance: Chance,
    /// The hub has room for the links of all, but not for those that are closed yet.
    pub few_handles: bool,
    /// The hub may say that it does not know it.
    pub may_be_unknown: bool,
}

/// One connection of it.
struct Session {
    links: DeviceLinks,
    /// Numbers without a receipt, in the order they were sent.
    window: VecDeque<u64>,
    /// Commands it thinks about.
    held: VecDeque<(Instant, u64, u64)>,
}

impl Device {
    /// Sends its messages, one connection after the other, until all have a receipt; then takes
    /// commands.
    pub async fn run(mut self) {
        let mut backlog: VecDeque<u64> = (0..self.messages).collect();
        loop {
            let mut links = self.hub.links(self.address.clone());
            links.subscribe(ROOM);
            let session = Session {
                links,
                window: VecDeque::new(),
                held: VecDeque::new(),
            };
            self.serve(session, &mut backlog).await;
            sleep(Duration::from_millis(self.chance.range(10, 2_000))).await;
        }
    }

    /// Until the connection ends; what has no receipt is to be sent again.
    async fn serve(&mut self, mut session: Session, backlog: &mut VecDeque<u64>) {
        let mut next = Instant::now();
        loop {
            self.handle.record.lock().expect("whole").done =
                backlog.is_empty() && session.window.is_empty() && session.held.is_empty();
            let may_send = session.window.len() < WINDOW && !backlog.is_empty();
            let think = session.held.front().map(|(at, ..)| *at);
            tokio::select! {
                biased;
                () = self.handle.leave.notified() => break,
                event = session.links.next() => if !self.on(event, &mut session) { break },
                () = sleep_until(think.unwrap_or(next)), if think.is_some() => {
                    self.settle(&mut session);
                }
                () = sleep_until(next), if may_send => {
                    self.publish(&mut session, backlog);
                    next = Instant::now() + Duration::from_millis(self.chance.range(0, 3_000));
                }
            }
        }
        for number in session.window.into_iter().rev() {
            backlog.push_front(number);
        }
        session.links.close(OnDisconnect::Release);
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
        session.window.push_back(number);
        let message = Telemetry {
            body: format!("{}:{number}", name(self.index)).into(),
            ..Telemetry::default()
        };
        session.links.send(number, message);
    }

    /// `false`: the connection is over.
    fn on(&mut self, event: HubEvent, session: &mut Session) -> bool {
        let mut record = self.handle.record.lock().expect("whole");
        let mut ledger = self.ledger.lock().expect("whole");
        let who = name(self.index);
        match event {
            HubEvent::Sent(number, decided) => {
                match session.window.iter().position(|known| *known == number) {
                    Some(at) => drop(session.window.remove(at)),
                    None => ledger.wrong(format!("{who} was told of {number} twice")),
                }
                let hub = ledger.device(self.index);
                let (accepted, rejected) = (
                    hub.accepted.contains(&number),
                    hub.rejected.contains(&number),
                );
                match decided {
                    Ok(_proof) if accepted => drop(record.received.insert(number)),
                    Ok(_proof) => ledger.wrong(format!("{who} got a receipt for {number} (I2)")),
                    Err(_) if rejected => drop(record.refused.insert(number)),
                    Err(refusal) => {
                        ledger.wrong(format!("{who} was refused {number}: {refusal:?}"));
                    }
                }
            }
            HubEvent::Command(command) => {
                let text = String::from_utf8_lossy(&command.body).into_owned();
                let number = text.strip_prefix(&format!("{who}:"));
                let Some(number) = number.and_then(|number| number.parse().ok()) else {
                    ledger.wrong(format!("{who} was given {text} (I6)"));
                    return true;
                };
                let at = Instant::now() + Duration::from_millis(self.chance.range(0, 3_000));
                let at = session.held.back().map_or(at, |(last, ..)| at.max(*last));
                session.held.push_back((at, command.delivery, number));
                if session.held.len() > ROOM as usize {
                    ledger.wrong(format!("{who} was given more than it has room for (I9)"));
                }
            }
            other @ (HubEvent::Method(_)
            | HubEvent::Twin(_)
            | HubEvent::Desired(_)
            | HubEvent::Taken(..)) => {
                ledger.wrong(format!("{who} was told what it never asked: {other:?}"));
            }
            HubEvent::Gone(gone) => {
                ledger.note(|| format!("{who} is gone: {gone:?}"));
                let unknown = gone.reason == "device_not_found" && self.may_be_unknown;
                let full = gone.reason == "hub_full" && self.few_handles;
                if !unknown && !full {
                    ledger.wrong(format!("{who} lost its connection: {gone:?}"));
                }
                return false;
            }
        }
        true
    }

    fn settle(&mut self, session: &mut Session) {
        let Some((_, delivery, number)) = session.held.pop_front() else {
            return;
        };
        let how = match self.chance.happens(100) {
            true => Settlement::Released,
            false => {
                self.handle
                    .record
                    .lock()
                    .expect("whole")
                    .taken
                    .insert(number);
                Settlement::Accepted
            }
        };
        session.links.settle(delivery, how);
    }
}
