//! Commands that back ends send over AMQP: each goes into the queue of the device it names.

use super::Ack;
use crate::emulator::address::{Address, Endpoint, Identity};
use crate::emulator::devices::Unregistered;
use crate::emulator::errors::{self, hex, random};
use crate::emulator::hub::Hub;
use crate::emulator::links::{Listed, ServiceLink};
use crate::emulator::message::{self, Received};
use crate::emulator::queue::Command;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock::{self, Unix};
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::types::primitives::SimpleValue;
use serde_amqp::Value;
use std::sync::Arc;
use std::time::Duration;

/// Commands on their way; topped up when half is used.
const CREDIT: u32 = 100;

/// Serves the link until it ends.
pub(super) async fn serve(
    mut receiver: Receiver,
    (link, _listed): (Arc<ServiceLink>, Listed),
    hub: Arc<Hub>,
) {
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        error = take(&mut receiver, &hub) => error,
    };
    if let Some(error) = ended {
        let closing = receiver.close_with_error(error);
        drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
    }
}

async fn take(receiver: &mut Receiver, hub: &Hub) -> Option<Error> {
    receiver.set_credit_mode(CreditMode::Manual);
    receiver.set_credit(CREDIT).await.ok()?;
    let mut taken = 0;
    loop {
        let delivery = match receiver.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(RecvError::MessageDecode(error)) => {
                let rejecting = receiver.reject(error.info, errors::undecodable());
                rejecting.await.ok()?;
                continue;
            }
            Err(_) => return None,
        };
        let (info, message) = delivery.into_parts();
        match queue(hub, message) {
            Ok(()) => receiver.accept(info).await.ok()?,
            Err(error) => receiver.reject(info, error).await.ok()?,
        }
        taken += 1;
        if taken >= CREDIT / 2 {
            taken = 0;
            receiver.set_credit(CREDIT).await.ok()?;
        }
    }
}

/// Queues a command, or says why not.
fn queue(hub: &Hub, message: Received) -> Result<(), Error> {
    let max = hub.config.limits.command_bytes;
    if let Some(size) = message::larger_than(&message, max) {
        return Err(errors::message_too_large(size, max));
    }
    let (mono, unix) = (clock::mono(), clock::unix());
    let (identity, command) = command(message, hub, unix)?;
    let queue = hub.devices.queue(&identity);
    queue
        .push(command, mono, unix)
        .map(drop)
        .map_err(|_| errors::queue_full())
}

fn command(message: Received, hub: &Hub, unix: Unix) -> Result<(Identity, Command), Error> {
    let properties = message.properties.unwrap_or_default();
    let identity = addressee(properties.to.as_deref(), hub)?;
    let mut command = Command {
        message_id: match properties.message_id {
            Some(id) => message::message_id(id),
            None => hex(&random::<16>()),
        },
        correlation_id: properties.correlation_id.map(message::message_id),
        user_id: properties
            .user_id
            .map(|id| String::from_utf8_lossy(&id).into_owned()),
        content_type: properties.content_type.map(|symbol| symbol.0),
        content_encoding: properties.content_encoding.map(|symbol| symbol.0),
        expires: unix + hub.config.limits.command_ttl,
        expiry_named: false,
        ack: Ack::None,
        properties: Vec::new(),
        body: message::body(message.body).map_err(|_| errors::undecodable())?,
    };
    if let Some(expiry) = properties.absolute_expiry_time {
        let millis = u64::try_from(expiry.milliseconds()).unwrap_or(0);
        command.expires = Unix::default() + Duration::from_millis(millis);
        command.expiry_named = true;
        if command.expires <= unix {
            return Err(errors::expired());
        }
    }
    for (key, value) in message.application_properties.unwrap_or_default().0 {
        let SimpleValue::String(value) = value else {
            continue;
        };
        if key == "iothub-ack" {
            let known = Ack::named(&value);
            command.ack = known.ok_or_else(|| {
                errors::bad_field("iothub-ack is none, positive, negative or full.")
            })?;
        }
        command.properties.push((key, value));
    }
    Ok((identity, command))
}

fn addressee(to: Option<&str>, hub: &Hub) -> Result<Identity, Error> {
    let to = to.ok_or_else(|| errors::bad_field("A command has a to property."))?;
    let hosts = hub.hosts();
    let Some(Address::Device(identity, Endpoint::Commands)) = Address::parse(to, &hosts) else {
        return Err(errors::unknown_address());
    };
    match hub.devices.find(&identity) {
        Ok(_) => Ok(identity),
        Err(what) => Err(match (what, &identity.module) {
            (Unregistered::Module, Some(module)) => {
                errors::module_not_found(&identity.device, module)
            }
            _ => errors::device_not_found(&identity.device),
        }),
    }
}
