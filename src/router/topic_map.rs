//! Device topics ⇄ hub endpoints; pure.

use crate::auth::AuthenticatedDevice;
use crate::hub::message::{Command, Telemetry};
use crate::mqtt::packet::{Publish, Will};

/// Why a topic leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No template fits.
    #[error("the topic fits no template; telemetry goes to devices/<id>/messages/events/")]
    Unknown,
}

impl TopicError {
    /// Metric label and log word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "topic_unknown",
        }
    }
}

/// Turns a PUBLISH into telemetry of this device.
///
/// # Errors
/// When the topic is not this device's, not allowed, or its bag is malformed.
pub fn uplink(
    _device: &AuthenticatedDevice,
    _publish: Publish,
    _properties_max: usize,
) -> Result<Telemetry, TopicError> {
    Err(TopicError::Unknown)
}

/// Turns a will into telemetry, marked `iothub-MessageType=Will`. Called at CONNECT to check it
/// and at the ungraceful end to send it.
///
/// # Errors
/// As [`uplink`].
pub fn will(
    _device: &AuthenticatedDevice,
    _will: Will,
    _properties_max: usize,
) -> Result<Telemetry, TopicError> {
    Err(TopicError::Unknown)
}

/// Whether a filter is this device's command filter.
///
/// # Errors
/// When it is not, or commands are not allowed.
pub fn command_filter(_device: &AuthenticatedDevice, _filter: &str) -> Result<(), TopicError> {
    Err(TopicError::Unknown)
}

/// The topic a command is delivered on.
#[must_use]
pub fn command_topic(_device: &AuthenticatedDevice, _command: &Command) -> String {
    String::new()
}
