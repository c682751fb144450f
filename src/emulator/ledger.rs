//! What the hub accepted, in order, with the hash of every body: the evidence a gateway is
//! judged by. Append-only; when it is full, messages are refused rather than forgotten. Bodies
//! and properties are kept as long as their budget lasts, oldest dropped first.

use crate::emulator::address::Identity;
use crate::runtime::clock::Unix;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Entries looked at under one lock, so that a long search does not hold up the links.
const SCAN: usize = 8 * 1024;

/// One accepted message.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Position, from 1, without gaps.
    pub seq: u64,
    /// When it was accepted.
    pub at: Unix,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// Bytes of the body.
    pub size: usize,
    /// Body and properties, until the budget needs their room.
    pub content: Option<Arc<Content>>,
    pub(crate) stamp: Arc<Stamp>,
}

/// What a message carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The payload.
    pub body: Bytes,
    /// Application properties with string values, in order.
    pub properties: Vec<(String, String)>,
    /// System properties the device sent, in order.
    pub system: Vec<(String, String)>,
}

/// What the hub adds to every message of one link.
#[derive(Debug)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    pub(crate) auth_method: &'static str,
    pub(crate) generation: Arc<str>,
}

impl Entry {
    /// The device it was sent for.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.stamp.identity.device
    }

    /// The module it was sent for.
    #[must_use]
    pub fn module(&self) -> Option<&str> {
        self.stamp.identity.module.as_deref()
    }

    /// `iothub-connection-auth-method`: JSON that says whose key vouched for the message.
    #[must_use]
    pub fn auth_method(&self) -> &'static str {
        self.stamp.auth_method
    }

    /// `iothub-connection-auth-generation-id`.
    #[must_use]
    pub fn generation(&self) -> &str {
        &self.stamp.generation
    }

    /// The payload, while it is kept.
    #[must_use]
    pub fn body(&self) -> Option<&Bytes> {
        self.content.as_ref().map(|content| &content.body)
    }

    /// The first application property called `name`, while it is kept.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        let properties = &self.content.as_ref()?.properties;
        properties
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Content {
    fn cost(&self) -> usize {
        let pairs = self.properties.iter().chain(&self.system);
        self.body.len()
            + 64
            + pairs
                .map(|(key, value)| key.len() + value.len() + 48)
                .sum::<usize>()
    }
}

/// A message on its way into the ledger.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) sha256: [u8; 32],
    pub(crate) content: Content,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    last: u64,
    /// The first entry whose content may still be kept.
    oldest_content: u64,
    bytes: usize,
}

/// The ledger. Shared; appending is one short lock.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
    grown: Notify,
    entries_max: usize,
    bytes_max: usize,
}

/// The ledger holds as many entries as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerFull;

impl Ledger {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let (inner, grown) = (Mutex::default(), Notify::new());
        Self {
            inner,
            grown,
            entries_max,
            bytes_max,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends all of `drafts` or none.
    pub(crate) fn append(
        &self,
        drafts: Vec<Draft>,
        stamp: &Arc<Stamp>,
        at: Unix,
    ) -> Result<(), LedgerFull> {
        let mut inner = self.inner();
        if inner.entries.len() + drafts.len() > self.entries_max {
            return Err(LedgerFull);
        }
        for Draft { sha256, content } in drafts {
            inner.last += 1;
            inner.bytes += content.cost();
            let (seq, size) = (inner.last, content.body.len());
            let (content, stamp) = (Some(Arc::new(content)), Arc::clone(stamp));
            inner.entries.push_back(Entry {
                seq,
                at,
                sha256,
                size,
                content,
                stamp,
            });
        }
        while inner.bytes > self.bytes_max {
            inner.drop_oldest_content();
        }
        drop(inner);
        self.grown.notify_waiters();
        Ok(())
    }

    /// Messages accepted since start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.inner().last
    }

    /// Entries after `after`, of one device or all, at most `limit`, oldest first.
    #[must_use]
    pub fn messages(&self, device: Option<&str>, after: u64, limit: usize) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut next = after.saturating_add(1);
        while found.len() < limit {
            let inner = self.inner();
            let Some(first) = inner.entries.front().map(|entry| entry.seq) else {
                break;
            };
            next = next.max(first);
            let start = usize::try_from(next - first).unwrap_or(usize::MAX);
            if start >= inner.entries.len() {
                break;
            }
            for entry in inner.entries.range(start..).take(SCAN) {
                next += 1;
                if device.is_none_or(|device| device == entry.device()) {
                    found.push(entry.clone());
                    if found.len() == limit {
                        break;
                    }
                }
            }
        }
        found
    }

    /// Waits until the ledger is longer than `seq` entries ever appended.
    pub async fn grown_past(&self, seq: u64) {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            // Registered before the look, so that no append falls between the two.
            grown.as_mut().enable();
            if self.count() > seq {
                return;
            }
            grown.await;
        }
    }

    /// Waits for the first entry after `after` that `wanted` takes. Without end if none comes;
    /// callers put a deadline around it.
    pub async fn wait_for(&self, after: u64, mut wanted: impl FnMut(&Entry) -> bool) -> Entry {
        let mut seen = after;
        loop {
            for entry in self.messages(None, seen, SCAN) {
                seen = entry.seq;
                if wanted(&entry) {
                    return entry;
                }
            }
            self.grown_past(seen).await;
        }
    }

    /// Forgets entries up to and including `seq`, to make room in long runs; how many.
    pub(crate) fn forget(&self, seq: u64) -> usize {
        let mut inner = self.inner();
        let mut count = 0;
        while inner.entries.front().is_some_and(|entry| entry.seq <= seq) {
            if let Some(Entry {
                content: Some(content),
                ..
            }) = inner.entries.pop_front()
            {
                inner.bytes -= content.cost();
            }
            count += 1;
        }
        count
    }
}

impl Inner {
    fn drop_oldest_content(&mut self) {
        let first = self.entries.front().map_or(0, |entry| entry.seq);
        self.oldest_content = self.oldest_content.max(first);
        let index = usize::try_from(self.oldest_content - first).unwrap_or(usize::MAX);
        match self.entries.get_mut(index) {
            Some(entry) => {
                if let Some(content) = entry.content.take() {
                    self.bytes -= content.cost();
                }
                self.oldest_content += 1;
            }
            None => self.bytes = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(device: &str) -> Arc<Stamp> {
        let identity = Identity::device(device);
        Arc::new(Stamp {
            identity,
            auth_method: "{}",
            generation: "g".into(),
        })
    }

    fn draft(body: &'static str) -> Vec<Draft> {
        let content = Content {
            body: Bytes::from_static(body.as_bytes()),
            ..Content::default()
        };
        vec![Draft {
            sha256: [0; 32],
            content,
        }]
    }

    #[test]
    fn a_full_ledger_refuses_and_forgets_nothing() {
        let ledger = Ledger::new(2, 1024);
        ledger
            .append(draft("a"), &stamp("d"), Unix::default())
            .unwrap();
        ledger
            .append(draft("b"), &stamp("d"), Unix::default())
            .unwrap();
        assert!(
            ledger
                .append(draft("c"), &stamp("d"), Unix::default())
                .is_err()
        );
        assert_eq!(ledger.messages(None, 0, 10).len(), 2);
        assert_eq!(ledger.forget(1), 1);
        ledger
            .append(draft("c"), &stamp("d"), Unix::default())
            .unwrap();
        let seqs: Vec<u64> = ledger.messages(None, 0, 10).iter().map(|e| e.seq).collect();
        assert_eq!(seqs, [2, 3]);
    }

    #[test]
    fn the_oldest_bodies_make_room_and_their_entries_stay() {
        let ledger = Ledger::new(100, 3 * 65);
        for body in ["a", "b", "c", "d", "e"] {
            ledger
                .append(draft(body), &stamp("d"), Unix::default())
                .unwrap();
        }
        let kept: Vec<bool> = ledger
            .messages(None, 0, 10)
            .iter()
            .map(|e| e.content.is_some())
            .collect();
        assert_eq!(kept, [false, false, true, true, true]);
        ledger.forget(3);
        ledger
            .append(draft("f"), &stamp("d"), Unix::default())
            .unwrap();
        assert!(
            ledger
                .messages(None, 0, 10)
                .iter()
                .all(|e| e.content.is_some())
        );
    }

    #[test]
    fn reading_filters_by_device_position_and_number() {
        let ledger = Ledger::new(100_000, 1 << 30);
        for _ in 0..SCAN {
            ledger
                .append(draft("x"), &stamp("noise"), Unix::default())
                .unwrap();
        }
        for body in ["a", "b", "c"] {
            ledger
                .append(draft(body), &stamp("d"), Unix::default())
                .unwrap();
        }
        let first = ledger.messages(Some("d"), 0, 2);
        assert_eq!(first.len(), 2);
        let rest = ledger.messages(Some("d"), first[1].seq, 9);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].body().unwrap(), "c");
        assert!(ledger.messages(Some("other"), 0, 9).is_empty());
        assert!(ledger.messages(None, u64::MAX, 9).is_empty());
    }

    #[tokio::test]
    async fn a_waiter_sees_a_message_appended_after_it_began() {
        let ledger = Arc::new(Ledger::new(100, 1024));
        let waiting = {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move { ledger.wait_for(0, |e| e.device() == "d").await.seq })
        };
        tokio::task::yield_now().await;
        ledger
            .append(draft("a"), &stamp("noise"), Unix::default())
            .unwrap();
        ledger
            .append(draft("a"), &stamp("d"), Unix::default())
            .unwrap();
        assert_eq!(waiting.await.unwrap(), 2);
    }
}
