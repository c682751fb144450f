//! The driver of one pooled connection: open, token, sessions; on loss, back off and again.
//!
//! What to do when is `supervisor`'s to say. It owns the engine's handle; sessions are begun here, one at a time. Devices never hear of a
//! loss from here: their links end with the session, and they wait for the lane's next one.
//! Never takes the process down: what the engine does happens in its own tasks.

use super::connect::{self, ConnectError};
use super::io::KillSwitch;
use super::lane::{Lane, Shared};
use super::refusals::Class;
use super::session::Ended;
use super::sessions::{Begun, Purpose};
use super::supervisor::{self, Event, State, Supervisor};
use super::token::Keeper;
use super::tuning;
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp::connection::{ConnectionHandle, Error};
use prometheus::IntGauge;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

/// A request for a session of its own; only the token's keeper makes one.
pub type BeginRequest = oneshot::Sender<Begun>;

/// Runs one lane of the pool until the hub stops.
pub async fn supervise(shared: Arc<Shared>, lane: Arc<Lane>) {
    let config = &shared.config;
    let mut machine = Supervisor::new(config.backoff_min, config.backoff_max);
    loop {
        let event = match machine.state() {
            State::Dormant => wanted(&shared, &lane).await,
            State::Connecting => match connect(&shared, &lane).await {
                Ok(Some(open)) => {
                    machine.on(Event::Opened, clock::mono(), tuning::roll());
                    let lost = open.serve(&mut machine).await;
                    note_loss(&shared, &lane, &lost);
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
        machine.on(event, clock::mono(), tuning::roll());
    }
}

async fn wanted(shared: &Shared, lane: &Lane) -> Event {
    tokio::select! {
        () = lane.wanted.cancelled() => Event::Wanted,
        () = shared.stop.cancelled() => Event::Stop,
    }
}

async fn rested(shared: &Shared, until: Mono) -> Event {
    let _gauge = Gauge::enter(shared, "waiting");
    tokio::select! {
        () = tokio::time::sleep(until.since(clock::mono())) => Event::Rested,
        () = shared.stop.cancelled() => Event::Stop,
    }
}

/// Opens the connection; `None` when the hub stops meanwhile.
async fn connect<'a>(
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
) -> Result<Option<Open<'a>>, ConnectError> {
    let _gauge = Gauge::enter(shared, "connecting");
    let opened = tokio::select! {
        opened = connect::open(shared) => opened,
        () = shared.stop.cancelled() => return Ok(None),
    };
    let (handle, kill) = opened?;
    let address = address(shared);
    tracing::info!(connection = lane.index, address, "hub connection open");
    shared.refusals.succeeded(Class::Connect, || lane.name());
    lane.serve(&kill);
    Ok(Some(Open::new(shared, lane, handle, kill)))
}

/// Where connections go.
fn address(shared: &Shared) -> String {
    let endpoint = &shared.config.endpoint;
    format!("{}:{}", endpoint.host, endpoint.port)
}

/// Counts a connection that was open and is no more, unless that was asked for.
fn note_loss(shared: &Shared, lane: &Lane, lost: &Lost) {
    if shared.stop.is_cancelled() {
        return;
    }
    let Lost { cause, reason } = lost;
    let reconnects = &shared.metrics.hub_reconnects;
    reconnects.with_label_values(&[cause]).inc();
    shared.problem(lane.index, reason.clone());
    let address = address(shared);
    tracing::warn!(
        connection = lane.index,
        address,
        cause,
        reason,
        "hub connection lost"
    );
}

/// Counts an attempt that led to no connection.
fn note_failure(shared: &Shared, lane: &Lane, error: &ConnectError) {
    if shared.stop.is_cancelled() {
        return;
    }
    let (cause, reason) = (error.label(), error.to_string());
    let reconnects = &shared.metrics.hub_reconnects;
    reconnects.with_label_values(&[cause]).inc();
    shared.problem(lane.index, reason.clone());
    shared
        .refusals
        .refused(error.refusal(), &lane.name(), &reason);
    let address = address(shared);
    tracing::info!(
        connection = lane.index,
        address,
        cause,
        reason,
        "cannot connect to hub"
    );
}

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
pub(super) struct Open<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) lane: &'a Arc<Lane>,
    pub(super) handle: ConnectionHandle<()>,
    pub(super) kill: KillSwitch,
    pub(super) stop: CancellationToken,
    pub(super) sessions: JoinSet<(usize, Ended)>,
    pub(super) to_begin: VecDeque<Purpose>,
    /// By slot: its session lives, or waits for its turn to be begun.
    pub(super) served: Vec<bool>,
    /// Slots that use another's session.
    pub(super) sharing: Vec<usize>,
}

impl<'a> Open<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        lane: &'a Arc<Lane>,
        handle: ConnectionHandle<()>,
        kill: KillSwitch,
    ) -> Self {
        Self {
            shared,
            lane,
            handle,
            kill,
            stop: CancellationToken::new(),
            sessions: JoinSet::new(),
            to_begin: VecDeque::new(),
            served: vec![false; lane.slots.len()],
            sharing: Vec::new(),
        }
    }

    /// Serves until the connection ends; says why it did.
    async fn serve(mut self, machine: &mut Supervisor) -> Lost {
        let _gauge = Gauge::enter(self.shared, "open");
        let (begin, mut requests) = mpsc::channel(1);
        let keeper = Keeper::new(
            Arc::clone(self.shared),
            Arc::clone(self.lane),
            self.kill.clone(),
            begin,
        );
        let mut keeper = self.shared.on_control(keeper.run(self.stop.clone()));
        let lost = self.drive(&mut requests, &mut keeper, machine).await;
        drop(requests);
        let orderly = lost.cause == "shutdown";
        self.stop.cancel();
        if !orderly {
            self.kill.kill("the connection is over");
        }
        // The keeper's and the sessions' own deadlines bound these two waits.
        if !keeper.is_finished() {
            drop(keeper.await);
        }
        self.shared.authorize(self.lane, false);
        while self.sessions.join_next().await.is_some() {}
        for slot in &self.lane.slots {
            slot.port.send_replace(None);
        }
        let deadline = self.shared.config.operation_timeout;
        if orderly && timeout(deadline, self.handle.close()).await.is_err() {
            self.kill
                .kill("the hub did not answer a close within hub.operation_timeout");
        }
        lost
    }

    async fn drive(
        &mut self,
        requests: &mut mpsc::Receiver<BeginRequest>,
        keeper: &mut tokio::task::JoinHandle<()>,
        machine: &mut Supervisor,
    ) -> Lost {
        let mut check = interval(tuning::SESSION_CHECK);
        let opened = clock::mono();
        let idle_timeout = self.shared.config.idle_timeout;
        let mut heartbeat = interval(idle_timeout / 8);
        let mut token = self.lane.authorized.subscribe();
        self.serve_demand(); // what waits since before this connection
        loop {
            let idle = self.to_begin.is_empty();
            tokio::select! {
                biased;
                ended = self.handle.on_close() => return self.cause(ended),
                () = self.shared.stop.cancelled() => return Lost::new("shutdown", ""),
                _ = &mut *keeper => {
                    // It runs as long as the connection; ending alone means it panicked.
                    self.shared.metrics.panics.inc();
                    return Lost::new("token_keeper", "the keeper of its token ended");
                }
                Some(reply) = requests.recv() => self.to_begin.push_front(Purpose::Token(reply)),
                Some(ended) = self.sessions.join_next() => self.session_ended(ended),
                () = self.lane.demand.notified() => self.serve_demand(),
                _ = check.tick() => self.retire_worn_sessions(),
                Ok(()) = token.changed() => {
                    let holds = *token.borrow_and_update();
                    machine.on(Event::Token(holds), clock::mono(), tuning::roll());
                }
                _ = heartbeat.tick() => {
                    let heard = self.kill.heard().map_or(opened, |heard| heard.max(opened));
                    let now = clock::mono();
                    if supervisor::silent(heard, now, idle_timeout) {
                        let silence = now.since(heard).as_secs();
                        return Lost::new("silent", format!("nothing was heard for {silence} s"));
                    }
                }
                () = std::future::ready(()), if !idle => {
                    if let Err(reason) = self.begin_next().await {
                        return self.unbegun(reason);
                    }
                }
            }
        }
    }

    fn cause(&self, ended: Result<(), Error>) -> Lost {
        if let Some(why) = self.kill.why() {
            return Lost::new("killed", why);
        }
        match ended {
            Ok(()) | Err(Error::RemoteClosed) => {
                Lost::new("closed_by_hub", "the hub closed it without a word")
            }
            Err(Error::RemoteClosedWithError(error)) => {
                let cause = super::encode::cause(&error);
                Lost::new("closed_by_hub", super::outcome::words(Some(&cause)))
            }
            Err(Error::TransportError(error)) => {
                let error = super::outcome::escaped(&error.to_string());
                Lost::new("transport", format!("the transport broke: {error}"))
            }
            Err(Error::JoinError(_)) => Lost::new("panic", "the AMQP engine stopped"),
            Err(error) => Lost::new("protocol", super::outcome::escaped(&error.to_string())),
        }
    }

    /// A session could not be begun: the connection's own end says more, if it came to one.
    fn unbegun(&self, reason: String) -> Lost {
        match self.kill.why() {
            Some(why) => Lost::new("killed", why),
            None => Lost::new("begin", reason),
        }
    }

    fn session_ended(&mut self, ended: Result<(usize, Ended), tokio::task::JoinError>) {
        match ended {
            Ok((slot, Ended::Lost)) => self.session_lost(slot),
            Ok((_, Ended::Told)) => {}
            Err(_panic) => {
                // Which slot is unknown; a new connection serves all of them.
                self.shared.metrics.panics.inc();
                self.kill.kill("the task of a session panicked");
            }
        }
    }
}
