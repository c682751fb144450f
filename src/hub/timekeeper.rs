//! Which wall clock to sign by. Pure: two clock readings in, an answer out.
//!
//! A token's end is wall-clock time, and the wall clock may be set wrong, be corrected, or have
//! moved on while the machine slept. The monotonic clock only ever shows what passed while the
//! machine was awake. So the distance between the two is remembered as of the last token the hub
//! took. When the wall clock has jumped from there, it is believed first, because it was probably
//! corrected; when the hub refuses what was signed by it, the remembered distance is used until
//! the wall clock moves again.

use crate::runtime::clock::{Mono, Unix};
use std::time::Duration;

/// More than this is a jump; less is a clock being steered, or a late reading.
pub const JUMP: Duration = Duration::from_secs(30);

/// The distance from the monotonic to the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(Duration);

impl Offset {
    /// The distance now. A wall clock before 1970 reads as the monotonic one.
    #[must_use]
    pub fn of(now: Mono, wall: Unix) -> Self {
        let since_1970 = wall.since(Unix::default());
        Self(since_1970.saturating_sub(now.since(Mono::default())))
    }

    /// The wall clock at `now`, by this distance.
    #[must_use]
    pub fn wall(self, now: Mono) -> Unix {
        Unix::default() + self.0 + now.since(Mono::default())
    }

    /// Whether the two are the same clock.
    #[must_use]
    pub fn agrees(self, other: Self) -> bool {
        self.0.abs_diff(other.0) <= JUMP
    }
}

/// What is known about the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timekeeper {
    trusted: Option<Offset>,
    distrusted: Option<Offset>,
}

impl Timekeeper {
    /// The clocks to sign by, best first.
    #[must_use]
    pub fn clocks(&self, current: Offset) -> Vec<Offset> {
        match self.trusted {
            Some(trusted) if !trusted.agrees(current) => {
                if self.distrusted.is_some_and(|known| known.agrees(current)) {
                    vec![trusted, current]
                } else {
                    vec![current, trusted]
                }
            }
            _ => vec![current],
        }
    }

    /// Whether the wall clock has moved since the hub last took a token, and nobody has found out
    /// yet what that means.
    #[must_use]
    pub fn jumped(&self, current: Offset) -> bool {
        let known = [self.trusted, self.distrusted];
        self.trusted.is_some() && !known.into_iter().flatten().any(|o| o.agrees(current))
    }

    /// The hub took a token signed by `offset`.
    pub fn accepted(&mut self, offset: Offset) {
        self.trusted = Some(offset);
        if self.distrusted.is_some_and(|known| known.agrees(offset)) {
            self.distrusted = None;
        }
    }

    /// The hub refused a token signed by `offset`.
    pub fn refused(&mut self, offset: Offset) {
        if self.trusted.is_some_and(|trusted| !trusted.agrees(offset)) {
            self.distrusted = Some(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JUMP, Offset, Timekeeper};
    use crate::runtime::clock::{Mono, Unix};
    use std::time::Duration;

    const HOUR: i64 = 3600;
    const START: i64 = 1_000_000;

    /// The distance when the wall clock is `jump` seconds off.
    fn at(seconds: u64, jump: i64) -> Offset {
        let wall = START + i64::try_from(seconds).unwrap() + jump;
        Offset::of(
            Mono::from_start(Duration::from_secs(seconds)),
            Unix::from_secs(wall.unsigned_abs()),
        )
    }

    fn known() -> Timekeeper {
        let mut keeper = Timekeeper::default();
        keeper.accepted(at(10, 0));
        keeper
    }

    #[test]
    fn without_a_jump_there_is_one_clock() {
        assert_eq!(Timekeeper::default().clocks(at(0, HOUR)), [at(0, HOUR)]);
        assert_eq!(known().clocks(at(500, 20)), [at(500, 20)]);
        assert!(!known().jumped(at(500, 20)));
        assert_eq!(JUMP, Duration::from_secs(30));
    }

    #[test]
    fn an_offset_gives_the_wall_clock_back() {
        let now = Mono::from_start(Duration::from_secs(7));
        assert_eq!(at(0, 0).wall(now), Unix::from_secs(1_000_007));
    }

    #[test]
    fn a_jump_is_believed_first_and_the_old_clock_is_the_second_try() {
        for jump in [HOUR, -HOUR] {
            let keeper = known();
            assert!(keeper.jumped(at(20, jump)));
            assert_eq!(keeper.clocks(at(20, jump)), [at(20, jump), at(10, 0)]);
        }
    }

    #[test]
    fn a_jump_the_hub_confirms_is_the_new_time() {
        let mut keeper = known();
        keeper.accepted(at(20, HOUR));
        assert!(!keeper.jumped(at(30, HOUR)));
        assert_eq!(keeper.clocks(at(30, HOUR)), [at(30, HOUR)]);
    }

    #[test]
    fn a_jump_the_hub_refuses_is_not_tried_first_again() {
        let mut keeper = known();
        keeper.refused(at(20, -HOUR));
        keeper.accepted(at(10, 0));
        assert!(!keeper.jumped(at(60, -HOUR)), "no storm");
        assert_eq!(keeper.clocks(at(60, -HOUR)), [at(10, 0), at(60, -HOUR)]);
        // Corrected: back where it was.
        assert!(!keeper.jumped(at(90, 0)));
        assert_eq!(keeper.clocks(at(90, 0)), [at(90, 0)]);
        // And when it moves elsewhere, that is news again.
        assert!(keeper.jumped(at(95, HOUR)));
    }

    #[test]
    fn a_refusal_for_another_cause_does_not_cost_the_only_clock() {
        let mut keeper = known();
        keeper.refused(at(20, 5));
        assert_eq!(keeper.clocks(at(21, 5)), [at(21, 5)]);
    }
}
