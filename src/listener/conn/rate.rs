//! The rate a rule grants a device: messages per second with one second of burst; pure.

use crate::runtime::clock::Mono;
use std::num::NonZeroU32;
use std::time::Duration;

/// Burst: what a device may send at once after a pause.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket kept as one point in time: when the bucket will be full again.
pub(super) struct Rate {
    /// Time one message costs; zero without a limit.
    cost: Duration,
    full_at: Mono,
}

impl Rate {
    pub(super) fn new(messages_per_s: Option<NonZeroU32>) -> Self {
        let cost = match messages_per_s {
            None => Duration::ZERO,
            Some(n) => BURST / n.get(),
        };
        Self {
            cost,
            full_at: Mono::default(),
        }
    }

    /// Takes a message into account. It was read already, so it is never refused for the rate.
    pub(super) fn spend(&mut self, now: Mono) {
        if !self.cost.is_zero() {
            self.full_at = self.full_at.max(now) + self.cost;
        }
    }

    /// Until when the socket may not be read; `None` when it may.
    pub(super) fn blocked_until(&self, now: Mono) -> Option<Mono> {
        // The next message must fit: its cost added, the bucket may not be overdrawn.
        let free_at = self.full_at + self.cost;
        (free_at.since(now) > BURST).then(|| free_at - BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;
    use crate::runtime::clock::Mono;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn ms(n: u64) -> Mono {
        Mono::from_start(Duration::from_millis(n))
    }

    fn sent_within(rate: &mut Rate, from: u64, to: u64) -> usize {
        let mut sent = 0;
        for now in from..to {
            while rate.blocked_until(ms(now)).is_none() && sent < 10_000 {
                rate.spend(ms(now));
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn without_a_limit_nothing_is_blocked() {
        let mut rate = Rate::new(None);
        for _ in 0..1_000_000 {
            rate.spend(ms(5));
        }
        assert_eq!(rate.blocked_until(ms(5)), None);
    }

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let mut rate = Rate::new(NonZeroU32::new(20));
        assert_eq!(sent_within(&mut rate, 5_000, 5_001), 20);
        assert_eq!(sent_within(&mut rate, 5_001, 7_001), 40);
    }

    #[test]
    fn the_block_ends_exactly_when_it_says() {
        let mut rate = Rate::new(NonZeroU32::new(1));
        rate.spend(ms(5_000));
        let until = rate.blocked_until(ms(5_000)).unwrap();
        assert!(
            rate.blocked_until(until - Duration::from_millis(1))
                .is_some()
        );
        assert_eq!(rate.blocked_until(until), None);
    }
}
