//! Which of a connection's sources has woken its task since it was last asked.
//!
//! A task that is woken by the hub would ask the socket too, and a TLS library goes a long way
//! before it finds that there is nothing: it takes a record's buffer, asks the kernel's side of
//! the runtime, fails, and gives the buffer back. So each source is polled with a waker of its
//! own, which notes that it was used, and a source that was found pending is asked again only
//! then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct Note {
    heard: AtomicBool,
    task: Waker,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The noting waker of one source, and the note.
#[derive(Default)]
pub(super) struct Ear(Option<(Arc<Note>, Waker)>);

/// One for each source of a connection.
#[derive(Default)]
pub(super) struct Ears {
    pub(super) socket: Ear,
    pub(super) hub: Ear,
    /// Orders and deadlines: what rings seldom.
    pub(super) bell: Ear,
}

impl Ear {
    /// Polls the source with the noting waker. Every poll goes through here or through
    /// [`Ear::if_heard`]: a TLS write may be what waits for the socket's input.
    pub(super) fn with<T>(
        &mut self,
        cx: &Context<'_>,
        source: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        let (_, waker) = self.of(cx.waker());
        source(&mut Context::from_waker(waker))
    }

    /// As [`Ear::with`], but only when the source woke the task since it was last found
    /// pending; pending otherwise.
    pub(super) fn if_heard<T>(
        &mut self,
        cx: &Context<'_>,
        source: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.take(cx) {
            return Poll::Pending;
        }
        let polled = self.with(cx, source);
        if polled.is_ready() {
            self.hear();
        }
        polled
    }

    /// Whether there is a note, which is taken: what comes while the source is asked counts
    /// anew. Whoever does not ask the source until it is pending gives the note back by
    /// [`Ear::hear`].
    pub(super) fn take(&mut self, cx: &Context<'_>) -> bool {
        let (note, _) = self.of(cx.waker());
        note.heard.swap(false, Ordering::AcqRel)
    }

    /// Notes that the source is to be asked: something was asked of it, or it may have more.
    pub(super) fn hear(&self) {
        if let Some((note, _)) = &self.0 {
            note.heard.store(true, Ordering::Release);
        }
    }

    /// The waker that notes for `task`; a new one, which has heard, when the task is another.
    fn of(&mut self, task: &Waker) -> &(Arc<Note>, Waker) {
        let fits = self.0.take().filter(|(note, _)| note.task.will_wake(task));
        self.0.insert(fits.unwrap_or_else(|| {
            let note = Arc::new(Note {
                heard: AtomicBool::new(true),
                task: task.clone(),
            });
            (note.clone(), note.into())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Ear;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};

    fn read(socket: &mut DuplexStream, cx: &mut Context<'_>) -> Poll<usize> {
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(socket).poll_read(cx, &mut buffer);
        polled.map(|_| buffer.filled().len())
    }

    #[tokio::test]
    async fn a_socket_that_said_nothing_is_asked_once() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let mut ears = Ear::default();
        let mut asked = 0;
        for _ in 0..3 {
            poll_fn(|cx| {
                let polled = ears.if_heard(cx, |cx| {
                    asked += 1;
                    read(&mut ours, cx)
                });
                assert!(polled.is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(asked, 1);
        theirs.write_all(b"abc").await.unwrap();
        let got = poll_fn(|cx| ears.if_heard(cx, |cx| read(&mut ours, cx))).await;
        assert_eq!(got, 3);
    }

    #[tokio::test]
    async fn what_was_read_is_no_reason_to_stop_asking() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let mut ears = Ear::default();
        theirs.write_all(&[1; 20]).await.unwrap();
        for expected in [8, 8, 4] {
            let got = poll_fn(|cx| ears.if_heard(cx, |cx| read(&mut ours, cx))).await;
            assert_eq!(got, expected);
        }
    }

    #[tokio::test]
    async fn a_word_to_a_waiting_task_wakes_it() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let mut ears = Ear::default();
        let reader =
            tokio::spawn(
                async move { poll_fn(|cx| ears.if_heard(cx, |cx| read(&mut ours, cx))).await },
            );
        tokio::task::yield_now().await;
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(reader.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_wait_begun_by_another_poll_of_the_socket_counts() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let mut ears = Ear::default();
        let first = poll_fn(|cx| Poll::Ready(ears.if_heard(cx, |cx| read(&mut ours, cx)))).await;
        assert!(first.is_pending());
        // As a TLS write that needs the peer's bytes: it takes the reader's place.
        let second = poll_fn(|cx| Poll::Ready(ears.with(cx, |cx| read(&mut ours, cx)))).await;
        assert!(second.is_pending());
        theirs.write_all(b"x").await.unwrap();
        let got = poll_fn(|cx| ears.if_heard(cx, |cx| read(&mut ours, cx))).await;
        assert_eq!(got, 1);
    }

    #[tokio::test]
    async fn another_task_asks_for_itself() {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        let mut ears = Ear::default();
        let mut asked = 0;
        let mut ask = |cx: &mut Context<'_>| {
            let _ = ears.if_heard(cx, |cx| {
                asked += 1;
                read(&mut ours, cx)
            });
        };
        poll_fn(|cx| {
            ask(cx);
            Poll::Ready(())
        })
        .await;
        ask(&mut Context::from_waker(Waker::noop()));
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn what_is_asked_of_a_silent_source_is_a_reason_to_ask_it() {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        let mut ear = Ear::default();
        let first = poll_fn(|cx| Poll::Ready(ear.if_heard(cx, |cx| read(&mut ours, cx)))).await;
        assert!(first.is_pending());
        assert!(!poll_fn(|cx| Poll::Ready(ear.take(cx))).await);
        ear.hear();
        assert!(poll_fn(|cx| Poll::Ready(ear.take(cx))).await);
    }
}
