//! Deliveries whose dispositions a fault holds back: late, in the wrong order, or as one.

use crate::emulator::faults::{FaultKind, Faults, Place};
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use std::time::Duration;

/// How late a delayed disposition is.
pub(crate) const DELAY: Duration = Duration::from_millis(500);
/// For how long dispositions are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// Deliveries held at once; more are settled at once.
const HELD_MAX: usize = 1_000;

/// Accepted deliveries the sender is not told of yet.
#[derive(Default)]
pub(crate) struct Held {
    how: Option<FaultKind>,
    due: Option<Mono>,
    deliveries: Vec<DeliveryInfo>,
}

impl Held {
    /// The fault that holds dispositions back at `place`.
    pub(crate) fn fault(faults: &Faults, place: Place<'_>) -> Option<FaultKind> {
        if faults.none() {
            return None;
        }
        [
            FaultKind::DispositionsDelayed,
            FaultKind::DispositionsReordered,
            FaultKind::DispositionsBatched,
        ]
        .into_iter()
        .find(|kind| faults.at(*kind, place).is_some())
    }

    /// Holds a delivery as `fault` says.
    pub(crate) fn hold(&mut self, fault: FaultKind, delivery: DeliveryInfo) {
        if self.deliveries.is_empty() {
            let time = match fault {
                FaultKind::DispositionsDelayed => DELAY,
                _ => GATHER,
            };
            self.how = Some(fault);
            self.due = Some(clock::mono() + time);
        }
        self.deliveries.push(delivery);
        if self.deliveries.len() >= HELD_MAX {
            self.due = Some(clock::mono());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Waits until what is held is due; without end when nothing is.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep(due.since(clock::mono())).await,
            None => std::future::pending().await,
        }
    }

    /// Settles everything.
    pub(crate) async fn settle(&mut self, receiver: &Receiver) -> Result<(), ()> {
        self.due = None;
        let mut deliveries = std::mem::take(&mut self.deliveries);
        match self.how {
            Some(FaultKind::DispositionsBatched) => {
                return receiver.accept_all(deliveries).await.map_err(drop);
            }
            Some(FaultKind::DispositionsReordered) => deliveries.reverse(),
            _ => {}
        }
        for delivery in deliveries {
            receiver.accept(delivery).await.map_err(drop)?;
        }
        Ok(())
    }
}
