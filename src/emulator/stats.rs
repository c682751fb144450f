//! Counters of the hub, read by `GET /stats` and by tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only this module's callers change.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $($(#[doc = $doc])+ pub(crate) $name: Counter,)+
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct StatsSnapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Stats {
            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)+ }
            }
        }
    };
}

stats! {
    /// Device-to-cloud messages accepted.
    accepted,
    /// Their body bytes.
    accepted_bytes,
    /// Messages rejected for their size.
    rejected_too_large,
    /// Messages rejected because they were no AMQP message.
    rejected_undecodable,
    /// Messages rejected because the ledger is full.
    ledger_full,
    /// Messages rejected by the send throttle.
    throttled_sends,
    /// Attaches refused by the attach throttle.
    throttled_attaches,
    /// TCP connections taken since start.
    connections_total,
    /// TCP connections open now.
    connections,
    /// TCP connections dropped because of the limit.
    connections_refused,
    /// Connections that failed before AMQP was open: TLS, SASL, header, OPEN.
    handshakes_failed,
    /// SASL PLAIN log-ins refused.
    sasl_refused,
    /// Sessions open now.
    sessions,
    /// Device links open now.
    links,
    /// Links of back ends open now.
    service_links,
    /// Reports of commands dropped because nobody read them in time.
    feedback_dropped,
    /// Device links attached since start.
    attaches,
    /// Links refused for any reason.
    attaches_refused,
    /// Tokens put and found good.
    tokens_put,
    /// Tokens put and refused.
    tokens_refused,
    /// Tokens a fault left without an answer.
    tokens_unanswered,
    /// Links detached because their token ended.
    detaches_token,
    /// Links detached because their device was disabled or deleted.
    detaches_device,
    /// Command links detached because another one was opened.
    detaches_second_receiver,
    /// Links detached by an injected fault.
    detaches_fault,
    /// Connections closed or killed by an injected fault.
    connections_fault,
    /// Commands queued.
    commands_queued,
    /// Commands refused because the device's queue was full.
    commands_refused,
    /// Deliveries of commands, repeated ones included.
    commands_delivered,
    /// Commands completed (`accepted`).
    commands_completed,
    /// Deliveries given back (`released` or `modified`).
    commands_abandoned,
    /// Commands dead-lettered: rejected, or delivered too often.
    commands_dead_lettered,
    /// Commands whose life ended unread.
    commands_expired,
    /// Locks that ran out.
    locks_expired,
    /// Settlements that came after their lock had run out.
    late_settlements,
    /// Links detached because a pair with another channel correlation id took their place.
    detaches_second_pair,
    /// Twin requests that devices made.
    twin_requests,
    /// Those of them that were refused.
    twin_requests_refused,
    /// Changes of desired properties that a device was told of.
    twin_pushes,
    /// Methods called.
    method_calls,
    /// Calls without a link to the device in time (404103).
    method_calls_offline,
    /// Calls without an answer in time (504101).
    method_calls_timed_out,
    /// Calls refused because too many waited.
    method_calls_busy,
    /// Answers handed to their calls.
    method_answers,
    /// Answers nobody waited for: late, repeated, or to no call.
    method_answers_late,
    /// Answers that were none.
    method_answers_bad,
}
