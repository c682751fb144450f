//! Which device links are let in, and what serves each: a token, a registered and enabled device,
//! room, and for methods and twins a channel correlation id of their own.

use crate::emulator::address::{Endpoint, Identity};
use crate::emulator::channels::Opened;
use crate::emulator::config::SecondReceiver;
use crate::emulator::connection::Connection;
use crate::emulator::devices::{Record, Unregistered};
use crate::emulator::errors;
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::hub::Hub;
use crate::emulator::ledger::Stamp;
use crate::emulator::links::{Direction, Link, Listed};
use crate::emulator::session::refuse;
use crate::emulator::tokens::Signer;
use crate::emulator::{commands, outgoing, requests, telemetry};
use fe2o3_amqp::acceptor::LinkEndpoint;
use fe2o3_amqp::types::definitions::{Error, Role};
use fe2o3_amqp::types::performatives::Attach;
use serde_amqp::Value;
use serde_amqp::primitives::Symbol;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Longest channel correlation id, bytes.
const CHANNEL_BYTES_MAX: usize = 256;

/// A device link that may be attached.
pub(crate) struct Admitted {
    identity: Identity,
    pub(crate) endpoint: Endpoint,
    direction: Direction,
    channel: Option<Arc<str>>,
    signer: Signer,
    record: Record,
}

/// A link that is in the directory and, for methods and twins, in its pair.
pub(crate) struct Entered {
    link: Arc<Link>,
    listed: Listed,
    opened: Option<Opened>,
}

/// Judges an attach of a device link.
pub(crate) fn admit(
    identity: Identity,
    endpoint: Endpoint,
    attach: &Attach,
    connection: &Connection,
) -> Result<Admitted, Error> {
    let direction = match attach.role {
        Role::Sender => Direction::ToHub,
        Role::Receiver => Direction::ToDevice,
    };
    let channel = channel(endpoint, attach)?;
    let admitted = match &channel {
        Some(id) if connection.hub.channels.was_refused(id, direction) => {
            Err(errors::link_conflict())
        }
        _ => let_in(&identity, endpoint, direction, connection),
    };
    match admitted {
        Ok((signer, record)) => Ok(Admitted {
            identity,
            endpoint,
            direction,
            channel,
            signer,
            record,
        }),
        Err(error) => {
            if let Some(id) = &channel {
                connection.hub.channels.refuse(id, direction);
            }
            Err(error)
        }
    }
}

/// The channel correlation id of a method or twin link, `methods:…` or `twin:…` (wire sheet §4.2).
fn channel(endpoint: Endpoint, attach: &Attach) -> Result<Option<Arc<str>>, Error> {
    let kind = match endpoint {
        Endpoint::Methods => "methods:",
        Endpoint::Twin => "twin:",
        Endpoint::Events | Endpoint::Commands => return Ok(None),
    };
    let text = |name: &str| match attach.properties.as_ref()?.get(&Symbol::from(name)) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.as_str()),
        _ => None,
    };
    if text("com.microsoft:api-version").is_none() {
        let what = "The link property com.microsoft:api-version is missing.";
        return Err(errors::bad_field(what));
    }
    let id = text("com.microsoft:channel-correlation-id");
    match id.and_then(|id| id.strip_prefix(kind)) {
        Some(id) if (1..=CHANNEL_BYTES_MAX).contains(&id.len()) => Ok(Some(id.into())),
        _ => Err(errors::bad_field(&format!(
            "The link property com.microsoft:channel-correlation-id must be {kind} and an id."
        ))),
    }
}

/// A device link needs a token, a registered and enabled device, and room under the throttle.
fn let_in(
    identity: &Identity,
    endpoint: Endpoint,
    direction: Direction,
    connection: &Connection,
) -> Result<(Signer, Record), Error> {
    let hub = &connection.hub;
    let covering = connection.tokens().covering(identity, endpoint, hub.now());
    let place = Place {
        connection: Some(connection.id),
        device: Some(&identity.device),
    };
    if hub.faults.at(FaultKind::InvokeAuthError, place).is_some() {
        return Err(errors::unauthorized());
    }
    let signer = covering.ok_or_else(errors::unauthorized)?;
    let record = hub
        .devices
        .find(identity)
        .map_err(|what| match (what, &identity.module) {
            (Unregistered::Module, Some(module)) => {
                errors::module_not_found(&identity.device, module)
            }
            _ => errors::device_not_found(&identity.device),
        })?;
    if !record.enabled {
        let style = hub.config.switches.disabled_device;
        return Err(errors::device_disabled(&identity.device, style));
    }
    match (endpoint, direction) {
        (Endpoint::Events, Direction::ToDevice) => {
            return Err(errors::not_implemented("module inputs"));
        }
        (Endpoint::Commands, Direction::ToHub) => {
            return Err(errors::not_allowed(
                "A device does not send to its command queue.",
            ));
        }
        _ => {}
    }
    if hub.stats.links.get() >= hub.config.limits.links as u64 {
        return Err(errors::too_many("links"));
    }
    if !hub.attach_throttle.allow(1) {
        hub.stats.throttled_attaches.inc();
        return Err(errors::attach_throttled());
    }
    Ok((signer, record))
}

impl Admitted {
    /// Puts the link into the directory and, for commands, in front of its queue, for methods and
    /// twins into its pair.
    pub(crate) fn enter(
        &self,
        session_id: u64,
        connection: &Arc<Connection>,
    ) -> Result<Entered, Error> {
        let hub = &connection.hub;
        let identity = &self.identity;
        let policy = hub.config.switches.second_receiver;
        let commands = self.endpoint == Endpoint::Commands;
        if commands
            && policy == SecondReceiver::RefuseNew
            && hub.devices.queue(identity).holder().is_some()
        {
            return Err(errors::second_receiver());
        }
        let (link, listed) = hub.directory.add_link(
            (connection.id, &connection.entry),
            session_id,
            identity.clone(),
            (self.endpoint, self.direction),
            self.channel.clone(),
        );
        if !hub
            .devices
            .get(&identity.device)
            .is_some_and(|record| record.enabled)
        {
            return Err(errors::device_not_found(&identity.device));
        }
        if commands && let Some(older) = hub.devices.queue(identity).claim(&link) {
            let error = match policy {
                SecondReceiver::Stolen => errors::stolen(),
                _ => errors::second_receiver(),
            };
            if older.stop.ask(error) {
                hub.stats.detaches_second_receiver.inc();
            }
        }
        let opened = self.open(hub, &link)?;
        Ok(Entered {
            link,
            listed,
            opened,
        })
    }

    fn open(&self, hub: &Hub, link: &Arc<Link>) -> Result<Option<Opened>, Error> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        let Ok(mut opened) = hub.channels.open(link) else {
            hub.channels.refuse(channel, self.direction);
            return Err(errors::link_conflict());
        };
        for older in opened.displaced.drain(..) {
            if older.stop.ask(errors::second_pair()) {
                hub.stats.detaches_second_pair.inc();
            }
        }
        Ok(Some(opened))
    }

    fn stamp(&self) -> Arc<Stamp> {
        Arc::new(Stamp {
            identity: self.identity.clone(),
            auth_method: self.signer.auth_method(),
            generation: Arc::clone(&self.record.generation),
        })
    }
}

/// Gives the attached link a task of its own.
pub(crate) fn start(
    admitted: &Admitted,
    entered: Entered,
    endpoint: LinkEndpoint,
    hub: Arc<Hub>,
    tasks: &TaskTracker,
) {
    let (link, listed) = (entered.link, entered.listed);
    match (endpoint, entered.opened) {
        (LinkEndpoint::Receiver(receiver), None) => {
            let stamp = admitted.stamp();
            tasks.spawn(telemetry::serve(receiver, link, listed, stamp, hub));
        }
        (LinkEndpoint::Sender(sender), None) => {
            tasks.spawn(commands::serve(sender, link, listed, hub));
        }
        (LinkEndpoint::Receiver(receiver), Some(opened)) => {
            let paired = opened.paired;
            tasks.spawn(requests::serve(receiver, link, listed, paired, hub));
        }
        (LinkEndpoint::Sender(sender), Some(opened)) => {
            let (messages, paired) = (opened.messages, opened.paired);
            // There for every link towards the device.
            match messages {
                Some(messages) => {
                    let place = (link, listed, paired);
                    tasks.spawn(outgoing::serve(sender, place, messages, hub));
                }
                None => {
                    tasks.spawn(refuse(
                        LinkEndpoint::Sender(sender),
                        errors::unknown_address(),
                    ));
                }
            }
        }
    }
}
