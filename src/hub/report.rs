//! Refusals of the hub as operators see them: log lines, `hub_refusals_total`, `/ready`.
//!
//! What is said when is `refusals`' to decide. Asked on the way of every accepted message, so the
//! answer "nothing is being refused" costs one load.

use super::refusals::{Class, Phase, RefusalCause, Refusals, Report, Standing};
use super::tuning;
use crate::runtime::clock;
use crate::telemetry::causes::{Cause, Causes};
use crate::telemetry::log::told;
use crate::telemetry::metrics::Metrics;
use prometheus::{IntCounter, IntGauge};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

/// Lines about time that passed are at most this late.
const TICK: Duration = Duration::from_secs(1);

/// Waits for what only the hub can end. `silent` is told when that takes long; the wait goes on
/// until `deadline`.
///
/// # Errors
/// When the deadline passed.
pub async fn within<T>(
    deadline: Duration,
    operation: impl Future<Output = T>,
    silent: impl FnOnce(),
) -> Result<T, Elapsed> {
    let mut operation = pin!(timeout(deadline, operation));
    // Before the deadline, however short that is: afterwards nobody is asked any more.
    let patience = tuning::SILENCE.min(deadline / 2);
    match timeout(patience, &mut operation).await {
        Ok(done) => done,
        Err(_long) => {
            silent();
            operation.await
        }
    }
}

/// Everything refused at the moment.
pub struct Reporter {
    refusals: Mutex<Refusals>,
    /// [`Refusals::standing_classes`], readable without the lock.
    classes: AtomicU32,
    series: Vec<(IntCounter, IntGauge)>,
    /// Where devices' own are kept.
    causes: Arc<Causes>,
}

impl Reporter {
    /// Nothing is refused. Makes the series exist.
    pub fn new(metrics: &Metrics, causes: Arc<Causes>) -> Self {
        let series = RefusalCause::ALL.iter().map(|cause| {
            let label = [cause.word()];
            let counter = metrics.hub_refusals.with_label_values(&label);
            (counter, metrics.hub_refusing.with_label_values(&label))
        });
        Self {
            refusals: Mutex::default(),
            classes: AtomicU32::new(0),
            series: series.collect(),
            causes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and says what is to be said of it.
    fn change<R: IntoIterator<Item = Report>>(&self, change: impl FnOnce(&mut Refusals) -> R) {
        let mut refusals = self.lock();
        let reports: Vec<Report> = change(&mut refusals).into_iter().collect();
        let classes = refusals.standing_classes();
        self.classes.store(classes, Ordering::Relaxed);
        for report in &reports {
            let stands = matches!(report.phase, Phase::Began | Phase::Lasts);
            if let Some((_, gauge)) = self.series.get(report.cause as usize) {
                gauge.set(i64::from(stands));
            }
        }
        drop(refusals); // a log line may wait for its pipe
        reports.iter().for_each(log);
    }

    /// The hub refused `subject`, a connection or a device.
    pub fn refused(&self, cause: RefusalCause, subject: &str, words: &str) {
        if let Some((counter, _)) = self.series.get(cause as usize) {
            counter.inc();
        }
        self.change(|refusals| refusals.refused(cause, subject, words, clock::mono()));
        if matches!(cause.class(), Class::Link | Class::Message) {
            let text = if words.is_empty() {
                cause.says()
            } else {
                words
            };
            let cause = Cause {
                reason: cause.word().into(),
                code: cause.code().into(),
                fix: cause.fix().into(),
                client_id: subject.to_owned(),
                ..Cause::at_hub(text)
            };
            self.causes.of_device(cause, clock::unix());
        }
    }

    /// `subject` got as far as `class` says.
    pub fn succeeded(&self, class: Class, subject: impl FnOnce() -> String) {
        if self.classes.load(Ordering::Relaxed) & class.bit() == 0 {
            return;
        }
        self.change(|refusals| refusals.succeeded(class, &subject(), clock::mono()));
    }

    /// What is refused, for `/ready`.
    pub fn standing(&self) -> Vec<Standing> {
        self.lock().standing(clock::mono())
    }

    /// Says what time brings about, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if self.classes.load(Ordering::Relaxed) != 0 {
                self.change(|refusals| refusals.tick(clock::mono()));
            }
        }
    }
}

fn log(report: &Report) {
    let cause = report.cause;
    let (word, code, says, fix) = (cause.word(), told(cause.code()), cause.says(), cause.fix());
    let (refused, count, hub) = (&report.refused, report.count, told(&report.words));
    let (recent, lasted_s) = (report.recent, report.lasted.as_secs());
    match report.phase {
        Phase::Began => {
            tracing::warn!(
                name: "hub_refuses",
                cause = word,
                code,
                refused,
                hub,
                fix,
                "hub refuses: {says}"
            );
        }
        Phase::Lasts => tracing::warn!(
            name: "hub_still_refuses",
            cause = word,
            code,
            refused,
            count,
            recent,
            lasted_s,
            hub,
            fix,
            "hub still refuses: {says}"
        ),
        Phase::Over => {
            tracing::info!(
                name: "hub_refuses_no_more",
                cause = word,
                count,
                lasted_s,
                "hub no longer refuses: {says}"
            );
        }
        Phase::Forgotten => tracing::info!(
            name: "hub_not_asked_again",
            cause = word,
            count,
            lasted_s,
            refused,
            "hub was not asked again by those it refused: {says}"
        ),
    }
}
