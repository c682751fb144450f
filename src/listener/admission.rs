//! Permits: how many connections, handshakes and password checks, in total and per source.
//!
//! A socket over a bound is refused at once; it never waits, because waiting is what a flood
//! wants. Permits give themselves back when dropped and travel with what they admit. The table
//! of sources holds only sources that hold a permit, so the bound on connections bounds it.

use crate::config::limits::Limits;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places in the password queue per check that may run at once: at tens of milliseconds a check
/// the last place still answers within the patience of the check.
const PASSWORD_QUEUE: usize = 8;

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
    /// `disconnects_total{reason}`.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Connections => "limit_connections",
            Self::ConnectionsOfSource => "limit_connections_per_source",
            Self::Handshakes => "limit_handshakes",
            Self::HandshakesOfSource => "limit_handshakes_per_source",
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

#[derive(Default)]
struct State {
    all: Counts,
    sources: HashMap<IpAddr, Counts>,
}

/// The door all listeners share.
pub(super) struct Gate {
    total: Counts,
    per_source: Counts,
    state: Mutex<State>,
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let queue = limits.password_checks.saturating_mul(PASSWORD_QUEUE);
        Arc::new(Self {
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
            state: Mutex::new(State::default()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a socket from `source`: a permit for the connection's whole life, and one for its
    /// handshake, up to the answer to CONNECT.
    pub(super) fn admit(self: &Arc<Self>, source: IpAddr) -> Result<(Permit, Permit), Refused> {
        let source = bucket(source);
        let mut state = self.state();
        let mine = state.sources.get(&source).copied().unwrap_or_default();
        let refused = if state.all.connections >= self.total.connections {
            Some(Refused::Connections)
        } else if mine.connections >= self.per_source.connections {
            Some(Refused::ConnectionsOfSource)
        } else if state.all.handshakes >= self.total.handshakes {
            Some(Refused::Handshakes)
        } else if mine.handshakes >= self.per_source.handshakes {
            Some(Refused::HandshakesOfSource)
        } else {
            None
        };
        match refused {
            Some(refused) => Err(refused),
            None => Ok((
                self.take(&mut state, source, Kind::Connection),
                self.take(&mut state, source, Kind::Handshake),
            )),
        }
    }

    /// A place in the queue for a password check; `None` when the queue, or the source's share of
    /// it, is full.
    pub(super) fn password(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        let source = bucket(source);
        let mut state = self.state();
        let mine = state.sources.get(&source).copied().unwrap_or_default();
        let free = state.all.passwords < self.total.passwords
            && mine.passwords < self.per_source.passwords;
        free.then(|| self.take(&mut state, source, Kind::Password))
    }

    /// What is out of each bound, and the bound: `limit{limit}`.
    pub(super) fn uses(&self) -> [(&'static str, usize, usize); 3] {
        let all = self.state().all;
        let total = self.total;
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
        state.all == Counts::default() && state.sources.is_empty()
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

    fn give_back(&self, source: IpAddr, kind: Kind) {
        let mut state = self.state();
        *state.all.of(kind) -= 1;
        if let Entry::Occupied(mut entry) = state.sources.entry(source) {
            *entry.get_mut().of(kind) -= 1;
            if *entry.get() == Counts::default() {
                entry.remove();
            }
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
mod tests {
    use super::{Gate, Refused};
    use crate::config::limits::Limits;
    use std::net::IpAddr;
    use std::sync::Arc;

    fn gate(connections: usize, per_source: usize, handshakes: usize) -> Arc<Gate> {
        Gate::new(&Limits {
            connections,
            connections_per_source: per_source,
            handshakes,
            handshakes_per_source: 2,
            password_checks: 1,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn assert_empty(gate: &Gate) {
        assert!(gate.is_idle(), "a permit or a source was kept");
    }

    #[test]
    fn the_total_is_a_bound_and_comes_back() {
        let gate = gate(2, 2, 9);
        let a = gate.admit(ip("10.0.0.1")).unwrap();
        let b = gate.admit(ip("10.0.0.2")).unwrap();
        let over = gate.admit(ip("10.0.0.3")).err();
        assert_eq!(over, Some(Refused::Connections));
        drop(a);
        let c = gate.admit(ip("10.0.0.3")).unwrap();
        drop((b, c));
        assert_empty(&gate);
    }

    #[test]
    fn one_source_cannot_take_the_places_of_others() {
        let gate = gate(9, 2, 9);
        let (_a, handshake) = gate.admit(ip("10.0.0.1")).unwrap();
        drop(handshake);
        let _b = gate.admit(ip("10.0.0.1")).unwrap();
        let over = gate.admit(ip("10.0.0.1")).err();
        assert_eq!(over, Some(Refused::ConnectionsOfSource));
        assert!(gate.admit(ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn half_open_handshakes_of_one_source_leave_room_for_another() {
        let gate = gate(99, 99, 3);
        let _held = [
            gate.admit(ip("10.0.0.1")).unwrap(),
            gate.admit(ip("10.0.0.1")).unwrap(),
        ];
        let over = gate.admit(ip("10.0.0.1")).err();
        assert_eq!(over, Some(Refused::HandshakesOfSource));
        let _other = gate.admit(ip("10.0.0.2")).unwrap();
        let full = gate.admit(ip("10.0.0.3")).err();
        assert_eq!(full, Some(Refused::Handshakes));
    }

    #[test]
    fn a_finished_handshake_frees_its_place_while_the_connection_stays() {
        let gate = gate(99, 99, 1);
        let (connection, handshake) = gate.admit(ip("10.0.0.1")).unwrap();
        assert!(gate.admit(ip("10.0.0.2")).is_err());
        drop(handshake);
        drop(gate.admit(ip("10.0.0.2")).unwrap());
        drop(connection);
        assert_empty(&gate);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let gate = gate(1, 1, 1);
        let held = gate.admit(ip("10.0.0.1")).unwrap();
        for _ in 0..100 {
            assert!(gate.admit(ip("10.0.0.9")).is_err());
        }
        drop(held);
        assert_empty(&gate);
    }

    #[test]
    fn an_ipv6_host_is_one_source_whatever_address_it_picks() {
        let gate = gate(9, 1, 9);
        let _held = gate.admit(ip("2001:db8:1:2:aaaa::1")).unwrap();
        assert!(gate.admit(ip("2001:db8:1:2:bbbb::2")).is_err());
        assert!(gate.admit(ip("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_source() {
        let gate = gate(9, 1, 9);
        let _held = gate.admit(ip("::ffff:10.0.0.1")).unwrap();
        assert!(gate.admit(ip("10.0.0.1")).is_err());
    }

    #[test]
    fn a_password_flood_of_one_source_leaves_places() {
        let gate = gate(99, 99, 99);
        let mine: Vec<_> = std::iter::from_fn(|| gate.password(ip("10.0.0.1"))).collect();
        assert_eq!(mine.len(), 6);
        let others: Vec<_> = std::iter::from_fn(|| gate.password(ip("10.0.0.2"))).collect();
        assert_eq!(others.len(), 2);
        drop((mine, others));
        assert_empty(&gate);
    }
}
