//! Device topics ⇄ hub endpoints; pure (wire sheet §8.2–8.4).
//!
//! The id in a topic is compared byte by byte with the id that was authenticated, before and
//! beside anything the hub would check. Ids are not percent-encoded in topics, so nothing is
//! decoded on the way to that comparison.

mod reserved;
mod way;

pub use reserved::{Reserved, Subscription, desired_topic, method_topic, twin_answer_topic};

use super::properties::{Gathered, Mended, write_command_bag};
use crate::auth::rules::{Properties, Retain, Topics};
use crate::auth::{AuthenticatedDevice, Permissions};
use crate::hub::message::{Command, Telemetry};
use crate::mqtt::packet::{MessageProperties, Publish, Will};
use crate::mqtt::topic;
use crate::telemetry::reason::Reason;
use bytes::Bytes;
use way::Way;

/// Why a topic leads nowhere. The texts name the fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TopicError {
    /// No template fits.
    #[error("the topic fits no template; telemetry goes to devices/<id>/messages/events/")]
    Unknown,
    /// The topic is another device's or module's.
    #[error("the topic names another device or module; use the id of the MQTT client id")]
    ForeignDevice,
    /// The rules do not let this device send telemetry.
    #[error("this device may not send telemetry; add \"telemetry\" to its rule's allow list")]
    TelemetryDenied,
    /// The rules do not let this device receive commands.
    #[error("this device may not receive commands; add \"commands\" to its rule's allow list")]
    CommandsDenied,
    /// A slash within the property bag.
    #[error("the property bag holds a slash; write it as %2F")]
    SlashInBag,
    /// `%` without two hexadecimal digits, or no UTF-8 behind the escapes.
    #[error("the property bag is not percent-encoded UTF-8; write a literal percent sign as %25")]
    MalformedEscape,
    /// A property without a name.
    #[error("a property of the bag has no name; write name=value")]
    EmptyKey,
    /// A name only the hub or the gateway may set.
    #[error("the property name is reserved for the hub and this gateway; rename the property")]
    ReservedProperty,
    /// A `$.` key outside the table of wire sheet §8.2, or in another case.
    #[error("the system property is unknown or not a device's to set; use the lower-case $. keys")]
    UnknownSystemProperty,
    /// A property twice.
    #[error("a property is given twice; send each name once")]
    DuplicateProperty,
    /// More properties than `limits.properties`.
    #[error("the message has too many properties; send fewer or raise limits.properties")]
    TooManyProperties,
    /// A message, correlation or user id that is too long or not ASCII.
    #[error("message, correlation and user ids take at most 128 printable ASCII characters")]
    MalformedId,
    /// A content type or encoding that is not ASCII.
    #[error("content type and content encoding are ASCII; write them without other characters")]
    NotAscii,
    /// `$.exp` is not a time.
    #[error("$.exp is not an ISO 8601 time; write it like 2030-01-31T12:00:00Z, percent-encoded")]
    MalformedExpiry,
    /// A filter no template fits.
    #[error("the filter fits no template; commands come on devices/<id>/messages/devicebound/#")]
    FilterUnknown,
    /// A filter that would match more than this device's commands.
    #[error("the filter is wider than this device; use devices/<id>/messages/devicebound/#")]
    FilterTooWide,
    /// The retain flag, where the rule says so.
    #[error("retained messages are refused by this device's rule; publish without retain")]
    RetainRefused,
    /// The rules do not let this device be called methods.
    #[error("this device may not be called methods; add \"methods\" to its rule's allow list")]
    MethodsDenied,
    /// The rules do not let this device use its twin.
    #[error("this device may not use its twin; add \"twin\" to its rule's allow list")]
    TwinDenied,
    /// A twin request without a request id, or with a version that is no number.
    #[error("the twin request lacks ?$rid=, or its $version is no number")]
    RequestMalformed,
    /// The answer to a method without a status or a request id.
    #[error("a method is answered on $iothub/methods/res/STATUS/?$rid=ID, the status a number")]
    AnswerMalformed,
}

impl TopicError {
    /// Its word.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Unknown => Reason::TopicUnknown,
            Self::ForeignDevice => Reason::TopicForeignDevice,
            Self::TelemetryDenied => Reason::TelemetryDenied,
            Self::CommandsDenied => Reason::CommandsDenied,
            Self::SlashInBag => Reason::BagSlash,
            Self::MalformedEscape => Reason::BagEscape,
            Self::EmptyKey => Reason::BagEmptyKey,
            Self::ReservedProperty => Reason::PropertyReserved,
            Self::UnknownSystemProperty => Reason::PropertyUnknownSystem,
            Self::DuplicateProperty => Reason::BagDuplicate,
            Self::TooManyProperties => Reason::TooManyProperties,
            Self::MalformedId => Reason::PropertyId,
            Self::NotAscii => Reason::PropertyNotAscii,
            Self::MalformedExpiry => Reason::PropertyExpiry,
            Self::FilterUnknown => Reason::FilterUnknown,
            Self::FilterTooWide => Reason::FilterTooWide,
            Self::RetainRefused => Reason::RetainRefused,
            Self::MethodsDenied => Reason::MethodsDenied,
            Self::TwinDenied => Reason::TwinDenied,
            Self::RequestMalformed => Reason::TwinRequestMalformed,
            Self::AnswerMalformed => Reason::MethodAnswerMalformed,
        }
    }

    /// The MQTT 5 PUBACK reason code (OASIS MQTT 5.0 §3.4.2.1) that says this best.
    #[must_use]
    pub const fn mqtt5_reason(self) -> u8 {
        match self {
            Self::Unknown
            | Self::FilterUnknown
            | Self::RequestMalformed
            | Self::AnswerMalformed => 0x90, // topic name invalid
            Self::ForeignDevice
            | Self::TelemetryDenied
            | Self::CommandsDenied
            | Self::MethodsDenied
            | Self::TwinDenied
            | Self::FilterTooWide => 0x87, // not authorized
            Self::RetainRefused => 0x9a,     // retain not supported
            Self::TooManyProperties => 0x97, // quota exceeded
            _ => 0x83,                       // implementation specific error
        }
    }
}

/// A message for the hub.
#[derive(Debug)]
pub struct Mapped {
    /// What is sent.
    pub telemetry: Telemetry,
    /// What was mended on the way, to be counted.
    pub mended: Mended,
}

/// Turns a PUBLISH into telemetry of this device; what is below `$iothub/` is for [`Reserved`].
/// Without `$.mid` the message id stays absent; the hub side makes one. Of MQTT 5's properties the
/// content type, the correlation data and the user properties travel on, under the rules of the
/// bag; of equal names the last one counts, and nameless ones are dropped, because MQTT 5 allows
/// both.
///
/// # Errors
/// When the topic is not this device's, not allowed, or its bag is malformed.
pub fn uplink(
    device: &AuthenticatedDevice,
    publish: Publish,
    properties_max: usize,
    manner: Properties,
) -> Result<Mapped, TopicError> {
    let message = Message::from(publish);
    telemetry(&Party::of(device), message, properties_max, manner)
}

/// Turns a will into telemetry, marked `iothub-MessageType=Will`. Called at CONNECT to check it
/// and at the ungraceful end to send it.
///
/// # Errors
/// As [`uplink`].
pub fn will(
    device: &AuthenticatedDevice,
    will: Will,
    properties_max: usize,
    manner: Properties,
) -> Result<Mapped, TopicError> {
    let message = Message::from(will);
    telemetry(&Party::of(device), message, properties_max, manner)
}

/// What a filter brings this device: its commands by `devices/{d}/messages/devicebound/#`, for a
/// module also by `devices/{d}/modules/{m}/#` (wire sheet §8.4), or by the filter of its rule; or
/// one of those below `$iothub/`.
///
/// # Errors
/// When it is none of them, or not allowed.
pub fn subscription(
    device: &AuthenticatedDevice,
    filter: &str,
) -> Result<Subscription, TopicError> {
    check_filter(&Party::of(device), filter)
}

/// Where a device's telemetry goes.
#[must_use]
pub fn events_topic(device: &AuthenticatedDevice) -> String {
    format!("{}/messages/events/", Party::of(device).root())
}

/// What a device subscribes to for its commands.
#[must_use]
pub fn commands_filter(device: &AuthenticatedDevice) -> String {
    format!("{}/messages/devicebound/#", Party::of(device).root())
}

/// Whether a device of this client id (`device` or `device/module`) and these rights could publish
/// to `topic`; for `check --as`, which has no device.
///
/// # Errors
/// As [`uplink`].
pub fn could_publish(
    client_id: &str,
    permissions: Permissions,
    topics: Option<&Topics>,
    topic: &str,
    properties_max: usize,
    manner: Properties,
) -> Result<Telemetry, TopicError> {
    let party = Party::named(client_id, permissions, topics);
    if let Some(reserved) = Reserved::by(&party, topic) {
        return reserved.map(|_| Telemetry::default());
    }
    let message = Message {
        topic: topic.into(),
        payload: Bytes::new(),
        retain: false,
        will: false,
        properties: None,
    };
    telemetry(&party, message, properties_max, manner).map(|mapped| mapped.telemetry)
}

/// As [`could_publish`], for a subscription.
///
/// # Errors
/// As [`subscription`].
pub fn could_subscribe(
    client_id: &str,
    permissions: Permissions,
    topics: Option<&Topics>,
    filter: &str,
) -> Result<Subscription, TopicError> {
    check_filter(&Party::named(client_id, permissions, topics), filter)
}

/// The topic a command is delivered on: that of IoT Hub with the properties as its bag, or where
/// the device listens by the filter of its rule (`by_own`), that one.
#[must_use]
pub fn command_topic(device: &AuthenticatedDevice, command: &Command, by_own: bool) -> String {
    delivery_topic(&Party::of(device), command, by_own)
}

/// Who publishes or listens.
struct Party<'a> {
    device: &'a str,
    module: Option<&'a str>,
    permissions: Permissions,
    topics: Option<&'a Topics>,
}

impl<'a> Party<'a> {
    fn of(device: &'a AuthenticatedDevice) -> Self {
        Self {
            device: device.device().as_str(),
            module: device.module().map(|module| module.as_str()),
            permissions: device.permissions(),
            topics: device.topics(),
        }
    }

    fn named(client_id: &'a str, permissions: Permissions, topics: Option<&'a Topics>) -> Self {
        let (device, module) = match client_id.split_once('/') {
            Some((device, module)) => (device, Some(module)),
            None => (client_id, None),
        };
        Self {
            device,
            module,
            permissions,
            topics,
        }
    }

    /// Whether the rule gives this filter for commands.
    fn listens_by(&self, filter: &str) -> bool {
        let fits = |topics: &Topics| topics.subscribes(self.device, self.module, filter);
        self.topics.is_some_and(fits)
    }

    /// `devices/{d}` or `devices/{d}/modules/{m}`.
    fn root(&self) -> String {
        match self.module {
            Some(module) => format!("devices/{}/modules/{module}", self.device),
            None => format!("devices/{}", self.device),
        }
    }

    /// What follows this party's own root in `topic`, without the slash between.
    fn own<'t>(&self, topic: &'t str) -> Result<&'t str, TopicError> {
        let rest = topic.strip_prefix("devices/").ok_or(TopicError::Unknown)?;
        let (device, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
        if device != self.device {
            return Err(TopicError::ForeignDevice);
        }
        match (self.module, rest.strip_prefix("modules/")) {
            (None, None) => Ok(rest),
            (Some(own), Some(rest)) => {
                let (module, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
                match module == own {
                    true => Ok(rest),
                    false => Err(TopicError::ForeignDevice),
                }
            }
            // A module does not speak for its device, nor the device for its module.
            (None, Some(_)) | (Some(_), None) => Err(TopicError::ForeignDevice),
        }
    }
}

/// What PUBLISH and will have in common.
struct Message {
    topic: bytestring::ByteString,
    payload: Bytes,
    retain: bool,
    will: bool,
    properties: Option<Box<MessageProperties>>,
}

impl From<Publish> for Message {
    fn from(publish: Publish) -> Self {
        Self {
            topic: publish.topic,
            payload: publish.payload,
            retain: publish.retain,
            will: false,
            properties: publish.properties,
        }
    }
}

impl From<Will> for Message {
    fn from(will: Will) -> Self {
        Self {
            topic: will.topic,
            payload: will.payload,
            retain: will.retain,
            will: true,
            properties: will.properties,
        }
    }
}

fn telemetry(
    party: &Party<'_>,
    message: Message,
    properties_max: usize,
    manner: Properties,
) -> Result<Mapped, TopicError> {
    let way = Way::of(party, &message.topic)?;
    if !party.permissions.telemetry {
        return Err(TopicError::TelemetryDenied);
    }
    let retain = party.topics.map(|topics| topics.retain).unwrap_or_default();
    if message.retain && retain == Retain::Refuse {
        return Err(TopicError::RetainRefused);
    }
    let mut gathered = Gathered::new(properties_max, manner);
    match &way {
        Way::Hub(bag) => gathered.bag(bag)?,
        Way::Template(holes) => {
            for (name, value) in holes {
                gathered.add((*name).to_owned(), Some((*value).to_owned()))?;
            }
        }
        Way::Unmatched => gathered.stamp("mqtt-topic", &message.topic),
    }
    if let Some(properties) = message.properties {
        add_v5(&mut gathered, *properties)?;
    }
    if message.retain {
        gathered.stamp(
            match retain {
                Retain::XOptRetain => "x-opt-retain",
                Retain::MqttRetain | Retain::Refuse => "mqtt-retain",
            },
            "true",
        );
    }
    if message.will {
        gathered.stamp("iothub-MessageType", "Will");
    }
    Ok(Mapped {
        mended: gathered.mended,
        telemetry: Telemetry {
            system: gathered.system,
            application: gathered.application,
            body: message.payload,
        },
    })
}

fn add_v5(gathered: &mut Gathered, properties: MessageProperties) -> Result<(), TopicError> {
    gathered.by_mqtt5();
    if let Some(content_type) = properties.content_type {
        gathered.content_type(content_type.into())?;
    }
    if let Some(data) = properties.correlation_data {
        gathered.correlation(&data)?;
    }
    for (key, value) in properties.user {
        gathered.add(key.into(), Some(value.into()))?;
    }
    Ok(())
}

fn check_filter(party: &Party<'_>, filter: &str) -> Result<Subscription, TopicError> {
    if let Some(reserved) = Subscription::reserved(party, filter) {
        return reserved;
    }
    let commands = match party.own(filter) {
        Ok("messages/devicebound/#") => Subscription::Commands,
        Ok("#") if party.module.is_some() => Subscription::Module,
        _ if party.listens_by(filter) => Subscription::Own,
        _ => return Err(filter_error(party, filter)),
    };
    match party.permissions.commands {
        true => Ok(commands),
        false => Err(TopicError::CommandsDenied),
    }
}

/// Why a filter is refused: what it asks for too much, or that it asks for nothing there is.
fn filter_error(party: &Party<'_>, filter: &str) -> TopicError {
    let own = party.own(filter);
    if own.is_ok_and(|rest| rest.starts_with("messages/devicebound")) {
        return TopicError::FilterUnknown;
    }
    let commands = format!("{}/messages/devicebound/x", party.root());
    match own {
        _ if topic::matches(filter, &commands) => TopicError::FilterTooWide,
        Err(TopicError::ForeignDevice) => TopicError::ForeignDevice,
        _ => TopicError::FilterUnknown,
    }
}

fn delivery_topic(party: &Party<'_>, command: &Command, by_own: bool) -> String {
    let own = party.topics.filter(|_| by_own);
    let own = own.and_then(|topics| topics.command(party.device, party.module));
    let (mut topic, bag) = own.unwrap_or_else(|| {
        let mut topic = party.root();
        topic.push_str("/messages/devicebound/");
        (topic, true)
    });
    if bag {
        let default_to = format!("/{}/messages/devicebound", party.root());
        write_command_bag(&mut topic, command, &default_to);
    }
    topic
}

#[cfg(test)]
mod tests;
