//! What the API shows, and whom it asks.

use crate::telemetry::causes::Cause;
use crate::telemetry::event::Event;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Which connections are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Most of them.
    pub limit: usize,
    /// Those behind this device, in order of their names.
    pub after: Option<String>,
    /// Beginning of the device's name.
    pub device: Option<String>,
    /// `psk`, `x509`, `sas` or `password`.
    pub credential: Option<String>,
    /// Listener's name.
    pub listener: Option<String>,
    /// Peer's address.
    pub source: Option<String>,
}

/// A page of connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// Live connections that fit, on all pages.
    pub total: usize,
    /// This page, in order of their names.
    pub connections: Vec<Connection>,
    /// `after` of the next page; none when this is the last.
    pub next: Option<String>,
}

/// A live connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connection {
    /// `device` or `device/module`.
    pub device: String,
    /// Kind of the credential that counted.
    pub credential: String,
    /// Credentials as `check --as` takes them.
    pub identity: String,
    /// Rule or entry that admitted it.
    pub rule: String,
    /// Rights: `telemetry`, `commands`.
    pub allow: Vec<String>,
    /// Listener's name.
    pub listener: String,
    /// Peer's address.
    pub source: String,
    /// How long it has been connected, seconds.
    pub connected_s: u64,
    /// Messages the hub accepted.
    pub accepted: u64,
    /// Messages refused.
    pub refused: u64,
    /// Commands the device took.
    pub commands: u64,
}

/// One device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// `device` or `device/module`.
    pub device: String,
    /// Its connection, when it is connected here.
    pub connection: Option<Connection>,
    /// How long an operator still keeps it out, seconds.
    pub blocked_s: Option<u64>,
    /// Causes known of it.
    pub causes: usize,
}

/// Who is connected, and the last hour.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overview {
    /// Live connections.
    pub connected: usize,
    /// Of these, by kind of credential.
    pub credentials: Vec<(String, usize)>,
    /// One moment each ten seconds, the latest last.
    pub history: Vec<Moment>,
}

/// Ten seconds of traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Their end, seconds since 1970.
    pub at: u64,
    /// Messages the hub accepted.
    pub accepted_per_s: f64,
    /// Messages refused.
    pub refused_per_s: f64,
    /// Median time from PUBLISH to PUBACK, milliseconds, rounded up to a bucket.
    pub p50_ms: Option<f64>,
    /// The same for 99 of 100.
    pub p99_ms: Option<f64>,
}

/// The upstream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hub {
    /// `[hub] host`.
    pub host: String,
    /// `ready`, `degraded` or `unavailable`.
    pub status: String,
    /// Why not ready.
    pub reason: String,
    /// Connections that hold a valid token.
    pub connections_ready: usize,
    /// Connections wanted.
    pub connections_wanted: usize,
    /// Time until the token ends, seconds.
    pub token_expires_in_s: Option<u64>,
    /// Time until it is renewed at the latest, seconds.
    pub token_renews_in_s: Option<u64>,
    /// `primary`, `secondary`, `file` or `service`.
    pub token_from: String,
    /// What the hub refuses now.
    pub refuses: Vec<Refusal>,
}

/// Something the hub refuses, for `/ready` too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `hub_refusals_total{cause}`
    pub cause: Cow<'static, str>,
    /// IoT Hub's error code; empty where it has none.
    pub code: Cow<'static, str>,
    /// What it means.
    pub says: Cow<'static, str>,
    /// What to do.
    pub fix: Cow<'static, str>,
    /// Refusals since it began.
    pub count: u64,
    /// Time since it began, seconds.
    pub lasts_s: u64,
}

/// An order to keep a device out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// For how long, seconds; parts of one count.
    pub seconds: f64,
}

/// What a watched device did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// In their order.
    pub events: Vec<Event>,
    /// `after` of the next question.
    pub next: u64,
}

/// What became of an order to keep a device out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It is kept out.
    Done,
    /// No device can have this id.
    NoDevice,
    /// `limits.blocks` devices are kept out already.
    Full,
}

/// What is logged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    /// As `log.filter` has it; empty where this process does not log by itself.
    pub filter: String,
}

/// An order about the log.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLog {
    /// From here on.
    pub level: Level,
}

/// The least a line must matter to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is written.
    Off,
    /// What failed.
    Error,
    /// What will fail.
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The gateway as operators see it. No call blocks.
pub trait Operator: Send + Sync {
    /// Live connections.
    fn connections(&self, filter: &Filter) -> Page;
    /// One device, when anything is known of it.
    fn device(&self, id: &str) -> Option<Device>;
    /// Why this device, name or address was refused or lost, the latest first.
    fn causes(&self, id: &str) -> Vec<Cause>;
    /// What a device did since event `after`; `None` when too many devices are watched.
    fn events(&self, id: &str, after: u64) -> Option<Events>;
    /// The latest causes of everybody.
    fn latest_causes(&self) -> Vec<Cause>;
    /// Who is connected, and the last hour.
    fn overview(&self) -> Overview;
    /// The upstream.
    fn hub(&self) -> Hub;
    /// Ends a device's connection; whether it had one.
    fn close(&self, id: &str) -> bool;
    /// Keeps a device out and ends its connection.
    fn block(&self, id: &str, time: Duration) -> Blocked;
    /// Lets it in again; whether it was kept out.
    fn unblock(&self, id: &str) -> bool;
    /// What is logged.
    fn log(&self) -> Log;
    /// Logs from this level on; `false` when this process does not log by itself.
    fn set_log(&self, level: Level) -> bool;
    /// Reads the files again.
    fn reload(&self);
    /// Begins an orderly stop.
    fn drain(&self);
}
