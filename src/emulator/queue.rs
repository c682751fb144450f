//! A device's commands: waiting, locked by a receiver, settled (wire sheet §5). Pure: time is
//! passed in, the only side effect is waking the link that waits.

use crate::emulator::address::Identity;
use crate::emulator::backend::{Ack, Feedback, Outcome, Report};
use crate::emulator::links::Link;
use crate::emulator::stats::Stats;
use crate::runtime::clock::{Mono, Unix};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Settled commands remembered for `GET /devices/ID/commands`.
const DONE_MAX: usize = 100;

/// The bounds and switches of every queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueRules {
    pub(crate) depth: usize,
    pub(crate) lock: Duration,
    pub(crate) max_delivery_count: u8,
    pub(crate) lock_expiry_counts: bool,
    pub(crate) unsettled_waits_for_lock: bool,
}

/// A command as the back end sent it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) message_id: String,
    pub(crate) correlation_id: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) expires: Unix,
    /// Whether the back end named the expiry; only then it is told to the device.
    pub(crate) expiry_named: bool,
    /// Which reports of its end its sender wants.
    pub(crate) ack: Ack,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// A delivery's GUID, in .NET's byte order: the AMQP delivery-tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockToken(pub(crate) [u8; 16]);

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.0;
        let a = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (c, d) = (
            u16::from_le_bytes([b[4], b[5]]),
            u16::from_le_bytes([b[6], b[7]]),
        );
        write!(f, "{a:08x}-{c:04x}-{d:04x}-{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a command stands; the names `GET /devices/ID/commands` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandState {
    Enqueued,
    Locked,
    Completed,
    DeadLettered,
    Expired,
    Purged,
}

#[derive(Debug)]
struct Lock {
    token: LockToken,
    until: Mono,
}

#[derive(Debug)]
struct Slot {
    seq: u64,
    enqueued: Unix,
    command: Arc<Command>,
    lock: Option<Lock>,
    deliveries: u8,
}

/// A row of `GET /devices/ID/commands`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct CommandView {
    pub(crate) id: String,
    pub(crate) seq: u64,
    pub(crate) state: CommandState,
    pub(crate) delivery_count: u8,
    pub(crate) size: usize,
}

/// What a receiver should be sent now.
#[derive(Debug)]
pub(crate) enum Next {
    /// This one; its state does not change before [`Queue::lock`].
    Deliver(Offer),
    /// Nothing before this much time has passed.
    Wait(Option<Duration>),
    /// Nothing any more: another link is the one receiver.
    Displaced,
}

/// A command on its way to a receiver.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) seq: u64,
    pub(crate) enqueued: Unix,
    pub(crate) deliveries: u8,
    pub(crate) command: Arc<Command>,
    /// Time left of its life.
    pub(crate) life: Duration,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Accepted,
    Rejected,
    /// Released or modified.
    Abandoned,
    /// The link ended without a disposition.
    LinkLost,
}

#[derive(Debug, Default)]
struct Inner {
    live: VecDeque<Slot>,
    done: VecDeque<CommandView>,
    last_seq: u64,
    holder: Option<Arc<Link>>,
}

impl Inner {
    /// Whether another link is the one receiver.
    fn displaced(&self, link: u64) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.id != link)
    }
}

/// The commands of one device or module.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) identity: Identity,
    generation: Arc<str>,
    rules: QueueRules,
    stats: Arc<Stats>,
    feedback: Arc<Feedback>,
    inner: Mutex<Inner>,
    /// Wakes the one link that serves the queue.
    pub(crate) changed: Notify,
}

/// The queue holds as many commands as it may (error 403004).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

impl Queue {
    pub(crate) fn new(
        (identity, generation): (Identity, Arc<str>),
        rules: QueueRules,
        stats: Arc<Stats>,
        feedback: Arc<Feedback>,
    ) -> Self {
        let (inner, changed) = (Mutex::default(), Notify::new());
        Self {
            identity,
            generation,
            rules,
            stats,
            feedback,
            inner,
            changed,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a command; its sequence number.
    pub(crate) fn push(&self, command: Command, mono: Mono, unix: Unix) -> Result<u64, QueueFull> {
        let mut inner = self.inner();
        self.sweep(&mut inner, mono, unix);
        if inner.live.len() >= self.rules.depth {
            self.stats.commands_refused.inc();
            return Err(QueueFull);
        }
        inner.last_seq += 1;
        let seq = inner.last_seq;
        let command = Arc::new(command);
        inner.live.push_back(Slot {
            seq,
            enqueued: unix,
            command,
            lock: None,
            deliveries: 0,
        });
        drop(inner);
        self.stats.commands_queued.inc();
        self.changed.notify_one();
        Ok(seq)
    }

    /// Makes `link` the one receiver; the one it displaces.
    pub(crate) fn claim(&self, link: &Arc<Link>) -> Option<Arc<Link>> {
        self.inner().holder.replace(Arc::clone(link))
    }

    /// The link that serves the queue now.
    pub(crate) fn holder(&self) -> Option<Arc<Link>> {
        self.inner().holder.clone()
    }

    /// `link` serves no longer.
    pub(crate) fn leave(&self, link: u64) {
        let mut inner = self.inner();
        if inner
            .holder
            .as_ref()
            .is_some_and(|holder| holder.id == link)
        {
            inner.holder = None;
        }
    }

    /// The oldest command nobody holds, for the link that asks.
    pub(crate) fn next(&self, link: u64, mono: Mono, unix: Unix) -> Next {
        let mut inner = self.inner();
        if inner.displaced(link) {
            drop(inner);
            // The news that made it ask is the other's.
            self.changed.notify_one();
            return Next::Displaced;
        }
        self.sweep(&mut inner, mono, unix);
        match inner.live.iter().find(|slot| slot.lock.is_none()) {
            Some(slot) => Next::Deliver(Offer {
                seq: slot.seq,
                enqueued: slot.enqueued,
                deliveries: slot.deliveries,
                command: Arc::clone(&slot.command),
                life: slot.command.expires.since(unix),
            }),
            None => {
                let locks = inner.live.iter().filter_map(|slot| slot.lock.as_ref());
                Next::Wait(locks.map(|lock| lock.until.since(mono)).min())
            }
        }
    }

    /// A transfer of command `seq` was written on this link. One that was displaced meanwhile holds
    /// nothing: the other is offered the same command.
    pub(crate) fn lock(&self, link: u64, seq: u64, token: LockToken, mono: Mono) {
        let mut inner = self.inner();
        self.stats.commands_delivered.inc();
        if inner.displaced(link) {
            return;
        }
        if let Some(slot) = inner.live.iter_mut().find(|slot| slot.seq == seq) {
            slot.lock = Some(Lock {
                token,
                until: mono + self.rules.lock,
            });
        }
    }

    /// The receiver, or the loss of its link, settled the delivery `token`.
    pub(crate) fn settle(&self, token: LockToken, how: Settlement, mono: Mono) {
        let mut inner = self.inner();
        let held = |slot: &Slot| slot.lock.as_ref().is_some_and(|lock| lock.token == token);
        let Some(index) = inner.live.iter().position(held) else {
            if how != Settlement::LinkLost {
                self.stats.late_settlements.inc();
            }
            return;
        };
        // A lock that has run out is lost, whether or not somebody noticed before.
        let lock_over = inner.live[index]
            .lock
            .as_ref()
            .is_some_and(|lock| lock.until <= mono);
        if lock_over && how != Settlement::LinkLost {
            self.stats.late_settlements.inc();
            self.expire_lock(&mut inner, index);
        } else {
            match how {
                Settlement::Accepted => {
                    self.stats.commands_completed.inc();
                    self.finish(&mut inner, index, CommandState::Completed, Outcome::Success);
                }
                Settlement::Rejected => self.dead_letter(&mut inner, index, Outcome::Rejected),
                Settlement::Abandoned => {
                    self.stats.commands_abandoned.inc();
                    self.unlock(&mut inner, index, true);
                }
                Settlement::LinkLost if self.rules.unsettled_waits_for_lock => return,
                Settlement::LinkLost => self.unlock(&mut inner, index, false),
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Ends every command without delivering it; how many there were.
    pub(crate) fn purge(&self, mono: Mono, unix: Unix) -> usize {
        let mut inner = self.inner();
        self.sweep(&mut inner, mono, unix);
        let count = inner.live.len();
        while !inner.live.is_empty() {
            self.finish(&mut inner, 0, CommandState::Purged, Outcome::Purged);
        }
        count
    }

    /// Live commands first in order, then the last settled ones, newest last.
    pub(crate) fn view(&self, mono: Mono, unix: Unix) -> Vec<CommandView> {
        let mut inner = self.inner();
        self.sweep(&mut inner, mono, unix);
        let live = inner.live.iter().map(|slot| {
            let locked = slot.lock.is_some();
            slot.view(if locked {
                CommandState::Locked
            } else {
                CommandState::Enqueued
            })
        });
        live.chain(inner.done.iter().cloned()).collect()
    }

    /// Ends lives and locks whose time has come.
    fn sweep(&self, inner: &mut Inner, mono: Mono, unix: Unix) {
        let mut index = 0;
        while let Some(slot) = inner.live.get(index) {
            let len = inner.live.len();
            match &slot.lock {
                Some(lock) if lock.until <= mono => self.expire_lock(inner, index),
                None if slot.command.expires <= unix => {
                    self.stats.commands_expired.inc();
                    self.finish(inner, index, CommandState::Expired, Outcome::Expired);
                }
                _ => {}
            }
            if inner.live.len() == len {
                index += 1;
            }
        }
    }

    fn expire_lock(&self, inner: &mut Inner, index: usize) {
        self.stats.locks_expired.inc();
        self.unlock(inner, index, self.rules.lock_expiry_counts);
    }

    fn unlock(&self, inner: &mut Inner, index: usize, counts: bool) {
        let slot = &mut inner.live[index];
        slot.lock = None;
        slot.deliveries = slot.deliveries.saturating_add(u8::from(counts));
        if slot.deliveries >= self.rules.max_delivery_count {
            self.dead_letter(inner, index, Outcome::DeliveryCountExceeded);
        }
    }

    fn dead_letter(&self, inner: &mut Inner, index: usize, outcome: Outcome) {
        self.stats.commands_dead_lettered.inc();
        self.finish(inner, index, CommandState::DeadLettered, outcome);
    }

    /// A command no receiver can take, for example larger than its link's maximum.
    pub(crate) fn undeliverable(&self, seq: u64) {
        let mut inner = self.inner();
        if let Some(index) = inner.live.iter().position(|slot| slot.seq == seq) {
            self.dead_letter(&mut inner, index, Outcome::Rejected);
        }
    }

    /// How many commands wait or are locked.
    pub(crate) fn depth(&self, mono: Mono, unix: Unix) -> usize {
        let mut inner = self.inner();
        self.sweep(&mut inner, mono, unix);
        inner.live.len()
    }

    fn finish(&self, inner: &mut Inner, index: usize, state: CommandState, outcome: Outcome) {
        let Some(slot) = inner.live.remove(index) else {
            return;
        };
        let report = || Report {
            message_id: slot.command.message_id.clone(),
            identity: self.identity.clone(),
            generation: Arc::clone(&self.generation),
            at: slot.enqueued,
            outcome,
        };
        self.feedback.note(slot.command.ack, report, outcome);
        if inner.done.len() == DONE_MAX {
            inner.done.pop_front();
        }
        inner.done.push_back(slot.view(state));
    }
}

impl Slot {
    fn view(&self, state: CommandState) -> CommandView {
        CommandView {
            id: self.command.message_id.clone(),
            seq: self.seq,
            state,
            delivery_count: self.deliveries,
            size: self.command.body.len(),
        }
    }
}

#[cfg(test)]
mod tests;
