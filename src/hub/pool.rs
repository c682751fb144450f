//! Which connection and which session serve a device.
//!
//! Rendezvous hashing: a device always returns to the same connection while that has room, so its
//! old links and its new ones meet in the same session and cannot overtake each other. Sessions
//! are chosen by an independent hash: one derived from the connection's would leave most of them
//! empty.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The connections in the order in which `device` prefers them.
pub fn preference(device: &impl Hash, connections: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..connections).collect();
    order.sort_by_key(|index| std::cmp::Reverse(weight("connection", *index, device)));
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
    use super::{preference, session};

    #[test]
    fn devices_spread_evenly_over_connections_and_sessions() {
        let mut connections = [0u32; 4];
        let mut cells = vec![0u32; 4 * 16];
        for n in 0..8000 {
            let device = format!("device-{n}");
            let first = preference(&device, 4)[0];
            connections[first] += 1;
            cells[first * 16 + session(&device, 16)] += 1;
        }
        assert!(
            connections.iter().all(|n| (1800..2200).contains(n)),
            "{connections:?}"
        );
        assert!(cells.iter().all(|n| (70..185).contains(n)), "{cells:?}");
    }

    #[test]
    fn a_device_keeps_its_connection_and_has_a_second_choice() {
        let first = preference(&"thermo-1", 5);
        assert_eq!(first, preference(&"thermo-1", 5));
        let mut all = first;
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
