//! A live link cannot be dropped: its guard hands it to its session for an awaited close.
//!
//! Dropping a link of the AMQP engine while the peer still speaks on it ends the whole session,
//! or the connection (fe2o3 F2, F3, F4). So a link travels inside [`Live`] from the session task
//! that attached it to the device task that uses it, and whatever happens to that task, a panic
//! and a closed channel included, the link comes back to the session's closing queue. The place
//! in that queue is reserved before the link is attached.

use crate::config::OnDisconnect;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::types::messaging::{Body, Modified};
use fe2o3_amqp::types::primitives::Value;
use fe2o3_amqp::{Delivery, Receiver, Sender};
use prometheus::IntGauge;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::oneshot;

use super::engine::InUse;
use super::session::Port;

/// A link on its way to be closed by its session.
pub enum Ending {
    /// A telemetry link.
    Sender(Box<Sender>),
    /// A command link; what it received and nobody saw goes back as the policy says.
    Receiver(Box<Receiver>, OnDisconnect),
}

/// How a close ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer answered our Detach, or had sent its own long before.
    Plainly,
    /// The peer's own Detach may have crossed ours, which may still be queued.
    Crossed,
}

/// A link handed back, and what to drop once it is closed.
pub type Handed = (Ending, Option<oneshot::Sender<()>>);

/// The two kinds of link.
pub trait Link: Sized {
    /// How it is closed.
    fn ending(self: Box<Self>, policy: OnDisconnect) -> Ending;
}

impl Link for Sender {
    fn ending(self: Box<Self>, _policy: OnDisconnect) -> Ending {
        Ending::Sender(self)
    }
}

impl Link for Receiver {
    fn ending(self: Box<Self>, policy: OnDisconnect) -> Ending {
        Ending::Receiver(self, policy)
    }
}

/// An attached link and its way back.
pub struct Live<L: Link> {
    link: Option<Box<L>>,
    _name: InUse,
    way_back: Option<OwnedPermit<Handed>>,
    port: Arc<Port>,
    gauge: IntGauge,
    /// Dropped when the link is closed, for whoever waits for that.
    gone: Option<oneshot::Sender<()>>,
    /// What becomes of deliveries nobody saw.
    pub policy: OnDisconnect,
}

impl<L: Link> Live<L> {
    /// Guards `link`; `gauge` counts it while it lives.
    pub fn new(
        link: L,
        name: InUse,
        way_back: OwnedPermit<Handed>,
        port: Arc<Port>,
        gauge: IntGauge,
    ) -> Self {
        gauge.inc();
        Self {
            link: Some(Box::new(link)),
            _name: name,
            way_back: Some(way_back),
            port,
            gauge,
            gone: None,
            policy: OnDisconnect::Release,
        }
    }

    /// The link itself.
    pub fn link(&mut self) -> &mut L {
        self.link
            .as_deref_mut()
            .expect("only drop and lost take the link, and both end the guard")
    }

    /// The session it is attached to.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Hands the link back to its session; what it answers ends when the link is closed.
    pub fn leave(mut self) -> oneshot::Receiver<()> {
        let (gone, closed) = oneshot::channel();
        self.gone = Some(gone);
        closed
    }

    /// The peer has detached it or its session has stopped: nothing is left to close.
    pub fn lost(mut self) {
        drop(self.link.take());
    }
}

impl<L: Link> Drop for Live<L> {
    fn drop(&mut self) {
        self.gauge.dec();
        if let (Some(link), Some(way_back)) = (self.link.take(), self.way_back.take()) {
            way_back.send((link.ending(self.policy), self.gone.take()));
        }
    }
}

impl Ending {
    /// Closes the link and waits for the peer's answer. The caller sets the deadline.
    pub async fn close(self) -> Closed {
        let closed = match self {
            Self::Sender(mut sender) => {
                // The engine would send a second Detach on a handle that may be another's by now.
                if now(sender.on_detach()).is_some() {
                    return Closed::Plainly;
                }
                sender.close().await.is_ok()
            }
            Self::Receiver(mut receiver, policy) => {
                now(receiver.set_credit(0));
                loop {
                    match now(receiver.recv::<Body<Value>>()) {
                        Some(Ok(delivery)) => give_back(&receiver, delivery, policy),
                        Some(Err(RecvError::LinkStateError(_))) => return Closed::Plainly,
                        Some(Err(_)) | None => break,
                    }
                }
                receiver.close().await.is_ok()
            }
        };
        if closed {
            Closed::Plainly
        } else {
            Closed::Crossed
        }
    }
}

fn give_back(receiver: &Receiver, delivery: Delivery<Body<Value>>, policy: OnDisconnect) {
    match policy {
        OnDisconnect::Release => drop(now(receiver.release(delivery))),
        OnDisconnect::Abandon => drop(now(receiver.modify(delivery, failed()))),
        OnDisconnect::LockExpiry => {}
    }
}

/// AMQP `modified` with `delivery-failed`.
pub fn failed() -> Modified {
    Modified {
        delivery_failed: Some(true),
        undeliverable_here: None,
        message_annotations: None,
    }
}

/// Polls once. For operations of the engine that only queue a frame: its queue is far larger
/// than what may be in flight, so they are ready at once.
pub fn now<F: Future>(operation: F) -> Option<F::Output> {
    let mut operation = pin!(tokio::task::unconstrained(operation));
    let mut cx = Context::from_waker(Waker::noop());
    match operation.as_mut().poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
