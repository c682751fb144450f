//! A connection with a scripted hub behind it and a device with a foreign codec before it.

use crate::auth::rules::{DeviceLimits, Resolvers, RuleSet, RulesText};
use crate::auth::{Admission, Claim, CredentialKind, Decision, Transport, decide};
use crate::config::OnDisconnect;
use crate::config::limits::Limits;
use crate::hub::message::{
    Command, MethodBounds, Settlement, SystemProperties, Telemetry, TwinBounds, TwinRequest,
};
use crate::hub::outcome::{HubAccepted, Refusal, Settled, Verdict, judge_settled};
use crate::hub::{Busy, HubEvent, Stray};
use crate::listener::Records;
use crate::listener::admission::Gate;
use crate::listener::conn::{Bounds, Conn, Opened, Upstream, serve};
use crate::listener::ending::Ending;
use crate::listener::setup::{Counted, Setup};
use crate::mqtt::session::{Event, Session};
use crate::router::refused::Folder;
use crate::router::registry::{Registry, SessionKey};
use crate::runtime::clock::{self, Mono};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;
use bytes::{Bytes, BytesMut};
use mqttbytes::v4;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(super) const SOON: Duration = Duration::from_secs(10);
pub(super) const EVENTS: &str = "devices/dev/messages/events/";
pub(super) const COMMANDS: &str = "devices/dev/messages/devicebound/#";

/// What the connection asked of the hub's side.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // a few per test
pub(super) enum Call {
    Send(u64, Telemetry),
    Subscribe(u32),
    Unsubscribe,
    Settle(u64, Settlement),
    Methods(MethodBounds),
    NoMethods,
    Answer(u64, u64, i32, Vec<u8>),
    Forget(u64, String),
    AskTwin(u64, TwinRequest),
    FollowDesired(TwinBounds),
    LeaveDesired,
    RequestsWritten,
    Close(OnDisconnect),
}

/// The hub's side, played by the test.
pub(super) struct Script {
    calls: mpsc::Sender<Call>,
    events: mpsc::Receiver<HubEvent>,
    undecided: HashSet<u64>,
    /// What answers to methods and twin requests meet.
    answers: Arc<Mutex<Result<(), Stray>>>,
    asks: Arc<Mutex<Result<(), Busy>>>,
}

impl Script {
    fn new(calls: mpsc::Sender<Call>, events: mpsc::Receiver<HubEvent>) -> Self {
        Self {
            calls,
            events,
            undecided: HashSet::new(),
            answers: Arc::new(Mutex::new(Ok(()))),
            asks: Arc::new(Mutex::new(Ok(()))),
        }
    }

    fn note(&self, call: Call) {
        self.calls.try_send(call).expect("the test reads the calls");
    }
}

impl Upstream for Script {
    fn send(&mut self, ticket: u64, message: Telemetry) {
        assert!(self.undecided.insert(ticket), "ticket {ticket} twice");
        self.note(Call::Send(ticket, message));
    }

    fn outstanding(&self) -> usize {
        self.undecided.len()
    }

    fn subscribe(&mut self, credit: u32) {
        self.note(Call::Subscribe(credit));
    }

    fn unsubscribe(&mut self) {
        self.note(Call::Unsubscribe);
    }

    fn settle(&mut self, delivery: u64, how: Settlement) {
        self.note(Call::Settle(delivery, how));
    }

    fn call_methods(&mut self, bounds: MethodBounds) {
        self.note(Call::Methods(bounds));
    }

    fn call_no_methods(&mut self) {
        self.note(Call::NoMethods);
    }

    fn answer(&mut self, ticket: u64, call: u64, status: i32, body: Bytes) -> Result<(), Stray> {
        self.note(Call::Answer(ticket, call, status, body.to_vec()));
        *self.answers.lock().unwrap()
    }

    fn drop_call(&mut self, call: u64, result: &str) {
        self.note(Call::Forget(call, result.to_owned()));
    }

    fn ask_twin(&mut self, ticket: u64, request: TwinRequest, _: TwinBounds) -> Result<(), Busy> {
        self.note(Call::AskTwin(ticket, request));
        *self.asks.lock().unwrap()
    }

    fn follow_desired(&mut self, bounds: TwinBounds) {
        self.note(Call::FollowDesired(bounds));
    }

    fn leave_desired(&mut self) {
        self.note(Call::LeaveDesired);
    }

    fn requests_written(&mut self) {
        self.note(Call::RequestsWritten);
    }

    async fn next(&mut self) -> HubEvent {
        let Some(event) = self.events.recv().await else {
            return std::future::pending().await;
        };
        if let HubEvent::Sent(ticket, _) = &event {
            assert!(self.undecided.remove(ticket), "nobody sent {ticket}");
        }
        event
    }

    fn close(self, policy: OnDisconnect) {
        self.note(Call::Close(policy));
    }
}

/// How a bench is built.
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) expires: Option<Mono>,
    pub(super) rule: DeviceLimits,
    pub(super) folder: Option<Arc<Folder>>,
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) will: Option<v4::LastWill>,
    pub(super) socket_bytes: usize,
    /// Speaks MQTT 5; answers are read by [`Bench::read_raw`].
    pub(super) v5: bool,
    /// The CONNECT as bytes, instead.
    pub(super) connect: Option<&'static [u8]>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            expires: None,
            rule: DeviceLimits::default(),
            folder: None,
            tracer: None,
            will: None,
            socket_bytes: 64 * 1024,
            v5: false,
            connect: None,
        }
    }
}

impl Plan {
    fn records(&self) -> Records {
        Records {
            tracer: self.tracer.clone(),
            ..Records::keeping(self.folder.clone())
        }
    }
}

/// The connection and everything around it.
pub(super) struct Bench {
    pub(super) socket: DuplexStream,
    pub(super) hub: mpsc::Sender<HubEvent>,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Admission,
    pub(super) answers: Arc<Mutex<Result<(), Stray>>>,
    pub(super) asks: Arc<Mutex<Result<(), Busy>>>,
    task: JoinHandle<()>,
    received: BytesMut,
}

fn admission() -> Admission {
    let text = "[[device]]\nid = \"dev\"\n\
        psk = { identity = \"dev\", key = \"hex:00112233445566778899aabbccddeeff\" }\n";
    let resolvers = Resolvers {
        read: &|_| Err("no files here".to_owned()),
        read_secret: &|_| Err("no files here".to_owned()),
        secret: &|value| Ok(value.to_owned()),
    };
    let file = RulesText {
        name: "rules.toml",
        text,
    };
    let rules = RuleSet::parse(&[file], &resolvers).expect("rules");
    let claim = Claim {
        transport: Transport::Psk("dev"),
        listener: "test",
        accept: &[CredentialKind::Psk],
        source: [127, 0, 0, 1].into(),
        client_id: "dev",
        username: None,
        password: None,
        hub_host: "hub.example",
        now: clock::unix(),
    };
    match decide(&rules, &claim) {
        Decision::Admit(admission) => admission,
        Decision::Deny(denial) => panic!("{denial}"),
        Decision::CheckPassword(_) => panic!("no password was sent"),
    }
}

fn receipt() -> HubAccepted {
    let Verdict::Accepted(receipt) = judge_settled(&Settled::Accepted).verdict else {
        panic!("accepted is accepted");
    };
    receipt
}

impl Bench {
    /// An admitted device whose CONNACK was read.
    pub(super) async fn open(plan: Plan) -> Self {
        let metrics = Arc::new(Metrics::new());
        let setup = Setup::new(plan.limits.clone(), metrics.clone(), &plan.records());
        let admission = admission();
        let registry: Arc<Registry> = Registry::new(Duration::ZERO);
        let device = admission.device.clone();
        let key = SessionKey::of(&device);
        let claim = registry.claim(key, device.clone()).await.expect("a claim");
        let (ours, socket) = tokio::io::duplex(plan.socket_bytes);
        let (call, calls) = mpsc::channel(4096);
        let (hub, events) = mpsc::channel(4096);
        let links = Script::new(call, events);
        let (answers, asks) = (links.answers.clone(), links.asks.clone());
        let mut session = Session::new(setup.session_limits(), clock::mono());
        let mut connect = v4::Connect::new("dev");
        connect.last_will = plan.will;
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        if let Some(connect) = plan.connect {
            input.extend_from_slice(connect);
        } else if plan.v5 {
            input.extend_from_slice(b"\x10\x10\0\x04MQTT\x05\x02\0\x3c\0\0\x03dev");
        } else {
            connect.write(&mut input).expect("CONNECT");
        }
        let event = session.next(&mut input, &mut out, clock::mono());
        assert!(matches!(event, Ok(Some(Event::Connect(_)))));
        session.accept(None, &mut out, clock::mono());
        let (permit, _) = Gate::new(&plan.limits)
            .admit([127, 0, 0, 1].into(), false)
            .expect("room");
        let gauge = metrics.connections.with_label_values(&["test", "psk"]);
        let conn = Conn::new(Opened {
            stream: Box::new(ours),
            session,
            links,
            device,
            claim,
            setup,
            input,
            out,
            bounds: Bounds {
                expires: plan.expires,
                limits: plan.rule,
            },
            source: ([127, 0, 0, 1], 1).into(),
            long_keep_alive: None,
            live: Counted::new(gauge),
            permit,
            ending: Ending::new(metrics.clone()),
        });
        let mut bench = Self {
            socket,
            hub,
            calls,
            registry,
            metrics,
            admission,
            answers,
            asks,
            task: tokio::spawn(serve(conn)),
            received: BytesMut::new(),
        };
        if plan.v5 || plan.connect.is_some() {
            assert_eq!(bench.read_raw().await[..1], [0x20]);
        } else {
            assert!(matches!(bench.read().await, Some(v4::Packet::ConnAck(_))));
        }
        bench
    }

    /// The next packet as bytes; one of fewer than 128.
    pub(super) async fn read_raw(&mut self) -> Vec<u8> {
        let mut packet = vec![0; 2];
        let read = async {
            self.socket.read_exact(&mut packet).await?;
            let length = usize::from(packet[1]);
            packet.resize(2 + length, 0);
            self.socket.read_exact(&mut packet[2..]).await
        };
        let read = timeout(SOON, read).await.expect("an answer");
        read.expect("an open socket");
        packet
    }

    /// The next packet the device gets; `None` at the connection's end.
    pub(super) async fn read(&mut self) -> Option<v4::Packet> {
        loop {
            match v4::read(&mut self.received, 1 << 20) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the gateway wrote nonsense: {error}"),
            }
            let read = self.socket.read_buf(&mut self.received);
            if timeout(SOON, read).await.expect("an answer").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(SOON, self.socket.write_all(bytes)).await;
        written.expect("the gateway reads").expect("an open socket");
    }

    pub(super) async fn publish(&mut self, topic: &str, qos: mqttbytes::QoS, id: u16, body: &str) {
        let mut publish = v4::Publish::new(topic, qos, body);
        publish.pkid = id;
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).expect("PUBLISH");
        self.write(&bytes).await;
    }

    /// PINGREQ and its answer: everything written before was handled.
    pub(super) async fn ping(&mut self) {
        self.write(&[0xc0, 0]).await;
        assert_eq!(self.read().await, Some(v4::Packet::PingResp));
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: mqttbytes::QoS) -> v4::SubAck {
        let mut subscribe = v4::Subscribe::new(filter, qos);
        subscribe.pkid = 77;
        let mut bytes = BytesMut::new();
        subscribe.write(&mut bytes).expect("SUBSCRIBE");
        self.write(&bytes).await;
        match self.read().await {
            Some(v4::Packet::SubAck(ack)) => ack,
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    pub(super) async fn call(&mut self) -> Call {
        let call = timeout(SOON, self.calls.recv()).await.expect("a call");
        call.expect("a living connection")
    }

    /// The next message handed to the hub: ticket and body.
    pub(super) async fn sent(&mut self) -> (u64, Vec<u8>) {
        match self.call().await {
            Call::Send(ticket, telemetry) => (ticket, telemetry.body.to_vec()),
            other => panic!("not a message: {other:?}"),
        }
    }

    /// The hub accepts `ticket`.
    pub(super) fn accept(&self, ticket: u64) {
        let event = HubEvent::Sent(ticket, Ok(receipt()));
        self.hub.try_send(event).expect("room");
    }

    /// The hub has taken a request or an answer.
    pub(super) fn taken(&self, ticket: u64) {
        let event = HubEvent::Taken(ticket, Some(receipt()));
        self.hub.try_send(event).expect("room");
    }

    pub(super) fn refuse(&self, ticket: u64) {
        let refusal = Refusal {
            reason: "message_too_large",
            text: "too large".to_owned(),
        };
        let event = HubEvent::Sent(ticket, Err(refusal));
        self.hub.try_send(event).expect("room");
    }

    pub(super) fn command(&self, delivery: u64, body: &str) {
        let event = HubEvent::Command(Box::new(Command {
            delivery,
            system: SystemProperties::default(),
            application: Vec::new(),
            body: body.to_owned().into(),
            delivery_count: 0,
        }));
        self.hub.try_send(event).expect("room");
    }

    pub(super) fn key(&self) -> SessionKey {
        SessionKey::of(&self.admission.device)
    }

    /// `messages_total{direction, qos, result}`
    pub(super) fn messages(&self, labels: [&str; 3]) -> u64 {
        self.metrics.messages.with_label_values(&labels).get()
    }

    pub(super) fn paused(&self, cause: &str) -> i64 {
        let gauge = &self.metrics.paused_connections;
        gauge.with_label_values(&[cause]).get()
    }

    /// Waits for the end and checks that it was counted once, for `reason`, and that nothing in
    /// flight was left in a gauge. The calls that were not read.
    pub(super) async fn ended(mut self, reason: &str) -> Vec<Call> {
        while self.read().await.is_some() {}
        self.socket
            .shutdown()
            .await
            .expect("an in-memory socket closes");
        timeout(SOON * 2, self.task)
            .await
            .expect("the task ends")
            .expect("no panic");
        let counted: Vec<String> = self
            .metrics
            .render()
            .lines()
            .filter(|line| line.starts_with("iothub_gateway_disconnects_total{"))
            .map(str::to_owned)
            .collect();
        let expected = format!("iothub_gateway_disconnects_total{{reason=\"{reason}\"}} 1");
        assert_eq!(counted, [expected]);
        assert_eq!(self.metrics.uplink_inflight.get(), 0, "uplink in flight");
        assert_eq!(
            self.metrics.downlink_inflight.get(),
            0,
            "downlink in flight"
        );
        let live = self.metrics.connections.with_label_values(&["test", "psk"]);
        assert_eq!(live.get(), 0);
        for cause in ["uplink_window", "rate", "write", "filing"] {
            let gauge = &self.metrics.paused_connections;
            assert_eq!(gauge.with_label_values(&[cause]).get(), 0, "{cause}");
        }
        assert!(self.registry.is_empty(), "the claim was kept");
        let mut left = Vec::new();
        while let Ok(call) = self.calls.try_recv() {
            left.push(call);
        }
        let last = left.pop();
        assert_eq!(last, Some(Call::Close(OnDisconnect::Release)));
        left
    }
}
