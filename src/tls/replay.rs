//! A stream that first yields the bytes read to classify a connection, then the socket's own.
//!
//! While a TLS 1.2 PSK handshake runs, a tap sees what the TLS library is given; it is removed
//! when the handshake ends, as is the buffer, so that an idle connection keeps neither.

use super::flight::Flight;
use crate::runtime::clock;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sees every byte the stream yields, in order.
pub type Tap = Box<dyn FnMut(&[u8]) + Send>;

/// See the module's header.
pub struct Replay<S> {
    head: Vec<u8>,
    read: usize,
    tap: Option<Tap>,
    flight: Option<Arc<Flight>>,
    inner: S,
}

impl<S> Replay<S> {
    /// Yields `head`, then what `inner` yields.
    pub fn new(head: Vec<u8>, inner: S) -> Self {
        Self {
            head,
            read: 0,
            tap: None,
            flight: None,
            inner,
        }
    }

    /// Times how long the socket is waited for, until `flight` is over.
    pub fn timed(mut self, flight: Arc<Flight>) -> Self {
        self.flight = Some(flight);
        self
    }

    /// Sets the tap.
    pub fn set_tap(&mut self, tap: Tap) {
        self.tap = Some(tap);
    }

    /// Removes the tap.
    pub fn clear_tap(&mut self) {
        self.tap = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let left = this.head.get(this.read..).unwrap_or_default();
        if left.is_empty() {
            let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
            if let Some(flight) = &this.flight {
                match polled {
                    _ if flight.is_over() => this.flight = None,
                    Poll::Pending => flight.wait(clock::mono()),
                    Poll::Ready(_) => flight.heard(clock::mono()),
                }
            }
            match polled {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        } else {
            let count = left.len().min(buf.remaining());
            buf.put_slice(left.get(..count).unwrap_or_default());
            this.read += count;
            if this.read >= this.head.len() {
                this.head = Vec::new();
                this.read = 0;
            }
        }
        if let Some(tap) = &mut this.tap {
            tap(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Replay;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn buffered_bytes_come_first_then_the_socket_and_the_tap_sees_both() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut stream = Replay::new(b"hello ".to_vec(), near);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        stream.set_tap(Box::new(move |bytes| {
            log.lock().unwrap().extend_from_slice(bytes)
        }));
        far.write_all(b"world").await.unwrap();
        let mut got = [0; 3];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hel");
        let mut got = [0; 8];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"lo world");
        assert_eq!(*seen.lock().unwrap(), b"hello world");
        stream.clear_tap();
        far.write_all(b"!").await.unwrap();
        drop(far);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"!");
        assert_eq!(*seen.lock().unwrap(), b"hello world");
    }
}
