//! One message on its way, as OpenTelemetry's messaging conventions (1.45, in development) name
//! its parts; pure.

use super::context::Context;
use crate::runtime::clock::Unix;

/// What is known of a message when it is handed to the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Device id.
    pub device: String,
    /// Module id.
    pub module: Option<String>,
    /// The hub's address of it, `/devices/…/messages/events`.
    pub destination: String,
    /// The message-id the hub sees.
    pub message: String,
    /// Payload, bytes.
    pub bytes: usize,
    /// MQTT's quality of service, 0 or 1.
    pub qos: u8,
    /// The device's W3C `tracestate`.
    pub state: Option<String>,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hub accepted it.
    Accepted,
    /// Not accepted; the word of the reason.
    Failed(&'static str),
}

/// A span that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its own ids; what the message carries on.
    pub context: Context,
    /// The device's span.
    pub parent: Option<[u8; 8]>,
    /// When the PUBLISH was read.
    pub start: Unix,
    /// What it is about.
    pub facts: Facts,
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The span.
    pub span: Span,
    /// When the hub had decided, or the connection was over.
    pub end: Unix,
    /// How it ended.
    pub outcome: Outcome,
}
