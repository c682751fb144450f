//! The life of one pooled connection, as a state machine. Pure: events and a time in, a state out.
//!
//! ```text
//!  Dormant ─wanted▶ Connecting ─opened▶ Open ─token▶ Serving        any ─stop▶ Stopped
//!                    ▲      │ failed     │  ◀token ended─ │
//!                    └──────┴─ Waiting ◀─┴──────lost──────┘
//! ```
//!
//! The driver (`connection`) does what a state asks for and reports what came of it. A connection
//! that lasted starts over with the shortest pause; one that keeps breaking waits longer and
//! longer.

use super::tuning;
use crate::runtime::clock::Mono;
use std::time::Duration;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not wanted yet.
    Dormant,
    /// TCP, TLS, SASL, Open.
    Connecting,
    /// Open, without a valid token.
    Open,
    /// Open, with one.
    Serving,
    /// Until then.
    Waiting(Mono),
    /// For good.
    Stopped,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The pool wants the connection.
    Wanted,
    /// It is open.
    Opened,
    /// It could not be opened.
    Failed,
    /// Whether it holds a valid token.
    Token(bool),
    /// It broke, or was cut.
    Lost,
    /// The pause is over.
    Rested,
    /// The hub is shut down.
    Stop,
}

/// The machine.
#[derive(Debug)]
pub struct Supervisor {
    state: State,
    failures: u32,
    opened: Mono,
    pause_min: Duration,
    pause_max: Duration,
}

impl Supervisor {
    /// A connection nobody wants yet; its pauses double from `pause_min` to `pause_max`.
    #[must_use]
    pub fn new(pause_min: Duration, pause_max: Duration) -> Self {
        Self {
            state: State::Dormant,
            failures: 0,
            opened: Mono::default(),
            pause_min,
            pause_max,
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Moves on. `roll` in 0..1 spreads the pauses of different connections. An event that means
    /// nothing in a state, such as news of a connection that is gone, changes nothing.
    pub fn on(&mut self, event: Event, now: Mono, roll: f64) -> State {
        self.state = match (self.state, event) {
            (State::Stopped, _) | (_, Event::Stop) => State::Stopped,
            (State::Dormant, Event::Wanted) => State::Connecting,
            (State::Connecting, Event::Opened) => {
                self.opened = now;
                State::Open
            }
            (State::Open, Event::Token(true)) => State::Serving,
            (State::Serving, Event::Token(false)) => State::Open,
            (State::Connecting, Event::Failed) => self.rest(now, roll),
            (State::Open | State::Serving, Event::Lost) => {
                if now.since(self.opened) > self.pause_max {
                    self.failures = 0;
                }
                self.rest(now, roll)
            }
            (State::Waiting(_), Event::Rested) => State::Connecting,
            (state, _) => state,
        };
        self.state
    }

    fn rest(&mut self, now: Mono, roll: f64) -> State {
        let pause = tuning::backoff(self.pause_min, self.pause_max, self.failures, roll);
        self.failures = self.failures.saturating_add(1);
        State::Waiting(now + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, State, Supervisor};
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Mono {
        Mono::from_start(Duration::from_secs_f64(seconds))
    }

    fn connecting() -> Supervisor {
        let mut machine = Supervisor::new(SECOND, 8 * SECOND);
        assert_eq!(machine.on(Event::Wanted, at(0.0), 1.0), State::Connecting);
        machine
    }

    #[test]
    fn a_connection_comes_up_serves_and_comes_back() {
        let mut machine = connecting();
        for (event, time, state) in [
            (Event::Opened, 1.0, State::Open),
            (Event::Token(true), 2.0, State::Serving),
            (Event::Token(false), 3.0, State::Open),
            (Event::Token(true), 4.0, State::Serving),
            (Event::Lost, 5.0, State::Waiting(at(6.0))),
            (Event::Rested, 6.0, State::Connecting),
            (Event::Opened, 7.0, State::Open),
            (Event::Lost, 8.0, State::Waiting(at(10.0))),
        ] {
            assert_eq!(machine.on(event, at(time), 1.0), state, "{event:?}");
        }
    }

    #[test]
    fn pauses_grow_are_spread_and_have_an_end() {
        let mut machine = connecting();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            match machine.on(Event::Failed, at(100.0), 1.0) {
                State::Waiting(until) => pauses.push(until.since(at(100.0)).as_secs()),
                other => panic!("{other:?}"),
            }
            machine.on(Event::Rested, at(100.0), 1.0);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
        let early = machine.on(Event::Failed, at(100.0), 0.0);
        assert_eq!(early, State::Waiting(at(104.0)), "half of it is jitter");
    }

    #[test]
    fn a_connection_that_lasted_starts_over() {
        let mut machine = connecting();
        for _ in 0..5 {
            machine.on(Event::Failed, at(0.0), 1.0);
            machine.on(Event::Rested, at(0.0), 1.0);
        }
        machine.on(Event::Opened, at(10.0), 1.0);
        let short = machine.on(Event::Lost, at(11.0), 1.0);
        assert_eq!(short, State::Waiting(at(19.0)), "it lasted a second");
        machine.on(Event::Rested, at(19.0), 1.0);
        machine.on(Event::Opened, at(20.0), 1.0);
        let long = machine.on(Event::Lost, at(29.0), 1.0);
        assert_eq!(long, State::Waiting(at(30.0)), "it lasted nine");
    }

    #[test]
    fn stop_is_the_end_from_everywhere() {
        let events = [
            Event::Wanted,
            Event::Opened,
            Event::Token(true),
            Event::Lost,
            Event::Rested,
        ];
        for steps in 0..=events.len() {
            let mut machine = Supervisor::new(SECOND, SECOND);
            for event in &events[..steps] {
                machine.on(*event, at(0.0), 1.0);
            }
            machine.on(Event::Stop, at(1.0), 1.0);
            for event in events {
                assert_eq!(machine.on(event, at(2.0), 1.0), State::Stopped);
            }
        }
    }

    #[test]
    fn news_of_a_connection_that_is_gone_change_nothing() {
        let mut machine = connecting();
        let waiting = machine.on(Event::Failed, at(0.0), 1.0);
        for event in [
            Event::Token(true),
            Event::Lost,
            Event::Opened,
            Event::Wanted,
        ] {
            assert_eq!(machine.on(event, at(0.5), 1.0), waiting, "{event:?}");
        }
    }
}
