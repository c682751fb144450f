//! Why a connection ends, and what that means for the peer, the will and what is in flight; pure.

use crate::hub::outcome::DeviceGone;
use crate::listener::websocket;
use crate::mqtt::session::Goodbye;
use crate::mqtt::violation::Violation;
use crate::router::registry::{Eviction, Order};
use crate::telemetry::reason::Reason;
use std::borrow::Cow;
use std::io;
use std::time::Duration;

/// Messages in flight may still reach the hub for this long after the socket is closed: a QoS 0
/// message has nobody to send it again.
const GRACE: Duration = Duration::from_secs(5);

/// The same while a newer connection of the device waits for this one's end.
pub(super) const GRACE_CONTENDED: Duration = Duration::from_secs(1);

/// A connection's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Close {
    /// `disconnects_total{reason}` and log word.
    pub(super) reason: Reason,
    /// One sentence for the log and for MQTT 5's reason string.
    pub(super) text: Cow<'static, str>,
    /// What an MQTT 5 device is told; `None` when it is told already, or does not listen.
    pub(super) goodbye: Option<Goodbye>,
    /// Whether bytes can still reach the peer.
    pub(super) reachable: bool,
    /// Whether the peer's own close is waited for, so that it reads our last words.
    pub(super) linger: bool,
    /// Whether a will that the session still holds is sent.
    pub(super) will: bool,
    /// How long what is in flight may go on.
    pub(super) grace: Duration,
    /// Whether the hub still takes the device's word about commands.
    pub(super) settles: bool,
    /// Whether the log has its refusal already.
    pub(super) is_told: bool,
    /// Whether the device will come back with the message it is closed for.
    pub(super) poison: bool,
}

impl Close {
    fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: text.into(),
            goodbye: None,
            reachable: true,
            linger: true,
            will: true,
            grace: GRACE,
            settles: true,
            is_told: false,
            poison: false,
        }
    }

    fn saying(self, goodbye: Goodbye) -> Self {
        Self {
            goodbye: Some(goodbye),
            ..self
        }
    }

    /// The device said goodbye. The session knows whether that voids the will.
    pub(super) fn clean() -> Self {
        Self::new(Reason::Clean, "the device disconnected")
    }

    /// The device closed its side without a word.
    pub(super) fn peer_closed() -> Self {
        Self {
            reachable: false,
            ..Self::new(Reason::PeerClosed, "the device closed the connection")
        }
    }

    /// The socket failed.
    pub(super) fn socket(error: &io::Error) -> Self {
        if let Some(violation) = websocket::violation(error) {
            // The client was told by a Close frame.
            return Self::new(violation.word(), violation.to_string());
        }
        let (reason, text) = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                return Self::peer_closed();
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                (Reason::PeerReset, "the device reset the connection")
            }
            io::ErrorKind::TimedOut => (Reason::PeerLost, "the device's network took no bytes"),
            io::ErrorKind::InvalidData => (Reason::TlsViolation, "the TLS stream was broken"),
            _ => (Reason::IoError, "the socket failed"),
        };
        Self {
            reachable: false,
            ..Self::new(reason, text)
        }
    }

    /// The device broke the protocol; the session has written what the device is told.
    pub(super) fn violation(violation: Violation) -> Self {
        Self {
            poison: violation.is_of_a_publish(),
            ..Self::new(violation.word(), violation.to_string())
        }
    }

    /// The device was silent for too long.
    pub(super) fn expired(violation: Violation) -> Self {
        Self::violation(violation).saying(Goodbye::KeepAliveTimeout)
    }

    /// A packet was begun and not finished in time.
    pub(super) fn packet_timeout() -> Self {
        Self::new(
            Reason::PacketTimeout,
            "a packet was not finished within limits.packet_timeout",
        )
        .saying(Goodbye::Administrative)
    }

    /// The device takes no bytes.
    pub(super) fn write_stall() -> Self {
        Self {
            reachable: false,
            ..Self::new(
                Reason::WriteStall,
                "the device took no bytes within limits.write_timeout",
            )
        }
    }

    /// The credential's time is over.
    pub(super) fn credential_expired() -> Self {
        Self::new(
            Reason::CredentialExpired,
            "the credential ended; connect with a new one",
        )
        .saying(Goodbye::NotAuthorized)
    }

    /// A filter that 3.1 cannot be told about otherwise: its SUBACK has no code for it.
    pub(super) fn refused_filter(reason: Reason, text: &str) -> Self {
        Self {
            is_told: true,
            ..Self::new(reason, text.to_owned())
        }
    }

    /// An answer that must be given is larger than the client's Maximum Packet Size.
    pub(super) fn answer_too_large() -> Self {
        Self::violation(Violation::ClientMaximumTooSmall).saying(Goodbye::PacketTooLarge)
    }

    /// A message that cannot be answered otherwise before MQTT 5.
    pub(super) fn refused_publish(reason: Reason, text: &str) -> Self {
        Self {
            is_told: true,
            poison: true,
            ..Self::new(reason, text.to_owned())
        }
    }

    /// The hub ended the device.
    pub(super) fn gone(gone: &DeviceGone) -> Self {
        Self {
            will: false,
            grace: Duration::ZERO,
            settles: false,
            ..Self::new(gone_reason(gone), gone.text.clone())
        }
        .saying(match gone.mqtt5_reason() {
            0x8e => Goodbye::TakenOver,
            0x97 => Goodbye::QuotaExceeded,
            _ => Goodbye::Administrative,
        })
    }

    /// An order that ends the connection now. A drain does not: it is `None`.
    pub(super) fn ordered(order: Order) -> Option<Self> {
        Some(match order {
            Order::TakenOver => Self {
                // The newer connection waits, and the older one is often a dead network.
                linger: false,
                grace: GRACE_CONTENDED,
                ..Self::new(Reason::TakenOver, "the device connected again")
            }
            .saying(Goodbye::TakenOver),
            Order::Evicted(why @ Eviction::Operator) => {
                Self::new(why.reason(), "an operator ended the connection")
                    .saying(Goodbye::Administrative)
            }
            Order::Evicted(why @ Eviction::RightsRevoked) => Self {
                will: false,
                ..Self::new(why.reason(), "the rules no longer admit this device")
            }
            .saying(Goodbye::NotAuthorized),
            Order::Drain { .. } => return None,
        })
    }

    /// The gateway stops. The device lives and will connect elsewhere, so its will is void; what
    /// was not settled in the time for it is not waited for again.
    pub(super) fn drained() -> Self {
        Self {
            will: false,
            grace: Duration::ZERO,
            ..Self::new(Reason::Drain, "the gateway is stopping")
        }
        .saying(Goodbye::ShuttingDown)
    }
}

/// What the hub's word is here.
fn gone_reason(gone: &DeviceGone) -> Reason {
    match gone.reason {
        "device_not_found" => Reason::GoneDeviceNotFound,
        "device_disabled" => Reason::GoneDeviceDisabled,
        "stolen" => Reason::GoneStolen,
        "hub_full" => Reason::GoneHubFull,
        _ => Reason::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::{Close, Eviction, Order};
    use crate::hub::outcome::DeviceGone;
    use crate::mqtt::session::Goodbye;
    use std::io;

    #[test]
    fn revoked_rights_and_lost_hub_rights_void_the_will() {
        let revoked = Close::ordered(Order::Evicted(Eviction::RightsRevoked)).unwrap();
        assert!(!revoked.will);
        let gone = Close::gone(&DeviceGone {
            reason: "device_disabled",
            text: String::new(),
        });
        assert_eq!(gone.reason, "gone_device_disabled");
        assert!(!gone.will);
        assert!(Close::ordered(Order::TakenOver).unwrap().will);
        assert!(Close::peer_closed().will);
    }

    #[test]
    fn a_stolen_link_is_told_as_a_takeover() {
        let gone = Close::gone(&DeviceGone {
            reason: "stolen",
            text: String::new(),
        });
        assert_eq!(gone.goodbye, Some(Goodbye::TakenOver));
    }

    #[test]
    fn a_full_hub_is_told_as_a_quota() {
        let gone = Close::gone(&DeviceGone {
            reason: "hub_full",
            text: String::new(),
        });
        assert_eq!(gone.goodbye, Some(Goodbye::QuotaExceeded));
    }

    #[test]
    fn a_peer_that_left_without_tls_close_is_an_ordinary_peer() {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Close::socket(&error), Close::peer_closed());
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Close::socket(&error).reason, "peer_reset");
        assert!(!Close::socket(&error).reachable);
    }
}
