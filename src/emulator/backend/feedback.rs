//! What became of commands whose sender asked: reports are gathered, and read as messages of up to
//! 64 by whoever has a feedback link (wire sheet §5).

use crate::emulator::address::Identity;
use crate::emulator::commands::settlement;
use crate::emulator::config::EmulatorLimits;
use crate::emulator::errors::{hex, iso8601, random};
use crate::emulator::frames::LOCK_TOKEN;
use crate::emulator::hub::Hub;
use crate::emulator::links::{Listed, ServiceLink};
use crate::emulator::queue::{LockToken, Settlement};
use crate::emulator::session::DETACH_TIMEOUT;
use crate::emulator::stats::Stats;
use crate::runtime::clock::{self, Mono, Unix};
use fe2o3_amqp::Sender;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{Data, Message, MessageAnnotations, MessageId, Properties};
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Symbol};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Reports of one message.
const BATCH: usize = 64;
/// How long a message waits for its reader before another may have it.
const LOCK: Duration = Duration::from_secs(60);
const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// Which reports the sender of a command wants: `iothub-ack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ack {
    #[default]
    None,
    Positive,
    Negative,
    Full,
}

impl Ack {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "positive" => Some(Self::Positive),
            "negative" => Some(Self::Negative),
            "full" => Some(Self::Full),
            _ => None,
        }
    }

    fn wants(self, outcome: Outcome) -> bool {
        match self {
            Self::None => false,
            Self::Positive => outcome == Outcome::Success,
            Self::Negative => outcome != Outcome::Success,
            Self::Full => true,
        }
    }
}

/// `statusCode` of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Expired,
    DeliveryCountExceeded,
    Rejected,
    Purged,
}

/// One command's end.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) message_id: String,
    pub(crate) identity: Identity,
    pub(crate) generation: Arc<str>,
    pub(crate) at: Unix,
    pub(crate) outcome: Outcome,
}

impl Report {
    fn json(&self) -> serde_json::Value {
        let (name, description) = match self.outcome {
            Outcome::Success => ("Success", "Success"),
            Outcome::Expired => ("Expired", "Message expired"),
            Outcome::DeliveryCountExceeded => {
                ("DeliveryCountExceeded", "Message was delivered too often")
            }
            Outcome::Rejected => ("Rejected", "Message rejected"),
            Outcome::Purged => ("Purged", "Message purged"),
        };
        json!({
            "originalMessageId": self.message_id,
            "description": description,
            "deviceGenerationId": &*self.generation,
            "deviceId": &*self.identity.device,
            "moduleId": self.identity.module.as_deref(),
            "enqueuedTimeUtc": iso8601(self.at),
            "statusCode": name,
        })
    }
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Report>,
    /// When the oldest waiting report came.
    since: Option<Mono>,
    /// Messages a reader gave back, oldest first.
    returned: VecDeque<Vec<Report>>,
    count: usize,
}

/// The feedback queue. Shared.
#[derive(Debug)]
pub(crate) struct Feedback {
    inner: Mutex<Inner>,
    changed: Notify,
    max: usize,
    delay: Duration,
    stats: Arc<Stats>,
}

/// What a reader gets now.
enum Next {
    Message(Vec<Report>),
    Wait(Option<Duration>),
}

impl Feedback {
    pub(crate) fn new(limits: &EmulatorLimits, stats: Arc<Stats>) -> Self {
        Self {
            inner: Mutex::default(),
            changed: Notify::new(),
            max: limits.feedback_max,
            delay: limits.feedback_delay,
            stats,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command's end, if its sender asked; the oldest reports go when there is no room.
    pub(crate) fn note(&self, ack: Ack, report: impl FnOnce() -> Report, outcome: Outcome) {
        if !ack.wants(outcome) {
            return;
        }
        let mut inner = self.inner();
        if inner.count >= self.max {
            let lost = match inner.returned.pop_front() {
                Some(message) => message.len(),
                None => inner.waiting.pop_front().map_or(0, |_| 1),
            };
            inner.count -= lost;
            self.stats.feedback_dropped.add(lost as u64);
        }
        inner.since.get_or_insert_with(clock::mono);
        inner.waiting.push_back(report());
        inner.count += 1;
        drop(inner);
        self.changed.notify_waiters();
    }

    fn next(&self, now: Mono) -> Next {
        let mut inner = self.inner();
        if let Some(message) = inner.returned.pop_front() {
            inner.count -= message.len();
            return Next::Message(message);
        }
        let Some(since) = inner.since else {
            return Next::Wait(None);
        };
        let due = since + self.delay;
        if inner.waiting.len() < BATCH && due > now {
            return Next::Wait(Some(due.since(now)));
        }
        let taken = inner.waiting.len().min(BATCH);
        let message: Vec<Report> = inner.waiting.drain(..taken).collect();
        inner.count -= taken;
        inner.since = (!inner.waiting.is_empty()).then_some(now);
        Next::Message(message)
    }

    fn give_back(&self, message: Vec<Report>) {
        let mut inner = self.inner();
        inner.count += message.len();
        inner.returned.push_back(message);
        drop(inner);
        self.changed.notify_waiters();
    }
}

/// Serves a feedback link until it ends.
pub(super) async fn serve(
    mut sender: Sender,
    (link, _listed): (Arc<ServiceLink>, Listed),
    hub: Arc<Hub>,
) {
    let mut held = None;
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        error = send_all(&mut sender, &hub, &mut held) => error,
    };
    if let Some(message) = held {
        hub.feedback.give_back(message);
    }
    if let Some(error) = ended {
        drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
    }
}

/// One message at a time; `held` is the one without an outcome.
async fn send_all(sender: &mut Sender, hub: &Hub, held: &mut Option<Vec<Report>>) -> Option<Error> {
    let feedback = &hub.feedback;
    loop {
        let changed = feedback.changed.notified();
        tokio::pin!(changed);
        // Registered before the look, so that no report falls between the two.
        changed.as_mut().enable();
        let message = match feedback.next(clock::mono()) {
            Next::Message(message) => message,
            Next::Wait(time) => {
                let due = async {
                    match time {
                        Some(time) => tokio::time::sleep(time).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changed => {}
                    () = due => {}
                    _ = sender.on_detach() => return None,
                }
                continue;
            }
        };
        let wire = wire(&message, hub.name());
        *held = Some(message);
        let sent = sender.send_batchable(wire).await.ok()?;
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(LOCK, sent) => outcome.ok().map(settlement),
            _ = sender.on_detach() => return None,
        };
        match outcome {
            Some(Settlement::Accepted | Settlement::Rejected) => *held = None,
            Some(Settlement::LinkLost) => return None,
            Some(Settlement::Abandoned) | None => {
                if let Some(message) = held.take() {
                    feedback.give_back(message);
                }
            }
        }
    }
}

fn wire(reports: &[Report], hub: &str) -> Message<Data> {
    let token = LockToken(random());
    let body: serde_json::Value = reports.iter().map(Report::json).collect();
    let annotations = MessageAnnotations::builder()
        .insert(LOCK_TOKEN, Value::String(token.to_string()))
        .build();
    let properties = Properties {
        message_id: Some(MessageId::String(hex(&random::<16>()))),
        user_id: Some(Binary::from(hub.as_bytes().to_vec())),
        to: Some("/messages/serviceBound/feedback".to_owned()),
        content_type: Some(Symbol::from(CONTENT_TYPE)),
        content_encoding: Some(Symbol::from("utf-8")),
        ..Properties::new()
    };
    Message::builder()
        .message_annotations(annotations)
        .properties(properties)
        .data(body.to_string().into_bytes())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(max: usize) -> Feedback {
        let limits = EmulatorLimits {
            feedback_max: max,
            feedback_delay: Duration::from_secs(15),
            ..EmulatorLimits::default()
        };
        Feedback::new(&limits, Arc::default())
    }

    fn note(feedback: &Feedback, ack: Ack, outcome: Outcome) {
        let report = || Report {
            message_id: "m".to_owned(),
            identity: Identity::device("d"),
            generation: "g".into(),
            at: Unix::default(),
            outcome,
        };
        feedback.note(ack, report, outcome);
    }

    fn taken(feedback: &Feedback, now: Mono) -> Option<Vec<Report>> {
        match feedback.next(now) {
            Next::Message(message) => Some(message),
            Next::Wait(_) => None,
        }
    }

    #[test]
    fn only_what_was_asked_for_is_reported() {
        let feedback = feedback(100);
        for (ack, outcome) in [
            (Ack::None, Outcome::Success),
            (Ack::Positive, Outcome::Rejected),
            (Ack::Negative, Outcome::Success),
        ] {
            note(&feedback, ack, outcome);
        }
        assert_eq!(feedback.inner().count, 0);
        note(&feedback, Ack::Positive, Outcome::Success);
        note(&feedback, Ack::Negative, Outcome::Expired);
        note(&feedback, Ack::Full, Outcome::Purged);
        assert_eq!(feedback.inner().count, 3);
    }

    #[test]
    fn a_message_is_full_or_old_and_comes_again_when_given_back() {
        let feedback = feedback(1_000);
        let now = clock::mono();
        note(&feedback, Ack::Full, Outcome::Success);
        assert!(taken(&feedback, now).is_none());
        let late = clock::mono() + Duration::from_secs(16);
        let message = taken(&feedback, late).unwrap();
        assert_eq!(message.len(), 1);
        feedback.give_back(message);
        assert_eq!(taken(&feedback, now).unwrap().len(), 1);
        for _ in 0..BATCH + 1 {
            note(&feedback, Ack::Full, Outcome::Success);
        }
        assert_eq!(taken(&feedback, now).unwrap().len(), BATCH);
        assert!(taken(&feedback, now).is_none());
        assert_eq!(feedback.inner().count, 1);
    }

    #[test]
    fn the_oldest_reports_go_first() {
        let feedback = feedback(2);
        for _ in 0..5 {
            note(&feedback, Ack::Full, Outcome::Success);
        }
        assert_eq!(feedback.inner().count, 2);
        assert_eq!(feedback.stats.feedback_dropped.get(), 3);
    }
}
