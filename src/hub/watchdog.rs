//! One timer for a window of messages, armed lazily and asked only when it may have rung.
//!
//! Every message moves the deadline away; moving a timer for each costs more than letting it ring
//! early now and then. Asking a timer that cannot have rung costs too: its place in the wheel is
//! cold memory. So the time is compared first.

use crate::runtime::clock::Mono;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

struct Armed {
    sleep: Pin<Box<Sleep>>,
    rings: Mono,
    /// Whom it wakes.
    told: Option<Waker>,
}

/// See the module's header.
#[derive(Default)]
pub struct Watchdog(Option<Armed>);

impl Watchdog {
    /// Ready, and disarmed, once it rang; armed for `wait` from `now` when it was not armed.
    pub fn poll(&mut self, now: Mono, wait: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let armed = self.0.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep(wait)),
            rings: now + wait,
            told: None,
        });
        let told = armed.told.as_ref();
        let told = told.is_some_and(|waker| waker.will_wake(cx.waker()));
        if told && now < armed.rings {
            return Poll::Pending;
        }
        let rang = armed.sleep.as_mut().poll(cx);
        match rang {
            Poll::Ready(()) => self.0 = None,
            Poll::Pending if !told => armed.told = Some(cx.waker().clone()),
            Poll::Pending => {}
        }
        rang
    }

    /// Whether a timer is there.
    pub fn is_armed(&self) -> bool {
        self.0.is_some()
    }

    /// With nothing to watch, it stays armed for what comes next, and ends when it has rung.
    pub fn rest(&mut self, now: Mono) {
        if self.0.as_ref().is_some_and(|armed| now >= armed.rings) {
            self.0 = None;
        }
    }

    /// Forgets the timer.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::Watchdog;
    use crate::runtime::clock::{self, Mono};
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    const WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn it_rings_once_and_not_early() {
        let mut dog = Watchdog::default();
        let begun = clock::mono();
        poll_fn(|cx| dog.poll(clock::mono(), WAIT, cx)).await;
        assert!(clock::mono().since(begun) >= WAIT);
        assert!(!dog.is_armed());
    }

    #[tokio::test]
    async fn a_task_that_took_over_is_woken_too() {
        let mut dog = Watchdog::default();
        let first = poll_fn(|cx| Poll::Ready(dog.poll(clock::mono(), WAIT, cx))).await;
        assert!(first.is_pending());
        let other = tokio::spawn(async move {
            poll_fn(|cx| dog.poll(clock::mono(), Duration::from_secs(3600), cx)).await;
        });
        let woken = tokio::time::timeout(Duration::from_secs(10), other).await;
        woken.expect("woken").expect("no panic");
    }

    #[tokio::test]
    async fn at_rest_it_stays_armed_until_it_has_rung() {
        let mut dog = Watchdog::default();
        let now = Mono::from_start(Duration::from_secs(5));
        let armed = poll_fn(|cx| Poll::Ready(dog.poll(now, WAIT, cx))).await;
        assert!(armed.is_pending());
        dog.rest(now);
        assert!(dog.is_armed());
        dog.rest(now + WAIT);
        assert!(!dog.is_armed());
    }
}
