//! What a process has used, from Linux' `/proc`. CPU time has a grain of 10 ms: it is counted in
//! clock ticks, of which `sysconf(_SC_CLK_TCK)` is 100 a second on every Linux.

use std::time::Duration;

/// One clock tick of `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// CPU time and memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since the process started.
    pub cpu: Duration,
    /// Resident memory, KiB.
    pub resident_kib: u64,
}

/// Reads `/proc/{process}`; `None` when there is no such process (any more).
#[must_use]
pub fn usage(process: &str) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(Usage {
        cpu: cpu(&stat)?,
        resident_kib: resident(&status)?,
    })
}

/// utime and stime, the 14th and 15th field; the second one, the name, may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{cpu, resident, usage};
    use std::time::Duration;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("7 (a"), None);
    }

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t  5120 kB\n"), Some(5120));
        assert_eq!(resident("Name:\tkernel\n"), None);
    }

    #[test]
    fn this_process_has_some_and_no_process_has_none() {
        assert!(usage("self").unwrap().resident_kib > 100);
        assert_eq!(usage("4294967295"), None);
    }
}
