//! The driver of one pooled connection: open, token, sessions; when it dies, back off and again.
//!
//! What to do when is `supervisor`'s to say. Devices never hear of a loss from here: their links
//! end with their session, and they wait for the lane's next one. Never takes the process down:
//! the connection runs in a task of its own.

use super::connect::{self, ConnectError, Opened};
use super::driver::{Ended, Handle};
use super::lane::{Lane, Shared};
use super::refusals::{Class, RefusalCause};
use super::sessions::{Broken, Sessions};
use super::supervisor::{Event, State, Supervisor};
use super::token::Keeper;
use super::{encode, outcome, tuning};
use crate::amqp::Closed;
use crate::runtime::clock::{self, Mono};
use crate::runtime::random;
use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Runs one lane of the pool until the hub stops.
pub async fn supervise(shared: Arc<Shared>, lane: Arc<Lane>) {
    let config = &shared.config;
    let mut machine = Supervisor::new(config.backoff_min, config.backoff_max);
    loop {
        let event = match machine.state() {
            State::Dormant => wanted(&shared, &lane).await,
            State::Connecting => match connect(&shared, &lane).await {
                Ok(Some(opened)) => {
                    let since = clock::mono();
                    machine.on(Event::Opened, since, random::unit());
                    let open = Open::new(&shared, &lane, opened);
                    let lost = open.serve(&mut machine).await;
                    note_loss(&shared, &lane, &lost, clock::mono().since(since));
                    Event::Lost
                }
                Ok(None) => Event::Stop,
                Err(error) => {
                    note_failure(&shared, &lane, &error);
                    Event::Failed
                }
            },
            State::Waiting(until) => rested(&shared, until).await,
            // `serve` returns when it is no longer open.
            State::Open | State::Serving => Event::Lost,
            State::Stopped => return,
        };
        let event = if shared.stop.is_cancelled() {
            Event::Stop
        } else {
            event
        };
        machine.on(event, clock::mono(), random::unit());
    }
}

async fn wanted(shared: &Shared, lane: &Lane) -> Event {
    tokio::select! {
        biased;
        () = lane.wanted.cancelled() => Event::Wanted,
        () = shared.stop.cancelled() => Event::Stop,
    }
}

async fn rested(shared: &Shared, until: Mono) -> Event {
    let _gauge = Gauge::enter(shared, "waiting");
    tokio::select! {
        biased;
        () = tokio::time::sleep(until.since(clock::mono())) => Event::Rested,
        () = shared.stop.cancelled() => Event::Stop,
    }
}

/// Opens the connection; `None` when the hub stops meanwhile.
async fn connect(shared: &Shared, lane: &Lane) -> Result<Option<Opened>, ConnectError> {
    let _gauge = Gauge::enter(shared, "connecting");
    let opened = tokio::select! {
        biased;
        opened = connect::open(&shared.config, &shared.world) => opened?,
        () = shared.stop.cancelled() => return Ok(None),
    };
    let address = address(shared);
    tracing::info!(
        name: "hub_connection_open",
        connection = lane.index,
        address,
        "hub connection open"
    );
    shared.refusals.succeeded(Class::Connect, || lane.name());
    Ok(Some(opened))
}

/// Where connections go.
fn address(shared: &Shared) -> String {
    let endpoint = &shared.config.endpoint;
    format!("{}:{}", endpoint.host, endpoint.port)
}

/// Books a connection that was open and is no more, unless that was asked for.
fn note_loss(shared: &Shared, lane: &Lane, lost: &Lost, lasted: Duration) {
    if shared.stop.is_cancelled() {
        return;
    }
    let Lost { cause, reason } = lost;
    book(shared, lane, cause, reason);
    if lasted < tuning::SOON && BY_THE_HUB.contains(cause) {
        let refusals = &shared.refusals;
        refusals.refused(RefusalCause::Closing, &lane.name(), reason);
    }
    let address = address(shared);
    tracing::warn!(
        name: "hub_connection_lost",
        connection = lane.index,
        address,
        cause,
        reason,
        "hub connection lost"
    );
}

/// Books an attempt that led to no connection.
fn note_failure(shared: &Shared, lane: &Lane, error: &ConnectError) {
    if shared.stop.is_cancelled() {
        return;
    }
    let (cause, reason) = (error.label(), error.to_string());
    book(shared, lane, cause, &reason);
    shared
        .refusals
        .refused(error.refusal(), &lane.name(), &reason);
    let address = address(shared);
    tracing::info!(
        name: "hub_connect_failed",
        connection = lane.index,
        address,
        cause,
        reason,
        "cannot connect to hub"
    );
}

/// Counts why there is no connection, and remembers it for `/ready`.
fn book(shared: &Shared, lane: &Lane, cause: &str, reason: &str) {
    let reconnects = &shared.metrics.hub_reconnects;
    reconnects.with_label_values(&[cause]).inc();
    shared.problem(lane.index, reason.to_owned());
}

/// Ends of a connection that are the hub's, by their cause.
const BY_THE_HUB: [&str; 3] = ["closed_by_hub", "transport", "begin"];

/// Why an open connection is no more.
struct Lost {
    /// `hub_reconnects_total{cause}`
    cause: &'static str,
    /// In words.
    reason: String,
}

impl Lost {
    fn new(cause: &'static str, reason: impl Into<String>) -> Self {
        Self {
            cause,
            reason: reason.into(),
        }
    }
}

/// Counts a connection in one `hub_connections{state}` while it lives.
struct Gauge(IntGauge);

impl Gauge {
    fn enter(shared: &Shared, state: &str) -> Self {
        let gauge = shared.metrics.hub_connections.with_label_values(&[state]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An open connection.
struct Open<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
    handle: Handle,
    /// Carries it; resolves when it is over.
    task: AbortOnDropHandle<Ended>,
    sessions: Sessions,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Arc<Shared>, lane: &'a Arc<Lane>, (handle, task): Opened) -> Self {
        lane.serve(Some(handle.clone()));
        let sessions = Sessions::new(lane, &handle, shared.config.operation_timeout);
        Self {
            shared,
            lane,
            handle,
            task,
            sessions,
        }
    }

    /// Serves until the connection ends; says why it did.
    async fn serve(mut self, machine: &mut Supervisor) -> Lost {
        let _gauge = Gauge::enter(self.shared, "open");
        let stop = CancellationToken::new();
        let keeper = Keeper::new(
            Arc::clone(self.shared),
            Arc::clone(self.lane),
            self.handle.clone(),
            self.sessions.home(),
        );
        let mut keeper = self.shared.on_control(keeper.run(stop.clone()));
        let lost = self.drive(&mut keeper, machine).await;
        let orderly = lost.cause == "shutdown";
        stop.cancel();
        if !orderly {
            self.handle.kill("the connection is over");
        }
        // The keeper's own deadlines bound this wait.
        if !keeper.is_finished() {
            drop(keeper.await);
        }
        self.shared.authorize(self.lane, false);
        if orderly {
            self.close().await;
        }
        self.sessions.close().await;
        self.lane.serve(None);
        lost
    }

    async fn drive(&mut self, keeper: &mut JoinHandle<()>, machine: &mut Supervisor) -> Lost {
        let mut token = self.lane.authorized.watch();
        self.sessions.serve_demand(); // what waits since before this connection
        loop {
            tokio::select! {
                biased;
                ended = &mut self.task => return self.cause(ended),
                () = self.shared.stop.cancelled() => return Lost::new("shutdown", ""),
                _ = &mut *keeper => {
                    // It runs as long as the connection; ending alone means it panicked.
                    self.shared.metrics.panics.inc();
                    return Lost::new("token_keeper", "the keeper of its token ended");
                }
                Some(ended) = self.sessions.ended() => {
                    self.shared.sessions_lost.fetch_add(1, Ordering::Relaxed);
                    if let Err(broken) = ended {
                        return self.broken(broken);
                    }
                }
                () = self.lane.demand.notified() => self.sessions.serve_demand(),
                holds = token.changed() => {
                    machine.on(Event::Token(holds), clock::mono(), random::unit());
                }
            }
        }
    }

    /// Closes links that were given up, sessions and the connection, and waits for the answers;
    /// each with a deadline.
    async fn close(&mut self) {
        let deadline = self.shared.config.operation_timeout;
        let links_and_sessions = async {
            self.handle.detached().await;
            self.sessions.end().await;
        };
        if timeout(deadline, links_and_sessions).await.is_err() {
            self.handle
                .kill("the hub did not answer an end within hub.operation_timeout");
        }
        self.handle.close(None);
        // The engine's own deadline for the answer bounds this wait.
        let _ = (&mut self.task).await;
    }

    /// Why the connection is over.
    fn cause(&self, ended: Result<Ended, JoinError>) -> Lost {
        let Ok(ended) = ended else {
            self.shared.metrics.panics.inc();
            return Lost::new("panic", "the AMQP engine stopped");
        };
        if let Some(why) = ended.killed {
            return Lost::new("killed", why);
        }
        match (ended.closed, ended.broken) {
            (Closed::Peer(None), _) => {
                Lost::new("closed_by_hub", "the hub closed it without a word")
            }
            (Closed::Peer(Some(error)), _) => {
                let cause = encode::cause(&error);
                Lost::new("closed_by_hub", outcome::words(Some(&cause)))
            }
            (Closed::Idle, _) => {
                let idle = self.shared.config.idle_timeout;
                let silence = (idle + idle / 2).as_secs();
                Lost::new("silent", format!("nothing was heard for {silence} s"))
            }
            (Closed::Fault(fault), _) => {
                Lost::new("protocol", outcome::escaped(&fault.to_string()))
            }
            (_, Some(broken)) => Lost::new("transport", format!("the transport broke: {broken}")),
            (closed, None) => Lost::new("protocol", outcome::escaped(&format!("{closed:?}"))),
        }
    }

    /// Why the connection is given up.
    fn broken(&self, broken: Broken) -> Lost {
        match broken {
            Broken::Begin => {
                let why = "the hub did not answer a begin within hub.operation_timeout";
                Lost::new("begin", why)
            }
            Broken::Lone => Lost::new("killed", "the one session the hub allows ended"),
            Broken::Panic => {
                self.shared.metrics.panics.inc();
                Lost::new("killed", "the task of a session panicked")
            }
        }
    }
}
