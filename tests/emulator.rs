//! The emulator alone, driven by the AMQP client library, by raw bytes and over HTTP.

#[path = "emulator/cbs.rs"]
mod cbs;
#[path = "emulator/commands.rs"]
mod commands;
#[path = "emulator/control.rs"]
mod control;
#[path = "emulator/kit.rs"]
mod kit;
#[path = "emulator/telemetry.rs"]
mod telemetry;
#[path = "emulator/wire.rs"]
mod wire;
