//! Permits: how many connections, handshakes and password checks, in total and per source.
//!
//! A socket over a bound is refused at once, with one exception: when many devices come back
//! together, those that find every handshake taken stand in line, for a bounded time, unread and
//! therefore small. The line is bounded, and long only for a source from which devices have proved
//! themselves: waiting is what a flood wants. While such a line stands, a handshake whose client is
//! silent makes room for the next. Whose turn is next goes round by source. Permits give
//! themselves back when dropped and travel with what they admit. The table of sources holds only
//! sources that hold a permit, so the bound on connections bounds it.

use crate::config::limits::Limits;
use crate::telemetry::reason::Reason;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Places in the password queue per check that may run at once: at tens of milliseconds a check
/// the last place still answers within the patience of the check.
const PASSWORD_QUEUE: usize = 8;

/// Places in line for a handshake, for each handshake of a source that may be under way, where
/// nobody has proved anything yet.
const STRANGERS_LINE: usize = 4;

/// What a permit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Handshake,
    Password,
}

/// Why a socket was refused before a byte was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Connections,
    ConnectionsOfSource,
    Handshakes,
    HandshakesOfSource,
}

impl Refused {
    /// Its word.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Connections => Reason::LimitConnections,
            Self::ConnectionsOfSource => Reason::LimitConnectionsPerSource,
            Self::Handshakes => Reason::LimitHandshakes,
            Self::HandshakesOfSource => Reason::LimitHandshakesPerSource,
        }
    }

    /// The setting behind the bound.
    pub(super) const fn setting(self) -> &'static str {
        match self {
            Self::Connections => "limits.connections",
            Self::ConnectionsOfSource => "limits.connections_per_source",
            Self::Handshakes => "limits.handshakes",
            Self::HandshakesOfSource => "limits.handshakes_per_source",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    connections: usize,
    handshakes: usize,
    passwords: usize,
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Connection => &mut self.connections,
            Kind::Handshake => &mut self.handshakes,
            Kind::Password => &mut self.passwords,
        }
    }
}

/// Who waits for a handshake of one source.
#[derive(Default)]
struct Line {
    places: VecDeque<oneshot::Sender<Permit>>,
    /// Devices had proved themselves from there when the last one joined.
    proved: bool,
    /// Handshakes that were told to make room and have not gone yet.
    leaving: usize,
}

#[derive(Default)]
struct State {
    bounds: Bounds,
    all: Counts,
    sources: HashMap<IpAddr, Counts>,
    /// Who waits for a handshake, by source.
    lines: HashMap<IpAddr, Line>,
    /// The sources with a line, in the order of their next turn.
    round: VecDeque<IpAddr>,
    /// In all lines, those who gave up included until they are met.
    waiting: usize,
}

impl State {
    fn of(&self, source: IpAddr) -> Counts {
        self.sources.get(&source).copied().unwrap_or_default()
    }

    /// Takes those who gave up off the front of a line, and gives its length.
    fn line(&mut self, source: IpAddr) -> usize {
        let Some(line) = self.lines.get_mut(&source) else {
            return 0;
        };
        while line
            .places
            .pop_front_if(|place| place.is_closed())
            .is_some()
        {
            self.waiting -= 1;
        }
        line.places.len()
    }

    fn stand(&mut self, source: IpAddr, proved: bool) -> oneshot::Receiver<Permit> {
        let (place, turn) = oneshot::channel();
        let round = &mut self.round;
        let line = self.lines.entry(source).or_insert_with(|| {
            round.push_back(source);
            Line::default()
        });
        line.proved = proved;
        line.places.push_back(place);
        self.waiting += 1;
        turn
    }

    /// The first in line of the next source that has room of its own.
    fn next(&mut self) -> Option<(IpAddr, oneshot::Sender<Permit>)> {
        let per_source = self.bounds.per_source.handshakes;
        for _ in 0..self.round.len() {
            let source = self.round.pop_front()?;
            if self.line(source) == 0 {
                self.lines.remove(&source);
                continue;
            }
            self.round.push_back(source);
            if self.of(source).handshakes < per_source {
                let line = self.lines.get_mut(&source)?;
                line.leaving = line.leaving.saturating_sub(1);
                let place = line.places.pop_front()?;
                self.waiting -= 1;
                return Some((source, place));
            }
        }
        None
    }
}

/// The door all listeners share.
pub(super) struct Gate {
    state: Mutex<State>,
}

/// How many of everything.
#[derive(Clone, Copy, Default)]
struct Bounds {
    total: Counts,
    per_source: Counts,
    /// Places in line, all sources together, and for a source of strangers.
    line: usize,
    strangers_line: usize,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        let queue = limits.password_checks.saturating_mul(PASSWORD_QUEUE);
        Self {
            total: Counts {
                connections: limits.connections,
                handshakes: limits.handshakes,
                passwords: queue,
            },
            per_source: Counts {
                connections: limits.connections_per_source,
                handshakes: limits.handshakes_per_source,
                // One source can never take the places of all others.
                passwords: (queue / 4 * 3).max(1),
            },
            // A quarter of the connections is kept for those who need not wait.
            line: limits.connections / 4 * 3,
            strangers_line: limits.handshakes_per_source.saturating_mul(STRANGERS_LINE),
        }
    }
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                bounds: Bounds::of(limits),
                ..State::default()
            }),
        })
    }

    /// Admits by other bounds from here on; those of password checks stay. Who is in stays, too.
    pub(super) fn set_limits(&self, limits: &Limits) {
        let mut state = self.state();
        let before = state.bounds;
        state.bounds = Bounds::of(limits);
        state.bounds.total.passwords = before.total.passwords;
        state.bounds.per_source.passwords = before.per_source.passwords;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a socket from `source`: a permit for the connection's whole life, and one for its
    /// handshake, up to the answer to CONNECT, or a place in line for that. `proved`: devices have
    /// proved themselves from there.
    pub(super) fn admit(
        self: &Arc<Self>,
        source: IpAddr,
        proved: bool,
    ) -> Result<(Permit, Turn), Refused> {
        let source = bucket(source);
        let mut state = self.state();
        let (mine, bounds) = (state.of(source), state.bounds);
        let refused = if state.all.connections >= bounds.total.connections {
            Some(Refused::Connections)
        } else if mine.connections >= bounds.per_source.connections {
            Some(Refused::ConnectionsOfSource)
        } else if state.all.handshakes >= bounds.total.handshakes {
            Some(Refused::Handshakes)
        } else if mine.handshakes >= bounds.per_source.handshakes {
            Some(Refused::HandshakesOfSource)
        } else {
            None
        };
        match refused {
            None => Ok((
                self.take(&mut state, source, Kind::Connection),
                Turn::Now(self.take(&mut state, source, Kind::Handshake)),
            )),
            Some(full @ (Refused::Handshakes | Refused::HandshakesOfSource)) => {
                let mine = state.line(source);
                if state.waiting >= bounds.line || (!proved && mine >= bounds.strangers_line) {
                    return Err(full);
                }
                let connection = self.take(&mut state, source, Kind::Connection);
                Ok((connection, Turn::Later(state.stand(source, proved), full)))
            }
            Some(refused) => Err(refused),
        }
    }

    /// Whether a handshake whose client lets it wait has to make room: others stand in line for
    /// its place, and devices have proved themselves from there. It must go when told so; as many
    /// are told as there are others.
    pub(super) fn makes_room(&self, source: IpAddr) -> bool {
        let source = bucket(source);
        let mut state = self.state();
        let others = state.line(source);
        let Some(line) = state.lines.get_mut(&source) else {
            return false;
        };
        let told = line.proved && others > line.leaving;
        line.leaving += usize::from(told);
        told
    }

    /// A place in the queue for a password check; `None` when the queue, or the source's share of
    /// it, is full.
    pub(super) fn password(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        let source = bucket(source);
        let mut state = self.state();
        let (mine, bounds) = (state.of(source), state.bounds);
        let free = state.all.passwords < bounds.total.passwords
            && mine.passwords < bounds.per_source.passwords;
        free.then(|| self.take(&mut state, source, Kind::Password))
    }

    /// What is out of each bound, and the bound: `limit{limit}`.
    pub(super) fn uses(&self) -> [(&'static str, usize, usize); 3] {
        let state = self.state();
        let (all, total) = (state.all, state.bounds.total);
        [
            ("connections", all.connections, total.connections),
            ("handshakes", all.handshakes, total.handshakes),
            ("password_checks", all.passwords, total.passwords),
        ]
    }

    /// Whether every permit came back, and no source is remembered.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.all == Counts::default() && state.sources.is_empty() && state.waiting == 0
    }

    fn take(self: &Arc<Self>, state: &mut State, source: IpAddr, kind: Kind) -> Permit {
        *state.all.of(kind) += 1;
        *state.sources.entry(source).or_default().of(kind) += 1;
        Permit {
            gate: self.clone(),
            source,
            kind,
        }
    }

    fn give_back(self: &Arc<Self>, source: IpAddr, kind: Kind) {
        let mut state = self.state();
        *state.all.of(kind) -= 1;
        if let Entry::Occupied(mut entry) = state.sources.entry(source) {
            *entry.get_mut().of(kind) -= 1;
            if *entry.get() == Counts::default() {
                entry.remove();
            }
        }
        if kind == Kind::Handshake
            && state.all.handshakes < state.bounds.total.handshakes
            && let Some((source, place)) = state.next()
        {
            let permit = self.take(&mut state, source, Kind::Handshake);
            drop(state);
            // Who gave up this moment gives the permit back by dropping it.
            let _ = place.send(permit);
        }
    }
}

/// A handshake's permit, now or when its turn comes.
pub(super) enum Turn {
    Now(Permit),
    Later(oneshot::Receiver<Permit>, Refused),
}

impl Turn {
    /// Waits for the turn, for `patience` at most.
    pub(super) async fn come(self, patience: Duration) -> Result<Permit, Refused> {
        match self {
            Self::Now(permit) => Ok(permit),
            Self::Later(turn, full) => match tokio::time::timeout(patience, turn).await {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) | Err(_) => Err(full),
            },
        }
    }
}

/// One unit of a bound, given back on drop.
pub(super) struct Permit {
    gate: Arc<Gate>,
    source: IpAddr,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.give_back(self.source, self.kind);
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, within which a single host can
/// pick any address it likes.
pub(super) fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
