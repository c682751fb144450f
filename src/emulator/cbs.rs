//! `$cbs`: tokens come in on one link, verdicts go out on its partner (wire sheet §3).

use crate::emulator::connection::Connection;
use crate::emulator::errors;
use crate::emulator::faults::FaultKind;
use crate::emulator::held::DELAY;
use crate::emulator::links::Stop;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::emulator::tokens::TokenError;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Receiver, Sender};
use serde_amqp::Value;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;

/// Credit of the request link, and replies that may wait for their link.
const CREDIT: u32 = 100;
/// Replies the client has not settled; more end the link.
const UNSETTLED_MAX: usize = 100;

/// Where the replies of a session go.
#[derive(Debug)]
pub(crate) struct ReplyTo {
    session: u64,
    to: mpsc::Sender<Reply>,
}

/// The verdict about one request.
#[derive(Debug)]
pub(crate) struct Reply {
    correlation_id: Option<MessageId>,
    status: i32,
    description: String,
}

/// Makes the newest reply link known; links that ended are forgotten.
pub(crate) fn reply_channel(session: u64, connection: &Connection) -> mpsc::Receiver<Reply> {
    let (to, replies) = mpsc::channel(CREDIT as usize);
    let mut known = connection
        .replies
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    known.retain(|reply| !reply.to.is_closed());
    known.push(ReplyTo { session, to });
    replies
}

/// The partner of a request link: the newest reply link, of the same session if it has one.
fn reply_to(session: u64, connection: &Connection) -> Option<mpsc::Sender<Reply>> {
    let known = connection
        .replies
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let open = || known.iter().rev().filter(|reply| !reply.to.is_closed());
    open()
        .find(|reply| reply.session == session)
        .or_else(|| open().next())
        .map(|r| r.to.clone())
}

/// Takes requests until the link ends.
pub(crate) async fn serve_requests(
    mut receiver: Receiver,
    session: u64,
    connection: Arc<Connection>,
    stop: Arc<Stop<Error>>,
) {
    receiver.set_credit_mode(CreditMode::Manual);
    if receiver.set_credit(CREDIT).await.is_err() {
        return;
    }
    let mut taken = 0;
    loop {
        let received = tokio::select! {
            error = stop.asked() => {
                let closing = receiver.close_with_error(error);
                drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
                return;
            }
            received = receiver.recv::<Body<Value>>() => received,
        };
        let delivery = match received {
            Ok(delivery) => delivery,
            Err(RecvError::MessageDecode(error)) => {
                if receiver
                    .reject(error.info, errors::undecodable())
                    .await
                    .is_err()
                {
                    return;
                }
                continue;
            }
            Err(_) => return,
        };
        let (info, message) = delivery.into_parts();
        let silent = connection.fault(FaultKind::CbsSilent).is_some();
        let reply = if silent {
            connection.hub.stats.tokens_unanswered.inc();
            None
        } else {
            Some(answer(message, &connection))
        };
        // Settled before the reply: clients with a bounded window need every put settled.
        if receiver.accept(info).await.is_err() {
            return;
        }
        if connection.fault(FaultKind::CbsDelayed).is_some() {
            tokio::time::sleep(DELAY).await;
        }
        if let (Some(reply), Some(to)) = (reply, reply_to(session, &connection)) {
            // The only failure is a reply link that has just gone.
            drop(to.send(reply).await);
        }
        taken += 1;
        if taken >= CREDIT / 2 {
            taken = 0;
            if receiver.set_credit(CREDIT).await.is_err() {
                return;
            }
        }
    }
}

fn answer(message: Message<Body<Value>>, connection: &Connection) -> Reply {
    let correlation_id = message
        .properties
        .as_ref()
        .and_then(|p| p.message_id.clone());
    let refused = connection.fault(FaultKind::CbsStatus);
    let verdict = match refused.and_then(|status| status.parse().ok()) {
        Some(status) => Err((status, "Fault injected.".to_owned())),
        None => put_token(message, connection),
    };
    let (status, description) = match verdict {
        Ok(()) => {
            connection.hub.stats.tokens_put.inc();
            connection.tokens_changed();
            (200, "OK".to_owned())
        }
        Err((status, description)) => {
            connection.hub.stats.tokens_refused.inc();
            tracing::debug!(
                target: "emulator", connection = connection.id, status, "token refused"
            );
            (status, description)
        }
    };
    Reply {
        correlation_id,
        status,
        description,
    }
}

fn put_token(message: Message<Body<Value>>, connection: &Connection) -> Result<(), (i32, String)> {
    let bad = |text: &str| (400, text.to_owned());
    let text = |name: &str| match message.application_properties.as_ref()?.0.get(name) {
        Some(SimpleValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if text("operation") != Some("put-token") {
        return Err(bad("The operation must be put-token."));
    }
    let sas = [
        "servicebus.windows.net:sastoken",
        "azure-devices.net:sastoken",
    ];
    match text("type") {
        Some(kind) if sas.iter().any(|known| known.eq_ignore_ascii_case(kind)) => {}
        _ => return Err(bad("The type must be servicebus.windows.net:sastoken.")),
    }
    // The service takes any name that is there; what counts is the token's own scope.
    if text("name").is_none_or(str::is_empty) {
        return Err(bad("The name is missing."));
    }
    let Body::Value(value) = message.body else {
        return Err(bad("The body must be a value."));
    };
    let Value::String(token) = value.0 else {
        return Err(bad("The token must be a string."));
    };
    let verdict = connection
        .hub
        .authority()
        .verify(&token, connection.hub.now())
        .and_then(|grant| connection.tokens().put(grant));
    verdict.map_err(|error: TokenError| (error.status(), error.to_string()))
}

/// Sends replies until the link or the connection ends.
pub(crate) async fn serve_replies(
    mut sender: Sender,
    mut replies: mpsc::Receiver<Reply>,
    stop: Arc<Stop<Error>>,
) {
    let mut unsettled = VecDeque::new();
    loop {
        let reply = tokio::select! {
            error = stop.asked() => {
                drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
                return;
            }
            reply = replies.recv() => reply,
            _ = sender.on_detach() => return,
        };
        let Some(reply) = reply else { return };
        match sender.send_batchable(reply.message()).await {
            Ok(sent) => unsettled.push_back(sent),
            Err(_) => return,
        }
        if unsettled.len() > UNSETTLED_MAX {
            let oldest = unsettled.pop_front();
            let settled = async {
                match oldest {
                    Some(oldest) => oldest.await.map(|_: Outcome| ()).is_ok(),
                    None => true,
                }
            };
            if !tokio::time::timeout(DETACH_TIMEOUT, settled)
                .await
                .unwrap_or(false)
            {
                let error = errors::too_many("unsettled replies");
                drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
                return;
            }
        }
    }
}

impl Reply {
    /// Properties and application properties, no body section, as captured.
    fn message(self) -> Message<fe2o3_amqp::types::messaging::Batch<Data>> {
        let properties = Properties {
            correlation_id: self.correlation_id,
            ..Properties::new()
        };
        let verdict = ApplicationProperties::builder()
            .insert("status-code", self.status)
            .insert("status-description", self.description)
            .build();
        Message::builder()
            .properties(properties)
            .application_properties(verdict)
            .data_batch(Vec::<Data>::new())
            .build()
    }
}
