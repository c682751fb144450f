//! Messages on their way up: which are undecided, and how long each took; pure.

use crate::mqtt::packet::{Publish, QoS};
use crate::runtime::clock::Mono;
use crate::telemetry::trace::Span;
use std::collections::VecDeque;

/// An empty queue with room for no more than this is kept.
const KEEP: usize = 8;

struct Sent {
    ticket: u64,
    read_at: Mono,
    qos: QoS,
    decided: bool,
    /// The message, where it is kept should the hub refuse it.
    copy: Option<Box<Publish>>,
    /// Its span, where it is sampled.
    span: Option<Box<Span>>,
}

/// The messages of one connection the hub has not decided about, in the device's order. The
/// session's window bounds it.
#[derive(Default)]
pub(super) struct Uplink {
    sent: VecDeque<Sent>,
    /// Leading messages whose PUBACK is in the outbox and not yet on the socket.
    answered: usize,
}

impl Uplink {
    /// Notes a message read at `now` and handed to the hub.
    pub(super) fn push(&mut self, ticket: u64, qos: QoS, now: Mono, copy: Option<Box<Publish>>) {
        self.sent.push_back(Sent {
            ticket,
            read_at: now,
            qos,
            decided: false,
            copy,
            span: None,
        });
    }

    /// Gives the newest message a span.
    pub(super) fn trace(&mut self, span: Box<Span>) {
        if let Some(newest) = self.sent.back_mut() {
            newest.span = Some(span);
        }
    }

    /// Takes the span of a message, if it has one.
    pub(super) fn take_span(&mut self, ticket: u64) -> Option<Box<Span>> {
        let index = self.sent.binary_search_by_key(&ticket, |s| s.ticket).ok()?;
        self.sent.get_mut(index)?.span.take()
    }

    /// Takes all spans.
    pub(super) fn take_spans(&mut self) -> impl Iterator<Item = Box<Span>> {
        self.sent.iter_mut().filter_map(|sent| sent.span.take())
    }

    /// The hub decided about `ticket`; its QoS, or `None` when it is not one of ours.
    pub(super) fn decide(&mut self, ticket: u64) -> Option<QoS> {
        let index = self.sent.binary_search_by_key(&ticket, |s| s.ticket).ok()?;
        let sent = self.sent.get_mut(index).filter(|s| !s.decided)?;
        sent.decided = true;
        sent.copy = None;
        let qos = sent.qos;
        // PUBACKs leave in order, so a message is answered when all before it are decided.
        while self.sent.get(self.answered).is_some_and(|s| s.decided) {
            self.answered += 1;
        }
        Some(qos)
    }

    /// Takes the copy of an undecided message, if there is one.
    pub(super) fn take_copy(&mut self, ticket: u64) -> Option<Box<Publish>> {
        let index = self.sent.binary_search_by_key(&ticket, |s| s.ticket).ok()?;
        self.sent.get_mut(index)?.copy.take()
    }

    /// Whether PUBACKs wait for the socket.
    pub(super) fn has_answered(&self) -> bool {
        self.answered > 0
    }

    /// The answers are on the socket: forgets them and gives each QoS 1 message's time of
    /// reading.
    pub(super) fn written(&mut self, mut each: impl FnMut(Mono)) {
        for sent in self.sent.drain(..self.answered) {
            if sent.qos == QoS::AtLeastOnce {
                each(sent.read_at);
            }
        }
        self.answered = 0;
        if self.sent.is_empty() && self.sent.capacity() > KEEP {
            self.sent = VecDeque::new();
        }
    }

    /// QoS of every message the hub has not decided about.
    pub(super) fn undecided(&self) -> impl Iterator<Item = QoS> {
        self.sent.iter().filter(|s| !s.decided).map(|s| s.qos)
    }

    /// Whether every message is decided.
    pub(super) fn is_settled(&self) -> bool {
        self.answered == self.sent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Uplink;
    use crate::mqtt::packet::QoS;
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    fn at(ms: u64) -> Mono {
        Mono::from_start(Duration::from_millis(ms))
    }

    fn written(uplink: &mut Uplink) -> Vec<Mono> {
        let mut times = Vec::new();
        uplink.written(|t| times.push(t));
        times
    }

    #[test]
    fn a_message_is_answered_only_after_all_before_it() {
        let mut uplink = Uplink::default();
        for ticket in 1..=3 {
            uplink.push(ticket, QoS::AtLeastOnce, at(ticket), None);
        }
        assert!(uplink.decide(3).is_some());
        assert!(uplink.decide(2).is_some());
        assert_eq!(written(&mut uplink), []);
        assert!(uplink.decide(1).is_some());
        assert!(uplink.is_settled());
        assert_eq!(written(&mut uplink), [at(1), at(2), at(3)]);
        assert_eq!(uplink.undecided().count(), 0);
    }

    #[test]
    fn qos_0_is_counted_but_has_no_answer_to_time() {
        let mut uplink = Uplink::default();
        uplink.push(4, QoS::AtMostOnce, at(1), None);
        uplink.push(9, QoS::AtLeastOnce, at(2), None);
        assert_eq!(uplink.decide(4), Some(QoS::AtMostOnce));
        assert_eq!(uplink.decide(9), Some(QoS::AtLeastOnce));
        assert_eq!(written(&mut uplink), [at(2)]);
    }

    #[test]
    fn a_ticket_counts_once_and_strangers_not_at_all() {
        let mut uplink = Uplink::default();
        uplink.push(1, QoS::AtLeastOnce, at(1), None);
        uplink.push(5, QoS::AtLeastOnce, at(1), None);
        assert_eq!(uplink.decide(3), None);
        assert!(uplink.decide(5).is_some());
        assert_eq!(uplink.decide(5), None);
        assert!(!uplink.is_settled());
        assert_eq!(uplink.undecided().count(), 1);
    }

    #[test]
    fn an_empty_queue_holds_no_large_memory() {
        let mut uplink = Uplink::default();
        for ticket in 0..1000 {
            uplink.push(ticket, QoS::AtLeastOnce, at(1), None);
        }
        for ticket in 0..1000 {
            uplink.decide(ticket);
        }
        assert_eq!(written(&mut uplink).len(), 1000);
        assert!(uplink.sent.capacity() <= super::KEEP);
    }
}
