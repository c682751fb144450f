//! How much memory the process may use, and uses: `limit{limit="memory_bytes"}`. The smallest of
//! its control groups' limits (cgroup v2: a container's, a service's `MemoryMax`) and the
//! machine's memory; Linux, elsewhere nothing is said.

use std::fs;
use std::path::{Path, PathBuf};

/// The bound, bytes.
#[must_use]
pub fn bound() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    smallest(&groups, &machine, |file| fs::read_to_string(file).ok())
}

/// Resident memory, bytes: proc(5), `/proc/pid/statm`.
#[must_use]
pub fn resident() -> Option<usize> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size())
}

/// The smallest limit of the machine and of the group and those above it, whose files `read` reads.
fn smallest(groups: &str, machine: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let root = Path::new("/sys/fs/cgroup");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let folder: PathBuf = root.join(own.unwrap_or_default());
    let limits = folder
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| read(&folder.join("memory.max")))
        .filter_map(|text| text.trim().parse().ok()); // "max" is no limit
    limits.chain(total(machine)).min()
}

/// `MemTotal` of proc(5), `/proc/meminfo`.
fn total(machine: &str) -> Option<usize> {
    let line = machine.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::{bound, resident, smallest};
    use std::path::Path;

    const MACHINE: &str = "MemTotal:        4194304 kB\nMemFree:  1 kB\n";

    fn at(limits: &'static [(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        move |file| {
            let found = limits.iter().find(|(path, _)| Path::new(path) == file);
            found.map(|(_, text)| format!("{text}\n"))
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let limits = at(&[
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            ("/sys/fs/cgroup/a/memory.max", "1048576"),
            ("/sys/fs/cgroup/memory.max", "2097152"),
            ("/sys/fs/memory.max", "1"),
        ]);
        assert_eq!(smallest("0::/a/b\n", MACHINE, &limits), Some(1 << 20));
        assert_eq!(smallest("0::/\n", MACHINE, &limits), Some(2 << 20));
        assert_eq!(smallest("", MACHINE, &limits), Some(2 << 20));
    }

    #[test]
    fn without_a_group_it_is_the_machines_memory() {
        let none = at(&[("/sys/fs/cgroup/memory.max", "max")]);
        assert_eq!(smallest("3:cpu:/x\n0::/x\n", MACHINE, &none), Some(4 << 30));
        assert_eq!(smallest("", "", &none), None);
    }

    #[test]
    fn this_process_uses_less_than_it_may() {
        let (resident, bound) = (resident().expect("statm"), bound().expect("meminfo"));
        assert!(resident > 1 << 20 && resident < bound, "{resident} {bound}");
    }
}
