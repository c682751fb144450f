//! The cases of `tests/data/websocket`, whole and cut at every byte, and what no file can say.

pub(crate) mod cases;

use super::frame::{Decoder, End, PAYLOAD_MAX, close, header, pong};
use super::head;
use super::violation::Violation;
use cases::{Frames, Request, frames, requests};
use proptest::prelude::*;

const FRAME_MAX: usize = 1 << 20;

/// What a decoder makes of pieces: data, the answer to pings, the end.
fn decoded(pieces: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>, Option<End>) {
    let mut decoder = Decoder::new(FRAME_MAX);
    let (mut data, mut ping) = (Vec::new(), None);
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let count = decoder.decode(&mut bytes);
        data.extend_from_slice(&bytes[..count]);
        ping = decoder.take_ping().or(ping);
    }
    (data, ping, decoder.end())
}

fn expected(case: &Frames) -> (Vec<u8>, Option<Vec<u8>>, Option<String>) {
    (case.data.clone(), case.pong.clone(), case.end.clone())
}

fn said(end: Option<End>) -> Option<String> {
    end.map(|end| match end {
        End::Closed(code) => code.to_string(),
        End::Broken(violation) => format!("{} {}", violation.code(), violation.word()),
    })
}

#[test]
fn every_frame_case_holds_whole_and_in_any_two_pieces_and_byte_by_byte() {
    for case in frames() {
        let cuts = (0..case.bytes.len()).filter(|cut| *cut < 300 || case.bytes.len() - cut < 20);
        for cut in cuts {
            let (a, b) = case.bytes.split_at(cut);
            let (data, ping, end) = decoded(&[a, b]);
            let got = (data, ping, said(end));
            assert_eq!(got, expected(&case), "{} cut at {cut}", case.name);
        }
        let pieces: Vec<_> = case.bytes.chunks(1).collect();
        let (data, ping, end) = decoded(&pieces);
        assert_eq!((data, ping, said(end)), expected(&case), "{}", case.name);
    }
}

#[test]
fn every_violation_has_a_case_with_its_clause_and_a_code_that_may_be_sent() {
    let cases = frames();
    for violation in Violation::ALL {
        let end = said(Some(End::Broken(*violation)));
        assert!(
            cases.iter().any(|case| case.end == end),
            "{violation:?} has no case"
        );
        assert!(matches!(violation.code(), 1002 | 1003 | 1007 | 1009));
        assert!(!violation.clause().is_empty());
    }
    for case in &cases {
        assert!(case.clause.contains("RFC") || case.clause.starts_with("MQTT-6"));
    }
}

#[test]
fn every_request_case_is_answered_as_it_says() {
    let cases = requests();
    for Request {
        name,
        bytes,
        status,
        reason,
        ..
    } in &cases
    {
        for cut in 0..bytes.len() {
            assert_eq!(head::length(&bytes[..cut]), None, "{name} cut at {cut}");
        }
        assert_eq!(head::length(bytes), Some(bytes.len()), "{name}");
        let answer = match head::upgrade(bytes) {
            Ok(answer) => {
                assert_eq!(reason, "", "{name}");
                answer
            }
            Err(refused) => {
                assert_eq!(refused.reason.word(), reason, "{name}");
                refused.answer()
            }
        };
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{name}: {answer}");
        assert!(answer.contains("\r\n\r\n"), "{name}: {answer}");
        let versions = answer.contains("\r\nSec-WebSocket-Version: 13\r\n");
        assert_eq!(versions, *status == 426, "{name}: RFC 6455 §4.4");
    }
}

#[test]
fn the_key_is_answered_as_in_the_specification() {
    let answer = head::accept("dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 §1.3");
}

#[test]
fn a_request_of_many_fields_is_too_large() {
    let fields = "X: y\r\n".repeat(head::FIELDS_MAX + 1);
    let request = format!("GET /mqtt HTTP/1.1\r\n{fields}\r\n");
    assert_eq!(head::upgrade(request.as_bytes()), Err(head::TOO_LARGE));
}

#[test]
fn what_is_sent_reads_back_by_the_rules_of_servers() {
    for length in [1, 125, 126, 4096, PAYLOAD_MAX] {
        let (bytes, width) = header(length);
        let read = match bytes[1] {
            126 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            short => usize::from(short),
        };
        assert_eq!((bytes[0], read), (0x82, length));
        assert_eq!(width, if length < 126 { 2 } else { 4 });
    }
    assert_eq!(pong(b"ab"), b"\x8a\x02ab");
    assert_eq!(close(1002), b"\x88\x02\x03\xea");
    assert_eq!(close(1005), b"\x88\x00", "1005 is never sent");
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_come_to_the_same_and_never_to_more(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        sizes in proptest::collection::vec(1_usize..9, 1..8),
        binary in any::<bool>(),
    ) {
        // Half of them begin as a frame would, or nearly none got past its header.
        let mut bytes = bytes;
        if binary {
            bytes.splice(0..0, [0x02, 0x83, 1, 2, 3, 4]);
        }
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        let whole = decoded(&[&bytes]);
        prop_assert!(whole.0.len() <= bytes.len());
        prop_assert_eq!(decoded(&pieces), whole);
    }
}
