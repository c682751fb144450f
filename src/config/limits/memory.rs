//! The arithmetic of worst-case memory: which bound multiplies what.
//!
//! Each row is an upper bound that can be reached by hostile or unlucky devices, not an average.
//! A bound that lives inside another one (messages within bytes) is not counted twice.

use super::{KIB, Limits, MIB};

/// The process before the first device: code, runtime, metrics, caches, the queues of the
/// log and of spans.
const BASE_BYTES: usize = 64 * MIB;
/// A connected device that is silent: TLS state (12 KiB measured), its task and session, its
/// entry in the registry, and two AMQP links (6 KiB measured each).
const IDLE_BYTES: usize = 32 * KIB;
/// A handshake in progress: TLS buffers, the ClientHello kept for the choice of stack, and a
/// CONNECT being read.
const HANDSHAKE_BYTES: usize = 64 * KIB;
/// The largest command the hub sends (wire sheet: 64 KiB).
const COMMAND_BYTES: usize = 64 * KIB;
/// What the hub may send of a twin ahead of the device's socket: two messages, a twin at most each.
const TWIN_BYTES_AHEAD: usize = 2 * 72 * KIB;
/// Method calls and answers on their way to a device or back.
const METHODS_UNDER_WAY: usize = 4;
/// What is known of a method call a device has, bytes.
const CALL_BYTES: usize = 256;
/// An argon2id computation; hashes that ask for more are refused.
const PASSWORD_CHECK_BYTES: usize = 64 * MIB;
/// An AMQP session: its task and channels (19 kB measured).
const SESSION_BYTES: usize = 20 * KIB;

fn row(
    what: &'static str,
    (count_key, count): (&'static str, usize),
    (each_key, each): (&'static str, usize),
) -> MemoryRow {
    MemoryRow {
        what,
        count_key,
        count: count as u64,
        each_key,
        each: each as u64,
    }
}

/// One product of the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRow {
    /// What takes the memory.
    pub what: &'static str,
    /// The key that bounds `count`, or nothing when it is a property of the program.
    pub count_key: &'static str,
    /// How many.
    pub count: u64,
    /// The key that bounds `each`, or nothing.
    pub each_key: &'static str,
    /// Bytes of one.
    pub each: u64,
}

impl MemoryRow {
    /// `count` × `each`, bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.count.saturating_mul(self.each)
    }
}

/// The worst case and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// The products.
    pub rows: Vec<MemoryRow>,
}

impl WorstCase {
    /// The sum of all rows, bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rows
            .iter()
            .fold(0, |sum, row| sum.saturating_add(row.total()))
    }

    /// The part that is in use when every device is connected and silent, bytes.
    #[must_use]
    pub fn idle(&self) -> u64 {
        let idle = |row: &&MemoryRow| matches!(row.what, PROCESS | SILENT | SESSIONS);
        self.rows
            .iter()
            .filter(idle)
            .fold(0, |sum, row| sum.saturating_add(row.total()))
    }

    /// The row that weighs most: where lowering a limit helps first.
    #[must_use]
    pub fn heaviest(&self) -> Option<&MemoryRow> {
        self.rows.iter().max_by_key(|row| row.total())
    }
}

const PROCESS: &str = "the process itself";
const SILENT: &str = "silent devices";
const SESSIONS: &str = "AMQP sessions";

impl Limits {
    /// Bytes of one device's methods: what is on its way, and what is known of the calls it has.
    fn methods(&self) -> usize {
        let under_way = self.method_bytes.saturating_mul(METHODS_UNDER_WAY);
        under_way.saturating_add(self.method_calls.saturating_mul(CALL_BYTES))
    }

    /// Bytes of one device's twin.
    fn twin(&self) -> usize {
        let kept = self.twin_bytes.saturating_add(self.desired_bytes);
        kept.saturating_add(TWIN_BYTES_AHEAD)
    }

    /// The memory the process never exceeds, for a pool of `hub_connections` AMQP connections of
    /// `sessions_per_connection` sessions and `connection_bytes_max` unsettled bytes each.
    #[must_use]
    pub fn worst_case_bytes(
        &self,
        hub_connections: usize,
        sessions_per_connection: usize,
        connection_bytes_max: usize,
    ) -> WorstCase {
        let devices = ("limits.connections", self.connections);
        let commands = self.downlink_messages.saturating_mul(COMMAND_BYTES);
        let sessions = hub_connections.saturating_mul(sessions_per_connection);
        // A transfer exists encoded next to its payload until the socket has taken it.
        let on_the_wire = connection_bytes_max.saturating_mul(2);
        WorstCase {
            rows: vec![
                row(PROCESS, ("", 1), ("", BASE_BYTES)),
                row(SILENT, devices, ("", IDLE_BYTES)),
                row(
                    "packets being read",
                    devices,
                    ("limits.packet_bytes", self.packet_bytes),
                ),
                row(
                    "uplink undecided",
                    devices,
                    ("limits.uplink_bytes", self.uplink_bytes),
                ),
                row(
                    "commands undecided",
                    devices,
                    ("limits.downlink_messages", commands),
                ),
                row(
                    "method calls unanswered",
                    devices,
                    ("limits.method_bytes", self.methods()),
                ),
                row(
                    "twin requests and properties",
                    devices,
                    ("limits.twin_bytes", self.twin()),
                ),
                row(
                    "handshakes",
                    ("limits.handshakes", self.handshakes),
                    ("", HANDSHAKE_BYTES),
                ),
                row(
                    "password checks",
                    ("limits.password_checks", self.password_checks),
                    ("", PASSWORD_CHECK_BYTES),
                ),
                row(
                    SESSIONS,
                    ("hub.sessions_per_connection", sessions),
                    ("", SESSION_BYTES),
                ),
                row(
                    "transfers being written",
                    ("hub.connections", hub_connections),
                    ("hub.connection_bytes_max", on_the_wire),
                ),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_grows_with_every_bound_that_costs_memory() {
        let base = Limits::default().worst_case_bytes(16, 64, 2 * MIB).total();
        let changes: [fn(&mut Limits); 10] = [
            |l| l.connections += 1,
            |l| l.handshakes += 1,
            |l| l.packet_bytes += 1,
            |l| l.uplink_bytes += 1,
            |l| l.downlink_messages += 1,
            |l| l.password_checks += 1,
            |l| l.method_calls += 1,
            |l| l.method_bytes += 1,
            |l| l.twin_bytes += 1,
            |l| l.desired_bytes += 1,
        ];
        for change in changes {
            let mut limits = Limits::default();
            change(&mut limits);
            assert!(limits.worst_case_bytes(16, 64, 2 * MIB).total() > base);
        }
        assert!(Limits::default().worst_case_bytes(17, 64, 2 * MIB).total() > base);
    }

    #[test]
    fn absurd_bounds_saturate_and_do_not_overflow() {
        let limits = Limits {
            connections: usize::MAX,
            downlink_messages: usize::MAX,
            ..Limits::default()
        };
        let worst = limits.worst_case_bytes(usize::MAX, usize::MAX, usize::MAX);
        assert_eq!(worst.total(), u64::MAX);
    }

    #[test]
    fn a_silent_fleet_is_a_small_part_of_the_worst_case() {
        let worst = Limits::default().worst_case_bytes(16, 64, 2 * MIB);
        assert!(worst.idle() < worst.total() / 10);
        assert!(
            worst
                .heaviest()
                .is_some_and(|row| row.count_key == "limits.connections")
        );
    }
}
