//! One device's telemetry link: a window of messages and what the hub decided about them.
//!
//! Owned and polled by the device's own task. A message leaves the window only when the hub has
//! decided; after any loss what is undecided goes back to the front, in order, and is sent again
//! with the same message-id. Outcomes are never awaited on the engine's word alone (fe2o3 F1):
//! the link's end and the outcome time-out end the wait.

use super::HubEvent;
use super::encode;
use super::flight::{Delivery, Entry, Fed, Flight, Gate, link_end, permits, settled, take_largest};
use super::live::{Live, now};
use super::message::Telemetry;
use super::outcome::{
    Cause, DeviceGone, Refusal, Settled, Verdict, judge_detach, judge_settled, words,
};
use super::pace::Urgency;
use super::path::{LinkEnd, Owned, Path, Patience, Seek};
use super::refusals::Class;
use super::session::Wanted;
use super::tuning;
use super::watchdog::Watchdog;
use crate::runtime::clock;
use fe2o3_amqp::Sender;
use fe2o3_amqp::link::{LinkStateError, SendError};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit as Permit, oneshot};
use tokio::time::{Sleep, sleep, timeout};

type Events = VecDeque<HubEvent>;

enum State {
    Idle,
    Seeking(Seek<Sender>),
    Live(Live<Sender>),
    Starved(Owned<Fed>),
}

/// The telemetry link of a device.
pub struct Uplink {
    state: State,
    waiting: VecDeque<Entry>,
    flights: VecDeque<Flight>,
    patience: Patience,
    pause: Option<Pin<Box<Sleep>>>,
    watchdog: Watchdog,
    gate: Gate,
    next_seq: u64,
    id_seed: [u8; 16],
}

impl Uplink {
    /// A link that is not attached and has nothing to send.
    pub fn new() -> Self {
        let mut id_seed = [0; 16];
        if getrandom::fill(&mut id_seed).is_err() {
            let nanos = clock::unix().as_millis().to_be_bytes();
            id_seed[..8].copy_from_slice(&nanos);
        }
        Self {
            state: State::Idle,
            waiting: VecDeque::new(),
            flights: VecDeque::new(),
            patience: Patience::default(),
            pause: None,
            watchdog: Watchdog::default(),
            gate: Gate::default(),
            next_seq: 0,
            id_seed,
        }
    }

    /// Takes a message over. Its message-id is fixed here, once.
    pub fn push(&mut self, ticket: u64, message: Telemetry) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let seed = u128::from_be_bytes(self.id_seed);
        let id = || encode::hex(&seed.wrapping_add(u128::from(seq)).to_be_bytes());
        let message = Box::new(encode::telemetry(message, id));
        let cost = encode::cost(&message).max(tuning::MESSAGE_COST_MIN);
        self.waiting.push_back(Entry {
            seq,
            ticket,
            cost,
            message,
        });
    }

    /// Messages the hub has not decided about.
    pub fn outstanding(&self) -> usize {
        let starved = usize::from(matches!(self.state, State::Starved(_)));
        self.waiting.len() + self.flights.len() + starved
    }

    /// Whether nothing is under way.
    pub fn quiet(&self) -> bool {
        self.outstanding() == 0 && matches!(self.state, State::Idle | State::Live(_))
    }

    /// Gives a quiet link up; what it answers ends when the link is closed.
    pub fn leave(&mut self) -> Option<oneshot::Receiver<()>> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Live(live) => Some(live.leave()),
            _ => None,
        }
    }

    /// Moves everything forward that can move. Decisions are appended to `events`.
    pub fn poll(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        loop {
            self.harvest(path, cx, events)?;
            if self.stalled(path, cx, events)? {
                continue;
            }
            if !self.step(path, cx, events)? {
                break;
            }
        }
        if self.outstanding() == 0 && self.waiting.capacity() + self.flights.capacity() > 16 {
            self.waiting = VecDeque::new();
            self.flights = VecDeque::new();
        }
        Ok(())
    }

    /// Takes decisions from the front. Only the oldest is polled: the device is answered in
    /// order anyway, and one poll a message is what makes a window cheap.
    fn harvest(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        while let Some(front) = self.flights.front_mut() {
            let Poll::Ready(result) = Pin::new(&mut front.outcome).poll(cx) else {
                return Ok(());
            };
            let Some(flight) = self.flights.pop_front() else {
                return Ok(());
            };
            match settled(result) {
                Ok(settled) => self.decide(path, flight.entry, &settled, events)?,
                Err(end) => {
                    self.requeue(flight.entry);
                    self.link_ended(path, end, events)?;
                }
            }
        }
        Ok(())
    }

    /// Acts on a decision of the hub.
    fn decide(
        &mut self,
        path: &Path,
        entry: Entry,
        settled: &Settled,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        let row = judge_settled(settled);
        let metrics = &path.shared.metrics;
        let cause = match settled {
            Settled::Rejected(cause) => cause.as_ref(),
            _ => None,
        };
        match row.verdict {
            Verdict::Accepted(proof) => {
                metrics.hub_accepted.inc();
                path.succeeded(Class::Message);
                self.patience.reset();
                events.push_back(HubEvent::Sent(entry.ticket, Ok(proof)));
                return Ok(());
            }
            Verdict::Refuse(reason) => {
                let text = words(cause);
                events.push_back(HubEvent::Sent(entry.ticket, Err(Refusal { reason, text })));
            }
            Verdict::Gone(reason) => {
                let text = words(cause);
                return Err(DeviceGone { reason, text });
            }
            Verdict::Throttled => {
                metrics.hub_throttled.inc();
                self.requeue(entry);
                self.rest(true);
            }
            Verdict::Unauthorized => {
                path.lane().suspect.notify_one();
                self.requeue(entry);
                self.rest(false);
            }
            Verdict::Retry | Verdict::Reattach | Verdict::Rebuild => {
                self.requeue(entry);
                self.rest(false);
            }
        }
        metrics.hub_deliveries.with_label_values(&[row.label]).inc();
        path.refused(row.label, cause);
        Ok(())
    }

    /// Puts an undecided message back in its place; older ones are sent first.
    fn requeue(&mut self, entry: Entry) {
        let place = self.waiting.iter().position(|other| other.seq > entry.seq);
        self.waiting
            .insert(place.unwrap_or(self.waiting.len()), entry);
    }

    /// Sends nothing for a while. A burst of refusals counts as one.
    fn rest(&mut self, throttled: bool) {
        if self.pause.is_none() {
            self.pause = Some(Box::pin(sleep(self.patience.lose(throttled))));
        }
    }

    fn resting(&mut self, cx: &mut Context<'_>) -> bool {
        let pending = |pause: &mut Pin<Box<Sleep>>| pause.as_mut().poll(cx).is_pending();
        let resting = self.pause.as_mut().is_some_and(pending);
        if !resting {
            self.pause = None;
        }
        resting
    }

    /// The link is gone: keeps what was decided, puts the rest back, decides how to go on.
    fn link_ended(
        &mut self,
        path: &Path,
        end: LinkEnd,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        if let State::Live(live) = std::mem::replace(&mut self.state, State::Idle) {
            end.release(live);
        }
        self.take_back(path, events)?;
        if let LinkEnd::Detached(cause) = end {
            self.detached(path, cause, events)?;
        }
        Ok(())
    }

    /// Ends the wait for all outcomes. Those that did arrive count.
    fn take_back(&mut self, path: &Path, events: &mut Events) -> Result<(), DeviceGone> {
        for flight in std::mem::take(&mut self.flights) {
            match now(flight.outcome).map(settled) {
                Some(Ok(settled)) => self.decide(path, flight.entry, &settled, events)?,
                Some(Err(_)) | None => self.requeue(flight.entry),
            }
        }
        self.gate = Gate::default();
        Ok(())
    }

    fn detached(
        &mut self,
        path: &Path,
        cause: Option<Cause>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        let row = judge_detach(cause.as_ref());
        // The hub ended the link over a message it does not name; the largest is the one.
        if let Verdict::Refuse(reason) = row.verdict
            && let Some(entry) = take_largest(&mut self.waiting)
        {
            let text = words(cause.as_ref());
            events.push_back(HubEvent::Sent(entry.ticket, Err(Refusal { reason, text })));
        }
        path.detached(&row, cause.as_ref(), &mut self.patience)
    }

    /// Whether the oldest outcome is overdue; then the link is rebuilt.
    fn stalled(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        let Some(since) = self.flights.front().map(|flight| flight.since) else {
            if self.watchdog.is_armed() {
                self.watchdog.rest(clock::mono());
            }
            return Ok(false);
        };
        let deadline = since + path.shared.config.outcome_timeout;
        loop {
            let now = clock::mono();
            let left = deadline.since(now);
            let overdue = left.is_zero() && matches!(self.state, State::Live(_));
            if overdue {
                break;
            }
            let wait = left.max(Duration::from_millis(10));
            if self.watchdog.poll(now, wait, cx).is_pending() {
                return Ok(false);
            }
        }
        path.undecided();
        self.watchdog.disarm();
        self.state = State::Idle; // the guard hands the link to its session for closing
        self.take_back(path, events)?;
        self.patience.lose(false);
        Ok(true)
    }

    /// Moves the link by one step. `false`: nothing to do until something wakes us.
    fn step(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        match &mut self.state {
            State::Idle => {
                if self.waiting.is_empty() {
                    return Ok(false);
                }
                let target = path.device.address.telemetry();
                let gauge = &path.shared.gauges.uplinks_attaching;
                let seek = path.seek(&self.patience, Urgency::Urgent, gauge, move |answer| {
                    Wanted::Uplink(target.clone(), answer)
                });
                self.state = State::Seeking(seek);
                Ok(true)
            }
            State::Seeking(seek) => {
                let Poll::Ready(result) = seek.as_mut().poll(cx) else {
                    return Ok(false);
                };
                match result {
                    Ok(live) => {
                        path.succeeded(Class::Link);
                        self.state = State::Live(live);
                    }
                    Err(cause) => {
                        self.state = State::Idle;
                        self.detached(path, cause, events)?;
                    }
                }
                Ok(true)
            }
            State::Starved(fed) => {
                let Poll::Ready(fed) = fed.as_mut().poll(cx) else {
                    return Ok(false);
                };
                self.state = State::Live(fed.live);
                match fed.result {
                    Some(result) => self.sent(path, fed.entry, fed.room, result, events)?,
                    None => self.waiting.push_front(fed.entry),
                }
                Ok(true)
            }
            State::Live(_) => self.step_live(path, cx, events),
        }
    }

    fn step_live(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        let resting = self.resting(cx);
        let State::Live(live) = &mut self.state else {
            return Ok(true);
        };
        let retired = live.port().retired.load(Ordering::Relaxed);
        if retired && self.flights.is_empty() {
            self.state = State::Idle;
            return Ok(true);
        }
        let ready = self.waiting.front().filter(|_| !resting && !retired);
        if ready.is_some_and(|entry| self.gate.opens(path, entry.cost, cx)) {
            return self.send_front(path, cx, events);
        }
        self.listen(path, cx, events)
    }

    /// With nothing to send, only the link's end is of interest.
    fn listen(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        let State::Live(live) = &mut self.state else {
            return Ok(true);
        };
        let ended = pin!(live.link().on_detach()).poll(cx);
        match ended {
            Poll::Pending => Ok(false),
            Poll::Ready(error) => {
                self.link_ended(path, LinkStateError::from(error).into(), events)?;
                Ok(true)
            }
        }
    }

    fn send_front(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        let (State::Live(live), Some(entry)) = (&mut self.state, self.waiting.front()) else {
            return Ok(true);
        };
        // Outside the scheduler's budget: it could stop a transfer half-way. Only missing link
        // credit leaves this pending, and then nothing has been taken yet.
        let send = live.link().send_batchable_ref(&entry.message);
        let sent = pin!(tokio::task::unconstrained(send)).poll(cx);
        let Some(entry) = self.waiting.pop_front() else {
            return Ok(true);
        };
        let room = self.gate.take();
        match sent {
            Poll::Ready(result) => self.sent(path, entry, room, result, events)?,
            Poll::Pending => self.starve(path, entry, room),
        }
        Ok(true)
    }

    /// Waits for link credit in a future of its own, because the engine's wait forgets us when
    /// it is dropped. The guard travels along: whoever drops the future closes the link.
    fn starve(&mut self, path: &Path, entry: Entry, room: Option<Permit>) {
        let State::Live(mut live) = std::mem::replace(&mut self.state, State::Idle) else {
            self.waiting.push_front(entry);
            return;
        };
        let permits = permits(path, entry.cost);
        let starved = Arc::clone(&path.lane().starved).try_acquire_many_owned(permits);
        let room = starved.ok().or(room);
        let patience = path.shared.config.outcome_timeout;
        self.state = State::Starved(Box::pin(async move {
            let send = live.link().send_batchable_ref(&entry.message);
            let result = timeout(patience, tokio::task::unconstrained(send))
                .await
                .ok();
            Fed {
                live,
                entry,
                room,
                result,
            }
        }));
    }

    fn sent(
        &mut self,
        path: &Path,
        entry: Entry,
        room: Option<Permit>,
        result: Result<Delivery, SendError>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        let refusal = match result {
            Ok(outcome) => {
                if let State::Live(live) = &self.state {
                    let frames = 1 + entry.cost / tuning::FRAME_BYTES_MAX as usize;
                    live.port()
                        .transfers
                        .fetch_add(frames as u64, Ordering::Relaxed);
                }
                self.flights.push_back(Flight {
                    entry,
                    outcome,
                    since: clock::mono(),
                    _room: room,
                });
                return Ok(());
            }
            Err(SendError::MessageSizeExceeded(sizes)) => Refusal {
                reason: "message_too_large",
                text: sizes.to_string(),
            },
            Err(SendError::MessageEncodeError) => Refusal {
                reason: "message_malformed",
                text: "cannot be encoded".to_owned(),
            },
            Err(error) => {
                self.requeue(entry);
                return self.link_ended(path, link_end(error), events);
            }
        };
        let label = refusal.reason;
        let deliveries = &path.shared.metrics.hub_deliveries;
        deliveries.with_label_values(&[label]).inc();
        events.push_back(HubEvent::Sent(entry.ticket, Err(refusal)));
        Ok(())
    }
}
