//! Deliveries without outcome (2.6.12), and outcomes (3.4).

use super::Limits;
use super::link::LinkId;
use super::performative;
use super::slab::{List, Listed, NONE, Node, Slab};
use super::types::{self, Malformed, Read, code};
use bytes::{BufMut, BytesMut};
use fe2o3_amqp_types::definitions::{Error, Fields};
use fe2o3_amqp_types::messaging::{Modified, Rejected};
use std::collections::VecDeque;

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 3.4.2
    Accepted,
    /// 3.4.3
    Rejected(Option<Box<Error>>),
    /// 3.4.4
    Released,
    /// 3.4.5
    Modified {
        /// The attempt counts as failed.
        delivery_failed: bool,
        /// Not to be delivered here again.
        undeliverable_here: bool,
        /// Merged into the message's annotations.
        message_annotations: Option<Box<Fields>>,
    },
    /// Settled without a word (2.6.12: its state is null).
    Settled,
    /// Link, session or connection ended before there was an outcome: nobody knows it.
    Unknown,
}

/// A delivery-state (3.4), as far as it matters to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// 3.4.1 received: not an outcome.
    Received,
    /// 3.4.2–3.4.5.
    Terminal(Outcome),
}

impl State {
    /// Reads a delivery-state that passed [`types::checked`].
    pub fn decode(state: &[u8], limits: &Limits) -> Read<Self> {
        let mut input = state;
        if types::u8(&mut input)? != code::DESCRIBED {
            return Err(Malformed("a delivery-state is not a described value"));
        }
        let outcome = match types::descriptor(&mut input)? {
            0x23 => {
                types::composite(&mut input, 2)?;
                return Ok(Self::Received);
            }
            0x24 => {
                types::composite(&mut input, 0)?;
                Outcome::Accepted
            }
            0x26 => {
                types::composite(&mut input, 0)?;
                Outcome::Released
            }
            0x25 => {
                let rejected: Box<Rejected> = performative::cold(state, limits)?;
                Outcome::Rejected(rejected.error.map(Box::new))
            }
            0x27 => {
                let modified: Box<Modified> = performative::cold(state, limits)?;
                Outcome::Modified {
                    delivery_failed: modified.delivery_failed.unwrap_or(false),
                    undeliverable_here: modified.undeliverable_here.unwrap_or(false),
                    message_annotations: modified.message_annotations.map(Box::new),
                }
            }
            _ => return Err(Malformed("the delivery-state is not known")),
        };
        Ok(Self::Terminal(outcome))
    }
}

impl Outcome {
    /// Appends the delivery-state that says so; nothing for those that have none.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let described = |out: &mut BytesMut, number| {
            out.put_slice(&[code::DESCRIBED, code::SMALL_ULONG, number, code::LIST0]);
        };
        match self {
            Self::Accepted => described(out, 0x24),
            Self::Released => described(out, 0x26),
            Self::Rejected(error) => {
                let rejected = Rejected {
                    error: error.as_deref().cloned(),
                };
                put(out, &rejected);
            }
            Self::Modified {
                delivery_failed,
                undeliverable_here,
                message_annotations,
            } => {
                let modified = Modified {
                    delivery_failed: Some(*delivery_failed),
                    undeliverable_here: Some(*undeliverable_here),
                    message_annotations: message_annotations.as_deref().cloned(),
                };
                put(out, &modified);
            }
            Self::Settled | Self::Unknown => {}
        }
    }
}

fn put<T: serde_amqp::serde::Serialize>(out: &mut BytesMut, value: &T) {
    // Into memory, of a type that has an encoding: it does not fail.
    if let Ok(bytes) = serde_amqp::to_vec(value) {
        out.put_slice(&bytes);
    }
}

/// Names a delivery we received until it is settled; of use once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryId {
    /// The link it came on, or went out on.
    pub link: LinkId,
    pub(super) key: u32,
    pub(super) id: u32,
}

/// A delivery without outcome.
#[derive(Debug)]
pub(super) struct Delivery {
    /// delivery-id
    pub id: u32,
    /// Slot of its link.
    pub link: u32,
    /// The user's word for it.
    pub token: u64,
    /// Received, told to the user, and answered: waits for the sender to settle.
    pub answered: bool,
    /// Its receiver waits for us to settle first (2.8.3 second).
    pub second: bool,
    by_link: Node,
    by_session: Node,
}

/// List through the deliveries of one link.
pub(super) const BY_LINK: usize = 0;
const BY_SESSION: usize = 1;

impl Listed for Delivery {
    fn node(&mut self, list: usize) -> &mut Node {
        if list == BY_LINK {
            &mut self.by_link
        } else {
            &mut self.by_session
        }
    }
}

/// The deliveries without outcome of one session and direction, found by delivery-id: a ring of
/// keys from the oldest one to the next, so that no range of a peer reaches beyond them.
#[derive(Debug)]
pub(super) struct Unsettled {
    ring: VecDeque<u32>,
    /// delivery-id of the ring's front.
    oldest: u32,
    deliveries: Slab<Delivery>,
    all: List,
}

impl Unsettled {
    /// Nothing yet; the first delivery will be `next`.
    pub fn new(next: u32) -> Self {
        Self {
            ring: VecDeque::new(),
            oldest: next,
            deliveries: Slab::default(),
            all: List::new(BY_SESSION),
        }
    }

    /// The delivery-id the next delivery gets.
    pub fn next(&self) -> u32 {
        self.oldest.wrapping_add(self.ring.len() as u32)
    }

    /// Sets it, while nothing is there.
    pub fn start(&mut self, next: u32) {
        if self.ring.is_empty() {
            self.oldest = next;
        }
    }

    /// How many have no outcome.
    pub fn len(&self) -> u32 {
        self.deliveries.len()
    }

    /// From the oldest without outcome to the next.
    pub fn span(&self) -> u32 {
        self.ring.len() as u32
    }

    /// Whether one more has room.
    pub fn has_room(&self, limits: &Limits) -> bool {
        self.len() < limits.unsettled && self.span() < limits.delivery_span
    }

    /// Uses up a delivery-id for a delivery that is settled already.
    pub fn skip(&mut self) {
        if self.ring.is_empty() {
            self.oldest = self.oldest.wrapping_add(1);
        } else {
            self.ring.push_back(NONE);
        }
    }

    /// Notes the next delivery; answers its key.
    pub fn push(&mut self, of_link: &mut List, link: u32, token: u64, second: bool) -> u32 {
        let key = self.deliveries.insert(Delivery {
            id: self.next(),
            link,
            token,
            answered: false,
            second,
            by_link: Node::default(),
            by_session: Node::default(),
        });
        self.ring.push_back(key);
        of_link.push(&mut self.deliveries, key);
        self.all.push(&mut self.deliveries, key);
        key
    }

    /// The delivery of `key`, if it is still the one with that id.
    pub fn get_mut(&mut self, key: u32, id: u32) -> Option<&mut Delivery> {
        self.deliveries.get_mut(key).filter(|d| d.id == id)
    }

    /// Forgets a delivery. `of_link` is its link's list.
    pub fn remove(&mut self, of_link: &mut List, key: u32) -> Option<Delivery> {
        of_link.remove(&mut self.deliveries, key);
        self.all.remove(&mut self.deliveries, key);
        let delivery = self.deliveries.remove(key)?;
        let at = delivery.id.wrapping_sub(self.oldest) as usize;
        if let Some(entry) = self.ring.get_mut(at) {
            *entry = NONE;
        }
        while self.ring.front() == Some(&NONE) {
            self.ring.pop_front();
            self.oldest = self.oldest.wrapping_add(1);
        }
        Some(delivery)
    }

    /// The part of a peer's range that is outstanding: first id and count.
    pub fn clamp(&self, first: u32, last: u32) -> (u32, u32) {
        let length = last.wrapping_sub(first);
        let start = if first.wrapping_sub(self.oldest) < self.span() {
            first
        } else if self.oldest.wrapping_sub(first) <= length {
            self.oldest
        } else {
            return (first, 0);
        };
        let to_end = self.next().wrapping_sub(start);
        let asked = last.wrapping_sub(start).saturating_add(1);
        (start, asked.min(to_end))
    }

    /// Key and link of the first delivery without outcome at or after `id`, before `end`. The
    /// search costs what is outstanding or what is asked for, whichever is less.
    pub fn seek(&mut self, cursor: &mut Cursor) -> Option<(u32, u32)> {
        loop {
            let key = match cursor {
                Cursor::Ids { next, left } => {
                    *left = left.checked_sub(1)?;
                    let at = next.wrapping_sub(self.oldest) as usize;
                    *next = next.wrapping_add(1);
                    // Before the oldest: settled meanwhile.
                    self.ring.get(at).copied().unwrap_or(NONE)
                }
                Cursor::All { key, start, count } => {
                    let current = *key;
                    let delivery = self.deliveries.get_mut(current)?;
                    let inside = delivery.id.wrapping_sub(*start) < *count;
                    *key = delivery.by_session.next();
                    if inside { current } else { NONE }
                }
            };
            if let Some(delivery) = self.deliveries.get(key) {
                return Some((key, delivery.link));
            }
        }
    }

    /// Where to look for the deliveries of a peer's range.
    pub fn cursor(&self, first: u32, last: u32) -> Cursor {
        let (start, count) = self.clamp(first, last);
        if count > self.len() {
            let key = self.all.first().unwrap_or(NONE);
            return Cursor::All { key, start, count };
        }
        Cursor::Ids {
            next: start,
            left: count,
        }
    }
}

/// See [`Unsettled::cursor`].
pub(super) enum Cursor {
    /// Through the ring.
    Ids { next: u32, left: u32 },
    /// Through the list of all, when the range has more holes than deliveries.
    All { key: u32, start: u32, count: u32 },
}
