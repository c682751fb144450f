//! The stream under an AMQP connection: coalesced writes, a bounded buffer, a kill switch.
//!
//! The engine flushes after every frame; here a flush only marks the buffer, and the bytes leave
//! when the engine has nothing more to say (its reader is polled twice without a write between),
//! when enough gathered, or when flushing was put off too often. The buffer is larger than what
//! may be in flight, so a peer that does not read cannot block the engine's reads and timers
//! (fe2o3 F7, F8). What the peer was last heard at is noted for the heartbeat. The kill switch ends both directions at once: it is the answer to every
//! operation the peer does not finish (F2, F17).

use super::tuning;
use crate::runtime::clock::{self, Mono};
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Ends a connection from anywhere, at once; also knows when the peer was heard last.
#[derive(Clone, Debug, Default)]
pub struct KillSwitch(Arc<Kill>);

#[derive(Debug, Default)]
struct Kill {
    dead: AtomicBool,
    /// Why, by who was first.
    why: OnceLock<&'static str>,
    /// Milliseconds on the monotonic clock.
    heard: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl KillSwitch {
    /// Every further read and write fails; one that waits now fails now. `why` is for the log.
    pub fn kill(&self, why: &'static str) {
        self.0.why.get_or_init(|| why);
        self.0.dead.store(true, Ordering::SeqCst);
        let waker = self
            .0
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was used.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    /// Why it was used.
    #[must_use]
    pub fn why(&self) -> Option<&'static str> {
        self.0.why.get().copied().filter(|_| self.killed())
    }

    /// When the peer was heard last; `None` before its first byte.
    #[must_use]
    pub fn heard(&self) -> Option<Mono> {
        let ms = self.0.heard.load(Ordering::Relaxed);
        (ms > 0).then(|| Mono::from_start(Duration::from_millis(ms)))
    }

    fn hear(&self) {
        let now = clock::mono().since(Mono::default()).as_millis();
        let ms = u64::try_from(now).unwrap_or(u64::MAX).max(1);
        self.0.heard.store(ms, Ordering::Relaxed);
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        // Register first: a kill between the two is seen by the load.
        let mut waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        if self.killed() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "killed"));
        }
        Ok(())
    }
}

/// A stream with coalesced writes and a kill switch. Both halves are driven by one task.
#[derive(Debug)]
pub struct BatchIo<S> {
    inner: S,
    kill: KillSwitch,
    buffer: BytesMut,
    capacity: usize,
    unflushed: bool,
    put_off: u32,
    wrote_since_read: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BatchIo<S> {
    /// Wraps `inner`; at most `capacity` bytes wait to be written.
    pub fn new(inner: S, kill: KillSwitch, capacity: usize) -> Self {
        Self {
            inner,
            kill,
            buffer: BytesMut::new(),
            capacity,
            unflushed: false,
            put_off: 0,
            wrote_since_read: false,
        }
    }

    /// Writes what is buffered and flushes it.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.unflushed = false;
        self.put_off = 0;
        if self.buffer.capacity() > 2 * tuning::FLUSH_BYTES {
            self.buffer = BytesMut::new(); // a burst is over: give its memory back
        }
        Poll::Ready(Ok(()))
    }

    /// Called when the engine looks for input: decides whether now is the time to write.
    fn flush_if_due(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.unflushed {
            return Ok(());
        }
        self.put_off += 1;
        let quiet = !std::mem::take(&mut self.wrote_since_read);
        let enough = self.buffer.len() >= tuning::FLUSH_BYTES;
        if quiet || enough || self.put_off >= tuning::FLUSH_POLLS {
            if let Poll::Ready(result) = self.drain(cx) {
                result?;
            }
        } else {
            // Let tasks that are ready add their frames first, then come back.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for BatchIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.kill.check(cx)?;
        self.flush_if_due(cx)?;
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        if into.filled().len() > before {
            self.kill.hear();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BatchIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kill.check(cx)?;
        if self.buffer.len() >= self.capacity {
            ready!(self.drain(cx))?;
        }
        let room = self.capacity - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.unflushed = true;
        self.wrote_since_read = true;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check(cx)?;
        if self.buffer.len() >= tuning::FLUSH_BYTES {
            // Pending is no failure: the bytes stay buffered, and reads go on.
            if let Poll::Ready(result) = self.drain(cx) {
                result?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check(cx)?;
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchIo, KillSwitch};
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};

    #[tokio::test]
    async fn flushed_bytes_leave_when_the_reader_is_polled() {
        let (ours, mut theirs) = duplex(1024);
        let mut io = BatchIo::new(ours, KillSwitch::default(), 1 << 16);
        io.write_all(b"one").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b"two").await.unwrap();
        io.flush().await.unwrap();
        let reader = tokio::spawn(async move {
            let mut byte = [0; 1];
            io.read_exact(&mut byte).await.unwrap();
        });
        let mut got = [0; 6];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"onetwo");
        theirs.write_all(b"x").await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_blocks_no_write_below_the_bound() {
        let (ours, _theirs) = duplex(16);
        let mut io = BatchIo::new(ours, KillSwitch::default(), 100_000);
        let write = async {
            io.write_all(&[7; 100_000]).await.unwrap();
            io.flush().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(5), write)
            .await
            .expect("the buffer takes it");
        let more = tokio::time::timeout(Duration::from_millis(50), io.write_all(&[7; 1000]));
        assert!(more.await.is_err(), "the bound holds");
    }

    #[tokio::test]
    async fn the_kill_switch_ends_a_waiting_read_and_write() {
        let (ours, _theirs) = duplex(16);
        let kill = KillSwitch::default();
        let mut io = BatchIo::new(ours, kill.clone(), 16);
        let reader = tokio::spawn(async move {
            let mut byte = [0; 1];
            io.read_exact(&mut byte).await
        });
        tokio::task::yield_now().await;
        kill.kill("tested");
        assert!(reader.await.unwrap().is_err());

        let (ours, _theirs) = duplex(4);
        let kill = KillSwitch::default();
        let mut io = BatchIo::new(ours, kill.clone(), 4);
        let writer = tokio::spawn(async move { io.write_all(&[0; 64]).await });
        tokio::task::yield_now().await;
        kill.kill("tested");
        assert!(writer.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn every_byte_of_the_peer_is_a_sign_of_life() {
        let (ours, mut theirs) = duplex(16);
        let kill = KillSwitch::default();
        let mut io = BatchIo::new(ours, kill.clone(), 16);
        assert_eq!(kill.heard(), None);
        theirs.write_all(b"x").await.unwrap();
        io.read_exact(&mut [0; 1]).await.unwrap();
        let first = kill.heard().unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        theirs.write_all(b"y").await.unwrap();
        io.read_exact(&mut [0; 1]).await.unwrap();
        assert!(kill.heard().unwrap() > first);
    }

    #[tokio::test]
    async fn a_steady_writer_cannot_put_a_flush_off_for_ever() {
        let (ours, mut theirs) = duplex(1 << 16);
        let mut io = BatchIo::new(ours, KillSwitch::default(), 1 << 20);
        for _ in 0..super::tuning::FLUSH_POLLS {
            poll_fn(|cx| {
                let _ = Pin::new(&mut io).poll_write(cx, b"a");
                let mut bytes = [0; 1];
                let mut buf = ReadBuf::new(&mut bytes);
                let _ = tokio::io::AsyncRead::poll_read(Pin::new(&mut io), cx, &mut buf);
                std::task::Poll::Ready(())
            })
            .await;
        }
        let mut got = [0; 1];
        theirs.read_exact(&mut got).await.unwrap();
    }
}
