//! When to put a token, and which candidate. Pure: events and a time in, an action out.
//!
//! One schedule per connection. It renews at a share of the token's life, keeps the current token
//! over failed renewals until its end, and tries the next candidate (the other key, the other
//! clock) within the same attempt when the hub refuses one. It never touches links; renewing is
//! not an event for them.

use super::tuning;
use crate::runtime::clock::Mono;
use std::time::Duration;

/// A policy key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `hub.key`
    Primary,
    /// `hub.secondary_key`
    Secondary,
}

impl Slot {
    /// Metric label and status word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// What a schedule goes by.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Share of a token's life after which it is renewed.
    pub renew_at: f64,
    /// First pause after a failed attempt.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put a token of this candidate, 0 being the best, then report how it went.
    Put(usize),
    /// Nothing before this time.
    Wait(Mono),
}

/// The renewal of one connection's token.
#[derive(Debug)]
pub struct Schedule {
    plan: Plan,
    due: Mono,
    ends: Option<Mono>,
    put_at: Option<Mono>,
    failures: u32,
    candidate: usize,
}

impl Schedule {
    /// A schedule of a connection that holds no token yet: one is due now.
    #[must_use]
    pub fn new(plan: Plan, now: Mono) -> Self {
        Self {
            plan,
            due: now,
            ends: None,
            put_at: None,
            failures: 0,
            candidate: 0,
        }
    }

    /// What to do now.
    #[must_use]
    pub fn action(&self, now: Mono) -> Action {
        if now >= self.due {
            return Action::Put(self.candidate);
        }
        match self.ends {
            Some(ends) if ends > now && ends < self.due => Action::Wait(ends),
            _ => Action::Wait(self.due),
        }
    }

    /// The hub took a token minted at `minted` that ends at `ends`. `roll` in 0..1 spreads the
    /// renewals of different connections.
    pub fn accepted(&mut self, now: Mono, minted: Mono, ends: Mono, roll: f64) {
        let share = (self.plan.renew_at - tuning::RENEWAL_SPREAD * roll).clamp(0.01, 0.99);
        // A token that was already old when it was taken is not put again and again.
        let left = ends.since(now) / 4;
        let pause = left.clamp(self.plan.backoff_min, self.plan.backoff_max);
        self.due = (minted + ends.since(minted).mul_f64(share)).max(now + pause);
        self.ends = Some(ends);
        self.put_at = Some(now);
        self.failures = 0;
        self.candidate = 0;
    }

    /// The hub refused the token; the next of `candidates` is tried at once.
    pub fn refused(&mut self, now: Mono, candidates: usize, roll: f64) {
        if self.candidate + 1 < candidates {
            self.candidate += 1;
            self.due = now;
        } else {
            self.failed(now, roll);
        }
    }

    /// The put failed for a cause that is not the signature. The current token stays.
    pub fn failed(&mut self, now: Mono, roll: f64) {
        self.candidate = 0;
        let (min, max) = (self.plan.backoff_min, self.plan.backoff_max);
        let mut pause = tuning::backoff(min, max, self.failures, roll);
        self.failures = self.failures.saturating_add(1);
        // Several tries must fit into what is left of the token, however long the pauses grew.
        if let Some(left) = self
            .ends
            .map(|ends| ends.since(now))
            .filter(|l| !l.is_zero())
        {
            pause = pause.min((left / 4).max(min / 4));
        }
        self.due = now + pause;
    }

    /// How much later than planned `now` is.
    #[must_use]
    pub fn late(&self, now: Mono) -> Duration {
        now.since(self.due)
    }

    /// A link was refused although this connection holds a token: put one soon, not in a storm.
    pub fn suspected(&mut self, now: Mono) {
        let earliest = self.put_at.map_or(now, |at| at + tuning::SUSPECT_MIN);
        self.due = self.due.min(earliest.max(now));
    }

    /// Something changed that a renewal would settle: the wall clock has jumped or left the token
    /// behind, or there is a newer token. Renew now, unless that is being tried already.
    pub fn news(&mut self, now: Mono) {
        if self.failures == 0 {
            self.due = self.due.min(now);
        }
    }

    /// Whether the hub holds a token of ours that has not ended.
    #[must_use]
    pub fn holds_token(&self, now: Mono) -> bool {
        self.ends.is_some_and(|ends| ends > now)
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Plan, Schedule};
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    fn at(seconds: f64) -> Mono {
        Mono::from_start(Duration::from_secs_f64(seconds))
    }

    fn schedule() -> Schedule {
        let plan = Plan {
            renew_at: 0.85,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        };
        Schedule::new(plan, at(0.0))
    }

    #[test]
    fn the_first_token_is_due_at_once() {
        assert_eq!(schedule().action(at(0.0)), Action::Put(0));
        assert!(!schedule().holds_token(at(0.0)));
    }

    #[test]
    fn renewal_comes_at_its_share_of_life_and_jitter_brings_it_forward() {
        let mut late = schedule();
        late.accepted(at(0.0), at(0.0), at(100.0), 0.0);
        assert_eq!(late.action(at(1.0)), Action::Wait(at(85.0)));
        assert_eq!(late.action(at(85.0)), Action::Put(0));
        let mut early = schedule();
        early.accepted(at(0.0), at(0.0), at(100.0), 1.0);
        assert_eq!(early.action(at(1.0)), Action::Wait(at(80.0)));
    }

    #[test]
    fn a_failed_renewal_keeps_the_token_and_retries_before_it_ends() {
        let mut s = schedule();
        s.accepted(at(0.0), at(0.0), at(100.0), 0.0);
        let mut now = at(85.0);
        let mut tries = 0;
        while now < at(100.0) {
            match s.action(now) {
                Action::Put(_) => {
                    tries += 1;
                    assert!(s.holds_token(now));
                    s.failed(now, 1.0);
                }
                Action::Wait(until) => now = until,
            }
        }
        assert!(tries > 5, "{tries} tries in the last 15 s");
        assert!(!s.holds_token(at(100.0)));
    }

    #[test]
    fn without_a_token_the_pauses_grow_to_the_longest() {
        let mut s = schedule();
        for _ in 0..10 {
            s.failed(at(0.0), 1.0);
        }
        assert_eq!(s.action(at(0.0)), Action::Wait(at(60.0)));
    }

    #[test]
    fn a_refused_token_tries_the_next_candidate_within_the_attempt() {
        let mut s = schedule();
        s.refused(at(0.0), 2, 1.0);
        assert_eq!(s.action(at(0.0)), Action::Put(1));
        s.accepted(at(0.0), at(0.0), at(10.0), 0.0);
        assert_eq!(
            s.action(at(9.0)),
            Action::Put(0),
            "the next period starts over"
        );
    }

    #[test]
    fn when_all_candidates_are_refused_it_backs_off_and_starts_over() {
        let mut s = schedule();
        s.refused(at(0.0), 2, 1.0);
        s.refused(at(0.0), 2, 1.0);
        assert_eq!(s.action(at(0.0)), Action::Wait(at(1.0)));
        assert_eq!(s.action(at(1.0)), Action::Put(0));
        s.refused(at(1.0), 2, 1.0);
        assert_eq!(s.action(at(1.0)), Action::Put(1));
        s.failed(at(1.0), 1.0);
        assert_eq!(s.action(at(3.0)), Action::Put(0));
    }

    #[test]
    fn the_only_candidate_refused_backs_off() {
        let mut s = schedule();
        s.refused(at(0.0), 1, 1.0);
        assert_eq!(s.action(at(0.5)), Action::Wait(at(1.0)));
    }

    #[test]
    fn a_token_that_was_old_when_it_was_taken_is_not_put_in_a_loop() {
        let mut s = schedule();
        s.accepted(at(95.0), at(0.0), at(100.0), 0.0);
        assert_eq!(s.action(at(95.0)), Action::Wait(at(96.25)));
    }

    #[test]
    fn refused_links_bring_one_put_forward_not_many() {
        let mut s = schedule();
        s.accepted(at(0.0), at(0.0), at(100.0), 0.0);
        s.suspected(at(0.2));
        assert_eq!(s.action(at(0.2)), Action::Wait(at(2.0)));
        s.suspected(at(5.0));
        assert_eq!(s.action(at(5.0)), Action::Put(0));
    }

    #[test]
    fn the_end_of_the_token_is_a_time_to_wake_up() {
        let mut s = schedule();
        s.accepted(at(0.0), at(0.0), at(0.4), 0.0);
        s.due = at(2.0);
        assert_eq!(s.action(at(0.1)), Action::Wait(at(0.4)));
    }

    #[test]
    fn news_renew_at_once_but_do_not_cut_a_back_off_short() {
        let mut s = schedule();
        s.accepted(at(0.0), at(0.0), at(100.0), 0.0);
        s.news(at(3.0));
        assert_eq!(s.action(at(3.0)), Action::Put(0));
        s.failed(at(3.0), 1.0);
        s.news(at(3.1));
        assert_eq!(s.action(at(3.1)), Action::Wait(at(4.0)));
    }
}
