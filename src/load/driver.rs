//! Leads the devices through connect, hold, run and drain, and takes the readings in between.

use super::connect::Failure;
use super::device::{Outcome, Phase, Shared, live};
use super::ledger::{Judge, Ledger, Verdict};
use super::meter::{Meter, Totals};
use super::options::{Options, Pace};
use super::process::{Usage, usage};
use super::report::{ATTACH_RATE, Report, Server};
use super::schedule::Schedule;
use super::setup::Setup;
use crate::runtime::clock::{self, Mono};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

/// Different reasons counted apart; the rest is summed up.
const REASONS_MAX: usize = 32;
/// Time for the devices to begin together.
const START_DELAY: Duration = Duration::from_millis(20);
/// A line of progress this often where there is no terminal.
const PIPED_SECONDS: u64 = 5;

/// The readings of one moment.
#[derive(Clone, Copy)]
struct Moment {
    at: Mono,
    totals: Totals,
    server: Option<Usage>,
    own: Option<Usage>,
}

fn moment(shared: &Shared) -> Moment {
    let pid = shared.setup.options.pid;
    Moment {
        at: clock::mono(),
        totals: shared.meter.totals(),
        server: pid.and_then(|pid| usage(&pid.to_string())),
        own: usage("self"),
    }
}

/// Runs to the end of `options.duration`, or until `interrupt`, and reports in either case.
///
/// # Errors
/// What is wrong with the options, their files, the server's name or the ledger's address; nothing
/// has been connected then.
pub async fn run(
    options: Options,
    interrupt: impl Future<Output = ()>,
) -> Result<Report, Vec<String>> {
    let mut ledger = match &options.ledger {
        Some(url) => Some(
            Ledger::open(url, options.payload)
                .await
                .map_err(|e| vec![e])?,
        ),
        None => None,
    };
    let pid = options.pid.map(|pid| pid.to_string());
    if let Some(pid) = pid.filter(|pid| usage(pid).is_none()) {
        return Err(vec![format!("--pid {pid}: /proc/{pid} cannot be read")]);
    }
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let setup = Setup::new(options).await?;
    let shared = Arc::new(Shared {
        permits: Semaphore::new(setup.options.concurrency),
        setup,
        meter: Meter::new(threads),
        phase: watch::Sender::new(Phase::Hold),
        begun: clock::mono(),
        last_connected_ns: AtomicU64::new(0),
        settled: Notify::new(),
    });
    let progress = shared.setup.options.progress;
    let progress = progress.then(|| tokio::spawn(show_progress(shared.clone())));
    let (moments, outcomes) = lead(&shared, pin!(interrupt)).await;
    if let Some(progress) = progress {
        progress.abort();
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
    let mut report = report(&shared, &moments, &outcomes);
    if let Some(ledger) = &mut ledger {
        match judge(ledger, &shared.setup.options, &outcomes).await {
            Ok(verdict) => report.ledger = Some(verdict),
            Err(problem) => report.ledger_problem = Some(problem),
        }
    }
    Ok(report)
}

struct Moments {
    before: Moment,
    connected: Moment,
    /// Begin and end of the measured part.
    measured: Option<(Moment, Moment)>,
    schedule: Option<Schedule>,
    interrupted: bool,
}

async fn lead(
    shared: &Arc<Shared>,
    mut interrupt: Pin<&mut impl Future<Output = ()>>,
) -> (Moments, Vec<Outcome>) {
    let options = &shared.setup.options;
    let before = moment(shared);
    let mut tasks = JoinSet::new();
    for index in 0..options.devices {
        tasks.spawn(live(shared.clone(), index));
    }
    let mut interrupted = tokio::select! {
        () = shared.settled.notified() => false,
        () = &mut interrupt => true,
    };
    let connected = moment(shared);
    let mut moments = Moments {
        before,
        connected,
        measured: None,
        schedule: None,
        interrupted,
    };
    if interrupted {
        shared.phase.send_replace(Phase::End);
    } else if connected.totals.connected > 0 {
        let schedule = schedule(options);
        moments.schedule = Some(schedule);
        shared.phase.send_replace(Phase::Run(schedule));
        interrupted = until(schedule.from, interrupt.as_mut()).await;
        let from = moment(shared);
        interrupted = interrupted || until(schedule.until, interrupt).await;
        moments.measured = Some((from, moment(shared)));
        moments.interrupted = interrupted;
    }
    let end = clock::mono();
    if let Some(schedule) = &mut moments.schedule {
        schedule.until = schedule.until.min(end);
    }
    let outcomes = gather(shared, tasks, end).await;
    (moments, outcomes)
}

/// Waits; whether it was interrupted.
async fn until(at: Mono, interrupt: Pin<&mut impl Future<Output = ()>>) -> bool {
    tokio::select! {
        () = sleep(at.since(clock::mono())) => false,
        () = interrupt => true,
    }
}

fn schedule(options: &Options) -> Schedule {
    let start = clock::mono() + START_DELAY;
    let from = start + options.warmup;
    let rate = match options.pace {
        Pace::Open { rate } => rate,
        Pace::Closed | Pace::Idle => 0,
    };
    Schedule {
        start,
        from,
        until: from + options.duration,
        rate,
        devices: options.devices,
    }
}

/// Lets the devices finish, then makes them.
async fn gather(shared: &Shared, mut tasks: JoinSet<Outcome>, end: Mono) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(tasks.len());
    let drained = async {
        while let Some(joined) = tasks.join_next().await {
            outcomes.extend(joined.ok());
        }
    };
    shared.phase.send_if_modified(|phase| {
        let drains = *phase != Phase::End;
        if drains {
            *phase = Phase::Drain(end);
        }
        drains
    });
    if timeout(shared.setup.options.drain, drained).await.is_err() {
        shared.phase.send_replace(Phase::End);
        while let Some(joined) = tasks.join_next().await {
            outcomes.extend(joined.ok());
        }
    }
    outcomes
}

async fn judge(
    ledger: &mut Ledger,
    options: &Options,
    outcomes: &[Outcome],
) -> Result<Verdict, String> {
    let mut judge = Judge::new(options.payload, options.qos == 1);
    for outcome in outcomes {
        judge.expect(&outcome.id, outcome.sent, &outcome.open);
    }
    ledger.read_into(&mut judge).await?;
    Ok(judge.verdict())
}

fn reasons<'a>(failures: impl Iterator<Item = &'a Failure>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for Failure(reason) in failures {
        let known = counts.contains_key(reason) || counts.len() < REASONS_MAX;
        let reason = if known { reason } else { "other reasons" };
        *counts.entry(reason.to_owned()).or_default() += 1;
    }
    counts
}

#[allow(clippy::cast_precision_loss)] // rates are shown with one decimal
fn report(shared: &Shared, moments: &Moments, outcomes: &[Outcome]) -> Report {
    let (options, totals) = (&shared.setup.options, shared.meter.totals());
    let failed = outcomes.iter().filter(|o| !o.connected);
    let lost = outcomes.iter().filter(|o| o.connected);
    let last = Duration::from_nanos(shared.last_connected_ns.load(Ordering::Relaxed));
    let mut report = Report {
        devices: options.devices as u64,
        connected: totals.connected,
        failed: totals.failed,
        failures: reasons(failed.filter_map(|o| o.failure.as_ref())),
        lost: totals.lost,
        losses: reasons(lost.filter_map(|o| o.failure.as_ref())),
        connect_seconds: last.as_secs_f64(),
        connects_per_second: per_second(totals.connected, last),
        connect: shared.meter.connects(),
        qos: options.qos,
        sent: totals.sent,
        acknowledged: totals.acknowledged,
        unacknowledged: outcomes.iter().map(|o| o.open.len() as u64).sum(),
        acknowledged_out_of_order: totals.unordered,
        commands: totals.received,
        first_message: shared.meter.first(),
        first_unacknowledged: totals.begun.saturating_sub(totals.served),
        latency: shared.meter.latency(),
        interrupted: moments.interrupted,
        ..Report::default()
    };
    if let (Pace::Open { .. }, Some(schedule)) = (options.pace, moments.schedule) {
        report.planned = Some(schedule.planned());
        report.lateness = Some(shared.meter.lateness());
    }
    if let Some((from, until)) = &moments.measured {
        let elapsed = until.at.since(from.at);
        let count = |totals: &Totals| match options.qos {
            0 => totals.sent,
            _ => totals.acknowledged,
        };
        let messages = count(&until.totals) - count(&from.totals);
        report.measured_seconds = elapsed.as_secs_f64();
        report.measured_messages = messages;
        report.messages_per_second = per_second(messages, elapsed);
        report.own_cpu_us_per_message = cpu(from.own, until.own)
            .filter(|_| messages > 0)
            .map(|cpu| cpu.as_secs_f64() * 1e6 / messages as f64);
    }
    report.server = server(moments, &report);
    report
}

fn cpu(from: Option<Usage>, until: Option<Usage>) -> Option<Duration> {
    Some(until?.cpu.saturating_sub(from?.cpu))
}

#[allow(clippy::cast_precision_loss)] // shown with two decimals
fn server(moments: &Moments, report: &Report) -> Option<Server> {
    let (before, connected) = (moments.before.server?, moments.connected.server?);
    let per = |amount: f64, count: u64| (count > 0).then(|| amount / count as f64);
    let grown = |to: u64| to as f64 - before.resident_kib as f64;
    let connect_cpu = connected.cpu.saturating_sub(before.cpu);
    let mut server = Server {
        cpu_us_per_connect: per(connect_cpu.as_secs_f64() * 1e6, report.connected),
        resident_kib_before: before.resident_kib,
        resident_kib_connected: connected.resident_kib,
        resident_kib_per_device: per(grown(connected.resident_kib), report.connected),
        ..Server::default()
    };
    if let Some((from, until)) = &moments.measured
        && let Some(used) = cpu(from.server, until.server)
    {
        server.cpu_us_per_message = per(used.as_secs_f64() * 1e6, report.measured_messages);
        let elapsed = until.at.since(from.at).as_secs_f64();
        server.cpu_percent = (elapsed > 0.0).then(|| 100.0 * used.as_secs_f64() / elapsed);
        let resident = until.server.map_or(0, |usage| usage.resident_kib);
        server.resident_kib_after = Some(resident);
        server.resident_kib_per_device_after = per(grown(resident), report.connected);
    }
    Some(server)
}

#[allow(clippy::cast_precision_loss)] // shown with one decimal
fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    count as f64 / time.as_secs_f64()
}

/// A line a second in place on a terminal, or every five seconds below each other.
async fn show_progress(shared: Arc<Shared>) {
    let terminal = std::io::stderr().is_terminal();
    let mut second = interval(Duration::from_secs(1));
    second.tick().await;
    let (mut before, mut at) = (Totals::default(), shared.begun);
    for passed in 1_u64.. {
        second.tick().await;
        if !terminal && passed % PIPED_SECONDS != 0 {
            continue;
        }
        let (totals, now) = (shared.meter.totals(), clock::mono());
        let what = match *shared.phase.borrow() {
            Phase::Hold => "connect",
            Phase::Run(schedule) if now < schedule.from => "warm up",
            Phase::Run(_) => "run",
            Phase::Drain(_) | Phase::End => "drain",
        };
        let line = format!(
            "{passed:>4} s  {what:<8} connected {} of {}, failed {}, lost {}; sent {:.0}/s, \
             acknowledged {:.0}/s, commands {}{}",
            totals.connected,
            shared.setup.options.devices,
            totals.failed,
            totals.lost,
            per_second(totals.sent - before.sent, now.since(at)),
            per_second(totals.acknowledged - before.acknowledged, now.since(at)),
            totals.received,
            waiting(totals),
        );
        let mut stderr = std::io::stderr();
        // a closed terminal is no reason to stop
        let _ = if terminal {
            write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
        (before, at) = (totals, now);
    }
}

/// Devices whose first message has no answer yet, and what they wait for.
fn waiting(totals: Totals) -> String {
    match totals.begun.saturating_sub(totals.served) {
        0 => String::new(),
        count => format!(
            "; {count} wait for their first PUBACK (a gateway attaches hub.attach_rate links a \
             second, {ATTACH_RATE} by default)"
        ),
    }
}
