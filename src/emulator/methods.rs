//! Direct methods: calls that wait for their answer, and the link the answers come over
//! (wire sheet §4.6).

use crate::emulator::address::{Endpoint, Identity};
use crate::emulator::channels::{Content, Outgoing, Unsent};
use crate::emulator::errors::{self, random};
use crate::emulator::hub::Hub;
use crate::emulator::links::Link;
use crate::emulator::message::{self, Received};
use crate::runtime::clock;
use dashmap::DashMap;
use fe2o3_amqp::types::definitions::Error;
use fe2o3_amqp::types::messaging::MessageId;
use fe2o3_amqp::types::primitives::SimpleValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// A call as the service side makes it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// JSON, or nothing.
    pub(crate) payload: Vec<u8>,
    /// How long to wait for the device to be there.
    pub(crate) connect: Duration,
    /// How long to wait for its answer.
    pub(crate) response: Duration,
}

/// What the device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodAnswer {
    pub(crate) status: i32,
    /// As it came: the service looks into it as little as this.
    pub(crate) payload: Vec<u8>,
}

impl MethodAnswer {
    /// What the caller gets. The payload is put in as it came, JSON or not: so does the service.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = format!("{{\"status\":{},\"payload\":", self.status).into_bytes();
        match self.payload.is_empty() {
            true => json.extend_from_slice(b"null"),
            false => json.extend_from_slice(&self.payload),
        }
        json.push(b'}');
        json
    }
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// 404103: no link takes calls for the device.
    NotOnline,
    /// 504101: it did not answer in time.
    TimedOut,
    /// 429002: too many calls wait, for it or for all.
    Busy,
}

impl CallError {
    /// HTTP status, numeric code and text (wire sheet §6.4, §9.4).
    pub(crate) const fn codes(self) -> (u16, u32, &'static str) {
        match self {
            Self::NotOnline => (
                404,
                404_103,
                "The operation failed because the requested device isn't online or hasn't \
                 registered the direct method callback.",
            ),
            Self::TimedOut => (
                504,
                504_101,
                "Timed out waiting for the response from device.",
            ),
            Self::Busy => (429, 429_002, "Too many calls wait for their answers."),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    identity: Identity,
    answer: oneshot::Sender<MethodAnswer>,
}

/// Calls that wait.
#[derive(Debug)]
pub(crate) struct Calls {
    waiting: DashMap<[u8; 16], Waiting>,
    room: Arc<Semaphore>,
}

impl Calls {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            waiting: DashMap::new(),
            room: Arc::new(Semaphore::new(max)),
        }
    }

    /// Hands an answer to its call; whether that was still waiting.
    fn answer(&self, from: &Identity, id: &[u8; 16], answer: MethodAnswer) -> bool {
        let of = |_: &[u8; 16], waiting: &Waiting| waiting.identity == *from;
        let waiting = self.waiting.remove_if(id, of);
        waiting.is_some_and(|(_, waiting)| waiting.answer.send(answer).is_ok())
    }
}

/// A random uuid, version 4: clients send other bits back as text.
fn uuid() -> [u8; 16] {
    let mut id = random::<16>();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Forgets a call when its caller does.
struct Forget<'a>(&'a Calls, [u8; 16]);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.remove(&self.1);
    }
}

/// Calls a method and waits for the answer.
pub(crate) async fn call(
    hub: &Hub,
    identity: &Identity,
    call: Call,
) -> Result<MethodAnswer, CallError> {
    hub.stats.method_calls.inc();
    let called = calling(hub, identity, call).await;
    match called {
        Err(CallError::NotOnline) => hub.stats.method_calls_offline.inc(),
        Err(CallError::TimedOut) => hub.stats.method_calls_timed_out.inc(),
        Err(CallError::Busy) => hub.stats.method_calls_busy.inc(),
        Ok(_) => {}
    }
    called
}

async fn calling(hub: &Hub, identity: &Identity, call: Call) -> Result<MethodAnswer, CallError> {
    let room = hub.calls.room.try_acquire();
    let _room = room.map_err(|_| CallError::Busy)?;
    online(hub, identity, call.connect).await?;
    let id = uuid();
    let (answer, answered) = oneshot::channel();
    let _forget = Forget(&hub.calls, id);
    let waiting = Waiting {
        identity: identity.clone(),
        answer,
    };
    hub.calls.waiting.insert(id, waiting);
    let content = Content::Call {
        id,
        method: call.method,
        payload: call.payload,
    };
    let message = Outgoing {
        content,
        until: Some(clock::mono() + call.response),
    };
    let sent = hub.channels.send(identity, Endpoint::Methods, message);
    sent.map_err(|unsent| match unsent {
        Unsent::NoLink => CallError::NotOnline,
        Unsent::Full => CallError::Busy,
    })?;
    match tokio::time::timeout(call.response, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(CallError::TimedOut),
    }
}

/// Waits until a link takes calls for the device.
async fn online(hub: &Hub, identity: &Identity, patience: Duration) -> Result<(), CallError> {
    let waiting = async {
        loop {
            let opened = hub.channels.opened.notified();
            tokio::pin!(opened);
            // Registered before the look, so that no attach falls between the two.
            opened.as_mut().enable();
            if hub.channels.reachable(identity) {
                return;
            }
            opened.await;
        }
    };
    tokio::time::timeout(patience, waiting)
        .await
        .map_err(|_| CallError::NotOnline)
}

/// Takes an answer from the device; an error for the sender when it is none.
pub(crate) fn answered(hub: &Hub, link: &Link, message: Received) -> Result<(), Error> {
    let bad = |text: &str| {
        hub.stats.method_answers_bad.inc();
        Err(errors::bad_field(text))
    };
    let max = hub.config.limits.method_bytes;
    let id = message.properties.as_ref();
    let Some(MessageId::Uuid(id)) = id.and_then(|p| p.correlation_id.clone()) else {
        return bad("The correlation-id of a method's answer is the uuid of its call.");
    };
    let status = message.application_properties.as_ref();
    let Some(SimpleValue::Int(status)) = status.and_then(|p| p.0.get("IoThub-status")).cloned()
    else {
        return bad("A method's answer has an int IoThub-status.");
    };
    let Ok(payload) = message::body(message.body) else {
        return bad("The body of a method's answer is data.");
    };
    if payload.len() > max {
        hub.stats.method_answers_bad.inc();
        return Err(errors::message_too_large(payload.len(), max));
    }
    let answer = MethodAnswer {
        status,
        payload: payload.to_vec(),
    };
    let on_time = hub.calls.answer(&link.identity, &id.into_inner(), answer);
    match on_time {
        true => hub.stats.method_answers.inc(),
        // Its caller has gone, or had an answer before: the service takes it and drops it.
        false => hub.stats.method_answers_late.inc(),
    }
    Ok(())
}
