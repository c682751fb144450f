//! Messages as the hub carries them, and the address of a device; pure.

use crate::auth::AuthenticatedDevice;
use crate::auth::identity::{DeviceId, ModuleId};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt;
use std::time::Duration;

/// Ids stand in addresses percent-encoded, because `%` and `?` are legal in them (wire sheet §4.1).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Where a device's links lead: `/devices/{d}` or `/devices/{d}/modules/{m}`, percent-encoded.
/// Built only from an [`AuthenticatedDevice`], so nobody can speak for a device that did not
/// prove itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DeviceAddress {
    device: DeviceId,
    module: Option<ModuleId>,
}

impl DeviceAddress {
    /// The address of `device`.
    #[must_use]
    pub fn of(device: &AuthenticatedDevice) -> Self {
        Self {
            device: device.device().clone(),
            module: device.module().cloned(),
        }
    }

    /// The device part.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The module part.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleId> {
        self.module.as_ref()
    }

    /// The target of the telemetry link (wire sheet §4.1).
    #[must_use]
    pub fn telemetry(&self) -> String {
        self.path("messages/events")
    }

    /// The source of the command link (wire sheet §4.1).
    #[must_use]
    pub fn commands(&self) -> String {
        self.path("messages/devicebound")
    }

    /// Both ends of the method links (wire sheet §4.1).
    #[must_use]
    pub fn methods(&self) -> String {
        self.path("methods/devicebound")
    }

    /// Both ends of the twin links (wire sheet §4.1).
    #[must_use]
    pub fn twin(&self) -> String {
        self.path("twin")
    }

    fn path(&self, end: &str) -> String {
        let device = utf8_percent_encode(self.device.as_str(), SEGMENT);
        match &self.module {
            None => format!("/devices/{device}/{end}"),
            Some(module) => {
                let module = utf8_percent_encode(module.as_str(), SEGMENT);
                format!("/devices/{device}/modules/{module}/{end}")
            }
        }
    }

    #[cfg(test)]
    pub(in crate::hub) fn for_test(device: &str, module: Option<&str>) -> Self {
        Self {
            device: DeviceId::parse(device).unwrap(),
            module: module.map(|m| ModuleId::parse(m).unwrap()),
        }
    }
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{}/{module}", self.device),
            None => write!(f, "{}", self.device),
        }
    }
}

impl fmt::Debug for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// System properties of a message (wire sheet §4.4, §8.2). Absent means null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemProperties {
    /// `message-id`
    pub message_id: Option<String>,
    /// `correlation-id`
    pub correlation_id: Option<String>,
    /// `user-id`
    pub user_id: Option<String>,
    /// `to`
    pub to: Option<String>,
    /// `content-type`
    pub content_type: Option<String>,
    /// `content-encoding`
    pub content_encoding: Option<String>,
    /// `absolute-expiry-time`, milliseconds since 1970-01-01 UTC.
    pub expiry_ms: Option<i64>,
    /// Message annotations `iothub-interface-id` and `dt-subject`, the only ones sent.
    pub interface_id: Option<String>,
    /// See `interface_id`.
    pub component: Option<String>,
}

/// A message from a device to the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// System properties.
    pub system: SystemProperties,
    /// Application properties: user properties and the `iothub-*` ones that travel there.
    /// A value of `None` is a key without `=` in the property bag.
    pub application: Vec<(String, Option<String>)>,
    /// Payload.
    pub body: Bytes,
}

/// A command from the hub to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Names this delivery towards `DeviceLinks::settle`; unique within the device's links.
    pub delivery: u64,
    /// System properties.
    pub system: SystemProperties,
    /// Application properties.
    pub application: Vec<(String, Option<String>)>,
    /// Payload.
    pub body: Bytes,
    /// How often the hub delivered it before.
    pub delivery_count: u32,
}

/// A direct method called of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodCall {
    /// Names the call towards `DeviceLinks`; unique within the device's links.
    pub number: u64,
    /// The method.
    pub name: String,
    /// Payload.
    pub body: Bytes,
}

/// What of methods is held for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodBounds {
    /// Calls without answer; one more takes the place of the oldest.
    pub calls: usize,
    /// Largest payload of a call, bytes.
    pub bytes: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// A device's request to its twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinRequest {
    /// The device's own id of it.
    pub rid: String,
    /// What it asks.
    pub what: TwinAsk,
}

/// What a device asks of its twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TwinAsk {
    /// The whole of it.
    Get,
    /// Reported properties to be changed.
    Report {
        /// The version the twin must have.
        version: Option<i64>,
        /// JSON patch.
        body: Bytes,
    },
}

impl TwinAsk {
    /// The metric label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Report { .. } => "report",
        }
    }

    /// What it holds until it is answered, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Get => 0,
            Self::Report { body, .. } => body.len(),
        }
    }
}

/// What of twin requests is held for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwinBounds {
    /// Requests without answer.
    pub requests: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Largest desired properties kept to find what was missed, bytes.
    pub desired_bytes: usize,
}

/// The answer to a [`TwinRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinAnswer {
    /// The device's own id of the request.
    pub rid: String,
    /// As HTTP has it.
    pub status: i32,
    /// The version after a report.
    pub version: Option<i64>,
    /// A twin, or an error; may be empty.
    pub body: Bytes,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The device has it: AMQP `accepted`, the hub completes it.
    Accepted,
    /// Back to the queue, counted by the hub: AMQP `released`.
    Released,
    /// Not for this device: AMQP `rejected`, the hub dead-letters it.
    Rejected,
}

#[cfg(test)]
mod tests {
    use super::DeviceAddress;

    #[test]
    fn addresses_are_the_hubs_with_ids_percent_encoded() {
        let device = DeviceAddress::for_test("thermo-1", None);
        assert_eq!(device.telemetry(), "/devices/thermo-1/messages/events");
        assert_eq!(device.commands(), "/devices/thermo-1/messages/devicebound");
        let odd = DeviceAddress::for_test("a%2Fb?c:d", Some("m$1"));
        assert_eq!(
            odd.telemetry(),
            "/devices/a%252Fb%3Fc%3Ad/modules/m%241/messages/events"
        );
    }
}
