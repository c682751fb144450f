//! A bound on log lines that strangers can cause, for each reason by itself: a storm of one reason
//! hides no line of another, and what is left out is counted.

use crate::runtime::clock::Mono;
use crate::telemetry::log::Bound;
use crate::telemetry::reason::Reason;
use std::time::Duration;

/// Lines of one reason at once.
const LINES_AT_ONCE: u32 = 20;

/// Time after which one more is allowed.
const EVERY: Duration = Duration::from_millis(500);

/// The bounds of all reasons; the metrics count everything.
pub(super) struct Quotas(Box<[Bound]>);

impl Default for Quotas {
    fn default() -> Self {
        let bound = |_: &Reason| Bound::new(LINES_AT_ONCE, EVERY);
        Self(Reason::ALL.iter().map(bound).collect())
    }
}

impl Quotas {
    /// Takes a line of `reason`: how many were left out before it. `None`: leave it out.
    pub(super) fn take(&self, reason: Reason, now: Mono) -> Option<u64> {
        self.0.get(reason as usize)?.take(now)
    }

    /// What was left out and not told since; it counts as told.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (Reason, u64)> {
        let bounds = Reason::ALL.iter().copied().zip(&self.0);
        let told = bounds.map(|(reason, bound)| (reason, bound.left_out()));
        told.filter(|(_, suppressed)| *suppressed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_AT_ONCE, Quotas};
    use crate::runtime::clock::Mono;
    use crate::telemetry::reason::Reason;
    use std::time::Duration;

    fn at(ms: u64) -> Mono {
        Mono::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_storm_is_cut_to_the_bound_and_no_line_is_uncounted() {
        let quotas = Quotas::default();
        let (mut written, mut told) = (0, 0);
        // 10,000 refusals within ten seconds.
        for n in 0..10_000 {
            if let Some(suppressed) = quotas.take(Reason::PskUnknown, at(n)) {
                written += 1;
                told += suppressed;
            }
        }
        assert_eq!(written, u64::from(LINES_AT_ONCE) + 19);
        told += quotas.left_out().map(|(_, left)| left).sum::<u64>();
        assert_eq!(written + told, 10_000);
        assert_eq!(quotas.left_out().count(), 0, "told once");
    }

    #[test]
    fn a_storm_hides_no_other_reason() {
        let quotas = Quotas::default();
        for _ in 0..10_000 {
            let _ = quotas.take(Reason::PskUnknown, at(0));
        }
        assert_eq!(quotas.take(Reason::PskWrongKey, at(0)), Some(0));
        let left: Vec<_> = quotas.left_out().collect();
        let expected = 10_000 - u64::from(LINES_AT_ONCE);
        assert_eq!(left, [(Reason::PskUnknown, expected)]);
        assert_eq!(quotas.take(Reason::PskUnknown, at(499)), None);
        assert_eq!(quotas.take(Reason::PskUnknown, at(500)), Some(1));
    }

    #[test]
    fn each_reason_has_a_place_of_its_own() {
        let quotas = Quotas::default();
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert_eq!(quotas.take(*reason, at(0)), Some(0));
        }
    }
}
