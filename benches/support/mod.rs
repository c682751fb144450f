//! The harness of the benches: runs operations, counts allocations, takes times, prints a table,
//! and holds the figures to `budgets.toml`.
//!
//! A time is the median of many samples; an operation and its reference take turns, sample by
//! sample, so that a busy machine disturbs both alike. Allocations are those of the thread that
//! runs the operation. Times are taken under the counting allocator: a thread-local look-up at
//! each allocation, the same for both sides.
#![allow(dead_code)] // each bench uses its part

pub mod budgets;
pub mod fleet;

use budgets::Budgets;
use iothub_gateway::runtime::clock::mono;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

/// Length of one sample.
const SAMPLE: Duration = Duration::from_millis(10);
/// Samples of each operation; odd, so that the median is one of them.
const SAMPLES: usize = 25;
/// Operations before the first one counts.
const WARM_UP: u64 = 64;
/// Operations whose allocations are counted.
const COUNTED: u64 = 256;

/// What to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Times and allocations, all sizes: `cargo bench`.
    Full,
    /// Allocations only, no large sizes: the same on every machine, for `cargo test`.
    Counts,
}

/// What one operation costs.
#[derive(Clone, Debug)]
pub struct Row {
    /// `decode_publish_256`
    pub name: String,
    /// Nanoseconds per operation.
    pub ns: Option<f64>,
    /// Allocations per operation.
    pub allocations: Option<f64>,
    /// The same job done by somebody else.
    pub reference: Option<Reference>,
    /// Any other figure, with its unit.
    pub figure: Option<(f64, &'static str)>,
}

/// What the reference costs.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Who.
    pub name: &'static str,
    /// Nanoseconds per operation.
    pub ns: Option<f64>,
    /// Allocations per operation.
    pub allocations: f64,
}

impl Row {
    /// Our time ÷ the reference's.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ns? / self.reference?.ns?)
    }
}

/// The operations of one bench.
pub struct Suite {
    name: &'static str,
    mode: Mode,
    /// Only operations whose name holds one of these.
    filters: Vec<String>,
    rows: Vec<Row>,
}

impl Suite {
    /// A suite named like its table in `budgets.toml`.
    pub fn new(name: &'static str, mode: Mode) -> Self {
        Self {
            name,
            mode,
            filters: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Whether large sizes and times are wanted.
    pub fn full(&self) -> bool {
        self.mode == Mode::Full
    }

    /// Whether an operation of this name is wanted; ask before a costly preparation.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }

    /// What was found.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Measures `op`.
    pub fn op<T>(&mut self, name: &str, mut op: impl FnMut() -> T) {
        if !self.wants(name) {
            return;
        }
        let allocations = count(&mut op);
        let ns = self.full().then(|| {
            let rounds = rounds(&mut op);
            median((0..SAMPLES).map(|_| sample(&mut op, rounds)).collect())
        });
        self.rows.push(Row {
            name: name.to_owned(),
            ns,
            allocations: Some(allocations),
            reference: None,
            figure: None,
        });
    }

    /// Measures `op` and the same job done by `reference`, taking turns.
    pub fn versus<T, U>(
        &mut self,
        name: &str,
        mut op: impl FnMut() -> T,
        reference: &'static str,
        mut other: impl FnMut() -> U,
    ) {
        if !self.wants(name) {
            return;
        }
        let allocations = count(&mut op);
        let mut ns = None;
        let mut against = Reference {
            name: reference,
            ns: None,
            allocations: count(&mut other),
        };
        if self.full() {
            let (ours, theirs) = (rounds(&mut op), rounds(&mut other));
            let pairs: Vec<(f64, f64)> = (0..SAMPLES)
                .map(|_| (sample(&mut op, ours), sample(&mut other, theirs)))
                .collect();
            ns = Some(median(pairs.iter().map(|pair| pair.0).collect()));
            against.ns = Some(median(pairs.iter().map(|pair| pair.1).collect()));
        }
        self.rows.push(Row {
            name: name.to_owned(),
            ns,
            allocations: Some(allocations),
            reference: Some(against),
            figure: None,
        });
    }

    /// Runs a long `op` once; its time in nanoseconds, and its result.
    pub fn once<T>(&mut self, name: &str, op: impl FnOnce() -> T) -> T {
        let start = mono();
        let result = black_box(op());
        let took = mono().since(start);
        if self.full() && self.wants(name) {
            self.rows.push(Row {
                name: name.to_owned(),
                ns: Some(took.as_nanos() as f64),
                allocations: None,
                reference: None,
                figure: None,
            });
        }
        result
    }

    /// Notes a figure that is not a time, e.g. bytes.
    pub fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        if self.wants(name) {
            self.rows.push(Row {
                name: name.to_owned(),
                ns: None,
                allocations: None,
                reference: None,
                figure: Some((value, unit)),
            });
        }
    }

    /// What breaks its budget, one sentence each. In `Full` mode without filters, also budgets
    /// nobody measures any more.
    pub fn broken(&self, budgets: &Budgets) -> Vec<String> {
        // Without optimisation, times compare compilers' habits.
        let ratios = !cfg!(debug_assertions);
        let mut broken = budgets.broken(self.name, &self.rows, ratios);
        if self.full() && self.filters.is_empty() {
            broken.extend(budgets.stale(self.name, &self.rows));
        }
        broken
    }

    fn print(&self) {
        println!("\n{}", self.name);
        println!(
            "  {:<34} {:>12} {:>10}   reference",
            "operation", "ns/op", "allocs/op"
        );
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Row) -> String {
    if let Some((value, unit)) = row.figure {
        return format!("  {:<34} {value:>12.1} {unit}", row.name);
    }
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "–".to_owned(),
    };
    let reference = row.reference.map_or_else(String::new, |reference| {
        let ratio = row.ratio().map(|ratio| format!("{ratio:.2} × "));
        let (ns, allocations) = (number(reference.ns, 1), reference.allocations);
        let ratio = ratio.unwrap_or_default();
        format!(
            "{ratio}{} ({ns} ns, {allocations:.2} allocs)",
            reference.name
        )
    });
    let (ns, allocations) = (number(row.ns, 1), number(row.allocations, 2));
    format!(
        "  {:<34} {ns:>12} {allocations:>10}   {reference}",
        row.name
    )
}

/// The `main` of a bench: measures what the command line names, prints the table, and says which
/// budgets are broken. Exit status 1 when one is.
pub fn main(name: &'static str, cases: impl FnOnce(&mut Suite)) -> ExitCode {
    // `cargo bench` says `--bench`; `cargo test --benches` does not and only wants to see it run.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let mut suite = Suite::new(name, if full { Mode::Full } else { Mode::Counts });
    suite.filters = arguments
        .into_iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    cases(&mut suite);
    suite.print();
    let broken = suite.broken(&Budgets::load());
    for sentence in &broken {
        println!("  BUDGET {sentence}");
    }
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Allocations per operation, after a warm-up.
pub fn count<T>(op: &mut impl FnMut() -> T) -> f64 {
    for _ in 0..WARM_UP {
        black_box(op());
    }
    let info = allocation_counter::measure(|| {
        for _ in 0..COUNTED {
            black_box(op());
        }
    });
    info.count_total as f64 / COUNTED as f64
}

/// How often `op` fits into one sample.
fn rounds<T>(op: &mut impl FnMut() -> T) -> u64 {
    let mut rounds = 1_u64;
    loop {
        let start = mono();
        for _ in 0..rounds {
            black_box(op());
        }
        let took = mono().since(start);
        if took >= SAMPLE / 4 {
            let fit = SAMPLE.as_secs_f64() / took.as_secs_f64() * rounds as f64;
            return (fit as u64).max(1);
        }
        rounds = rounds.saturating_mul(4);
    }
}

/// Nanoseconds per operation over one sample.
fn sample<T>(op: &mut impl FnMut() -> T, rounds: u64) -> f64 {
    let start = mono();
    for _ in 0..rounds {
        black_box(op());
    }
    mono().since(start).as_nanos() as f64 / rounds as f64
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
