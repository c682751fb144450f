//! How a topic leads to telemetry: by IoT Hub's own, by a template of the rule, by none.

use super::{Party, TopicError};
use crate::auth::rules::{Fit, Unmatched};

/// How a topic leads to the hub's telemetry.
pub(super) enum Way<'t> {
    /// By IoT Hub's topic, with this bag.
    Hub(&'t str),
    /// By a template of the rule, with the properties of its holes.
    Template(Vec<(&'t str, &'t str)>),
    /// By none; the rule takes it all the same.
    Unmatched,
}

impl<'t> Way<'t> {
    /// IoT Hub's own topics first: no template of a rule stands below `devices/`.
    pub(super) fn of(party: &'t Party<'_>, topic: &'t str) -> Result<Self, TopicError> {
        let unknown = match party.own(topic).and_then(events_bag) {
            Ok(bag) => return Ok(Self::Hub(bag)),
            Err(error @ TopicError::Unknown) => error,
            Err(error) => return Err(error),
        };
        let Some(topics) = party.topics else {
            return Err(unknown);
        };
        let hubs = topic.starts_with("devices/") || topic.starts_with('$');
        match topics.publishes(party.device, party.module, topic) {
            Fit::Yes(holes) => Ok(Self::Template(holes)),
            Fit::Foreign => Err(TopicError::ForeignDevice),
            Fit::No if topics.unmatched == Unmatched::Telemetry && !hubs => Ok(Self::Unmatched),
            Fit::No => Err(unknown),
        }
    }
}

/// The bag in what follows the root of a telemetry topic: `messages/events`, with or without a
/// slash, a bag, and one slash after the bag.
fn events_bag(rest: &str) -> Result<&str, TopicError> {
    let rest = rest
        .strip_prefix("messages/events")
        .ok_or(TopicError::Unknown)?;
    if rest.is_empty() {
        return Ok(rest);
    }
    let bag = rest.strip_prefix('/').ok_or(TopicError::Unknown)?;
    let bag = match bag.strip_suffix('/') {
        // Node appends a slash (wire sheet §8.2); a slash alone is no bag.
        Some(inner) if !inner.is_empty() => inner,
        _ => bag,
    };
    match bag.contains('/') {
        true => Err(TopicError::SlashInBag),
        false => Ok(bag),
    }
}
