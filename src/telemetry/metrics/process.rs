//! The standard `process_*` metrics of this process: processor time to the nanosecond, memory,
//! open files with their limit, threads, and when it started. Linux; elsewhere what is not known
//! is left out.

use crate::runtime::clock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// Collects the metrics of the process it runs in.
pub struct Process {
    cpu: Counter,
    start: Gauge,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
}

fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("metric names are constants, valid and distinct")
}

impl Process {
    /// A collector; its first one in a process tells the time of the start.
    pub fn new() -> Self {
        let cpu = Opts::new("process_cpu_seconds_total", "Processor time used, seconds.");
        let collector = Self {
            cpu: Counter::with_opts(cpu).expect("a constant, valid name"),
            start: gauge(
                "process_start_time_seconds",
                "When the process started, seconds since 1970.",
            ),
            resident: gauge("process_resident_memory_bytes", "Memory in use, bytes."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Address space, bytes."),
            open_fds: gauge("process_open_fds", "Open files and sockets."),
            max_fds: gauge("process_max_fds", "How many may be open."),
            threads: gauge("process_threads", "Threads."),
        };
        let age = started_ago().unwrap_or_default();
        let now = clock::unix().since(clock::Unix::default()).as_secs_f64();
        collector.start.set(now - age);
        collector
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    fn refresh(&self) {
        let used = cpu_seconds();
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
        if let Some((pages, resident)) = memory_pages() {
            let page = rustix::param::page_size() as f64;
            self.virtual_memory.set(pages * page);
            self.resident.set(resident * page);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The folder itself was open while its entries were counted.
            self.open_fds.set(entries.count().saturating_sub(1) as f64);
        }
        let max = getrlimit(Resource::Nofile).current;
        self.max_fds
            .set(max.map_or(f64::INFINITY, |max| max as f64));
        if let Ok(tasks) = fs::read_dir("/proc/self/task") {
            self.threads.set(tasks.count() as f64);
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.start,
            &self.resident,
            &self.virtual_memory,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.all()
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}

fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss)] // seconds and nanoseconds of processor time
    let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    seconds
}

/// Pages of address space, and pages resident: proc(5), `/proc/pid/statm`.
fn memory_pages() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split(' ').map(|field| field.parse().ok());
    Some((fields.next()??, fields.next()??))
}

/// Seconds since the process started: field 22 of proc(5), `/proc/pid/stat`, against the uptime.
fn started_ago() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, field 2, may hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: f64 = rest.split(' ').nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    #[allow(clippy::cast_precision_loss)] // a hundred
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some((uptime - ticks / per_second).max(0.0))
}
