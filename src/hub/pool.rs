//! Which connection and which session serve a device, and how many connections are open.
//!
//! The pool starts small and opens connections as devices need them. A device is placed when it
//! first sends or subscribes. Rendezvous hashing returns it to the same connection while the pool
//! is even, so that its old links and its new ones meet in the same session and cannot overtake
//! each other; where that connection holds clearly more than the emptiest one, the next choice is
//! taken. Devices that are quiet leave a connection that has become crowded; live traffic is never
//! moved. Sessions are chosen by an independent hash: one derived from the connection's would
//! leave most of them empty.

use super::lane::Lane;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections open from the start, so that one may fail.
const OPEN_MIN: usize = 2;

/// All connections, open or not.
pub struct Pool {
    lanes: Box<[Arc<Lane>]>,
    /// How many are to be open; also keeps placements one after the other.
    open: Mutex<usize>,
    devices: AtomicUsize,
    devices_max: usize,
}

impl Pool {
    /// A pool of `lanes`, of which the first two are to be open; `devices_max` on each.
    pub fn new(lanes: impl Iterator<Item = Lane>, devices_max: usize) -> Self {
        let lanes: Box<[Arc<Lane>]> = lanes.map(Arc::new).collect();
        let open = lanes.len().min(OPEN_MIN);
        for lane in &lanes[..open] {
            lane.wanted.cancel();
        }
        Self {
            lanes,
            open: Mutex::new(open),
            devices: AtomicUsize::new(0),
            devices_max,
        }
    }

    /// Every connection, whether it is to be open or not.
    pub fn lanes(&self) -> &[Arc<Lane>] {
        &self.lanes
    }

    /// How many connections are to be open.
    pub fn open(&self) -> usize {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a device, unless as many are here as all connections together may hold.
    pub fn admit(&self) -> bool {
        let max = self.lanes.len() * self.devices_max;
        let more = |n: usize| (n < max).then_some(n + 1);
        let order = Ordering::Relaxed;
        self.devices.fetch_update(order, order, more).is_ok()
    }

    /// Devices counted, and how many may be.
    pub fn use_and_bound(&self) -> (usize, usize) {
        let bound = self.lanes.len() * self.devices_max;
        (self.devices.load(Ordering::Relaxed), bound)
    }

    /// A counted device left.
    pub fn leave(&self) {
        self.devices.fetch_sub(1, Ordering::Relaxed);
    }

    /// Finds a connection with room for `device` and counts it there; opens one more when those
    /// that are open are half full.
    pub fn place(&self, device: &impl Hash) -> Option<Arc<Lane>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let placed: usize = self.lanes[..*open].iter().map(|lane| lane.load()).sum();
        if placed >= *open * (self.devices_max / 2).max(1)
            && let Some(next) = self.lanes.get(*open)
        {
            next.wanted.cancel();
            *open += 1;
        }
        let lanes = &self.lanes[..*open];
        let seats: Vec<Seat> = lanes.iter().map(|lane| lane.seat()).collect();
        let chosen = choose(&preference(device, lanes.len()), &seats, self.devices_max)?;
        lanes[chosen].devices.fetch_add(1, Ordering::Relaxed);
        mark(lanes);
        Some(Arc::clone(&lanes[chosen]))
    }

    /// A placed device leaves `lane`.
    pub fn vacate(&self, lane: &Lane) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        lane.devices.fetch_sub(1, Ordering::Relaxed);
        mark(&self.lanes[..*open]);
    }

    /// A connection has won or lost its token.
    pub fn changed(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        mark(&self.lanes[..*open]);
    }
}

/// Tells each connection whether quiet devices should leave it.
fn mark(lanes: &[Arc<Lane>]) {
    let seats: Vec<Seat> = lanes.iter().map(|lane| lane.seat()).collect();
    for (index, lane) in lanes.iter().enumerate() {
        lane.crowded
            .store(crowded(index, &seats), Ordering::Relaxed);
    }
}

/// What a choice goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Devices placed there.
    pub devices: usize,
    /// Whether it is open and holds a token.
    pub healthy: bool,
}

/// The first connection in order of preference that is healthy and holds at most a tenth more
/// than the emptiest; failing that, the emptiest with room.
fn choose(preference: &[usize], seats: &[Seat], devices_max: usize) -> Option<usize> {
    let room = |seat: &Seat| seat.devices < devices_max;
    let usable = |healthy: bool| {
        let fit = move |index: &&usize| room(&seats[**index]) && seats[**index].healthy == healthy;
        preference.iter().filter(fit).copied()
    };
    [true, false].into_iter().find_map(|healthy| {
        let low = usable(healthy).map(|index| seats[index].devices).min()?;
        usable(healthy).find(|index| seats[*index].devices <= low + (low / 10).max(2))
    })
}

/// Whether a connection holds so many more than the emptiest healthy one that quiet devices
/// should go. The margin is wider than that of `choose`, so that nobody goes to and fro.
fn crowded(index: usize, seats: &[Seat]) -> bool {
    let others = seats
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index);
    let low = others
        .filter(|(_, seat)| seat.healthy)
        .map(|(_, seat)| seat.devices)
        .min();
    low.is_some_and(|low| seats[index].devices > low + (low * 3 / 20).max(4))
}

/// The connections in the order in which `device` prefers them.
fn preference(device: &impl Hash, connections: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..connections).collect();
    order.sort_by_cached_key(|index| std::cmp::Reverse(weight("connection", *index, device)));
    order
}

/// The session of `device` on any connection.
pub fn session(device: &impl Hash, sessions: usize) -> usize {
    let weight = weight("session", 0, device);
    usize::try_from(weight % sessions.max(1) as u64).unwrap_or(0)
}

fn weight(salt: &str, index: usize, device: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (salt, index).hash(&mut hasher);
    device.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{Lane, Pool, Seat, choose, crowded, preference, session};
    use std::sync::Arc;

    fn seats(devices: &[usize]) -> Vec<Seat> {
        let seat = |devices: &usize| Seat {
            devices: *devices,
            healthy: true,
        };
        devices.iter().map(seat).collect()
    }

    fn pool(connections: usize, devices_max: usize) -> Pool {
        let pool = Pool::new(
            (0..connections).map(|index| Lane::new(index, 1, 1)),
            devices_max,
        );
        for lane in pool.lanes() {
            lane.authorized.replace(true);
        }
        pool
    }

    fn loads(pool: &Pool) -> Vec<usize> {
        pool.lanes().iter().map(|lane| lane.load()).collect()
    }

    #[test]
    fn devices_spread_evenly_over_sessions() {
        let mut cells = vec![0u32; 64];
        for n in 0..8000 {
            cells[session(&format!("device-{n}"), 64)] += 1;
        }
        assert!(cells.iter().all(|n| (80..180).contains(n)), "{cells:?}");
    }

    #[test]
    fn a_device_keeps_its_connection_while_the_pool_is_even() {
        let order = preference(&"thermo-1", 5);
        assert_eq!(order, preference(&"thermo-1", 5));
        let even = seats(&[100, 101, 99, 100, 102]);
        assert_eq!(choose(&order, &even, 995), Some(order[0]));
        let mut uneven = even;
        uneven[order[0]].devices = 150;
        assert_eq!(choose(&order, &uneven, 995), Some(order[1]));
    }

    #[test]
    fn a_connection_that_is_down_or_full_is_the_last_choice() {
        let mut two = seats(&[10, 500]);
        two[0].healthy = false;
        assert_eq!(choose(&[0, 1], &two, 995), Some(1));
        assert_eq!(choose(&[0, 1], &two, 500), Some(0));
        two[1].healthy = false;
        assert_eq!(
            choose(&[1, 0], &two, 995),
            Some(0),
            "the emptiest waits best"
        );
        assert_eq!(choose(&[0, 1], &seats(&[7, 7]), 7), None);
    }

    #[test]
    fn a_small_site_keeps_two_connections() {
        let pool = pool(16, 995);
        for n in 0..900 {
            assert!(pool.place(&n).is_some());
        }
        assert_eq!(pool.open(), 2);
        assert_eq!(loads(&pool)[2..].iter().sum::<usize>(), 0);
    }

    #[test]
    fn the_pool_grows_to_its_end_and_then_is_full() {
        let pool = pool(4, 10);
        for n in 0..40 {
            assert!(pool.admit());
            assert!(pool.place(&n).is_some(), "{n}: {:?}", loads(&pool));
        }
        assert!(!pool.admit());
        assert!(pool.place(&41).is_none());
        assert_eq!(loads(&pool), [10; 4]);
        pool.leave();
        pool.vacate(&pool.lanes()[1]);
        assert!(pool.admit());
        assert_eq!(pool.place(&41).map(|lane| lane.index), Some(1));
    }

    #[test]
    fn quiet_devices_even_the_pool_out_after_it_grew_and_then_stay() {
        let pool = pool(16, 200);
        let mut placed: Vec<(usize, Arc<Lane>)> = Vec::new();
        let mut moves = 0;
        for n in 0..2000 {
            placed.push((n, pool.place(&n).unwrap()));
        }
        for _ in 0..3 {
            for (n, lane) in &mut placed {
                if lane.crowded() {
                    pool.vacate(lane);
                    *lane = pool.place(n).unwrap();
                    moves += 1;
                }
            }
        }
        let loads = loads(&pool);
        let (max, min) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
        assert!(max * 10 <= min * 12, "{loads:?}");
        assert_eq!(pool.open(), 16);
        assert!(moves < 1000, "{moves} moves");
        assert!(placed.iter().all(|(_, lane)| !lane.crowded()));
    }

    #[test]
    fn nobody_flees_to_a_connection_that_is_down() {
        let mut two = seats(&[100, 0]);
        assert!(crowded(0, &two));
        two[1].healthy = false;
        assert!(!crowded(0, &two));
        assert!(!crowded(0, &seats(&[4, 0])), "a handful is no crowd");
    }
}
