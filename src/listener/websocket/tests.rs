//! The stream alone, over pipes that take little.

use super::{Decoder, JOINED_MAX, PAYLOAD_MAX, WebSocket};
use crate::listener::setup::Counted;
use crate::telemetry::metrics::Metrics;
use crate::websocket::violation::Violation;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

fn pair(room: usize) -> (WebSocket, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let stream = WebSocket {
        stream: Box::new(ours),
        decoder: Decoder::new(1 << 20),
        pending: Vec::new(),
        frame_left: 0,
        is_unflushed: false,
        said_close: false,
        told: false,
        _live: Counted::new(Metrics::new().websocket),
    };
    (stream, theirs)
}

/// A client's frame with a mask of zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short one");
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// The frames a server wrote: first byte and payload of each.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert_eq!(length & 0x80, 0, "a server masks nothing");
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (u16::from_be_bytes([*high, *low]).into(), rest),
            _ => (usize::from(*length), rest),
        };
        found.push((*first, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    found
}

#[tokio::test]
async fn what_is_written_arrives_in_frames_however_little_the_socket_takes() {
    for room in [1, 2, 3, 7, 1000, 1 << 16] {
        let (mut stream, mut theirs) = pair(room);
        let sizes = [1, 125, 126, JOINED_MAX, JOINED_MAX + 1, PAYLOAD_MAX + 5];
        let write = async {
            for size in sizes {
                stream.write_all(&vec![size as u8; size]).await.unwrap();
                stream.flush().await.unwrap();
            }
            stream.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let read = theirs.read_to_end(&mut got);
        tokio::join!(write, async { read.await.unwrap() });
        let mut frames = frames(&got);
        assert_eq!(frames.pop(), Some((0x88, vec![3, 0xe8])), "Close 1000");
        let data: Vec<u8> = frames.iter().flat_map(|frame| frame.1.clone()).collect();
        let expected: Vec<u8> = sizes.iter().flat_map(|s| vec![*s as u8; *s]).collect();
        assert!(data == expected, "{room}: {} bytes", data.len());
        assert!(frames.iter().all(|frame| frame.0 == 0x82));
        if room > PAYLOAD_MAX {
            assert_eq!(frames.len(), sizes.len() + 1, "one write, one frame");
        }
    }
}

#[tokio::test]
async fn a_ping_is_answered_between_frames_and_never_within_one() {
    let (mut stream, mut theirs) = pair(64);
    let client = async {
        let mut got = vec![0; 40]; // the frame is begun and does not fit
        theirs.read_exact(&mut got).await.unwrap();
        let ping = masked(0x89, b"now");
        theirs.write_all(&ping).await.unwrap();
        theirs.write_all(&masked(0x82, b"x")).await.unwrap();
        let mut rest = vec![0; 306 + 5 - 40];
        theirs.read_exact(&mut rest).await.unwrap();
        got.extend(rest);
        got
    };
    let server = async {
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let write = async {
            writing.write_all(&[7; 302]).await.unwrap();
            writing.flush().await.unwrap();
        };
        let mut byte = [0; 1];
        tokio::join!(write, async {
            reading.read_exact(&mut byte).await.unwrap()
        });
        // Whoever reads on writes the answer that waits.
        tokio::select! {
            _ = reading.read(&mut byte) => panic!("nothing more was sent"),
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
        byte
    };
    let (got, byte) = tokio::join!(client, server);
    assert_eq!(&byte, b"x");
    let frames = frames(&got);
    assert_eq!(frames.last(), Some(&(0x8a, b"now".to_vec())));
    assert_eq!(frames[0].0, 0x82);
}

#[tokio::test]
async fn who_pings_and_does_not_read_is_read_no_more() {
    let (mut stream, mut theirs) = pair(1000);
    let reader = tokio::spawn(async move {
        let mut byte = [0; 64];
        let _ = stream.read(&mut byte).await;
    });
    let flood = async {
        let ping = masked(0x89, &[9; 125]);
        loop {
            theirs.write_all(&ping).await.unwrap();
        }
    };
    let soon = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(soon, flood).await.is_err(), "endless");
    assert!(!reader.is_finished());
    reader.abort();
}

#[tokio::test]
async fn data_before_a_violation_is_delivered_and_the_client_is_told() {
    let (mut stream, mut theirs) = pair(1000);
    let bytes = [masked(0x82, b"ab"), masked(0x81, b"text")].concat();
    theirs.write_all(&bytes).await.unwrap();
    let mut got = [0; 10];
    assert_eq!(stream.read(&mut got).await.unwrap(), 2);
    let error = stream.read(&mut got).await.unwrap_err();
    assert_eq!(super::violation(&error), Some(Violation::Text));
    let mut told = [0; 4];
    theirs.read_exact(&mut told).await.unwrap();
    assert_eq!(told, [0x88, 2, 0x03, 0xeb]);
    let refused = stream.write(b"x").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    theirs.write_all(&masked(0x82, b"more")).await.unwrap();
    drop(theirs);
    assert_eq!(stream.read(&mut got).await.unwrap(), 0, "and heard no more");
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_once_and_is_the_end() {
    let (mut stream, mut theirs) = pair(1000);
    let close = masked(0x88, &[0x0f, 0xa0]);
    theirs.write_all(&close).await.unwrap();
    let mut got = [0; 10];
    assert_eq!(stream.read(&mut got).await.unwrap(), 0);
    assert_eq!(stream.read(&mut got).await.unwrap(), 0);
    stream.shutdown().await.unwrap();
    let mut told = Vec::new();
    theirs.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, [0x88, 2, 0x0f, 0xa0]);
}
