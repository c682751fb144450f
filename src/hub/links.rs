//! A device's links as its connection task sees them: one owner, one poll, no task of their own.

use super::HubEvent;
use super::downlink::Downlink;
use super::message::{Settlement, Telemetry};
use super::outcome::DeviceGone;
use super::path::Path;
use super::uplink::Uplink;
use crate::config::OnDisconnect;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// The upstream links of one device, owned by its connection task.
pub struct DeviceLinks {
    path: Option<Path>,
    uplink: Option<Box<Uplink>>,
    downlink: Option<Box<Downlink>>,
    events: VecDeque<HubEvent>,
    next_delivery: u64,
}

impl DeviceLinks {
    pub(super) fn new(path: Path) -> Self {
        Self {
            path: Some(path),
            uplink: None,
            downlink: None,
            events: VecDeque::new(),
            next_delivery: 1,
        }
    }

    /// Links of a device there is no room for: they report that and nothing else.
    pub(super) fn refused() -> Self {
        let gone = DeviceGone {
            reason: "hub_full",
            text: "every hub connection has max_devices_per_connection devices".to_owned(),
        };
        Self {
            path: None,
            uplink: None,
            downlink: None,
            events: VecDeque::from([HubEvent::Gone(gone)]),
            next_delivery: 1,
        }
    }

    /// Takes a message over. It is sent, and sent again after a connection loss with the same
    /// message-id, until the hub decides. The caller bounds how many are outstanding. After
    /// [`HubEvent::Gone`] messages are dropped.
    pub fn send(&mut self, ticket: u64, message: Telemetry) {
        if self.path.is_some() {
            let uplink = self.uplink.get_or_insert_with(|| Box::new(Uplink::new()));
            uplink.push(ticket, message);
        }
    }

    /// Messages the hub has not decided about.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.uplink
            .as_ref()
            .map_or(0, |uplink| uplink.outstanding())
    }

    /// Opens the command link with room for `credit` commands; kept open over reconnections.
    /// Called again, it changes the room.
    pub fn subscribe(&mut self, credit: u32) {
        match &mut self.downlink {
            Some(downlink) => downlink.resize(credit),
            None if self.path.is_some() => {
                self.downlink = Some(Box::new(Downlink::new(credit)));
            }
            None => {}
        }
    }

    /// Closes the command link; unsettled commands go back to the hub.
    pub fn unsubscribe(&mut self) {
        self.downlink = None;
    }

    /// Settles a command and gives its credit back. A command of a link that is gone only gives
    /// its credit back; the hub delivers it again.
    pub fn settle(&mut self, delivery: u64, how: Settlement) {
        if let Some(downlink) = &mut self.downlink {
            downlink.settle(delivery, how);
        }
    }

    /// The next event. Cancel-safe: dropping the future loses nothing. Pending while idle.
    pub async fn next(&mut self) -> HubEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<HubEvent> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Err(gone) = self.poll_links(cx) {
            self.uplink = None;
            self.downlink = None;
            self.path = None;
            self.events.push_back(HubEvent::Gone(gone));
        }
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }

    fn poll_links(&mut self, cx: &mut Context<'_>) -> Result<(), DeviceGone> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if let Some(uplink) = &mut self.uplink {
            uplink.poll(path, cx, &mut self.events)?;
        }
        if let Some(downlink) = &mut self.downlink {
            downlink.poll(path, cx, &mut self.next_delivery, &mut self.events)?;
        }
        Ok(())
    }

    /// Ends the links in the background: messages in flight are abandoned unacknowledged,
    /// unsettled commands go back as `policy` says. Dropping is the same with `release`.
    pub fn close(mut self, policy: OnDisconnect) {
        if let Some(downlink) = &mut self.downlink {
            downlink.policy = policy;
        }
    }
}
