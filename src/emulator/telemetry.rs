//! An events link: device-to-cloud messages are judged, written to the ledger, and settled.

use crate::emulator::errors;
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::held::Held;
use crate::emulator::hub::Hub;
use crate::emulator::ledger::Stamp;
use crate::emulator::links::{Link, Listed};
use crate::emulator::message;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{Body, Modified};
use fe2o3_amqp::{Delivery, Receiver};
use serde_amqp::Value;
use std::sync::Arc;

/// Transfers after which the credit is topped up (wire sheet §2.5).
const TOP_UP: u32 = 100;

/// Serves the link until it ends. `_listed` keeps it in the directory.
pub(crate) async fn serve(
    receiver: Receiver,
    link: Arc<Link>,
    _listed: Listed,
    stamp: Arc<Stamp>,
    hub: Arc<Hub>,
) {
    let credit = hub.config.limits.d2c_credit;
    let mut events = Events {
        receiver,
        link,
        stamp,
        hub,
        credit,
        taken: 0,
        starved: false,
        held: Held::default(),
    };
    if let Some(error) = events.run().await {
        let closing = events.receiver.close_with_error(error);
        drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
    }
}

/// A message that reached the link, or why none did.
type Received = Result<Delivery<Body<Value>>, RecvError>;

/// The link is over.
struct Over;

struct Events {
    receiver: Receiver,
    link: Arc<Link>,
    stamp: Arc<Stamp>,
    hub: Arc<Hub>,
    credit: u32,
    /// Transfers since credit was granted.
    taken: u32,
    /// A fault keeps the credit at zero.
    starved: bool,
    held: Held,
}

impl Events {
    fn fault(&self, kind: FaultKind) -> Option<&'static str> {
        self.hub.faults.at(kind, self.place())
    }

    fn place(&self) -> Place<'_> {
        Place {
            connection: Some(self.link.connection),
            device: Some(&self.link.identity.device),
        }
    }

    /// Until the link ends: by itself (`None`) or with an error of the hub's.
    async fn run(&mut self) -> Option<Error> {
        let mut changes = self.hub.faults.changes();
        self.receiver.set_credit_mode(CreditMode::Manual);
        self.starved = self.fault(FaultKind::CreditZero).is_some();
        let first = if self.starved { 0 } else { self.credit };
        self.receiver.set_credit(first).await.ok()?;
        tracing::debug!(target: "emulator", device = %self.link.identity, "events link attached");
        loop {
            let went_on = tokio::select! {
                biased;
                error = self.link.stop.asked() => return Some(error),
                () = self.held.due() => self.held.settle(&self.receiver).await.map_err(|()| Over),
                _ = changes.changed() => self.faults_changed().await,
                received = self.receiver.recv::<Body<Value>>() => self.receive(received).await,
            };
            if went_on.is_err() {
                return None;
            }
        }
    }

    async fn faults_changed(&mut self) -> Result<(), Over> {
        let starved = self.fault(FaultKind::CreditZero).is_some();
        if std::mem::replace(&mut self.starved, starved) == starved {
            return Ok(());
        }
        if starved {
            // Drained, not set to zero: what is on its way was sent with credit.
            self.receiver.drain().await.map_err(|_| Over)
        } else {
            self.grant().await
        }
    }

    async fn grant(&mut self) -> Result<(), Over> {
        self.taken = 0;
        self.receiver
            .set_credit(self.credit)
            .await
            .map_err(|_| Over)
    }

    async fn receive(&mut self, received: Received) -> Result<(), Over> {
        match received {
            Ok(delivery) => self.settle(delivery).await?,
            Err(RecvError::MessageDecode(error)) => {
                self.hub.stats.rejected_undecodable.inc();
                let rejecting = self.receiver.reject(error.info, errors::undecodable());
                rejecting.await.map_err(|_| Over)?;
            }
            // Detached by the client, too large for the link, or the session has ended.
            Err(_) => return Err(Over),
        }
        self.taken += 1;
        if self.taken >= TOP_UP.min(self.credit.div_ceil(2)) && !self.starved {
            return self.grant().await;
        }
        Ok(())
    }

    async fn settle(&mut self, delivery: Delivery<Body<Value>>) -> Result<(), Over> {
        let format = delivery.message_format().unwrap_or(0);
        let (info, message) = delivery.into_parts();
        let receiver = &self.receiver;
        let settled = match self.decide(message, format) {
            Decision::Accept => match Held::fault(&self.hub.faults, self.place()) {
                Some(fault) => {
                    self.held.hold(fault, info);
                    return Ok(());
                }
                // What is held must not be overtaken once the fault is over.
                None if !self.held.is_empty() => {
                    self.held.settle(receiver).await.map_err(|()| Over)?;
                    receiver.accept(info).await
                }
                None => receiver.accept(info).await,
            },
            Decision::Reject(error) => receiver.reject(info, error).await,
            Decision::Release => receiver.release(info).await,
            Decision::Modify => {
                let modified = Modified {
                    delivery_failed: Some(true),
                    undeliverable_here: None,
                    message_annotations: None,
                };
                receiver.modify(info, modified).await
            }
            Decision::Silence => return Ok(()),
            Decision::Detach(error) => {
                self.link.stop.ask(error);
                return Ok(());
            }
        };
        settled.map_err(|_| Over)
    }

    fn decide(&self, message: message::Received, format: u32) -> Decision {
        if !self.hub.faults.none() {
            if self.fault(FaultKind::InvokeAuthError).is_some() {
                return Decision::Detach(errors::unauthorized());
            }
            if self.fault(FaultKind::InvokeThrottling).is_some() {
                self.hub.stats.throttled_sends.inc();
                return Decision::Reject(errors::send_throttled());
            }
            if self.fault(FaultKind::InvokeMaxMessageQuota).is_some() {
                return Decision::Reject(errors::quota_exceeded());
            }
            if let Some(condition) = self.fault(FaultKind::OutcomeRejected) {
                return Decision::Reject(errors::injected(condition));
            }
            if self.fault(FaultKind::OutcomeReleased).is_some() {
                return Decision::Release;
            }
            if self.fault(FaultKind::OutcomeModified).is_some() {
                return Decision::Modify;
            }
        }
        match judge(message, format, &self.stamp, &self.hub) {
            Ok(()) if self.fault(FaultKind::DispositionNever).is_some() => Decision::Silence,
            Ok(()) => Decision::Accept,
            Err(error) => Decision::Reject(error),
        }
    }
}

/// What the sender is told.
enum Decision {
    Accept,
    Reject(Error),
    Release,
    Modify,
    Silence,
    Detach(Error),
}

/// Into the ledger, or why not.
fn judge(
    message: message::Received,
    format: u32,
    stamp: &Arc<Stamp>,
    hub: &Hub,
) -> Result<(), Error> {
    let max = hub.config.limits.message_bytes;
    if let Some(size) = message::larger_than(&message, max) {
        hub.stats.rejected_too_large.inc();
        return Err(errors::message_too_large(size, max));
    }
    let drafts = message::drafts(message, format).map_err(|_| {
        hub.stats.rejected_undecodable.inc();
        errors::undecodable()
    })?;
    if !hub.send_throttle.allow(drafts.len()) {
        hub.stats.throttled_sends.inc();
        return Err(errors::send_throttled());
    }
    let count = drafts.len() as u64;
    let bytes: usize = drafts.iter().map(|draft| draft.content.body.len()).sum();
    hub.ledger
        .append(drafts, stamp, clock::unix())
        .map_err(|_| {
            hub.stats.ledger_full.inc();
            errors::ledger_full()
        })?;
    hub.stats.accepted.add(count);
    hub.stats.accepted_bytes.add(bytes as u64);
    Ok(())
}
