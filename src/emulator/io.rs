//! The stream between the AMQP library and the socket. The library flushes after every frame; this
//! collects frames in a bounded buffer and a writer task sends what a turn left there in one call.
//! It can be killed from outside, and it stands in for the header that was already exchanged.

use crate::emulator::frames::{AMQP_HEADER, copy_frames};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes that may wait for the socket; the library is not polled for more beyond it.
const BUFFER_MAX: usize = 256 * 1024;
/// A buffer that grew past this is given back when it is empty.
const BUFFER_KEPT: usize = 64 * 1024;

/// A socket, with or without TLS.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// A boxed socket.
pub(crate) type BoxedTransport = Box<dyn Transport>;

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    waiting: Option<Waker>,
    ending: bool,
    failed: bool,
}

#[derive(Default)]
struct Outbox {
    buffer: Mutex<Buffer>,
    filled: Notify,
}

impl Outbox {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self) {
        let mut buffer = self.buffer();
        buffer.failed = true;
        buffer.bytes = Vec::new();
        if let Some(waker) = buffer.waiting.take() {
            waker.wake();
        }
    }
}

/// What the AMQP library reads from and writes to.
pub(crate) struct AmqpStream {
    reader: ReadHalf<BoxedTransport>,
    replay: io::Cursor<Vec<u8>>,
    /// Whether the library has yet to write the header the peer already has.
    header_due: bool,
    outbox: Arc<Outbox>,
    silent: Arc<AtomicBool>,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AmqpStream {
    /// Wraps `transport`; `replay` is read before anything from it. The second value must be run
    /// as a task: it writes until the stream is dropped or `kill` is cancelled. Once `silent` is
    /// set, what comes in and what would go out is dropped unseen; only the end passes.
    pub(crate) fn new(
        transport: BoxedTransport,
        replay: Vec<u8>,
        kill: CancellationToken,
        silent: Arc<AtomicBool>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (reader, writer) = tokio::io::split(transport);
        let outbox = Arc::<Outbox>::default();
        let killed = Box::pin(kill.clone().cancelled_owned());
        let writing = write_out(writer, Arc::clone(&outbox), kill, Arc::clone(&silent));
        let replay = io::Cursor::new(replay);
        (
            Self {
                reader,
                replay,
                header_due: true,
                outbox,
                silent,
                killed,
            },
            writing,
        )
    }
}

async fn write_out(
    mut writer: WriteHalf<BoxedTransport>,
    outbox: Arc<Outbox>,
    kill: CancellationToken,
    silent: Arc<AtomicBool>,
) {
    let written = tokio::select! {
        biased;
        () = kill.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        written = write_batches(&mut writer, &outbox, &silent) => written,
    };
    if written.is_err() {
        outbox.fail();
    }
}

async fn write_batches(
    writer: &mut WriteHalf<BoxedTransport>,
    outbox: &Outbox,
    silent: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        outbox.filled.notified().await;
        // One turn for the tasks that have more frames to add.
        tokio::task::yield_now().await;
        loop {
            let ending = {
                let mut buffer = outbox.buffer();
                std::mem::swap(&mut buffer.bytes, &mut batch);
                if let Some(waker) = buffer.waiting.take() {
                    waker.wake();
                }
                buffer.ending
            };
            if batch.is_empty() {
                if ending {
                    return writer.shutdown().await;
                }
                break;
            }
            if !silent.load(Ordering::Relaxed) {
                writer.write_all(&batch).await?;
                writer.flush().await?;
            }
            batch.clear();
            if batch.capacity() > BUFFER_KEPT {
                batch = Vec::new();
            }
        }
    }
}

impl AsyncRead for AmqpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.replay.position() < self.replay.get_ref().len() as u64 {
            return Pin::new(&mut self.replay).poll_read(cx, buf);
        }
        while self.silent.load(Ordering::Relaxed) {
            let mut unseen = [0; 4096];
            let mut unseen = ReadBuf::new(&mut unseen);
            match Pin::new(&mut self.reader).poll_read(cx, &mut unseen) {
                Poll::Ready(Ok(())) if !unseen.filled().is_empty() => {}
                other => return other,
            }
        }
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for AmqpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.header_due) && bytes.starts_with(&AMQP_HEADER) {
            return Poll::Ready(Ok(AMQP_HEADER.len()));
        }
        let mut buffer = self.outbox.buffer();
        if buffer.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buffer.bytes.len() >= BUFFER_MAX {
            buffer.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // The library hands over whole frames; all are taken, so they stay whole.
        copy_frames(bytes, &mut buffer.bytes);
        drop(buffer);
        self.outbox.filled.notify_one();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writer task flushes; waiting here would make every frame a system call.
        let failed = self.outbox.buffer().failed;
        Poll::Ready(if failed {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.buffer().ending = true;
        self.outbox.filled.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for AmqpStream {
    fn drop(&mut self) {
        self.outbox.buffer().ending = true;
        self.outbox.filled.notify_one();
    }
}

impl fmt::Debug for AmqpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AmqpStream")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);

    fn pair(replay: &[u8]) -> (AmqpStream, tokio::io::DuplexStream, CancellationToken) {
        let (near, far) = tokio::io::duplex(1024);
        let kill = CancellationToken::new();
        let silent = Arc::default();
        let (stream, writing) =
            AmqpStream::new(Box::new(near), replay.to_vec(), kill.clone(), silent);
        tokio::spawn(writing);
        (stream, far, kill)
    }

    #[tokio::test]
    async fn a_silent_stream_passes_nothing_but_the_end() {
        let (mut stream, mut far, _kill) = pair(b"");
        stream.silent.store(true, Ordering::Relaxed);
        stream.write_all(b"unheard").await.unwrap();
        far.write_all(b"unseen").await.unwrap();
        far.shutdown().await.unwrap();
        let mut read = Vec::new();
        let end = timeout(SOON, stream.read_to_end(&mut read)).await.unwrap();
        assert_eq!((end.unwrap(), read.len()), (0, 0));
        drop(stream);
        let mut sent = Vec::new();
        timeout(SOON, far.read_to_end(&mut sent))
            .await
            .unwrap()
            .unwrap();
        assert!(sent.is_empty());
    }

    #[tokio::test]
    async fn the_replay_comes_first_and_the_header_is_not_sent_twice() {
        let (mut stream, mut far, _kill) = pair(b"first ");
        far.write_all(b"second").await.unwrap();
        let mut read = [0; 12];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"first second");
        stream.write_all(&AMQP_HEADER).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut sent = Vec::new();
        timeout(SOON, far.read_to_end(&mut sent))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(sent, b"abc");
    }

    #[tokio::test]
    async fn frames_of_one_turn_leave_in_one_write() {
        let (mut stream, mut far, _kill) = pair(b"");
        for _ in 0..10 {
            stream.write_all(b"\0\0\0\x09\x02\0\0\0x").await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut sent = [0; 1024];
        let n = timeout(SOON, far.read(&mut sent)).await.unwrap().unwrap();
        assert_eq!(n, 90);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_stops_the_library_at_the_bound() {
        let (mut stream, mut far, _kill) = pair(b"");
        let chunk = vec![b'x'; 64 * 1024];
        let mut taken = 0;
        while timeout(Duration::from_millis(50), stream.write_all(&chunk))
            .await
            .is_ok()
        {
            taken += chunk.len();
        }
        assert!(taken <= 3 * BUFFER_MAX, "{taken}");
        let mut sent = vec![0; taken];
        timeout(SOON, far.read_exact(&mut sent))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_killed_stream_ends_for_both_sides() {
        let (mut stream, mut far, kill) = pair(b"");
        kill.cancel();
        let mut byte = [0; 1];
        assert!(
            timeout(SOON, stream.read(&mut byte))
                .await
                .unwrap()
                .is_err()
        );
        drop(stream);
        assert_eq!(
            timeout(SOON, far.read(&mut byte)).await.unwrap().unwrap(),
            0
        );
    }
}
