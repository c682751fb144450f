//! Sessions of an open connection: begun one at a time, as the token and the devices need them.
//!
//! Normally the token has a session of its own and devices are spread over a few. A hub that
//! allows fewer gets fewer: slots share a session, and where it allows one only, `$cbs` and all
//! devices share that.

use super::cbs::Cbs;
use super::connection::{BeginRequest, Open};
use super::session::{Ended, Port, Session, restart_pause};
use super::tuning;
use fe2o3_amqp::session::{BeginError, SessionHandle};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::timeout;

/// What a new session is for.
pub enum Purpose {
    /// The token's keeper.
    Token(BeginRequest),
    /// The devices of this slot.
    Slot(usize),
}

/// What the token's keeper is given.
pub enum Begun {
    /// A session of its own.
    Session(SessionHandle<()>),
    /// `$cbs` in the session that the devices use too.
    Links(Box<Cbs>),
}

const ONE_SESSION: &str =
    "the hub allows one session a connection; the next one is shared by $cbs and devices";

impl Open<'_> {
    /// Queues sessions that devices wait for; sessions nobody has asked for cost nothing.
    pub(super) fn serve_demand(&mut self) {
        for (slot, place) in self.lane.slots.iter().enumerate() {
            if !self.served[slot] && place.wanted.load(Ordering::Relaxed) {
                self.served[slot] = true;
                self.to_begin.push_back(Purpose::Slot(slot));
            }
        }
    }

    /// Replaces sessions near the engine's transfer limit (fe2o3 F5). Links move over when
    /// nothing of theirs is in flight, so nothing is sent twice.
    pub(super) fn retire_worn_sessions(&mut self) {
        for (slot, state) in self.lane.slots.iter().enumerate() {
            let worn = |port: &Arc<Port>| {
                let sent = port.transfers.load(Ordering::Relaxed);
                sent > tuning::SESSION_TRANSFERS_MAX && !port.retired.swap(true, Ordering::Relaxed)
            };
            let port = state.port.borrow().clone();
            if let Some(port) = port.filter(worn) {
                port.retire.cancel();
                if self.lane.one_session.load(Ordering::Relaxed) {
                    self.kill.kill("the one session the hub allows is worn");
                }
                self.to_begin.push_back(Purpose::Slot(slot));
            }
        }
    }

    /// Begins one session. `Err`: why the connection cannot go on.
    pub(super) async fn begin_next(&mut self) -> Result<(), String> {
        let Some(purpose) = self.to_begin.pop_front() else {
            return Ok(());
        };
        let one_session = self.lane.one_session.load(Ordering::Relaxed);
        match purpose {
            Purpose::Token(reply) if one_session => self.begin_for_all(reply).await,
            // The one session serves this slot, or will.
            Purpose::Slot(_) if one_session => Ok(()),
            Purpose::Token(reply) => {
                let session = self.begin().await?.ok_or(ONE_SESSION)?;
                drop(reply.send(Begun::Session(session)));
                Ok(())
            }
            Purpose::Slot(slot) => match self.begin().await? {
                Some(session) => {
                    self.open_slots(session, slot..slot + 1);
                    Ok(())
                }
                None => self.share(slot),
            },
        }
    }

    /// `None`: the hub allows no more.
    async fn begin(&mut self) -> Result<Option<SessionHandle<()>>, String> {
        let begin = fe2o3_amqp::Session::builder().begin(&mut self.handle);
        match timeout(self.shared.config.operation_timeout, begin).await {
            Ok(Ok(session)) => Ok(Some(session)),
            Ok(Err(BeginError::LocalChannelMaxReached)) => {
                if !self.served.iter().any(|served| *served) || self.slot_port().is_none() {
                    self.lane.one_session.store(true, Ordering::Relaxed);
                }
                Ok(None)
            }
            Ok(Err(error)) => {
                let error = super::outcome::escaped(&error.to_string());
                Err(format!("the hub began no session: {error}"))
            }
            Err(_elapsed) => {
                Err("the hub did not answer a begin within hub.operation_timeout".to_owned())
            }
        }
    }

    /// A session that serves devices now.
    fn slot_port(&self) -> Option<Arc<Port>> {
        let live =
            |port: &Arc<Port>| !port.attach.is_closed() && !port.retired.load(Ordering::Relaxed);
        let slots = self.lane.slots.iter();
        slots
            .filter_map(|slot| slot.port.borrow().clone())
            .find(live)
    }

    /// Lets the devices of `slot` use another slot's session.
    fn share(&mut self, slot: usize) -> Result<(), String> {
        let port = self.slot_port().ok_or(ONE_SESSION)?;
        if self.sharing.is_empty() {
            let connection = self.lane.index;
            tracing::info!(
                connection,
                "the hub allows fewer sessions; devices share them"
            );
        }
        self.sharing.push(slot);
        let place = &self.lane.slots[slot];
        place.wanted.store(false, Ordering::Relaxed);
        place.port.send_replace(Some(port));
        Ok(())
    }

    /// Begins the one session there may be, for `$cbs` and every device.
    async fn begin_for_all(&mut self, reply: BeginRequest) -> Result<(), String> {
        let begun = self.begin().await?;
        let lost = "the $cbs link was lost, and the hub allows one session a connection";
        let mut session = begun.ok_or(lost)?;
        let attached = timeout(
            self.shared.config.operation_timeout,
            Cbs::attach(&mut session),
        );
        let cbs = match attached.await {
            Ok(Ok(cbs)) => cbs,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_elapsed) => return Err("the hub did not answer the attach of $cbs".to_owned()),
        };
        drop(reply.send(Begun::Links(Box::new(cbs))));
        self.open_slots(session, 0..self.lane.slots.len());
        Ok(())
    }

    /// Serves the devices of these slots with `session`.
    fn open_slots(&mut self, session: SessionHandle<()>, slots: std::ops::Range<usize>) {
        let session = Session::new(
            session,
            Arc::clone(self.shared),
            self.kill.clone(),
            self.lane.authorized.subscribe(),
            self.stop.clone(),
        );
        let first = slots.start;
        for slot in slots {
            let place = &self.lane.slots[slot];
            self.served[slot] = true;
            place.wanted.store(false, Ordering::Relaxed);
            place.port.send_replace(Some(session.port()));
        }
        let stop = self.stop.clone();
        self.sessions.spawn(async move {
            let port = session.port();
            let mut ended = session.run().await;
            if port.retired.load(Ordering::Relaxed) {
                ended = Ended::Told; // its successor serves the slot
            }
            if ended == Ended::Lost {
                tokio::select! {
                    () = tokio::time::sleep(restart_pause()) => {}
                    () = stop.cancelled() => {}
                }
            }
            (first, ended)
        });
    }

    /// A session ended by itself: its devices want another.
    pub(super) fn session_lost(&mut self, slot: usize) {
        self.shared.sessions_lost.fetch_add(1, Ordering::Relaxed);
        if self.lane.one_session.load(Ordering::Relaxed) {
            self.kill.kill("the one session the hub allows ended");
            return;
        }
        self.served[slot] = false;
        for slot in self.sharing.drain(..) {
            self.served[slot] = false;
        }
        self.serve_demand();
    }
}
