//! Password checks: tens of milliseconds of CPU each, so few at once and never on a data thread.
//!
//! A check first takes a place in the queue (`admission`), then waits a bounded time for a
//! worker. What finds no place is told to come again; it is never admitted unchecked.

use super::admission::Permit;
use crate::auth::{Admission, Denial, PasswordCheck};
use crate::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a check may wait for a worker.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a check went.
pub(super) enum Checked {
    /// It ran.
    Decided(Result<Admission, Denial>),
    /// No worker in time, or the check broke off.
    Busy,
}

/// The workers.
pub(super) struct Passwords {
    workers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Passwords {
    pub(super) fn new(at_once: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            workers: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
            metrics,
        }
    }

    /// Runs `check` on a blocking thread.
    pub(super) async fn run(&self, place: Permit, check: PasswordCheck) -> Checked {
        self.run_work(place, move || check.run())
            .await
            .map_or(Checked::Busy, Checked::Decided)
    }

    async fn run_work<T: Send + 'static>(
        &self,
        place: Permit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let worker = self.workers.clone().acquire_owned();
        let worker = tokio::time::timeout(PATIENCE, worker).await.ok()?.ok()?;
        // Both permits go with the work: a peer that hangs up does not free a CPU that is busy.
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, worker);
            work()
        });
        match done.await {
            Ok(result) => Some(result),
            Err(error) => {
                if error.is_panic() {
                    self.metrics.panics.inc();
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Passwords;
    use crate::config::limits::Limits;
    use crate::listener::admission::Gate;
    use crate::telemetry::metrics::Metrics;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;
    use tokio::time::timeout;

    fn place() -> super::Permit {
        let gate = Gate::new(&Limits::default());
        gate.password([10, 0, 0, 1].into()).unwrap()
    }

    #[tokio::test]
    async fn a_peer_that_hangs_up_does_not_free_the_busy_worker() {
        let passwords = Arc::new(Passwords::new(1, Arc::new(Metrics::new())));
        let (finish, finished) = mpsc::sync_channel::<()>(1);
        let mut slow = Box::pin(passwords.run_work(place(), move || finished.recv()));
        let begun = timeout(Duration::from_millis(100), slow.as_mut()).await;
        assert!(begun.is_err(), "the work ended by itself");
        drop(slow);
        assert_eq!(passwords.workers.available_permits(), 0);
        finish.send(()).unwrap();
        let next = passwords.run_work(place(), || 7);
        assert_eq!(
            timeout(Duration::from_secs(10), next).await.unwrap(),
            Some(7)
        );
    }

    #[tokio::test]
    async fn no_worker_in_time_means_busy_not_admitted() {
        let passwords = Passwords::new(0, Arc::new(Metrics::new()));
        assert_eq!(passwords.run_work(place(), || 7).await, None);
    }

    #[tokio::test]
    async fn a_check_that_panics_is_counted_and_admits_nobody() {
        let metrics = Arc::new(Metrics::new());
        let passwords = Passwords::new(1, metrics.clone());
        let work = || std::panic::resume_unwind(Box::new("planned by the test"));
        assert_eq!(passwords.run_work::<()>(place(), work).await, None);
        assert_eq!(metrics.panics.get(), 1);
        assert_eq!(passwords.workers.available_permits(), 1);
    }
}
