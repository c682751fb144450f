//! A command link: the device's queue is offered, one transfer per command and lock, and each
//! delivery's outcome goes back to the queue.

use crate::emulator::errors::random;
use crate::emulator::frames::LOCK_TOKEN;
use crate::emulator::hub::Hub;
use crate::emulator::links::{Link, Listed};
use crate::emulator::queue::{LockToken, Next, Offer, Queue, Settlement};
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock;
use fe2o3_amqp::Sender;
use fe2o3_amqp::link::SendError;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Data, Message, MessageAnnotations, MessageId, Outcome, Properties,
};
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Symbol, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Serves the link until it ends. `_listed` keeps it in the directory.
pub(crate) async fn serve(sender: Sender, link: Arc<Link>, _listed: Listed, hub: Arc<Hub>) {
    tracing::debug!(target: "emulator", device = %link.identity, "command link attached");
    let queue = hub.devices.queue(&link.identity);
    let mut sender = sender;
    if let Some(error) = offer_all(&mut sender, &link, &queue).await {
        drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
    } else {
        // Dropping it fails the deliveries without an outcome, which gives them back.
        drop(sender);
    }
    queue.leave(link.id);
}

/// Until the link ends: by the client (`None`) or with an error of the hub's.
async fn offer_all(sender: &mut Sender, link: &Arc<Link>, queue: &Arc<Queue>) -> Option<Error> {
    loop {
        match queue.next(link.id, clock::mono(), clock::unix()) {
            Next::Displaced => tokio::select! {
                error = link.stop.asked() => return Some(error),
                _ = sender.on_detach() => return None,
            },
            Next::Wait(time) => tokio::select! {
                error = link.stop.asked() => return Some(error),
                _ = sender.on_detach() => return None,
                () = queue.changed.notified() => {}
                () = wait(time) => {}
            },
            Next::Deliver(offer) => {
                let token = LockToken(random());
                let message = message(&offer, token, queue);
                let sent = tokio::select! {
                    error = link.stop.asked() => return Some(error),
                    // Waits for credit; cancelling it then loses nothing.
                    sent = sender.send_batchable(message) => sent,
                    () = wait(Some(offer.life)) => continue,
                };
                match sent {
                    Ok(sent) => {
                        queue.lock(link.id, offer.seq, token, clock::mono());
                        let queue = Arc::clone(queue);
                        tokio::spawn(async move {
                            let outcome = sent.await;
                            queue.settle(token, settlement(outcome), clock::mono());
                        });
                    }
                    Err(SendError::MessageSizeExceeded(_) | SendError::MessageEncodeError) => {
                        queue.undeliverable(offer.seq);
                    }
                    Err(_) => return None,
                }
            }
        }
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// What an outcome means for what was sent.
pub(crate) fn settlement(outcome: Result<Outcome, SendError>) -> Settlement {
    match outcome {
        Ok(Outcome::Accepted(_)) => Settlement::Accepted,
        Ok(Outcome::Rejected(_)) => Settlement::Rejected,
        // Not documented for `modified`; the only reading that loses nothing is "released".
        Ok(Outcome::Released(_) | Outcome::Modified(_)) => Settlement::Abandoned,
        // Settled without a state, or with one that decides nothing.
        Err(SendError::NonTerminalDeliveryState | SendError::IllegalDeliveryState) => {
            Settlement::Abandoned
        }
        Err(_) => Settlement::LinkLost,
    }
}

/// The command as wire sheet §4.5 has it. The lock token must be the first annotation: the
/// stream below finds it there and makes it the delivery-tag.
fn message(offer: &Offer, token: LockToken, queue: &Queue) -> Message<Data> {
    let command = &offer.command;
    let device = &queue.identity.device;
    let to = match &queue.identity.module {
        None => format!("/devices/{device}/messages/devicebound"),
        Some(module) => format!("/devices/{device}/modules/{module}/messages/devicebound"),
    };
    let millis = |at: clock::Unix| {
        Timestamp::from_milliseconds(i64::try_from(at.as_millis()).unwrap_or(i64::MAX))
    };
    let annotations = MessageAnnotations::builder()
        .insert(LOCK_TOKEN, Value::String(token.to_string()))
        .insert("x-opt-sequence-number", Value::Ulong(offer.seq))
        .insert(
            "iothub-enqueuedtime",
            Value::Timestamp(millis(offer.enqueued)),
        )
        .insert("iothub-deliverycount", Value::Ubyte(offer.deliveries))
        .build();
    let text = |text: &Option<String>| text.as_deref().map(Symbol::from);
    let properties = Properties {
        message_id: Some(MessageId::String(command.message_id.clone())),
        user_id: command
            .user_id
            .as_ref()
            .map(|id| Binary::from(id.clone().into_bytes())),
        to: Some(to),
        correlation_id: command.correlation_id.clone().map(MessageId::String),
        content_type: text(&command.content_type),
        content_encoding: text(&command.content_encoding),
        absolute_expiry_time: command.expiry_named.then(|| millis(command.expires)),
        ..Properties::new()
    };
    let mut application = ApplicationProperties::builder();
    for (key, value) in &command.properties {
        application = application.insert(key.as_str(), value.clone());
    }
    let application = (!command.properties.is_empty()).then(|| application.build());
    Message::builder()
        .message_annotations(annotations)
        .properties(properties)
        .application_properties(application)
        .data(command.body.to_vec())
        .build()
}
