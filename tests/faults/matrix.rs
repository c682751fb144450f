//! The fault matrix: every row × {idle, steady} × {before send, awaiting, renewing}.

use crate::cell::{Load, Moment, Report};
use crate::full;
use crate::rows::{self, Row};
use crate::stage::{Stage, shared};
use crate::support::Options;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const DEVICES: usize = 100;
/// Stages that work through the full matrix side by side; cells mostly wait.
const STAGES: usize = 3;

/// A renewal every few seconds, on a token that outlives any fault here.
fn options() -> Options {
    Options {
        token_ttl: "20s",
        hub: "renew_at = 0.2\n".to_owned(),
        proxied: true,
        emulator: "[limits]\ntoken_skew = \"0s\"\n".to_owned(),
        // Devices that a row closes for their messages come back at once: no loop is paced.
        gateway: "[limits]\nfailures_per_device = 1000000\n".to_owned(),
        ..Options::default()
    }
}

type Cell = (Row, Load, Moment);

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for row in rows::all() {
        for load in [Load::Idle, Load::Steady] {
            for moment in [Moment::BeforeSend, Moment::Awaiting, Moment::Renewing] {
                cells.push((row, load, moment));
            }
        }
    }
    cells
}

/// A minute's choice: each kind of cut once, and the faults that broke other gateways.
fn few() -> Vec<Cell> {
    let wanted = [
        ("KillTcp", Load::Steady, Moment::Awaiting),
        ("KillTcp, one of two", Load::Steady, Moment::BeforeSend),
        ("KillAmqpConnection", Load::Idle, Moment::Renewing),
        ("KillAmqpSession", Load::Steady, Moment::Awaiting),
        ("KillAmqpCBSLinkResp", Load::Steady, Moment::Renewing),
        ("KillAmqpD2CLink", Load::Steady, Moment::Awaiting),
        ("InvokeAuthError, 1 s", Load::Idle, Moment::BeforeSend),
        ("CbsStatus 500, 2 s", Load::Steady, Moment::Renewing),
        ("DispositionNever, 4 s", Load::Idle, Moment::BeforeSend),
        (
            "DispositionsReordered, 2 s",
            Load::Steady,
            Moment::BeforeSend,
        ),
        ("OutcomeReleased, 2 s", Load::Idle, Moment::BeforeSend),
        ("DetachLink amqp:not-found", Load::Idle, Moment::Awaiting),
        ("line reset", Load::Steady, Moment::Awaiting),
        ("line byte by byte, 2 s", Load::Steady, Moment::BeforeSend),
    ];
    let of = |(name, load, moment): &(&str, Load, Moment)| {
        let row = rows::all().into_iter().find(|row| row.name() == *name);
        (
            row.unwrap_or_else(|| panic!("no row {name}")),
            *load,
            *moment,
        )
    };
    wanted.iter().map(of).collect()
}

/// Works through the cells from `next` on until there are none; every report in turn.
async fn work(stage: usize, cells: Arc<Vec<Cell>>, next: Arc<AtomicUsize>) -> Vec<Report> {
    let name = format!("matrix-{stage}");
    let mut stage = Stage::set(&name, DEVICES, options()).await;
    let mut reports = Vec::new();
    while let Some((row, load, moment)) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
        let report = stage.cell(row, *load, *moment).await;
        println!("{report}");
        reports.push(report);
    }
    stage.crew.leave().await;
    reports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_the_matrix_loses_a_message_or_a_device() {
    let _turn = shared().await;
    let only = std::env::var("FAULT_ROW").ok();
    let (mut cells, mut stages) = if full() || only.is_some() {
        (cells(), STAGES)
    } else {
        (few(), 1)
    };
    if let Some(only) = &only {
        let name = |(row, load, moment): &Cell| format!("{} {load:?} {moment:?}", row.name());
        cells.retain(|cell| name(cell).contains(only.as_str()));
        if !full() {
            stages = 1;
        }
    }
    let count = cells.len();
    assert!(count > 0, "no cell has {only:?} in its name");
    let (cells, next) = (Arc::new(cells), Arc::new(AtomicUsize::new(0)));
    let works = (0..stages).map(|stage| tokio::spawn(work(stage, cells.clone(), next.clone())));
    let works: Vec<_> = works.collect();
    let mut reports = Vec::new();
    for work in works {
        reports.extend(work.await.expect("a stage"));
    }
    assert_eq!(reports.len(), count);
    let wrong: Vec<String> = reports
        .iter()
        .filter(|report| !report.wrong.is_empty())
        .map(ToString::to_string)
        .collect();
    println!("{count} cells, {} wrong", wrong.len());
    assert!(
        wrong.is_empty(),
        "{} of {count} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
