//! A custom protocol gateway for Azure IoT Hub.
//!
//! ```text
//!             ┌──────────┐   ┌──────┐   ┌───────────────┐   ┌──────┐   ┌────────┐   ┌─────────────────────┐
//!  device ──▶ │ listener │──▶│ tls  │──▶│ mqtt          │──▶│ auth │──▶│ router │──▶│ hub                 │──▶ IoT Hub
//!         ◀── │ admit    │◀──│ x509 │◀──│ codec+session │   │ rules│   │ topics │◀──│ pool·links·cbs token│◀── (or the
//!             └──────────┘   │ psk  │   └───────────────┘   └──────┘   └────────┘   └─────────────────────┘   emulator)
//!                            └──────┘        pure              pure       pure        pure decisions + drivers
//!    beside the path:   config · telemetry · runtime · admin        entry:  main → cli → gateway
//! ```
//!
//! The modules below are listed in the order a PUBLISH passes them. Pure modules take an event
//! and a time and return a decision; drivers own sockets; `gateway` composes. `tests/tidy.rs`
//! fails the build when a module reaches upwards.

/// The commit this was built from, where the build could tell (`build.rs`); else `unknown`.
pub const COMMIT: &str = env!("IOTHUB_GATEWAY_COMMIT");

pub mod listener;
pub mod tls;

pub mod websocket;

pub mod mqtt;

pub mod auth;

pub mod router;

pub mod hub;

pub mod amqp;

pub mod admin;
pub mod config;
pub mod runtime;
pub mod telemetry;

pub mod cli;
pub mod gateway;

pub mod emulator;
pub mod load;
