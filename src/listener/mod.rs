//! Device-side ports: accept, admit, and serve one connection each.
//!
//! The accept loop awaits no peer: a socket is admitted or refused by the gate at once and then
//! has its own task. Way of a connection: `admission` → `handshake` (tls, mqtt, auth, registry)
//! → `conn`, with `ending` counting its one end.

mod admission;
mod asked;
mod attempts;
pub mod away;
mod blocks;
mod conn;
mod ending;
mod handshake;
mod inlet;
mod password;
mod poison;
mod proxy;
mod quota;
mod refusal;
mod room;
mod series;
mod setup;
#[cfg(test)]
mod tests;
mod watch;
mod websocket;

use crate::auth::rules::{Cidr, RuleSet};
use crate::auth::{CredentialKind, Who};
use crate::config::ListenerConfig;
use crate::config::limits::Limits;
use crate::hub::Hub;
use crate::mqtt::packet::Versions;
use crate::router::refused::Folder;
use crate::router::registry::{Eviction, Registry, SessionKey};
use crate::telemetry::causes::Causes;
use crate::telemetry::event::Event;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::Tracer;
use crate::tls::Acceptor;
use admission::Gate;
use arc_swap::ArcSwap;
use attempts::Attempts;
use ending::Ending;
use handshake::{Arrival, Carrier};
pub use inlet::Inlet;
use password::Passwords;
use refusal::Line;
use setup::Setup;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections the kernel may hold for us.
const BACKLOG: i32 = 1024;

/// First and longest pause after an accept that failed for want of resources.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The longest text of foreign origin in a log line, bytes.
const LOG_TEXT_BYTES: usize = 200;

/// What is written down about refusals, and where.
pub struct Records {
    /// Messages that rules say to keep.
    pub refused: Option<Arc<Folder>>,
    /// The file that hints of log lines point to; empty for none.
    pub config: PathBuf,
    /// The last causes.
    pub causes: Arc<Causes>,
    /// Asked whether a device that left was kept waiting.
    pub hub: Option<Hub>,
    /// Spans of messages, where traces are configured.
    pub tracer: Option<Arc<Tracer>>,
}

#[cfg(test)]
impl Records {
    /// Nothing is kept.
    fn none() -> Self {
        Self::keeping(None)
    }

    /// Messages alone are kept.
    fn keeping(refused: Option<Arc<Folder>>) -> Self {
        Self {
            refused,
            config: PathBuf::new(),
            causes: Arc::new(Causes::new(1)),
            hub: None,
            tracer: None,
        }
    }
}

/// What all listeners and connections share.
pub struct Shared {
    rules: Arc<ArcSwap<RuleSet>>,
    hub: Hub,
    hub_host: String,
    registry: Arc<Registry>,
    setup: ArcSwap<Setup>,
    gate: Arc<Gate>,
    passwords: Passwords,
    attempts: Arc<Attempts>,
    tracker: TaskTracker,
    drain: CancellationToken,
}

impl Shared {
    /// `hub_host` is `[hub] host`, as SAS scopes and user names carry it. The rules may be
    /// swapped at any time; live sessions are ended through [`Shared::registry`].
    #[must_use]
    pub fn new(
        rules: Arc<ArcSwap<RuleSet>>,
        hub: Hub,
        hub_host: String,
        limits: Limits,
        metrics: Arc<Metrics>,
        records: Records,
    ) -> Arc<Self> {
        series::exist(&metrics);
        Arc::new(Self {
            rules,
            hub,
            hub_host,
            registry: Registry::new(limits.takeover_damping),
            gate: Gate::new(&limits),
            attempts: Attempts::new(&limits),
            passwords: Passwords::new(limits.password_checks, metrics.clone()),
            setup: ArcSwap::new(Setup::new(limits, metrics, &records)),
            tracker: TaskTracker::new(),
            drain: CancellationToken::new(),
        })
    }

    fn setup(&self) -> Arc<Setup> {
        self.setup.load_full()
    }

    /// Admits by these bounds from here on, those of `limits::AT_START` excepted. Connections keep
    /// the ones they began with, and nobody is closed because there are too many now.
    pub fn set_limits(&self, limits: &Limits) {
        let setup = self.setup();
        if setup.limits != *limits {
            self.gate.set_limits(limits);
            self.setup.store(setup.with_limits(limits.clone()));
            tracing::info!(
                name: "limits_changed",
                "limits changed; connections keep those they began with"
            );
        }
    }

    /// Shows the bounds of connections and of the hub beside their use.
    pub fn show_limits(&self, metrics: &Metrics) {
        for (limit, in_use, bound) in self.gate.uses() {
            metrics.show_limit(limit, in_use, bound);
        }
        if let Some(folder) = &self.setup().refused {
            let (in_use, bound) = folder.uses();
            metrics.show_limit("refused_folder_bytes", in_use as usize, bound as usize);
        }
        let (in_use, bound) = self.hub.devices();
        metrics.show_limit("hub_devices", in_use, bound);
    }

    /// What a device did since event `after`, and `after` of the next question; the first question
    /// begins the watch. `None` when `limits.watches` devices are watched already.
    #[must_use]
    pub fn events(&self, device: &str, after: u64) -> Option<(Vec<Event>, u64)> {
        self.setup().watches.events(device, after)
    }

    /// Why devices were refused or lost.
    #[must_use]
    pub fn causes(&self) -> Arc<Causes> {
        self.setup().voice.causes().clone()
    }

    /// Keeps a device out for `time` and ends its session; `false` when `limits.blocks` are kept
    /// out already.
    pub fn block(&self, device: &SessionKey, time: Duration) -> bool {
        let blocked = self.setup().blocks.add(device.clone(), time);
        if blocked {
            self.registry.kick(device, Eviction::Operator);
        }
        blocked
    }

    /// Lets a device in again; whether it was kept out.
    pub fn unblock(&self, device: &SessionKey) -> bool {
        self.setup().blocks.remove(device)
    }

    /// How long a device is still kept out.
    #[must_use]
    pub fn blocked(&self, device: &SessionKey) -> Option<Duration> {
        self.setup().blocks.left(device)
    }

    /// The live sessions.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Begins the end: handshakes are broken off, devices are read no more, and each device is
    /// closed once its messages are settled, not before its place in `spread`, at the latest
    /// after `settle`.
    pub fn drain(&self, settle: Duration, spread: Duration) {
        self.drain.cancel();
        self.registry.drain(settle, spread);
    }

    /// Ends the connections one after the other, `rate_per_s` of them each second; who has not had
    /// its turn is served as before. Returns when every device was told.
    pub async fn drain_paced(&self, settle: Duration, rate_per_s: u32) {
        self.registry.drain_paced(settle, rate_per_s).await;
        self.drain.cancel();
    }

    /// Waits for the last connection's end, at most for `within`; whether none is left.
    pub async fn drained(&self, within: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait())
            .await
            .is_ok()
    }

    /// Writes how many log lines about refusals were left out and not told yet; now and then.
    pub fn tell_left_out(&self) {
        self.setup().voice.tell_left_out();
    }

    /// Connections and handshakes that have a task.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tracker.len()
    }
}

/// What the connections of one listener share.
struct Site {
    name: String,
    accept: Vec<CredentialKind>,
    versions: Versions,
    websocket: bool,
    /// Who puts a PROXY header in front; nobody: there is none.
    proxies: Vec<Cidr>,
    headers: proxy::Awaited,
    acceptor: Arc<Acceptor>,
    shared: Arc<Shared>,
}

impl Site {
    fn new(config: ListenerConfig, acceptor: Arc<Acceptor>, shared: Arc<Shared>) -> Self {
        let connections = &shared.setup().metrics.connections;
        for kind in &config.accept {
            let _ = connections.with_label_values(&[&*config.name, kind.label()]);
        }
        Self {
            name: config.name,
            accept: config.accept,
            versions: config.mqtt_versions,
            websocket: config.websocket,
            proxies: config.proxy_protocol,
            headers: proxy::Awaited::default(),
            acceptor,
            shared,
        }
    }

    fn admit(self: &Arc<Self>, arrived: Arrived<Carrier>) {
        let shared = &self.shared;
        let setup = shared.setup();
        let source = arrived.source;
        let free = shared.attempts.may_connect(source.ip());
        let admitted = free
            .map_err(|throttled| (throttled.reason(), throttled.text()))
            .and_then(|proved| {
                let permits = shared.gate.admit(source.ip(), proved);
                permits.map_err(|refused| (refused.reason(), refused.setting()))
            });
        let (connection, handshake) = match admitted {
            Ok(permits) => permits,
            Err((reason, look_at)) => return arrived.refused(self, reason, look_at),
        };
        let Arrived {
            carrier, ending, ..
        } = arrived;
        if let Carrier::Tcp(tcp) = &carrier {
            prepare(tcp, setup.limits.write_timeout);
        }
        let arrival = Arrival {
            carrier,
            source,
            connection,
            handshake,
            ending,
        };
        let welcome = handshake::welcome(arrival, self.clone());
        shared.tracker.spawn(welcome);
    }
}

/// A bound port.
pub struct Listener {
    socket: TcpListener,
    site: Arc<Site>,
}

impl Listener {
    /// Serves a socket that is open already: systemd's, or the predecessor's.
    ///
    /// # Errors
    /// When the socket is none to accept on.
    pub fn on(
        socket: std::net::TcpListener,
        config: ListenerConfig,
        acceptor: Arc<Acceptor>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            site: Arc::new(Site::new(config, acceptor, shared)),
        })
    }

    /// The bound address; with port 0 configured, the port that was given.
    ///
    /// # Errors
    /// When the socket has lost it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop`; then the port is closed and connections live on.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, source)) => {
                    backoff = Backoff::default();
                    self.arrived(tcp, source);
                }
                // The peer was gone before its turn; the next one is not to blame.
                Err(error) if is_peers_fault(&error) => {}
                Err(error) => {
                    let pause = self.accept_failed(&error, &mut backoff);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    fn accept_failed(&self, error: &io::Error, backoff: &mut Backoff) -> Duration {
        let handshakes = &self.site.shared.setup().metrics.handshakes;
        let labels = ["none", "none", Reason::AcceptFailed.word()];
        handshakes.with_label_values(&labels).inc();
        if backoff.is_fresh() {
            tracing::warn!(
                name: "accept_failed",
                listener = %self.site.name,
                %error,
                "cannot accept connections; raise the limit of open files or lower \
                 limits.connections"
            );
        }
        backoff.next()
    }

    fn arrived(&self, tcp: TcpStream, source: SocketAddr) {
        let arrived = Arrived::new(tcp, source, &self.site);
        match self.site.proxies.is_empty() {
            true => self.site.admit(arrived.carried()),
            false => proxy::receive(arrived, self.site.clone()),
        }
    }
}

/// A socket or stream the gate has not seen.
struct Arrived<C> {
    carrier: C,
    source: SocketAddr,
    ending: Ending,
}

impl Arrived<TcpStream> {
    fn carried(self) -> Arrived<Carrier> {
        Arrived {
            carrier: Carrier::Tcp(self.carrier),
            source: self.source,
            ending: self.ending,
        }
    }
}

impl<C> Arrived<C> {
    fn new(carrier: C, source: SocketAddr, site: &Site) -> Self {
        Self {
            carrier,
            source,
            ending: Ending::new(site.shared.setup().metrics.clone()),
        }
    }

    /// Counts and tells that nobody came of it.
    fn refused(mut self, site: &Site, reason: Reason, text: &str) {
        self.ending.end(reason);
        let who = Who::at(&site.name, self.source.ip());
        let line = Line::new("connection refused", who, self.source, reason, text);
        site.shared.setup().voice.say(line);
    }
}

/// Binds an address and listens.
///
/// # Errors
/// When the address cannot be bound.
pub fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Socket options; a socket that refuses them still works.
fn prepare(tcp: &TcpStream, write_timeout: Duration) {
    let _ = tcp.set_nodelay(true);
    // A PUBACK to a device that vanished fits the kernel's buffer, so no write of ours would
    // ever stall; the kernel knows that nobody confirms it.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(write_timeout));
    #[cfg(not(target_os = "linux"))]
    let _ = (SockRef::from(tcp), write_timeout);
}

fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// The pause after a failed accept: doubled each time, so the loop never spins.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    fn is_fresh(&self) -> bool {
        self.0 == BACKOFF_MIN
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACKOFF_MAX);
        pause
    }
}

/// A text of foreign origin, cut for the log, which escapes it.
fn log_text(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LOG_TEXT_BYTES))
        .unwrap_or_default()
}
