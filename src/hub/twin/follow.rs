//! What the gateway asks a twin on its own account: the subscription to desired properties, and what
//! they are.

use super::{Asked, Events, Twin};
use crate::hub::HubEvent;
use crate::hub::desired::{Ask, Push, Unanswered, Update};
use crate::hub::device::Path;
use crate::hub::exchange;
use crate::runtime::clock;
use bytes::Bytes;
use std::pin::Pin;
use std::task::Context;
use tokio::time::{Sleep, sleep};

impl Twin {
    pub(super) fn forget_own(&mut self) {
        if let Some(number) = self.own.take() {
            let _ = self.requests.close(number);
        }
    }

    /// An answer to the gateway's own request.
    pub(super) fn own_answered(
        &mut self,
        path: &Path,
        ask: Ask,
        status: i32,
        body: &[u8],
        events: &mut Events,
    ) {
        self.own = None;
        let Some(following) = &mut self.following else {
            return;
        };
        let desired = &mut following.desired;
        let update = match (ask, status) {
            (Ask::Put, 200..300) => {
                desired.subscribed();
                Ok(None)
            }
            (Ask::Get, 200..300) => desired.read(body),
            _ => {
                desired.failed();
                Err(Unanswered)
            }
        };
        following.bytes.set(following.desired.bytes());
        match update {
            Ok(update) => {
                self.patience.reset();
                if let Some(update) = update {
                    self.pass_on(update, "recovered", events);
                }
            }
            Err(_) => {
                tracing::debug!(
                    device = %path.device.address,
                    status,
                    "the hub did not say what the desired properties are; asking again"
                );
                self.rest(status == 429);
            }
        }
    }

    pub(super) fn rest(&mut self, throttled: bool) {
        self.pause = Some(Box::pin(sleep(self.patience.lose(throttled))));
    }

    pub(super) fn pushed(&mut self, body: &Bytes, events: &mut Events) {
        let changes = &self.shared.metrics.desired_changes;
        let Some(following) = &mut self.following else {
            changes.with_label_values(&["unsubscribed"]).inc();
            return;
        };
        let push = following.desired.pushed(body);
        following.bytes.set(following.desired.bytes());
        let dropped = match push {
            Push::Next(update) => return self.pass_on(update, "delivered", events),
            Push::Repeated => "repeated",
            Push::Gap => "gap",
            Push::Unreadable => "unreadable",
        };
        changes.with_label_values(&[dropped]).inc();
    }

    pub(super) fn pass_on(&mut self, update: Update, how: &str, events: &mut Events) {
        let changes = &self.shared.metrics.desired_changes;
        changes.with_label_values(&[how]).inc();
        self.unwritten += 1;
        events.push_back(HubEvent::Desired(Box::new(update)));
    }

    /// Asks what the desired properties need.
    pub(super) fn send_own(&mut self, cx: &mut Context<'_>) {
        let resting = |pause: &mut Pin<Box<Sleep>>| pause.as_mut().poll(cx).is_pending();
        if self.own.is_some() || !self.pair.is_live() || self.pause.as_mut().is_some_and(resting) {
            return;
        }
        self.pause = None;
        let Some(following) = &mut self.following else {
            return;
        };
        let Some(ask) = following.desired.due() else {
            return;
        };
        let until = clock::mono() + self.bounds.timeout;
        let number = self.requests.open(Asked::Own(ask), 0, until);
        let message = exchange::twin_ask(ask, &self.ids.id(number));
        match self.pair.send(&message, number) {
            Ok(_) => {
                following.desired.asked();
                self.own = Some(number);
            }
            // An event follows, or the links' end.
            Err(_) => drop(self.requests.close(number)),
        }
    }
}
