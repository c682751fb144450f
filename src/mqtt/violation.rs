//! Every way a peer can break the protocol: clause, reason code, metric label.

/// A protocol violation. Each variant names the clause it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// MQTT-2.2.3: remaining length over four bytes or not minimal.
    #[error("malformed remaining length")]
    RemainingLength,
}

impl Violation {
    /// The metric label: `disconnects_total{reason}`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RemainingLength => "malformed_length",
        }
    }

    /// The clause of the specification.
    #[must_use]
    pub const fn clause(self) -> &'static str {
        match self {
            Self::RemainingLength => "MQTT-2.2.3",
        }
    }
}
