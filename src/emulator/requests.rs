//! Links towards the hub that carry twin requests and methods' answers: each message is taken,
//! judged and settled (wire sheet §4.6, §4.7).

use crate::emulator::address::Endpoint;
use crate::emulator::channels::{Content, Outgoing, Paired};
use crate::emulator::errors::{self, json};
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::hub::Hub;
use crate::emulator::links::{Link, Listed};
use crate::emulator::message::{self, Received};
use crate::emulator::methods;
use crate::emulator::session::DETACH_TIMEOUT;
use crate::emulator::twin::TwinError;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{Body, MessageId};
use serde_amqp::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Credit as captured (wire sheet §2.5), topped up when half is used.
const CREDIT: u32 = 1_000;

const REPORTED: &str = "/properties/reported";
const DESIRED: &str = "/notifications/twin/properties/desired";

/// Serves the link until it ends. `_listed` and `_paired` keep it in the directory and in its pair.
pub(crate) async fn serve(
    mut receiver: Receiver,
    link: Arc<Link>,
    _listed: Listed,
    _paired: Paired,
    hub: Arc<Hub>,
) {
    let ended = tokio::select! {
        error = link.stop.asked() => Some(error),
        error = take(&mut receiver, &link, &hub) => error,
    };
    if let Some(error) = ended {
        let closing = receiver.close_with_error(error);
        drop(tokio::time::timeout(DETACH_TIMEOUT, closing).await);
    }
}

async fn take(receiver: &mut Receiver, link: &Link, hub: &Hub) -> Option<Error> {
    receiver.set_credit_mode(CreditMode::Manual);
    receiver.set_credit(CREDIT).await.ok()?;
    let mut taken = 0;
    loop {
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
        let verdict = match link.endpoint {
            Endpoint::Methods => methods::answered(hub, link, message),
            _ => twin(hub, link, message).await,
        };
        // Does nothing for what was sent settled, as all but Java's client do.
        match verdict {
            Ok(()) => receiver.accept(info).await.ok()?,
            Err(error) => receiver.reject(info, error).await.ok()?,
        }
        taken += 1;
        if taken >= CREDIT / 2 {
            taken = 0;
            receiver.set_credit(CREDIT).await.ok()?;
        }
    }
}

/// A twin request, as far as it can be read.
struct Request {
    operation: String,
    resource: Option<String>,
    version: Result<Option<i64>, ()>,
}

fn request(message: &Received) -> Request {
    let field = |name: &str| {
        let annotations = message.message_annotations.as_ref()?;
        let key = OwnedKey::from(name);
        annotations.0.get(&key).filter(|v| **v != Value::Null)
    };
    let text = |name: &str| match field(name) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    Request {
        operation: text("operation").unwrap_or_default(),
        resource: text("resource"),
        version: match field("version") {
            None => Ok(None),
            Some(Value::Long(version)) => Ok(Some(*version)),
            Some(_) => Err(()),
        },
    }
}

/// Answers a twin request over the link's partner. Without one, and without a correlation id,
/// nobody could tell the answer from anything else, and there is none.
async fn twin(hub: &Hub, link: &Link, message: Received) -> Result<(), Error> {
    let refused = |error| {
        hub.stats.twin_requests_refused.inc();
        Err(error)
    };
    let id = message.properties.as_ref();
    let Some(id) = id.and_then(|p| p.correlation_id.clone()) else {
        return refused(errors::bad_field("A twin request has a correlation-id."));
    };
    let Some(partner) = hub.channels.partner(link) else {
        return refused(errors::not_allowed("There is no link to answer over."));
    };
    hub.stats.twin_requests.inc();
    // Waits for room: who does not take answers gets no further requests read.
    let Ok(room) = partner.reserve().await else {
        return Ok(());
    };
    let request = request(&message);
    let reply = Reply {
        hub,
        room,
        id,
        get: request.operation == "GET",
    };
    let place = Place {
        connection: Some(link.connection),
        device: Some(&link.identity.device),
    };
    let injected = hub.faults.at(FaultKind::TwinStatus, place);
    match injected.and_then(|status| status.parse().ok()) {
        Some(status) => reply.fail(status, errors::twin_code(status), "Fault injected."),
        None => carry_out(hub, link, request, message, reply),
    }
    Ok(())
}

/// Does what is asked; the answer is under way before anyone else changes the twin.
fn carry_out(hub: &Hub, link: &Link, request: Request, message: Received, reply: Reply<'_>) {
    match (request.operation.as_str(), request.resource.as_deref()) {
        ("GET", None | Some("" | "/")) => hub.twins.with(&link.identity, |twin| {
            let body = twin.for_device().to_string().into_bytes();
            reply.send(200, None, Some(body));
        }),
        ("PATCH", Some(REPORTED)) => {
            let patch = message::body(message.body).ok();
            let patch = patch.and_then(|body| serde_json::from_slice(&body).ok());
            match (patch, request.version) {
                (None, _) => reply.fail(400, 400_006, "The body is no JSON object."),
                (_, Err(())) => reply.fail(400, 400_004, "The version is a long."),
                (Some(patch), Ok(expected)) => {
                    let answer = |reported| match reported {
                        Ok(version) => reply.send(204, Some(version), None),
                        Err(error) => reply.refuse(&error),
                    };
                    hub.twins.report(&link.identity, &patch, expected, answer);
                }
            }
        }
        ("PUT", Some(DESIRED)) => {
            hub.channels.subscribe(link, true);
            reply.send(200, None, None);
        }
        ("DELETE", Some(DESIRED)) => {
            hub.channels.subscribe(link, false);
            reply.send(200, None, None);
        }
        _ => reply.fail(
            400,
            400_003,
            "Known are GET, PATCH of reported, PUT and DELETE of notifications.",
        ),
    }
}

/// The answer a request gets, and room for it.
struct Reply<'a> {
    hub: &'a Hub,
    room: mpsc::Permit<'a, Outgoing>,
    id: MessageId,
    get: bool,
}

impl Reply<'_> {
    fn send(self, status: i32, version: Option<i64>, body: Option<Vec<u8>>) {
        self.room.send(Outgoing::new(Content::Answer {
            correlation_id: self.id,
            status,
            version,
            get: self.get,
            body,
        }));
    }

    fn fail(self, status: i32, code: u32, text: &str) {
        self.hub.stats.twin_requests_refused.inc();
        self.send(status, None, Some(json(code, text).into_bytes()));
    }

    fn refuse(self, error: &TwinError) {
        let (status, code) = error.codes();
        self.fail(status, code, &error.to_string());
    }
}

impl TwinError {
    /// Status and numeric code (wire sheet §6.4).
    pub(crate) const fn codes(&self) -> (i32, u32) {
        match self {
            Self::Version => (412, 412_001),
            Self::Invalid(_) => (400, 400_004),
            Self::TooLarge(..) => (400, 413_001),
            Self::Full => (403, 403_002),
        }
    }
}
