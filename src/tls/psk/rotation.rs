//! Which of two keys an identity is tried with first, where the hello does not tell (TLS 1.2).
//!
//! Only exceptions to "the current key first" are kept, in two generations of bounded size: when
//! the young one is full it becomes the old one and the former old one is forgotten. A forgotten
//! identity costs its device one failed handshake. Pure.

use crate::tls::KeySlot;
use std::collections::HashSet;

/// Identities in one generation; two generations of at most 128-byte names are under 2 MiB.
const GENERATION: usize = 5_000;

/// Identities whose next key is tried first.
#[derive(Default)]
pub struct Preference {
    young: HashSet<Box<[u8]>>,
    old: HashSet<Box<[u8]>>,
}

impl Preference {
    /// The key to try first.
    #[must_use]
    pub fn slot(&self, identity: &[u8]) -> KeySlot {
        if self.young.contains(identity) || self.old.contains(identity) {
            KeySlot::Next
        } else {
            KeySlot::Current
        }
    }

    /// Remembers `slot`.
    pub fn set(&mut self, identity: &[u8], slot: KeySlot) {
        match slot {
            KeySlot::Current => {
                self.young.remove(identity);
                self.old.remove(identity);
            }
            KeySlot::Next => {
                if self.young.contains(identity) {
                    return;
                }
                if self.young.len() >= GENERATION {
                    self.old = std::mem::take(&mut self.young);
                }
                self.young.insert(identity.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GENERATION, Preference};
    use crate::tls::KeySlot;

    #[test]
    fn many_identities_stay_bounded_and_the_latest_survive() {
        let mut preference = Preference::default();
        for n in 0..3 * GENERATION + 10 {
            preference.set(format!("dev-{n}").as_bytes(), KeySlot::Next);
            assert!(preference.young.len() + preference.old.len() <= 2 * GENERATION);
        }
        let last = format!("dev-{}", 3 * GENERATION);
        assert_eq!(preference.slot(last.as_bytes()), KeySlot::Next);
        assert_eq!(preference.slot(b"dev-0"), KeySlot::Current);
    }

    #[test]
    fn going_back_to_the_current_key_leaves_nothing_behind() {
        let mut preference = Preference::default();
        preference.set(b"dev", KeySlot::Next);
        preference.set(b"dev", KeySlot::Current);
        assert!(preference.young.is_empty() && preference.old.is_empty());
    }
}
