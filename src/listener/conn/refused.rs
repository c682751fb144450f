//! What becomes of a message that will never be accepted: told, discarded or kept, as the device's
//! rule says; else the device is closed.
//!
//! A message is kept by a thread that may block. The device's socket is not read meanwhile, so one
//! device has one file under way, and its messages stay in their order.

use super::close::Close;
use super::{Conn, Upstream};
use crate::auth::rules::{OnRefused, Unmatched};
use crate::listener::refusal::{Line, Message};
use crate::mqtt::packet::{Publish, QoS};
use crate::mqtt::session::Ticket;
use crate::router::refused::{self, KeepError, Record, RefusedByRule};
use crate::router::topic_map;
use crate::runtime::clock;
use crate::telemetry::reason::Reason;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// A message that will never be accepted.
pub(super) struct Refused<'a> {
    pub(super) reason: Reason,
    /// MQTT 5 PUBACK reason code (OASIS MQTT 5.0 §3.4.2.1).
    pub(super) code: u8,
    pub(super) text: &'a str,
    /// Where it was published, as far as that is still known.
    pub(super) topic: Option<&'a str>,
}

/// A message on its way to the folder.
struct Job {
    ticket: Ticket,
    qos: QoS,
    reason: Reason,
    code: u8,
    record: Record,
}

impl Job {
    fn refused<'a>(&'a self, text: &'a str) -> Refused<'a> {
        Refused {
            reason: self.reason,
            code: self.code,
            text,
            topic: Some(&self.record.publish.topic),
        }
    }
}

/// A message that was kept, or not.
pub(super) struct Filed {
    job: Job,
    result: Result<(RefusedByRule, String), KeepError>,
}

/// The messages of one connection that are being kept, in their order; the session's window bounds
/// them.
#[derive(Default)]
pub(super) struct Filing {
    waiting: VecDeque<Job>,
    running: Option<JoinHandle<Filed>>,
}

impl Filing {
    /// The one under way, when it is done.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Filed>> {
        let Some(running) = &mut self.running else {
            return Poll::Pending;
        };
        let filed = ready!(Pin::new(running).poll(cx));
        self.running = None;
        // Lost in a panic, which is counted elsewhere; its PUBLISH is not acknowledged.
        Poll::Ready(filed.ok())
    }
}

impl<U: Upstream> Conn<U> {
    /// A copy of a message for the case that it is refused, where the rule needs one.
    pub(super) fn copy(&self, publish: &Publish) -> Option<Box<Publish>> {
        let keeps = self.bounds.limits.on_refused != OnRefused::Close || self.drops_unmatched();
        keeps.then(|| Box::new(publish.clone()))
    }

    /// Whether a message to a topic nothing fits is given up.
    fn drops_unmatched(&self) -> bool {
        let topics = self.device.topics();
        topics.is_some_and(|topics| topics.unmatched == Unmatched::Drop)
    }

    /// Ends a message that will never be accepted.
    pub(super) fn refuse_publish(
        &mut self,
        ticket: Ticket,
        qos: QoS,
        no: &Refused<'_>,
        copy: Option<Box<Publish>>,
    ) -> Result<(), Close> {
        self.count("uplink", qos, no.reason.word());
        self.claim.tally().refused.fetch_add(1, Relaxed);
        self.see("refused", || format!("{}: {}", no.reason, no.text));
        let unmatched = no.reason == Reason::TopicUnknown && self.drops_unmatched();
        let rule = match unmatched {
            true => OnRefused::Discard,
            false => self.bounds.limits.on_refused,
        };
        let Some(copy) = copy else {
            return self.tell_or_close(ticket, qos, no);
        };
        if rule == OnRefused::File && self.setup.refused.is_some() {
            let job = Job {
                ticket,
                qos,
                reason: no.reason,
                code: no.code,
                record: self.record(no, *copy),
            };
            let filing = self.filing.get_or_insert_default();
            filing.waiting.push_back(job);
            self.file_next();
            return Ok(());
        }
        let Some(leave) = refused::discarded(rule) else {
            return self.tell_or_close(ticket, qos, no);
        };
        if self.told(ticket, qos, no) {
            return Ok(());
        }
        self.session.acknowledge(ticket, leave, &mut self.out.bytes);
        self.show_refused("discarded");
        self.log_refused(qos, no, "discarded", Some((&copy, None)));
        Ok(())
    }

    /// MQTT 5 is told in a PUBACK, and nobody waits for an answer at QoS 0; whether that was it.
    fn told(&mut self, ticket: Ticket, qos: QoS, no: &Refused<'_>) -> bool {
        let out = &mut self.out.bytes;
        let told = self.session.refuse_publish(ticket, no.code, no.text, out);
        if told {
            let action = match qos {
                QoS::AtMostOnce => "dropped",
                _ => "told",
            };
            self.show_refused(action);
            self.log_refused(qos, no, action, None);
        }
        told
    }

    fn tell_or_close(&mut self, ticket: Ticket, qos: QoS, no: &Refused<'_>) -> Result<(), Close> {
        if self.told(ticket, qos, no) {
            return Ok(());
        }
        self.show_refused("closed");
        self.log_refused(qos, no, "closed", None);
        Err(Close::refused_publish(no.reason, no.text))
    }

    fn record(&self, no: &Refused<'_>, publish: Publish) -> Record {
        Record {
            client_id: self.claim.key().to_string(),
            rule: self.device.rule().to_string(),
            reason: no.reason.word().to_owned(),
            text: no.text.to_owned(),
            received: clock::unix(),
            publish,
        }
    }

    /// Begins to keep the next message, if none is under way.
    fn file_next(&mut self) {
        let (Some(filing), Some(folder)) = (&mut self.filing, &self.setup.refused) else {
            return;
        };
        if filing.running.is_some() {
            return;
        }
        let Some(job) = filing.waiting.pop_front() else {
            self.filing = None;
            return;
        };
        let folder = folder.clone();
        filing.running = Some(tokio::task::spawn_blocking(move || {
            let result = folder.keep(&job.record);
            Filed { job, result }
        }));
        self.ears.bell.hear();
    }

    /// A message is kept, and acknowledged for it; or it could not be, and is refused as without a
    /// rule.
    pub(super) fn filed(&mut self, filed: Option<Filed>) -> Result<(), Close> {
        let Some(Filed { job, result }) = filed else {
            return Err(Close::refused_publish(
                Reason::Panic,
                "the message was not kept",
            ));
        };
        let publish = &job.record.publish;
        match result {
            Ok((leave, id)) => {
                let out = &mut self.out.bytes;
                self.session.acknowledge(job.ticket, leave, out);
                self.show_refused("filed");
                let no = job.refused(&job.record.text);
                self.log_refused(job.qos, &no, "filed", Some((publish, Some(&id))));
            }
            Err(error) => {
                self.show_refused("not_filed");
                let text = error.to_string();
                let no = job.refused(&text);
                self.log_refused(job.qos, &no, "not_filed", Some((publish, None)));
                let no = job.refused(&job.record.text);
                self.tell_or_close(job.ticket, job.qos, &no)?;
            }
        }
        self.file_next();
        Ok(())
    }

    fn show_refused(&self, action: &str) {
        let metric = &self.setup.metrics.refused_messages;
        metric.with_label_values(&[action]).inc();
    }

    /// Tells what became of a refused message; with what is known of it where there is a copy.
    fn log_refused(
        &self,
        qos: QoS,
        no: &Refused<'_>,
        action: &'static str,
        copy: Option<(&Publish, Option<&str>)>,
    ) {
        self.setup.voice.say(Line {
            expected: self.expected_topic(no.reason),
            topic: no.topic,
            qos: Some(qos as u8),
            message: Some(Message {
                action,
                id: copy.and_then(|(_, id)| id.map(str::to_owned)),
                bytes: copy.map(|(publish, _)| publish.payload.len()),
                sha256: copy.map(|(publish, _)| refused::digest(&publish.payload)),
            }),
            ..self.line("message refused", no.reason, no.text)
        });
    }

    /// Where this device may publish, when that is what it got wrong.
    fn expected_topic(&self, reason: Reason) -> Option<String> {
        let wrong = matches!(reason, Reason::TopicUnknown | Reason::TopicForeignDevice);
        wrong.then(|| topic_map::events_topic(&self.device))
    }
}
