//! What every connection shares and none changes: the bounds and the meters.

use super::Records;
use super::blocks::Blocks;
use super::poison::Loops;
use super::refusal::Voice;
use super::watch::Watches;
use crate::config::limits::Limits;
use crate::mqtt::session::SessionLimits;
use crate::router::refused::Folder;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;
use prometheus::IntGauge;
use std::sync::Arc;

/// Bounds and meters, with the handles the hot path needs. A connection keeps what it began with.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    /// Where refused messages are kept, when a folder is configured.
    pub(super) refused: Option<Arc<Folder>>,
    /// Devices that come back with the message they were closed for.
    pub(super) loops: Arc<Loops>,
    /// Log lines about refused sessions, subscriptions and messages.
    pub(super) voice: Arc<Voice>,
    /// Spans of messages, where traces are configured.
    pub(super) tracer: Option<Arc<Tracer>>,
    /// Devices an operator looks at.
    pub(super) watches: Arc<Watches>,
    /// Devices an operator keeps out.
    pub(super) blocks: Arc<Blocks>,
    paused: [IntGauge; 4],
}

/// Why a connection's socket is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// The uplink window is full: the hub has the word.
    Window,
    /// The rule's rate is used up.
    Rate,
    /// The device does not take its answers.
    Write,
    /// A refused message is being kept.
    Filing,
}

impl Pause {
    const fn label(self) -> &'static str {
        match self {
            Self::Window => "uplink_window",
            Self::Rate => "rate",
            Self::Write => "write",
            Self::Filing => "filing",
        }
    }
}

impl Setup {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>, records: &Records) -> Arc<Self> {
        let pauses = [Pause::Window, Pause::Rate, Pause::Write, Pause::Filing];
        let paused = pauses.map(|cause| {
            metrics
                .paused_connections
                .with_label_values(&[cause.label()])
        });
        let (blocks, watches) = (limits.blocks, limits.watches);
        Arc::new(Self {
            loops: Arc::new(Loops::new(&limits)),
            limits,
            metrics,
            refused: records.refused.clone(),
            tracer: records.tracer.clone(),
            voice: Arc::new(Voice::of(records)),
            blocks: Arc::new(Blocks::new(blocks)),
            watches: Arc::new(Watches::new(watches)),
            paused,
        })
    }

    /// The same with other bounds, for connections that are still to come.
    pub(super) fn with_limits(&self, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            ..self.clone()
        })
    }

    /// The bounds of a session.
    pub(super) fn session_limits(&self) -> SessionLimits {
        SessionLimits::from(&self.limits)
    }
}

/// A unit of a gauge, taken back on drop.
pub(super) struct Counted(IntGauge);

impl Counted {
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One connection's share of `paused_connections`.
#[derive(Default)]
pub(super) struct Paused(Option<(Pause, Counted)>);

impl Paused {
    /// Shows `cause`, or that the socket is read.
    pub(super) fn show(&mut self, cause: Option<Pause>, setup: &Setup) {
        if self.0.as_ref().map(|(shown, _)| *shown) != cause {
            let [window, rate, write, filing] = &setup.paused;
            self.0 = cause.map(|cause| {
                let gauge = match cause {
                    Pause::Window => window,
                    Pause::Rate => rate,
                    Pause::Write => write,
                    Pause::Filing => filing,
                };
                (cause, Counted::new(gauge.clone()))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pause, Paused, Setup};
    use crate::config::limits::Limits;
    use crate::listener::Records;
    use crate::telemetry::metrics::Metrics;
    use std::sync::Arc;

    #[test]
    fn a_connection_is_paused_for_one_cause_at_a_time() {
        let metrics = Arc::new(Metrics::new());
        let setup = Setup::new(Limits::default(), metrics.clone(), &Records::none());
        let shown = |cause: Pause| {
            let gauge = &metrics.paused_connections;
            gauge.with_label_values(&[cause.label()]).get()
        };
        let mut paused = Paused::default();
        paused.show(Some(Pause::Window), &setup);
        paused.show(Some(Pause::Window), &setup);
        assert_eq!(shown(Pause::Window), 1);
        paused.show(Some(Pause::Rate), &setup);
        assert_eq!((shown(Pause::Window), shown(Pause::Rate)), (0, 1));
        paused.show(None, &setup);
        assert_eq!(shown(Pause::Rate), 0);
        paused.show(Some(Pause::Write), &setup);
        drop(paused);
        assert_eq!(shown(Pause::Write), 0);
    }
}
