//! What a packet or a hub event asks of a connection.

use super::close::Close;
use super::refused::Refused;
use super::{Conn, Upstream};
use crate::hub::HubEvent;
use crate::hub::message::Settlement;
use crate::hub::outcome::{HubAccepted, Refusal};
use crate::mqtt::packet::{Publish, QoS};
use crate::mqtt::session::{Event, Ticket};
use crate::router::properties::Mended;
use crate::router::topic_map::{self, Mapped, Reserved};
use crate::runtime::clock::{self, Mono};
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::Outcome;
use std::sync::atomic::Ordering::Relaxed;

/// MQTT 5 PUBACK reason of a payload above the device's own bound: quota exceeded.
const PAYLOAD_TOO_LARGE: u8 = 0x97;

pub(super) const fn qos_label(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "0",
        QoS::AtLeastOnce => "1",
        QoS::ExactlyOnce => "2",
    }
}

impl<U: Upstream> Conn<U> {
    pub(super) fn packet(&mut self, event: Event, now: Mono) -> Result<(), Close> {
        match event {
            Event::Publish(ticket, publish) => self.publish(ticket, publish, now)?,
            Event::Subscribe(id, filters) => {
                for filter in &filters {
                    self.see("subscribe", || filter.filter.to_string());
                }
                self.subscribe(id, &filters)?;
            }
            Event::Unsubscribe(id, filters) => {
                for filter in &filters {
                    self.see("unsubscribe", || filter.to_string());
                }
                self.unsubscribe(id, &filters)?;
            }
            Event::Delivered(delivery) => self.command_decided(delivery, Settlement::Accepted),
            Event::Rejected(delivery) => self.command_decided(delivery, Settlement::Rejected),
            Event::Disconnect => return Err(Close::clean()),
            // A second CONNECT is a violation, never an event of an accepted session.
            Event::None | Event::Connect(_) => {}
        }
        Ok(())
    }

    fn publish(&mut self, ticket: Ticket, publish: Publish, now: Mono) -> Result<(), Close> {
        let (qos, bytes) = (publish.qos, publish.payload.len());
        self.setup.metrics.uplink_bytes.observe(bytes as f64);
        self.rate.spend(now);
        self.see("publish", || {
            format!("{} QoS {}, {bytes} B", publish.topic, qos_label(qos))
        });
        if let Some(request) = Reserved::of(&self.device, &publish.topic) {
            self.reserved(ticket, &publish, request);
            return Ok(());
        }
        let copy = self.copy(&publish);
        let topic = publish.topic.clone();
        let max = self.bounds.limits.payload_bytes;
        if max.is_some_and(|max| bytes > max) {
            let text = "the payload is larger than the device's rule allows";
            let no = Refused {
                reason: Reason::PayloadTooLarge,
                code: PAYLOAD_TOO_LARGE,
                text,
                topic: Some(&topic),
            };
            return self.refuse_publish(ticket, qos, &no, copy);
        }
        let properties = self.setup.limits.properties;
        let manner = self.bounds.limits.properties;
        match topic_map::uplink(&self.device, publish, properties, manner) {
            Ok(Mapped {
                mut telemetry,
                mended,
            }) => {
                self.count_mended(mended);
                let span = self.trace(qos, &mut telemetry);
                self.uplink.push(ticket.0, qos, now, copy);
                if let Some(span) = span {
                    self.uplink.trace(span);
                }
                self.setup.metrics.uplink_inflight.inc();
                self.upstream().send(ticket.0, telemetry);
                Ok(())
            }
            Err(error) => {
                let no = Refused {
                    reason: error.reason(),
                    code: error.mqtt5_reason(),
                    text: &error.to_string(),
                    topic: Some(&topic),
                };
                self.refuse_publish(ticket, qos, &no, copy)
            }
        }
    }

    pub(super) fn hub_event(&mut self, event: HubEvent) -> Result<(), Close> {
        match event {
            HubEvent::Sent(ticket, Ok(receipt)) => {
                self.accepted(ticket, receipt);
                Ok(())
            }
            HubEvent::Sent(ticket, Err(refusal)) => self.refused(ticket, &refusal),
            HubEvent::Command(command) => {
                self.command(*command);
                Ok(())
            }
            HubEvent::Method(call) => {
                self.method(*call);
                Ok(())
            }
            HubEvent::Twin(answer) => {
                self.twin_answer(*answer);
                Ok(())
            }
            HubEvent::Desired(update) => {
                self.desired(*update);
                Ok(())
            }
            HubEvent::Taken(ticket, receipt) => {
                self.taken(ticket, receipt);
                Ok(())
            }
            HubEvent::Gone(gone) => Err(Close::gone(&gone)),
        }
    }

    fn accepted(&mut self, ticket: u64, receipt: HubAccepted) {
        let out = &mut self.out.bytes;
        self.session.acknowledge(Ticket(ticket), receipt, out);
        self.traced(ticket, Outcome::Accepted);
        if let Some(qos) = self.decided(ticket) {
            self.claim.tally().accepted.fetch_add(1, Relaxed);
            self.see("accepted", || format!("QoS {}", qos_label(qos)));
            match qos {
                QoS::AtMostOnce => self.setup.metrics.uplink_qos0_accepted.inc(),
                _ => self.setup.metrics.uplink_qos1_accepted.inc(),
            }
            // Nothing to write for QoS 0, so nothing would tell that it is written.
            if self.out.is_idle() {
                self.flushed();
            }
        }
    }

    fn refused(&mut self, ticket: u64, refusal: &Refusal) -> Result<(), Close> {
        self.traced(ticket, Outcome::Failed(refusal.reason));
        let copy = self.uplink.take_copy(ticket);
        let Some(qos) = self.decided(ticket) else {
            return Ok(());
        };
        let topic = copy.as_ref().map(|copy| copy.topic.to_string());
        let no = Refused {
            reason: Reason::of(refusal.reason).unwrap_or(Reason::Rejected),
            code: refusal.mqtt5_reason(),
            text: &refusal.text,
            topic: topic.as_deref(),
        };
        self.refuse_publish(Ticket(ticket), qos, &no, copy)
    }

    /// Takes a message out of those in flight.
    pub(super) fn decided(&mut self, ticket: u64) -> Option<QoS> {
        let qos = self.uplink.decide(ticket)?;
        self.setup.metrics.uplink_inflight.dec();
        Some(qos)
    }

    /// Everything the outbox held is on the socket.
    pub(super) fn flushed(&mut self) {
        self.commands_written();
        self.requests_written();
        let metrics = &self.setup.metrics;
        if self.uplink.has_answered() {
            let now = clock::mono();
            self.uplink.written(|read_at| {
                metrics
                    .uplink_duration
                    .observe(now.since(read_at).as_secs_f64())
            });
        }
    }

    /// Counts what was mended in a message's properties: seldom anything.
    pub(super) fn count_mended(&self, mended: Mended) {
        if mended == Mended::default() {
            return;
        }
        let metric = &self.setup.metrics.properties_mended;
        for (how, count) in mended.counts() {
            metric.with_label_values(&[how]).inc_by(u64::from(count));
        }
    }

    /// Counts an outcome that is not the ordinary one; the ordinary ones have held handles.
    pub(super) fn count(&self, direction: &str, qos: QoS, result: &str) {
        let labels = [direction, qos_label(qos), result];
        self.setup.metrics.messages.with_label_values(&labels).inc();
    }
}
