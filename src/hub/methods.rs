//! Direct methods of one device: calls it has and has not answered, and answers the hub has not
//! taken.
//!
//! Owned and polled by the device's own task. Credit is what may be on its way: calls the device's
//! socket has not taken, answers the hub has not; what is beyond waits at the hub, under the
//! caller's own time-out. Of a call the device has, little is kept. It outlives its links: the hub
//! knows an answer by its correlation id. What becomes of a call without answer its caller learns
//! from the hub; nobody tells this side, so it is forgotten after a time, or for a newer one.

use super::HubEvent;
use super::attach::Live;
use super::device::Path;
use super::encode::{self, Encoded};
use super::exchange;
use super::lane::Shared;
use super::message::{MethodBounds, MethodCall};
use super::outcome::{DeviceGone, Verdict, judge_settled, words};
use super::pair::{Pair, PairEvent, Service};
use super::requests::{Requests, Stray};
use super::share::Share;
use super::tuning;
use super::watchdog::Watchdog;
use crate::amqp::{Outcome, SendError};
use crate::runtime::clock::{self, Mono};
use bytes::Bytes;
use fe2o3_amqp_types::messaging::MessageId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A call the device has.
struct Call {
    id: MessageId,
    since: Mono,
    until: Mono,
    _counted: Share,
}

/// An answer the hub has not taken.
struct Answer {
    ticket: u64,
    message: Encoded,
    since: Mono,
    until: Mono,
    /// Its number on the link, once it is on its way.
    sent: Option<u64>,
    _counted: Share,
    _bytes: Share,
}

/// The methods of a device.
pub struct Methods {
    shared: Arc<Shared>,
    pair: Pair,
    bounds: MethodBounds,
    /// Whether the device is subscribed.
    subscribed: bool,
    calls: Requests<Call>,
    answers: VecDeque<Answer>,
    /// Calls handed out that the device's socket has not taken.
    unwritten: usize,
    next_number: u64,
    watchdog: Watchdog,
}

impl Methods {
    /// Methods of a device that subscribes to them.
    pub fn new(shared: Arc<Shared>, bounds: MethodBounds) -> Self {
        Self {
            shared,
            pair: Pair::new(Service::Methods),
            bounds,
            subscribed: true,
            calls: Requests::default(),
            answers: VecDeque::new(),
            unwritten: 0,
            next_number: 1,
            watchdog: Watchdog::default(),
        }
    }

    /// The device subscribes again, maybe with other bounds.
    pub fn subscribe(&mut self, bounds: MethodBounds) {
        self.bounds = bounds;
        self.subscribed = true;
        self.top_up();
    }

    /// No more calls; those the device has may still be answered.
    pub fn unsubscribe(&mut self) {
        self.subscribed = false;
        self.top_up();
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        !self.subscribed && self.calls.is_empty() && self.answers.is_empty()
    }

    /// Answers the hub has not taken.
    pub fn outstanding(&self) -> usize {
        self.answers.len()
    }

    /// Takes the device's answer over; `ticket` comes back in [`HubEvent::Taken`].
    ///
    /// # Errors
    /// When no call waits for it.
    pub fn reply(
        &mut self,
        ticket: u64,
        number: u64,
        status: i32,
        body: Bytes,
    ) -> Result<(), Stray> {
        let call = self.calls.close(number)?;
        let gauges = &self.shared.gauges;
        let message = exchange::answer(call.id, status, body);
        self.answers.push_back(Answer {
            ticket,
            since: call.since,
            until: call.until,
            sent: None,
            _counted: Share::new(&gauges.answers, 1),
            _bytes: Share::new(&gauges.answer_bytes, message.len()),
            message,
        });
        Ok(())
    }

    /// A call the device could not be told of.
    pub fn drop_call(&mut self, number: u64, result: &str) {
        if self.calls.close(number).is_ok() {
            self.count(result);
        }
    }

    /// The socket has taken the calls.
    pub fn written(&mut self) {
        if std::mem::take(&mut self.unwritten) > 0 {
            self.top_up();
        }
    }

    fn count(&self, result: &str) {
        let calls = &self.shared.metrics.method_calls;
        calls.with_label_values(&[result]).inc();
    }

    /// Whether nothing is under way.
    pub fn quiet(&self) -> bool {
        self.calls.is_empty() && self.answers.is_empty() && self.pair.is_quiet()
    }

    /// Gives quiet links up: they are to be detached.
    pub fn leave(&mut self) -> Vec<Live> {
        self.pair.leave()
    }

    fn top_up(&mut self) {
        let held = self.unwritten + self.answers.len();
        let window = match self.subscribed {
            true => tuning::METHOD_CREDIT,
            false => 0,
        };
        let room = usize::try_from(window).unwrap_or(usize::MAX);
        self.pair.top_up(window, room.saturating_sub(held));
    }

    /// Moves everything forward that can move.
    pub fn poll(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut VecDeque<HubEvent>,
    ) -> Result<(), DeviceGone> {
        loop {
            self.expire(cx, events);
            let wanted = self.subscribed || !self.answers.is_empty();
            match self.pair.poll(path, cx, wanted) {
                Poll::Ready(event) => self.on(path, event?, events),
                Poll::Pending => {
                    self.send_all(events);
                    return Ok(());
                }
            }
        }
    }

    fn on(&mut self, path: &Path, event: PairEvent, events: &mut VecDeque<HubEvent>) {
        match event {
            PairEvent::Attached => self.top_up(),
            PairEvent::Delivery(payload) => self.called(path, &payload, events),
            PairEvent::Outcome(number, outcome) => self.outcome(path, number, &outcome, events),
            PairEvent::Credit => {}
            PairEvent::Lost { unserved } => {
                for answer in &mut self.answers {
                    answer.sent = None;
                }
                if unserved {
                    tracing::warn!(
                        name: "methods_unserved",
                        device = %path.device.address,
                        "the hub has no direct methods; asking again in up to a minute"
                    );
                }
            }
        }
    }

    /// The hub calls a method.
    fn called(&mut self, path: &Path, payload: &Bytes, events: &mut VecDeque<HubEvent>) {
        let Some(call) = exchange::call(payload) else {
            self.count("unreadable");
            tracing::warn!(
                name: "method_unreadable",
                device = %path.device.address,
                "method call without a name, an id or a readable body, dropped"
            );
            return self.top_up();
        };
        if !self.subscribed || call.body.len() > self.bounds.bytes {
            self.count(match self.subscribed {
                true => "too_large",
                false => "unsubscribed",
            });
            return self.top_up();
        }
        // A call the hub sends again while the device is at it has one answer.
        if self.calls.iter_mut().any(|(_, open)| open.id == call.id) {
            self.count("repeated");
            return self.top_up();
        }
        let since = clock::mono();
        let until = since + self.bounds.timeout;
        let held = Call {
            id: call.id,
            since,
            until,
            _counted: Share::new(&self.shared.gauges.calls, 1),
        };
        if self.calls.len() >= self.bounds.calls && self.calls.give_up().is_some() {
            self.count("displaced");
        }
        let number = self.calls.open(held, 0, until);
        self.unwritten += 1;
        events.push_back(HubEvent::Method(Box::new(MethodCall {
            number,
            name: call.name,
            body: call.body,
        })));
    }

    /// The hub decided about an answer.
    fn outcome(
        &mut self,
        path: &Path,
        number: u64,
        outcome: &Outcome,
        events: &mut VecDeque<HubEvent>,
    ) {
        let sent = |answer: &Answer| answer.sent == Some(number);
        let Some(place) = self.answers.iter().position(sent) else {
            return;
        };
        let Some(settled) = encode::settled(outcome) else {
            self.answers[place].sent = None;
            return;
        };
        let Some(answer) = self.answers.remove(place) else {
            return;
        };
        let receipt = match judge_settled(&settled).verdict {
            Verdict::Accepted(receipt) => {
                self.answered(&answer);
                Some(receipt)
            }
            // A second try would meet the same hub, and the caller has its own time-out.
            _ => {
                self.count("rejected");
                let cause = match &settled {
                    super::outcome::Settled::Rejected(cause) => cause.as_ref(),
                    _ => None,
                };
                tracing::debug!(
                    device = %path.device.address,
                    cause = words(cause),
                    "the hub took no answer to a method call"
                );
                None
            }
        };
        events.push_back(HubEvent::Taken(answer.ticket, receipt));
        self.top_up();
    }

    fn answered(&self, answer: &Answer) {
        self.count("answered");
        let took = clock::mono().since(answer.since);
        self.shared
            .metrics
            .method_duration
            .observe(took.as_secs_f64());
    }

    /// Sends what may be sent.
    fn send_all(&mut self, events: &mut VecDeque<HubEvent>) {
        let mut place = 0;
        while let Some(answer) = self.answers.get_mut(place) {
            if answer.sent.is_some() {
                place += 1;
                continue;
            }
            let number = self.next_number;
            let result = match self.pair.send(&answer.message, number) {
                Ok(true) => {
                    answer.sent = Some(number);
                    self.next_number += 1;
                    place += 1;
                    continue;
                }
                Err(SendError::WouldBlock | SendError::Stale) => return,
                Ok(false) => "answered",
                Err(SendError::TooLarge { .. } | SendError::NotAllowed) => "rejected",
            };
            if let Some(answer) = self.answers.remove(place) {
                match result {
                    "answered" => self.answered(&answer),
                    other => self.count(other),
                }
                events.push_back(HubEvent::Taken(answer.ticket, None));
                self.top_up();
            }
        }
    }

    /// Gives up what nobody waits for any more.
    fn expire(&mut self, cx: &mut Context<'_>, events: &mut VecDeque<HubEvent>) {
        loop {
            let now = clock::mono();
            while self.calls.expire(now).is_some() {
                self.count("timed_out");
            }
            let over = |answer: &Answer| answer.until <= now;
            while let Some(place) = self.answers.iter().position(over) {
                if let Some(answer) = self.answers.remove(place) {
                    self.count("undelivered");
                    events.push_back(HubEvent::Taken(answer.ticket, None));
                    self.top_up();
                }
            }
            let answers = self.answers.iter().map(|answer| answer.until);
            let Some(next) = self.calls.deadline().into_iter().chain(answers).min() else {
                return self.watchdog.rest(now);
            };
            let wait = next.since(now).max(Duration::from_millis(1));
            if self.watchdog.poll(now, wait, cx).is_pending() {
                return;
            }
        }
    }
}

impl Drop for Methods {
    /// The device is gone; the hub tells the callers.
    fn drop(&mut self) {
        for _ in 0..self.calls.len() + self.answers.len() {
            self.count("abandoned");
        }
    }
}
