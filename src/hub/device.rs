//! A device of the upstream: its place on a connection, its pauses, and what is told about its
//! links. Shared by `uplink` and `downlink`.

use super::lane::{Lane, Shared};
use super::message::DeviceAddress;
use super::outcome::{Cause, DeviceGone, Verdict, judge_detach, words};
use super::refusals::{self, Class, RefusalCause};
use super::{pool, tuning};
use crate::runtime::clock::{self, Mono};
use crate::runtime::random;
use std::sync::Arc;
use std::time::Duration;

/// A device the upstream has admitted.
pub struct Device {
    /// The hub-wide context.
    pub shared: Arc<Shared>,
    /// The device.
    pub address: DeviceAddress,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.pool.leave();
    }
}

/// Where a device's links run.
pub struct Path {
    /// Who it is.
    pub device: Box<Device>,
    /// The hub-wide context.
    pub shared: Arc<Shared>,
    /// Its place on a connection.
    pub spot: Spot,
}

/// A place on a connection.
pub struct Spot {
    shared: Arc<Shared>,
    /// The connection.
    pub lane: Arc<Lane>,
    /// The session on it.
    pub slot: usize,
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.shared.pool.vacate(&self.lane);
    }
}

impl Path {
    /// Places a device on a connection; gives it back when none has room.
    pub fn of(device: Box<Device>) -> Result<Self, Box<Device>> {
        let shared = Arc::clone(&device.shared);
        let Some(lane) = shared.pool.place(&device.address) else {
            return Err(device);
        };
        let slot = pool::session(&device.address, lane.slots.len());
        let spot = Spot {
            shared: Arc::clone(&shared),
            lane,
            slot,
        };
        Ok(Self {
            device,
            shared,
            spot,
        })
    }

    /// The connection.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.spot.lane
    }

    /// Tells of what the hub refused, if that is what it did.
    pub fn refused(&self, label: &str, error: Option<&Cause>) {
        if let Some(cause) = refusals::of_error(label, error) {
            self.holds_up(cause, error);
        }
    }

    /// Tells what the hub does to a message without a word that says so.
    pub fn holds_up(&self, cause: RefusalCause, error: Option<&Cause>) {
        let device = self.device.address.to_string();
        self.shared.refusals.refused(cause, &device, &words(error));
    }

    /// Tells that a link was attached or a message accepted.
    pub fn succeeded(&self, class: Class) {
        let device = || self.device.address.to_string();
        self.shared.refusals.succeeded(class, device);
    }

    /// Books a detach or a refused attach; answers what that says about messages. `Err`: the
    /// device is gone for good. Otherwise the pause before the next attempt is set.
    pub fn detached(
        &self,
        cause: Option<&Cause>,
        patience: &mut Patience,
    ) -> Result<Verdict, DeviceGone> {
        let shared = &self.shared;
        let row = judge_detach(cause);
        shared
            .metrics
            .hub_detaches
            .with_label_values(&[row.label])
            .inc();
        tracing::debug!(device = %self.device.address, cause = %words(cause), "link detached");
        self.refused(row.label, cause);
        match row.verdict {
            Verdict::Gone(reason) => {
                return Err(DeviceGone {
                    reason,
                    text: words(cause),
                });
            }
            Verdict::Throttled => {
                shared.metrics.hub_throttled.inc();
                patience.lose(true);
            }
            Verdict::Unauthorized => {
                self.lane().suspect.notify_one();
                patience.lose(false);
            }
            Verdict::Rebuild => {
                self.lane()
                    .cut("the hub's words about a link call for a new connection");
                patience.lose(false);
            }
            _ => drop(patience.lose(false)),
        }
        Ok(row.verdict)
    }
}

/// Why a device is refused that the pool had room for.
pub const NO_HANDLES: &str = "the hub allows no more links on the device's connection";

/// A device has no place, or no links there.
pub fn full(text: &str) -> DeviceGone {
    DeviceGone {
        reason: "hub_full",
        text: text.to_owned(),
    }
}

/// Pauses between attempts of one link.
#[derive(Default)]
pub struct Patience {
    failures: u32,
    resume_at: Mono,
}

impl Patience {
    /// All is well again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Another failure; how long to wait, longer when the hub is throttling.
    pub fn lose(&mut self, throttled: bool) -> Duration {
        let (min, max) = match throttled {
            true => (tuning::THROTTLE_MIN, tuning::THROTTLE_MAX),
            false => (tuning::RETRY_MIN, tuning::RETRY_MAX),
        };
        let pause = tuning::backoff(min, max, self.failures, random::unit());
        self.failures = self.failures.saturating_add(1);
        self.resume_at = clock::mono() + pause;
        pause
    }

    /// Whether it is no chance any more.
    pub fn is_tried(&self) -> bool {
        self.failures >= tuning::TRIED
    }

    /// What is left of the pause.
    pub fn left(&self) -> Duration {
        self.resume_at.since(clock::mono())
    }
}
