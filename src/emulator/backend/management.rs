//! `$management`: what an Event Hubs client asks before it reads: which partitions there are, and from
//! where to where each one goes (wire sheet §9.2).

use super::events;
use crate::emulator::connection::Connection;
use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::links::{Listed, ServiceLink};
use crate::emulator::message::Received;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock::Unix;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::{Error, Role};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties, TargetArchetype,
};
use fe2o3_amqp::types::performatives::Attach;
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Receiver, Sender};
use serde_amqp::Value;
use serde_amqp::primitives::{Array, OrderedMap, Timestamp};
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;

/// Requests under way on a link, and answers that may wait for theirs.
const CREDIT: u32 = 16;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    correlation_id: Option<MessageId>,
    status: i32,
    description: &'static str,
    body: OrderedMap<Value, Value>,
}

/// Where the answers of a session go.
#[derive(Debug)]
pub(crate) struct AnswerTo {
    session: u64,
    address: Option<String>,
    to: mpsc::Sender<Answer>,
}

/// The address a link for answers gave itself.
pub(super) fn reply_to(attach: &Attach) -> Option<String> {
    match (&attach.role, attach.target.as_deref()) {
        (Role::Receiver, Some(TargetArchetype::Target(target))) => target.address.clone(),
        _ => None,
    }
}

/// Makes a link for answers known; links that ended are forgotten.
pub(super) fn answers(
    session: u64,
    address: Option<String>,
    connection: &Connection,
) -> mpsc::Receiver<Answer> {
    let (to, answers) = mpsc::channel(CREDIT as usize);
    let mut known = connection
        .answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    known.retain(|answer| !answer.to.is_closed());
    known.push(AnswerTo {
        session,
        address,
        to,
    });
    answers
}

/// The link a request's answer goes to: the one its `reply-to` names, or the session's newest.
fn answer_to(
    session: u64,
    reply_to: Option<&str>,
    connection: &Connection,
) -> Option<mpsc::Sender<Answer>> {
    let known = connection
        .answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let open = || known.iter().rev().filter(|answer| !answer.to.is_closed());
    open()
        .find(|answer| reply_to.is_some() && answer.address.as_deref() == reply_to)
        .or_else(|| open().find(|answer| answer.session == session))
        .map(|answer| answer.to.clone())
}

/// Takes requests until the link ends.
pub(super) async fn serve_requests(
    mut receiver: Receiver,
    (link, _listed): (Arc<ServiceLink>, Listed),
    session: u64,
    connection: Arc<Connection>,
) {
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        error = take(&mut receiver, session, &connection) => error,
    };
    if let Some(error) = ended {
        let closing = receiver.close_with_error(error);
        drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
    }
}

async fn take(receiver: &mut Receiver, session: u64, connection: &Connection) -> Option<Error> {
    receiver.set_credit_mode(CreditMode::Manual);
    loop {
        receiver.set_credit(CREDIT).await.ok()?;
        let delivery = match receiver.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(RecvError::MessageDecode(error)) => {
                let rejecting = receiver.reject(error.info, errors::undecodable());
                rejecting.await.ok()?;
                continue;
            }
            Err(_) => return None,
        };
        let (info, message) = delivery.into_parts();
        receiver.accept(info).await.ok()?;
        let reply_to = message.properties.as_ref().and_then(|p| p.reply_to.clone());
        let answer = answer(&connection.hub, &message);
        if let Some(to) = answer_to(session, reply_to.as_deref(), connection) {
            // Fails only when the link for answers has just gone.
            drop(to.send(answer).await);
        }
    }
}

/// Sends answers until the link ends.
pub(super) async fn serve_answers(
    mut sender: Sender,
    (link, _listed): (Arc<ServiceLink>, Listed),
    mut answers: mpsc::Receiver<Answer>,
) {
    loop {
        let answer = tokio::select! {
            error = link.stop.asked() => {
                drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
                return;
            }
            answer = answers.recv() => answer,
            _ = sender.on_detach() => return,
        };
        let Some(answer) = answer else { return };
        let sendable = Sendable::builder()
            .message(answer.message())
            .settled(true)
            .build();
        if sender.send(sendable).await.is_err() {
            return;
        }
    }
}

fn answer(hub: &Hub, message: &Received) -> Answer {
    let text = |name: &str| {
        let value = message.application_properties.as_ref()?.0.get(name)?;
        match value {
            SimpleValue::String(text) => Some(text.clone()),
            SimpleValue::Symbol(symbol) => Some(symbol.0.clone()),
            SimpleValue::Binary(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        }
    };
    let named = text("name").is_some_and(|name| name == hub.config.events.name);
    let kind = text("type").unwrap_or_default();
    let read = text("operation").is_some_and(|operation| operation == "READ");
    let partition = text("partition").and_then(|id| id.parse().ok());
    let (status, description, body) = match (read, named, kind.as_str(), partition) {
        (true, true, "com.microsoft:eventhub", _) => (200, "OK", whole(hub)),
        (true, true, "com.microsoft:partition", Some(id)) if id < hub.config.events.partitions => {
            (200, "OK", part(hub, id))
        }
        (true, ..) => (
            404,
            "There is no such event hub or partition.",
            OrderedMap::new(),
        ),
        _ => (400, "The operation is not known.", OrderedMap::new()),
    };
    let properties = message.properties.as_ref();
    Answer {
        correlation_id: properties.and_then(|p| p.message_id.clone()),
        status,
        description,
        body,
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn time(at: Unix) -> Value {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    Value::Timestamp(Timestamp::from_milliseconds(millis))
}

fn whole(hub: &Hub) -> OrderedMap<Value, Value> {
    let partitions = hub.config.events.partitions;
    let ids: Vec<Value> = (0..partitions).map(|id| text(&id.to_string())).collect();
    let count = i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut body = OrderedMap::new();
    body.insert(text("name"), text(&hub.config.events.name));
    body.insert(text("type"), text("com.microsoft:eventhub"));
    body.insert(text("created_at"), time(Unix::default()));
    body.insert(text("partition_count"), Value::Int(count));
    body.insert(text("partition_ids"), Value::Array(Array::from(ids)));
    body
}

fn part(hub: &Hub, id: u32) -> OrderedMap<Value, Value> {
    let extent = events::extent(hub, id);
    let place = |place: u64| Value::Long(i64::try_from(place).unwrap_or(i64::MAX));
    let (first, last, at) = extent.unwrap_or_default();
    let offset = extent.map_or(-1, |_| i64::try_from(last).unwrap_or(i64::MAX));
    let mut body = OrderedMap::new();
    body.insert(text("name"), text(&hub.config.events.name));
    body.insert(text("type"), text("com.microsoft:partition"));
    body.insert(text("partition"), text(&id.to_string()));
    body.insert(text("begin_sequence_number"), place(first));
    body.insert(text("last_enqueued_sequence_number"), place(last));
    body.insert(text("last_enqueued_offset"), text(&offset.to_string()));
    body.insert(text("last_enqueued_time_utc"), time(at));
    body.insert(text("is_partition_empty"), Value::Bool(extent.is_none()));
    body
}

impl Answer {
    fn message(self) -> Message<AmqpValue<Value>> {
        let properties = Properties {
            correlation_id: self.correlation_id,
            ..Properties::new()
        };
        let verdict = ApplicationProperties::builder()
            .insert("status-code", self.status)
            .insert("status-description", self.description.to_owned())
            .build();
        Message::builder()
            .properties(properties)
            .application_properties(verdict)
            .value(Value::Map(self.body))
            .build()
    }
}
