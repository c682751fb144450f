//! What a connection needs of the hub's side; `hub::DeviceLinks` is it, tests bring their own.

use crate::config::OnDisconnect;
use crate::hub::message::{MethodBounds, Settlement, Telemetry, TwinBounds, TwinRequest};
use crate::hub::{Busy, DeviceLinks, HubEvent, Stray};
use bytes::Bytes;
use std::future::Future;

/// The upstream links of one device. See [`DeviceLinks`] for the promises.
pub(in crate::listener) trait Upstream: Send + 'static {
    fn send(&mut self, ticket: u64, message: Telemetry);
    fn outstanding(&self) -> usize;
    fn subscribe(&mut self, credit: u32);
    fn unsubscribe(&mut self);
    fn settle(&mut self, delivery: u64, how: Settlement);
    fn call_methods(&mut self, bounds: MethodBounds);
    fn call_no_methods(&mut self);
    fn answer(&mut self, ticket: u64, call: u64, status: i32, body: Bytes) -> Result<(), Stray>;
    fn drop_call(&mut self, call: u64, result: &str);
    fn ask_twin(
        &mut self,
        ticket: u64,
        request: TwinRequest,
        bounds: TwinBounds,
    ) -> Result<(), Busy>;
    fn follow_desired(&mut self, bounds: TwinBounds);
    fn leave_desired(&mut self);
    fn requests_written(&mut self);
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

    fn call_methods(&mut self, bounds: MethodBounds) {
        Self::call_methods(self, bounds);
    }

    fn call_no_methods(&mut self) {
        Self::call_no_methods(self);
    }

    fn answer(&mut self, ticket: u64, call: u64, status: i32, body: Bytes) -> Result<(), Stray> {
        Self::answer(self, ticket, call, status, body)
    }

    fn drop_call(&mut self, call: u64, result: &str) {
        Self::drop_call(self, call, result);
    }

    fn ask_twin(
        &mut self,
        ticket: u64,
        request: TwinRequest,
        bounds: TwinBounds,
    ) -> Result<(), Busy> {
        Self::ask_twin(self, ticket, request, bounds)
    }

    fn follow_desired(&mut self, bounds: TwinBounds) {
        Self::follow_desired(self, bounds);
    }

    fn leave_desired(&mut self) {
        Self::leave_desired(self);
    }

    fn requests_written(&mut self) {
        Self::requests_written(self);
    }

    fn next(&mut self) -> impl Future<Output = HubEvent> + Send {
        Self::next(self)
    }

    fn close(self, policy: OnDisconnect) {
        Self::close(self, policy);
    }
}
