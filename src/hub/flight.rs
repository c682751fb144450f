//! What an uplink is made of: messages, outcomes awaited, room on the connection.

use super::encode;
use super::live::Live;
use super::outcome::Settled;
use super::path::{LinkEnd, Owned, Path};
use crate::runtime::clock::Mono;
use fe2o3_amqp::link::delivery::DeliveryFut;
use fe2o3_amqp::link::{LinkStateError, SendError};
use fe2o3_amqp::types::messaging::{Data, Outcome};
use fe2o3_amqp::{Sendable, Sender};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit as Permit;

/// The engine's promise of an outcome. It may never resolve while its link lives (fe2o3 F1).
pub type Delivery = DeliveryFut<Result<Outcome, SendError>>;

/// A message on its way; `seq` is its place in the device's order.
pub struct Entry {
    pub seq: u64,
    pub ticket: u64,
    pub cost: usize,
    pub message: Box<Sendable<Data>>,
}

/// Takes out the message with the highest cost.
pub fn take_largest(entries: &mut VecDeque<Entry>) -> Option<Entry> {
    let by_cost = entries.iter().enumerate();
    let (at, _) = by_cost.max_by_key(|(_, entry)| entry.cost)?;
    entries.remove(at)
}

/// A message the hub has and has not decided about.
pub struct Flight {
    pub entry: Entry,
    pub outcome: Delivery,
    pub since: Mono,
    /// Given back when the outcome is in.
    pub _room: Option<Permit>,
}

/// What a send that had to wait for link credit comes back with.
pub struct Fed {
    pub live: Live<Sender>,
    pub entry: Entry,
    pub room: Option<Permit>,
    /// `None`: still no credit; try again (also the cure for a lost wake-up, fe2o3 F15).
    pub result: Option<Result<Delivery, SendError>>,
}

/// The way to the connection's room in bytes.
#[derive(Default)]
pub struct Gate {
    wait: Option<Owned<Option<Permit>>>,
    room: Option<Permit>,
}

impl Gate {
    /// Whether there is room for `cost` bytes; if not, `cx` is woken when there is.
    pub fn opens(&mut self, path: &Path, cost: usize, cx: &mut Context<'_>) -> bool {
        if self.room.is_some() {
            return true;
        }
        let permits = permits(path, cost);
        let wait = match &mut self.wait {
            Some(wait) => wait,
            place => {
                let bytes = Arc::clone(&path.lane().bytes);
                if let Ok(room) = Arc::clone(&bytes).try_acquire_many_owned(permits) {
                    self.room = Some(room);
                    return true;
                }
                let room = async move { bytes.acquire_many_owned(permits).await.ok() };
                place.insert(Box::pin(room))
            }
        };
        if let Poll::Ready(room) = wait.as_mut().poll(cx) {
            self.wait = None;
            self.room = room;
        }
        self.room.is_some()
    }

    /// The room, for the message that now goes through.
    pub fn take(&mut self) -> Option<Permit> {
        self.room.take()
    }
}

/// What a message of `cost` bytes is charged; one that is larger than all the room takes it all.
pub fn permits(path: &Path, cost: usize) -> u32 {
    let bytes_max = path.shared.config.connection_bytes_max.max(1);
    u32::try_from(cost.min(bytes_max)).unwrap_or(u32::MAX)
}

/// An outcome in our terms, or the end of the link.
pub fn settled(result: Result<Outcome, SendError>) -> Result<Settled, LinkEnd> {
    match result {
        Ok(Outcome::Accepted(_)) => Ok(Settled::Accepted),
        Ok(Outcome::Rejected(rejected)) => Ok(Settled::Rejected(
            rejected.error.as_ref().map(encode::cause),
        )),
        Ok(Outcome::Released(_)) => Ok(Settled::Released),
        Ok(Outcome::Modified(_)) => Ok(Settled::Modified),
        Err(SendError::NonTerminalDeliveryState | SendError::IllegalDeliveryState) => {
            Ok(Settled::Unknown)
        }
        Err(error) => Err(link_end(error)),
    }
}

pub fn link_end(error: SendError) -> LinkEnd {
    match error {
        SendError::LinkStateError(error) => error.into(),
        SendError::Detached(error) => LinkStateError::from(error).into(),
        _ => LinkEnd::Odd,
    }
}
