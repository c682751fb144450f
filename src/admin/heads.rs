//! Who still sends the head of a request, and must give its place to those who wait.
//!
//! A place is for an answer, and a head arrives at once. When all places are taken, the oldest
//! head that is still not whole loses its own: after a while, which is short as long as that goes
//! on, so that a crowd of slow connections does not keep a probe waiting.

use crate::runtime::clock::{self, Mono};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a head may take when all places are taken, and how long once one was dropped.
const CALM: Duration = Duration::from_millis(400);
const PRESSED: Duration = Duration::from_millis(50);

/// For how long after a drop it is [`PRESSED`].
const PRESSURE: Duration = Duration::from_secs(5);

/// The heads that are not whole, as many as there are places at most.
#[derive(Clone, Default)]
pub(super) struct Heads(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Oldest first.
    open: VecDeque<(u64, Mono, CancellationToken)>,
    next: u64,
    dropped: Option<Mono>,
}

/// A head that is not whole, until this is dropped.
pub(super) struct Head {
    heads: Heads,
    number: u64,
    lost: CancellationToken,
}

impl Drop for Head {
    fn drop(&mut self) {
        self.done();
    }
}

impl Head {
    /// It is whole: its place is its own now.
    pub(super) fn done(&self) {
        self.heads.state().open.retain(|(n, ..)| *n != self.number);
    }

    /// Resolves when it has lost its place.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Heads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has begun.
    pub(super) fn begin(&self) -> Head {
        let lost = CancellationToken::new();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.push_back((number, clock::mono(), lost.clone()));
        drop(state);
        Head {
            heads: self.clone(),
            number,
            lost,
        }
    }

    /// A place, if need be that of a slow head.
    pub(super) async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            let wait = match places.clone().try_acquire_owned() {
                Ok(place) => return Some(place),
                Err(_) => self.press(clock::mono()),
            };
            let free = places.clone().acquire_owned();
            if let Ok(place) = tokio::time::timeout(wait, free).await {
                return place.ok();
            }
        }
    }

    /// Drops the oldest head if it had its time; how long to wait before the next try.
    fn press(&self, now: Mono) -> Duration {
        let mut state = self.state();
        let pressed = state.dropped.is_some_and(|at| now.since(at) < PRESSURE);
        let grace = if pressed { PRESSED } else { CALM };
        match state.open.front() {
            Some((_, begun, _)) if now.since(*begun) < grace => grace - now.since(*begun),
            Some(_) => {
                if let Some((_, _, lost)) = state.open.pop_front() {
                    lost.cancel();
                }
                state.dropped = Some(now);
                PRESSED
            }
            None => CALM,
        }
    }
}
