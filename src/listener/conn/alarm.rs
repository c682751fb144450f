//! One timer per connection, re-armed lazily.
//!
//! Most deadlines only move away: every packet pushes the keep-alive out. Moving a timer for each
//! of them costs more than the packet, so a timer that is armed too early stays, rings once for
//! nothing, and is armed again for what is left. It moves only when a deadline comes nearer.

use crate::runtime::clock::{self, Mono};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// The shortest time between two rings, against a deadline that stays in the past.
const FLOOR: Duration = Duration::from_millis(5);

pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// When it rings.
    armed: Mono,
    /// When it may ring next.
    not_before: Mono,
}

impl Alarm {
    pub(super) fn new(deadline: Mono) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(deadline.since(clock::mono()))),
            armed: deadline,
            not_before: Mono::default(),
        }
    }

    /// Whether a task that waits for the alarm already is woken in time for `deadline`.
    pub(super) fn rings_by(&self, deadline: Mono) -> bool {
        self.armed <= deadline.max(self.not_before)
    }

    /// Ready once `deadline` has passed; wakes the task for it otherwise.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Mono) -> Poll<()> {
        let deadline = deadline.max(self.not_before);
        if deadline < self.armed {
            self.arm(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = clock::mono();
            if now >= deadline {
                self.not_before = now + FLOOR;
                return Poll::Ready(());
            }
            self.arm(deadline);
        }
    }

    fn arm(&mut self, deadline: Mono) {
        let wait = deadline.since(clock::mono());
        self.sleep.set(tokio::time::sleep(wait));
        self.armed = deadline;
    }
}

#[cfg(test)]
mod tests {
    use super::{Alarm, FLOOR};
    use crate::runtime::clock::{self, Mono};
    use std::future::poll_fn;
    use std::task::{Context, Waker};
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);

    async fn ring(alarm: &mut Alarm, deadline: Mono) -> Mono {
        let rung = timeout(SOON, poll_fn(|cx| alarm.poll(cx, deadline))).await;
        rung.expect("the alarm rings");
        clock::mono()
    }

    #[tokio::test]
    async fn a_deadline_that_moved_away_does_not_ring_early_nor_move_the_timer() {
        let early = clock::mono() + Duration::from_millis(20);
        let mut alarm = Alarm::new(early);
        let late = early + Duration::from_millis(40);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            assert!(alarm.poll(&mut cx, late).is_pending());
        }
        assert_eq!(
            alarm.armed, early,
            "the timer was moved for a later deadline"
        );
        assert!(ring(&mut alarm, late).await >= late);
    }

    #[tokio::test]
    async fn a_deadline_that_came_nearer_rings_in_time() {
        let mut alarm = Alarm::new(Mono::far_future());
        let near = clock::mono() + Duration::from_millis(20);
        assert!(ring(&mut alarm, near).await >= near);
    }

    #[tokio::test]
    async fn a_deadline_that_stays_in_the_past_cannot_spin() {
        let past = clock::mono();
        let mut alarm = Alarm::new(past);
        let first = ring(&mut alarm, past).await;
        assert!(ring(&mut alarm, past).await.since(first) >= FLOOR);
    }
}
