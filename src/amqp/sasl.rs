//! The SASL layer (5.3): mechanisms a client can use, frames of both sides.

use super::Limits;
use super::fault::Fault;
use super::performative;
use super::types::{self, Malformed, code};
use crate::config::secret::Secret;
use fe2o3_amqp_types::sasl::{SaslChallenge, SaslInit, SaslMechanisms, SaslOutcome, SaslResponse};
use serde_amqp::primitives::{Array, Binary, Symbol};

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum Mechanism {
    /// RFC 4505
    Anonymous,
    /// RFC 4616
    Plain {
        /// authcid
        user: String,
        /// passwd
        password: Secret,
    },
    /// RFC 4422 appendix A: the layer below (TLS) knows.
    External,
    /// Microsoft's: a token follows by CBS.
    Mssbcbs,
}

impl Mechanism {
    /// Its registered name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Anonymous => "ANONYMOUS",
            Self::Plain { .. } => "PLAIN",
            Self::External => "EXTERNAL",
            Self::Mssbcbs => "MSSBCBS",
        }
    }

    /// Its initial response.
    pub(super) fn response(&self) -> Vec<u8> {
        match self {
            Self::Plain { user, password } => {
                [b"\0", user.as_bytes(), b"\0", password.expose()].concat()
            }
            Self::Anonymous | Self::External | Self::Mssbcbs => Vec::new(),
        }
    }
}

/// What a side wants of the SASL layer.
#[derive(Clone, Debug, Default)]
pub enum Sasl {
    /// Client: no SASL layer. Server: none is offered.
    #[default]
    None,
    /// The client's mechanism, and the host it names.
    Client(Mechanism, Option<String>),
    /// The server's mechanisms, best first; whether a client may do without.
    Server {
        /// At least one.
        mechanisms: Vec<&'static str>,
        /// A client that sends the AMQP header first is turned away.
        required: bool,
    },
}

/// The content of a SASL frame (5.3.3).
#[derive(Debug)]
pub enum Frame {
    /// 5.3.3.1
    Mechanisms(Box<SaslMechanisms>),
    /// 5.3.3.2
    Init(Box<SaslInit>),
    /// 5.3.3.3
    Challenge(Box<SaslChallenge>),
    /// 5.3.3.4
    Response(Box<SaslResponse>),
    /// 5.3.3.5
    Outcome(Box<SaslOutcome>),
}

/// Reads the body of a SASL frame.
pub fn decode(body: &[u8], limits: &Limits) -> Result<Frame, Fault> {
    read(body, limits).map_err(|malformed| Fault::decode(malformed.0))
}

fn read(body: &[u8], limits: &Limits) -> types::Read<Frame> {
    let mut input = body;
    if types::u8(&mut input)? != code::DESCRIBED {
        return Err(Malformed("a frame's body is not a described value"));
    }
    match types::descriptor(&mut input)? {
        0x40 => performative::cold(body, limits).map(Frame::Mechanisms),
        0x41 => performative::cold(body, limits).map(Frame::Init),
        0x42 => performative::cold(body, limits).map(Frame::Challenge),
        0x43 => performative::cold(body, limits).map(Frame::Response),
        0x44 => performative::cold(body, limits).map(Frame::Outcome),
        _ => Err(Malformed("the SASL performative is not known")),
    }
}

/// A client's choice.
pub(super) fn init(mechanism: &Mechanism, hostname: Option<&String>) -> SaslInit {
    SaslInit {
        mechanism: Symbol::from(mechanism.name()),
        initial_response: Some(Binary::from(mechanism.response())),
        hostname: hostname.cloned(),
    }
}

/// A server's offer.
pub(super) fn mechanisms(names: &[&str]) -> SaslMechanisms {
    let names = names.iter().map(|name| Symbol::from(*name)).collect();
    SaslMechanisms {
        sasl_server_mechanisms: Array(names),
    }
}
