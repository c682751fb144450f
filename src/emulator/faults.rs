//! Faults injected by name. A strike hits what is open, once or again and again; a state is in
//! force for a while, and the place it concerns asks for it: with no fault under way that costs
//! one relaxed load.

mod catalogue;
mod strike;

pub use catalogue::FaultKind;
use catalogue::Reach;
pub(crate) use catalogue::Shape;

use crate::emulator::hub::Hub;
use crate::runtime::clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Faults under way at once.
const UNDER_WAY_MAX: usize = 100;
/// A lasting strike hits again this often, so that what came back falls again.
const REPEAT: Duration = Duration::from_millis(100);

/// What a fault hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultScope {
    /// Everything.
    #[default]
    All,
    /// One device's links, or the connections that hold them.
    Device(String),
    /// The connection of this number, see `GET /faults`.
    Connection(u64),
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    value: Option<String>,
    delay: Duration,
    duration: Duration,
    scope: FaultScope,
}

impl Fault {
    /// At once, on everything; a strike once, a state until it is cleared.
    #[must_use]
    pub const fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            value: None,
            delay: Duration::ZERO,
            duration: Duration::ZERO,
            scope: FaultScope::All,
        }
    }

    /// With one of [`FaultKind::values`].
    #[must_use]
    pub fn with(mut self, value: &str) -> Self {
        self.value = Some(value.to_owned());
        self
    }

    /// Begins after this time.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Ends after this time; zero: see [`Fault::new`].
    #[must_use]
    pub const fn lasting(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Hits only this.
    #[must_use]
    pub fn on(mut self, scope: FaultScope) -> Self {
        self.scope = scope;
        self
    }
}

/// Why a fault was not injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// What it would hit does not exist here.
    #[error("{} is not implemented: {}", .0.name(), .0.about())]
    Missing(FaultKind),
    /// The value is not of the fault's list.
    #[error("{} takes the values {}", .0.name(), .0.values().join(", "))]
    Value(FaultKind),
    /// The scope means nothing for this fault.
    #[error("{} concerns everything at once, leave the scope out", .0.name())]
    Scope(FaultKind),
    /// Too many at once.
    #[error("too many faults are under way, clear them first")]
    TooMany,
}

/// A fault that waits or acts.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct UnderWay {
    pub(crate) id: u64,
    pub(crate) name: FaultKind,
    pub(crate) value: &'static str,
    pub(crate) scope: FaultScope,
    pub(crate) acting: bool,
    #[serde(skip)]
    stop: CancellationToken,
}

/// Where a fault is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place<'a> {
    pub(crate) connection: Option<u64>,
    pub(crate) device: Option<&'a str>,
}

impl FaultScope {
    fn covers(&self, place: Place<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Device(device) => place.device == Some(device.as_str()),
            Self::Connection(id) => place.connection == Some(*id),
        }
    }
}

/// Every fault that is under way.
#[derive(Debug)]
pub(crate) struct Faults {
    last: AtomicU64,
    /// One bit per kind of which a state may be in force.
    in_force: AtomicU64,
    under_way: Mutex<Vec<UnderWay>>,
    changed: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            last: AtomicU64::new(0),
            in_force: AtomicU64::new(0),
            under_way: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Faults {
    fn list(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn under_way(&self) -> Vec<UnderWay> {
        self.list().clone()
    }

    /// The value of a state of `kind` in force at `place`.
    pub(crate) fn at(&self, kind: FaultKind, place: Place<'_>) -> Option<&'static str> {
        let bit = 1u64 << kind as u32;
        if self.in_force.load(Ordering::Relaxed) & bit == 0 {
            return None;
        }
        let list = self.list();
        list.iter()
            .find(|f| f.acting && f.name == kind && f.scope.covers(place))
            .map(|fault| fault.value)
    }

    /// Whether nothing is in force anywhere.
    pub(crate) fn none(&self) -> bool {
        self.in_force.load(Ordering::Relaxed) == 0
    }

    /// Changes whenever a state comes into force or ends.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Ends all; how many there were.
    pub(crate) fn clear(&self) -> usize {
        let mut list = self.list();
        let ended = std::mem::take(&mut *list);
        self.note(&list);
        drop(list);
        ended.iter().for_each(|fault| fault.stop.cancel());
        ended.len()
    }

    fn begin(&self, fault: &Fault, value: &'static str) -> Option<UnderWay> {
        let mut list = self.list();
        if list.len() >= UNDER_WAY_MAX {
            return None;
        }
        let fault = UnderWay {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            name: fault.kind,
            value,
            scope: fault.scope.clone(),
            acting: false,
            stop: CancellationToken::new(),
        };
        list.push(fault.clone());
        Some(fault)
    }

    fn act(&self, id: u64) {
        let mut list = self.list();
        if let Some(fault) = list.iter_mut().find(|fault| fault.id == id) {
            fault.acting = true;
        }
        self.note(&list);
    }

    fn end(&self, id: u64) {
        let mut list = self.list();
        list.retain(|fault| fault.id != id);
        self.note(&list);
    }

    /// Brings `in_force` up to the list, which the caller holds.
    fn note(&self, list: &[UnderWay]) {
        let states = list
            .iter()
            .filter(|fault| fault.acting && fault.name.shape() == Shape::State);
        let bits = states.fold(0, |bits, fault| bits | 1u64 << fault.name as u32);
        self.in_force.store(bits, Ordering::Relaxed);
        self.changed.send_modify(|n| *n += 1);
    }
}

/// Injects `fault`; its number. What acts at once has acted when this returns.
pub(crate) fn inject(hub: &Arc<Hub>, fault: &Fault) -> Result<u64, FaultError> {
    let kind = fault.kind;
    if kind.shape() == Shape::Missing {
        return Err(FaultError::Missing(kind));
    }
    if kind.reach() == Reach::Port && fault.scope != FaultScope::All {
        return Err(FaultError::Scope(kind));
    }
    let value = kind
        .value(fault.value.as_deref())
        .ok_or(FaultError::Value(kind))?;
    let under_way = hub.faults.begin(fault, value).ok_or(FaultError::TooMany)?;
    let id = under_way.id;
    let started = fault.delay.is_zero();
    if started {
        start(hub, &under_way);
    }
    let once = kind.shape() == Shape::Strike && fault.duration.is_zero();
    if once && started {
        hub.faults.end(id);
        return Ok(id);
    }
    tokio::spawn(live(Arc::downgrade(hub), under_way, fault.clone(), started));
    Ok(id)
}

/// The rest of a fault's life. The hub is held weakly, so that a fault under way does not keep a
/// stopped emulator alive.
async fn live(hub: std::sync::Weak<Hub>, under_way: UnderWay, fault: Fault, started: bool) {
    let acting = async {
        if !started {
            tokio::time::sleep(fault.delay).await;
            let Some(hub) = hub.upgrade() else { return };
            start(&hub, &under_way);
        }
        match (under_way.name.shape(), fault.duration) {
            (Shape::State, Duration::ZERO) => std::future::pending().await,
            (Shape::State, duration) => tokio::time::sleep(duration).await,
            (_, duration) => {
                let began = clock::mono();
                while clock::mono().since(began) < duration {
                    tokio::time::sleep(REPEAT).await;
                    let Some(hub) = hub.upgrade() else { return };
                    strike::strike(&hub, &under_way);
                }
            }
        }
    };
    tokio::select! {
        () = under_way.stop.cancelled() => {}
        () = acting => {}
    }
    if let Some(hub) = hub.upgrade() {
        hub.faults.end(under_way.id);
    }
}

fn start(hub: &Hub, under_way: &UnderWay) {
    hub.faults.act(under_way.id);
    strike::strike(hub, under_way);
}

#[cfg(test)]
mod tests {
    use super::{Fault, FaultKind, FaultScope, Faults, Place};

    fn begin(faults: &Faults, fault: &Fault) -> u64 {
        let id = faults.begin(fault, "").unwrap().id;
        faults.act(id);
        id
    }

    #[test]
    fn a_state_is_in_force_where_its_scope_says_and_until_it_ends() {
        let faults = Faults::default();
        let place = |connection, device| Place { connection, device };
        let fault = Fault::new(FaultKind::CreditZero).on(FaultScope::Device("a".to_owned()));
        let id = begin(&faults, &fault);
        let at = |place| faults.at(FaultKind::CreditZero, place).is_some();
        assert!(at(place(Some(1), Some("a"))));
        assert!(!at(place(Some(1), Some("b"))));
        assert!(!at(place(Some(1), None)));
        assert!(
            faults
                .at(FaultKind::DispositionNever, place(None, Some("a")))
                .is_none()
        );
        faults.end(id);
        assert!(!at(place(Some(1), Some("a"))) && faults.none());

        begin(
            &faults,
            &Fault::new(FaultKind::BlackHole).on(FaultScope::Connection(7)),
        );
        assert!(
            faults
                .at(FaultKind::BlackHole, place(Some(7), None))
                .is_some()
        );
        assert!(
            faults
                .at(FaultKind::BlackHole, place(Some(8), None))
                .is_none()
        );
        assert_eq!(faults.clear(), 1);
        assert!(faults.none());
    }

    #[test]
    fn the_number_of_faults_under_way_is_bounded() {
        let faults = Faults::default();
        let fault = Fault::new(FaultKind::CreditZero);
        for _ in 0..super::UNDER_WAY_MAX {
            begin(&faults, &fault);
        }
        assert!(faults.begin(&fault, "").is_none());
    }

    #[test]
    fn every_kind_has_a_bit() {
        assert!(FaultKind::ALL.len() <= 64);
    }
}
