//! A model of IoT Hub's AMQP end over transports in memory: tokens, telemetry, commands, and the
//! faults of a plan.

mod traffic;

use crate::chance::Chance;
use crate::ledger::Ledger;
use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Error, ErrorCondition, Role};
use fe2o3_amqp_types::messaging::TargetArchetype;
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::Symbol;
use fe2o3_amqp_types::sasl::SaslCode;
use iothub_gateway::amqp::{
    Closed, Config, Connection, DeliveryId, Event, Fed, Limits, LinkId, SessionId, Side,
};
use iothub_gateway::runtime::clock::{self, Mono};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

/// What the plan does to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Close,
    EndSessions,
    Detach(usize, usize),
    /// Links without credit get it.
    Feed,
    /// Messages without outcome get one.
    Decide,
    /// Commands were queued for this device.
    Commands(usize),
}

/// The way to every connection there is.
#[derive(Clone, Default)]
pub struct Orders(Arc<Mutex<Vec<mpsc::UnboundedSender<Order>>>>);

impl Orders {
    /// A new connection.
    pub fn join(&self) -> mpsc::UnboundedReceiver<Order> {
        let (order, taken) = mpsc::unbounded_channel();
        self.0.lock().expect("whole").push(order);
        taken
    }

    pub fn give(&self, order: Order) {
        let mut peers = self.0.lock().expect("whole");
        peers.retain(|peer| peer.send(order).is_ok());
    }
}

/// Conditions of a detach, and whether the device may be sent away for it.
pub const DETACHES: [(&str, bool); 4] = [
    ("amqp:internal-error", false),
    ("amqp:link:detach-forced", false),
    ("com.microsoft:timeout", false),
    ("amqp:resource-limit-exceeded", false),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Tokens,
    Answers,
    Telemetry(usize),
    Commands(usize),
}

/// The hub's bounds in one run.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub channel_max: u16,
    pub handle_max: u32,
    pub frame_size: u32,
    pub credit: u32,
    /// A token that ended shows a mistake.
    pub tokens_in_time: bool,
}

/// One connection of the hub.
pub struct Peer {
    engine: Connection,
    bounds: Bounds,
    chance: Chance,
    ledger: Arc<Mutex<Ledger>>,
    links: BTreeMap<u64, (LinkId, Use)>,
    next_token: u64,
    sessions: Vec<SessionId>,
    /// Until when there is a token; seconds of the wall clock.
    token_until: Option<u64>,
    wall: Arc<dyn Fn() -> u64 + Send + Sync>,
    orders: Orders,
    /// Outcomes that are due, in order of time.
    due: VecDeque<(Mono, DeliveryId, usize, u64)>,
    /// Commands on their way, by link.
    sent: BTreeMap<u64, Vec<u64>>,
    hungry: Vec<u64>,
    over: bool,
}

fn error(condition: &str, words: &str) -> Error {
    let condition = ErrorCondition::Custom(Symbol::from(condition));
    Error::new(condition, Some(words.to_owned()), None)
}

/// `/devices/sim-3/messages/…` is device 3's.
fn device_of(address: &str, end: &str) -> Option<usize> {
    let id = address.strip_prefix("/devices/")?.strip_suffix(end)?;
    id.strip_prefix("sim-")?.parse().ok()
}

impl Peer {
    pub fn new(
        bounds: Bounds,
        chance: Chance,
        ledger: Arc<Mutex<Ledger>>,
        wall: Arc<dyn Fn() -> u64 + Send + Sync>,
        orders: Orders,
    ) -> Self {
        let mut config = Config::new(Side::Server, "model-hub");
        config.sasl = iothub_gateway::amqp::sasl::Sasl::Server {
            mechanisms: vec!["ANONYMOUS", "MSSBCBS"],
            required: false,
        };
        config.idle_time_out = Some(Duration::from_secs(240));
        config.limits = Limits {
            channel_max: bounds.channel_max,
            handle_max: bounds.handle_max,
            frame_size: bounds.frame_size,
            ..Limits::default()
        };
        ledger.lock().expect("whole").connections += 1;
        Self {
            engine: Connection::new(config, clock::mono()),
            bounds,
            chance,
            ledger,
            links: BTreeMap::new(),
            next_token: 1,
            sessions: Vec::new(),
            token_until: None,
            wall,
            orders,
            due: VecDeque::new(),
            sent: BTreeMap::new(),
            hungry: Vec::new(),
            over: false,
        }
    }

    /// Serves until the connection is over.
    pub async fn serve(mut self, stream: DuplexStream, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (mut read, mut write) = split(stream);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            self.turn(&mut input, &mut output);
            if self.over && output.is_empty() {
                break;
            }
            let wait = self.next_deadline().since(clock::mono());
            tokio::select! {
                biased;
                Some(order) = orders.recv() => self.obey(order),
                count = receive(&mut read, &mut input) => if count == 0 { break },
                sent = send(&mut write, &mut output), if !output.is_empty() => if !sent { break },
                () = tokio::time::sleep(wait) => self.tick(),
            }
        }
        self.engine.lost();
        self.events();
        let _ = write.shutdown().await;
    }

    fn next_deadline(&self) -> Mono {
        let mut next = self.engine.deadline();
        // While they are held back nothing is due; an order ends that.
        if let Some((at, ..)) = self.due.front()
            && !self.ledger.lock().expect("whole").mood.hold
        {
            next = next.min(*at);
        }
        if let Some(until) = self.token_until {
            let left = until.saturating_sub((self.wall)());
            next = next.min(clock::mono() + Duration::from_secs(left + 1));
        }
        // Rounded up, so that a turn is never taken for nothing.
        next + Duration::from_millis(1)
    }

    fn tick(&mut self) {
        self.engine.tick(clock::mono());
        let now = (self.wall)();
        if self.token_until.is_some_and(|until| until < now) {
            if self.bounds.tokens_in_time {
                let text = "a connection's token ended (I12)";
                self.ledger.lock().expect("whole").wrong(text);
            }
            let until = self.token_until.take();
            let mono = clock::mono();
            let mut ledger = self.ledger.lock().expect("whole");
            ledger.note(|| format!("{mono:?} hub: token {until:?} ended at {now}"));
            drop(ledger);
            let ended = error("amqp:unauthorized-access", "the token has ended");
            self.engine.close(Some(ended), clock::mono());
        }
        self.decide();
    }

    fn turn(&mut self, input: &mut BytesMut, output: &mut BytesMut) {
        loop {
            let fed = self.engine.feed(input, clock::mono());
            self.events();
            self.engine.write(output, clock::mono());
            self.events();
            if fed != Fed::Busy {
                break;
            }
        }
        self.decide();
        self.engine.write(output, clock::mono());
        self.events();
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Close => {
                let why = error("amqp:connection:forced", "the model closes");
                self.engine.close(Some(why), clock::mono());
            }
            Order::EndSessions => {
                for session in std::mem::take(&mut self.sessions) {
                    let why = error("amqp:internal-error", "the model ends sessions");
                    let _ = self.engine.end(session, Some(why));
                }
            }
            Order::Detach(device, condition) => {
                let why = error(DETACHES[condition].0, "the model detaches");
                for (link, of) in self.links.values() {
                    if matches!(of, Use::Telemetry(d) | Use::Commands(d) if *d == device) {
                        let _ = self.engine.detach(*link, Some(why.clone()));
                    }
                }
            }
            Order::Feed => {
                for token in std::mem::take(&mut self.hungry) {
                    if let Some((link, _)) = self.links.get(&token) {
                        let _ = self.engine.set_credit(*link, self.bounds.credit);
                    }
                }
            }
            Order::Decide => self.decide(),
            Order::Commands(device) => self.commands(device),
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            self.on(event);
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::SaslInit { .. } => self.engine.sasl_outcome(SaslCode::Ok),
            Event::Begun { session, .. } => self.sessions.push(session),
            Event::Ended { session, .. } => self.sessions.retain(|known| *known != session),
            Event::Attaching { link, attach } => self.attaching(link, *attach),
            Event::Detached { token, .. } => self.gone(token),
            Event::Credit { token, .. } => {
                if let Some((_, Use::Commands(device))) = self.links.get(&token) {
                    self.commands(*device);
                }
            }
            Event::Delivery {
                token,
                delivery,
                payload,
                ..
            } => self.delivery(token, delivery, &payload),
            Event::Outcome {
                token,
                delivery,
                outcome,
                ..
            } => self.outcome(token, delivery, &outcome),
            Event::Closed(closed) => {
                self.over = true;
                let mut ledger = self.ledger.lock().expect("whole");
                let now = clock::mono();
                ledger.note(|| format!("{now:?} hub: a connection ended: {closed:?}"));
                ledger.ended += 1;
                if let Closed::Fault(fault) = closed {
                    ledger.wrong(format!("the gateway broke AMQP: {fault}"));
                }
            }
            _ => {}
        }
    }

    fn attaching(&mut self, link: LinkId, attach: Attach) {
        let address = match (
            &attach.role,
            attach.source.as_deref(),
            attach.target.as_deref(),
        ) {
            (Role::Receiver, Some(source), _) => source.address.clone(),
            (Role::Sender, _, Some(TargetArchetype::Target(target))) => target.address.clone(),
            _ => None,
        }
        .unwrap_or_default();
        let up = attach.role == Role::Sender;
        let of = match address.as_str() {
            "$cbs" if up => Some(Use::Tokens),
            "$cbs" => Some(Use::Answers),
            path if up => device_of(path, "/messages/events").map(Use::Telemetry),
            path => device_of(path, "/messages/devicebound").map(Use::Commands),
        };
        let Some(of) = of else {
            self.ledger
                .lock()
                .expect("whole")
                .wrong(format!("an attach to {address:?}"));
            let _ = self
                .engine
                .refuse(link, error("amqp:not-found", "no such node"));
            return;
        };
        let own = matches!(of, Use::Telemetry(_) | Use::Commands(_));
        let now = clock::mono().since(Mono::default()).as_millis();
        let mut ledger = self.ledger.lock().expect("whole");
        let mut credit = self.bounds.credit;
        if own {
            ledger.attaches.push(u64::try_from(now).unwrap_or(u64::MAX));
            if self.token_until.is_none() {
                drop(ledger);
                let why = error("amqp:unauthorized-access", "no token");
                let _ = self.engine.refuse(link, why);
                return;
            }
            if ledger.mood.mute_attaches {
                return;
            }
            let (Use::Telemetry(device) | Use::Commands(device)) = of else {
                return;
            };
            if ledger.device(device).forgotten > 0 {
                drop(ledger);
                let why = error("amqp:not-found", "no such device");
                let _ = self.engine.refuse(link, why);
                return;
            }
            if ledger.mood.starve && up {
                credit = 0;
                self.hungry.push(self.next_token);
            }
        }
        drop(ledger);
        let token = self.next_token;
        self.next_token += 1;
        self.links.insert(token, (link, of));
        let credit = if up { credit } else { 0 };
        if self.engine.accept(link, attach, credit, token).is_err() {
            self.links.remove(&token);
        } else if let Use::Commands(device) = of {
            self.commands(device);
        }
    }

    fn gone(&mut self, token: u64) {
        if let Some((_, Use::Commands(device))) = self.links.remove(&token) {
            let mut ledger = self.ledger.lock().expect("whole");
            let back = self.sent.remove(&token).unwrap_or_default();
            let queue = &mut ledger.device(device).queue;
            for command in back.into_iter().rev() {
                queue.push_front(command);
            }
            drop(ledger);
            // Another connection may have a link for them already.
            self.orders.give(Order::Commands(device));
        }
    }
}

async fn receive(read: &mut ReadHalf<DuplexStream>, input: &mut BytesMut) -> usize {
    input.reserve(4096);
    read.read_buf(input).await.unwrap_or(0)
}

async fn send(write: &mut WriteHalf<DuplexStream>, output: &mut BytesMut) -> bool {
    matches!(write.write_buf(output).await, Ok(sent) if sent > 0)
}
