//! One AMQP session: judges each attach, answers it, and gives the link a task of its own.
//! Nothing here may be slow: a session's attaches are answered one after the other.

use crate::emulator::address::{Address, Endpoint};
use crate::emulator::admission::{self, Admitted};
use crate::emulator::connection::Connection;
use crate::emulator::errors;
use crate::emulator::faults::FaultKind;
use crate::emulator::links::{CbsRole, ConnectionStop};
use crate::emulator::{backend, cbs};
use fe2o3_amqp::acceptor::{
    LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SupportedReceiverSettleModes,
};
use fe2o3_amqp::types::definitions::{Error, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp::types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp::types::performatives::Attach;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

/// Time for a client to answer a detach before its link is forgotten.
pub(crate) const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refusal may hold up the attaches behind it.
const REFUSAL_TURN: Duration = Duration::from_millis(200);

/// What becomes of an attach.
enum Verdict {
    CbsRequests(OwnedSemaphorePermit),
    CbsReplies(OwnedSemaphorePermit),
    Device(Box<Admitted>),
    Service(Box<backend::Admitted>),
    Refuse(Error),
}

/// Serves a session until it ends.
pub(crate) async fn serve(mut session: ListenerSessionHandle, connection: Arc<Connection>) {
    let (id, entry, _listed) = connection.hub.directory.add_session(connection.id);
    loop {
        let attach = tokio::select! {
            error = entry.stop.asked() => {
                drop(tokio::time::timeout(DETACH_TIMEOUT, session.end_with_error(error)).await);
                return;
            }
            attach = session.next_incoming_attach() => attach,
        };
        let Some(attach) = attach else { return };
        if connection.fault(FaultKind::CloseDuringAttach).is_some() {
            let error = errors::connection_forced("Fault injected.");
            if connection
                .entry
                .stop
                .ask(ConnectionStop::Close(Some(error)))
            {
                connection.hub.stats.connections_fault.inc();
            }
            return;
        }
        if attach_link(&mut session, attach, id, &connection)
            .await
            .is_err()
        {
            // The library cannot attach one name in both directions, and would not answer.
            let error = errors::not_allowed("The link name is in use in this session.");
            drop(tokio::time::timeout(DETACH_TIMEOUT, session.end_with_error(error)).await);
            return;
        }
    }
}

/// The library could not answer an attach.
struct Unanswered;

/// Begins a refusal here, so that the detach leaves with the attach: a client that answers the null
/// terminus with a detach of its own must find ours, with the reason, on the way. The next attach
/// waits for the client's answer, within reason: the library takes that answer for one of the link
/// that got the handle next.
async fn begin_refusal(closing: impl Future<Output = ()> + Send + 'static, tasks: &TaskTracker) {
    let mut closing = Box::pin(closing);
    tokio::select! {
        biased;
        () = &mut closing => {}
        () = tokio::time::sleep(REFUSAL_TURN) => {
            tasks.spawn(closing);
        }
    }
}

async fn attach_link(
    session: &mut ListenerSessionHandle,
    mut attach: Attach,
    session_id: u64,
    connection: &Arc<Connection>,
) -> Result<(), Unanswered> {
    let mut verdict = judge(&attach, connection);
    // Listed before the answer, so that a change of the registry cannot slip in between.
    let mut listed = None;
    if let Verdict::Device(admitted) = &verdict {
        match admitted.enter(session_id, connection) {
            Ok(entry) => listed = Some(entry),
            Err(error) => verdict = Verdict::Refuse(error),
        }
    }
    let entered = match &verdict {
        Verdict::Service(admitted) => Some(admitted.enter(session_id, connection)),
        _ => None,
    };
    sanitise(&mut attach, matches!(verdict, Verdict::Refuse(_)));
    settle_modes(&mut attach, &verdict);
    // Known before the client is: its first token may come before the next line.
    let replies = matches!(verdict, Verdict::CbsReplies(_))
        .then(|| cbs::reply_channel(session_id, connection));
    let endpoint = acceptor(&attach, &verdict, connection)
        .accept_incoming_attach(attach, session)
        .await
        .map_err(|_| Unanswered)?;
    let connection = Arc::clone(connection);
    let tasks = connection.life.tasks.clone();
    match (verdict, endpoint, listed) {
        (Verdict::Refuse(error), endpoint, _) => {
            connection.hub.stats.attaches_refused.inc();
            begin_refusal(refuse(endpoint, error), &tasks).await;
        }
        (Verdict::CbsRequests(room), LinkEndpoint::Receiver(receiver), _) => {
            let stop = connection.entry.add_cbs_link(CbsRole::Requests);
            let serving = cbs::serve_requests(receiver, session_id, connection, stop);
            tasks.spawn(holding(room, serving));
        }
        (Verdict::CbsReplies(room), LinkEndpoint::Sender(sender), _) => {
            let stop = connection.entry.add_cbs_link(CbsRole::Replies);
            if let Some(replies) = replies {
                tasks.spawn(holding(room, cbs::serve_replies(sender, replies, stop)));
            }
        }
        (Verdict::Device(admitted), endpoint, Some(entered)) => {
            let hub = Arc::clone(&connection.hub);
            admission::start(&admitted, entered, endpoint, hub, &tasks);
        }
        (Verdict::Service(admitted), endpoint, _) => {
            if let Some(entered) = entered {
                admitted.start(entered, endpoint, session_id, &connection, &tasks);
            }
        }
        // Roles and verdicts are made from the same attach.
        (_, endpoint, _) => {
            tasks.spawn(refuse(endpoint, errors::unknown_address()));
        }
    }
    Ok(())
}

/// What the service sends at least once and what at most once, whatever was asked (wire
/// sheet §4.3).
fn settle_modes(attach: &mut Attach, verdict: &Verdict) {
    let Role::Receiver = attach.role else { return };
    match verdict {
        // The service answers `second` to whatever was asked; clients that asked for `first`
        // go on sending settled dispositions, and both are taken.
        Verdict::Device(admitted) if admitted.endpoint == Endpoint::Commands => {
            attach.rcv_settle_mode = ReceiverSettleMode::Second;
        }
        Verdict::Device(_) => attach.snd_settle_mode = SenderSettleMode::Settled,
        Verdict::Service(admitted) if admitted.sends_settled() => {
            attach.snd_settle_mode = SenderSettleMode::Settled;
        }
        _ => {}
    }
}

/// Runs `task` and gives its room back.
async fn holding(room: OwnedSemaphorePermit, task: impl Future<Output = ()>) {
    task.await;
    drop(room);
}

fn judge(attach: &Attach, connection: &Connection) -> Verdict {
    let hub = &connection.hub;
    let address = match &attach.role {
        // The client sends: the node is its target.
        Role::Sender => attach.target.as_deref().and_then(|target| match target {
            TargetArchetype::Target(target) if !target.dynamic => target.address.as_deref(),
            _ => None,
        }),
        Role::Receiver => attach.source.as_deref().and_then(|source| {
            if source.dynamic {
                None
            } else {
                source.address.as_deref()
            }
        }),
    };
    let parsed = address.and_then(|text| Address::parse(text, &hub.hosts()));
    match (parsed, &attach.role) {
        (None, _) => Verdict::Refuse(errors::unknown_address()),
        (Some(Address::Cbs), role) => {
            match (Arc::clone(&connection.cbs_links).try_acquire_owned(), role) {
                (Ok(room), Role::Sender) => Verdict::CbsRequests(room),
                (Ok(room), Role::Receiver) => Verdict::CbsReplies(room),
                (Err(_), _) => Verdict::Refuse(errors::too_many("$cbs links")),
            }
        }
        (Some(Address::Service(node)), _) => match backend::admit(node, attach, connection) {
            Ok(admitted) => Verdict::Service(Box::new(admitted)),
            Err(error) => Verdict::Refuse(error),
        },
        (Some(Address::Device(identity, endpoint)), _) => {
            match admission::admit(identity, endpoint, attach, connection) {
                Ok(admitted) => Verdict::Device(Box::new(admitted)),
                Err(error) => Verdict::Refuse(error),
            }
        }
    }
}

/// Removes what the library would answer on its own, and slowly; a refusal gets the null terminus
/// by which AMQP says that a detach follows.
fn sanitise(attach: &mut Attach, refused: bool) {
    attach.unsettled = None;
    attach.incomplete_unsettled = false;
    let mut source = attach
        .source
        .take()
        .unwrap_or_else(|| Box::new(Source::default()));
    source.dynamic = false;
    source.dynamic_node_properties = None;
    let target = attach.target.take().map(|target| *target);
    let mut target = match target {
        Some(TargetArchetype::Target(target)) => target,
        _ => Target::default(),
    };
    target.dynamic = false;
    target.dynamic_node_properties = None;
    let target = Box::new(TargetArchetype::Target(target));
    match attach.role {
        Role::Sender => {
            attach.initial_delivery_count.get_or_insert(0);
            attach.source = Some(source);
            attach.target = (!refused).then_some(target);
        }
        Role::Receiver => {
            attach.source = (!refused).then_some(source);
            attach.target = Some(target);
        }
    }
}

type Acceptor = LinkAcceptor<fn(Source) -> Option<Source>, fn(Target) -> Option<Target>>;

/// Settle modes and sizes of wire sheet §2.5.
fn acceptor(attach: &Attach, verdict: &Verdict, connection: &Connection) -> Acceptor {
    let builder = LinkAcceptor::builder()
        .verify_incoming_source(false)
        .verify_incoming_target(false);
    let max = connection.hub.config.limits.link_message_bytes as u64;
    match (verdict, &attach.role) {
        // The client's own maximum is echoed.
        (Verdict::Device(_), Role::Receiver) => builder.build(),
        // In mode second the library waits for a settlement some clients never send.
        (_, Role::Sender) => builder
            .supported_receiver_settle_modes(SupportedReceiverSettleModes::First)
            .fallback_receiver_settle_mode(ReceiverSettleMode::First)
            .max_message_size(max)
            .build(),
        (_, Role::Receiver) => builder.max_message_size(max).build(),
    }
}

/// Detaches a link that was answered with a null terminus.
pub(crate) async fn refuse(endpoint: LinkEndpoint, error: Error) {
    let closing = async {
        match endpoint {
            LinkEndpoint::Sender(sender) => drop(sender.close_with_error(error).await),
            LinkEndpoint::Receiver(receiver) => drop(receiver.close_with_error(error).await),
        }
    };
    drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
}
