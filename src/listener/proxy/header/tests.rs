//! The cases of `tests/data/proxy`, read as a socket would give them.

use super::{Step, looks_like, step};
use crate::websocket::tests::cases;
use serde::Deserialize;
use std::net::SocketAddr;

#[derive(Deserialize)]
struct File {
    case: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    clause: String,
    bytes: String,
    source: Option<String>,
    reason: Option<String>,
}

/// A header, and what comes of it.
pub(in crate::listener) struct Case {
    pub(in crate::listener) name: String,
    pub(in crate::listener) bytes: Vec<u8>,
    pub(in crate::listener) expected: Result<Option<SocketAddr>, String>,
}

/// `headers.toml`
pub(in crate::listener) fn headers() -> Vec<Case> {
    let text = include_str!("../../../../tests/data/proxy/headers.toml");
    let file: File = toml::from_str(text).expect("headers.toml");
    let read = file.case.into_iter().map(|row| {
        assert!(row.clause.starts_with('§'), "{}", row.name);
        let expected = match (row.source, row.reason) {
            (Some(source), None) => Ok(source.parse().ok()),
            (None, Some(reason)) => Err(reason),
            _ => panic!("{}: a source or a reason", row.name),
        };
        Case {
            name: row.name,
            bytes: cases::bytes(&row.bytes),
            expected,
        }
    });
    read.collect()
}

/// Reads a header out of `stream` in pieces of at most `piece` bytes; the answer and the bytes
/// taken.
fn read(stream: &[u8], piece: usize) -> (Result<Option<SocketAddr>, String>, usize) {
    let mut taken = 0;
    loop {
        let most = match step(&stream[..taken]) {
            Err(refused) => return (Err(refused.reason.word().to_owned()), taken),
            Ok(Step::Done(named)) => return (Ok(named), taken),
            Ok(Step::Read(most)) => most,
            Ok(Step::Line(most)) => {
                let end = stream[taken..].iter().position(|byte| *byte == b'\n');
                most.min(end.map_or(most, |at| at + 1))
            }
        };
        assert!(most > 0, "a step that takes nothing never ends");
        let count = most.min(piece).min(stream.len() - taken);
        if count == 0 {
            return (Err("more".to_owned()), taken);
        }
        taken += count;
    }
}

#[test]
fn every_header_comes_to_its_verdict_in_any_pieces_and_takes_no_byte_too_many() {
    for case in headers() {
        let stream = [&case.bytes[..], &[0x16, 3, 1, 10, 10, 10]].concat();
        for piece in [1, 2, 7, 1000, 100_000] {
            let (verdict, taken) = read(&stream, piece);
            assert_eq!(verdict, case.expected, "{} by {piece}", case.name);
            if verdict.is_ok() {
                assert_eq!(taken, case.bytes.len(), "{} by {piece}", case.name);
            }
        }
    }
}

#[test]
fn a_header_that_is_cut_asks_for_more_or_is_refused_as_the_whole_one() {
    for case in headers() {
        for cut in 0..case.bytes.len() {
            let (verdict, _) = read(&case.bytes[..cut], 1000);
            let more = verdict == Err("more".to_owned());
            assert!(more || verdict == case.expected, "{} at {cut}", case.name);
        }
    }
}

#[test]
fn a_header_where_none_is_taken_is_known_by_its_first_bytes() {
    for case in headers().iter().filter(|case| case.expected.is_ok()) {
        assert!(looks_like(&case.bytes), "{}", case.name);
    }
    assert!(!looks_like(b"\x16\x03\x01") && !looks_like(b"\x10\x0f\0\x04MQTT"));
    assert!(!looks_like(b"PRI * HTTP/2.0\r\n"));
}
