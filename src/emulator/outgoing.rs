//! Links towards a device that carry twin answers, desired changes and method calls, all sent
//! settled (wire sheet §4.6, §4.7).

use crate::emulator::channels::{Content, Outgoing, Paired};
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::held::DELAY;
use crate::emulator::hub::Hub;
use crate::emulator::links::{Link, Listed};
use crate::emulator::session::DETACH_TIMEOUT;
use crate::runtime::clock;
use fe2o3_amqp::Sender;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Batch, Data, Message, MessageAnnotations, MessageId, Properties,
};
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Uuid};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Serves the link until it ends; what else `place` has keeps it in the directory and in its pair.
pub(crate) async fn serve(
    mut sender: Sender,
    place: (Arc<Link>, Listed, Paired),
    messages: mpsc::Receiver<Outgoing>,
    hub: Arc<Hub>,
) {
    let (link, _listed, _paired) = place;
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        () = send_all(&mut sender, &link, messages, &hub) => None,
    };
    if let Some(error) = ended {
        drop(tokio::time::timeout(DETACH_TIMEOUT, sender.close_with_error(error)).await);
    }
}

/// Until the client or the session ends the link.
async fn send_all(
    sender: &mut Sender,
    link: &Link,
    mut messages: mpsc::Receiver<Outgoing>,
    hub: &Hub,
) {
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = sender.on_detach() => return,
        };
        let Some(message) = message else { return };
        let faults = Faults::of(&message.content);
        let place = Place {
            connection: Some(link.connection),
            device: Some(&link.identity.device),
        };
        let at = |kind: Option<FaultKind>| kind.and_then(|kind| hub.faults.at(kind, place));
        if at(faults.lost).is_some() {
            continue;
        }
        if at(faults.delayed).is_some() {
            tokio::time::sleep(DELAY).await;
        }
        let times = if at(faults.twice).is_some() { 2 } else { 1 };
        for _ in 0..times {
            if message.until.is_some_and(|until| until <= clock::mono()) {
                break;
            }
            // Waits for credit; what was waited for in vain goes with the link.
            let sending = sender.send(sendable(&message.content));
            if sending.await.is_err() {
                return;
            }
        }
    }
}

/// What the catalogue may do to a message.
struct Faults {
    lost: Option<FaultKind>,
    delayed: Option<FaultKind>,
    twice: Option<FaultKind>,
}

impl Faults {
    const fn of(content: &Content) -> Self {
        match content {
            Content::Answer { .. } => Self {
                lost: Some(FaultKind::TwinAnswersLost),
                delayed: Some(FaultKind::TwinAnswersDelayed),
                twice: Some(FaultKind::TwinAnswersTwice),
            },
            Content::Push { .. } => Self {
                lost: Some(FaultKind::DesiredLost),
                delayed: None,
                twice: Some(FaultKind::DesiredTwice),
            },
            Content::Call { .. } => Self {
                lost: Some(FaultKind::MethodCallsLost),
                delayed: Some(FaultKind::MethodCallsDelayed),
                twice: Some(FaultKind::MethodCallsTwice),
            },
        }
    }
}

fn sendable(content: &Content) -> Sendable<Batch<Data>> {
    Sendable::builder()
        .message(message(content))
        .settled(true)
        .build()
}

fn message(content: &Content) -> Message<Batch<Data>> {
    let part = |bytes: &[u8]| Data(Binary::from(bytes.to_vec()));
    let (mut annotations, mut properties) = (None, Properties::new());
    let (mut application, mut body) = (None, Vec::new());
    match content {
        Content::Answer {
            correlation_id,
            status,
            version,
            get,
            body: answer,
        } => {
            let mut marks = MessageAnnotations::builder().insert("status", Value::Int(*status));
            if let Some(version) = version {
                marks = marks.insert("version", Value::Long(*version));
            }
            annotations = Some(marks.build());
            properties.correlation_id = Some(correlation_id.clone());
            properties.reply_to = get.then(String::new);
            body.extend(answer.as_deref().map(part));
        }
        Content::Push { body: patch } => {
            let resource = Value::String("/properties/desired".to_owned());
            let marks = MessageAnnotations::builder().insert("resource", resource);
            annotations = Some(marks.build());
            body.push(part(patch));
        }
        Content::Call {
            id,
            method,
            payload,
        } => {
            properties.correlation_id = Some(MessageId::Uuid(Uuid::from(*id)));
            let named = ApplicationProperties::builder();
            application = Some(named.insert("IoThub-methodname", method.clone()).build());
            body.push(part(payload));
        }
    }
    Message::builder()
        .message_annotations(annotations)
        .properties(properties)
        .application_properties(application)
        .data_batch(body)
        .build()
}
