//! A storm of refusals, and where the lines about it go.

use super::log::{Stage, until};
use crate::support::process::Process;
use crate::support::{http, logfmt};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const REFUSED: u64 = 10_000;
const DISCONNECTS: &str = "iothub_gateway_disconnects_total";

/// Counts of `disconnects_total` by reason.
fn ended(exposition: &str) -> BTreeMap<String, u64> {
    let series = exposition.lines().filter(|l| l.starts_with(DISCONNECTS));
    let counts = series.filter_map(|line| {
        let reason = line.split("reason=\"").nth(1)?.split('"').next()?;
        let count = line.rsplit_once(' ')?.1.parse().ok()?;
        (count > 0).then(|| (reason.to_owned(), count))
    });
    counts.collect()
}

async fn be_refused(stage: &Stage) {
    for _ in 0..REFUSED / 50 {
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let plain = stage.plain;
            crowd.spawn(async move {
                // From another address: ports of this one are wanted by other tests.
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.bind(([127, 0, 0, 2], 0).into()).expect("bound");
                let mut stream = socket.connect(plain).await.expect("the port is open");
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                let _ = stream.read(&mut [0; 16]).await;
            });
        }
        while let Some(one) = crowd.join_next().await {
            one.expect("no panic");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_writes_few_lines_and_every_count_adds_up() {
    let stage = Stage::new("storm", "format = \"json\"").await;
    let path = stage.dir.join("log");
    let file = File::create(&path).expect("log file");
    let gateway = Process::logging(&stage.config, Stdio::from(file));
    stage.ready().await;
    be_refused(&stage).await;
    let admin = stage.admin;
    let counted = move || ended(&http::get(admin, "/metrics")).values().sum::<u64>() == REFUSED;
    until("all are counted", counted).await;
    let scrape = move || ended(&http::get(admin, "/metrics"));
    let ended = tokio::task::spawn_blocking(scrape).await.expect("scraped");
    assert_eq!(gateway.terminate().await, Some(0));
    let text = std::fs::read_to_string(&path).expect("UTF-8");
    let lines: Vec<Map<String, Value>> = text
        .lines()
        .map(|line| logfmt::json(line).expect("JSON"))
        .filter(|line| line["target"] == "iothub_gateway::refusal")
        .collect();
    assert!((20..1_000).contains(&lines.len()), "{} lines", lines.len());
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for line in &lines {
        let suppressed = line.get("suppressed").and_then(Value::as_u64);
        let itself = u64::from(line["event"] == "refused");
        let reason = line["reason"].as_str().expect("a reason").to_owned();
        *told.entry(reason).or_default() += suppressed.unwrap_or(0) + itself;
    }
    assert_eq!(told, ended, "left: the log, right: the metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_the_priority_of_each_line_and_nobody_else_does() {
    for (name, shift) in [("journal", 0), ("no-journal", 1)] {
        let stage = Stage::new(name, "").await;
        let path = stage.dir.join("log");
        let file = File::create(&path).expect("log file");
        let meta = file.metadata().expect("metadata");
        let stream = format!("{}:{}", meta.dev(), meta.ino() + shift);
        let stderr = Stdio::from(file);
        let gateway = Process::logging_as(&stage.config, stderr, "JOURNAL_STREAM", &stream);
        stage.ready().await;
        assert_eq!(gateway.terminate().await, Some(0));
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        assert!(text.lines().count() > 3, "{text}");
        for line in text.lines() {
            let line = match shift {
                0 => line.strip_prefix("<6>").expect("a priority"),
                _ => line,
            };
            let fields = logfmt::logfmt(line).expect("logfmt");
            assert_eq!(fields["level"], "info", "{line}");
        }
    }
}
