//! Drives one [`amqp::Connection`](crate::amqp::Connection) over one stream: a task and a lock.
//!
//! [`Task`] owns the stream. A turn of it reads what there is, hands the engine's events to whom
//! they concern, and writes once what everybody had to say since the last turn. Links, sessions
//! and whoever opened the connection call the engine directly, under the lock and without a
//! channel; the first one who leaves something to write wakes the task, which then lets those
//! that are ready now speak before it writes. System calls and encryption happen outside the
//! lock. A peer that does not read stops our reading, never our time-outs.

mod link;
mod seats;

pub use link::{Link, LinkEvent, Session};

use super::outcome::escaped;
use crate::amqp::{BeginError, Closed, Config, Connection, Fed};
use crate::runtime::clock::{self, Mono};
use bytes::{Buf, BytesMut};
use fe2o3_amqp_types::definitions::Error;
use seats::State;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

/// Asked of the stream at once, bytes; one buffer of this size a connection.
const READ_BYTES: usize = 16 * 1024;
/// Reads of one turn; then the other tasks of the worker have their turn.
const READS_MAX: u32 = 16;
/// A write buffer that grew beyond this is given back when it is empty, bytes.
const KEEP_BYTES: usize = 64 * 1024;
/// How long the last words may take to leave.
const LINGER: Duration = Duration::from_secs(1);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Headers, SASL and OPEN are under way.
    Opening,
    /// Sessions can be begun.
    Open,
    /// Nothing comes or goes any more.
    Over,
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ended {
    /// In the engine's terms.
    pub closed: Closed,
    /// Why we cut it, if we did.
    pub killed: Option<&'static str>,
    /// What broke the transport.
    pub broken: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stage: watch::Sender<Stage>,
}

impl Shared {
    /// Does something with the engine, then wakes the task, if that is news to it. Wakes outside
    /// the lock: who is woken may want it at once.
    fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut state);
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        done
    }

    /// Takes the engine's events; wakes whom they concern. `turn` runs under the same lock.
    fn turn<T>(&self, turn: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = turn(&mut state);
        let stage = state.dispatch();
        let woken = std::mem::take(&mut state.woken);
        drop(state);
        if let Some(stage) = stage {
            self.stage.send_replace(stage);
        }
        woken.into_iter().for_each(std::task::Waker::wake);
        done
    }
}

/// A connection, for those who use it.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// A connection over a stream that was just opened. It lives while the task is polled. A peer
    /// that does not answer a DETACH within `patience` is cut.
    pub fn new<S>(stream: S, config: Config, patience: Duration) -> (Self, Task<S>) {
        let engine = Connection::new(config, clock::mono());
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(engine, patience)),
            stage: watch::Sender::new(Stage::Opening),
        });
        let task = Task {
            stream,
            shared: Arc::clone(&shared),
            input: BytesMut::new(),
            output: BytesMut::new(),
            unfed: false,
            unflushed: false,
            put_off: false,
            alarm: None,
            linger: None,
            broken: None,
        };
        (Self(shared), task)
    }

    /// Waits until the connection is open; false when it is over.
    pub async fn opened(&self) -> bool {
        let mut stage = self.0.stage.subscribe();
        let known = stage.wait_for(|stage| *stage != Stage::Opening).await;
        known.is_ok_and(|stage| *stage == Stage::Open)
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.0.stage.borrow()
    }

    /// How many sessions the peer allows; known once it is open.
    #[must_use]
    pub fn sessions_max(&self) -> usize {
        let max = self.0.turn(|state| state.engine.remote_channel_max());
        usize::from(max) + 1
    }

    /// Begins a session; [`Session::mapped`] waits for the peer's answer.
    ///
    /// # Errors
    /// When the connection is not open or the peer allows no more sessions.
    pub fn begin(&self) -> Result<Session, BeginError> {
        Session::begin(&self.0)
    }

    /// Links that are attached, on their way, or waiting for the answer to their DETACH.
    #[must_use]
    pub fn links(&self) -> usize {
        self.0.turn(|state| state.seated())
    }

    /// Waits until every DETACH of ours is answered, or the connection is over.
    pub async fn detached(&self) {
        poll_fn(|cx| {
            self.0.turn(|state| match state.answer_by() {
                None => Poll::Ready(()),
                Some(_) => {
                    state.until_detached.push(cx.waker().clone());
                    Poll::Pending
                }
            })
        })
        .await;
    }

    /// Closes the connection properly; the task resolves when the peer has answered.
    pub fn close(&self, error: Option<Error>) {
        self.0.act(|state| state.engine.close(error, clock::mono()));
    }

    /// Cuts the connection at once; `why` is for the log. The first one who says it counts.
    pub fn kill(&self, why: &'static str) {
        self.0.act(|state| {
            state.killed.get_or_insert(why);
        });
    }
}

/// What reads and writes. Resolves when the connection is over; dropped, it cuts the connection.
#[derive(Debug)]
pub struct Task<S> {
    stream: S,
    shared: Arc<Shared>,
    input: BytesMut,
    /// The engine has not seen all of it.
    unfed: bool,
    /// Being written; at most what the engine's limits allow to wait.
    output: BytesMut,
    unflushed: bool,
    /// Others were given the chance to add to this turn's write.
    put_off: bool,
    alarm: Option<(Mono, Pin<Box<Sleep>>)>,
    linger: Option<Pin<Box<Sleep>>>,
    broken: Option<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Task<S> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        if this.linger.is_none() {
            // Whoever left something to write took our waker.
            let look = |state: &mut State| (state.task.is_none(), state.killed);
            let (stirred, killed) = this.shared.turn(look);
            if killed.is_some() {
                this.shared.turn(|state| state.engine.lost());
                return Poll::Ready(this.ended());
            }
            if this.read_all(cx).is_pending() {
                return this.rest(cx, &Poll::Pending);
            }
            if stirred && !std::mem::replace(&mut this.put_off, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.put_off = false;
        }
        let written = this.write(cx);
        if let Poll::Ready(Err(error)) = &written {
            this.lost(escaped(&error.to_string()));
        }
        this.rest(cx, &written)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Task<S> {
    /// Reads until there is no more, and lets the engine have it. Pending: what we have to say
    /// must leave first.
    fn read_all(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS_MAX {
            if std::mem::take(&mut self.unfed) {
                let input = &mut self.input;
                let feed = |state: &mut State| state.engine.feed(input, clock::mono());
                match self.shared.turn(feed) {
                    Fed::Over => return Poll::Ready(()),
                    Fed::Hungry => {}
                    Fed::Busy => {
                        self.unfed = true;
                        // What failed here fails again in the turn's own write.
                        if self.write(cx).is_pending() {
                            return Poll::Pending;
                        }
                        continue;
                    }
                }
            }
            self.input.reserve(READ_BYTES);
            match pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
                Poll::Pending => return Poll::Ready(()),
                Poll::Ready(Ok(0)) => {
                    self.lost("the peer closed the transport".to_owned());
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(_)) => self.unfed = true,
                Poll::Ready(Err(error)) => {
                    self.lost(escaped(&error.to_string()));
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Ready(())
    }

    /// Writes what there is to say now, once; before that, what an earlier turn could not.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        let output = &mut self.output;
        if output.capacity() > KEEP_BYTES {
            *output = BytesMut::new();
        }
        self.shared.turn(|state| {
            // From here on, whoever leaves something to write wakes us.
            state.task = Some(cx.waker().clone());
            state.engine.write(output, clock::mono())
        });
        self.drain(cx)
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The end of a turn: of the connection, or until something wakes us.
    fn rest(&mut self, cx: &mut Context<'_>, written: &Poll<io::Result<()>>) -> Poll<Ended> {
        let look = |state: &mut State| {
            // A write that is blocked did not come to it; who cuts the connection or asks for an
            // answer with a deadline must be heard all the same.
            state.task.get_or_insert_with(|| cx.waker().clone());
            let killed = state.killed.is_some();
            (state.engine.is_over(), killed, state.deadline())
        };
        let (over, killed, deadline) = self.shared.turn(look);
        if over {
            return self.leave(cx, written);
        }
        if killed {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.watch_time(cx, deadline);
        Poll::Pending
    }

    /// The transport is of no use any more.
    fn lost(&mut self, reason: String) {
        self.broken.get_or_insert(reason);
        self.shared.turn(|state| state.engine.lost());
    }

    /// Sends the last words, for a while, and shuts the stream down.
    fn leave(&mut self, cx: &mut Context<'_>, written: &Poll<io::Result<()>>) -> Poll<Ended> {
        let idle = |state: &mut State| matches!(state.closed, Some(Closed::Idle));
        // Who says nothing does not read either.
        if self.broken.is_none() && !self.shared.turn(idle) {
            let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
            if linger.as_mut().poll(cx).is_pending() {
                let mut stream = Pin::new(&mut self.stream);
                if written.is_pending() || stream.as_mut().poll_shutdown(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(self.ended())
    }

    fn ended(&mut self) -> Ended {
        let how = |state: &mut State| (state.closed.take(), state.killed);
        let (closed, killed) = self.shared.turn(how);
        Ended {
            closed: closed.unwrap_or(Closed::Lost),
            killed,
            broken: self.broken.take(),
        }
    }

    /// Does what is due, and sees to it that the task is woken when the next thing is.
    fn watch_time(&mut self, cx: &mut Context<'_>, mut deadline: Mono) {
        loop {
            let now = clock::mono();
            if deadline <= now {
                self.shared.turn(|state| state.tick(now));
                // What it had to say, or its end, is the next turn's.
                cx.waker().wake_by_ref();
                return;
            }
            // An alarm that is early is left: to set one costs more than to wake up once.
            let late = |(at, _): &(Mono, _)| *at > deadline;
            if self.alarm.as_ref().is_none_or(late) {
                self.alarm = Some((deadline, Box::pin(sleep(deadline.since(now)))));
            }
            let mut rings = |(_, alarm): &mut (Mono, Pin<Box<Sleep>>)| alarm.as_mut().poll(cx);
            if self
                .alarm
                .as_mut()
                .is_none_or(|alarm| rings(alarm).is_pending())
            {
                return;
            }
            self.alarm = None;
            deadline = self.shared.turn(State::deadline);
        }
    }
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        self.shared.turn(|state| state.engine.lost());
    }
}
