//! Live sessions by device: at most one each, the older closed before the newer is answered.
//!
//! A connection that proved itself claims its device here before its CONNACK. The claim ends the
//! older session first and waits for that, within a bound; only one newcomer waits per device,
//! and a device that is taken over again and again is damped (`heat`). Orders (take-over,
//! eviction, drain) reach a session through a small slot its task polls. No lock of the map is
//! held across an await.

mod heat;
mod slot;
#[cfg(test)]
mod tests;

use crate::auth::AuthenticatedDevice;
use crate::auth::identity::{DeviceId, ModuleId};
use crate::runtime::clock::{self, Mono};
use crate::telemetry::reason::Reason;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use heat::Heat;
use slot::Slot;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a newcomer waits for the older session's end, and for a damping pause; longer means
/// a refusal, so that a waiting CONNECT never holds its handshake permit for long.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Whose session it is: a device, or one of its modules.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    device: DeviceId,
    module: Option<ModuleId>,
}

impl SessionKey {
    /// The key of `module` of `device`, or of the device itself.
    #[must_use]
    pub fn new(device: DeviceId, module: Option<ModuleId>) -> Self {
        Self { device, module }
    }

    /// The key of an authenticated device's session.
    #[must_use]
    pub fn of(device: &AuthenticatedDevice) -> Self {
        Self::new(device.device().clone(), device.module().cloned())
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The module, when the session is a module's.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleId> {
        self.module.as_ref()
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{}/{module}", self.device),
            None => write!(f, "{}", self.device),
        }
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a session is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// An operator asked for it; the will is sent as for any lost connection.
    Operator,
    /// A reload took its rights or its credential away; the will is void.
    RightsRevoked,
}

impl Eviction {
    /// Its word.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Operator => Reason::Kicked,
            Self::RightsRevoked => Reason::RightsRevoked,
        }
    }
}

/// What a session is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Close now: the device connected again and waits.
    TakenOver,
    /// Close now.
    Evicted(Eviction),
    /// Read no more; close at `close_at` when everything is settled, at `settle_until` in any
    /// case.
    Drain {
        /// The session's place in the staggered closing.
        close_at: Mono,
        /// End of patience with messages in flight.
        settle_until: Mono,
    },
}

/// Why a claim failed. All of them are CONNACK 3 (server unavailable): trying again later helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Too many take-overs in a short time.
    #[error("this device is taken over too often; two clients may share its identity")]
    Damped,
    /// Another newcomer already waits for the older session's end.
    #[error("another connection of this device is already waiting to take over")]
    Contended,
    /// The older session did not end in time.
    #[error("the older connection of this device did not end in time; try again")]
    Stuck,
    /// The process stops.
    #[error("the gateway is stopping; connect again")]
    Draining,
}

impl ClaimError {
    /// Its word.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Damped => Reason::TakeoverDamped,
            Self::Contended => Reason::TakeoverContended,
            Self::Stuck => Reason::TakeoverStuck,
            Self::Draining => Reason::Drain,
        }
    }
}

/// What a session did so far; counted by its own task, read by operators.
#[derive(Debug, Default)]
pub struct Tally {
    /// When it was admitted.
    pub since: Mono,
    /// Messages the hub accepted.
    pub accepted: AtomicU64,
    /// Messages refused.
    pub refused: AtomicU64,
    /// Commands the device took.
    pub commands: AtomicU64,
}

/// All live sessions. Its size is bounded by the admitted connections. `A` is what a reload
/// needs to know about a session to decide whether its rights still exist.
pub struct Registry<A = AuthenticatedDevice> {
    sessions: DashMap<SessionKey, Entry<A>>,
    generations: AtomicU64,
    draining: AtomicBool,
    damping: Duration,
    patience: Duration,
}

struct Entry<A> {
    generation: u64,
    about: A,
    slot: Arc<Slot>,
    heat: Heat,
    /// A newcomer waits for this session's end and will replace the entry in place; until then
    /// nobody else may, and the entry outlives its session so that the heat is not lost.
    awaited: bool,
}

impl<A> Registry<A> {
    /// An empty registry; `damping` is the base pause between take-overs of one device, doubled
    /// up to 60 s, zero for none.
    #[must_use]
    pub fn new(damping: Duration) -> Arc<Self> {
        Self::with_patience(damping, PATIENCE)
    }

    fn with_patience(damping: Duration, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            sessions: DashMap::new(),
            generations: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            damping,
            patience,
        })
    }

    /// Makes the caller the one live session of `key`. An older session is told to close and has
    /// ended when this returns. Takes at most twice [`PATIENCE`]; dropping the future is safe.
    ///
    /// # Errors
    /// When the device may not be taken over now; the older session then stays.
    pub async fn claim(
        self: &Arc<Self>,
        key: SessionKey,
        about: A,
    ) -> Result<Claim<A>, ClaimError> {
        let claim = match self.enter(key, about)? {
            Entered::Claimed(claim) => claim,
            Entered::Waiting(turn, pause, about) => self.take_over(turn, pause, about).await?,
        };
        // Asked again after the entry is in the map: a drain that began in between has either
        // seen the entry or is seen here.
        if self.draining.load(Ordering::SeqCst) {
            return Err(ClaimError::Draining);
        }
        Ok(claim)
    }

    fn enter(self: &Arc<Self>, key: SessionKey, about: A) -> Result<Entered<A>, ClaimError> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(ClaimError::Draining);
        }
        match self.sessions.entry(key.clone()) {
            Place::Vacant(vacant) => {
                let (claim, entry) = self.fresh(key, about, Heat::default());
                vacant.insert(entry);
                Ok(Entered::Claimed(claim))
            }
            Place::Occupied(mut occupied) => {
                let older = occupied.get_mut();
                if older.awaited {
                    return Err(ClaimError::Contended);
                }
                let pause = older.heat.wait(self.damping, clock::mono());
                if pause > self.patience {
                    return Err(ClaimError::Damped);
                }
                older.awaited = true;
                let turn = Turn {
                    registry: self.clone(),
                    key,
                    generation: older.generation,
                    slot: older.slot.clone(),
                    open: true,
                };
                Ok(Entered::Waiting(turn, pause, about))
            }
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        turn: Turn<A>,
        pause: Duration,
        about: A,
    ) -> Result<Claim<A>, ClaimError> {
        let left = tokio::time::timeout(pause, turn.slot.ended()).await.is_ok();
        if !left {
            turn.slot.give(Order::TakenOver);
            let ended = tokio::time::timeout(self.patience, turn.slot.ended()).await;
            ended.map_err(|_| ClaimError::Stuck)?;
        }
        Ok(turn.replace(about, !left))
    }

    fn fresh(self: &Arc<Self>, key: SessionKey, about: A, heat: Heat) -> (Claim<A>, Entry<A>) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot::at(clock::mono()));
        let claim = Claim {
            registry: self.clone(),
            key,
            generation,
            slot: slot.clone(),
        };
        let entry = Entry {
            generation,
            about,
            slot,
            heat,
            awaited: false,
        };
        (claim, entry)
    }

    /// Shows `see` each live session.
    pub fn each(&self, mut see: impl FnMut(&SessionKey, &A, &Tally)) {
        for entry in &self.sessions {
            see(entry.key(), &entry.about, &entry.slot.tally);
        }
    }

    /// What `see` makes of the live session of `key`.
    pub fn look<R>(&self, key: &SessionKey, see: impl FnOnce(&A, &Tally) -> R) -> Option<R> {
        let entry = self.sessions.get(key)?;
        Some(see(&entry.about, &entry.slot.tally))
    }

    /// Ends the session of `key`; whether there was one.
    pub fn kick(&self, key: &SessionKey, why: Eviction) -> bool {
        let slot = self.sessions.get(key).map(|entry| entry.slot.clone());
        slot.inspect(|slot| slot.give(Order::Evicted(why)))
            .is_some()
    }

    /// Ends every session `unwanted` picks; how many.
    pub fn kick_where(
        &self,
        why: Eviction,
        mut unwanted: impl FnMut(&SessionKey, &A) -> bool,
    ) -> usize {
        let picked: Vec<_> = self
            .sessions
            .iter()
            .filter(|entry| unwanted(entry.key(), &entry.about))
            .map(|entry| entry.slot.clone())
            .collect();
        for slot in &picked {
            slot.give(Order::Evicted(why));
        }
        picked.len()
    }

    /// Begins the end of all sessions: none is claimed any more, none reads on; each closes when
    /// its messages are settled, not before its place in `spread`, at the latest after `settle`.
    pub fn drain(&self, settle: Duration, spread: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        let slots: Vec<_> = self.sessions.iter().map(|e| e.slot.clone()).collect();
        let now = clock::mono();
        let step = spread / u32::try_from(slots.len().max(1)).unwrap_or(u32::MAX);
        let mut close_at = now;
        for slot in slots {
            slot.give(Order::Drain {
                close_at,
                settle_until: now + settle,
            });
            close_at = close_at + step;
        }
    }

    /// Begins the same, one session after the other, `rate_per_s` of them each second; who has
    /// not had its turn is served as before. Ends when every session was told.
    pub async fn drain_paced(&self, settle: Duration, rate_per_s: u32) {
        self.draining.store(true, Ordering::SeqCst);
        let slots: Vec<_> = self.sessions.iter().map(|e| e.slot.clone()).collect();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate_per_s.max(1));
        for slot in slots {
            ticks.tick().await;
            let now = clock::mono();
            slot.give(Order::Drain {
                close_at: now,
                settle_until: now + settle,
            });
        }
    }

    /// Live sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

enum Entered<A> {
    Claimed(Claim<A>),
    Waiting(Turn<A>, Duration, A),
}

/// The right to replace an entry when its session has ended. Dropped without use (the newcomer
/// gave up), it leaves the entry as it would be without it.
struct Turn<A> {
    registry: Arc<Registry<A>>,
    key: SessionKey,
    generation: u64,
    slot: Arc<Slot>,
    open: bool,
}

impl<A> Turn<A> {
    fn replace(mut self, about: A, taken_over: bool) -> Claim<A> {
        self.open = false;
        let registry = &self.registry;
        let heat_of = |older: &Entry<A>| match taken_over {
            true => older.heat.after_takeover(registry.damping, clock::mono()),
            false => older.heat,
        };
        match registry.sessions.entry(self.key.clone()) {
            Place::Occupied(mut place) => {
                let heat = heat_of(place.get());
                let (claim, entry) = registry.fresh(self.key.clone(), about, heat);
                place.insert(entry);
                claim
            }
            // An awaited entry is removed by nobody but its turn; a vacant place would only mean
            // that nothing has to be replaced.
            Place::Vacant(place) => {
                let (claim, entry) = registry.fresh(self.key.clone(), about, Heat::default());
                place.insert(entry);
                claim
            }
        }
    }
}

impl<A> Drop for Turn<A> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        if let Place::Occupied(mut place) = self.registry.sessions.entry(self.key.clone())
            && place.get().generation == self.generation
        {
            if self.slot.has_ended() {
                place.remove();
            } else {
                place.get_mut().awaited = false;
            }
        }
    }
}

/// The one live session of a device. Dropping it lets a waiting newcomer in, so it is dropped
/// after the socket is closed.
pub struct Claim<A = AuthenticatedDevice> {
    registry: Arc<Registry<A>>,
    key: SessionKey,
    generation: u64,
    slot: Arc<Slot>,
}

impl<A> Claim<A> {
    /// The session's key.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// What the session did so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.slot.tally
    }

    /// The next order for this session; wakes the polling task when one comes.
    pub fn poll_order(&self, cx: &mut Context<'_>) -> Poll<Order> {
        self.slot.poll_order(cx)
    }
}

impl<A> Drop for Claim<A> {
    fn drop(&mut self) {
        // The end is told before the entry goes: a newcomer that finds the entry in between
        // waits for an end that has already come, and replaces it.
        self.slot.end();
        let mine = |_: &SessionKey, e: &Entry<A>| e.generation == self.generation && !e.awaited;
        self.registry.sessions.remove_if(&self.key, mine);
    }
}
