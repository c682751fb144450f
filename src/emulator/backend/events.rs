//! A partition of the Event-Hubs-compatible endpoint: what the ledger holds of its devices, from where
//! the reader asks, and what comes after (wire sheet §4.4, §9.2).

use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::ledger::{Content, Entry};
use crate::emulator::links::{Listed, ServiceLink};
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock::Unix;
use fe2o3_amqp::Sender;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::performatives::Attach;
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Symbol, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Entries looked at in one go.
const PAGE: usize = 256;

/// Where reading starts. Offset and sequence number of an event are its place in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After this place.
    After(u64),
    /// With what was accepted after this time.
    Since(Unix),
}

impl Start {
    /// What the source's filter asks for; without one, everything.
    pub(super) fn of(attach: &Attach, hub: &Hub) -> Result<Self, Error> {
        let filters = attach.source.as_ref().and_then(|s| s.filter.as_ref());
        let selector = filters.and_then(|filters| {
            filters
                .iter()
                .find_map(|(key, value)| key.as_str().contains("selector-filter").then_some(value))
        });
        match selector {
            None => Ok(Self::After(0)),
            Some(value) => {
                let text = match value {
                    Value::Described(described) => &described.value,
                    other => other,
                };
                let Value::String(text) = text else {
                    return Err(errors::bad_field("The selector is no text."));
                };
                Self::parse(text, hub.ledger.count())
                    .ok_or_else(|| errors::bad_field("The selector is not one of those known."))
            }
        }
    }

    /// `amqp.annotation.x-opt-offset > '-1'` and its like.
    fn parse(text: &str, last: u64) -> Option<Self> {
        let rest = text.trim().strip_prefix("amqp.annotation.")?;
        let (field, rest) = rest.split_at(rest.find([' ', '>'])?);
        let rest = rest.trim_start().strip_prefix('>')?;
        let (inclusive, rest) = match rest.strip_prefix('=') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let value = rest.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        match field {
            "x-opt-offset" if value == "@latest" => Some(Self::After(last)),
            "x-opt-offset" | "x-opt-sequence-number" => {
                let place: i64 = value.parse().ok()?;
                let after = place - i64::from(inclusive);
                Some(Self::After(u64::try_from(after).unwrap_or(0)))
            }
            "x-opt-enqueued-time" => {
                let millis: u64 = value.parse().ok()?;
                Some(Self::Since(Unix::default() + Duration::from_millis(millis)))
            }
            _ => None,
        }
    }
}

/// The partition of a device; all its events are in one.
pub(super) fn partition(device: &str, partitions: u32) -> u32 {
    // FNV-1a: the same on every start.
    let hash = device.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash % partitions
}

/// Serves the link until it ends.
pub(super) async fn serve(
    mut sender: Sender,
    (link, _listed): (Arc<ServiceLink>, Listed),
    (id, start): (u32, Start),
    hub: Arc<Hub>,
) {
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        () = send_all(&mut sender, id, start, &hub) => None,
    };
    if let Some(error) = ended {
        drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
    }
}

/// Until the reader ends the link.
async fn send_all(sender: &mut Sender, id: u32, start: Start, hub: &Hub) {
    let partitions = hub.config.events.partitions;
    let (mut after, since) = match start {
        Start::After(after) => (after, Unix::default()),
        Start::Since(since) => (0, since),
    };
    loop {
        for entry in hub.ledger.messages(None, after, PAGE) {
            after = entry.seq;
            let here = partition(entry.device(), partitions) == id && entry.at >= since;
            // Bodies the ledger no longer keeps cannot be read; the gap shows in the numbers.
            let Some(content) = entry.content.as_deref().filter(|_| here) else {
                continue;
            };
            let event = Sendable::builder()
                .message(event(&entry, content))
                .settled(true)
                .build();
            // Waits for credit: a slow reader holds up nobody else.
            if sender.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = hub.ledger.grown_past(after) => {}
            _ = sender.on_detach() => return,
        }
    }
}

/// An event with what the hub stamps on it.
fn event(entry: &Entry, content: &Content) -> Message<Data> {
    let place = i64::try_from(entry.seq).unwrap_or(i64::MAX);
    let millis = i64::try_from(entry.at.as_millis()).unwrap_or(i64::MAX);
    let enqueued = Value::Timestamp(Timestamp::from_milliseconds(millis));
    let text = |text: &str| Value::String(text.to_owned());
    let mut annotations = MessageAnnotations::builder()
        .insert("x-opt-sequence-number", Value::Long(place))
        .insert("x-opt-offset", text(&place.to_string()))
        .insert("x-opt-enqueued-time", enqueued.clone())
        .insert("iothub-connection-device-id", text(entry.device()))
        .insert("iothub-connection-auth-method", text(entry.auth_method()))
        .insert(
            "iothub-connection-auth-generation-id",
            text(entry.generation()),
        )
        .insert("iothub-enqueuedtime", enqueued)
        .insert("iothub-message-source", text("Telemetry"));
    if let Some(module) = entry.module() {
        annotations = annotations.insert("iothub-connection-module-id", text(module));
    }
    let mut properties = Properties::new();
    let mut application = ApplicationProperties::builder();
    for (key, value) in &content.properties {
        application = application.insert(key.as_str(), value.clone());
    }
    for (key, value) in &content.system {
        let value = value.clone();
        match key.as_str() {
            "message-id" => properties.message_id = Some(MessageId::String(value)),
            "correlation-id" => properties.correlation_id = Some(MessageId::String(value)),
            "user-id" => properties.user_id = Some(Binary::from(value.into_bytes())),
            "to" => properties.to = Some(value),
            "subject" => properties.subject = Some(value),
            "reply-to" => properties.reply_to = Some(value),
            "group-id" => properties.group_id = Some(value),
            "content-type" => properties.content_type = Some(Symbol(value)),
            "content-encoding" => properties.content_encoding = Some(Symbol(value)),
            "absolute-expiry-time" | "creation-time" | "emulator-not-delivered" => {}
            key => annotations = annotations.insert(key, Value::String(value)),
        }
    }
    Message::builder()
        .message_annotations(annotations.build())
        .properties(properties)
        .application_properties(application.build())
        .data(content.body.to_vec())
        .build()
}

/// First and last place of a partition's events, and when the last came.
pub(super) fn extent(hub: &Hub, id: u32) -> Option<(u64, u64, Unix)> {
    let (mut after, mut extent) = (0, None);
    loop {
        let page = hub.ledger.messages(None, after, PAGE);
        let Some(last) = page.last() else {
            return extent;
        };
        after = last.seq;
        for entry in &page {
            if partition(entry.device(), hub.config.events.partitions) == id {
                let first = extent.map_or(entry.seq, |(first, ..)| first);
                extent = Some((first, entry.seq, entry.at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_event_hubs_clients_are_understood() {
        let offset = "amqp.annotation.x-opt-offset";
        for (text, start) in [
            (format!("{offset} > '-1'"), Start::After(0)),
            (format!("{offset} > '12'"), Start::After(12)),
            (format!("{offset} >= '12'"), Start::After(11)),
            (format!("{offset} > '@latest'"), Start::After(99)),
            (
                "amqp.annotation.x-opt-sequence-number >'3'".to_owned(),
                Start::After(3),
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '1500'".to_owned(),
                Start::Since(Unix::default() + Duration::from_millis(1_500)),
            ),
        ] {
            assert_eq!(Start::parse(&text, 99), Some(start), "{text}");
        }
        for text in [
            "",
            "x",
            "amqp.annotation.x-opt-offset",
            "amqp.annotation.x > '1'",
        ] {
            assert_eq!(Start::parse(text, 99), None, "{text}");
        }
        assert_eq!(Start::parse(&format!("{offset} > 'x'"), 99), None);
        assert_eq!(Start::parse(&format!("{offset} < '1'"), 99), None);
    }

    #[test]
    fn every_device_has_one_partition_and_all_are_used() {
        let mut used = [false; 4];
        for n in 0..100 {
            let device = format!("load-{n}");
            assert_eq!(partition(&device, 4), partition(&device, 4));
            used[partition(&device, 4) as usize] = true;
        }
        assert_eq!(used, [true; 4]);
    }
}
