//! A bound on log lines that strangers can cause.

use crate::runtime::clock::Mono;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines in one second.
const LINES_PER_S: u64 = 20;

/// Counts lines of the current second; the metrics count everything.
#[derive(Default)]
pub(super) struct Quota {
    /// The second in the upper half, its lines in the lower.
    state: AtomicU64,
    /// Lines left out since the latest one that was written.
    suppressed: AtomicU64,
}

impl Quota {
    /// Takes a line out of the quota of `now`: how many were left out before it. `None`: leave it
    /// out.
    pub(super) fn take(&self, now: Mono) -> Option<u64> {
        if self.allows(now) {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn allows(&self, now: Mono) -> bool {
        let second = now.since(Mono::default()).as_secs() & u64::from(u32::MAX);
        let take = |state: u64| {
            let lines = if state >> 32 == second {
                state & u64::from(u32::MAX)
            } else {
                0
            };
            (lines < LINES_PER_S).then_some(second << 32 | (lines + 1))
        };
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_PER_S, Quota};
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_to_the_bound_in_each_second() {
        let quota = Quota::default();
        for second in [0, 1, 7] {
            let now = Mono::from_start(Duration::from_secs(second));
            let taken: Vec<u64> = (0..10_000).filter_map(|_| quota.take(now)).collect();
            assert_eq!(taken.len() as u64, LINES_PER_S);
            let before = if second == 0 { 0 } else { 10_000 - LINES_PER_S };
            assert_eq!(taken[0], before, "the first line tells of those left out");
            assert_eq!(taken[1..].iter().sum::<u64>(), 0);
        }
    }
}
