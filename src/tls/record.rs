//! Bounds the records that are sent, for clients with small buffers.
//!
//! A bound comes from the listener, or from the client's hello: `max_fragment_length` is agreed on
//! by the PSK stack only, and `record_size_limit` by neither, but nothing forbids to send smaller
//! records than one may. The listener's holds for the handshake, too (`x509`); a client's wish
//! that was not agreed on only for what follows, because mbedTLS 2.28 asks for small records and
//! then takes no handshake message in two of them. What a client sends is bounded by the protocol.

use crate::tls::Stream;
use crate::tls::hello::Hello;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest plaintext of a record (RFC 8446 §5.1).
const PROTOCOL_MAX: usize = 1 << 14;

/// The smaller of what the listener and the client want; `None` for the protocol's own bound.
#[must_use]
pub fn bound(listener: Option<usize>, hello: &Hello) -> Option<usize> {
    let both = listener.into_iter().chain(hello.record_bytes);
    both.min().filter(|bytes| *bytes < PROTOCOL_MAX)
}

/// A stream whose records stay within the bound: one write, one record.
#[must_use]
pub fn bounded(stream: Box<dyn Stream>, bound: Option<usize>) -> Box<dyn Stream> {
    match bound {
        None => stream,
        Some(bytes) => Box::new(Bounded { stream, bytes }),
    }
}

struct Bounded {
    stream: Box<dyn Stream>,
    bytes: usize,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..self.bytes).unwrap_or(bytes);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| &**slice))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
