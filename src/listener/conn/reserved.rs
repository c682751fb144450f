//! Requests and subscriptions below `$iothub/`, which are answered here because nobody serves
//! them: the device stays, its SDK gets an error it knows, and the log says so once.

use super::{Conn, Upstream};
use crate::listener::refusal::Line;
use crate::mqtt::packet::QoS;
use crate::mqtt::session::{Deliver, Ticket};
use crate::router::topic_map::{NOT_SERVED_BODY, Reserved, Subscription, TopicError};
use bytes::Bytes;

/// What the log says once for each connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Said {
    twin: bool,
    method: bool,
    pub(super) too_large: bool,
}

impl<U: Upstream> Conn<U> {
    /// Acknowledges a request nobody serves, and answers it where the device listens.
    pub(super) fn reserved(&mut self, ticket: Ticket, qos: QoS, topic: &str, request: &Reserved) {
        let listens = self.subscriptions.has(Subscription::TwinResponses);
        let answer = match request {
            Reserved::Twin(Some(topic)) if listens => Some(Deliver {
                topic: topic.clone(),
                payload: Bytes::from_static(NOT_SERVED_BODY),
                qos: QoS::AtMostOnce,
                delivery: 0,
            }),
            _ => None,
        };
        self.session
            .answer(ticket, answer.as_ref(), &mut self.out.bytes);
        let why = request.error();
        self.count("uplink", qos, why.reason().word());
        self.say_unserved(why, topic, false);
    }

    /// Says once that the device asks for something that is not served.
    pub(super) fn say_unserved(&mut self, why: TopicError, topic: &str, is_filter: bool) {
        let said = match why {
            TopicError::MethodUnsupported => &mut self.said.method,
            _ => &mut self.said.twin,
        };
        if !std::mem::replace(said, true) {
            let text = why.to_string();
            self.setup.voice.say(Line {
                topic: Some(topic),
                is_filter,
                ..self.line("not served", why.reason(), &text)
            });
        }
    }
}
