//! CONNECT and its answers: what the client asks for, what it is granted, how it is refused.

use super::{ConnectRefusal, Event, Session, State};
use crate::mqtt::packet::{Connect, Protocol, Will};
use crate::mqtt::violation::Violation;
use crate::mqtt::{decode, encode};
use crate::runtime::clock::Mono;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use std::time::Duration;

impl Session {
    /// Takes a CONNECT that decoded well; from here on it is the driver's to decide.
    pub(super) fn connect(&mut self, connect: Box<Connect>) -> Result<Event, Violation> {
        self.keep_alive_s = connect.keep_alive_s;
        if !self.versions.has(connect.protocol) {
            return Err(Violation::VersionNotServed);
        }
        if let Some(properties) = &connect.properties {
            self.client_bytes_max = properties.packet_bytes_max.unwrap_or(u32::MAX);
            if self.room() < self.least_connack(&connect) {
                return Err(Violation::ClientMaximumTooSmall);
            }
            self.problem_information = properties.problem_information;
            self.session_expiry = properties.session_expiry_s > 0;
            self.downlink.cap(properties.receive_maximum);
        }
        self.protocol = connect.protocol;
        self.will = connect.will.as_ref().map(detached);
        self.state = State::Deciding;
        Ok(Event::Connect(connect))
    }

    /// The keep-alive asked for and the one granted.
    fn keep_alive(&self) -> (Duration, Duration) {
        let asked = Duration::from_secs(u64::from(self.keep_alive_s));
        let max = self.limits.keep_alive_max;
        match asked.is_zero() || asked > max {
            true => (asked, max),
            false => (asked, asked),
        }
    }

    /// Bytes of the smallest CONNACK that says what must be said.
    fn least_connack(&self, connect: &Connect) -> usize {
        let (asked, granted) = self.keep_alive();
        let mut least = encode::CONNACK_BYTES_MIN;
        if granted != asked {
            least += encode::KEEP_ALIVE_BYTES;
        }
        if connect.client_id.is_empty() {
            least += encode::ASSIGNED_ID_BYTES_MAX;
        }
        least
    }

    /// Answers CONNECT positively; `assigned` is the client id of a client that sent none.
    pub fn accept(&mut self, assigned: Option<&str>, out: &mut BytesMut, now: Mono) {
        if self.state != State::Deciding {
            return;
        }
        let (asked, granted) = self.keep_alive();
        self.keep_alive_timeout = granted + granted / 2;
        match self.protocol {
            Protocol::V31 | Protocol::V311 => encode::connack_v311(0, out),
            Protocol::V5 => {
                let properties = encode::ConnackProperties {
                    assigned_client_id: assigned,
                    receive_maximum: self.receive_maximum(),
                    packet_bytes_max: u32::try_from(self.limits.packet_bytes_max)
                        .unwrap_or(u32::MAX),
                    server_keep_alive_s: (granted != asked)
                        .then(|| u16::try_from(granted.as_secs()).unwrap_or(u16::MAX).max(1)),
                    session_expiry_zero: self.session_expiry,
                };
                let room = self.room();
                self.receive_maximum_said = encode::connack_v5(&properties, room, out);
            }
        }
        self.state = State::Open;
        self.accepted = true;
        self.last = now;
    }

    /// Answers CONNECT negatively with a 3.1.1 return code (mapped for MQTT 5) and a text for
    /// MQTT 5's reason string; the driver then closes.
    pub fn refuse(&mut self, code: ConnectRefusal, text: &str, out: &mut BytesMut) {
        if self.state == State::Deciding {
            match self.protocol {
                Protocol::V31 | Protocol::V311 => encode::connack_v311(code as u8, out),
                Protocol::V5 => {
                    let room = self.room();
                    encode::connack_v5_refused(code.reason(), text, room, out);
                }
            }
        }
        self.close();
    }
}

/// Says no to a CONNECT that broke the protocol, in the version it asked for; `body` is the
/// packet after its fixed header, `room` what the client takes. 3.1.1 and 3.1 have a code for two
/// cases only and close without a word otherwise.
pub(super) fn refuse_malformed(violation: Violation, body: &[u8], room: usize, out: &mut BytesMut) {
    let Some(level) = decode::protocol_level(body) else {
        return;
    };
    let five = matches!(
        (violation, level),
        (_, 5) | (Violation::ProtocolLevel, 6..0x80)
    );
    match violation {
        _ if five && room < encode::CONNACK_BYTES_MIN => {}
        _ if five => encode::connack_v5_refused(violation.reason(), "", room, out),
        Violation::ProtocolLevel | Violation::ProtocolName | Violation::VersionNotServed => {
            encode::connack_v311(ConnectRefusal::ProtocolVersion as u8, out);
        }
        Violation::ClientIdRequired if matches!(level, 3 | 4) => {
            encode::connack_v311(ConnectRefusal::ClientId as u8, out);
        }
        _ => {}
    }
}

/// A copy that does not pin the CONNECT packet, and the password in it, for the whole connection.
fn detached(will: &Will) -> Will {
    let string = |text: &ByteString| ByteString::from(&**text);
    let mut copy = will.clone();
    copy.topic = string(&will.topic);
    copy.payload = Bytes::copy_from_slice(&will.payload);
    if let Some(properties) = &mut copy.properties {
        properties.content_type = properties.content_type.as_ref().map(string);
        properties.response_topic = properties.response_topic.as_ref().map(string);
        properties.correlation_data = properties
            .correlation_data
            .as_deref()
            .map(Bytes::copy_from_slice);
        for (name, value) in &mut properties.user {
            *name = string(name);
            *value = string(value);
        }
    }
    copy
}
