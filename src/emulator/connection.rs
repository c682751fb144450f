//! One AMQP connection: opens it as the service does, begins sessions, and keeps the clock of its
//! tokens: when one ends, the links it vouched for are detached.

use crate::emulator::backend::AnswerTo;
use crate::emulator::cbs::ReplyTo;
use crate::emulator::errors::{self, hex, random};
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::handshake::{self, HandshakeError, Opening};
use crate::emulator::hub::Hub;
use crate::emulator::io::{AmqpStream, BoxedTransport};
use crate::emulator::links::{ConnectionEntry, ConnectionStop};
use crate::emulator::server::Lifetime;
use crate::emulator::session;
use crate::emulator::tokens::Tokens;
use crate::runtime::clock::Unix;
use fe2o3_amqp::acceptor::{ConnectionAcceptor, ListenerConnectionHandle, SessionAcceptor};
use fe2o3_amqp::types::definitions::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Values of OPEN and BEGIN as captured from the service (wire sheet §2.3).
const MAX_FRAME_SIZE: u32 = 65_536;
const CHANNEL_MAX: u16 = 8_191;
const INCOMING_WINDOW: u32 = 5_000;
const HANDLE_MAX: u32 = 262_143;

/// `$cbs` links on one connection; clients need one pair, or one per renewal.
const CBS_LINKS_MAX: usize = 64;

/// Time for the client to answer a close before the socket is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the tasks of one connection share.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) entry: Arc<ConnectionEntry>,
    pub(crate) hub: Arc<Hub>,
    tokens: Mutex<Tokens>,
    tokens_changed: Notify,
    /// Authorised by SASL PLAIN: lives no longer than that token.
    logged_in: bool,
    pub(crate) replies: Mutex<Vec<ReplyTo>>,
    pub(crate) answers: Mutex<Vec<AnswerTo>>,
    /// Room for `$cbs` links, which the limit of device links does not count.
    pub(crate) cbs_links: Arc<Semaphore>,
    pub(crate) life: Lifetime,
}

impl Connection {
    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a fault in force on this connection.
    pub(crate) fn fault(&self, kind: FaultKind) -> Option<&'static str> {
        let place = Place {
            connection: Some(self.id),
            device: None,
        };
        self.hub.faults.at(kind, place)
    }

    /// Tells the connection's clock to look again.
    pub(crate) fn tokens_changed(&self) {
        self.tokens_changed.notify_one();
    }

    /// Detaches what no token vouches for any more; an error when the connection itself ends.
    fn end_tokens(&self, now: Unix) -> Option<Error> {
        let mut tokens = self.tokens();
        if !tokens.drop_expired(now) {
            return None;
        }
        for link in self.entry.links() {
            let covered = tokens
                .covering(&link.identity, link.endpoint, now)
                .is_some();
            if !covered && link.stop.ask(errors::token_invalid()) {
                self.hub.stats.detaches_token.inc();
            }
        }
        for link in self.entry.service_links() {
            let covered = tokens.covering_service(&link.node.path(), now);
            if !covered && link.stop.ask(errors::token_invalid()) {
                self.hub.stats.detaches_token.inc();
            }
        }
        (self.logged_in && tokens.is_empty()).then(errors::token_invalid)
    }
}

/// Serves one socket until it ends.
pub(crate) async fn serve(
    mut transport: BoxedTransport,
    peer: SocketAddr,
    id: u64,
    entry: Arc<ConnectionEntry>,
    hub: Arc<Hub>,
    life: Lifetime,
) {
    let timeout = hub.config.amqp.handshake_timeout;
    let opening = tokio::select! {
        // A fault or a stop may come before OPEN.
        _ = entry.stop.asked() => return,
        () = life.stopping.cancelled() => return,
        opening = tokio::time::timeout(timeout, handshake::negotiate(&mut *transport, &hub)) => {
            opening.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        }
    };
    let opened = match opening {
        Ok(_)
            if hub
                .faults
                .at(FaultKind::CloseDuringOpen, Place::default())
                .is_some() =>
        {
            hub.stats.connections_fault.inc();
            return;
        }
        Ok(opening) => open(transport, opening, timeout, id, entry, &hub, &life).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok((connection, handle, kill)) => {
            tracing::info!(
                name: "connection_opened",
                target: "emulator", %peer, connection = id,
                "connection opened"
            );
            run(connection, handle).await;
            kill.cancel();
            tracing::info!(
                name: "connection_ended",
                target: "emulator", %peer, connection = id,
                "connection ended"
            );
        }
        Err(error) => {
            hub.stats.handshakes_failed.inc();
            tracing::debug!(target: "emulator", %peer, %error, "the connection was not opened");
        }
    }
}

async fn open(
    transport: BoxedTransport,
    opening: Opening,
    timeout: Duration,
    id: u64,
    entry: Arc<ConnectionEntry>,
    hub: &Arc<Hub>,
    life: &Lifetime,
) -> Result<(Arc<Connection>, ListenerConnectionHandle, CancellationToken), HandshakeError> {
    tracing::debug!(
        target: "emulator", connection = id, container = %opening.container, "OPEN received"
    );
    let kill = life.aborted.child_token();
    let silent = Arc::clone(&entry.silent);
    let (stream, writing) = AmqpStream::new(transport, opening.replay, kill.clone(), silent);
    life.tasks.spawn(writing);

    let idle_ms = u32::try_from(hub.config.amqp.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let acceptor = ConnectionAcceptor::builder()
        .container_id(format!("DeviceGateway_{}", hex(&random::<16>())))
        .hostname("localhost".to_owned())
        .max_frame_size(MAX_FRAME_SIZE)
        .channel_max(CHANNEL_MAX)
        .idle_time_out(idle_ms)
        .build();
    // A task of its own: a malformed frame may panic the library inside `accept`.
    let accepting = tokio::spawn(async move { acceptor.accept(stream).await });
    let mut handle = match tokio::time::timeout(timeout, accepting).await {
        Ok(Ok(Ok(handle))) => handle,
        _ => {
            kill.cancel();
            return Err(HandshakeError::Frame);
        }
    };
    let min = hub.config.amqp.idle_timeout_min;
    if opening
        .idle_timeout
        .is_some_and(|asked| !asked.is_zero() && asked < min)
    {
        close(&mut handle, errors::idle_timeout_too_short(min.as_millis())).await;
        kill.cancel();
        return Err(HandshakeError::Frame);
    }
    let mut tokens = Tokens::new(hub.config.limits.tokens_per_connection);
    let logged_in = opening.login.is_some();
    if let Some(grant) = opening.login {
        // The first token always finds room.
        drop(tokens.put(grant));
    }
    let connection = Arc::new(Connection {
        id,
        entry,
        hub: Arc::clone(hub),
        tokens: Mutex::new(tokens),
        tokens_changed: Notify::new(),
        logged_in,
        replies: Mutex::default(),
        answers: Mutex::default(),
        cbs_links: Arc::new(Semaphore::new(CBS_LINKS_MAX)),
        life: life.clone(),
    });
    Ok((connection, handle, kill))
}

async fn close(handle: &mut ListenerConnectionHandle, error: Error) {
    // Without an answer in time the caller closes the socket.
    drop(tokio::time::timeout(CLOSE_TIMEOUT, handle.close_with_error(error)).await);
}

async fn run(connection: Arc<Connection>, mut handle: ListenerConnectionHandle) {
    loop {
        let next_end = connection.tokens().next_end();
        tokio::select! {
            stop = connection.entry.stop.asked() => {
                match stop {
                    ConnectionStop::Kill => {}
                    ConnectionStop::Close(Some(error)) => close(&mut handle, error).await,
                    ConnectionStop::Close(None) => {
                        drop(tokio::time::timeout(CLOSE_TIMEOUT, handle.close()).await);
                    }
                }
                return;
            }
            () = connection.life.stopping.cancelled() => {
                close(&mut handle, errors::connection_forced("The emulator is stopping.")).await;
                return;
            }
            incoming = handle.next_incoming_session() => {
                let Some(incoming) = incoming else { return };
                if connection.fault(FaultKind::CloseDuringBegin).is_some() {
                    connection.hub.stats.connections_fault.inc();
                    close(&mut handle, errors::connection_forced("Fault injected.")).await;
                    return;
                }
                let acceptor = SessionAcceptor::builder()
                    .next_outgoing_id(1)
                    .incoming_window(INCOMING_WINDOW)
                    .outgoing_window(incoming.begin.incoming_window)
                    .handle_max(HANDLE_MAX)
                    .build();
                // An error here is the end of the connection; the loop sees it next.
                if let Ok(begun) = acceptor.accept_incoming_session(incoming, &mut handle).await {
                    let serving = session::serve(begun, Arc::clone(&connection));
                    connection.life.tasks.spawn(serving);
                }
            }
            () = token_clock(next_end, &connection.hub) => {
                if let Some(error) = connection.end_tokens(connection.hub.now()) {
                    close(&mut handle, error).await;
                    return;
                }
            }
            () = connection.tokens_changed.notified() => {}
        }
    }
}

/// Sleeps until just after `end`.
async fn token_clock(end: Option<Unix>, hub: &Hub) {
    match end {
        Some(end) => {
            tokio::time::sleep(end.since(hub.now()) + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}
