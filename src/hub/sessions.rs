//! Sessions of devices on one connection: begun as devices need them, and again when the hub ends
//! one.
//!
//! Normally the token has a session of its own and devices are spread over a few. A hub that
//! allows fewer gets fewer: devices share them, and where it allows one only, `$cbs` and all
//! devices share that.

use super::cbs::Home;
use super::driver::{Handle, Session};
use super::lane::Lane;
use super::tuning;
use crate::amqp::BeginError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The sessions of an open connection.
pub struct Sessions {
    lane: Arc<Lane>,
    handle: Handle,
    /// How long the hub may take to answer a BEGIN.
    patience: Duration,
    /// By session: it lives, or is not to be begun yet.
    served: Vec<bool>,
    /// The only one there may be.
    lone: Option<Arc<Session>>,
    tasks: JoinSet<(usize, End)>,
}

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The hub ended it, a while ago.
    Lost,
    /// There was no channel for it, a while ago.
    NoChannel,
    /// The hub did not answer its BEGIN.
    Unanswered,
}

/// Why the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The hub did not answer a BEGIN.
    Begin,
    /// The one session the hub allows has ended, and the token's links with it.
    Lone,
    /// A task of ours panicked.
    Panic,
}

impl Sessions {
    /// Sessions of a connection that has just opened.
    pub fn new(lane: &Arc<Lane>, handle: &Handle, patience: Duration) -> Self {
        let slots = lane.slots.len();
        // One is for $cbs.
        let count = slots.min(handle.sessions_max() - 1).max(1);
        if count < slots {
            let connection = lane.index;
            tracing::info!(
                name: "hub_sessions_fewer",
                connection,
                "the hub allows fewer sessions; devices share them"
            );
        }
        let mut sessions = Self {
            lane: Arc::clone(lane),
            handle: handle.clone(),
            patience,
            served: vec![false; count],
            lone: None,
            tasks: JoinSet::new(),
        };
        if handle.sessions_max() == 1 {
            sessions.lone = sessions.begin(0);
        }
        sessions
    }

    /// Where the token's links belong.
    pub fn home(&self) -> Home {
        match &self.lone {
            Some(session) => Home::Shared(Arc::clone(session)),
            None => Home::Own(self.handle.clone()),
        }
    }

    /// Begins sessions that devices wait for; those nobody has asked for cost nothing.
    pub fn serve_demand(&mut self) {
        for session in 0..self.served.len() {
            let slots = self.lane.slots.iter().skip(session);
            let mut slots = slots.step_by(self.served.len());
            if !self.served[session] && slots.any(|slot| slot.wanted.load(Ordering::Relaxed)) {
                self.begin(session);
            }
        }
    }

    fn begin(&mut self, number: usize) -> Option<Arc<Session>> {
        self.served[number] = true;
        match self.handle.begin() {
            Ok(session) => {
                let session = Arc::new(session);
                let served = Arc::clone(&session);
                let (lane, patience) = (Arc::clone(&self.lane), self.patience);
                let count = self.served.len();
                self.tasks.spawn(async move {
                    let slots = (number..lane.slots.len()).step_by(count);
                    (number, serve(&lane, slots, served, patience).await)
                });
                Some(session)
            }
            Err(BeginError::ChannelMax) => {
                self.tasks.spawn(async move {
                    sleep(pause()).await;
                    (number, End::NoChannel)
                });
                None
            }
            // The connection's own end is about to be told.
            Err(BeginError::NotOpen) => None,
        }
    }

    /// Waits until a session has ended, and begins the next one if it is wanted; `None` while
    /// there is none.
    pub async fn ended(&mut self) -> Option<Result<(), Broken>> {
        let ended = self.tasks.join_next().await?;
        Some(match ended {
            Ok((number, End::Lost)) if self.lone.is_none() => {
                self.served[number] = false;
                self.serve_demand();
                Ok(())
            }
            Ok((number, End::NoChannel)) => {
                self.served[number] = false;
                self.serve_demand();
                Ok(())
            }
            Ok((_, End::Lost)) => Err(Broken::Lone),
            Ok((_, End::Unanswered)) => Err(Broken::Begin),
            Err(_panic) => Err(Broken::Panic),
        })
    }

    /// Ends every session and waits for the answers. The caller sets the deadline.
    pub async fn end(&self) {
        let slots = self.lane.slots.iter();
        let sessions = slots.filter_map(|slot| slot.session.get());
        let sessions: Vec<_> = sessions.collect();
        sessions.iter().for_each(|session| session.end());
        for session in sessions {
            session.ended().await;
        }
    }

    /// Nobody is served any more.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
        for slot in &self.lane.slots {
            slot.session.replace(None);
        }
    }
}

/// Serves the devices of these slots with a session, until it has ended and a while passed, so
/// that a hub that ends sessions is not hammered.
async fn serve(
    lane: &Lane,
    slots: impl Iterator<Item = usize> + Clone,
    session: Arc<Session>,
    patience: Duration,
) -> End {
    match timeout(patience, session.mapped()).await {
        Ok(true) => {
            for slot in slots.clone().map(|slot| &lane.slots[slot]) {
                slot.wanted.store(false, Ordering::Relaxed);
                slot.session.replace(Some(Arc::clone(&session)));
            }
            session.ended().await;
            for slot in slots {
                lane.slots[slot].session.replace(None);
            }
        }
        Ok(false) => {}
        Err(_elapsed) => return End::Unanswered,
    }
    sleep(pause()).await;
    End::Lost
}

fn pause() -> Duration {
    let (pause, roll) = (tuning::SESSION_PAUSE, crate::runtime::random::unit());
    tuning::backoff(pause, pause, 0, roll)
}
