//! `check`: everything that can be known about a configuration without opening a port.
//!
//! `ask` answers `--as`: which rule decides about a device. `look` finds what loads and still
//! will not work: certificates at their end, CAs no listener trusts, secrets others can read.

mod ask;
mod look;
mod reason;

use super::exit::Exit;
use super::output;
use crate::auth::rules::RuleSet;
use crate::config::limits::WorstCase;
use crate::config::values::{human_count, human_size, show_duration};
use crate::config::{Config, Problem, Setting, examine};
use crate::gateway::{environment, load_rules};
use crate::telemetry::log::capped;
use crate::telemetry::metrics::memory;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub use ask::Question;

/// Arguments of `check`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Whom to ask the rules about.
    #[command(flatten)]
    pub question: Question,
}

/// What `check` found.
#[derive(Debug)]
pub struct Report {
    /// The configuration, as far as it can be read.
    pub config: Option<Config>,
    /// The rules, when they can be read.
    pub rules: Option<RuleSet>,
    /// What is wrong; empty when the configuration can be served.
    pub problems: Vec<Problem>,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// Every key with its value and origin, secrets hidden.
    pub settings: Vec<Setting>,
}

/// Checks and prints: problems to standard error and exit code 64 (66 when there is no file), or
/// the effective configuration and its worst-case memory to standard output and exit code 0.
///
/// With a question: the answer instead of the configuration, and exit code 1 when it is no.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let report = check_all(&args.config, environment().into_iter());
    if !report.problems.is_empty() {
        print(&mut std::io::stderr(), &failure(&report));
        return Exit::of_input(&args.config).into();
    }
    match (&report.config, &report.rules) {
        (Some(config), Some(rules)) if args.question.is_asked() => {
            answer(&args.question, config, rules, &report.settings)
        }
        _ => {
            let printed = output::print(&summary(&args.config, &report));
            print(&mut std::io::stderr(), &warnings(&report));
            printed.or_lost(Exit::Done)
        }
    }
}

fn answer(question: &Question, config: &Config, rules: &RuleSet, settings: &[Setting]) -> ExitCode {
    match ask::answer(question, config, rules, settings) {
        Ok(answer) => {
            let printed = output::print(&answer.text);
            printed.or_lost(match answer.yes {
                true => Exit::Done,
                false => Exit::No,
            })
        }
        Err(wrong) => {
            print(&mut std::io::stderr(), &format!("check: {wrong}\n"));
            Exit::Usage.into()
        }
    }
}

/// Examines the configuration, the rules it names and the rules' own tests. Opens no port.
#[must_use]
pub fn check_all(path: &Path, env: impl Iterator<Item = (String, String)>) -> Report {
    let environment: BTreeMap<_, _> = env.collect();
    let examined = examine(path, environment.clone().into_iter());
    let mut report = Report {
        config: examined.draft,
        rules: None,
        problems: examined.problems,
        warnings: examined.warnings,
        settings: examined.settings,
    };
    let Some(config) = &report.config else {
        return report;
    };
    let sound = report.problems.is_empty();
    match load_rules(config, &environment) {
        Ok(rules) => {
            let failed = rules.run_expectations().into_iter();
            let failed = failed.map(|p| Problem::new(p.file, p.key, p.message));
            report.problems.extend(failed);
            let found = look::look(path, config, sound.then_some(&rules));
            report.problems.extend(found.problems);
            report.warnings.extend(found.warnings);
            let short = rules.counts().short_keys();
            let name = || crate::telemetry::log::capped(&path.display().to_string());
            let short = short.map(|text| Problem::new(name(), "rules", text));
            report.warnings.extend(short);
            let ends = rules.open_ends();
            let ends = ends.map(|(place, text)| Problem::new(place, "", text));
            report.warnings.extend(ends);
            report.rules = Some(rules);
        }
        Err(problems) => report.problems.extend(problems),
    }
    report
}

/// Output that nobody reads any more is no reason to fail.
fn print(out: &mut dyn std::io::Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn failure(report: &Report) -> String {
    let mut text = warnings(report);
    for problem in &report.problems {
        let _ = writeln!(text, "{problem}");
    }
    let _ = writeln!(text, "\n{}", plural(report.problems.len(), "problem"));
    text
}

fn warnings(report: &Report) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

pub(super) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

fn summary(path: &Path, report: &Report) -> String {
    let mut text = String::new();
    settings_table(&mut text, &report.settings);
    if let Some(config) = &report.config {
        let hub = &config.hub;
        let worst = config.limits.worst_case_bytes(
            hub.connections,
            hub.sessions_per_connection,
            hub.connection_bytes_max,
        );
        memory_table(&mut text, &worst);
        stop_time(&mut text, config);
        silence(&mut text, config);
    }
    let name = capped(&path.display().to_string());
    let remarks = match report.warnings.len() {
        0 => String::new(),
        count => format!(", {}", plural(count, "warning")),
    };
    if let Some(rules) = &report.rules {
        rules_line(&mut text, rules);
    }
    let _ = writeln!(text, "{name} is good{remarks}");
    text
}

/// `key = value` with who set it; what nobody set is left without a remark.
fn settings_table(text: &mut String, settings: &[Setting]) {
    let width =
        |len: fn(&Setting) -> usize, max| settings.iter().map(len).max().unwrap_or(0).min(max);
    let key_width = width(|setting| setting.key.chars().count(), 40);
    let value_width = width(|setting| setting.value.chars().count(), 40);
    let mut section = "";
    for setting in settings {
        let this = setting.key.split('.').next().unwrap_or_default();
        if !section.is_empty() && this != section {
            text.push('\n');
        }
        section = this;
        let Setting { key, value, origin } = setting;
        let _ = writeln!(text, "{key:key_width$}  {value:value_width$}  {origin}");
    }
}

/// What the rules hold, and how many of their own tests they passed.
fn rules_line(text: &mut String, rules: &RuleSet) {
    let counts = rules.counts();
    let _ = writeln!(
        text,
        "rules: {}, {}, PSK identities: {}, expectations that hold: {}",
        plural(counts.devices, "device"),
        plural(counts.rules, "rule"),
        human_count(counts.psk_identities as u64),
        counts.expectations,
    );
}

/// What an orchestrator must grant a stop: Kubernetes' `terminationGracePeriodSeconds`, systemd's
/// `TimeoutStopSec`.
fn stop_time(text: &mut String, config: &Config) {
    let shutdown = &config.shutdown;
    let longest = shutdown.longest(config.limits.connections);
    let _ = writeln!(
        text,
        "a stop takes at most {} s: announce {} + {} devices one after the other {} + settle {} + \
         close {}; grant as much (terminationGracePeriodSeconds, TimeoutStopSec)\n",
        longest.as_millis().div_ceil(1000),
        tenths(shutdown.announce),
        config.limits.connections,
        tenths(shutdown.paced(config.limits.connections)),
        tenths(shutdown.settle),
        tenths(shutdown.close),
    );
}

/// Seconds with one decimal where there is one, rounded up: less than that must not be granted.
fn tenths(time: Duration) -> String {
    let tenths = time.as_millis().div_ceil(100);
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        part => format!("{}.{part}", tenths / 10),
    }
}

/// How long a device may be silent, beside what a load balancer in front may allow.
fn silence(text: &mut String, config: &Config) {
    let limits = &config.limits;
    if limits.keep_alive_max > limits.keep_alive_advised {
        let _ = writeln!(
            text,
            "devices may ask for a keep-alive of up to {}; a load balancer in front may cut who is \
             silent for {} (long_keep_alive_connections shows them)\n",
            show_duration(limits.keep_alive_max),
            show_duration(limits.keep_alive_advised),
        );
    }
}

fn memory_table(text: &mut String, worst: &WorstCase) {
    text.push_str("\nmemory, worst case\n");
    for row in &worst.rows {
        let _ = writeln!(
            text,
            "  {:24} {:>9} × {:>8}  = {:>8}",
            row.what,
            human_count(row.count),
            human_size(row.each),
            human_size(row.total()),
        );
    }
    let _ = writeln!(
        text,
        "  {:24} {:>32}",
        "together",
        human_size(worst.total())
    );
    let _ = writeln!(
        text,
        "  {:24} {:>32}",
        "every device silent",
        human_size(worst.idle())
    );
    if let Some(available) = memory::bound().and_then(|bytes| u64::try_from(bytes).ok()) {
        let _ = writeln!(
            text,
            "  {:24} {:>32}",
            "this machine has",
            human_size(available)
        );
        if available < worst.total()
            && let Some(heaviest) = worst.heaviest()
        {
            let keys = [heaviest.count_key, heaviest.each_key];
            let keys: Vec<_> = keys.into_iter().filter(|key| !key.is_empty()).collect();
            let keys = keys.join(" or ");
            let _ = writeln!(
                text,
                "  devices could ask for more than there is; lower {keys}"
            );
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_is_not_problems() {
        assert_eq!(plural(1, "problem"), "1 problem");
        assert_eq!(plural(5, "problem"), "5 problems");
    }

    #[test]
    fn times_to_grant_are_rounded_up() {
        let said = [0, 1, 1_000, 1_300, 25_001].map(|ms| tenths(Duration::from_millis(ms)));
        assert_eq!(said, ["0", "0.1", "1", "1.3", "25.1"]);
    }

    #[test]
    fn the_memory_table_adds_up_for_a_reader() {
        let limits = crate::config::limits::Limits::default();
        let worst = limits.worst_case_bytes(16, 64, 2 * 1024 * 1024);
        let mut text = String::new();
        memory_table(&mut text, &worst);
        assert!(text.contains("15,000 ×  512 KiB  =  7.3 GiB"), "{text}");
        assert!(text.contains("together "), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
}
