//! The way to a connection's room in bytes (`hub.connection_bytes_max`).

use super::device::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit as Permit;

/// One sender's place in the queue for room.
#[derive(Default)]
pub struct Gate {
    wait: Option<Pin<Box<dyn Future<Output = Option<Permit>> + Send>>>,
    room: Option<Permit>,
}

impl Gate {
    /// Whether there is room for `cost` bytes; if not, `cx` is woken when there is. A message that
    /// is larger than all the room takes it all.
    pub fn opens(&mut self, path: &Path, cost: usize, cx: &mut Context<'_>) -> bool {
        if self.room.is_some() {
            return true;
        }
        let wait = match &mut self.wait {
            Some(wait) => wait,
            place => {
                let bytes_max = path.shared.config.connection_bytes_max.max(1);
                let permits = u32::try_from(cost.min(bytes_max)).unwrap_or(u32::MAX);
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
