//! The twin of one device: requests the hub has not answered, and desired properties as they
//! change.
//!
//! Owned and polled by the device's own task. A request outlives its links and is sent again on the
//! next ones, in order, until it is answered or its time is over; a report under the condition of
//! a version is not, because the hub may have followed it already.

mod follow;

use super::HubEvent;
use super::attach::Live;
use super::desired::{Ask, Desired};
use super::device::{Path, Patience};
use super::encode::{self, Encoded};
use super::exchange::{self, Ids, TwinMessage};
use super::lane::Shared;
use super::message::{TwinAnswer, TwinAsk, TwinBounds, TwinRequest};
use super::outcome::{DeviceGone, Verdict, judge_settled};
use super::pair::{Pair, PairEvent, Service};
use super::requests::Requests;
use super::share::Share;
use super::tuning;
use super::watchdog::Watchdog;
use crate::amqp::{Outcome, SendError};
use crate::runtime::clock::{self, Mono};
use crate::runtime::random;
use bytes::Bytes;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

type Events = VecDeque<HubEvent>;

/// A request on its way.
enum Asked {
    /// This gateway's own, for the desired properties.
    Own(Ask),
    Device(Box<Request>),
}

/// A device's request.
struct Request {
    ticket: u64,
    rid: String,
    operation: &'static str,
    message: Encoded,
    /// Whether it may not be followed twice.
    once: bool,
    /// Whether it is with the hub.
    sent: bool,
    /// Whether its PUBLISH has its PUBACK.
    taken: bool,
    since: Mono,
    _counted: Share,
    _bytes: Share,
}

/// More is waiting than may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Desired properties, and what they hold.
struct Following {
    desired: Desired,
    _counted: Share,
    bytes: Share,
}

/// The twin of a device.
pub struct Twin {
    shared: Arc<Shared>,
    pair: Pair,
    bounds: TwinBounds,
    requests: Requests<Asked>,
    following: Option<Box<Following>>,
    /// The own request under way.
    own: Option<u64>,
    /// Changes with the device whose socket has not taken them.
    unwritten: usize,
    ids: Ids,
    patience: Patience,
    /// Nothing is asked on the gateway's own account until then.
    pause: Option<Pin<Box<Sleep>>>,
    watchdog: Watchdog,
}

impl Twin {
    /// A twin of which nothing is asked yet.
    pub fn new(shared: Arc<Shared>, bounds: TwinBounds) -> Self {
        let mut seed = [0; 8];
        if random::fill(&mut seed).is_err() {
            seed = clock::unix().as_millis().to_be_bytes();
        }
        Self {
            shared,
            pair: Pair::new(Service::Twin),
            bounds,
            requests: Requests::default(),
            following: None,
            own: None,
            unwritten: 0,
            ids: Ids::of(u64::from_be_bytes(seed)),
            patience: Patience::default(),
            pause: None,
            watchdog: Watchdog::default(),
        }
    }

    /// Takes a request over. [`HubEvent::Taken`] and [`HubEvent::Twin`] follow, each once.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn ask(
        &mut self,
        ticket: u64,
        request: TwinRequest,
        bounds: TwinBounds,
    ) -> Result<(), Busy> {
        self.bounds = bounds;
        let bytes = request.what.bytes();
        let open = self.requests.len() - usize::from(self.own.is_some());
        let room = bounds.bytes.saturating_sub(self.requests.bytes());
        if open >= bounds.requests || bytes > room {
            return Err(Busy);
        }
        let since = clock::mono();
        let gauges = &self.shared.gauges;
        let operation = request.what.label();
        let once = matches!(&request.what, TwinAsk::Report { version, .. } if version.is_some());
        let held = Request {
            ticket,
            rid: request.rid,
            operation,
            message: Encoded::default(),
            once,
            sent: false,
            taken: false,
            since,
            _counted: Share::new(&gauges.asks, 1),
            _bytes: Share::new(&gauges.ask_bytes, bytes),
        };
        let asked = Asked::Device(Box::new(held));
        let number = self.requests.open(asked, bytes, since + bounds.timeout);
        let id = self.ids.id(number);
        if let Some(Asked::Device(held)) = self.requests.get_mut(number) {
            held.message = match request.what {
                TwinAsk::Get => exchange::twin_ask(Ask::Get, &id),
                TwinAsk::Report { version, body } => exchange::twin_report(version, &id, body),
            };
        }
        Ok(())
    }

    /// The device subscribes to changes of its desired properties.
    pub fn follow(&mut self, bounds: TwinBounds) {
        self.bounds = bounds;
        if self.following.is_none() {
            let gauges = &self.shared.gauges;
            self.following = Some(Box::new(Following {
                desired: Desired::new(bounds.desired_bytes),
                _counted: Share::new(&gauges.desired, 1),
                bytes: Share::new(&gauges.desired_bytes, 0),
            }));
        }
    }

    /// The device unsubscribes. The hub learns it by the end of the links.
    pub fn unfollow(&mut self) {
        self.following = None;
        self.forget_own();
        if self.requests.is_empty() {
            drop(self.pair.leave());
        }
    }

    /// The socket has taken the changes.
    pub fn written(&mut self) {
        if std::mem::take(&mut self.unwritten) > 0 {
            self.top_up();
        }
    }

    /// Whether links are wanted.
    pub fn is_wanted(&self) -> bool {
        self.following.is_some() || !self.requests.is_empty()
    }

    /// Whether nothing is under way.
    pub fn quiet(&self) -> bool {
        let due = |following: &Following| following.desired.due().is_some();
        let due = self.following.as_deref().is_some_and(due);
        self.requests.is_empty() && !due && self.pair.is_quiet()
    }

    /// Gives quiet links up: they are to be detached.
    pub fn leave(&mut self) -> Vec<Live> {
        self.pair.leave()
    }

    fn top_up(&mut self) {
        let window = tuning::TWIN_CREDIT;
        let room = usize::try_from(window).unwrap_or(usize::MAX);
        self.pair
            .top_up(window, room.saturating_sub(self.unwritten));
    }

    /// Moves everything forward that can move.
    pub fn poll(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        events: &mut Events,
    ) -> Result<(), DeviceGone> {
        loop {
            self.expire(cx, events);
            match self.pair.poll(path, cx, self.is_wanted()) {
                Poll::Ready(event) => self.on(path, event?, events),
                Poll::Pending => {
                    self.send_own(cx);
                    self.send_all(events);
                    // What was just opened has a time of its own.
                    self.expire(cx, events);
                    return Ok(());
                }
            }
        }
    }

    fn on(&mut self, path: &Path, event: PairEvent, events: &mut Events) {
        match event {
            PairEvent::Attached => {
                if let Some(following) = &mut self.following {
                    following.desired.attached();
                }
                self.top_up();
            }
            PairEvent::Delivery(payload) => {
                self.delivered(path, &payload, events);
                self.top_up();
            }
            PairEvent::Outcome(number, outcome) => self.outcome(number, &outcome, events),
            PairEvent::Credit => {}
            PairEvent::Lost { unserved } => self.lost(path, unserved, events),
        }
    }

    fn lost(&mut self, path: &Path, unserved: bool, events: &mut Events) {
        self.forget_own();
        if unserved {
            tracing::warn!(
                name: "twin_unserved",
                device = %path.device.address,
                "the hub has no twins; requests are answered 501"
            );
            while let Some(asked) = self.requests.give_up() {
                self.give_up(
                    asked,
                    501,
                    "the hub has no device twins",
                    "unserved",
                    events,
                );
            }
            return;
        }
        let mut doubtful = Vec::new();
        for (number, asked) in self.requests.iter_mut() {
            match asked {
                Asked::Device(request) if request.sent && request.once => doubtful.push(number),
                Asked::Device(request) => request.sent = false,
                Asked::Own(_) => {}
            }
        }
        for number in doubtful {
            if let Ok(asked) = self.requests.close(number) {
                let text = "the hub's answer was lost; read the twin before trying again";
                self.give_up(asked, 504, text, "timed_out", events);
            }
        }
    }

    /// Answers a device in place of the hub.
    fn give_up(
        &mut self,
        asked: Asked,
        status: i32,
        text: &str,
        result: &str,
        events: &mut Events,
    ) {
        let Asked::Device(request) = asked else {
            return;
        };
        if !request.taken {
            events.push_back(HubEvent::Taken(request.ticket, None));
        }
        self.count(request.operation, result);
        events.push_back(HubEvent::Twin(Box::new(TwinAnswer {
            rid: request.rid,
            status,
            version: None,
            body: exchange::error_body(status, text),
        })));
    }

    fn count(&self, operation: &str, result: &str) {
        let requests = &self.shared.metrics.twin_requests;
        requests.with_label_values(&[operation, result]).inc();
    }

    fn dropped(&self, reason: &str) {
        let dropped = &self.shared.metrics.twin_answers_dropped;
        dropped.with_label_values(&[reason]).inc();
    }

    fn delivered(&mut self, path: &Path, payload: &Bytes, events: &mut Events) {
        match exchange::twin_message(payload) {
            Some(TwinMessage::Push(body)) => self.pushed(&body, events),
            Some(TwinMessage::Answer {
                id,
                status,
                version,
                body,
            }) => {
                let number = self.ids.number(&id).unwrap_or_default();
                match self.requests.close(number) {
                    Err(stray) => self.dropped(stray.label()),
                    Ok(Asked::Own(ask)) => self.own_answered(path, ask, status, &body, events),
                    Ok(Asked::Device(request)) => {
                        self.answered(*request, status, version, body, events);
                    }
                }
            }
            None => {
                self.dropped("unreadable");
                tracing::warn!(
                    name: "twin_unreadable",
                    device = %path.device.address,
                    "message of the twin without readable sections, dropped"
                );
            }
        }
    }

    fn answered(
        &mut self,
        request: Request,
        status: i32,
        version: Option<i64>,
        body: Bytes,
        events: &mut Events,
    ) {
        let metrics = &self.shared.metrics;
        let took = clock::mono().since(request.since).as_secs_f64();
        let durations = &metrics.twin_durations;
        durations
            .with_label_values(&[request.operation])
            .observe(took);
        self.count(
            request.operation,
            match status {
                ..300 => "answered",
                _ => "refused",
            },
        );
        if !request.taken {
            events.push_back(HubEvent::Taken(request.ticket, None));
        }
        events.push_back(HubEvent::Twin(Box::new(TwinAnswer {
            rid: request.rid,
            status,
            version,
            body,
        })));
    }

    /// The hub decided about a request, which is not yet its answer.
    fn outcome(&mut self, number: u64, outcome: &Outcome, events: &mut Events) {
        let Some(Asked::Device(request)) = self.requests.get_mut(number) else {
            return;
        };
        let Some(settled) = encode::settled(outcome) else {
            request.sent = false;
            return;
        };
        match judge_settled(&settled).verdict {
            Verdict::Accepted(receipt) if !request.taken => {
                request.taken = true;
                events.push_back(HubEvent::Taken(request.ticket, Some(receipt)));
            }
            Verdict::Accepted(_) => {}
            _ => {
                if let Ok(asked) = self.requests.close(number) {
                    let text = "the hub did not take the request";
                    self.give_up(asked, 500, text, "refused", events);
                }
            }
        }
    }

    /// Sends the device's requests, in order.
    fn send_all(&mut self, events: &mut Events) {
        let mut refused = None;
        for (number, asked) in self.requests.iter_mut() {
            let Asked::Device(request) = asked else {
                continue;
            };
            if request.sent {
                continue;
            }
            match self.pair.send(&request.message, number) {
                Ok(decides) => {
                    request.sent = true;
                    if !decides && !request.taken {
                        request.taken = true;
                        events.push_back(HubEvent::Taken(request.ticket, None));
                    }
                }
                Err(SendError::WouldBlock | SendError::Stale) => break,
                Err(SendError::TooLarge { .. } | SendError::NotAllowed) => {
                    refused = Some(number);
                    break;
                }
            }
        }
        if let Some(number) = refused
            && let Ok(asked) = self.requests.close(number)
        {
            let text = "the hub takes no request of this size";
            self.give_up(asked, 413, text, "too_large", events);
            self.send_all(events);
        }
    }

    /// Answers what the hub has not answered in time.
    fn expire(&mut self, cx: &mut Context<'_>, events: &mut Events) {
        loop {
            let now = clock::mono();
            while let Some(asked) = self.requests.expire(now) {
                if let Asked::Own(_) = asked {
                    self.own = None;
                    if let Some(following) = &mut self.following {
                        following.desired.failed();
                    }
                    self.rest(false);
                }
                let text = "the hub did not answer within limits.twin_timeout";
                self.give_up(asked, 504, text, "timed_out", events);
            }
            let Some(next) = self.requests.deadline() else {
                return self.watchdog.rest(now);
            };
            let wait = next.since(now).max(Duration::from_millis(1));
            if self.watchdog.poll(now, wait, cx).is_pending() {
                return;
            }
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        while let Some(asked) = self.requests.give_up() {
            if let Asked::Device(request) = asked {
                self.count(request.operation, "abandoned");
            }
        }
    }
}
