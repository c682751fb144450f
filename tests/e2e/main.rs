//! The user's stories, through real sockets: devices, the gateway, and a strict hub.

#[path = "../support/mod.rs"]
mod support;

mod admin_tls;
mod badly;
mod commands;
mod doors;
mod explain;
mod files;
mod handover;
mod hinted;
mod hints;
mod hub_refuses;
mod hub_stage;
mod log;
mod metrics;
#[cfg(feature = "interop")]
mod openapi;
mod outage;
#[cfg(feature = "interop")]
mod page;
mod process;
mod refusals;
mod renewal;
mod secrets;
mod storm;
mod story;
mod traces;
mod watch;
