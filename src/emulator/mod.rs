//! A local stand-in for Azure IoT Hub, device and service side: the oracle that judges the gateway, and a
//! product of its own that SDK clients can talk to.
//!
//! It is as strict as the service and shares no code with the gateway: its own token check,
//! configuration and AMQP side (an acceptor of `fe2o3-amqp`). What a message passes, in order:
//!
//! ```text
//!  server ─▶ handshake ─▶ io ─▶ connection ─▶ session ─┬▶ cbs       ─▶ tokens ◀─ sas, policies
//!  TLS       SASL, OPEN                      attaches  ├▶ telemetry ─▶ message ─▶ ledger
//!                                                      ├▶ commands  ◀─ queue   ◀─ control (HTTP)
//!                                                      └▶ requests  ─▶ twins, methods ◀─ control
//!                                                         outgoing  ◀─ channels ◀──┘
//!  back ends: session ─▶ backend (commands, feedback, events) · service (HTTPS) ─▶ devices, twins, methods
//!      beside it: devices (registry) · links (who is connected) · faults · stats · throttle
//! ```
//!
//! Not served, and refused in form: notifications of file uploads, jobs, WebSockets.

mod address;
mod admission;
mod backend;
mod cbs;
mod channels;
mod commands;
pub mod config;
mod connection;
mod control;
mod devices;
mod errors;
mod faults;
mod frames;
mod handshake;
mod held;
mod hub;
mod io;
mod ledger;
mod links;
mod message;
mod methods;
mod outgoing;
mod policies;
mod queue;
mod requests;
mod sas;
mod server;
mod service;
mod session;
mod stats;
mod telemetry;
mod throttle;
mod tokens;
mod twin;
mod twins;

pub use config::{EmulatorConfig, TlsMaterial};
pub use faults::{Fault, FaultError, FaultKind, FaultScope};
pub use ledger::{Content, Entry, Ledger};
pub use policies::KeySlot;
pub use stats::StatsSnapshot;

use hub::Hub;
use server::Lifetime;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Time connections have to close before they are cut.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The emulator; see [`Emulator::start`].
#[derive(Debug)]
pub struct Emulator;

/// Why the emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// A port is taken or the address is not of this machine.
    #[error("cannot listen on {address}: {source}; choose another address or stop its user")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// A port without TLS, or the control API, would be open to the network.
    #[error("{0} is not a loopback address; use 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// The TLS port has no usable certificate.
    #[error("the TLS port cannot be served: {0}")]
    Tls(String),
    /// There is no AMQP port.
    #[error("no AMQP port is configured, set amqp.bind or amqp.plain_bind")]
    NoPort,
}

/// A running emulator. Dropping it ends everything at once; [`EmulatorHandle::stop`] closes
/// connections in form first.
pub struct EmulatorHandle {
    hub: Arc<Hub>,
    life: Lifetime,
    amqps: Option<SocketAddr>,
    amqp: Option<SocketAddr>,
    control: Option<SocketAddr>,
    https: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Emulator {
    /// Binds every port and serves. When this returns, clients can connect.
    ///
    /// # Errors
    /// [`EmulatorError`]; nothing is left running then.
    pub async fn start(config: EmulatorConfig) -> Result<EmulatorHandle, EmulatorError> {
        let amqp_config = &config.amqp;
        if amqp_config.bind.is_none() && amqp_config.plain_bind.is_none() {
            return Err(EmulatorError::NoPort);
        }
        let service = &config.service;
        let loopback_only = [
            amqp_config.plain_bind,
            config.control_bind,
            service.plain_bind,
        ];
        for address in loopback_only.into_iter().flatten() {
            if !config.insecure && !address.ip().is_loopback() {
                return Err(EmulatorError::NotLoopback(address));
            }
        }
        let secure_port = amqp_config.bind.or(service.bind);
        let tls = match (secure_port, &amqp_config.tls) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(EmulatorError::Tls(
                    "amqp.tls names no certificate".to_owned(),
                ));
            }
            (Some(_), Some(tls)) => Some(server::tls_acceptor(tls).map_err(EmulatorError::Tls)?),
        };
        let secure = bind(amqp_config.bind).await?;
        let plain = bind(amqp_config.plain_bind).await?;
        let control = bind(config.control_bind).await?;
        let (https, http) = (bind(service.bind).await?, bind(service.plain_bind).await?);

        let events = address(secure.as_ref()).or(address(plain.as_ref()));
        let events_port = events.map_or(0, |address| address.port());
        let life = Lifetime::default();
        let handle = EmulatorHandle {
            amqps: address(secure.as_ref()),
            amqp: address(plain.as_ref()),
            control: address(control.as_ref()),
            https: address(https.as_ref()),
            http: address(http.as_ref()),
            hub: Arc::new(Hub::new(config, events_port, life.stopping.clone())),
            life,
        };
        let (hub, life) = (&handle.hub, &handle.life);
        for (listener, tls) in [(https, tls.clone()), (http, None)] {
            if let Some(listener) = listener {
                let serving = service::serve(listener, tls, Arc::clone(hub), life.clone());
                life.tasks.spawn(serving);
            }
        }
        for (listener, tls) in [(secure, tls), (plain, None)] {
            if let Some(listener) = listener {
                life.tasks
                    .spawn(server::serve(listener, tls, Arc::clone(hub), life.clone()));
            }
        }
        if let Some(listener) = control {
            life.tasks
                .spawn(control::serve(listener, Arc::clone(hub), life.clone()));
        }
        tracing::info!(
            name: "emulator_started",
            target: "emulator",
            hub = %hub.config.host, amqps = shown(handle.amqps), amqp = shown(handle.amqp),
            control = shown(handle.control), https = shown(handle.https),
            http = shown(handle.http), "emulator started"
        );
        Ok(handle)
    }
}

async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, EmulatorError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await;
    bound
        .map(Some)
        .map_err(|source| EmulatorError::Bind { address, source })
}

fn address(listener: Option<&TcpListener>) -> Option<SocketAddr> {
    listener.and_then(|listener| listener.local_addr().ok())
}

impl EmulatorHandle {
    /// Address of the TLS port.
    #[must_use]
    pub const fn amqps_addr(&self) -> Option<SocketAddr> {
        self.amqps
    }

    /// Address of the port without TLS.
    #[must_use]
    pub const fn amqp_addr(&self) -> Option<SocketAddr> {
        self.amqp
    }

    /// Address of the control API.
    #[must_use]
    pub const fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Address of the service side over HTTPS.
    #[must_use]
    pub const fn https_addr(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Address of the service side over HTTP.
    #[must_use]
    pub const fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// What the hub accepted.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.hub.ledger
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.hub.stats.snapshot()
    }

    /// Injects a fault of the catalogue; its number. What acts at once has acted when this
    /// returns. Call it within the runtime.
    ///
    /// # Errors
    /// [`FaultError`]: the fault means nothing here, or too many are under way.
    pub fn inject(&self, fault: &Fault) -> Result<u64, FaultError> {
        faults::inject(&self.hub, fault)
    }

    /// Ends every fault; how many there were.
    pub fn clear_faults(&self) -> usize {
        self.hub.faults.clear()
    }

    /// Numbers of the open connections and of the device links on each, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<(u64, usize)> {
        self.hub.directory.numbers()
    }

    /// Stops accepting, closes every connection in form, and waits until all is gone; what has
    /// not gone after five seconds is cut.
    pub async fn stop(self) {
        self.life.stopping.cancel();
        self.life.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.life.tasks.wait())
            .await
            .is_err()
        {
            self.life.aborted.cancel();
            // Every task watches `aborted` or a stream that it cuts.
            drop(tokio::time::timeout(STOP_TIMEOUT, self.life.tasks.wait()).await);
        }
        tracing::info!(name: "emulator_stopped", target: "emulator", "emulator stopped");
    }
}

/// An address for the log; nothing for a door that is not open.
fn shown(address: Option<SocketAddr>) -> Option<tracing::field::DisplayValue<SocketAddr>> {
    address.map(tracing::field::display)
}

impl Drop for EmulatorHandle {
    fn drop(&mut self) {
        self.life.stopping.cancel();
        self.life.aborted.cancel();
    }
}

impl std::fmt::Debug for EmulatorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatorHandle")
            .field("amqps", &self.amqps)
            .field("amqp", &self.amqp)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
