//! Where a session's task and those who give it orders meet.

use super::{Order, Tally};
use crate::runtime::clock::Mono;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Where orders for one session lie, and where its end is told.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) tally: Tally,
    tray: Mutex<Tray>,
    ended: AtomicBool,
    end: Notify,
}

#[derive(Default)]
struct Tray {
    order: Option<Order>,
    waker: Option<Waker>,
}

impl Slot {
    /// That of a session admitted at `now`.
    pub(super) fn at(now: Mono) -> Self {
        Self {
            tally: Tally {
                since: now,
                ..Tally::default()
            },
            ..Self::default()
        }
    }

    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give(&self, order: Order) {
        let mut tray = self.tray();
        // A drain is gentle; it may not soften an order to close now.
        if tray.order.is_none() || !matches!(order, Order::Drain { .. }) {
            tray.order = Some(order);
        }
        let waker = tray.waker.take();
        drop(tray);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll_order(&self, cx: &mut Context<'_>) -> Poll<Order> {
        let mut tray = self.tray();
        if let Some(order) = tray.order.take() {
            return Poll::Ready(order);
        }
        match &mut tray.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.end.notify_waiters();
    }

    pub(super) async fn ended(&self) {
        let mut told = pin!(self.end.notified());
        // Listed before the flag is read, so an end between the two is not missed.
        told.as_mut().enable();
        if !self.has_ended() {
            told.await;
        }
    }
}
