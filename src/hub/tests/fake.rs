//! A fake hub on the AMQP library's acceptor: takes tokens and telemetry, gives commands, and
//! misbehaves when told to. Not the emulator: it knows only what these tests need.

use super::fake_links::{Cutter, Line, cbs_in, cbs_out, downlink, uplink};
use super::fake_services::Services;
use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SaslAnonymousMechanism,
    SessionAcceptor,
};
use fe2o3_amqp::link::CreditMode;
use fe2o3_amqp::types::definitions::{Error as AmqpError, ErrorCondition};
use fe2o3_amqp::types::messaging::Outcome;
use fe2o3_amqp::types::performatives::Attach;
use fe2o3_amqp::types::primitives::{Symbol, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What happens to telemetry of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telemetry {
    Accept,
    /// No disposition at all.
    Hold,
    /// `released` this many times, then accepted.
    Release(u32),
    /// `rejected` with this condition.
    Reject(&'static str),
}

/// An order to a link.
pub enum Order {
    Detach(&'static str, &'static str),
    Credit(u32),
    Command(&'static str, oneshot::Sender<Outcome>),
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every transfer, in order: address, message-id, body.
    pub transfers: Vec<(String, String, Vec<u8>)>,
    /// The accepted ones.
    pub accepted: Vec<(String, String, Vec<u8>)>,
    pub tokens: u32,
    pub tokens_refused: u32,
    pub connections: u32,
    /// All sessions begun, `$cbs` ones included.
    pub sessions: u32,
    pub attaches: u32,
    /// Attaches of device links that were not answered.
    pub unanswered: u32,
    /// When which device link was attached.
    pub attached: Vec<(crate::runtime::clock::Mono, String)>,
    /// Links that ended while their connection lived.
    pub detaches: u32,
}

pub struct State {
    pub key: Mutex<&'static str>,
    pub telemetry: Mutex<HashMap<String, Telemetry>>,
    links: Mutex<HashMap<String, mpsc::Sender<Order>>>,
    cutters: Mutex<Vec<Cutter>>,
    pub seen: watch::Sender<Seen>,
    deny: Mutex<Option<&'static str>>,
    /// Connections made while this is on stand still: nothing is read or written any more.
    stalled: Arc<AtomicBool>,
    end_sessions: Notify,
    /// Attaches of device links are not answered; ends with the next connection.
    mute_attaches: AtomicBool,
    /// Begins of sessions are not answered; ends with the next connection.
    mute_begins: AtomicBool,
    /// Tokens are taken and not answered.
    pub mute_tokens: AtomicBool,
    /// Credit of new telemetry links; `None`: the library's automatic credit.
    credit: Mutex<Option<u32>>,
    /// Highest channel number of new connections.
    channel_max: AtomicU16,
    /// Highest handle in new sessions.
    handle_max: AtomicU32,
    tls: Option<TlsAcceptor>,
    services: Arc<Services>,
    /// It has neither methods nor twins.
    unserved: AtomicBool,
}

pub struct FakeHub {
    pub port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

pub fn condition(symbol: &str, words: &str) -> AmqpError {
    let condition = ErrorCondition::Custom(Symbol::from(symbol));
    AmqpError::new(condition, Some(words.to_owned()), None)
}

impl FakeHub {
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    pub async fn start_on(port: u16) -> Self {
        Self::start_with(port, None).await
    }

    pub async fn start_with(port: u16, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            key: Mutex::new("primary-key"),
            telemetry: Mutex::default(),
            links: Mutex::default(),
            cutters: Mutex::default(),
            seen: watch::Sender::default(),
            deny: Mutex::new(None),
            stalled: Arc::default(),
            end_sessions: Notify::new(),
            mute_attaches: AtomicBool::new(false),
            mute_begins: AtomicBool::new(false),
            mute_tokens: AtomicBool::new(false),
            credit: Mutex::new(None),
            channel_max: AtomicU16::new(1000),
            handle_max: AtomicU32::new(u32::MAX),
            tls,
            services: Arc::default(),
            unserved: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(connection(Arc::clone(&serving), stream));
            }
        });
        Self { port, state, task }
    }

    /// Closes the port and cuts every connection.
    pub async fn stop(self) -> Seen {
        self.task.abort();
        let _ = self.task.await;
        cut(&self.state);
        self.state.seen.borrow().clone()
    }

    /// Cuts every connection.
    pub fn kill(&self) {
        cut(&self.state);
    }

    pub fn signed_with(&self, key: &'static str) {
        *self.state.key.lock().unwrap() = key;
    }

    /// Detaches every new device link with this condition right after its attach.
    pub fn deny(&self, condition: Option<&'static str>) {
        *self.state.deny.lock().unwrap() = condition;
    }

    /// Freezes the connections that are open now, as a dead network would.
    pub fn stall(&self) {
        self.state.stalled.store(true, Ordering::SeqCst);
    }

    /// Answers no attach of a device link until the next connection.
    pub fn mute_attaches(&self) {
        self.state.mute_attaches.store(true, Ordering::SeqCst);
    }

    /// Answers no begin of a session until the next connection.
    pub fn mute_begins(&self) {
        self.state.mute_begins.store(true, Ordering::SeqCst);
    }

    /// Answers no token while `mute`.
    pub fn mute_tokens(&self, mute: bool) {
        self.state.mute_tokens.store(mute, Ordering::SeqCst);
    }

    /// Methods and twins.
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.state.services)
    }

    /// Detaches links of methods and twins as a hub that has none.
    pub fn without_services(&self) {
        self.state.unserved.store(true, Ordering::SeqCst);
    }

    /// Gives new telemetry links this credit and no more.
    pub fn credit(&self, credit: Option<u32>) {
        *self.state.credit.lock().unwrap() = credit;
    }

    /// Allows one session more than this on new connections.
    pub fn channel_max(&self, max: u16) {
        self.state.channel_max.store(max, Ordering::SeqCst);
    }

    /// Allows one link more than this in each session of new connections.
    pub fn handle_max(&self, max: u32) {
        self.state.handle_max.store(max, Ordering::SeqCst);
    }

    /// Gives a telemetry link more credit.
    pub async fn feed(&self, device: &str, credit: u32) {
        self.order(telemetry_of(device), Order::Credit(credit))
            .await;
    }

    /// Ends the sessions that are open now.
    pub fn end_sessions(&self) {
        self.state.end_sessions.notify_waiters();
    }

    pub fn on_telemetry(&self, device: &str, what: Telemetry) {
        self.state
            .telemetry
            .lock()
            .unwrap()
            .insert(telemetry_of(device), what);
    }

    pub fn seen(&self) -> Seen {
        self.state.seen.borrow().clone()
    }

    /// Waits until `enough` of what was seen.
    pub async fn until(&self, enough: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.state.seen.subscribe();
        let wait = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(enough));
        wait.await.expect("seen in time").unwrap().clone()
    }

    async fn order(&self, address: String, order: Order) {
        let mut order = Some(order);
        let send = async {
            let mut seen = self.state.seen.subscribe();
            loop {
                let link = self.state.links.lock().unwrap().get(&address).cloned();
                if let Some(link) = link.filter(|link| !link.is_closed()) {
                    let order = order.take().unwrap();
                    assert!(link.send(order).await.is_ok());
                    return;
                }
                seen.changed().await.unwrap();
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), send).await;
        in_time.expect("the link is attached in time");
    }

    pub async fn detach_uplink(&self, device: &str, condition: &'static str, words: &'static str) {
        let order = Order::Detach(condition, words);
        self.order(telemetry_of(device), order).await;
    }

    pub async fn detach_downlink(
        &self,
        device: &str,
        condition: &'static str,
        words: &'static str,
    ) {
        let order = Order::Detach(condition, words);
        self.order(commands_of(device), order).await;
    }

    /// Sends a command once the device's link is attached; resolves with its outcome.
    pub async fn command(&self, device: &str, body: &'static str) -> oneshot::Receiver<Outcome> {
        let (outcome, waits) = oneshot::channel();
        self.order(commands_of(device), Order::Command(body, outcome))
            .await;
        waits
    }
}

pub fn telemetry_of(device: &str) -> String {
    format!("/devices/{device}/messages/events")
}

fn commands_of(device: &str) -> String {
    format!("/devices/{device}/messages/devicebound")
}

fn cut(state: &State) {
    for cutter in state.cutters.lock().unwrap().drain(..) {
        cutter.cut();
    }
}

async fn connection(state: Arc<State>, stream: TcpStream) {
    let cutter = Cutter::default();
    state.cutters.lock().unwrap().push(cutter.clone());
    // A connection made during a stall is a new one, and works.
    state.stalled.store(false, Ordering::SeqCst);
    state.mute_attaches.store(false, Ordering::SeqCst);
    state.mute_begins.store(false, Ordering::SeqCst);
    let stream = Line {
        stream,
        stalled: Arc::clone(&state.stalled),
        cutter,
    };
    match state.tls.clone() {
        None => serve(state, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(state, stream).await;
            }
        }
    }
}

async fn serve<S>(state: Arc<State>, stream: S)
where
    S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let acceptor = ConnectionAcceptor::builder()
        .container_id("fake")
        .sasl_acceptor(SaslAnonymousMechanism::new())
        .channel_max(state.channel_max.load(Ordering::SeqCst))
        .build();
    let Ok(mut connection) = acceptor.accept(stream).await else {
        return;
    };
    state.seen.send_modify(|seen| seen.connections += 1);
    let handle_max = state.handle_max.load(Ordering::SeqCst);
    let sessions = SessionAcceptor::builder().handle_max(handle_max).build();
    while let Some(begin) = connection.next_incoming_session().await {
        if state.mute_begins.load(Ordering::SeqCst) {
            continue;
        }
        let session = sessions.accept_incoming_session(begin, &mut connection);
        let Ok(session) = session.await else {
            return;
        };
        state.seen.send_modify(|seen| seen.sessions += 1);
        tokio::spawn(links(Arc::clone(&state), session));
    }
}

async fn links(state: Arc<State>, mut session: ListenerSessionHandle) {
    let (replies, to_send) = mpsc::channel(8);
    let mut to_send = Some(to_send);
    let mut carries_devices = false;
    loop {
        let attach = tokio::select! {
            attach = session.next_incoming_attach() => attach,
            () = state.end_sessions.notified(), if carries_devices => {
                let _ = session.end_with_error(condition("amqp:internal-error", "")).await;
                return;
            }
        };
        let Some(attach) = attach else {
            return;
        };
        let address = address(&attach);
        if address != "$cbs" && state.mute_attaches.load(Ordering::SeqCst) {
            state.seen.send_modify(|seen| seen.unanswered += 1);
            continue;
        }
        if let Some(channel) = channel(&attach) {
            state.services.channels.lock().unwrap().push(channel);
        }
        let accepted = LinkAcceptor::new()
            .accept_incoming_attach(attach, &mut session)
            .await;
        let Ok(mut link) = accepted else {
            continue;
        };
        if let (LinkEndpoint::Receiver(receiver), true) = (&mut link, address != "$cbs") {
            let credit = *state.credit.lock().unwrap();
            if let Some(credit) = credit {
                receiver.set_credit_mode(CreditMode::Manual);
                let _ = receiver.set_credit(credit).await;
            }
        }
        match link {
            LinkEndpoint::Receiver(receiver) if address == "$cbs" => {
                tokio::spawn(cbs_in(Arc::clone(&state), receiver, replies.clone()));
            }
            LinkEndpoint::Sender(sender) if address == "$cbs" => {
                if let Some(to_send) = to_send.take() {
                    tokio::spawn(cbs_out(sender, to_send));
                }
            }
            service if Services::serves(&address) => {
                carries_devices = true;
                serve_service(&state, address, service);
            }
            device => {
                carries_devices = true;
                let (orders, to_do) = mpsc::channel(8);
                state.links.lock().unwrap().insert(address.clone(), orders);
                state.seen.send_modify(|seen| {
                    seen.attaches += 1;
                    let now = crate::runtime::clock::mono();
                    seen.attached.push((now, address.clone()));
                });
                let deny = *state.deny.lock().unwrap();
                tokio::spawn(device_link(
                    Arc::clone(&state),
                    device,
                    address,
                    to_do,
                    deny,
                ));
            }
        }
    }
}

/// A link of methods or a twin.
fn serve_service(state: &Arc<State>, address: String, link: LinkEndpoint) {
    if !state.unserved.load(Ordering::SeqCst) {
        let state = Arc::clone(state);
        let seen = Arc::clone(&state);
        let ended = move || seen.seen.send_modify(|seen| seen.detaches += 1);
        state.services.attach(address, link, ended);
        return;
    }
    let words = "The link address did not match any of the expected formats";
    let error = condition("amqp:not-found", words);
    tokio::spawn(async move {
        match link {
            LinkEndpoint::Sender(sender) => drop(sender.close_with_error(error).await),
            LinkEndpoint::Receiver(receiver) => drop(receiver.close_with_error(error).await),
        }
    });
}

async fn device_link(
    state: Arc<State>,
    link: LinkEndpoint,
    address: String,
    orders: mpsc::Receiver<Order>,
    deny: Option<&'static str>,
) {
    match (link, deny) {
        (LinkEndpoint::Receiver(receiver), Some(symbol)) => {
            let _ = receiver.close_with_error(condition(symbol, "")).await;
        }
        (LinkEndpoint::Sender(sender), Some(symbol)) => {
            let _ = sender.close_with_error(condition(symbol, "")).await;
        }
        (LinkEndpoint::Receiver(receiver), None) => uplink(&state, receiver, address, orders).await,
        (LinkEndpoint::Sender(sender), None) => downlink(sender, orders).await,
    }
    state.seen.send_modify(|seen| seen.detaches += 1);
}

/// The channel correlation id of a link of methods or a twin.
fn channel(attach: &Attach) -> Option<String> {
    let key = Symbol::from("com.microsoft:channel-correlation-id");
    match attach.properties.as_ref()?.get(&key)? {
        Value::String(channel) => Some(channel.clone()),
        _ => None,
    }
}

fn address(attach: &Attach) -> String {
    use fe2o3_amqp::types::definitions::Role;
    use fe2o3_amqp::types::messaging::TargetArchetype;
    match (
        &attach.role,
        attach.target.as_deref(),
        attach.source.as_deref(),
    ) {
        (Role::Sender, Some(TargetArchetype::Target(target)), _) => target.address.clone(),
        (Role::Receiver, _, Some(source)) => source.address.clone(),
        _ => None,
    }
    .unwrap_or_default()
}
