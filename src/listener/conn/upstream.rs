//! What a connection needs of the hub's side; `hub::DeviceLinks` is it, tests bring their own.

use crate::config::OnDisconnect;
use crate::hub::message::{Settlement, Telemetry};
use crate::hub::{DeviceLinks, HubEvent};
use std::future::Future;

/// The upstream links of one device. See [`DeviceLinks`] for the promises.
pub(in crate::listener) trait Upstream: Send + 'static {
    fn send(&mut self, ticket: u64, message: Telemetry);
    fn outstanding(&self) -> usize;
    fn subscribe(&mut self, credit: u32);
    fn unsubscribe(&mut self);
    fn settle(&mut self, delivery: u64, how: Settlement);
    fn next(&mut self) -> impl Future<Output = HubEvent> + Send;
    fn close(self, policy: OnDisconnect);
}

impl Upstream for DeviceLinks {
    fn send(&mut self, ticket: u64, message: Telemetry) {
        Self::send(self, ticket, message);
    }

    fn outstanding(&self) -> usize {
        Self::outstanding(self)
    }

    fn subscribe(&mut self, credit: u32) {
        Self::subscribe(self, credit);
    }

    fn unsubscribe(&mut self) {
        Self::unsubscribe(self);
    }

    fn settle(&mut self, delivery: u64, how: Settlement) {
        Self::settle(self, delivery, how);
    }

    fn next(&mut self) -> impl Future<Output = HubEvent> + Send {
        Self::next(self)
    }

    fn close(self, policy: OnDisconnect) {
        Self::close(self, policy);
    }
}
