//! How fast a device may be taken over; pure.
//!
//! Two holders of one credential that both reconnect at once would take each other over for
//! ever. Each take-over therefore makes the next one wait: not at all, then the base pause, then
//! twice that, up to a minute. A quiet while forgets everything.

use crate::runtime::clock::Mono;
use std::time::Duration;

/// The longest pause between two take-overs of a device.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Base pauses without a take-over after which a device counts as quiet again, at least.
const QUIET_PAUSES: u32 = 10;

/// How often a device was taken over lately. Lives in the session's registry entry and moves to
/// the session that takes over, so it needs no table of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heat {
    level: u8,
    last: Mono,
}

impl Heat {
    /// How long a take-over that is asked for at `now` must wait.
    pub(super) fn wait(self, base: Duration, now: Mono) -> Duration {
        let level = self.level_at(base, now);
        (self.last + pause(base, level)).since(now)
    }

    /// The heat after a take-over at `now`.
    pub(super) fn after_takeover(self, base: Duration, now: Mono) -> Self {
        Self {
            level: self.level_at(base, now).saturating_add(1),
            last: now,
        }
    }

    fn level_at(self, base: Duration, now: Mono) -> u8 {
        let quiet = (base * QUIET_PAUSES).max(pause(base, self.level) * 2);
        if now.since(self.last) >= quiet {
            0
        } else {
            self.level
        }
    }
}

fn pause(base: Duration, level: u8) -> Duration {
    match level {
        0 => Duration::ZERO,
        _ => base
            .saturating_mul(1 << u32::from(level - 1).min(16))
            .min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::Heat;
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    const BASE: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Mono {
        Mono::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_first_takeover_waits_for_nothing() {
        assert_eq!(Heat::default().wait(BASE, at(0)), Duration::ZERO);
        assert_eq!(Heat::default().wait(BASE, at(100)), Duration::ZERO);
    }

    #[test]
    fn each_takeover_doubles_the_wait_for_the_next_up_to_a_minute() {
        let mut heat = Heat::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            heat = heat.after_takeover(BASE, at(100));
            waits.push(heat.wait(BASE, at(100)).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn levels_beyond_any_shift_stay_at_a_minute() {
        let mut heat = Heat::default();
        for _ in 0..300 {
            heat = heat.after_takeover(BASE, at(100));
        }
        assert_eq!(heat.wait(BASE, at(100)), Duration::from_secs(60));
    }

    #[test]
    fn time_that_passed_counts_towards_the_wait() {
        let heat = Heat::default()
            .after_takeover(BASE, at(100))
            .after_takeover(BASE, at(100));
        assert_eq!(heat.wait(BASE, at(101)), Duration::from_secs(1));
        assert_eq!(heat.wait(BASE, at(102)), Duration::ZERO);
    }

    #[test]
    fn a_quiet_device_starts_from_nothing_again() {
        let mut heat = Heat::default();
        for _ in 0..7 {
            heat = heat.after_takeover(BASE, at(100));
        }
        let busy = heat.after_takeover(BASE, at(219));
        assert_eq!(busy.wait(BASE, at(219)), Duration::from_secs(60));
        let quiet = heat.after_takeover(BASE, at(220));
        assert_eq!(quiet.wait(BASE, at(220)), Duration::from_secs(1));
    }

    #[test]
    fn no_base_pause_means_no_damping() {
        let mut heat = Heat::default();
        for _ in 0..50 {
            heat = heat.after_takeover(Duration::ZERO, at(100));
        }
        assert_eq!(heat.wait(Duration::ZERO, at(100)), Duration::ZERO);
    }
}
