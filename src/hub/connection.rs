//! The supervisor of one pooled connection: open, token, sessions; on loss, back off and again.
//!
//! It owns the engine's handle; sessions are begun here, one at a time. Devices never hear of a
//! loss from here: their links end with the session, and they wait for the lane's next one.
//! Never takes the process down: what the engine does happens in its own tasks.

use super::connect;
use super::io::KillSwitch;
use super::lane::{Lane, Shared};
use super::session::{Ended, Session, restart_pause};
use super::token::Keeper;
use super::tuning;
use crate::runtime::clock;
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
    tokio::select! {
        () = lane.wanted.cancelled() => {}
        () = shared.stop.cancelled() => {}
    }
    let mut failures = 0;
    while !shared.stop.is_cancelled() {
        let opened = {
            let _state = State::enter(&shared, "connecting");
            let stop = shared.stop.cancelled();
            tokio::select! {
                opened = connect::open(&shared) => opened,
                () = stop => break,
            }
        };
        let cause = match opened {
            Ok((handle, kill)) => {
                let _state = State::enter(&shared, "open");
                tracing::info!(connection = lane.index, "hub connection open");
                lane.serve(&kill);
                let opened_at = clock::mono();
                let cause = Open::new(&shared, &lane, handle, kill).serve().await;
                if clock::mono().since(opened_at) > shared.config.backoff_max {
                    failures = 0;
                }
                cause
            }
            Err(error) => {
                shared.problem(lane.index, error.to_string());
                error.label()
            }
        };
        if shared.stop.is_cancelled() {
            break;
        }
        shared
            .metrics
            .hub_reconnects
            .with_label_values(&[cause])
            .inc();
        let (min, max) = (shared.config.backoff_min, shared.config.backoff_max);
        let pause = tuning::backoff(min, max, failures, tuning::roll());
        failures = failures.saturating_add(1);
        tracing::info!(
            connection = lane.index,
            cause,
            ?pause,
            "hub connection lost"
        );
        let _state = State::enter(&shared, "waiting");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stop.cancelled() => {}
        }
    }
}

/// Counts a connection in one `hub_connections{state}` while it lives.
struct State(IntGauge);

impl State {
    fn enter(shared: &Shared, state: &str) -> Self {
        let gauge = shared.metrics.hub_connections.with_label_values(&[state]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for State {
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
    async fn serve(mut self) -> &'static str {
        let (begin, mut requests) = mpsc::channel(1);
        let keeper = Keeper::new(
            Arc::clone(self.shared),
            Arc::clone(self.lane),
            self.kill.clone(),
            begin,
        );
        let mut keeper = self.shared.on_control(keeper.run(self.stop.clone()));
        let cause = self.drive(&mut requests, &mut keeper).await;
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
    ) -> &'static str {
        let mut check = interval(tuning::SESSION_CHECK);
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
