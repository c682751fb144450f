//! The span of a message: begun when it is handed to the hub, carried in the message, ended by
//! what the hub decides. Nothing is done where no traces are configured.

use super::{Conn, Upstream};
use crate::hub::message::{DeviceAddress, Telemetry};
use crate::mqtt::packet::QoS;
use crate::runtime::clock;
use crate::telemetry::trace::{
    Context, Facts, Outcome, STATE_BYTES_MAX, Span, TRACEPARENT, TRACESTATE, Tracer,
};

type Properties = Vec<(String, Option<String>)>;

impl<U: Upstream> Conn<U> {
    /// Begins the span of a message that is sampled, and makes the message carry it.
    pub(super) fn trace(&self, qos: QoS, message: &mut Telemetry) -> Option<Box<Span>> {
        let tracer = self.setup.tracer.as_ref()?;
        let address = || DeviceAddress::of(&self.device);
        begin(tracer, address, qos, message).map(Box::new)
    }

    /// Ends the span of a message, if it has one.
    pub(super) fn traced(&mut self, ticket: u64, outcome: Outcome) {
        if let Some(tracer) = &self.setup.tracer
            && let Some(span) = self.uplink.take_span(ticket)
        {
            tracer.end(*span, outcome);
        }
    }

    /// Ends the spans of all messages that nobody will decide about any more.
    pub(super) fn traced_to_the_end(&mut self) {
        if let Some(tracer) = &self.setup.tracer {
            for span in self.uplink.take_spans() {
                tracer.end(*span, Outcome::Failed("abandoned"));
            }
        }
    }
}

/// The span of `message`, which carries it on as an application property: that is where readers
/// of a hub's events look, and a message annotation the hub does not know loses the message.
fn begin(
    tracer: &Tracer,
    address: impl FnOnce() -> DeviceAddress,
    qos: QoS,
    message: &mut Telemetry,
) -> Option<Span> {
    let parent = value(&message.application, TRACEPARENT).and_then(Context::parse);
    let context = tracer.sample(parent.as_ref())?;
    if parent.is_none() {
        // It belongs to a trace that is not continued (Trace Context §3.3).
        message.application.retain(|(name, _)| name != TRACESTATE);
    }
    set(&mut message.application, context.to_string());
    // Named here, so that the span knows what the hub sees.
    let id = message.system.message_id.get_or_insert_with(|| {
        let mut id = context.to_string();
        id.retain(|c| c != '-');
        id
    });
    let state = value(&message.application, TRACESTATE);
    let address = address();
    Some(Span {
        context,
        parent: parent.map(|parent| parent.span),
        start: clock::unix(),
        facts: Facts {
            device: address.device().to_string(),
            module: address.module().map(ToString::to_string),
            destination: address.telemetry(),
            message: id.clone(),
            bytes: message.body.len(),
            qos: u8::from(qos != QoS::AtMostOnce),
            state: state
                .filter(|state| state.len() <= STATE_BYTES_MAX)
                .map(str::to_owned),
        },
    })
}

fn value<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    let found = properties.iter().find(|(known, _)| known == name)?;
    found.1.as_deref()
}

fn set(properties: &mut Properties, traceparent: String) {
    let known = properties.iter_mut().find(|(name, _)| name == TRACEPARENT);
    match known {
        Some((_, value)) => *value = Some(traceparent),
        None => properties.push((TRACEPARENT.to_owned(), Some(traceparent))),
    }
}
