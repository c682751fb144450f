//! What a peer did wrong, with the condition it is told (2.8.15–2.8.18).

use fe2o3_amqp_types::definitions::{
    AmqpError, ConnectionError, Error, ErrorCondition, LinkError, SessionError,
};
use serde_amqp::primitives::Symbol;
use std::fmt;

/// What ends because of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole connection, with CLOSE.
    Connection,
    /// One session, with END.
    Session,
    /// One link, with DETACH; the key of its slot.
    Link(u32),
}

/// A peer broke a rule of the specification or of our [`Limits`](super::Limits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What ends.
    pub scope: Scope,
    /// What the peer is told.
    pub condition: ErrorCondition,
    /// The rule, in words.
    pub what: &'static str,
}

impl Fault {
    /// A fault that ends the connection.
    pub fn connection(condition: impl Into<ErrorCondition>, what: &'static str) -> Self {
        Self {
            scope: Scope::Connection,
            condition: condition.into(),
            what,
        }
    }

    /// `amqp:connection:framing-error`: no valid frame can be formed from the bytes.
    pub fn framing(what: &'static str) -> Self {
        Self::connection(ConnectionError::FramingError, what)
    }

    /// `amqp:decode-error`: the frame is whole, its content is not AMQP.
    pub fn decode(what: &'static str) -> Self {
        Self::connection(AmqpError::DecodeError, what)
    }

    /// A fault that ends the session.
    pub fn session(condition: impl Into<ErrorCondition>, what: &'static str) -> Self {
        Self {
            scope: Scope::Session,
            condition: condition.into(),
            what,
        }
    }

    /// `amqp:session:unattached-handle`.
    pub fn unattached(what: &'static str) -> Self {
        Self::session(SessionError::UnattachedHandle, what)
    }

    /// A fault that ends the link in slot `key`.
    pub fn link(key: u32, condition: impl Into<ErrorCondition>, what: &'static str) -> Self {
        Self {
            scope: Scope::Link(key),
            condition: condition.into(),
            what,
        }
    }

    /// `amqp:link:transfer-limit-exceeded`.
    pub fn over_credit(key: u32) -> Self {
        Self::link(
            key,
            LinkError::TransferLimitExceeded,
            "a message was sent without credit",
        )
    }

    /// The error as it goes on the wire (2.8.14).
    #[must_use]
    pub fn error(&self) -> Error {
        Error::new(self.condition.clone(), Some(self.what.to_owned()), None)
    }

    /// The condition's name, e.g. `amqp:decode-error`.
    #[must_use]
    pub fn condition(&self) -> String {
        condition(&self.condition)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition(), self.what)
    }
}

impl std::error::Error for Fault {}

/// The name of a condition as it stands on the wire.
#[must_use]
pub fn condition(condition: &ErrorCondition) -> String {
    match condition {
        ErrorCondition::AmqpError(e) => Symbol::from(e).into_inner(),
        ErrorCondition::ConnectionError(e) => Symbol::from(e).into_inner(),
        ErrorCondition::SessionError(e) => Symbol::from(e).into_inner(),
        ErrorCondition::LinkError(e) => Symbol::from(e).into_inner(),
        ErrorCondition::Custom(symbol) => symbol.as_str().to_owned(),
    }
}
