//! The codec against wire vectors, cuts, mutations and another codec.

mod cuts;
mod differential;
mod mutation;
mod vectors_31;
mod vectors_311;
mod vectors_5;

use super::decode::{self, DecodeLimits, Stage};
use super::packet::{Connect, MessageProperties, Packet, Protocol, QoS};
use super::session::{Event, Session, SessionLimits};
use super::topic::TopicLimits;
use super::violation::Violation;
use crate::runtime::clock::Mono;
use bytes::{Bytes, BytesMut};
use std::collections::HashSet;
use std::time::Duration;

/// One row: the clause it is about, the stage, the bytes in [`assemble`]'s notation, the result
/// in [`show`]'s.
pub(super) type Vector = (
    &'static str,
    Stage,
    &'static str,
    Result<&'static str, Violation>,
);

pub(super) const AWAIT: Stage = Stage::AwaitConnect;
pub(super) const V3: Stage = Stage::Open(Protocol::V31);
pub(super) const V4: Stage = Stage::Open(Protocol::V311);
pub(super) const V5: Stage = Stage::Open(Protocol::V5);

pub(super) const LIMITS: DecodeLimits = DecodeLimits {
    topic: TopicLimits {
        bytes_max: 64,
        levels_max: 8,
    },
    filters_max: 4,
    properties_max: 4,
};

pub(in crate::mqtt) fn session_limits() -> SessionLimits {
    SessionLimits {
        connect_timeout: Duration::from_secs(5),
        keep_alive_max: Duration::from_secs(1177),
        uplink_messages_max: 4,
        uplink_bytes_max: 4096,
        downlink_messages_max: 2,
        connect_bytes_max: 512,
        packet_bytes_max: 1024,
        topic_bytes_max: LIMITS.topic.bytes_max,
        topic_levels_max: LIMITS.topic.levels_max,
        filters_max: LIMITS.filters_max,
        properties_max: LIMITS.properties_max,
    }
}

/// Bytes from a line: hex digits stand for themselves, `'a/b'` is a string with its length,
/// `"a/b"` the same without, `~` the length (variable byte integer) of all that follows, `(` the
/// length of what stands before `)`, and `*n` repeats the string before it n times.
pub(in crate::mqtt) fn assemble(line: &str) -> Vec<u8> {
    let tokens: Vec<&str> = line.split_whitespace().collect();
    assemble_tokens(&tokens)
}

fn assemble_tokens(tokens: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match *token {
            "~" => {
                let rest = assemble_tokens(&tokens[at..]);
                bytes.extend(varint(rest.len()));
                bytes.extend(rest);
                return bytes;
            }
            "(" => {
                let end = at + tokens[at..].iter().position(|t| *t == ")").unwrap();
                let inner = assemble_tokens(&tokens[at..end]);
                bytes.extend(varint(inner.len()));
                bytes.extend(inner);
                at = end + 1;
            }
            text if text.starts_with('\'') || text.starts_with('"') => {
                let (text, times) = text.split_once('*').unwrap_or((text, "1"));
                let inner = text[1..text.len() - 1].repeat(times.parse().unwrap());
                if text.starts_with('\'') {
                    bytes.extend(u16::try_from(inner.len()).unwrap().to_be_bytes());
                }
                bytes.extend(inner.as_bytes());
            }
            hex => {
                assert!(hex.len().is_multiple_of(2), "odd hex {hex}");
                for pair in 0..hex.len() / 2 {
                    bytes.push(u8::from_str_radix(&hex[2 * pair..2 * pair + 2], 16).unwrap());
                }
            }
        }
    }
    bytes
}

pub(super) fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

/// Decodes the one packet in `bytes`.
pub(super) fn decode_one(stage: Stage, bytes: &[u8]) -> Result<Option<Packet>, Violation> {
    let Some(header) = decode::header(bytes, stage, 1024)? else {
        return Ok(None);
    };
    if bytes.len() < header.total() {
        return Ok(None);
    }
    let protocol = match stage {
        Stage::Open(protocol) => protocol,
        Stage::AwaitConnect => Protocol::V311,
    };
    let packet = Bytes::copy_from_slice(&bytes[..header.total()]);
    decode::body(&header, &packet, protocol, &LIMITS).map(Some)
}

/// A packet as a line.
pub(super) fn show(packet: &Packet) -> String {
    match packet {
        Packet::Connect(connect) => show_connect(connect),
        Packet::Publish(p) => format!(
            "PUBLISH {} q{} r{} d{} {} {}{}",
            p.topic,
            p.qos as u8,
            u8::from(p.retain),
            u8::from(p.dup),
            p.packet_id.map_or("-".into(), |id| id.0.to_string()),
            String::from_utf8_lossy(&p.payload),
            show_properties(p.properties.as_deref()),
        ),
        Packet::PubAck(id, reason) => format!("PUBACK {} {reason:02x}", id.0),
        Packet::Subscribe(id, filters) => {
            let filters = filters
                .iter()
                .map(|f| format!(" {}:{}", f.filter, f.qos as u8));
            format!("SUBSCRIBE {}{}", id.0, filters.collect::<String>())
        }
        Packet::Unsubscribe(id, filters) => {
            let filters = filters.iter().map(|f| format!(" {f}"));
            format!("UNSUBSCRIBE {}{}", id.0, filters.collect::<String>())
        }
        Packet::PingReq => "PINGREQ".into(),
        Packet::Disconnect { reason, .. } => format!("DISCONNECT {reason:02x}"),
    }
}

fn show_connect(c: &Connect) -> String {
    let will = c.will.as_ref().map(|w| {
        format!(
            "{}={} q{} r{}{}",
            w.topic,
            String::from_utf8_lossy(&w.payload),
            w.qos as u8,
            u8::from(w.retain),
            show_properties(w.properties.as_deref())
        )
    });
    let mut line = format!("CONNECT {:?} '{}'", c.protocol, c.client_id);
    line += &format!(" c{} k{}", u8::from(c.clean_session), c.keep_alive_s);
    line += &format!(" u={}", c.username.as_deref().unwrap_or("-"));
    let password = c.password.as_deref().map(String::from_utf8_lossy);
    line += &format!(
        " p={} w={}",
        password.unwrap_or("-".into()),
        will.unwrap_or("-".into())
    );
    if let Some(p) = &c.properties {
        line += &format!(" exp{} rm{}", p.session_expiry_s, p.receive_maximum);
        line += &format!(
            " max{:?} pi{}",
            p.packet_bytes_max,
            u8::from(p.problem_information)
        );
        line += &format!(" user{}", p.user.len());
    }
    line
}

fn show_properties(properties: Option<&MessageProperties>) -> String {
    properties.map_or(String::new(), |p| {
        format!(
            " utf8={:?} exp={:?} ct={:?} rt={:?} cd={:?} user={:?}",
            p.payload_utf8,
            p.expiry_s,
            p.content_type,
            p.response_topic,
            p.correlation_data,
            p.user
        )
    })
}

pub(super) fn check(vectors: &[Vector]) {
    for (clause, stage, line, want) in vectors {
        let bytes = assemble(line);
        let got = decode_one(*stage, &bytes)
            .map(|packet| packet.map_or("incomplete".into(), |packet| show(&packet)));
        let want = want.map(str::to_owned);
        assert_eq!(got, want, "[{clause}] {stage:?} {line}");
    }
}

/// A session that is open in the version of `stage`, or waits for CONNECT.
pub(super) fn session_at(stage: Stage) -> Session {
    let mut session = Session::new(session_limits(), Mono::default());
    let connect = match stage {
        Stage::AwaitConnect => return session,
        V3 => assemble("10 ~ 'MQIsdp' 03 02 003C 'a'"),
        V4 => assemble("10 ~ 'MQTT' 04 02 003C 'a'"),
        Stage::Open(_) => assemble("10 ~ 'MQTT' 05 02 003C 00 'a'"),
    };
    let mut out = BytesMut::new();
    let event = session.next(&mut BytesMut::from(&connect[..]), &mut out, Mono::default());
    assert!(matches!(event, Ok(Some(Event::Connect(_)))));
    session.accept(None, &mut out, Mono::default());
    session
}

#[test]
fn every_violation_has_its_own_label_and_a_closing_reason_code() {
    let mut labels = HashSet::new();
    for violation in Violation::ALL {
        assert!(
            labels.insert(violation.word()),
            "{violation:?} shares its label"
        );
        let snake = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(violation.word().word().bytes().all(snake), "{violation:?}");
        assert!(violation.reason() >= 0x80, "{violation:?}");
        assert!(!violation.clause().is_empty());
    }
}

#[test]
fn every_violation_of_the_codec_has_a_vector() {
    // The rest needs a session to happen in; its tests are there.
    let session_only = [
        Violation::PacketIdInUse,
        Violation::ReceiveMaximumExceeded,
        Violation::ClientMaximumTooSmall,
        Violation::VersionNotServed,
        Violation::SessionExpiry,
        Violation::ConnectTimeout,
        Violation::KeepAliveTimeout,
    ];
    let all = vectors_311::VECTORS
        .iter()
        .chain(vectors_31::VECTORS)
        .chain(vectors_5::VECTORS);
    let shown: HashSet<Violation> = all.filter_map(|vector| vector.3.err()).collect();
    for violation in Violation::ALL {
        let wanted = !session_only.contains(violation);
        assert_eq!(shown.contains(violation), wanted, "{violation:?}");
    }
}

#[test]
fn debug_output_of_connect_has_no_password() {
    let bytes = assemble("10 ~ 'MQTT' 04 C2 003C 'a' 'user' 'hunter2'");
    let shown = format!("{:?}", decode_one(AWAIT, &bytes));
    assert!(
        shown.contains("present") && !shown.contains("hunter2"),
        "{shown}"
    );
    let bytes = "104, 117, 110";
    assert!(!shown.contains(bytes), "{shown}");
}

#[test]
fn payload_and_topic_are_slices_of_the_input_buffer() {
    let mut session = session_at(V4);
    let mut input = BytesMut::from(&assemble("32 ~ 'a/b' 0007 \"payload\"")[..]);
    let range = input.as_ptr_range();
    let event = session.next(&mut input, &mut BytesMut::new(), Mono::default());
    let Ok(Some(Event::Publish(_, publish))) = event else {
        panic!("{event:?}");
    };
    assert_eq!(publish.qos, QoS::AtLeastOnce);
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.as_ptr()));
}
