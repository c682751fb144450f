//! How a stream is cut into reads must not change what it means.

use super::*;

/// What came of a stream: events, the violation that ended it, and the bytes answered.
type Outcome = (Vec<Event>, Option<Violation>, Vec<u8>);

fn feed<'a>(stage: Stage, chunks: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut session = session_at(stage);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut events = Vec::new();
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            match session.next(&mut input, &mut out, Mono::default()) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => return (events, Some(violation), out.to_vec()),
            }
        }
    }
    (events, None, out.to_vec())
}

fn all() -> impl Iterator<Item = (Stage, Vec<u8>)> {
    let vectors = vectors_311::VECTORS
        .iter()
        .chain(vectors_31::VECTORS)
        .chain(vectors_5::VECTORS);
    // What follows tells whether the decoder is still in step.
    vectors.map(|vector| (vector.1, [assemble(vector.2), assemble("C000")].concat()))
}

#[test]
fn every_vector_cut_at_every_byte_gives_the_same_result() {
    for (stage, bytes) in all() {
        let whole = feed(stage, [&bytes[..]].into_iter());
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let cut_up = feed(stage, [front, back].into_iter());
            assert_eq!(cut_up, whole, "{stage:?} {bytes:02x?} cut at {cut}");
        }
    }
}

#[test]
fn every_vector_byte_by_byte_gives_the_same_result() {
    for (stage, bytes) in all() {
        let whole = feed(stage, [&bytes[..]].into_iter());
        assert_eq!(
            feed(stage, bytes.chunks(1)),
            whole,
            "{stage:?} {bytes:02x?}"
        );
    }
}

#[test]
fn a_driver_that_reads_only_what_is_needed_sees_the_same_events() {
    for (stage, bytes) in all() {
        let (whole, violation, _) = feed(stage, [&bytes[..]].into_iter());
        let mut session = session_at(stage);
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        let ended = loop {
            match session.next(&mut input, &mut out, Mono::default()) {
                Ok(Some(event)) => events.push(event),
                Err(violation) => break Some(violation),
                Ok(None) => {
                    let needed = session.needed(&input).min(rest.len());
                    if needed == 0 {
                        break None;
                    }
                    input.extend_from_slice(&rest[..needed]);
                    rest = &rest[needed..];
                }
            }
        };
        assert_eq!(
            (events, ended),
            (whole, violation),
            "{stage:?} {bytes:02x?}"
        );
    }
}

#[test]
fn a_refused_packet_is_refused_before_it_is_buffered() {
    for (stage, bytes) in [
        (AWAIT, &[0x30][..]),
        (AWAIT, &[0x10, 0x80, 0x80, 0x01]),
        (V4, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
        (V4, &[0x34]),
        (V4, &[0x10]),
        (V4, &[0x90]),
        (V4, &[0x40, 0x7F]),
        (V5, &[0xF0]),
        (V5, &[0x31]),
    ] {
        let mut session = session_at(stage);
        let mut input = BytesMut::from(bytes);
        let result = session.next(&mut input, &mut BytesMut::new(), Mono::default());
        assert!(result.is_err(), "{bytes:02x?}");
        // And the session is over, whatever else comes.
        input.clear();
        input.extend_from_slice(&[0xC0, 0]);
        let after = session.next(&mut input, &mut BytesMut::new(), Mono::default());
        assert_eq!(after, Ok(None));
        assert_eq!(session.needed(&input), 0);
    }
}
