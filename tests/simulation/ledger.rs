//! What the hub knows, and what it finds wrong with what the gateway does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One device, as the hub sees it.
#[derive(Debug, Default)]
pub struct Device {
    /// Messages it accepted, by their number.
    pub accepted: BTreeSet<u64>,
    /// Messages it rejected for good.
    pub rejected: BTreeSet<u64>,
    /// Messages it saw at least once.
    pub seen: BTreeSet<u64>,
    /// The one that was sent latest, by its place in the order.
    pub newest: Option<u64>,
    /// Accepted again.
    pub duplicates: u64,
    /// How many faults at the moment say that it is not known.
    pub forgotten: u32,
    /// Commands that wait, and those on their way.
    pub queue: VecDeque<u64>,
    /// Commands the gateway said were accepted.
    pub completed: BTreeSet<u64>,
}

/// What is in force at the moment.
#[derive(Debug, Default)]
pub struct Mood {
    pub refuse: bool,
    pub mute_attaches: bool,
    pub mute_tokens: bool,
    pub refuse_tokens: bool,
    pub hold: bool,
    pub release: bool,
    pub throttle: bool,
    pub starve: bool,
}

/// The hub's memory, over all connections.
#[derive(Debug, Default)]
pub struct Ledger {
    pub devices: BTreeMap<usize, Device>,
    pub mood: Mood,
    pub attaches: Vec<u64>,
    pub tokens: u64,
    pub connections: u64,
    /// Those that are over.
    pub ended: u64,
    pub violations: Vec<String>,
    /// What happened, when asked for.
    pub story: Option<Vec<String>>,
}

impl Ledger {
    pub fn wrong(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(what());
        }
    }

    pub fn device(&mut self, index: usize) -> &mut Device {
        self.devices.entry(index).or_default()
    }

    /// A message arrived on the link of `device`; it says that it is `text`. Its number.
    pub fn arrived(&mut self, device: usize, text: &str) -> Option<u64> {
        let parts = text
            .split_once(':')
            .map(|(id, number)| (id, number.parse()));
        let Some((id, Ok(number))) = parts else {
            self.wrong(format!("a message of device {device} reads {text:?}"));
            return None;
        };
        if id != super::device::name(device) {
            self.wrong(format!("{text} came on the link of device {device} (I5)"));
            return None;
        }
        let known = self.device(device);
        // A message that is never taken has the number of the next one, and comes before it.
        let place = super::device::place(number);
        let newest = known.newest;
        known.newest = newest.max(Some(place));
        if known.seen.insert(number) && newest.is_some_and(|newest| newest > place) {
            let newest = newest.unwrap_or_default();
            self.wrong(format!(
                "{id} sent {number} for the first time after {newest} (I4)"
            ));
        }
        Some(number)
    }

    pub fn accept(&mut self, device: usize, number: u64) {
        let known = self.device(device);
        if !known.accepted.insert(number) {
            known.duplicates += 1;
        }
    }
}
