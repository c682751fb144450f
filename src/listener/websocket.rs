//! MQTT over WebSocket: the upgrade, and a stream that carries the bytes of MQTT in frames.
//!
//! Whoever reads and writes the stream knows nothing of frames, so a device over WebSocket has the
//! same session, windows and deadlines as any other. The stream keeps no payload: what comes is
//! unmasked in the reader's buffer, what goes is written from the writer's. Of answers to pings
//! one waits at most, and while it does nothing more is read.

use super::asked::Early;
use super::setup::{Counted, Setup};
use crate::runtime::clock::{self, Mono};
use crate::telemetry::reason::Reason;
use crate::tls::{Flight, Stream};
use crate::websocket::frame::{self, Decoder, End, HEADER_MAX, PAYLOAD_MAX};
use crate::websocket::head::{self, Refused};
use crate::websocket::violation::Violation;
use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Read at once while the request is awaited.
const REQUEST_READ_BYTES: usize = 1024;

/// Time for an answer to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A payload up to this size is copied behind its header, so that both leave in one write.
const JOINED_MAX: usize = 4 * 1024;

/// Reads in a row that bring no byte of MQTT, before whoever waits beside this stream has its turn:
/// pings and empty frames without end may not keep a deadline from being seen.
const BARREN_READS: usize = 16;

thread_local! {
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(HEADER_MAX + JOINED_MAX));
}

/// What of an error of the stream is a broken rule of the framing.
pub(super) fn violation(error: &io::Error) -> Option<Violation> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<Violation>().copied()
}

/// Reads the request that begins in `input`, until `deadline`, and answers it.
///
/// # Errors
/// Why it is refused; the client was told and the stream is closed.
pub(super) async fn upgrade(
    mut stream: Box<dyn Stream>,
    input: &mut BytesMut,
    setup: &Setup,
    deadline: Mono,
    flight: &Flight,
) -> Result<Box<dyn Stream>, Early> {
    let request_max = setup.limits.connect_bytes;
    let length = loop {
        match head::length(input) {
            Some(length) if length <= request_max => break length,
            Some(_) => return Err(refuse(stream, head::TOO_LARGE).await),
            None if input.len() >= request_max => {
                return Err(refuse(stream, head::TOO_LARGE).await);
            }
            None if !head::begins(input) => return Err(refuse(stream, head::NO_HTTP).await),
            None => {}
        }
        let now = clock::mono();
        if now >= deadline {
            return Err(refuse(stream, head::LATE).await);
        }
        input.reserve(REQUEST_READ_BYTES);
        flight.wait(now);
        let wait = deadline.since(now) + Duration::from_millis(1);
        let read = tokio::time::timeout(wait, stream.read_buf(input)).await;
        flight.heard(clock::mono());
        match read {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(Ok(0) | Err(_)) => {
                return Err(Early::new(
                    Reason::PeerClosed,
                    "closed within its HTTP request",
                ));
            }
        }
    };
    let request = input.split_to(length);
    if !input.is_empty() {
        return Err(refuse(stream, head::TOO_EARLY).await);
    }
    let answer = match head::upgrade(&request) {
        Ok(answer) => answer,
        Err(refused) => return Err(refuse(stream, refused).await),
    };
    *input = BytesMut::new();
    say(&mut stream, &answer).await;
    Ok(Box::new(WebSocket {
        stream,
        decoder: Decoder::new(setup.limits.websocket_frame_bytes),
        pending: Vec::new(),
        frame_left: 0,
        is_unflushed: false,
        said_close: false,
        told: false,
        _live: Counted::new(setup.metrics.websocket.clone()),
    }))
}

async fn refuse(mut stream: Box<dyn Stream>, refused: Refused) -> Early {
    say(&mut stream, &refused.answer()).await;
    super::conn::shut(stream, true).await;
    Early::new(refused.reason, refused.text)
}

/// Writes an answer. What becomes of it the next read shows.
async fn say(stream: &mut Box<dyn Stream>, answer: &str) {
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await
    };
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, say).await;
}

/// See the module's header.
struct WebSocket {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    /// What goes before anything else: the rest of a header, or a control frame.
    pending: Vec<u8>,
    /// Payload of the begun frame that is still to be written.
    frame_left: usize,
    /// A control frame went into the stream that a TLS layer may still hold.
    is_unflushed: bool,
    said_close: bool,
    /// The reader was told of a violation; what else comes is dropped.
    told: bool,
    _live: Counted,
}

impl WebSocket {
    /// Puts a control frame where the next write begins; only between two frames.
    fn queue_control(&mut self) {
        if self.frame_left > 0 || !self.pending.is_empty() {
            return;
        }
        if let (Some(end), false) = (self.decoder.end(), self.said_close) {
            self.said_close = true;
            let code = match end {
                End::Closed(code) => code,
                End::Broken(violation) => violation.code(),
            };
            self.pending = frame::close(code);
        } else if let (Some(payload), false) = (self.decoder.take_ping(), self.said_close) {
            self.pending = frame::pong(&payload);
        }
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_unflushed = true;
            self.pending.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the control frame that waits, if its turn has come.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue_control();
        if self.frame_left > 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_pending(cx))?;
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Begins a frame for `bytes`; the payload written with its header.
    fn poll_begin(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let payload = bytes.get(..PAYLOAD_MAX).unwrap_or(bytes);
        let (header, width) = frame::header(payload.len());
        let header = header.get(..width).unwrap_or_default();
        if payload.len() > JOINED_MAX {
            self.pending.extend_from_slice(header);
            self.frame_left = payload.len();
            return Poll::Ready(Ok(0));
        }
        let written = ready!(JOINED.with_borrow_mut(|joined| {
            joined.clear();
            joined.extend_from_slice(header);
            joined.extend_from_slice(payload);
            Pin::new(&mut self.stream).poll_write(cx, joined)
        }))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_header = header.get(written..).unwrap_or_default();
        self.pending.extend_from_slice(of_header);
        let of_payload = written.saturating_sub(width);
        self.frame_left = payload.len() - of_payload;
        Poll::Ready(Ok(of_payload))
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        for _ in 0..BARREN_READS {
            let control = this.poll_control(cx);
            match this.decoder.end() {
                None => ready!(control)?,
                // Its answer goes out as far as the socket takes it; nobody waits for that.
                Some(End::Closed(_)) => return Poll::Ready(Ok(())),
                Some(End::Broken(violation)) if !this.told => {
                    this.told = true;
                    let error = io::Error::new(io::ErrorKind::InvalidData, violation);
                    return Poll::Ready(Err(error));
                }
                Some(End::Broken(_)) => {}
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = this.decoder.decode(fresh);
            buf.set_filled(before + count);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            this.queue_control();
            ready!(this.poll_pending(cx))?;
            if this.said_close {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if bytes.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let written = match this.frame_left {
                0 => ready!(this.poll_begin(cx, bytes))?,
                left => {
                    let payload = bytes.get(..left).unwrap_or(bytes);
                    let written = ready!(Pin::new(&mut this.stream).poll_write(cx, payload))?;
                    this.frame_left -= written.min(left);
                    return Poll::Ready(Ok(written));
                }
            };
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says Close where none was said, and ends this side's bytes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Within a frame, Close would be payload.
        if !this.said_close && this.frame_left == 0 && this.decoder.end().is_none() {
            ready!(this.poll_pending(cx))?;
            this.said_close = true;
            this.pending = frame::close(frame::NORMAL);
        }
        ready!(this.poll_control(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
