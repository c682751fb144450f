//! OpenTelemetry traces: one span for each sampled message, from its PUBLISH to the hub's word.
//!
//! Who handles messages only asks [`Tracer::sample`] and hands ended spans to [`Tracer::end`],
//! which never waits: spans go through a bounded queue to [`export`], and what has no room is
//! counted. Without `[telemetry.otlp]` there is no tracer, and a message is asked nothing.

mod context;
pub mod export;
mod otlp;
mod span;
mod wire;

use crate::runtime::clock;
use crate::runtime::random::{self, Draws};
use crate::telemetry::metrics::Metrics;
pub use context::{Context, STATE_BYTES_MAX, TRACEPARENT, TRACESTATE};
pub use span::{Ended, Facts, Outcome, Span};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The way of spans out of the process.
pub struct Tracer {
    queue: mpsc::Sender<Ended>,
    /// Messages without a `traceparent` whose draw is below this are sampled.
    threshold: u64,
    draws: Draws,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// A tracer that samples this share of the messages, and the queue it fills: `room` spans.
    #[must_use]
    pub fn new(ratio: f64, room: usize, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Ended>) {
        let (queue, spans) = mpsc::channel(room.max(1));
        let tracer = Self {
            queue,
            // Saturates: 1.0 takes every draw but one in 2^64.
            threshold: (ratio * u64::MAX as f64) as u64,
            draws: Draws::new(),
            metrics,
        };
        (tracer, spans)
    }

    /// Decides about a message: the context of its span, or `None` when it has none. A device
    /// that sent a context has decided itself, by its flag.
    pub fn sample(&self, parent: Option<&Context>) -> Option<Context> {
        let wanted = match parent {
            Some(parent) => parent.sampled,
            None => self.draws.draw() < self.threshold,
        };
        if !wanted {
            return None;
        }
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        random::fill(&mut trace).ok()?;
        random::fill(&mut span).ok()?;
        Some(Context {
            trace: parent.map_or(trace, |parent| parent.trace),
            span,
            sampled: true,
        })
    }

    /// A message is decided about. Its span is queued, or dropped and counted.
    pub fn end(&self, span: Span, outcome: Outcome) {
        let end = clock::unix();
        let ended = Ended { span, end, outcome };
        if self.queue.try_send(ended).is_err() {
            self.metrics.trace_queue_full.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Context, Facts, Outcome, Span, Tracer};
    use crate::runtime::clock::Unix;
    use crate::telemetry::metrics::Metrics;
    use std::sync::Arc;

    fn tracer(ratio: f64, room: usize) -> (Tracer, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let (tracer, spans) = Tracer::new(ratio, room, metrics.clone());
        std::mem::forget(spans);
        (tracer, metrics)
    }

    #[test]
    fn the_share_that_is_sampled_is_the_one_configured() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.01, 50, 150), (1.0, 10_000, 10_000)] {
            let (tracer, _) = tracer(ratio, 1);
            let taken = (0..10_000).filter(|_| tracer.sample(None).is_some());
            let taken = taken.count();
            assert!((least..=most).contains(&taken), "{ratio}: {taken}");
        }
    }

    #[test]
    fn a_device_that_sent_a_context_has_decided_itself() {
        let (tracer, _) = tracer(0.0, 1);
        let mut parent = Context {
            trace: [7; 16],
            span: [1; 8],
            sampled: true,
        };
        let context = tracer.sample(Some(&parent)).expect("sampled");
        assert_eq!(context.trace, parent.trace);
        assert_ne!(context.span, parent.span);
        parent.sampled = false;
        let (tracer, _) = self::tracer(1.0, 1);
        assert_eq!(tracer.sample(Some(&parent)), None);
        let (one, two) = (tracer.sample(None), tracer.sample(None));
        assert_ne!(one.map(|c| c.trace), two.map(|c| c.trace));
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted_and_gone() {
        let (tracer, metrics) = tracer(1.0, 3);
        for _ in 0..10 {
            let span = Span {
                context: tracer.sample(None).expect("sampled"),
                parent: None,
                start: Unix::from_secs(1),
                facts: Facts::default(),
            };
            tracer.end(span, Outcome::Accepted);
        }
        assert_eq!(metrics.trace_queue_full.get(), 7);
    }
}
