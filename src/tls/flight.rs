//! How long a handshake has waited for its client, all its answers together.
//!
//! Time this side takes does not count, so that a busy gateway blames nobody; a byte now and then
//! does not set it back, so that a trickle is as slow as silence.

use crate::runtime::clock::Mono;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module's header.
#[derive(Debug, Default)]
pub struct Flight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when it is the client's turn.
    since: Option<Mono>,
    spent: Duration,
    over: bool,
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is the client's turn, from `now` on unless it was before.
    pub fn wait(&self, now: Mono) {
        self.state().since.get_or_insert(now);
    }

    /// The client has done something.
    pub fn heard(&self, now: Mono) {
        let mut state = self.state();
        if let Some(since) = state.since.take() {
            state.spent += now.since(since);
        }
    }

    /// The client has proved itself, or is gone: nothing is counted any more.
    pub fn end(&self) {
        self.state().over = true;
    }

    /// Whether nothing is counted any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state().over
    }

    /// The time waited up to `now`; zero once it is over.
    #[must_use]
    pub fn waited(&self, now: Mono) -> Duration {
        let state = self.state();
        match state.over {
            true => Duration::ZERO,
            false => state.spent + state.since.map_or(Duration::ZERO, |since| now.since(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flight, Mono};
    use std::time::Duration;

    #[test]
    fn only_the_clients_time_counts_and_a_trickle_does_not_set_it_back() {
        let at = |ms| Mono::from_start(Duration::from_millis(ms));
        let waited = |flight: &Flight, ms| flight.waited(at(ms)).as_millis();
        let flight = Flight::default();
        flight.wait(at(100));
        flight.wait(at(150));
        assert_eq!(waited(&flight, 300), 200);
        flight.heard(at(300));
        assert_eq!(waited(&flight, 9_000), 200, "this side's own time");
        flight.wait(at(9_000));
        assert_eq!(waited(&flight, 9_500), 700);
        flight.end();
        assert_eq!(waited(&flight, 99_000), 0);
    }
}
