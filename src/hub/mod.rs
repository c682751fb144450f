//! One hub, a few AMQP connections, many device links, one token.
//!
//! | where is | file |
//! |---|---|
//! | what a device's connection holds | `links`, with `uplink` (telemetry) and `downlink` (commands) |
//! | direct methods, twins | `methods`, `twin`, over a `pair` of links each |
//! | which answer is for which request | `requests`; desired properties missed and found: `desired` |
//! | a link attached, and paced | `attach`, `pace` |
//! | a rejected message or a detached link judged | `outcome` |
//! | told what the hub refuses | `refusals`, `report`; of one device: `device` |
//! | a message put into AMQP sections | `encode`; of methods and twins: `exchange` |
//! | what bounds bytes in flight, and an outcome's time | `gate`, `watchdog` |
//! | a connection opened | `connect` (TCP, TLS, SASL, OPEN), in an `environment` |
//! | what happens when it dies | `connection`, by `supervisor` |
//! | sessions begun, and shared where the hub allows few | `sessions` |
//! | which connection and session serve a device | `pool`, `lane` |
//! | the token put and renewed | `token`, by `schedule`, over `cbs` |
//! | the token made | `mint` (`sas`, `timekeeper`), or got from `outside` (`fetch`) |
//! | bytes read and written | `driver`, which runs a `crate::amqp::Connection` |
//!
//! A device's own task attaches, sends, settles and detaches, under its connection's lock. No type
//! of AMQP leaves this folder, and this folder knows no MQTT.

mod attach;
mod cbs;
mod connect;
mod connection;
mod desired;
mod device;
mod downlink;
pub mod driver;
mod encode;
pub mod environment;
pub mod exchange;
mod fetch;
mod gate;
mod lane;
mod links;
pub mod message;
mod methods;
mod mint;
pub mod outcome;
mod outside;
mod pace;
mod pair;
mod pool;
pub mod refusals;
mod report;
mod requests;
mod sas;
mod schedule;
mod series;
mod sessions;
mod share;
mod supervisor;
#[cfg(test)]
mod tests;
mod timekeeper;
mod token;
mod tuning;
mod twin;
mod uplink;
mod watchdog;

pub use desired::Update;
pub use links::DeviceLinks;
pub use mint::PolicyKeys;
pub use requests::Stray;
pub use twin::Busy;

use crate::config::HubConfig;
use crate::runtime::clock::Unix;
use crate::telemetry::causes::Causes;
use crate::telemetry::metrics::Metrics;
use environment::Environment;
use lane::Shared;
use message::{Command, DeviceAddress, MethodCall, TwinAnswer};
use outcome::{DeviceGone, HubAccepted, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// The upstream: cheap to clone, shared by all connections.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What the rest of the process may know about the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubStatus {
    /// Open connections that hold a valid token.
    pub connections_ready: usize,
    /// Connections the pool wants.
    pub connections_wanted: usize,
    /// When the newest accepted token ends.
    pub token_expiry: Option<Unix>,
    /// `primary` or `secondary`; `file` or `service` when somebody else makes the token.
    pub key_in_use: &'static str,
    /// What is wrong with a connection, in words; empty when all are well.
    pub problem: String,
    /// What the hub refuses at the moment.
    pub refusals: Vec<refusals::Standing>,
}

/// What a device's links report.
#[allow(clippy::large_enum_variant)] // handed over once and taken apart at once; a box buys nothing
#[derive(Debug)]
pub enum HubEvent {
    /// The hub decided about the message submitted under this ticket. Any order.
    Sent(u64, Result<HubAccepted, Refusal>),
    /// A command for the device; settle it. Boxed, because every device keeps room for a few
    /// events and commands are the large and seldom ones.
    Command(Box<Command>),
    /// The hub calls a method of the device.
    Method(Box<MethodCall>),
    /// The answer to a twin request.
    Twin(Box<TwinAnswer>),
    /// The desired properties have changed.
    Desired(Box<Update>),
    /// What was handed over under this ticket, a twin request or the answer to a method, is done
    /// with: accepted by the hub, or answered or given up here.
    Taken(u64, Option<HubAccepted>),
    /// The hub ends this device alone: close its MQTT connection and say why.
    Gone(DeviceGone),
}

impl Hub {
    /// Starts the pool: connects, puts the token, keeps both alive. Returns at once. Must be
    /// called inside a tokio runtime.
    #[must_use]
    pub fn start(config: Arc<HubConfig>, metrics: Arc<Metrics>) -> Self {
        Self::start_noting(config, metrics, Arc::new(Causes::new(0)))
    }

    /// [`Self::start`]; what the hub refuses a device is kept in `causes`.
    #[must_use]
    pub fn start_noting(
        config: Arc<HubConfig>,
        metrics: Arc<Metrics>,
        causes: Arc<Causes>,
    ) -> Self {
        Self::start_in(Environment::default(), config, metrics, causes)
    }

    /// [`Self::start_noting`] in another world.
    #[must_use]
    pub fn start_in(
        world: Environment,
        config: Arc<HubConfig>,
        metrics: Arc<Metrics>,
        causes: Arc<Causes>,
    ) -> Self {
        let (pacer, bucket) = pace::pacer(config.attach_rate_per_s);
        let shared = Arc::new(Shared::new(world, config, metrics, causes, pacer));
        let tasks = TaskTracker::new();
        let stop = shared.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = bucket.run() => {}
                () = stop.cancelled() => {}
            }
        });
        tasks.spawn(Arc::clone(&shared.refusals).run(shared.stop.clone()));
        for lane in shared.pool.lanes() {
            let supervisor = connection::supervise(Arc::clone(&shared), Arc::clone(lane));
            tasks.spawn(supervisor);
        }
        Self { shared, tasks }
    }

    /// Signs with these keys from now on, and puts a new token on every connection; whether they
    /// are other ones. The old token stays where it is until the new one is accepted.
    pub fn rekey(&self, keys: PolicyKeys) -> bool {
        let changed = self.shared.mint.rekey(keys);
        if changed {
            self.shared.token_news.send_modify(|news| *news += 1);
        }
        changed
    }

    /// Waits until one connection holds a token the hub accepted, or the time is up.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut ready = self.shared.ready.subscribe();
        let ready = ready.wait_for(|connections| *connections > 0);
        matches!(timeout(within, ready).await, Ok(Ok(_)))
    }

    /// A snapshot for `/ready` and metrics.
    #[must_use]
    pub fn status(&self) -> HubStatus {
        self.shared.status()
    }

    /// Devices that have links or may attach them, and how many may.
    #[must_use]
    pub fn devices(&self) -> (usize, usize) {
        self.shared.pool.use_and_bound()
    }

    /// Links for a device. Nothing is attached until the first `send` or `subscribe`. When there
    /// are as many devices as all connections together may hold, the links report
    /// [`HubEvent::Gone`] with reason `hub_full`.
    #[must_use]
    pub fn links(&self, address: DeviceAddress) -> DeviceLinks {
        if !self.shared.pool.admit() {
            return DeviceLinks::refused();
        }
        DeviceLinks::new(Box::new(device::Device {
            shared: Arc::clone(&self.shared),
            address,
        }))
    }

    /// Closes every link, session and connection properly, at most for `within`; whether all
    /// closed in time. What is left then is cut.
    pub async fn shutdown(&self, within: Duration) -> bool {
        self.shared.stop.cancel();
        self.tasks.close();
        let closed = timeout(within, self.tasks.wait()).await.is_ok();
        if !closed {
            for lane in self.shared.pool.lanes() {
                lane.cut("the gateway stops");
            }
        }
        closed
    }
}
