//! The phases of the process's life, watched by `/ready` and by tests.

/// Where the process stands. Phases only move downwards in this list, except that `Ready` and
/// `NotReady` alternate with the health of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Building; no device is accepted yet.
    Starting,
    /// Serving: a valid token is on at least one open hub connection.
    Ready,
    /// Serving, but a load balancer should look elsewhere.
    NotReady,
    /// No new connection, no new PUBLISH is read; what is in flight is settled.
    Draining,
    /// Devices and hub connections are being closed.
    Closing,
    /// Nothing is left.
    Stopped,
}

impl Phase {
    /// The name shown by `/ready` and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::NotReady => "NotReady",
            Self::Draining => "Draining",
            Self::Closing => "Closing",
            Self::Stopped => "Stopped",
        }
    }
}
