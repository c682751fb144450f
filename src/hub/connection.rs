//! The driver of one pooled connection: open, token, sessions; on loss, back off and again.
//!
//! What to do when is `supervisor`'s to say. It owns the engine's handle; sessions are begun here, one at a time. Devices never hear of a
//! loss from here: their links end with the session, and they wait for the lane's next one.
//! Never takes the process down: what the engine does happens in its own tasks.

use super::connect;
use super::io::KillSwitch;
use super::lane::{Lane, Shared};
use super::session::{Ended, Session, restart_pause};
use super::supervisor::{self, Event, State, Supervisor};
use super::token::Keeper;
use super::tuning;
use crate::runtime::clock::{self, Mono};
use fe2o3_amqp::connection::{ConnectionHandle, Error};
use fe2o3_amqp::session::SessionHandle;
use prometheus::IntGauge;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

/// A request for a session of its own; only the token's keeper makes one.
pub type BeginRequest = oneshot::Sender<SessionHandle<()>>;

/// What a new session is for.
enum Purpose {
    /// The token's keeper.
    Token(BeginRequest),
    /// The devices of this slot.
    Slot(usize),
}

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
                    let cause = open.serve(&mut machine).await;
                    note(&shared, &lane, cause);
                    Event::Lost
                }
                Ok(None) => Event::Stop,
                Err(cause) => {
                    note(&shared, &lane, cause);
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
) -> Result<Option<Open<'a>>, &'static str> {
    let _gauge = Gauge::enter(shared, "connecting");
    let opened = tokio::select! {
        opened = connect::open(shared) => opened,
        () = shared.stop.cancelled() => return Ok(None),
    };
    let (handle, kill) = opened.map_err(|error| {
        shared.problem(lane.index, error.to_string());
        error.label()
    })?;
    tracing::info!(connection = lane.index, "hub connection open");
    lane.serve(&kill);
    Ok(Some(Open::new(shared, lane, handle, kill)))
}

/// Counts a loss or a failure, unless it was asked for.
fn note(shared: &Shared, lane: &Lane, cause: &'static str) {
    if shared.stop.is_cancelled() {
        return;
    }
    let reconnects = &shared.metrics.hub_reconnects;
    reconnects.with_label_values(&[cause]).inc();
    tracing::info!(connection = lane.index, cause, "hub connection lost");
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
    handle: ConnectionHandle<()>,
    kill: KillSwitch,
    stop: CancellationToken,
    sessions: JoinSet<(usize, Ended)>,
    to_begin: VecDeque<Purpose>,
    /// By slot: its session lives, or waits for its turn to be begun.
    served: Vec<bool>,
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
        }
    }

    /// Serves until the connection ends; says why it did.
    async fn serve(mut self, machine: &mut Supervisor) -> &'static str {
        let _gauge = Gauge::enter(self.shared, "open");
        let (begin, mut requests) = mpsc::channel(1);
        let keeper = Keeper::new(
            Arc::clone(self.shared),
            Arc::clone(self.lane),
            self.kill.clone(),
            begin,
        );
        let mut keeper = self.shared.on_control(keeper.run(self.stop.clone()));
        let cause = self.drive(&mut requests, &mut keeper, machine).await;
        drop(requests);
        let orderly = cause == "shutdown";
        self.stop.cancel();
        if !orderly {
            self.kill.kill();
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
            self.kill.kill();
        }
        cause
    }

    async fn drive(
        &mut self,
        requests: &mut mpsc::Receiver<BeginRequest>,
        keeper: &mut tokio::task::JoinHandle<()>,
        machine: &mut Supervisor,
    ) -> &'static str {
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
                () = self.shared.stop.cancelled() => return "shutdown",
                _ = &mut *keeper => {
                    // It runs as long as the connection; ending alone means it panicked.
                    self.shared.metrics.panics.inc();
                    return "token_keeper";
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
                    if supervisor::silent(heard, clock::mono(), idle_timeout) {
                        return "silent";
                    }
                }
                () = std::future::ready(()), if !idle => {
                    if !self.begin_next().await {
                        return "begin";
                    }
                }
            }
        }
    }

    fn cause(&self, ended: Result<(), Error>) -> &'static str {
        if self.kill.killed() {
            return "killed";
        }
        match ended {
            Ok(()) | Err(Error::RemoteClosed) => "closed_by_hub",
            Err(Error::RemoteClosedWithError(error)) => {
                let cause = super::encode::cause(&error);
                let text = super::outcome::words(Some(&cause));
                self.shared.problem(self.lane.index, text);
                "closed_by_hub"
            }
            Err(Error::TransportError(_)) => "transport",
            Err(Error::JoinError(_)) => "panic",
            Err(_) => "protocol",
        }
    }

    fn session_ended(&mut self, ended: Result<(usize, Ended), tokio::task::JoinError>) {
        match ended {
            Ok((slot, Ended::Lost)) => {
                self.shared.sessions_lost.fetch_add(1, Ordering::Relaxed);
                self.served[slot] = false;
                self.serve_demand();
            }
            Ok((_, Ended::Told)) => {}
            Err(_panic) => {
                // Which slot is unknown; a new connection serves all of them.
                self.shared.metrics.panics.inc();
                self.kill.kill();
            }
        }
    }

    /// Queues sessions that devices wait for; sessions nobody has asked for cost nothing.
    fn serve_demand(&mut self) {
        for (slot, place) in self.lane.slots.iter().enumerate() {
            if !self.served[slot] && place.wanted.load(Ordering::Relaxed) {
                self.served[slot] = true;
                self.to_begin.push_back(Purpose::Slot(slot));
            }
        }
    }

    /// Replaces sessions near the engine's transfer limit (fe2o3 F5). Links move over when
    /// nothing of theirs is in flight, so nothing is sent twice.
    fn retire_worn_sessions(&mut self) {
        for (slot, state) in self.lane.slots.iter().enumerate() {
            let worn = |port: &Arc<super::session::Port>| {
                let sent = port.transfers.load(Ordering::Relaxed);
                sent > tuning::SESSION_TRANSFERS_MAX && !port.retired.swap(true, Ordering::Relaxed)
            };
            let port = state.port.borrow().clone();
            if let Some(port) = port.filter(worn) {
                port.retire.cancel();
                self.to_begin.push_back(Purpose::Slot(slot));
            }
        }
    }

    /// Begins one session. `false`: the hub does not answer, or the connection is gone.
    async fn begin_next(&mut self) -> bool {
        let Some(purpose) = self.to_begin.pop_front() else {
            return true;
        };
        let begin = fe2o3_amqp::Session::builder().begin(&mut self.handle);
        let deadline = self.shared.config.operation_timeout;
        let Ok(Ok(session)) = timeout(deadline, begin).await else {
            return false;
        };
        match purpose {
            Purpose::Token(reply) => drop(reply.send(session)),
            Purpose::Slot(slot) => {
                let session = Session::new(
                    session,
                    Arc::clone(self.shared),
                    self.kill.clone(),
                    self.lane.authorized.subscribe(),
                    self.stop.clone(),
                );
                let place = &self.lane.slots[slot];
                place.wanted.store(false, Ordering::Relaxed);
                place.port.send_replace(Some(session.port()));
                let stop = self.stop.clone();
                self.sessions.spawn(async move {
                    let port = session.port();
                    let mut ended = session.run().await;
                    if port.retired.load(Ordering::Relaxed) {
                        ended = Ended::Told; // its successor serves the slot
                    }
                    if ended == Ended::Lost {
                        tokio::select! {
                            () = tokio::time::sleep(restart_pause()) => {}
                            () = stop.cancelled() => {}
                        }
                    }
                    (slot, ended)
                });
            }
        }
        true
    }
}
