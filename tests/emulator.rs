//! The emulator alone, driven by the AMQP client library, by raw bytes and over HTTP.

// The lint spares test functions only, not what they call.
#![allow(clippy::unwrap_used)]

#[path = "emulator/backend.rs"]
mod backend;
#[path = "emulator/cbs.rs"]
mod cbs;
#[path = "emulator/commands.rs"]
mod commands;
#[path = "emulator/control.rs"]
mod control;
#[path = "emulator/faults.rs"]
mod faults;
#[path = "emulator/kit.rs"]
mod kit;
#[path = "emulator/links.rs"]
mod links;
#[path = "emulator/methods.rs"]
mod methods;
#[path = "emulator/pairs.rs"]
mod pairs;
#[path = "emulator/raw.rs"]
mod raw;
#[path = "emulator/service.rs"]
mod service;
#[path = "emulator/telemetry.rs"]
mod telemetry;
#[path = "emulator/twins.rs"]
mod twins;
#[path = "emulator/wire.rs"]
mod wire;
