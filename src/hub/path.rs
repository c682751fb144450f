//! How a device's link reaches its session: wait for the lane, ask, wait for the answer; and what
//! an ended link says about why it ended. Shared by `uplink` and `downlink`.

use super::encode;
use super::lane::{Lane, Shared};
use super::live::{Link, Live};
use super::message::DeviceAddress;
use super::outcome::{Cause, DeviceGone, Row, Verdict, words};
use super::pace::Urgency;
use super::refusals::{self, Class, RefusalCause};
use super::session::{Refused, Wanted};
use super::tuning;
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp::link::LinkStateError;
use prometheus::IntGauge;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A future owned by a device's state.
pub type Owned<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A link on its way.
pub type Seek<L> = Owned<Result<Live<L>, Refused>>;

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
        let slot = super::pool::session(&device.address, lane.slots.len());
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
}

/// Why a link can no longer be used.
pub enum LinkEnd {
    /// The hub detached it.
    Detached(Option<Cause>),
    /// Its session or connection is over.
    Stopped,
    /// The engine is in a state it should not be in: close the link properly.
    Odd,
}

impl From<LinkStateError> for LinkEnd {
    fn from(error: LinkStateError) -> Self {
        match error {
            LinkStateError::SessionStopped(_) => Self::Stopped,
            LinkStateError::RemoteDetached | LinkStateError::RemoteClosed => Self::Detached(None),
            LinkStateError::RemoteDetachedWithError(error)
            | LinkStateError::RemoteClosedWithError(error) => {
                Self::Detached(Some(encode::cause(&error)))
            }
            LinkStateError::IllegalState | LinkStateError::ExpectImmediateDetach => Self::Odd,
        }
    }
}

impl LinkEnd {
    /// Gives the guard up or, when something may be left to close, back to its session.
    pub fn release<L: Link>(&self, live: Live<L>) {
        match self {
            Self::Detached(_) | Self::Stopped => live.lost(),
            Self::Odd => drop(live),
        }
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
        let pause = tuning::backoff(min, max, self.failures, tuning::roll());
        self.failures = self.failures.saturating_add(1);
        self.resume_at = clock::mono() + pause;
        pause
    }

    /// What is left of the pause.
    pub fn left(&self) -> Duration {
        self.resume_at.since(clock::mono())
    }
}

impl Path {
    /// Tells of what the hub refused, if that is what it did.
    pub fn refused(&self, label: &str, error: Option<&Cause>) {
        if let Some(cause) = refusals::of_error(label, error) {
            let device = self.device.address.to_string();
            self.shared.refusals.refused(cause, &device, &words(error));
        }
    }

    /// Tells that the hub did not decide about a message in time.
    pub fn undecided(&self) {
        let deliveries = &self.shared.metrics.hub_deliveries;
        deliveries.with_label_values(&["no_outcome"]).inc();
        let device = self.device.address.to_string();
        let refusals = &self.shared.refusals;
        refusals.refused(RefusalCause::NoOutcome, &device, "");
    }

    /// Tells that a link was attached or a message accepted.
    pub fn succeeded(&self, class: Class) {
        let device = || self.device.address.to_string();
        self.shared.refusals.succeeded(class, device);
    }

    /// Books a detach or a refused attach, and says whether the device is gone for good.
    /// Otherwise the pause before the next attempt is set.
    pub fn detached(
        &self,
        row: &Row,
        cause: Option<&Cause>,
        patience: &mut Patience,
    ) -> Result<(), DeviceGone> {
        let shared = &self.shared;
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
        Ok(())
    }

    /// Asks for a link until the hub answers; dropping the future is safe at any point.
    pub fn seek<L: Link + Send + 'static>(
        &self,
        patience: &Patience,
        urgency: Urgency,
        gauge: &IntGauge,
        wanted: impl Fn(oneshot::Sender<Result<Live<L>, Refused>>) -> Wanted + Send + 'static,
    ) -> Seek<L> {
        let (lane, slot, pause) = (Arc::clone(self.lane()), self.spot.slot, patience.left());
        let counted = Counted::new(gauge);
        Box::pin(async move {
            let _counted = counted;
            if !pause.is_zero() {
                sleep(pause).await;
            }
            loop {
                let port = lane.port(slot).await;
                let (answer, answered) = oneshot::channel();
                if port.attach.send((urgency, wanted(answer))).await.is_err() {
                    continue; // the session ended; the lane's next one is awaited
                }
                if let Ok(result) = answered.await {
                    return result;
                }
            }
        })
    }
}

/// Counts a link on its way.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
