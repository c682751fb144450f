//! One device's command link: credit is the device's free window, and nothing is accepted that
//! the device has not.
//!
//! Owned and polled by the device's own task. A command the device holds when the link is lost
//! still counts against the window; the hub gives it out again by its own rules.

use super::HubEvent;
use super::attach::{Attaching, Live, NotAttached, Wanted, attach};
use super::device::{NO_HANDLES, Path, Patience, full};
use super::driver::LinkEvent;
use super::encode;
use super::message::Settlement;
use super::outcome::DeviceGone;
use super::pace::Urgency;
use super::refusals::Class;
use super::tuning;
use crate::amqp::{self, DeliveryId, Outcome};
use crate::config::OnDisconnect;
use crate::runtime::clock::{self, Mono};
use bytes::Bytes;
use prometheus::Histogram;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// A command the device has and has not settled.
struct Held {
    delivery: u64,
    /// When the hub delivered it.
    since: Mono,
    /// `None` once the link it came on is gone.
    id: Option<DeliveryId>,
}

enum State {
    Idle,
    Attaching(Attaching),
    Live(Live),
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
        if let (State::Live(live), Some(id)) = (&mut self.state, held.id) {
            let outcome = match how {
                Settlement::Accepted => Outcome::Accepted,
                Settlement::Released => Outcome::Released,
                Settlement::Rejected => Outcome::Rejected(None),
            };
            if live.link.settle(id, &outcome).is_ok() {
                if let (Settlement::Accepted, Some(duration)) = (how, &self.duration) {
                    duration.observe(clock::mono().since(held.since).as_secs_f64());
                }
            } else {
                tracing::debug!("a settlement did not reach the hub; it delivers again");
            }
        }
        self.top_up(false);
    }

    /// Whether the link is attached and no command of it is with the device.
    pub fn quiet(&self) -> bool {
        let settled = self.held.iter().all(|held| held.id.is_none());
        settled && matches!(self.state, State::Live(_))
    }

    /// Gives a quiet link up: it is to be detached.
    pub fn leave(&mut self) -> Option<Live> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Brings the hub's credit up to the free room; in steps of half the window, so that a Flow
    /// is not sent for every command.
    fn top_up(&mut self, at_once: bool) {
        let State::Live(live) = &mut self.state else {
            return;
        };
        let taken = self.held.len() + live.link.untaken();
        let free = self
            .window
            .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        // What has ended is about to say so.
        let credit = live.link.credit().unwrap_or(free);
        let missing = free.saturating_sub(credit);
        let due = missing > 0 && (credit == 0 || missing >= self.window.div_ceil(2));
        if due || (at_once && credit != free) {
            let _ = live.link.set_credit(free);
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
                State::Idle => self.state = State::Attaching(self.attach(path)),
                State::Attaching(attaching) => match attaching.as_mut().poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(live)) => {
                        path.succeeded(Class::Link);
                        self.state = State::Live(live);
                        self.top_up(true);
                    }
                    Poll::Ready(Err(NotAttached::Full)) => return Err(full(NO_HANDLES)),
                    Poll::Ready(Err(NotAttached::Refused(cause))) => {
                        self.state = State::Idle;
                        path.detached(cause.as_ref(), &mut self.patience)?;
                    }
                },
                State::Live(live) => match live.link.poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(LinkEvent::Delivery {
                        delivery, payload, ..
                    }) => {
                        if self.received(path, delivery, &payload, next_delivery, events) {
                            return Ok(());
                        }
                    }
                    Poll::Ready(event) => self.on(path, event)?,
                },
            }
        }
    }

    fn attach(&self, path: &Path) -> Attaching {
        let address = path.device.address.commands();
        let gauges = &path.shared.gauges;
        let mut attach_frame = amqp::receiver("down", &address);
        attach_frame.max_message_size = Some(tuning::COMMAND_BYTES_MAX);
        let wanted = Wanted {
            attach: attach_frame,
            address,
            urgency: Urgency::Normal,
            attaching: gauges.downlinks_attaching.clone(),
            attached: gauges.downlinks.clone(),
        };
        attach(path, wanted, self.patience.left())
    }

    /// `true`: a command was handed out.
    fn received(
        &mut self,
        path: &Path,
        id: DeliveryId,
        payload: &Bytes,
        next_delivery: &mut u64,
        events: &mut VecDeque<HubEvent>,
    ) -> bool {
        self.patience.reset();
        let Some(command) = encode::command(*next_delivery, payload) else {
            self.reject(path, id);
            return false;
        };
        let metrics = &path.shared.metrics;
        let known = || metrics.downlink_duration.clone();
        self.duration.get_or_insert_with(known);
        self.held.push_back(Held {
            delivery: *next_delivery,
            since: clock::mono(),
            id: Some(id),
        });
        *next_delivery += 1;
        events.push_back(HubEvent::Command(Box::new(command)));
        true
    }

    /// A command no device could be sent: the hub dead-letters it instead of trying for ever.
    fn reject(&mut self, path: &Path, id: DeliveryId) {
        tracing::warn!(
            name: "command_unreadable",
            device = %path.device.address,
            "command without a readable body, rejected"
        );
        if let State::Live(live) = &mut self.state {
            let _ = live.link.settle(id, &Outcome::Rejected(None));
        }
        self.top_up(false);
    }

    /// What happened to the link, a command apart.
    fn on(&mut self, path: &Path, event: LinkEvent) -> Result<(), DeviceGone> {
        let cause = match event {
            LinkEvent::Refused(error) | LinkEvent::Detached(error) => Some(error),
            LinkEvent::Stopped => None,
            _ => return Ok(()),
        };
        self.state = State::Idle;
        for held in &mut self.held {
            held.id = None;
        }
        if let Some(error) = cause {
            let cause = error.as_deref().map(encode::cause);
            path.detached(cause.as_ref(), &mut self.patience)?;
        }
        Ok(())
    }
}

impl Drop for Downlink {
    /// Gives commands back as the policy says, those first that the device has; then the link is
    /// detached.
    fn drop(&mut self) {
        let State::Live(live) = &mut self.state else {
            return;
        };
        let mut ids: Vec<_> = self.held.drain(..).filter_map(|held| held.id).collect();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(event) = live.link.poll(&mut cx) {
            match event {
                LinkEvent::Delivery { delivery, .. } => ids.push(delivery),
                LinkEvent::Refused(_) | LinkEvent::Detached(_) | LinkEvent::Stopped => return,
                _ => {}
            }
        }
        let outcome = match self.policy {
            OnDisconnect::Release => Outcome::Released,
            OnDisconnect::Abandon => Outcome::Modified {
                delivery_failed: true,
                undeliverable_here: false,
                message_annotations: None,
            },
            OnDisconnect::LockExpiry => return,
        };
        for id in ids {
            let _ = live.link.settle(id, &outcome);
        }
    }
}
