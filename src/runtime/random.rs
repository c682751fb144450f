//! Random numbers. The only module of the data path that asks the system for them, so that a
//! simulation can repeat what happened.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// The state of this thread's own sequence; none: the system is asked.
    static SEQUENCE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's numbers follow from `seed`: for simulations alone, because whoever
/// knows the seed knows every number.
pub fn seed(seed: u64) {
    SEQUENCE.set(Some(seed));
}

/// Fills `bytes`.
///
/// # Errors
/// When the system has no entropy.
pub fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    let Some(mut state) = SEQUENCE.get() else {
        return getrandom::fill(bytes);
    };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&step(&mut state).to_le_bytes()[..chunk.len()]);
    }
    SEQUENCE.set(Some(state));
    Ok(())
}

/// A number in 0 ≤ x < 1, for jitter. Without entropy: the middle.
#[must_use]
pub fn unit() -> f64 {
    let mut bytes = [0; 8];
    if fill(&mut bytes).is_err() {
        return 0.5;
    }
    #[allow(clippy::cast_precision_loss)] // 53 bits are exact
    let unit = (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64;
    unit
}

/// A UUID of version 4 (RFC 9562). Without entropy: one of the clock's.
#[must_use]
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    if fill(&mut bytes).is_err() {
        let nanos = super::clock::unix().as_millis().to_be_bytes();
        bytes[..8].copy_from_slice(&nanos);
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = super::hex::hex(&bytes);
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Numbers that are spread evenly and nobody's secret, without asking the system for each.
#[derive(Debug)]
pub struct Draws(AtomicU64);

impl Draws {
    /// Begins anywhere. Without entropy always at the same place.
    #[must_use]
    pub fn new() -> Self {
        let mut start = [0; 8];
        let _ = fill(&mut start);
        Self(AtomicU64::new(u64::from_ne_bytes(start)))
    }

    /// The next one.
    pub fn draw(&self) -> u64 {
        mixed(self.0.fetch_add(STEP, Ordering::Relaxed))
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self::new()
    }
}

/// SplitMix64: every start gives another sequence, of the full period.
fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(STEP);
    mixed(*state)
}

/// Between two states of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of a state of SplitMix64.
const fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::{fill, seed, unit};

    #[test]
    fn a_seed_repeats_its_numbers_on_its_thread_alone() {
        let numbers = |seeded: Option<u64>| {
            std::thread::spawn(move || {
                if let Some(number) = seeded {
                    seed(number);
                }
                let mut bytes = [0; 11];
                fill(&mut bytes).unwrap();
                (bytes, unit())
            })
            .join()
            .unwrap()
        };
        assert_eq!(numbers(Some(1)), numbers(Some(1)));
        assert_ne!(numbers(Some(1)), numbers(Some(2)));
        assert_ne!(numbers(None), numbers(None));
        assert!((0.0..1.0).contains(&numbers(Some(3)).1));
    }
}
