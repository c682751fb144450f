//! The two acknowledgement windows of a connection.
//!
//! Both are short queues with a fixed bound; a linear look through them is cheaper than a map.

use super::packet::PacketId;
use super::session::Ticket;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// Messages from the device the hub has not decided about, in the order they came.
///
/// Slots leave from the front only: an acknowledgement that overtakes another waits for it, so
/// PUBACKs go out in the order of the PUBLISHes (MQTT-4.6.0-2), and the queue cannot outgrow its
/// bound behind one slow message.
pub(super) struct Uplink {
    slots: VecDeque<Slot>,
    /// The ticket of the front slot.
    front: u64,
    bytes: usize,
    qos1: usize,
    messages_max: usize,
    bytes_max: usize,
}

struct Slot {
    /// `None` for QoS 0, which is counted and never answered.
    id: Option<PacketId>,
    bytes: usize,
    verdict: Option<Verdict>,
}

/// What the hub said.
pub(super) enum Verdict {
    Accepted,
    /// For good, with the reason code and string to tell an MQTT 5 client.
    Refused(u8, Box<str>),
}

impl Uplink {
    pub(super) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            front: 0,
            bytes: 0,
            qos1: 0,
            messages_max: messages_max.max(1),
            bytes_max,
        }
    }

    /// Whether a packet of `bytes` has room. One alone always has.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        let room = self.bytes_max.saturating_sub(self.bytes);
        self.slots.is_empty() || (self.slots.len() < self.messages_max && bytes <= room)
    }

    /// QoS 1 messages not acknowledged.
    pub(super) fn qos1(&self) -> usize {
        self.qos1
    }

    pub(super) fn contains(&self, id: PacketId) -> bool {
        self.slots.iter().any(|slot| slot.id == Some(id))
    }

    pub(super) fn push(&mut self, id: Option<PacketId>, bytes: usize) -> Ticket {
        let ticket = Ticket(self.front + self.slots.len() as u64);
        self.bytes += bytes;
        self.qos1 += usize::from(id.is_some());
        self.slots.push_back(Slot {
            id,
            bytes,
            verdict: None,
        });
        ticket
    }

    /// Whether the slot of `ticket` is of QoS 1; `None` when it is gone.
    pub(super) fn is_qos1(&self, ticket: Ticket) -> Option<bool> {
        let index = ticket.0.checked_sub(self.front)?;
        let slot = self.slots.get(usize::try_from(index).ok()?)?;
        Some(slot.id.is_some())
    }

    /// Notes a verdict; the first one counts, unknown tickets are ignored.
    pub(super) fn decide(&mut self, ticket: Ticket, verdict: Verdict) {
        let index = ticket.0.checked_sub(self.front);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) else {
            return;
        };
        slot.verdict.get_or_insert(verdict);
    }

    /// Takes the front slot once it is decided: its packet id, `None` for QoS 0, and the verdict.
    pub(super) fn pop_decided(&mut self) -> Option<(Option<PacketId>, Verdict)> {
        let slot = self.slots.pop_front_if(|slot| slot.verdict.is_some())?;
        self.front += 1;
        self.bytes -= slot.bytes;
        self.qos1 -= usize::from(slot.id.is_some());
        slot.verdict.map(|verdict| (slot.id, verdict))
    }
}

/// Commands sent to the device with QoS 1 and not acknowledged.
pub(super) struct Downlink {
    slots: Vec<(PacketId, u64)>,
    last_id: u16,
    messages_max: usize,
}

impl Downlink {
    pub(super) fn new(messages_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            last_id: 0,
            messages_max: messages_max.min(usize::from(u16::MAX)),
        }
    }

    /// Takes a smaller bound, the client's Receive Maximum.
    pub(super) fn cap(&mut self, messages_max: NonZeroU16) {
        self.messages_max = self.messages_max.min(usize::from(messages_max.get()));
    }

    /// Most commands with the device at once.
    pub(super) fn window(&self) -> usize {
        self.messages_max
    }

    pub(super) fn free(&self) -> usize {
        self.messages_max.saturating_sub(self.slots.len())
    }

    /// Takes a slot and a packet id no other slot has; `None` when the window is full.
    pub(super) fn push(&mut self, delivery: u64) -> Option<PacketId> {
        if self.free() == 0 {
            return None;
        }
        // Fewer slots than ids are in use, so this ends.
        let id = loop {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = NonZeroU16::new(self.last_id).map(PacketId) else {
                continue;
            };
            if self.slots.iter().all(|(used, _)| *used != id) {
                break id;
            }
        };
        self.slots.push((id, delivery));
        Some(id)
    }

    /// The delivery of `id`, and its slot is free again.
    pub(super) fn take(&mut self, id: PacketId) -> Option<u64> {
        let index = self.slots.iter().position(|(used, _)| *used == id)?;
        Some(self.slots.swap_remove(index).1)
    }
}
