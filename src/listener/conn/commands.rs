//! Subscriptions, and commands from the hub to the device and back to their end.
//!
//! A command that was delivered ends by the device's word, whatever becomes of the subscription
//! it came by (MQTT-3.10.4-3): an UNSUBSCRIBE takes the command link's credit away and closes it
//! when the last command with the device is decided.

use super::close::Close;
use super::{Conn, Upstream};
use crate::hub::message::{Command, Settlement};
use crate::listener::refusal::Line;
use crate::mqtt::packet::{Filter, PacketId, QoS};
use crate::mqtt::session::Deliver;
use crate::router::topic_map::{self, Subscription, TopicError};
use crate::telemetry::log::REFUSAL;
use bytestring::ByteString;
use std::sync::atomic::Ordering::Relaxed;

impl<U: Upstream> Conn<U> {
    pub(super) fn subscribe(&mut self, id: PacketId, filters: &[Filter]) -> Result<(), Close> {
        let before = self.subscriptions.commands();
        let served = self.served();
        let mut granted = Vec::with_capacity(filters.len());
        let mut refused = None;
        for filter in filters {
            let qos = filter.qos.min(QoS::AtLeastOnce);
            match topic_map::subscription(&self.device, &filter.filter) {
                Ok(which) => {
                    self.subscriptions.set(which, qos);
                    granted.push(Some(qos));
                }
                Err(error) => {
                    self.log_refused_filter(filter, error);
                    refused = refused.or(Some(error));
                    granted.push(None);
                }
            }
        }
        if !self.session.suback(id, &granted, &mut self.out.bytes) {
            return Err(match refused {
                Some(error) => Close::refused_filter(error.reason(), &error.to_string()),
                None => Close::answer_too_large(),
            });
        }
        if before.is_none() && self.subscriptions.commands().is_some() {
            self.unsubscribing = false;
            let window = self.session.downlink_window();
            let window = u32::try_from(window).unwrap_or(u32::MAX);
            self.upstream().subscribe(window);
        }
        self.serve_requests(served);
        Ok(())
    }

    /// Tells of a filter the device may not subscribe to.
    fn log_refused_filter(&self, filter: &Filter, error: TopicError) {
        let text = error.to_string();
        self.setup.voice.say(Line {
            expected: Some(topic_map::commands_filter(&self.device)),
            topic: Some(&filter.filter),
            is_filter: true,
            qos: Some(filter.qos as u8),
            ..self.line("subscription refused", error.reason(), &text)
        });
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: PacketId,
        filters: &[ByteString],
    ) -> Result<(), Close> {
        let before = self.subscriptions.commands();
        let served = self.served();
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let which = topic_map::subscription(&self.device, filter);
            existed.push(which.is_ok_and(|which| self.subscriptions.remove(which)));
        }
        if before.is_some() && self.subscriptions.commands().is_none() {
            self.unsubscribing = true;
            // Nothing more is asked for; what the device has is waited for.
            self.upstream().subscribe(0);
            self.close_if_unsubscribed();
        }
        self.serve_requests(served);
        match self.session.unsuback(id, &existed, &mut self.out.bytes) {
            true => Ok(()),
            false => Err(Close::answer_too_large()),
        }
    }

    /// Closes the command link of a device that unsubscribed, once it decided about the last
    /// command.
    fn close_if_unsubscribed(&mut self) {
        let held = self.commands_unacknowledged + self.commands_unwritten.len();
        if self.unsubscribing && held == 0 {
            self.unsubscribing = false;
            self.upstream().unsubscribe();
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        let delivery = command.delivery;
        let Some(qos) = self.subscriptions.commands() else {
            // It crossed the device's UNSUBSCRIBE.
            self.upstream().settle(delivery, Settlement::Released);
            return;
        };
        let bytes = command.body.len();
        let deliver = Deliver {
            topic: topic_map::command_topic(
                &self.device,
                &command,
                self.subscriptions.has(Subscription::Own),
            ),
            payload: command.body,
            qos,
            delivery,
        };
        if !self.session.fits(&deliver) {
            self.command_too_large(bytes, qos);
            self.upstream().settle(delivery, Settlement::Rejected);
            return;
        }
        if !self.session.deliver(&deliver, &mut self.out.bytes) {
            self.count("downlink", qos, "no_slot");
            self.upstream().settle(delivery, Settlement::Released);
            return;
        }
        self.see("command", || format!("{bytes} B"));
        let metrics = &self.setup.metrics;
        metrics.downlink_bytes.observe(bytes as f64);
        metrics.downlink_inflight.inc();
        match qos {
            QoS::AtMostOnce => self.commands_unwritten.push(delivery),
            _ => self.commands_unacknowledged += 1,
        }
    }

    /// No later attempt would fit either, so the hub is told to dead-letter the command.
    fn command_too_large(&mut self, bytes: usize, qos: QoS) {
        self.count("downlink", qos, "too_large");
        if !std::mem::replace(&mut self.said.too_large, true) {
            tracing::info!(
                name: "command_too_large",
                target: REFUSAL,
                client_id = %self.claim.key(),
                source = %self.source,
                reason = "too_large",
                bytes,
                fix = "send smaller commands, or raise the device's Maximum Packet Size",
                "command rejected towards the hub"
            );
        }
    }

    /// The device decided about a QoS 1 command.
    pub(super) fn command_decided(&mut self, delivery: u64, how: Settlement) {
        self.see("command_decided", || format!("{how:?}").to_lowercase());
        self.upstream().settle(delivery, how);
        self.commands_unacknowledged = self.commands_unacknowledged.saturating_sub(1);
        self.setup.metrics.downlink_inflight.dec();
        match how {
            Settlement::Accepted => {
                self.claim.tally().commands.fetch_add(1, Relaxed);
                self.setup.metrics.downlink_qos1_accepted.inc();
            }
            Settlement::Rejected => self.count("downlink", QoS::AtLeastOnce, "rejected"),
            Settlement::Released => self.count("downlink", QoS::AtLeastOnce, "released"),
        }
        self.close_if_unsubscribed();
    }

    /// QoS 0 commands are on the socket, which is all that is known of them.
    pub(super) fn commands_written(&mut self) {
        let metrics = &self.setup.metrics;
        for delivery in self.commands_unwritten.drain(..) {
            self.links.settle(delivery, Settlement::Accepted);
            self.ears.hub.hear();
            metrics.downlink_inflight.dec();
            self.claim.tally().commands.fetch_add(1, Relaxed);
            metrics.downlink_qos0_accepted.inc();
        }
        self.close_if_unsubscribed();
    }
}
