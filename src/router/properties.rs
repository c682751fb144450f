//! Property bag of a topic ⇄ AMQP properties; pure (wire sheet §8.2, §8.4, §4.4).
//!
//! A bag that breaks the rules is refused, or where a device's rule says so read leniently, and
//! what was mended is counted. What MQTT 5 allows and AMQP's maps cannot hold, a name twice or an
//! empty one, is always mended: the device did nothing wrong.
//!
//! A device may say what the table [`SYSTEM`] lists and name its own properties; it may not use
//! the names by which the hub or this gateway vouch for something. Everything else is data and
//! is carried as it is.

use super::topic_map::TopicError;
use crate::auth::rules::Properties;
use crate::hub::message::{Command, SystemProperties};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{OffsetDateTime, PrimitiveDateTime};

/// Longest message id, correlation id and user id the hub takes, bytes (wire sheet §4.4).
pub const ID_BYTES_MAX: usize = 128;

/// Everything but the unreserved characters of RFC 3986 is percent-encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// System properties a device may set, by their key in the bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    MessageId,
    CorrelationId,
    UserId,
    To,
    ContentType,
    ContentEncoding,
    Expiry,
    InterfaceId,
    Component,
    /// Travels as an application property of this name.
    Application(&'static str),
}

/// The table of wire sheet §8.2. `$.cdid` and `$.cmid` name the sender and are the hub's to set.
const SYSTEM: [(&str, System); 12] = [
    ("$.mid", System::MessageId),
    ("$.cid", System::CorrelationId),
    ("$.uid", System::UserId),
    ("$.to", System::To),
    ("$.ct", System::ContentType),
    ("$.ce", System::ContentEncoding),
    ("$.exp", System::Expiry),
    ("$.ifid", System::InterfaceId),
    ("$.sub", System::Component),
    ("$.on", System::Application("iothub-outputname")),
    ("$.ctime", System::Application("iothub-creation-time-utc")),
    ("$.schema", System::Application("iothub-message-schema")),
];

/// Names below `iothub-` a device may use as they stand: they say something about its own
/// message and vouch for nothing.
const OPEN_NAMES: [&str; 4] = [
    "iothub-ack",
    "iothub-operation",
    "iothub-creation-time-utc",
    "iothub-message-schema",
];

/// Names, in lower case, that a reader upstream takes for the hub's or the gateway's word.
const RESERVED_NAMES: [&str; 6] = [
    "mqtt-retain",
    "mqtt-topic",
    "dt-subject",
    "dt-dataschema",
    "to",
    "user-id",
];

/// Beginnings, in lower case, of such names.
const RESERVED_PREFIXES: [&str; 2] = ["iothub-", "x-opt-"];

/// How often a message was mended, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Names and values with a bad escape, kept as it is.
    pub escapes: u16,
    /// Earlier properties that gave way to a later one of the same name.
    pub repeated: u16,
    /// Properties without a name, dropped.
    pub nameless: u16,
}

impl Mended {
    /// Each kind's label in `properties_mended_total{how}` and its count.
    #[must_use]
    pub fn counts(self) -> [(&'static str, u16); 3] {
        [
            ("escape_kept", self.escapes),
            ("repeated", self.repeated),
            ("nameless", self.nameless),
        ]
    }
}

/// The properties of one message, gathered under a bound.
pub(super) struct Gathered {
    /// System properties.
    pub(super) system: SystemProperties,
    /// Application properties, in the order given.
    pub(super) application: Vec<(String, Option<String>)>,
    /// What was mended.
    pub(super) mended: Mended,
    lenient: bool,
    seen: u16,
    left: usize,
}

impl Gathered {
    /// Nothing yet, room for `properties_max`.
    pub(super) fn new(properties_max: usize, manner: Properties) -> Self {
        Self {
            mended: Mended::default(),
            lenient: manner == Properties::Lenient,
            system: SystemProperties::default(),
            application: Vec::new(),
            seen: 0,
            left: properties_max,
        }
    }

    /// Reads a bag: `k=v&k2=v2`, both sides percent-encoded, `k` without `=` is null. Empty
    /// items, as in `a=1&`, are skipped, and so is the `?` that begins a query: a bag is written
    /// like one, and the hub's own documentation shows bags that begin so (wire sheet §8.4).
    pub(super) fn bag(&mut self, bag: &str) -> Result<(), TopicError> {
        let bag = bag.strip_prefix('?').unwrap_or(bag);
        for item in bag.split('&').filter(|item| !item.is_empty()) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key, Some(self.decode(value)?)),
                None => (item, None),
            };
            let key = self.decode(key)?;
            self.add(key, value)?;
        }
        Ok(())
    }

    fn decode(&mut self, text: &str) -> Result<String, TopicError> {
        match decode(text) {
            Err(TopicError::MalformedEscape) if self.lenient => {
                self.mended.escapes += 1;
                Ok(decode_what_is_well_formed(text))
            }
            decoded => decoded,
        }
    }

    /// Reads what follows as MQTT 5 allows it.
    pub(super) fn by_mqtt5(&mut self) {
        self.lenient = true;
    }

    /// Adds one decoded property.
    pub(super) fn add(&mut self, key: String, value: Option<String>) -> Result<(), TopicError> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(TopicError::TooManyProperties)?;
        if key.is_empty() {
            if self.lenient {
                self.mended.nameless += 1;
                return Ok(());
            }
            return Err(TopicError::EmptyKey);
        }
        if key.trim_start().starts_with("$.") {
            return self.add_system(&key, value);
        }
        if is_reserved(&key) {
            return Err(TopicError::ReservedProperty);
        }
        self.add_application(key, value)
    }

    /// Adds a property the gateway itself vouches for.
    pub(super) fn stamp(&mut self, key: &str, value: &str) {
        self.application
            .push((key.to_owned(), Some(value.to_owned())));
    }

    fn add_application(&mut self, key: String, value: Option<String>) -> Result<(), TopicError> {
        // A key twice makes an AMQP map invalid (AMQP 1.0 §1.6.23). At most `properties_max`
        // keys are compared.
        let known = self.application.iter_mut().find(|(known, _)| *known == key);
        match known {
            None => self.application.push((key, value)),
            Some((_, earlier)) if self.lenient => {
                self.mended.repeated += 1;
                *earlier = value;
            }
            Some(_) => return Err(TopicError::DuplicateProperty),
        }
        Ok(())
    }

    fn add_system(&mut self, key: &str, value: Option<String>) -> Result<(), TopicError> {
        let index = SYSTEM
            .iter()
            .position(|(name, _)| *name == key)
            .ok_or(TopicError::UnknownSystemProperty)?;
        if self.seen & (1 << index) != 0 {
            if !self.lenient {
                return Err(TopicError::DuplicateProperty);
            }
            // What travels as an application property is counted there.
            let there = matches!(SYSTEM[index].1, System::Application(_));
            self.mended.repeated += u16::from(!there);
        }
        self.seen |= 1 << index;
        // Null is what a property that was not sent is, too.
        let Some(value) = value else {
            return Ok(());
        };
        let system = &mut self.system;
        match SYSTEM[index].1 {
            System::MessageId => system.message_id = Some(checked_id(value)?),
            System::CorrelationId => system.correlation_id = Some(checked_id(value)?),
            System::UserId => system.user_id = Some(checked_id(value)?),
            System::To => system.to = Some(value),
            System::ContentType => system.content_type = Some(checked_symbol(value)?),
            System::ContentEncoding => system.content_encoding = Some(checked_symbol(value)?),
            System::Expiry => system.expiry_ms = Some(parse_time(&value)?),
            System::InterfaceId => system.interface_id = Some(value),
            System::Component => system.component = Some(value),
            System::Application(name) => {
                return self.add_application(name.to_owned(), Some(value));
            }
        }
        Ok(())
    }

    /// Takes the content type of MQTT 5.
    pub(super) fn content_type(&mut self, value: String) -> Result<(), TopicError> {
        self.add_system("$.ct", Some(value))
    }

    /// Takes the correlation data of MQTT 5, which the hub carries as text.
    pub(super) fn correlation(&mut self, data: &[u8]) -> Result<(), TopicError> {
        let text = std::str::from_utf8(data).map_err(|_| TopicError::MalformedId)?;
        self.add_system("$.cid", Some(text.to_owned()))
    }
}

/// Whether a name is the hub's or the gateway's to set; case and outer blanks do not help.
fn is_reserved(key: &str) -> bool {
    if OPEN_NAMES.contains(&key) {
        return false;
    }
    let name = key.trim().to_ascii_lowercase();
    RESERVED_NAMES.contains(&&*name)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Percent-decoding by RFC 3986: `+` stays plus, every `%` begins an escape.
pub(super) fn decode(text: &str) -> Result<String, TopicError> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&d| char::from(d).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(TopicError::MalformedEscape);
        };
        decoded.push((high << 4 | low) as u8);
        rest = &tail[2..];
    }
    String::from_utf8(decoded).map_err(|_| TopicError::MalformedEscape)
}

/// As [`decode`], but what is no escape stays as it is; what is no UTF-8 then stays so as a whole.
fn decode_what_is_well_formed(text: &str) -> String {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(text).collect();
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

fn checked_id(id: String) -> Result<String, TopicError> {
    let plain = id.bytes().all(|b| (0x20..0x7F).contains(&b));
    match id.len() <= ID_BYTES_MAX && plain {
        true => Ok(id),
        false => Err(TopicError::MalformedId),
    }
}

/// Content type and encoding travel as AMQP symbols, which are ASCII.
fn checked_symbol(text: String) -> Result<String, TopicError> {
    match text.is_ascii() {
        true => Ok(text),
        false => Err(TopicError::NotAscii),
    }
}

/// ISO 8601 → milliseconds since 1970-01-01 UTC. A time without an offset is UTC.
fn parse_time(text: &str) -> Result<i64, TopicError> {
    let moment = OffsetDateTime::parse(text, &Iso8601::PARSING)
        .or_else(|_| {
            PrimitiveDateTime::parse(text, &Iso8601::PARSING).map(PrimitiveDateTime::assume_utc)
        })
        .map_err(|_| TopicError::MalformedExpiry)?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000))
        .map_err(|_| TopicError::MalformedExpiry)
}

fn format_time(milliseconds: i64) -> Option<String> {
    let moment =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()?;
    moment.format(&Rfc3339).ok()
}

/// Appends the bag of a command to its topic: system properties with `%24.` keys as the hub
/// writes them (wire sheet §8.9), `to` always, then the application properties.
pub(super) fn write_command_bag(topic: &mut String, command: &Command, default_to: &str) {
    let system = &command.system;
    let mut bag = BagWriter { topic, first: true };
    bag.system("%24.mid", system.message_id.as_deref());
    bag.system("%24.to", Some(system.to.as_deref().unwrap_or(default_to)));
    bag.system("%24.cid", system.correlation_id.as_deref());
    bag.system("%24.uid", system.user_id.as_deref());
    bag.system("%24.ct", system.content_type.as_deref());
    bag.system("%24.ce", system.content_encoding.as_deref());
    bag.system("%24.exp", system.expiry_ms.and_then(format_time).as_deref());
    for (key, value) in &command.application {
        bag.item(key, value.as_deref());
    }
}

struct BagWriter<'a> {
    topic: &'a mut String,
    first: bool,
}

impl BagWriter<'_> {
    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.topic.push('&');
        }
    }

    fn system(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.separate();
            self.topic.push_str(key);
            self.value(value);
        }
    }

    fn item(&mut self, key: &str, value: Option<&str>) {
        self.separate();
        self.topic.extend(utf8_percent_encode(key, ENCODED));
        if let Some(value) = value {
            self.value(value);
        }
    }

    fn value(&mut self, value: &str) {
        self.topic.push('=');
        self.topic.extend(utf8_percent_encode(value, ENCODED));
    }
}

#[cfg(test)]
mod tests;
