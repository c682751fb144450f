//! Pre-shared keys of whole fleets in one block of memory.
//!
//! Identities and keys lie one after the other in an arena; an open-addressing table of offsets
//! finds them. 100,000 identities with 32-byte keys take about 6 MiB, where a map of strings and
//! vectors would take five times that. Every buffer that ever held a key is wiped.

use super::encoding::{PSK_BYTES_MIN, PskHash};
use std::hash::{BuildHasher, RandomState};
use zeroize::{Zeroize, Zeroizing};

/// Longest PSK identity taken, bytes (RFC 4279 §5.3 asks for 128).
pub const IDENTITY_BYTES_MAX: usize = 128;

/// Bytes before an identity: owner 4, identity length 1, key lengths 2 and 2.
const HEADER: usize = 9;

/// In the first key's length: both are used with SHA-384. Keys are far shorter.
const SHA384_BIT: u16 = 1 << 15;

/// Who a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Index of a `[[device]]`.
    Device(u32),
    /// Index of a `[[psk_file]]`; the identity is the device id.
    Fleet(u32),
}

const FLEET_BIT: u32 = 1 << 31;

/// The table's value for the first record.
const FIRST: u32 = 1;

/// The keys of an identity, borrowed from the rules. Has no `Debug`.
#[derive(Clone, Copy)]
pub struct PskEntry<'a> {
    /// `key`
    pub key: &'a [u8],
    /// `next_key`, during a rotation.
    pub next_key: Option<&'a [u8]>,
    /// What both are used with in TLS 1.3.
    pub hash: PskHash,
}

/// Why a key was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsertError {
    Duplicate(Owner),
    Full,
}

/// See the module's header.
#[derive(Default)]
pub(crate) struct PskStore {
    arena: Zeroizing<Vec<u8>>,
    /// Offsets into `arena` plus one; zero is free. The length is zero or a power of two.
    table: Vec<u32>,
    len: usize,
    short: usize,
    hasher: RandomState,
}

struct Record<'a> {
    owner: Owner,
    identity: &'a [u8],
    entry: PskEntry<'a>,
}

impl PskStore {
    /// Identities held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Identities with a key of less than [`PSK_BYTES_MIN`] bytes.
    pub(crate) fn short(&self) -> usize {
        self.short
    }

    /// Memory held, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.table.capacity() * size_of::<u32>()
    }

    /// Makes room, so that a file of `text_bytes` and `identities` lines is read without moving.
    pub(crate) fn reserve(&mut self, identities: usize, text_bytes: usize) {
        self.grow_arena(text_bytes + identities * HEADER);
        self.grow_table(self.len + identities);
    }

    /// Adds an identity. Lengths were checked by the caller; longer ones are refused as `Full`.
    pub(crate) fn insert(
        &mut self,
        identity: &[u8],
        entry: PskEntry<'_>,
        owner: Owner,
    ) -> Result<(), InsertError> {
        let PskEntry {
            key,
            next_key,
            hash,
        } = entry;
        let next = next_key.unwrap_or_default();
        let lengths = (
            u8::try_from(identity.len()),
            u16::try_from(key.len()),
            u16::try_from(next.len()),
        );
        let (Ok(identity_len), Ok(key_len), Ok(next_len)) = lengths else {
            return Err(InsertError::Full);
        };
        if (key_len | next_len) & SHA384_BIT != 0 {
            return Err(InsertError::Full);
        }
        let key_len = match hash {
            PskHash::Sha256 => key_len,
            PskHash::Sha384 => key_len | SHA384_BIT,
        };
        self.grow_table(self.len + 1);
        let slot = match self.find_slot(identity) {
            Ok(offset) => return Err(InsertError::Duplicate(self.record(offset).owner)),
            Err(slot) => slot,
        };
        let offset = u32::try_from(self.arena.len() + 1).map_err(|_| InsertError::Full)?;
        self.grow_arena(HEADER + identity.len() + key.len() + next.len());
        let owner = match owner {
            Owner::Device(i) => i,
            Owner::Fleet(i) => i | FLEET_BIT,
        };
        self.arena.extend_from_slice(&owner.to_le_bytes());
        self.arena.push(identity_len);
        self.arena.extend_from_slice(&key_len.to_le_bytes());
        self.arena.extend_from_slice(&next_len.to_le_bytes());
        self.arena.extend_from_slice(identity);
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(next);
        self.table[slot] = offset;
        self.len += 1;
        let short = |key: &[u8]| key.len() < PSK_BYTES_MIN;
        self.short += usize::from(short(key) || next_key.is_some_and(short));
        Ok(())
    }

    /// The keys of an identity. Who is not here costs the reading of a record, too: the time a
    /// refusal takes does not tell who exists.
    pub(crate) fn get(&self, identity: &[u8]) -> Option<(Owner, PskEntry<'_>)> {
        if self.len == 0 {
            return None;
        }
        let record = self.record(self.find_slot(identity).unwrap_or(FIRST));
        (record.identity == identity).then_some((record.owner, record.entry))
    }

    /// The record of `identity`, or the free slot where it belongs.
    fn find_slot(&self, identity: &[u8]) -> Result<u32, usize> {
        if self.table.is_empty() {
            return Err(0);
        }
        let mask = self.table.len() - 1;
        #[allow(clippy::cast_possible_truncation)] // any bits of the hash will do
        let mut slot = self.hasher.hash_one(identity) as usize & mask;
        // ends: the table is never more than two thirds full
        loop {
            match self.table[slot] {
                0 => return Err(slot),
                offset if self.record(offset).identity == identity => return Ok(offset),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Reads the record at a table value. Offsets come only from `insert`.
    fn record(&self, offset: u32) -> Record<'_> {
        let bytes = &self.arena[offset as usize - 1..];
        let (header, rest) = bytes.split_at(HEADER);
        let owner = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let key_len = u16::from_le_bytes([header[5], header[6]]);
        let next_len = u16::from_le_bytes([header[7], header[8]]);
        let (identity, rest) = rest.split_at(usize::from(header[4]));
        let (key, rest) = rest.split_at(usize::from(key_len & !SHA384_BIT));
        let next = &rest[..usize::from(next_len)];
        Record {
            owner: match owner & FLEET_BIT {
                0 => Owner::Device(owner),
                _ => Owner::Fleet(owner & !FLEET_BIT),
            },
            identity,
            entry: PskEntry {
                key,
                next_key: (!next.is_empty()).then_some(next),
                hash: match key_len & SHA384_BIT {
                    0 => PskHash::Sha256,
                    _ => PskHash::Sha384,
                },
            },
        }
    }

    /// Grows the arena by hand, because a vector that grows leaves its old copy unwiped.
    fn grow_arena(&mut self, more: usize) {
        let needed = self.arena.len() + more;
        if needed <= self.arena.capacity() {
            return;
        }
        let capacity = needed.max(self.arena.capacity() + self.arena.capacity() / 2);
        let mut bigger = Vec::with_capacity(capacity);
        bigger.extend_from_slice(&self.arena);
        let mut old = std::mem::replace(&mut *self.arena, bigger);
        old.zeroize();
    }

    fn grow_table(&mut self, entries: usize) {
        if entries * 3 <= self.table.len() * 2 {
            return;
        }
        let size = (entries * 3 / 2 + 1).next_power_of_two().max(16);
        let old = std::mem::replace(&mut self.table, vec![0; size]);
        for offset in old.into_iter().filter(|offset| *offset != 0) {
            if let Err(slot) = self.find_slot(self.record(offset).identity) {
                self.table[slot] = offset;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u32) -> Vec<u8> {
        i.to_le_bytes().repeat(8)
    }

    fn entry<'a>(key: &'a [u8], next_key: Option<&'a [u8]>, hash: PskHash) -> PskEntry<'a> {
        PskEntry {
            key,
            next_key,
            hash,
        }
    }

    const SHA256: PskHash = PskHash::Sha256;

    #[test]
    fn what_goes_in_comes_out_and_nothing_else() {
        let mut store = PskStore::default();
        for i in 0..5_000u32 {
            let next = key(i + 1);
            let next = (i % 3 == 0).then_some(next.as_slice());
            let owner = if i % 2 == 0 {
                Owner::Device(i)
            } else {
                Owner::Fleet(i)
            };
            let hash = if i % 5 == 0 { PskHash::Sha384 } else { SHA256 };
            let id = format!("device-{i}");
            let key = key(i);
            let entry = entry(&key, next, hash);
            assert_eq!(store.insert(id.as_bytes(), entry, owner), Ok(()));
        }
        assert_eq!(store.len(), 5_000);
        for i in 0..5_000u32 {
            let (owner, entry) = store.get(format!("device-{i}").as_bytes()).unwrap();
            assert_eq!(entry.key, key(i));
            assert_eq!(entry.hash == PskHash::Sha384, i % 5 == 0);
            assert_eq!(entry.next_key.is_some(), i % 3 == 0);
            assert_eq!(matches!(owner, Owner::Device(_)), i % 2 == 0);
        }
        for missing in ["device-5000", "", "device-", "DEVICE-1", "device-1\0"] {
            assert!(store.get(missing.as_bytes()).is_none());
        }
    }

    #[test]
    fn identities_with_a_short_key_are_counted() {
        let mut store = PskStore::default();
        for (id, key, next) in [
            (b"a", &[1; 15][..], None),
            (b"b", &[1; 16][..], Some(&[2; 4][..])),
            (b"c", &[1; 4][..], Some(&[2; 4][..])),
            (b"d", &[1; 16][..], Some(&[2; 16][..])),
        ] {
            let inserted = store.insert(id, entry(key, next, SHA256), Owner::Fleet(0));
            assert_eq!(inserted, Ok(()));
        }
        assert_eq!(store.short(), 3);
    }

    #[test]
    fn an_identity_is_taken_once() {
        let mut store = PskStore::default();
        assert!(store.get(b"a").is_none());
        assert_eq!(
            store.insert(b"a", entry(&key(1), None, SHA256), Owner::Fleet(7)),
            Ok(())
        );
        let again = store.insert(b"a", entry(&key(2), None, SHA256), Owner::Device(0));
        assert_eq!(again, Err(InsertError::Duplicate(Owner::Fleet(7))));
        assert_eq!(store.get(b"a").map(|(_, e)| e.key.to_vec()), Some(key(1)));
    }

    #[test]
    fn a_fleet_of_100_000_fits_in_20_mib() {
        let mut store = PskStore::default();
        for i in 0..100_000u32 {
            let id = format!("plant-a-line-{i:08}");
            store
                .insert(id.as_bytes(), entry(&key(i), None, SHA256), Owner::Fleet(0))
                .unwrap();
        }
        assert!(store.memory_bytes() < 20 << 20, "{}", store.memory_bytes());
    }
}
