//! One device's telemetry link: a window of messages and what the hub decided about them.
//!
//! Owned and polled by the device's own task. A message leaves the window only when the hub has
//! decided; after any loss what is undecided goes back to the front, in order, and is sent again
//! with the same message-id. The outcome time-out ends the wait for a hub that says nothing.

use super::HubEvent;
use super::attach::{Attaching, Live, NotAttached, Wanted, attach};
use super::device::{NO_HANDLES, Path, Patience, full};
use super::driver::LinkEvent;
use super::encode::{self, Encoded};
use super::gate::Gate;
use super::message::Telemetry;
use super::outcome::{Cause, DeviceGone, Refusal, Settled, Verdict, judge_settled, words};
use super::pace::Urgency;
use super::refusals::{Class, RefusalCause};
use super::tuning;
use super::watchdog::Watchdog;
use crate::amqp::{self, Message, Outcome, SendError};
use crate::runtime::clock::{self, Mono};
use crate::runtime::hex::hex;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit as Permit;
use tokio::time::{Sleep, sleep};

type Events = VecDeque<HubEvent>;

/// A message on its way; `seq` is its place in the device's order.
struct Entry {
    seq: u64,
    ticket: u64,
    message: Encoded,
}

impl Entry {
    /// What it is charged against `connection_bytes_max`.
    fn cost(&self) -> usize {
        self.message.len().max(tuning::MESSAGE_COST_MIN)
    }
}

/// A message the hub has and has not decided about.
struct Flight {
    entry: Entry,
    /// Its number on the link.
    number: u64,
    since: Mono,
    /// Given back when the outcome is in.
    _room: Option<Permit>,
}

enum State {
    Idle,
    Attaching(Attaching),
    Live(Live),
}

/// The telemetry link of a device.
pub struct Uplink {
    state: State,
    waiting: VecDeque<Entry>,
    /// In the order in which they were sent.
    flights: VecDeque<Flight>,
    /// Since when the link takes no message: it will say when to try again, or end.
    blocked: Option<Mono>,
    /// It was told that the oldest message waits for long.
    told: bool,
    patience: Patience,
    pause: Option<Pin<Box<Sleep>>>,
    watchdog: Watchdog,
    gate: Gate,
    next_seq: u64,
    next_number: u64,
    id_seed: [u8; 16],
}

impl Uplink {
    /// A link that is not attached and has nothing to send.
    pub fn new() -> Self {
        let mut id_seed = [0; 16];
        if crate::runtime::random::fill(&mut id_seed).is_err() {
            let nanos = clock::unix().as_millis().to_be_bytes();
            id_seed[..8].copy_from_slice(&nanos);
        }
        Self {
            state: State::Idle,
            waiting: VecDeque::new(),
            flights: VecDeque::new(),
            blocked: None,
            told: false,
            patience: Patience::default(),
            pause: None,
            watchdog: Watchdog::default(),
            gate: Gate::default(),
            next_seq: 0,
            next_number: 0,
            id_seed,
        }
    }

    /// Takes a message over. Its message-id is fixed here, once.
    pub fn push(&mut self, ticket: u64, message: Telemetry) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let seed = u128::from_be_bytes(self.id_seed);
        let id = || hex(&seed.wrapping_add(u128::from(seq)).to_be_bytes());
        self.waiting.push_back(Entry {
            seq,
            ticket,
            message: encode::telemetry(message, id),
        });
    }

    /// Messages the hub has not decided about.
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.flights.len()
    }

    /// Whether nothing is under way.
    pub fn quiet(&self) -> bool {
        self.outstanding() == 0 && !matches!(self.state, State::Attaching(_))
    }

    /// Gives a quiet link up: it is to be detached.
    pub fn leave(&mut self) -> Option<Live> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Live(live) => Some(live),
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
        while self.step(path, cx, events)? {}
        if self.outstanding() == 0 && self.waiting.capacity() + self.flights.capacity() > 16 {
            self.waiting = VecDeque::new();
            self.flights = VecDeque::new();
        }
        Ok(())
    }

    /// Moves the link by one step. `false`: nothing to do until something wakes us.
    fn step(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<bool, DeviceGone> {
        match &mut self.state {
            State::Idle if self.waiting.is_empty() => return Ok(false),
            State::Idle => self.state = State::Attaching(self.attach(path)),
            State::Attaching(attaching) => match attaching.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(live)) => {
                    path.succeeded(Class::Link);
                    self.blocked = None;
                    self.state = State::Live(live);
                }
                Poll::Ready(Err(NotAttached::Full)) => return Err(full(NO_HANDLES)),
                Poll::Ready(Err(NotAttached::Refused(cause))) => {
                    self.state = State::Idle;
                    self.detached(path, cause.as_ref(), events)?;
                }
            },
            State::Live(live) => match live.link.poll(cx) {
                Poll::Ready(event) => self.on(path, event, events)?,
                Poll::Pending => {
                    return Ok(self.overdue(path, cx) || self.send_all(path, cx, events));
                }
            },
        }
        Ok(true)
    }

    fn attach(&self, path: &Path) -> Attaching {
        let address = path.device.address.telemetry();
        let gauges = &path.shared.gauges;
        let wanted = Wanted {
            attach: amqp::sender("up", &address),
            address,
            urgency: Urgency::Urgent,
            attaching: gauges.uplinks_attaching.clone(),
            attached: gauges.uplinks.clone(),
        };
        attach(path, wanted, self.patience.left())
    }

    /// What happened to the link.
    fn on(&mut self, path: &Path, event: LinkEvent, events: &mut Events) -> Result<(), DeviceGone> {
        match event {
            LinkEvent::Outcome(number, outcome) => self.outcome(path, number, &outcome, events),
            LinkEvent::Credit(_) => {
                self.blocked = None;
                self.moves();
                Ok(())
            }
            LinkEvent::Refused(error) | LinkEvent::Detached(error) => {
                self.take_back();
                let cause = error.as_deref().map(encode::cause);
                self.detached(path, cause.as_ref(), events)
            }
            LinkEvent::Stopped => {
                self.take_back();
                Ok(())
            }
            LinkEvent::Attached(_) | LinkEvent::Drained | LinkEvent::Delivery { .. } => Ok(()),
        }
    }

    /// The outcome of a message, by its number on the link.
    fn outcome(
        &mut self,
        path: &Path,
        number: u64,
        outcome: &Outcome,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        let place = self.flights.binary_search_by_key(&number, |f| f.number);
        let Some(flight) = place.ok().and_then(|place| self.flights.remove(place)) else {
            return Ok(());
        };
        self.moves();
        match encode::settled(outcome) {
            Some(settled) => self.decide(path, flight.entry, &settled, events),
            None => {
                self.requeue(flight.entry);
                Ok(())
            }
        }
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
                metrics.hub_deliveries.with_label_values(&[row.label]).inc();
                path.refused(row.label, cause);
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
                if self.patience.is_tried() {
                    path.holds_up(RefusalCause::GivenBack, cause);
                }
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

    /// The link is gone, or given up: what is undecided is to be sent again.
    fn take_back(&mut self) {
        self.state = State::Idle;
        for flight in std::mem::take(&mut self.flights) {
            self.requeue(flight.entry);
        }
        self.gate = Gate::default();
    }

    /// The hub ended the link, or refused it.
    fn detached(
        &mut self,
        path: &Path,
        cause: Option<&Cause>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        let verdict = path.detached(cause, &mut self.patience)?;
        // The hub ended the link over a message it does not name; the largest is the one.
        if let Verdict::Refuse(reason) = verdict
            && let Some(entry) = self.take_largest()
        {
            let text = words(cause);
            events.push_back(HubEvent::Sent(entry.ticket, Err(Refusal { reason, text })));
        }
        Ok(())
    }

    fn take_largest(&mut self) -> Option<Entry> {
        let by_size = self.waiting.iter().enumerate();
        let (at, _) = by_size.max_by_key(|(_, entry)| entry.message.len())?;
        self.waiting.remove(at)
    }

    /// Whether the oldest outcome is overdue; then the link is given up for another. Tells of a hub
    /// that lets a message wait for long.
    fn overdue(&mut self, path: &Path, cx: &mut Context<'_>) -> bool {
        let in_flight = self.flights.front().map(|flight| flight.since);
        let Some(since) = in_flight.or(self.blocked) else {
            self.told = false;
            if self.watchdog.is_armed() {
                self.watchdog.rest(clock::mono());
            }
            return false;
        };
        let timeout = path.shared.config.outcome_timeout;
        loop {
            let now = clock::mono();
            let waited = now.since(since);
            if !self.told && waited >= tuning::SILENCE.min(timeout) {
                self.told = true;
                path.holds_up(self.held_up_by(), None);
            }
            if in_flight.is_some() && waited >= timeout {
                break;
            }
            let next = match (self.told, in_flight) {
                (false, _) => tuning::SILENCE.min(timeout),
                (true, Some(_)) => timeout,
                // Credit, or the link's end, wakes us.
                (true, None) => return false,
            };
            let wait = next.saturating_sub(waited).max(Duration::from_millis(10));
            if self.watchdog.poll(now, wait, cx).is_pending() {
                return false;
            }
        }
        let deliveries = &path.shared.metrics.hub_deliveries;
        deliveries.with_label_values(&["no_outcome"]).inc();
        self.watchdog.disarm();
        self.take_back();
        self.patience.lose(false);
        true
    }

    /// The hub does something: whoever waits next has not waited for long.
    fn moves(&mut self) {
        if std::mem::take(&mut self.told) {
            self.watchdog.disarm();
        }
    }

    fn held_up_by(&self) -> RefusalCause {
        match self.flights.is_empty() {
            true => RefusalCause::NoCredit,
            false => RefusalCause::NoOutcome,
        }
    }

    /// Sends what may be sent. `true`: the link is given up.
    fn send_all(&mut self, path: &Path, cx: &mut Context<'_>, events: &mut Events) -> bool {
        let mut sent = false;
        while self.send(path, cx, events) {
            sent = true;
        }
        // Now there may be an outcome to wait for, or credit.
        (sent || self.blocked.is_some()) && self.overdue(path, cx)
    }

    /// Sends the next message. `false`: there is none, or it must wait.
    fn send(&mut self, path: &Path, cx: &mut Context<'_>, events: &mut Events) -> bool {
        if self.resting(cx) || self.blocked.is_some() {
            return false;
        }
        let (State::Live(live), Some(entry)) = (&mut self.state, self.waiting.front()) else {
            return false;
        };
        if !self.gate.opens(path, entry.cost(), cx) {
            return false;
        }
        let room = self.gate.take();
        let message = Message {
            head: &entry.message.head,
            body: entry.message.body.clone(),
            settled: false,
            token: self.next_number,
        };
        match live.link.send(&message) {
            Ok(_) => {
                let number = self.next_number;
                self.next_number += 1;
                let since = clock::mono();
                self.flights
                    .extend(self.waiting.pop_front().map(|entry| Flight {
                        entry,
                        number,
                        since,
                        _room: room,
                    }));
                true
            }
            // The room is given back: who has no credit holds up nobody.
            Err(SendError::WouldBlock | SendError::Stale) => {
                self.blocked = Some(clock::mono());
                false
            }
            Err(error @ (SendError::TooLarge { .. } | SendError::NotAllowed)) => {
                self.refuse_front(path, &error, events);
                true
            }
        }
    }

    /// The hub told with the link that it does not take such a message.
    fn refuse_front(&mut self, path: &Path, error: &SendError, events: &mut Events) {
        let Some(entry) = self.waiting.pop_front() else {
            return;
        };
        let reason = match error {
            SendError::TooLarge { .. } => "message_too_large",
            _ => "message_malformed",
        };
        let deliveries = &path.shared.metrics.hub_deliveries;
        deliveries.with_label_values(&[reason]).inc();
        let text = error.to_string();
        events.push_back(HubEvent::Sent(entry.ticket, Err(Refusal { reason, text })));
    }
}
