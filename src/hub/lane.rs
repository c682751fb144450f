//! What the parts of the upstream share: the hub-wide context, and one connection as its devices
//! see it (a lane). State only; the tasks that change it are in `connection` and `token`.

use super::HubStatus;
use super::driver::{Handle, Link, Session};
use super::environment::Environment;
use super::mint::Mint;
use super::outside::Outside;
use super::pace::Pacer;
use super::pool::{Pool, Seat};
use super::report::Reporter;
use super::series;
use crate::amqp::AttachError;
use crate::amqp::performative::Attach;
use crate::config::{HubConfig, TokenSource};
use crate::runtime::clock::Unix;
use crate::runtime::control::Control;
use crate::runtime::watch::Watched;
use crate::telemetry::causes::Causes;
use crate::telemetry::metrics::Metrics;
use prometheus::IntGauge;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The hub-wide context.
pub struct Shared {
    /// `[hub]`
    pub config: Arc<HubConfig>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Held handles of the gauges device tasks touch.
    pub gauges: LinkGauges,
    /// The pace of attaches.
    pub pacer: Pacer,
    /// Where tokens come from.
    pub mint: Mint,
    /// Counts tokens that came without having been asked for.
    pub token_news: Arc<watch::Sender<u64>>,
    /// Transports and the wall clock.
    pub world: Environment,
    /// Where decisions about the token are made; `None` while there is no thread to be had.
    pub control: Option<Control>,
    /// Milliseconds the latest decision to renew was late, at most.
    pub late_ms: AtomicU64,
    /// The connections.
    pub pool: Pool,
    /// Cancelled when the hub is shut down.
    pub stop: CancellationToken,
    /// Connections that are open and hold a token.
    pub ready: watch::Sender<usize>,
    /// Sessions that ended without being told to.
    pub sessions_lost: AtomicU64,
    /// What the hub refuses.
    pub refusals: Arc<Reporter>,
    news: Mutex<News>,
}

/// What `/ready` tells, as far as it is not in `ready`.
#[derive(Default)]
struct News {
    token_expiry: Option<Unix>,
    key_in_use: &'static str,
    /// By connection; empty when it is well.
    problems: Vec<String>,
}

/// Held `hub_links` handles.
pub struct LinkGauges {
    /// Attached telemetry links.
    pub uplinks: IntGauge,
    /// Attached command links.
    pub downlinks: IntGauge,
    /// Telemetry links on their way.
    pub uplinks_attaching: IntGauge,
    /// Command links on their way.
    pub downlinks_attaching: IntGauge,
    /// Attached links of methods.
    pub methods: IntGauge,
    /// Links of methods on their way.
    pub methods_attaching: IntGauge,
    /// Attached links of twins.
    pub twins: IntGauge,
    /// Links of twins on their way.
    pub twins_attaching: IntGauge,
    /// Calls without answer.
    pub calls: IntGauge,
    /// Answers the hub has not taken.
    pub answers: IntGauge,
    /// Their bytes.
    pub answer_bytes: IntGauge,
    /// Twin requests without answer.
    pub asks: IntGauge,
    /// Their bytes.
    pub ask_bytes: IntGauge,
    /// Devices that follow desired properties.
    pub desired: IntGauge,
    /// What is kept of these.
    pub desired_bytes: IntGauge,
}

impl LinkGauges {
    fn of(metrics: &Metrics) -> Self {
        let gauge = |role, state| metrics.hub_links.with_label_values(&[role, state]);
        let waiting = |kind| metrics.requests_waiting.with_label_values(&[kind]);
        let bytes = |kind| metrics.requests_waiting_bytes.with_label_values(&[kind]);
        Self {
            uplinks: gauge("uplink", "attached"),
            downlinks: gauge("downlink", "attached"),
            uplinks_attaching: gauge("uplink", "attaching"),
            downlinks_attaching: gauge("downlink", "attaching"),
            methods: gauge("methods", "attached"),
            methods_attaching: gauge("methods", "attaching"),
            twins: gauge("twin", "attached"),
            twins_attaching: gauge("twin", "attaching"),
            calls: waiting("method"),
            answers: waiting("method_answer"),
            answer_bytes: bytes("method_answer"),
            asks: waiting("twin"),
            ask_bytes: bytes("twin"),
            desired: waiting("desired"),
            desired_bytes: bytes("desired"),
        }
    }
}

impl Shared {
    /// The context of a hub that starts.
    pub fn new(
        world: Environment,
        config: Arc<HubConfig>,
        metrics: Arc<Metrics>,
        causes: Arc<Causes>,
        pacer: Pacer,
    ) -> Self {
        series::exist(&metrics);
        let connections = config.connections.max(1);
        let sessions = config.sessions_per_connection.max(1);
        let bytes = config.connection_bytes_max;
        let lanes = (0..connections).map(|index| Lane::new(index, sessions, bytes));
        let control = match world.control_thread {
            true => Control::start()
                .inspect_err(|error| {
                    tracing::error!(
                        name: "control_thread_missing",
                        %error,
                        "no control thread; sharing the others"
                    );
                })
                .ok(),
            false => None,
        };
        let stop = CancellationToken::new();
        let token_news = Arc::new(watch::Sender::new(0));
        let mint = match &config.token_source {
            TokenSource::Keys => Mint::keys(&config),
            outside => {
                // Each connection asks once at a time.
                let (ask, asks) = mpsc::channel(connections);
                let (news, wall) = (Arc::clone(&token_news), Arc::clone(&world.wall));
                let source = Outside::new(Arc::clone(&config), asks, news, wall);
                let source = source.run(stop.clone());
                drop(match &control {
                    Some(control) => control.spawn(source),
                    None => tokio::spawn(source),
                });
                let file = matches!(outside, TokenSource::File { .. });
                Mint::Outside(if file { "file" } else { "service" }, ask)
            }
        };
        Self {
            pool: Pool::new(lanes, config.max_devices_per_connection),
            gauges: LinkGauges::of(&metrics),
            mint,
            token_news,
            world,
            control,
            late_ms: AtomicU64::new(0),
            refusals: Arc::new(Reporter::new(&metrics, causes)),
            config,
            metrics,
            pacer,
            stop,
            ready: watch::Sender::new(0),
            sessions_lost: AtomicU64::new(0),
            news: Mutex::new(News {
                problems: vec![String::new(); connections],
                ..News::default()
            }),
        }
    }

    /// Runs `task` on the control thread.
    pub fn on_control<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.control {
            Some(control) => control.spawn(task),
            None => tokio::spawn(task),
        }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what is wrong with a connection, for `/ready`; an empty text clears it.
    pub fn problem(&self, connection: usize, text: String) {
        if let Some(known) = self.news().problems.get_mut(connection) {
            *known = text;
        }
    }

    /// A token was accepted.
    pub fn token_accepted(&self, expiry: Unix, key: &'static str) {
        let mut news = self.news();
        news.token_expiry = Some(expiry);
        news.key_in_use = key;
        drop(news);
        #[allow(clippy::cast_precision_loss)] // seconds of a date are exact in f64
        self.metrics.token_expiry.set(expiry.as_secs() as f64);
        for slot in ["primary", "secondary"] {
            let gauge = self.metrics.token_key_in_use.with_label_values(&[slot]);
            gauge.set(i64::from(slot == key));
        }
    }

    /// Says whether `lane` holds a token; whether that is news. Keeps `ready` and the gauge true.
    pub fn authorize(&self, lane: &Lane, holds: bool) -> bool {
        let changed = lane.authorized.replace(holds) != holds;
        if changed {
            self.ready.send_modify(|n| {
                *n = if holds { *n + 1 } else { n.saturating_sub(1) };
            });
            self.pool.changed();
        }
        changed
    }

    /// The snapshot for `/ready`. Says nothing of a token that has ended.
    pub fn status(&self) -> HubStatus {
        let news = self.news();
        let problem = news.problems.iter().find(|problem| !problem.is_empty());
        HubStatus {
            connections_ready: *self.ready.borrow(),
            connections_wanted: self.pool.open(),
            token_expiry: news.token_expiry.filter(|at| *at > (self.world.wall)()),
            key_in_use: news.key_in_use,
            problem: problem.cloned().unwrap_or_default(),
            refusals: self.refusals.standing(),
        }
    }
}

/// One connection of the pool as its devices see it. Outlives the connection's losses.
pub struct Lane {
    /// Position in the pool.
    pub index: usize,
    /// Cancelled once the connection is to be open.
    pub wanted: CancellationToken,
    /// The sessions devices are spread over.
    pub slots: Vec<Slot>,
    /// A session of some slot is wanted.
    pub demand: Notify,
    /// Whether the connection holds a token; attaches wait for it.
    pub authorized: Watched<bool>,
    /// A link was refused for lack of a token: put one.
    pub suspect: Notify,
    /// Bytes in flight.
    pub bytes: Arc<Semaphore>,
    /// Devices placed here.
    pub devices: AtomicUsize,
    /// Devices that are quiet should leave; kept by the pool.
    pub crowded: AtomicBool,
    /// The connection that serves it now.
    handle: Mutex<Option<Handle>>,
}

/// The place of one session. Where the hub allows fewer sessions, some hold the same one.
pub struct Slot {
    /// `None` while there is none.
    pub session: Watched<Option<Arc<Session>>>,
    /// A device waits for it.
    pub wanted: AtomicBool,
}

/// Why no link was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLink {
    /// The connection holds no token any more.
    NoToken,
    /// The session of this slot is to be begun first; where it is another slot's, the device's own
    /// has no handle left.
    NoSession(usize),
    /// No session of the connection has a handle left.
    Full,
}

impl Lane {
    /// A lane that is down.
    pub fn new(index: usize, sessions: usize, bytes: usize) -> Self {
        let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let slot = |_| Slot {
            session: Watched::new(None),
            wanted: AtomicBool::new(false),
        };
        Self {
            index,
            wanted: CancellationToken::new(),
            slots: (0..sessions.max(1)).map(slot).collect(),
            demand: Notify::new(),
            authorized: Watched::new(false),
            suspect: Notify::new(),
            bytes: Arc::new(Semaphore::new(bytes)),
            devices: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            handle: Mutex::new(None),
        }
    }

    /// Remembers the connection that serves this lane from now on, if there is one.
    pub fn serve(&self, handle: Option<Handle>) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    /// Cuts the connection that serves this lane now.
    pub fn cut(&self, why: &'static str) {
        if let Some(handle) = &*self.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            handle.kill(why);
        }
    }

    /// Waits until every link that was given up on the connection is detached.
    #[cfg(test)]
    pub async fn detached(&self) {
        let handle = self.handle.lock().unwrap().clone();
        handle.expect("a connection").detached().await;
    }

    /// Devices placed here.
    pub fn load(&self) -> usize {
        self.devices.load(Ordering::Relaxed)
    }

    /// Its name where refusals are told.
    pub fn name(&self) -> String {
        format!("connection {}", self.index)
    }

    /// What the pool goes by.
    pub fn seat(&self) -> Seat {
        Seat {
            devices: self.load(),
            healthy: self.authorized.get(),
        }
    }

    /// Whether quiet devices should leave.
    pub fn crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Waits until links can be attached in the session of this slot, and asks for that session.
    pub async fn session(&self, slot: usize) {
        let slot = &self.slots[slot % self.slots.len()];
        let (mut session, mut token) = (slot.session.watch(), self.authorized.watch());
        loop {
            let mapped = session.get().as_deref().map(Session::is_mapped);
            if mapped != Some(true) {
                slot.wanted.store(true, Ordering::Relaxed);
                self.demand.notify_one();
                session.changed().await;
            } else if token.get() {
                return;
            } else {
                token.changed().await;
            }
        }
    }

    /// Attaches a link in the session of this slot or, where that has no handle left, in another.
    ///
    /// # Errors
    /// See [`NoLink`].
    pub fn attach(&self, slot: usize, attach: &Attach) -> Result<Link, NoLink> {
        if !self.authorized.get() {
            return Err(NoLink::NoToken);
        }
        let count = self.slots.len();
        for slot in (slot..slot + count).map(|slot| slot % count) {
            let session = self.slots[slot].session.get();
            let link = session.map(|session| session.attach(attach.clone(), 0));
            match link {
                Some(Ok(link)) => return Ok(link),
                Some(Err(AttachError::HandleMax | AttachError::TooLarge)) => {}
                Some(Err(AttachError::NotMapped)) | None => return Err(NoLink::NoSession(slot)),
            }
        }
        Err(NoLink::Full)
    }
}
