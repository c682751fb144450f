//! One hub, a few AMQP connections, many device links, one token.

pub mod message;
pub mod outcome;

use crate::config::{HubConfig, OnDisconnect};
use crate::runtime::clock::Unix;
use crate::telemetry::metrics::Metrics;
use message::{Command, DeviceAddress, Settlement, Telemetry};
use outcome::{DeviceGone, HubAccepted, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// The upstream: cheap to clone, shared by all connections.
#[derive(Clone)]
pub struct Hub {}

/// What the rest of the process may know about the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubStatus {
    /// Open connections that hold a valid token.
    pub connections_ready: usize,
    /// Connections the pool wants.
    pub connections_wanted: usize,
    /// When the newest accepted token ends.
    pub token_expiry: Option<Unix>,
    /// `primary` or `secondary`.
    pub key_in_use: &'static str,
    /// The newest problem, in words; empty when there is none.
    pub problem: String,
}

/// What a device's links report.
#[derive(Debug)]
pub enum HubEvent {
    /// The hub decided about the message submitted under this ticket. Any order.
    Sent(u64, Result<HubAccepted, Refusal>),
    /// A command for the device; settle it.
    Command(Command),
    /// The hub ends this device alone: close its MQTT connection and say why.
    Gone(DeviceGone),
}

/// The upstream links of one device, owned by its connection task.
pub struct DeviceLinks {}

impl Hub {
    /// Starts the pool: connects, puts the token, keeps both alive. Returns at once.
    #[must_use]
    pub fn start(_config: Arc<HubConfig>, _metrics: Arc<Metrics>) -> Self {
        Self {}
    }

    /// Waits until one connection holds a token the hub accepted, or the time is up.
    pub async fn ready(&self, _within: Duration) -> bool {
        false
    }

    /// A snapshot for `/ready` and metrics.
    #[must_use]
    pub fn status(&self) -> HubStatus {
        HubStatus::default()
    }

    /// Links for a device. Nothing is attached until the first `send` or `subscribe`.
    #[must_use]
    pub fn links(&self, _address: DeviceAddress) -> DeviceLinks {
        DeviceLinks {}
    }

    /// Closes every link, session and connection properly, at most for `within`; whether all
    /// closed in time.
    pub async fn shutdown(&self, _within: Duration) -> bool {
        true
    }
}

impl DeviceLinks {
    /// Takes a message over. It is sent, and sent again after a connection loss with the same
    /// message-id, until the hub decides. The caller bounds how many are outstanding.
    pub fn send(&mut self, _ticket: u64, _message: Telemetry) {}

    /// Messages the hub has not decided about.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        0
    }

    /// Opens the command link with room for `credit` commands; kept open over reconnections.
    pub fn subscribe(&mut self, _credit: u32) {}

    /// Closes the command link; unsettled commands go back to the hub.
    pub fn unsubscribe(&mut self) {}

    /// Settles a command and gives its credit back.
    pub fn settle(&mut self, _delivery: u64, _how: Settlement) {}

    /// The next event. Cancel-safe: dropping the future loses nothing. Pending while idle.
    pub async fn next(&mut self) -> HubEvent {
        std::future::pending().await
    }

    /// Ends the links in the background: messages in flight are abandoned unacknowledged,
    /// unsettled commands go back as `policy` says.
    pub fn close(self, _policy: OnDisconnect) {}
}
