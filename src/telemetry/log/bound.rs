//! A bound on lines that somebody else can cause, and the number of those left out.

use crate::runtime::clock::Mono;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many lines at once, and one more after each while.
pub struct Bound {
    at_once: u32,
    every: Duration,
    state: Mutex<State>,
}

struct State {
    /// When all lines are allowed again (the virtual time of GCRA).
    full_at: Mono,
    /// Lines left out since the latest one that was written.
    suppressed: u64,
}

impl Bound {
    /// Allows `at_once` lines, and one more after each `every`.
    #[must_use]
    pub const fn new(at_once: u32, every: Duration) -> Self {
        let state = State {
            full_at: Mono::from_start(Duration::ZERO),
            suppressed: 0,
        };
        Self {
            at_once,
            every,
            state: Mutex::new(state),
        }
    }

    /// Takes a line: how many were left out before it. `None`: leave it out.
    pub fn take(&self, now: Mono) -> Option<u64> {
        let mut state = self.lock();
        let full_at = state.full_at.max(now) + self.every;
        if full_at.since(now) > self.every * self.at_once {
            state.suppressed += 1;
            return None;
        }
        state.full_at = full_at;
        Some(std::mem::take(&mut state.suppressed))
    }

    /// How many were left out and not told since; they count as told.
    pub fn left_out(&self) -> u64 {
        std::mem::take(&mut self.lock().suppressed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Bound;
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    #[test]
    fn a_line_a_minute_is_a_line_a_minute_and_none_is_uncounted() {
        let bound = Bound::new(1, Duration::from_secs(60));
        let at = |seconds| Mono::from_start(Duration::from_secs(seconds));
        let taken: Vec<u64> = (0..=150)
            .filter_map(|second| bound.take(at(second)))
            .collect();
        assert_eq!(taken, [0, 59, 59]);
        assert_eq!((bound.left_out(), bound.left_out()), (30, 0));
    }
}
