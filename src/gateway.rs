//! The composition point: build in order of dependency, bind, start, drain, stop.
//!
//! Ports are bound first, so that one that is taken ends the start; devices are accepted once the
//! hub has taken the token, or [`HUB_PATIENCE`] later without it: devices that wait for a hub are
//! better off connected than refused.

pub mod acceptors;
pub mod dates;
mod doors;
mod exposed;
mod history;
mod load;
mod operator;
mod records;
mod reload;
mod status;

pub use exposed::exposed;
pub use load::{Loaded, Sources, environment, load, load_rules};

use crate::admin::api::{Api, Tokens};
use crate::admin::{self, AdminHandle, Served};
use crate::auth::rules::RuleSet;
use crate::config::{AdminConfig, Config, ShutdownConfig};
use crate::hub::Hub;
use crate::listener::Shared;
use crate::runtime::clock;
use crate::runtime::handover;
use crate::runtime::phase::Phase;
use crate::runtime::sockets::{self, Inherited};
use crate::telemetry::causes::Causes;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::export::Exporter;
use arc_swap::ArcSwap;
use doors::Doors;
use reload::Reloader;
use status::{problem, status};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Time devices wait for the hub's first word before they are accepted without it.
const HUB_PATIENCE: Duration = Duration::from_secs(10);

/// Time the last spans get when the gateway stops.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// Why the gateway did not start; one line names what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours to bind.
    #[error("cannot bind {what} to {address}: {error}; choose another address")]
    Bind {
        /// `listener "devices"` or `admin`.
        what: String,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        error: std::io::Error,
    },
    /// TLS files of a listener or of the admin port.
    #[error("{}", .0.join("\n"))]
    Tls(Vec<String>),
    /// The folder of refused messages.
    #[error("rules.refused_folder {path} cannot be used ({error}); make it the gateway's own")]
    Folder {
        /// The folder.
        path: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// The admin thread.
    #[error("cannot start the admin server: {0}")]
    Admin(std::io::Error),
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    hub: Hub,
    metrics: Arc<Metrics>,
    doors: Arc<Doors>,
    admin: AdminHandle,
    reloader: Arc<Reloader>,
    phase: watch::Sender<Phase>,
    shutdown: ShutdownConfig,
    /// Cancelled when an operator asks for the end.
    stop_wanted: CancellationToken,
    exporter: Option<Exporter>,
    /// A second descriptor of the admin port, for the next process.
    admin_socket: Option<std::net::TcpListener>,
}

impl Gateway {
    /// Binds every port, starts the upstream, and accepts devices as soon as it stands.
    ///
    /// # Errors
    /// When a port or a certificate cannot be used; nothing runs then.
    pub async fn start(config: Config, rules: RuleSet) -> Result<Self, StartError> {
        Self::start_on(config, rules, Inherited::default()).await
    }

    /// [`Self::start`] on sockets that are open already, as far as they are the ones configured.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(
        config: Config,
        rules: RuleSet,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        reload::show_rules(&rules, &metrics);
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let admin_socket = admin_socket(config.admin.bind, &mut inherited)?;
        let admin_shared = admin_socket.try_clone().ok();
        let (hub, causes) = start_hub(&config, &metrics);
        let (records, exporter) = records::open(&config, &hub, causes.clone(), &metrics)?;
        let shared = Shared::new(
            rules.clone(),
            hub.clone(),
            config.hub.host.clone(),
            config.limits.clone(),
            metrics.clone(),
            records,
        );
        let (stop_wanted, accepting) = (CancellationToken::new(), CancellationToken::new());
        let upstream = &config.hub;
        let doors = Doors::bind(&config, &shared, &rules, &metrics, &accepting, inherited)?;
        let doors = Arc::new(doors);
        records::tell(&shared);
        let reloader = Arc::new(Reloader {
            doors: doors.clone(),
            rules,
            shared: shared.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
            admin: acceptors::of_admin(&config).map_err(StartError::Tls)?,
            wanted: Arc::default(),
        });
        let (phase, _) = watch::channel(Phase::Starting);
        let status = status(hub.clone(), phase.subscribe());
        show_before_render(&metrics, &status, &shared);
        let office = operator::Office {
            shared: shared.clone(),
            hub: hub.clone(),
            host: config.hub.host.clone(),
            status,
            causes,
            history: Arc::default(),
            renewed_before: upstream.token_ttl.mul_f64(1.0 - upstream.renew_at),
            reload: reloader.wanted.clone(),
            stop: stop_wanted.clone(),
        };
        office.begin_history(&metrics, &accepting);
        let admin = open_admin(admin_socket, office, &config.admin, &reloader)?;
        let accepts = accept(doors.clone(), hub.clone(), phase.clone(), accepting);
        tokio::spawn(accepts);
        let shutdown = config.shutdown;
        Ok(Self {
            shared,
            hub,
            metrics,
            doors,
            admin,
            reloader,
            phase,
            shutdown,
            stop_wanted,
            exporter,
            admin_socket: admin_shared,
        })
    }

    /// Hands the sockets to the next process when it asks; resolves when that one serves. Never
    /// resolves where no `shutdown.handover` is configured.
    ///
    /// # Errors
    /// When the socket file cannot be used; the text names it.
    pub async fn succeeded(&self) -> std::io::Result<()> {
        let Some(path) = self.shutdown.handover.clone() else {
            return std::future::pending().await;
        };
        handover::succeeded(&path, || self.sockets()).await
    }

    /// Second descriptors of every port there is now.
    fn sockets(&self) -> std::io::Result<Vec<(String, std::net::TcpListener)>> {
        let mut all = self.doors.sockets()?;
        if let Some(socket) = &self.admin_socket {
            all.push((sockets::ADMIN.to_owned(), socket.try_clone()?));
        }
        Ok(all)
    }

    /// Resolves when an operator asks for an orderly stop.
    pub async fn stop_wanted(&self) {
        self.stop_wanted.cancelled().await;
    }

    /// Reloads rules and certificates on SIGHUP and whenever one of their files changes, until
    /// the gateway stops. `sources` is what [`load`] read before the start.
    pub fn watch(&self, sources: Sources) {
        let stop = self.doors.accepting();
        tokio::spawn(reload::run(self.reloader.clone(), sources, stop));
    }

    /// Waits until devices are accepted with a hub behind them; whether that came in time.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut phase = self.phase.subscribe();
        let up = async {
            let _ = phase.wait_for(|phase| *phase == Phase::Ready).await;
        };
        self.hub.ready(within).await && tokio::time::timeout(within, up).await.is_ok()
    }

    /// The bound address of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let mut listeners = self.listeners().into_iter();
        let found = listeners.find(|(known, _)| known == name);
        found.map(|(_, address)| address)
    }

    /// Every listener with its bound address, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.doors.addresses()
    }

    /// The bound address of the admin server.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Why devices were refused or lost.
    #[must_use]
    pub fn causes(&self) -> Arc<Causes> {
        self.shared.causes()
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where the process stands; outlives the gateway, so that a stop can be watched to its end.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Stops in order: not ready, no new devices, what is in flight settled, devices closed one
    /// after the other, hub connections closed. Whether all of it ended within the configured
    /// times, which are never exceeded together.
    pub async fn stop(self) -> bool {
        self.enter(Phase::NotReady);
        tokio::time::sleep(self.shutdown.announce).await;
        self.drain().await
    }

    /// Stops after the next process has taken the sockets over: nobody has to be told, since the
    /// ports stay open; devices are told to go at the pace of `drain_rate`.
    pub async fn yield_to_successor(self) -> bool {
        self.drain().await
    }

    async fn drain(mut self) -> bool {
        let ShutdownConfig { settle, close, .. } = self.shutdown;
        self.enter(Phase::Draining);
        self.admin_socket = None;
        self.doors.close();
        match self.shutdown.drain_rate_per_s {
            Some(rate) => self.shared.drain_paced(settle, rate).await,
            // Devices are closed over half of `close`; the hub's side is left a quarter at least.
            None => self.shared.drain(settle, close / 2),
        }
        let settled = self.shared.drained(settle).await;
        self.enter(Phase::Closing);
        let closing = clock::mono();
        let devices = settled || self.shared.drained(close / 4 * 3).await;
        if !devices {
            tracing::error!(
                name: "devices_not_closed",
                left = self.shared.tasks(),
                "devices did not close in time"
            );
        }
        let left = close.saturating_sub(clock::mono().since(closing));
        let hub = self.hub.shutdown(left).await;
        if !hub {
            tracing::error!(name: "hub_not_closed", "hub connections did not close in time");
        }
        self.shared.tell_left_out();
        if let Some(exporter) = self.exporter.take() {
            exporter.finish(LAST_SPANS).await;
        }
        self.enter(Phase::Stopped);
        self.admin.stop();
        devices && hub
    }

    fn enter(&self, phase: Phase) {
        tracing::info!(name: "stop_phase", phase = phase.name(), "stopping");
        self.phase.send_replace(phase);
    }
}

/// The admin server's socket, handed over or bound.
fn admin_socket(
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<std::net::TcpListener, StartError> {
    let socket = match inherited.take(sockets::ADMIN, address) {
        Some(socket) => Ok(socket),
        None => admin::bind(address),
    };
    socket.map_err(|error| StartError::Bind {
        what: "admin".to_owned(),
        address,
        error,
    })
}

/// Starts the upstream, and the record of what it refuses.
fn start_hub(config: &Config, metrics: &Arc<Metrics>) -> (Hub, Arc<Causes>) {
    let causes = Arc::new(Causes::new(config.limits.causes));
    let upstream = Arc::new(config.hub.clone());
    let hub = Hub::start_noting(upstream, metrics.clone(), causes.clone());
    (hub, causes)
}

/// Brings what is only looked at when rendered up to date.
fn show_before_render(metrics: &Arc<Metrics>, status: &admin::Status, shared: &Arc<Shared>) {
    let (truth, bounds) = (Arc::downgrade(status), Arc::downgrade(shared));
    metrics.before_render(move |metrics| {
        let ready = truth.upgrade().is_some_and(|status| status().ready);
        metrics.ready.set(i64::from(ready));
        if let Some(shared) = bounds.upgrade() {
            shared.show_limits(metrics);
        }
    });
}

/// Serves the operators.
fn open_admin(
    socket: std::net::TcpListener,
    office: operator::Office,
    config: &AdminConfig,
    reloader: &Reloader,
) -> Result<AdminHandle, StartError> {
    if let Some(tls) = &reloader.admin {
        acceptors::show_expiries(tls, &reloader.metrics);
    }
    let served = Served {
        metrics: reloader.metrics.clone(),
        tls: reloader.admin.clone(),
        status: office.status.clone(),
        api: Some(Arc::new(Api::new(Arc::new(office), tokens(config)))),
    };
    let limits = admin::AdminLimits::default();
    admin::spawn_thread_with(socket, served, limits).map_err(StartError::Admin)
}

/// Who may use the API.
fn tokens(admin: &AdminConfig) -> Tokens {
    Tokens {
        read: admin.read_token.clone(),
        operate: admin.operate_token.clone(),
        loopback: admin.bind.ip().is_loopback(),
    }
}

/// Waits for the hub, then accepts on every listener.
async fn accept(doors: Arc<Doors>, hub: Hub, phase: watch::Sender<Phase>, stop: CancellationToken) {
    let mut left = phase.subscribe();
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        // Told to stop before there was a hub: who is let in now is closed at once.
        _ = left.wait_for(|phase| *phase != Phase::Starting) => return,
        ready = hub.ready(HUB_PATIENCE) => if !ready {
            let problem = problem(&hub.status());
            tracing::warn!(
                name: "start_without_hub",
                problem,
                "no hub yet; devices are accepted and their messages wait"
            );
        }
    }
    doors.open();
    phase.send_if_modified(|phase| {
        let starting = *phase == Phase::Starting;
        if starting {
            *phase = Phase::Ready;
        }
        starting
    });
}
