//! Direct methods and the twin: what the device asks and answers below `$iothub/`, and what the hub
//! asks and answers it.
//!
//! A PUBACK for one of these is written when the hub has taken it, or when the device has its
//! answer from here. What is wrong is told an MQTT 5 device in the PUBACK; an older one is
//! acknowledged and stays: its caller, or it itself, learns of it by a status or a time-out, as at
//! IoT Hub.

use super::{Conn, Upstream};
use crate::hub::exchange::error_body;
use crate::hub::message::{MethodBounds, MethodCall, TwinAnswer, TwinAsk, TwinBounds, TwinRequest};
use crate::hub::outcome::HubAccepted;
use crate::hub::{Stray, Update};
use crate::listener::refusal::Line;
use crate::mqtt::packet::{Publish, QoS};
use crate::mqtt::session::{Deliver, Ticket};
use crate::router::topic_map::{
    Reserved, Subscription, TopicError, desired_topic, method_topic, twin_answer_topic,
};
use crate::telemetry::reason::Reason;
use bytes::Bytes;
use serde_json::from_slice;
use std::sync::atomic::Ordering::Relaxed;

/// MQTT 5 PUBACK reason codes (OASIS MQTT 5.0 §3.4.2.1).
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
const NOT_ACCEPTED: u8 = 0x83;

/// What the log says once for each connection.
#[derive(Default)]
pub(super) struct Said {
    /// Why requests and answers were refused.
    requests: Vec<Reason>,
    pub(super) too_large: bool,
}

/// Whether methods are subscribed to, and desired properties.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Served(bool, bool);

/// A request or an answer that is not taken.
struct No<'a> {
    reason: Reason,
    code: u8,
    text: &'a str,
}

impl<'a> No<'a> {
    const fn new(reason: Reason, code: u8) -> No<'static> {
        No {
            reason,
            code,
            text: reason.means(),
        }
    }

    const fn of(stray: Stray) -> No<'static> {
        No::new(
            match stray {
                Stray::Late => Reason::MethodAnswerLate,
                Stray::Repeated => Reason::MethodAnswerRepeated,
                Stray::Unknown => Reason::MethodAnswerUnknown,
            },
            NOT_ACCEPTED,
        )
    }
}

impl<U: Upstream> Conn<U> {
    pub(super) fn served(&self) -> Served {
        let has = |which| self.subscriptions.has(which);
        Served(has(Subscription::Methods), has(Subscription::TwinDesired))
    }

    /// Acts on subscriptions that have changed.
    pub(super) fn serve_requests(&mut self, before: Served) {
        let Served(methods, desired) = self.served();
        let bounds = self.method_bounds();
        match (before.0, methods) {
            (false, true) => self.upstream().call_methods(bounds),
            (true, false) => self.upstream().call_no_methods(),
            _ => {}
        }
        let bounds = self.twin_bounds();
        match (before.1, desired) {
            (false, true) => self.upstream().follow_desired(bounds),
            (true, false) => self.upstream().leave_desired(),
            _ => {}
        }
    }

    fn method_bounds(&self) -> MethodBounds {
        let limits = &self.setup.limits;
        MethodBounds {
            calls: limits.method_calls,
            bytes: limits.method_bytes,
            timeout: limits.method_timeout,
        }
    }

    fn twin_bounds(&self) -> TwinBounds {
        let limits = &self.setup.limits;
        TwinBounds {
            requests: limits.twin_requests,
            bytes: limits.twin_bytes,
            timeout: limits.twin_timeout,
            desired_bytes: limits.desired_bytes,
        }
    }

    /// A PUBLISH below `$iothub/`, or what is wrong with it.
    pub(super) fn reserved(
        &mut self,
        ticket: Ticket,
        publish: &Publish,
        request: Result<Reserved<'_>, TopicError>,
    ) {
        let Publish { qos, payload, .. } = publish;
        let max = self.bounds.limits.payload_bytes;
        let result = match request {
            Err(error) => Err((error.reason(), error.mqtt5_reason(), error.to_string())),
            Ok(_) if max.is_some_and(|max| payload.len() > max) => {
                let reason = Reason::PayloadTooLarge;
                Err((reason, QUOTA_EXCEEDED, reason.means().to_owned()))
            }
            Ok(Reserved::Answer { rid, status }) => {
                let answered = self.answer_method(ticket, rid, status, payload);
                answered.map_err(|no| (no.reason, no.code, no.text.to_owned()))
            }
            Ok(Reserved::Get { rid }) => {
                self.ask_twin(ticket, rid, TwinAsk::Get);
                Ok(())
            }
            Ok(Reserved::Report { rid, version }) => {
                let body = payload.clone();
                self.ask_twin(ticket, rid, TwinAsk::Report { version, body });
                Ok(())
            }
        };
        if let Err((reason, code, text)) = result {
            let text = &text;
            self.refuse_request(ticket, *qos, &publish.topic, &No { reason, code, text });
        }
    }

    /// The answer of the device to a method.
    fn answer_method(
        &mut self,
        ticket: Ticket,
        rid: &str,
        status: i32,
        body: &Bytes,
    ) -> Result<(), No<'static>> {
        if body.len() > self.setup.limits.method_bytes {
            return Err(No::new(Reason::MethodAnswerTooLarge, QUOTA_EXCEEDED));
        }
        let json = from_slice::<serde::de::IgnoredAny>(body);
        if !body.is_empty() && json.is_err() {
            let reason = Reason::MethodAnswerNotJson;
            return Err(No::new(reason, PAYLOAD_FORMAT_INVALID));
        }
        let call = rid.parse().map_err(|_| No::of(Stray::Unknown))?;
        let body = body.clone();
        let answered = self.upstream().answer(ticket.0, call, status, body);
        answered.map_err(No::of)?;
        self.see("method_answered", || format!("status {status}, id {rid}"));
        Ok(())
    }

    /// A request of the device to its twin.
    fn ask_twin(&mut self, ticket: Ticket, rid: &str, what: TwinAsk) {
        let bounds = self.twin_bounds();
        let operation = what.label();
        self.see("twin_asked", || format!("{operation}, id {rid}"));
        let (result, status) = match what.bytes() > bounds.bytes {
            true => ("too_large", 413),
            false => {
                let request = TwinRequest {
                    rid: rid.to_owned(),
                    what,
                };
                match self.upstream().ask_twin(ticket.0, request, bounds) {
                    Ok(()) => return,
                    Err(_) => ("busy", 429),
                }
            }
        };
        let reason = match status {
            413 => Reason::TwinRequestTooLarge,
            _ => Reason::TwinRequestBusy,
        };
        let requests = &self.setup.metrics.twin_requests;
        requests.with_label_values(&[operation, result]).inc();
        self.session.answer(ticket, None, &mut self.out.bytes);
        self.twin_answer(TwinAnswer {
            rid: rid.to_owned(),
            status,
            version: None,
            body: error_body(status, reason.means()),
        });
    }

    fn refuse_request(&mut self, ticket: Ticket, qos: QoS, topic: &str, no: &No<'_>) {
        self.count("uplink", qos, no.reason.word());
        self.claim.tally().refused.fetch_add(1, Relaxed);
        self.see("refused", || format!("{}: {}", no.reason, no.text));
        let out = &mut self.out.bytes;
        let told = self.session.refuse_publish(ticket, no.code, no.text, out);
        if !told {
            self.session.answer(ticket, None, out);
        }
        self.say_once(no.reason, topic, no.text);
    }

    /// Says once a connection that something below `$iothub/` was refused.
    fn say_once(&mut self, reason: Reason, topic: &str, text: &str) {
        if !self.said.requests.contains(&reason) {
            self.said.requests.push(reason);
            self.setup.voice.say(Line {
                topic: Some(topic),
                ..self.line("request refused", reason, text)
            });
        }
    }

    /// A request or an answer is done with.
    pub(super) fn taken(&mut self, ticket: u64, receipt: Option<HubAccepted>) {
        let out = &mut self.out.bytes;
        match receipt {
            Some(receipt) => self.session.acknowledge(Ticket(ticket), receipt, out),
            None => drop(self.session.answer(Ticket(ticket), None, out)),
        }
    }

    pub(super) fn twin_answer(&mut self, answer: TwinAnswer) {
        if !self.subscriptions.has(Subscription::TwinResponses) {
            return;
        }
        let topic = twin_answer_topic(&answer.rid, answer.status, answer.version);
        self.see("twin_answered", || topic.clone());
        if !self.publish_to_device(topic, answer.body) {
            self.too_large_for_device("twin answer");
        }
    }

    pub(super) fn desired(&mut self, update: Update) {
        self.requests_unwritten = true;
        let result = match self.subscriptions.has(Subscription::TwinDesired) {
            true => {
                let topic = desired_topic(update.version);
                self.see("desired", || topic.clone());
                match self.publish_to_device(topic, update.body) {
                    true => return,
                    false => "too_large",
                }
            }
            false => "unsubscribed",
        };
        if result == "too_large" {
            self.too_large_for_device("change of desired properties");
        }
        let changes = &self.setup.metrics.desired_changes;
        changes.with_label_values(&[result]).inc();
    }

    pub(super) fn method(&mut self, call: MethodCall) {
        self.requests_unwritten = true;
        let number = call.number;
        if !self.subscriptions.has(Subscription::Methods) {
            return self.upstream().drop_call(number, "unsubscribed");
        }
        let topic = method_topic(&call.name, &number.to_string());
        self.see("method", || topic.clone());
        if !self.publish_to_device(topic, call.body) {
            self.upstream().drop_call(number, "too_large");
            self.too_large_for_device("method call");
        }
    }

    /// Publishes at QoS 0, as IoT Hub does; `false`: the device takes no packet of that size.
    fn publish_to_device(&mut self, topic: String, payload: Bytes) -> bool {
        let deliver = Deliver {
            topic,
            payload,
            qos: QoS::AtMostOnce,
            delivery: 0,
        };
        self.session.deliver(&deliver, &mut self.out.bytes)
    }

    fn too_large_for_device(&mut self, what: &str) {
        if !std::mem::replace(&mut self.said.too_large, true) {
            tracing::info!(
                name: "request_too_large",
                target: crate::telemetry::log::REFUSAL,
                client_id = %self.claim.key(),
                source = %self.source,
                reason = "too_large",
                what,
                fix = "raise the device's Maximum Packet Size",
                "the device takes no packet of this size"
            );
        }
    }

    /// Method calls and changes of desired properties are on the socket.
    pub(super) fn requests_written(&mut self) {
        if std::mem::take(&mut self.requests_unwritten) {
            self.upstream().requests_written();
        }
    }
}
