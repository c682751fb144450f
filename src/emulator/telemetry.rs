//! An events link: device-to-cloud messages are judged, written to the ledger, and settled.

use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::ledger::Stamp;
use crate::emulator::links::{Link, Listed};
use crate::emulator::message;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::{Delivery, Receiver};
use serde_amqp::Value;
use std::sync::Arc;

/// Transfers after which the credit is topped up (wire sheet §2.5).
const TOP_UP: u32 = 100;

/// Serves the link until it ends. `_listed` keeps it in the directory.
pub(crate) async fn serve(
    mut receiver: Receiver,
    link: Arc<Link>,
    _listed: Listed,
    stamp: Arc<Stamp>,
    hub: Arc<Hub>,
) {
    let credit = hub.config.limits.d2c_credit;
    receiver.set_credit_mode(CreditMode::Manual);
    if receiver.set_credit(credit).await.is_err() {
        return;
    }
    tracing::debug!(target: "emulator", device = %link.identity, "events link attached");
    let top_up = TOP_UP.min(credit.div_ceil(2));
    let mut taken = 0;
    loop {
        let received = tokio::select! {
            biased;
            error = link.stop.asked() => {
                let closing = receiver.close_with_error(error);
                drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
                return;
            }
            received = receiver.recv::<Body<Value>>() => received,
        };
        let settled = match received {
            Ok(delivery) => settle(&receiver, delivery, &stamp, &hub).await,
            Err(RecvError::MessageDecode(error)) => {
                hub.stats.rejected_undecodable.inc();
                receiver
                    .reject(error.info, errors::undecodable())
                    .await
                    .map_err(drop)
            }
            // Detached by the client, too large for the link, or the session has ended.
            Err(_) => return,
        };
        taken += 1;
        let topped_up = if settled.is_ok() && taken >= top_up {
            taken = 0;
            receiver.set_credit(credit).await.map_err(drop)
        } else {
            settled
        };
        if topped_up.is_err() {
            return;
        }
    }
}

async fn settle(
    receiver: &Receiver,
    delivery: Delivery<Body<Value>>,
    stamp: &Arc<Stamp>,
    hub: &Hub,
) -> Result<(), ()> {
    let format = delivery.message_format().unwrap_or(0);
    let (info, message) = delivery.into_parts();
    match judge(message, format, stamp, hub) {
        Ok(()) => receiver.accept(info).await,
        Err(error) => receiver.reject(info, error).await,
    }
    .map_err(drop)
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
