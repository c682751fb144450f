//! One AMQP session: the only place where device links are attached and closed.
//!
//! Attaches run here one at a time and are never cancelled; a peer that does not answer one is
//! answered by killing the connection (fe2o3 F2). Closes are awaited before the next attach,
//! because the engine reuses a handle too early (F4). Knows links, not devices. Neighbours: the
//! connection, which begins it, and the device tasks, which ask for links and hand them back.

use super::encode;
use super::engine::{Names, unhurried};
use super::io::KillSwitch;
use super::lane::Shared;
use super::live::{Closed, Handed, Link, Live};
use super::outcome::Cause;
use super::pace::Urgency;
use super::refusals::RefusalCause;
use super::report::within;
use super::tuning;
use fe2o3_amqp::link::{CreditMode, ReceiverAttachError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use prometheus::IntGauge;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Why the hub refused an attach; `None`: without an error.
pub type Refused = Option<Cause>;
type Answer<L> = oneshot::Sender<Result<Live<L>, Refused>>;

/// A request for a link. The answer is dropped when the session ends first.
pub enum Wanted {
    /// A telemetry link to this target.
    Uplink(String, Answer<Sender>),
    /// A command link from this source.
    Downlink(String, Answer<Receiver>),
}

impl Wanted {
    fn abandoned(&self) -> bool {
        match self {
            Self::Uplink(_, answer) => answer.is_closed(),
            Self::Downlink(_, answer) => answer.is_closed(),
        }
    }
}

/// What device tasks hold of a session.
pub struct Port {
    /// Where to ask for links.
    pub attach: mpsc::Sender<(Urgency, Wanted)>,
    /// Transfer frames sent so far, about (fe2o3 F5).
    pub transfers: AtomicU64,
    /// Set when the session is to be replaced: links move away once nothing is in flight.
    pub retired: AtomicBool,
    /// Cancelled together with `retired`.
    pub retire: CancellationToken,
}

/// How a session task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// The peer or the connection ended it.
    Lost,
}

type Turn = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The task's state.
pub struct Session {
    handle: SessionHandle<()>,
    port: Arc<Port>,
    shared: Arc<Shared>,
    kill: KillSwitch,
    authorized: watch::Receiver<bool>,
    stop: CancellationToken,
    requests: mpsc::Receiver<(Urgency, Wanted)>,
    closing: mpsc::Receiver<Handed>,
    way_back: mpsc::Sender<Handed>,
    urgent: VecDeque<Wanted>,
    normal: VecDeque<Wanted>,
    turn: Option<(Urgency, Turn)>,
    retire_deadline: Option<Pin<Box<Sleep>>>,
    queue_max: usize,
    names: Names,
    /// A Detach of a link that is gone may still be queued in the engine.
    unsettled: bool,
}

impl Session {
    /// Takes a begun session over. `links` bounds the requests and the links at once.
    pub fn new(
        handle: SessionHandle<()>,
        shared: Arc<Shared>,
        kill: KillSwitch,
        authorized: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Self {
        // Every device may hold two links and have two more on their way out.
        let links = shared.config.max_devices_per_connection.max(1) * 4;
        let (attach, requests) = mpsc::channel(links);
        let (way_back, closing) = mpsc::channel(links);
        let port = Arc::new(Port {
            attach,
            transfers: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            retire: CancellationToken::new(),
        });
        Self {
            handle,
            port,
            shared,
            kill,
            authorized,
            stop,
            requests,
            closing,
            way_back,
            urgent: VecDeque::new(),
            normal: VecDeque::new(),
            turn: None,
            retire_deadline: None,
            queue_max: links,
            names: Names::default(),
            unsettled: false,
        }
    }

    /// What device tasks are given.
    pub fn port(&self) -> Arc<Port> {
        Arc::clone(&self.port)
    }

    /// Runs until the session ends or is told to.
    pub async fn run(mut self) -> Ended {
        let retired = self.port.retire.clone();
        let stop = self.stop.clone();
        loop {
            self.take_turn();
            let queued = self.urgent.len() + self.normal.len();
            tokio::select! {
                biased;
                _ = self.handle.on_end() => return Ended::Lost,
                () = stop.cancelled() => break,
                () = passed(&mut self.retire_deadline) => break,
                Some(first) = self.closing.recv() => {
                    if !self.close(first).await {
                        return Ended::Lost;
                    }
                }
                Some((urgency, wanted)) = self.requests.recv(), if queued < self.queue_max => {
                    match urgency {
                        Urgency::Urgent => self.urgent.push_back(wanted),
                        Urgency::Normal => self.normal.push_back(wanted),
                    }
                }
                () = retired.cancelled(), if self.retire_deadline.is_none() => {
                    self.retire_deadline = Some(Box::pin(sleep(tuning::SESSION_RETIRE)));
                }
                () = granted(&mut self.turn) => {
                    self.turn = None;
                    if !self.attach_next().await {
                        return Ended::Lost;
                    }
                }
                _ = self.authorized.changed() => {}
            }
        }
        self.end().await;
        Ended::Told
    }

    /// Asks the pacer for a turn when there is work and the hub would let us.
    fn take_turn(&mut self) {
        // Devices that left while they waited cost no turn.
        while self.urgent.front().is_some_and(Wanted::abandoned) {
            self.urgent.pop_front();
        }
        while self.normal.front().is_some_and(Wanted::abandoned) {
            self.normal.pop_front();
        }
        let urgency = match (self.urgent.is_empty(), self.normal.is_empty()) {
            (false, _) => Urgency::Urgent,
            (true, false) => Urgency::Normal,
            (true, true) => {
                self.turn = None;
                return;
            }
        };
        if !*self.authorized.borrow_and_update() {
            self.turn = None;
            return;
        }
        if self.turn.as_ref().is_none_or(|(asked, _)| *asked < urgency) {
            let pacer = self.shared.pacer.clone();
            self.turn = Some((urgency, Box::pin(pacer.granted(urgency))));
        }
    }

    /// Closes a batch of links and waits for the answers. `false`: the peer does not answer.
    async fn close(&mut self, first: Handed) -> bool {
        let mut closes = JoinSet::new();
        closes.spawn(closed(first));
        while closes.len() < tuning::CLOSE_BATCH {
            match self.closing.try_recv() {
                Ok(handed) => closes.spawn(closed(handed)),
                Err(_) => break,
            };
        }
        let all = async {
            let mut crossed = false;
            while let Some(closed) = closes.join_next().await {
                crossed |= !matches!(closed, Ok(Closed::Plainly));
            }
            crossed
        };
        match timeout(self.shared.config.operation_timeout, all).await {
            Ok(crossed) => {
                self.unsettled |= crossed;
                true
            }
            Err(_elapsed) => {
                self.kill
                    .kill("the hub did not answer a detach within hub.operation_timeout");
                false
            }
        }
    }

    /// Lets the engine forget links that are gone before it is asked for the next one.
    async fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.unsettled) {
            return true;
        }
        let settled = self.names.settle(&mut self.handle);
        match timeout(self.shared.config.operation_timeout, settled).await {
            Ok(settled) => settled,
            Err(_elapsed) => {
                // An attach may not be cancelled (fe2o3 F2).
                self.kill
                    .kill("the AMQP engine did not come to rest within hub.operation_timeout");
                false
            }
        }
    }

    /// Attaches the next link. `false`: the session is over.
    async fn attach_next(&mut self) -> bool {
        // Links handed back go first, so that a device that returns finds its old link closed.
        while let Ok(ending) = self.closing.try_recv() {
            if !self.close(ending).await {
                return false;
            }
        }
        let next = self.urgent.pop_front().or_else(|| self.normal.pop_front());
        let Some(wanted) = next.filter(|wanted| !wanted.abandoned()) else {
            return true;
        };
        if !self.settle().await {
            return false;
        }
        let deadline = self.shared.config.operation_timeout;
        match wanted {
            Wanted::Uplink(target, answer) => {
                let name = link_name("up");
                let silent = self.silent(&target);
                let attach = Sender::builder()
                    .name(&name)
                    .target(target)
                    .verify_incoming_source(false)
                    .verify_incoming_target(false)
                    .attach(&mut self.handle);
                let result = within(deadline, unhurried(attach), silent).await;
                let result = result.map(|r| r.map_err(sender_refusal));
                let gauge = self.shared.gauges.uplinks.clone();
                self.answer(&name, result, answer, gauge)
            }
            Wanted::Downlink(source, answer) => {
                let name = link_name("down");
                let silent = self.silent(&source);
                let attach = Receiver::builder()
                    .name(&name)
                    .source(source)
                    .credit_mode(CreditMode::Manual)
                    .max_message_size(tuning::COMMAND_BYTES_MAX)
                    .verify_incoming_source(false)
                    .verify_incoming_target(false)
                    .attach(&mut self.handle);
                let result = within(deadline, unhurried(attach), silent).await;
                let result = result.map(|r| r.map_err(receiver_refusal));
                let gauge = self.shared.gauges.downlinks.clone();
                self.answer(&name, result, answer, gauge)
            }
        }
    }

    /// Tells that the attach of this address is not answered.
    fn silent(&self, address: &str) -> impl FnOnce() + use<> {
        let (refusals, address) = (Arc::clone(&self.shared.refusals), address.to_owned());
        move || refusals.refused(RefusalCause::LinkSilent, &address, "")
    }

    fn answer<L: Link>(
        &mut self,
        name: &str,
        result: Result<Result<L, Attach>, tokio::time::error::Elapsed>,
        answer: Answer<L>,
        gauge: IntGauge,
    ) -> bool {
        match result {
            Ok(Ok(link)) => match self.way_back.clone().try_reserve_owned() {
                Ok(permit) => {
                    let name = self.names.attached(name);
                    // A device that left meanwhile gets the guard back, which closes the link.
                    drop(answer.send(Ok(Live::new(link, name, permit, self.port(), gauge))));
                    true
                }
                Err(_) => {
                    tracing::error!("more links than devices on one session, reconnecting");
                    self.kill.kill("more links than devices on one session");
                    false
                }
            },
            Ok(Err(Attach::Refused(cause))) => {
                self.unsettled = true;
                drop(answer.send(Err(cause)));
                true
            }
            Ok(Err(Attach::Broken)) => false,
            Err(_elapsed) => {
                self.kill
                    .kill("the hub did not answer an attach within hub.operation_timeout");
                false
            }
        }
    }

    /// Closes what was handed back, then ends the session; both with a deadline.
    async fn end(&mut self) {
        while let Ok(ending) = self.closing.try_recv() {
            if !self.close(ending).await {
                return;
            }
        }
        let deadline = self.shared.config.operation_timeout;
        if timeout(deadline, self.handle.end()).await.is_err() {
            self.kill
                .kill("the hub did not answer an end within hub.operation_timeout");
        }
    }
}

async fn closed((ending, gone): Handed) -> Closed {
    let closed = ending.close().await;
    drop(gone);
    closed
}

/// An attach that failed.
enum Attach {
    /// The hub said no to this link.
    Refused(Refused),
    /// The session cannot go on.
    Broken,
}

fn sender_refusal(error: SenderAttachError) -> Attach {
    match error {
        SenderAttachError::RemoteClosedWithError(error) => {
            Attach::Refused(Some(encode::cause(&error)))
        }
        SenderAttachError::IncomingTargetIsNone => Attach::Refused(None),
        _ => Attach::Broken,
    }
}

fn receiver_refusal(error: ReceiverAttachError) -> Attach {
    match error {
        ReceiverAttachError::RemoteClosedWithError(error) => {
            Attach::Refused(Some(encode::cause(&error)))
        }
        ReceiverAttachError::IncomingSourceIsNone => Attach::Refused(None),
        _ => Attach::Broken,
    }
}

/// Unique, because the engine and the hub scope link names to a session (wire sheet §2.5).
fn link_name(kind: &str) -> String {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Without entropy a time is unique enough within one session.
        let nanos = crate::runtime::clock::mono()
            .since(Default::default())
            .as_nanos();
        bytes.copy_from_slice(&nanos.to_be_bytes()[8..]);
    }
    format!("{kind}-{}", encode::hex(&bytes))
}

async fn granted(turn: &mut Option<(Urgency, Turn)>) {
    match turn {
        Some((_, turn)) => turn.await,
        None => std::future::pending().await,
    }
}

async fn passed(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}

/// A pause after a session ended by itself, so that a peer that ends sessions is not hammered.
pub fn restart_pause() -> Duration {
    tuning::backoff(
        tuning::SESSION_PAUSE,
        tuning::SESSION_PAUSE,
        0,
        tuning::roll(),
    )
}
