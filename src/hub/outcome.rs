//! What counts as accepted: every AMQP outcome and error condition, one row each; pure.

/// Proof that the hub accepted a message. Only this module makes one; no PUBACK without it.
#[derive(Debug)]
pub struct HubAccepted(());

/// Why the hub, for good, does not take a message. The connection may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Metric label and log word, e.g. `message_too_large`.
    pub reason: &'static str,
    /// The hub's own words, capped and escaped.
    pub text: String,
}

/// Why the hub's side ends this device's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGone {
    /// Metric label and log word, e.g. `device_not_found`, `device_disabled`, `stolen`.
    pub reason: &'static str,
    /// The hub's own words, capped and escaped.
    pub text: String,
}
