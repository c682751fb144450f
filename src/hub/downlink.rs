//! One device's command link: credit is the device's free window, and nothing is accepted that
//! the device has not.
//!
//! Owned and polled by the device's own task. A command the device holds when the link is lost
//! still counts against the window; the hub gives it out again by its own rules.

use super::HubEvent;
use super::encode;
use super::live::{Live, failed, now};
use super::message::Settlement;
use super::outcome::{DeviceGone, judge_detach};
use super::pace::Urgency;
use super::path::{LinkEnd, Path, Patience, Seek};
use super::refusals::Class;
use super::session::Wanted;
use crate::config::OnDisconnect;
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::types::primitives::Value;
use prometheus::Histogram;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A command the device has and has not settled.
struct Held {
    delivery: u64,
    /// When the hub delivered it.
    since: Mono,
    /// `None` once the link it came on is gone.
    info: Option<DeliveryInfo>,
}

enum State {
    Idle,
    Seeking(Seek<Receiver>),
    Live(Live<Receiver>),
}

/// The command link of a device.
pub struct Downlink {
    state: State,
    window: u32,
    held: VecDeque<Held>,
    patience: Patience,
    /// Where the time of a command is shown; known with the first one.
    duration: Option<Histogram>,
    /// What becomes of held commands when this is dropped.
    pub policy: OnDisconnect,
}

impl Downlink {
    /// A link that is wanted with room for `window` commands.
    pub fn new(window: u32) -> Self {
        Self {
            state: State::Idle,
            window,
            held: VecDeque::new(),
            patience: Patience::default(),
            duration: None,
            policy: OnDisconnect::Release,
        }
    }

    /// Changes the room.
    pub fn resize(&mut self, window: u32) {
        self.window = window;
        self.top_up(true);
    }

    /// Settles a command and gives its credit back.
    pub fn settle(&mut self, delivery: u64, how: Settlement) {
        let Some(place) = self.held.iter().position(|held| held.delivery == delivery) else {
            return;
        };
        let Some(held) = self.held.remove(place) else {
            return;
        };
        let (since, info) = (held.since, held.info);
        if let (State::Live(live), Some(info)) = (&mut self.state, info) {
            let receiver = live.link();
            let settled = match how {
                Settlement::Accepted => now(receiver.accept(info)),
                Settlement::Released => now(receiver.release(info)),
                Settlement::Rejected => now(receiver.reject(info, None)),
            };
            if matches!(settled, Some(Ok(()))) {
                if let (Settlement::Accepted, Some(duration)) = (how, &self.duration) {
                    duration.observe(clock::mono().since(since).as_secs_f64());
                }
            } else {
                tracing::debug!("a settlement did not reach the hub; it delivers again");
            }
        }
        self.top_up(false);
    }

    /// Whether the link is attached and no command of it is with the device.
    pub fn quiet(&self) -> bool {
        let settled = self.held.iter().all(|held| held.info.is_none());
        settled && matches!(self.state, State::Live(_))
    }

    /// Gives a quiet link up; what it answers ends when the link is closed.
    pub fn leave(&mut self) -> Option<oneshot::Receiver<()>> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Live(live) => Some(live.leave()),
            _ => None,
        }
    }

    /// Brings the hub's credit up to the free room; in steps of half the window, so that a Flow
    /// is not sent for every command.
    fn top_up(&mut self, at_once: bool) {
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        let free = self.window.saturating_sub(held);
        let State::Live(live) = &mut self.state else {
            return;
        };
        if live.port().retired.load(Ordering::Relaxed) {
            return; // nothing new on a session that is being replaced
        }
        let receiver = live.link();
        let credit = receiver.credit();
        let missing = free.saturating_sub(credit);
        let due = missing > 0 && (credit == 0 || missing >= self.window.div_ceil(2));
        if due || (at_once && credit != free) {
            now(receiver.set_credit(free));
        }
    }

    /// Moves the link and takes at most one command.
    pub fn poll(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        next_delivery: &mut u64,
        events: &mut VecDeque<HubEvent>,
    ) -> Result<(), DeviceGone> {
        loop {
            match &mut self.state {
                State::Idle => {
                    let source = path.device.address.commands();
                    let gauge = &path.shared.gauges.downlinks_attaching;
                    let seek = path.seek(&self.patience, Urgency::Normal, gauge, move |answer| {
                        Wanted::Downlink(source.clone(), answer)
                    });
                    self.state = State::Seeking(seek);
                }
                State::Seeking(seek) => match seek.as_mut().poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(live)) => {
                        path.succeeded(Class::Link);
                        self.state = State::Live(live);
                        self.top_up(true);
                    }
                    Poll::Ready(Err(cause)) => {
                        self.state = State::Idle;
                        let row = judge_detach(cause.as_ref());
                        path.detached(&row, cause.as_ref(), &mut self.patience)?;
                    }
                },
                State::Live(live) => {
                    let retired = live.port().retired.load(Ordering::Relaxed);
                    if retired && self.held.iter().all(|held| held.info.is_none()) {
                        self.state = State::Idle;
                        continue;
                    }
                    let received = pin!(live.link().recv::<Body<Value>>()).poll(cx);
                    let Poll::Ready(received) = received else {
                        return Ok(());
                    };
                    if self.received(path, received, next_delivery, events)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// `true`: a command was handed out.
    fn received(
        &mut self,
        path: &Path,
        received: Result<fe2o3_amqp::Delivery<Body<Value>>, RecvError>,
        next_delivery: &mut u64,
        events: &mut VecDeque<HubEvent>,
    ) -> Result<bool, DeviceGone> {
        let end = match received {
            Ok(delivery) => {
                self.patience.reset();
                let (info, message) = delivery.into_parts();
                match encode::command(*next_delivery, message) {
                    Some(command) => {
                        let metrics = &path.shared.metrics;
                        let known = || metrics.downlink_duration.clone();
                        self.duration.get_or_insert_with(known);
                        self.held.push_back(Held {
                            delivery: *next_delivery,
                            since: clock::mono(),
                            info: Some(info),
                        });
                        *next_delivery += 1;
                        events.push_back(HubEvent::Command(Box::new(command)));
                        return Ok(true);
                    }
                    None => {
                        self.reject(path, info);
                        return Ok(false);
                    }
                }
            }
            Err(RecvError::MessageDecode(error)) => {
                self.reject(path, error.info);
                return Ok(false);
            }
            Err(RecvError::LinkStateError(error)) => LinkEnd::from(error),
            // The peer broke the protocol on this link: close it, attach again.
            Err(_) => LinkEnd::Odd,
        };
        self.ended(path, end)?;
        Ok(false)
    }

    /// A command no device could be sent: the hub dead-letters it instead of trying for ever.
    fn reject(&mut self, path: &Path, info: DeliveryInfo) {
        tracing::warn!(device = %path.device.address, "command without a readable body, rejected");
        if let State::Live(live) = &mut self.state {
            now(live.link().reject(info, None));
        }
        self.top_up(false);
    }

    fn ended(&mut self, path: &Path, end: LinkEnd) -> Result<(), DeviceGone> {
        if let State::Live(live) = std::mem::replace(&mut self.state, State::Idle) {
            end.release(live);
        }
        for held in &mut self.held {
            held.info = None;
        }
        match end {
            LinkEnd::Stopped => Ok(()),
            LinkEnd::Odd => {
                self.patience.lose(false);
                Ok(())
            }
            LinkEnd::Detached(cause) => {
                let row = judge_detach(cause.as_ref());
                path.detached(&row, cause.as_ref(), &mut self.patience)
            }
        }
    }
}

impl Drop for Downlink {
    /// Gives held commands back as the policy says; the guard closes the link after that.
    fn drop(&mut self) {
        let State::Live(live) = &mut self.state else {
            return;
        };
        live.policy = self.policy;
        let receiver = live.link();
        for info in self.held.drain(..).filter_map(|held| held.info) {
            match self.policy {
                OnDisconnect::Release => drop(now(receiver.release(info))),
                OnDisconnect::Abandon => drop(now(receiver.modify(info, failed()))),
                OnDisconnect::LockExpiry => {}
            }
        }
    }
}
