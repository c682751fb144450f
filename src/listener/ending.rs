//! Every accepted socket ends in exactly one counted reason.
//!
//! An [`Ending`] is made with the socket and travels with it. The first reason given wins; a
//! connection lost without one counts as `dropped`, and one lost in a panic as `panic`, so that
//! `disconnects_total` always adds up (I12) and no task death goes unseen (I14).

use crate::telemetry::metrics::Metrics;
use crate::telemetry::reason::Reason;
use std::sync::Arc;

/// The reason of a socket that ended without anybody saying why; a bug when seen.
const UNEXPLAINED: Reason = Reason::Dropped;

/// The one count of one connection's end.
pub(super) struct Ending {
    metrics: Arc<Metrics>,
    open: bool,
}

impl Ending {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            open: true,
        }
    }

    /// Counts the end; later reasons are ignored.
    pub(super) fn end(&mut self, reason: Reason) {
        if std::mem::take(&mut self.open) {
            self.metrics
                .disconnects
                .with_label_values(&[reason.word()])
                .inc();
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.open && std::thread::panicking() {
            self.metrics.panics.inc();
            self.end(Reason::Panic);
        }
        self.end(UNEXPLAINED);
    }
}

#[cfg(test)]
mod tests {
    use super::Ending;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::reason::Reason;
    use std::sync::Arc;

    fn counted(metrics: &Metrics, reason: &str) -> u64 {
        metrics.disconnects.with_label_values(&[reason]).get()
    }

    #[test]
    fn only_the_first_reason_counts() {
        let metrics = Arc::new(Metrics::new());
        let mut ending = Ending::new(metrics.clone());
        ending.end(Reason::Clean);
        ending.end(Reason::PeerClosed);
        drop(ending);
        assert_eq!(counted(&metrics, "clean"), 1);
        assert_eq!(counted(&metrics, "peer_closed"), 0);
        assert_eq!(counted(&metrics, "dropped"), 0);
    }

    #[test]
    fn a_lost_connection_is_counted_as_dropped() {
        let metrics = Arc::new(Metrics::new());
        drop(Ending::new(metrics.clone()));
        assert_eq!(counted(&metrics, "dropped"), 1);
        assert_eq!(metrics.panics.get(), 0);
    }

    #[test]
    fn a_panic_is_counted_once_as_a_panic() {
        let metrics = Arc::new(Metrics::new());
        let ending = Ending::new(metrics.clone());
        let task = std::thread::spawn(move || {
            let _held = ending;
            std::panic::resume_unwind(Box::new("planned by the test"));
        });
        assert!(task.join().is_err());
        assert_eq!(metrics.panics.get(), 1);
        assert_eq!(counted(&metrics, "panic"), 1);
        assert_eq!(counted(&metrics, "dropped"), 0);
    }
}
