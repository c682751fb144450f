//! When messages are due at a fixed rate, whatever the server does. Pure.

use crate::runtime::clock::Mono;
use std::time::Duration;

/// The run's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When the first message is due.
    pub start: Mono,
    /// Messages due from here on are measured…
    pub from: Mono,
    /// …and none is due from here on.
    pub until: Mono,
    /// Messages a second of all devices together; 0 when nothing is due by time.
    pub rate: u32,
    /// How many devices share the rate.
    pub devices: usize,
}

impl Schedule {
    /// When message `k` (from 0) of the device at `index` is due: the devices take turns.
    #[must_use]
    pub fn due(&self, index: usize, k: u64) -> Mono {
        let turn = u128::from(k) * self.devices as u128 + index as u128;
        let nanos = turn * 1_000_000_000 / u128::from(self.rate.max(1));
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many messages are due in all, and how many of them are measured.
    #[must_use]
    pub fn planned(&self) -> u64 {
        let nanos = self.until.since(self.start).as_nanos();
        let due = (nanos * u128::from(self.rate)).div_ceil(1_000_000_000);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// Whether a message that counts from `at` is measured.
    #[must_use]
    pub fn measures(&self, at: Mono) -> bool {
        (self.from..self.until).contains(&at)
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    #[test]
    fn devices_take_turns_and_the_rate_is_exact() {
        let start = Mono::from_start(Duration::from_secs(100));
        let schedule = Schedule {
            start,
            from: start + Duration::from_secs(1),
            until: start + Duration::from_secs(10),
            rate: 300,
            devices: 7,
        };
        let mut due: Vec<_> = (0..7)
            .flat_map(|index| (0..1000).map(move |k| schedule.due(index, k)))
            .filter(|at| *at < schedule.until)
            .collect();
        due.sort();
        assert_eq!(due.len() as u64, schedule.planned());
        assert_eq!(due.len(), 3000);
        for (turn, at) in due.iter().enumerate() {
            let ideal = Duration::from_secs_f64(turn as f64 / 300.0);
            assert!(at.since(start).abs_diff(ideal) < Duration::from_micros(1));
        }
        assert_eq!(
            due.iter().filter(|at| schedule.measures(**at)).count(),
            2700
        );
    }
}
