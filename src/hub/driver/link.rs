//! Sessions and links of a connection, for those who own them.

use super::seats::State;
use super::{Shared, Stage};
use crate::amqp::performative::Attach;
use crate::amqp::{
    AttachError, BeginError, DeliveryId, LinkId, Message, Outcome, SendError, SessionId, Stale,
};
use bytes::Bytes;
use fe2o3_amqp_types::definitions::Error;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::watch;

/// What happened to a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// The peer answered our ATTACH; its own.
    Attached(Box<Attach>),
    /// The peer refused it. Nothing follows.
    Refused(Option<Box<Error>>),
    /// The link ended, it alone. Nothing follows.
    Detached(Option<Box<Error>>),
    /// Its session or connection ended. Nothing follows.
    Stopped,
    /// A send that had to wait is worth another try; so many may be sent.
    Credit(u32),
    /// The peer used up, or gave back, the credit it was asked to drain.
    Drained,
    /// A message we sent, by its token, has its outcome.
    Outcome(u64, Outcome),
    /// A message for us.
    Delivery {
        /// For [`Link::settle`].
        delivery: DeliveryId,
        /// The message's sections.
        payload: Bytes,
        /// Its sender does not wait for an outcome.
        settled: bool,
    },
}

/// A session. Dropped, it ends, and its links with it.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    id: SessionId,
    stage: watch::Receiver<Stage>,
}

impl Session {
    pub(super) fn begin(shared: &Arc<Shared>) -> Result<Self, BeginError> {
        let (stage, known) = watch::channel(Stage::Opening);
        let id = shared.act(|state| {
            let id = state.engine.begin()?;
            state.sessions.insert(id, stage);
            Ok(id)
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            id,
            stage: known,
        })
    }

    /// Waits until links can be attached; false when the session has ended.
    pub async fn mapped(&self) -> bool {
        let mut stage = self.stage.clone();
        let known = stage.wait_for(|stage| *stage != Stage::Opening).await;
        known.is_ok_and(|stage| *stage == Stage::Open)
    }

    /// Whether links can be attached.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        *self.stage.borrow() == Stage::Open
    }

    /// Ends it, and its links with it.
    pub fn end(&self) {
        // One that has ended is stale.
        let _ = self.shared.act(|state| state.engine.end(self.id, None));
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let mut stage = self.stage.clone();
        // An error is the end of the connection.
        let _ = stage.wait_for(|stage| *stage == Stage::Over).await;
    }

    /// Attaches a link made by [`sender`](crate::amqp::sender) or
    /// [`receiver`](crate::amqp::receiver), the latter with this first credit: any number at
    /// once, without waiting. [`LinkEvent::Attached`] or [`LinkEvent::Refused`] follows.
    ///
    /// # Errors
    /// When the session is not mapped or the peer allows no more links in it.
    pub fn attach(&self, attach: Attach, credit: u32) -> Result<Link, AttachError> {
        let (id, token) = self.shared.act(|state| {
            let token = state.take_seat();
            match state.engine.attach(self.id, attach, credit, token) {
                Ok(id) => Ok((id, token)),
                Err(error) => {
                    state.leave_seat(token);
                    Err(error)
                }
            }
        })?;
        Ok(Link {
            shared: Arc::clone(&self.shared),
            id,
            token,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// A link. Dropped, it is detached; messages that nobody took are released first.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    id: LinkId,
    token: u64,
}

impl Link {
    /// What happened next. After the end: [`LinkEvent::Stopped`], always.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        self.look(|state, token, _| {
            let Some(seat) = state.seat(token) else {
                return Poll::Ready(LinkEvent::Stopped);
            };
            match seat.inbox.pop_front() {
                Some(event) => Poll::Ready(event),
                None if seat.ended => Poll::Ready(LinkEvent::Stopped),
                None => {
                    match &mut seat.waker {
                        Some(waker) => waker.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    Poll::Pending
                }
            }
        })
    }

    /// [`Self::poll`], to be awaited.
    pub async fn next(&mut self) -> LinkEvent {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Sends a message. Exactly one [`LinkEvent::Outcome`] follows, unless it is settled.
    ///
    /// # Errors
    /// Nothing was sent. [`SendError::WouldBlock`]: a [`LinkEvent::Credit`] follows.
    /// [`SendError::Stale`]: before [`LinkEvent::Attached`], or after the end.
    pub fn send(&mut self, message: &Message<'_>) -> Result<DeliveryId, SendError> {
        self.shared.act(|state| state.engine.send(self.id, message))
    }

    /// Says how a message that was received ended.
    ///
    /// # Errors
    /// When the link has ended or the peer has settled the delivery.
    pub fn settle(&mut self, delivery: DeliveryId, outcome: &Outcome) -> Result<(), Stale> {
        self.shared
            .act(|state| state.engine.settle(delivery, outcome))
    }

    /// Sets how many messages may be received from now on.
    ///
    /// # Errors
    /// When the link has ended.
    pub fn set_credit(&mut self, credit: u32) -> Result<(), Stale> {
        self.shared
            .act(|state| state.engine.set_credit(self.id, credit))
    }

    /// Messages that may be sent, or may still be received.
    ///
    /// # Errors
    /// When the link has ended.
    pub fn credit(&self) -> Result<u32, Stale> {
        self.look(|state, _, id| state.engine.credit(id))
    }

    /// Messages that have arrived and that [`Self::poll`] has still to hand out.
    #[must_use]
    pub fn untaken(&self) -> usize {
        let delivery = |event: &&LinkEvent| matches!(event, LinkEvent::Delivery { .. });
        self.look(|state, token, _| {
            let seat = state.seat(token);
            seat.map_or(0, |seat| seat.inbox.iter().filter(delivery).count())
        })
    }

    /// Detaches; messages that nobody took are released first. [`LinkEvent::Detached`] follows
    /// when the peer has answered.
    pub fn detach(&mut self, error: Option<Error>) {
        self.shared
            .act(|state| state.detach(self.token, self.id, error));
    }

    /// Under the lock, without waking the task: nothing is left to write.
    fn look<T>(&self, look: impl FnOnce(&mut State, u64, LinkId) -> T) -> T {
        let state = self.shared.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        look(&mut state, self.token, self.id)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.act(|state| {
            let Some(seat) = state.seat(self.token) else {
                return;
            };
            seat.abandoned = true;
            if seat.ended {
                state.leave_seat(self.token);
            } else {
                state.detach(self.token, self.id, None);
                if let Some(seat) = state.seat(self.token) {
                    seat.inbox = VecDeque::new();
                }
            }
        });
    }
}
