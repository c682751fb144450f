//! Bytes in and out of one socket, with buffers that exist only while they hold something.
//!
//! Reads go through one scratch per thread: an idle device owns no read buffer, and what it owns
//! grows with the bytes that came, never with the length a header announced.

use crate::runtime::clock::{self, Mono};
use crate::tls::Stream;
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One TLS record's worth.
const SCRATCH_BYTES: usize = 16 * 1024;

/// A write buffer up to this size survives being empty; a larger one is given back.
const KEEP_BYTES: usize = 512;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// Reads what is there, at most one scratch full, and appends it to `input`. `Ok(0)` is the
/// peer's end.
pub(super) fn poll_read(
    stream: &mut Box<dyn Stream>,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        append(input, buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Appends with as little memory as the bytes need: exact for whole packets, at most doubled
/// while a large packet comes in pieces.
fn append(input: &mut BytesMut, fresh: &[u8]) {
    let need = input.len() + fresh.len();
    if input.capacity() < need {
        let most = announced_len(input).unwrap_or(need);
        let mut larger = BytesMut::with_capacity(most.min(need * 2).max(need));
        larger.extend_from_slice(input);
        *input = larger;
    }
    input.extend_from_slice(fresh);
}

/// The whole length of the packet that begins in `input`, when its header is there
/// (MQTT-2.2.3).
fn announced_len(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (index, byte) in input.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(2 + index + length);
        }
    }
    None
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Outbox {
    /// Whole packets, written by the session.
    pub(super) bytes: BytesMut,
    /// Bytes went into the stream that a TLS layer may still hold.
    unflushed: bool,
    /// Since when the peer takes nothing.
    stalled: Option<Mono>,
}

impl Outbox {
    pub(super) fn new(bytes: BytesMut) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Whether there is nothing to write or flush.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Since when the peer takes nothing, while there is something for it.
    pub(super) fn stalled_since(&self) -> Option<Mono> {
        self.stalled
    }

    /// Writes everything, in as few calls as the socket allows.
    pub(super) fn poll_flush(
        &mut self,
        stream: &mut Box<dyn Stream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let before = self.bytes.len();
        let result = self.poll_flush_inner(stream, cx);
        if result.is_ready() {
            self.stalled = None;
            if self.bytes.capacity() > KEEP_BYTES {
                self.bytes = BytesMut::new();
            }
        } else if self.stalled.is_none() || self.bytes.len() < before {
            self.stalled = Some(clock::mono());
        }
        result
    }

    fn poll_flush_inner(
        &mut self,
        stream: &mut Box<dyn Stream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{KEEP_BYTES, Outbox, SCRATCH_BYTES, announced_len, append, poll_read};
    use crate::tls::Stream;
    use bytes::BytesMut;
    use std::future::poll_fn;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair(size: usize) -> (Box<dyn Stream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(size);
        (Box::new(ours), theirs)
    }

    #[test]
    fn an_announced_length_alone_allocates_nothing() {
        let mut input = BytesMut::new();
        append(&mut input, &[0x30, 0xff, 0xff, 0xff, 0x7f, 0]);
        append(&mut input, &[0]);
        assert!(input.capacity() <= 16, "{} bytes for 7", input.capacity());
    }

    #[test]
    fn a_packet_in_pieces_ends_in_a_buffer_of_its_own_size() {
        let mut packet = vec![0x30, 0x80, 0x80, 0x10];
        packet.resize(4 + (0x10 << 14), 7);
        let mut input = BytesMut::new();
        for piece in packet.chunks(1000) {
            append(&mut input, piece);
            assert!(input.capacity() <= 2 * input.len().max(16));
        }
        assert_eq!(input, packet);
        assert!(input.capacity() <= packet.len() + 1000);
    }

    #[test]
    fn the_announced_length_is_read_only_when_it_is_whole() {
        assert_eq!(announced_len(&[]), None);
        assert_eq!(announced_len(&[0x30]), None);
        assert_eq!(announced_len(&[0x30, 0x80]), None);
        assert_eq!(announced_len(&[0xc0, 0]), Some(2));
        assert_eq!(announced_len(&[0x30, 0x80, 0x01]), Some(131));
        assert_eq!(announced_len(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]), None);
    }

    #[tokio::test]
    async fn a_read_takes_one_scratch_full_at_most_and_sees_the_end() {
        let (mut ours, mut theirs) = pair(4 * SCRATCH_BYTES);
        theirs
            .write_all(&vec![5; SCRATCH_BYTES + 10])
            .await
            .unwrap();
        drop(theirs);
        let mut input = BytesMut::new();
        for expected in [SCRATCH_BYTES, 10, 0] {
            let read = poll_fn(|cx| poll_read(&mut ours, &mut input, cx)).await;
            assert_eq!(read.unwrap(), expected);
        }
        assert_eq!(input.len(), SCRATCH_BYTES + 10);
    }

    #[tokio::test]
    async fn a_large_write_buffer_is_given_back_when_empty() {
        let (mut ours, mut theirs) = pair(64 * 1024);
        let mut outbox = Outbox::new(BytesMut::from(&vec![9u8; 8 * KEEP_BYTES][..]));
        let flushed = poll_fn(|cx| outbox.poll_flush(&mut ours, cx)).await;
        flushed.unwrap();
        assert!(outbox.is_idle());
        assert_eq!(outbox.bytes.capacity(), 0);
        let mut got = vec![0; 8 * KEEP_BYTES];
        theirs.read_exact(&mut got).await.unwrap();
    }

    #[tokio::test]
    async fn a_stall_begins_when_the_peer_takes_nothing_and_ends_when_it_does() {
        let (mut ours, mut theirs) = pair(100);
        let mut outbox = Outbox::new(BytesMut::from(&[1u8; 300][..]));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbox.poll_flush(&mut ours, &mut cx).is_pending());
        let since = outbox.stalled_since().expect("a stall");
        assert!(outbox.poll_flush(&mut ours, &mut cx).is_pending());
        assert_eq!(
            outbox.stalled_since(),
            Some(since),
            "no progress, same stall"
        );
        let mut got = [0; 100];
        theirs.read_exact(&mut got).await.unwrap();
        assert!(outbox.poll_flush(&mut ours, &mut cx).is_pending());
        assert!(
            outbox.stalled_since() > Some(since),
            "progress starts a new stall"
        );
        let rest = async {
            let mut rest = [0; 200];
            theirs.read_exact(&mut rest).await.unwrap();
        };
        let flush = poll_fn(|cx| outbox.poll_flush(&mut ours, cx));
        let (flushed, ()) = tokio::join!(flush, rest);
        flushed.unwrap();
        assert_eq!(outbox.stalled_since(), None);
    }

    #[tokio::test]
    async fn a_closed_peer_is_an_error_not_a_stall() {
        let (mut ours, theirs) = pair(100);
        drop(theirs);
        let mut outbox = Outbox::new(BytesMut::from(&[1u8; 3][..]));
        let mut cx = Context::from_waker(Waker::noop());
        let result = outbox.poll_flush(&mut ours, &mut cx);
        assert!(matches!(result, Poll::Ready(Err(_))));
    }
}
