//! `load`: many MQTT devices out of one process, and what they saw, counted.
//!
//! It measures any MQTT 3.1.1 server, so it shares nothing with the gateway but the clock and the
//! wrapping of secrets: its codec is `mqttbytes`, its TLS clients are its own. Each device is one
//! small task (`device`); `run` leads all of them through the phases connect, hold, run, drain;
//! `meter` counts without contention; `ledger` holds what was acknowledged against what the
//! emulator accepted. It must never be kinder to the server than a real fleet: at a fixed rate a
//! late message counts from the time it was due.

mod connect;
mod device;
mod driver;
mod files;
mod frame;
mod histogram;
mod http;
mod ledger;
mod meter;
mod options;
mod process;
mod psk;
mod report;
mod sas;
mod schedule;
mod setup;
mod sources;
mod template;
mod tls;

pub use driver::run;
pub use histogram::Summary;
pub use ledger::Verdict;
pub use options::{Credentials, Options, Pace, TlsVersion};
pub use report::Report;
pub use sources::parse as sources;
