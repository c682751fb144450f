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
}

impl Quota {
    /// Whether one more line may be written at `now`.
    pub(super) fn allows(&self, now: Mono) -> bool {
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
            let allowed = (0..10_000).filter(|_| quota.allows(now)).count() as u64;
            assert_eq!(allowed, LINES_PER_S);
        }
    }
}
