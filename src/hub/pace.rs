//! The pace of attaches: one token bucket for the whole hub, senders of waiting devices first.
//!
//! A hub counts new device connections per second (wire sheet §7); after a loss thousands of
//! links want to come back at once. Few of them stand in the queues; the others wait for a place
//! there, in the order in which they came.

use crate::runtime::clock::{self, Mono};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Askers that stand in each queue.
const QUEUE: usize = 64;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A link nobody waits for yet.
    Normal,
    /// A device has messages waiting.
    Urgent,
}

type Ask = oneshot::Sender<()>;

/// The place to ask for a grant.
#[derive(Clone)]
pub struct Pacer {
    urgent: mpsc::Sender<Ask>,
    normal: mpsc::Sender<Ask>,
}

/// The bucket behind it; run it in a task.
pub struct Bucket {
    urgent: mpsc::Receiver<Ask>,
    normal: mpsc::Receiver<Ask>,
    per_s: f64,
}

/// A pacer of `per_s` grants a second.
pub fn pacer(per_s: u32) -> (Pacer, Bucket) {
    let (urgent, urgent_asks) = mpsc::channel(QUEUE);
    let (normal, normal_asks) = mpsc::channel(QUEUE);
    let bucket = Bucket {
        urgent: urgent_asks,
        normal: normal_asks,
        per_s: f64::from(per_s.max(1)),
    };
    (Pacer { urgent, normal }, bucket)
}

impl Pacer {
    /// Returns when it is this asker's turn. Dropping the future gives the turn up.
    pub async fn granted(self, urgency: Urgency) {
        let (ask, answer) = oneshot::channel();
        let queue = match urgency {
            Urgency::Urgent => &self.urgent,
            Urgency::Normal => &self.normal,
        };
        let granted = queue.send(ask).await.is_ok() && answer.await.is_ok();
        if !granted {
            // The bucket is gone: the hub shuts down, and nobody's turn comes any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Bucket {
    /// Grants until all pacers are gone.
    pub async fn run(mut self) {
        let mut tokens = Tokens::new(self.per_s, clock::mono());
        loop {
            if let Some(wait) = tokens.short(clock::mono()) {
                tokio::time::sleep(wait).await;
                continue;
            }
            let ask = tokio::select! {
                biased;
                Some(ask) = self.urgent.recv() => ask,
                Some(ask) = self.normal.recv() => ask,
                else => return,
            };
            if ask.send(()).is_ok() {
                tokens.take(clock::mono());
            }
        }
    }
}

/// Below this rate a timer that is 2 ms late loses less than the one grant a second that a second
/// place costs.
const TIMERS_COST_LESS: f64 = 22.0;

/// The arithmetic: what was saved up and what flows in together never exceed the rate in any
/// second, so the inflow is as much below the rate as may be saved up.
struct Tokens {
    inflow_per_s: f64,
    saved_max: f64,
    saved: f64,
    filled: Mono,
}

impl Tokens {
    fn new(per_s: f64, now: Mono) -> Self {
        // What flows in while a timer is late must find room, or the rate is never reached; at a
        // small rate a place to save costs more than timers do.
        let least = if per_s < TIMERS_COST_LESS { 1.0 } else { 2.0 };
        let saved_max = (per_s / 50.0).floor().max(least);
        Self {
            inflow_per_s: per_s - (saved_max - 1.0),
            saved_max,
            saved: saved_max,
            filled: now,
        }
    }

    fn fill(&mut self, now: Mono) {
        let inflow = now.since(self.filled).as_secs_f64() * self.inflow_per_s;
        self.saved = (self.saved + inflow).min(self.saved_max);
        self.filled = now;
    }

    /// How long until there is a token; `None`: there is one.
    fn short(&mut self, now: Mono) -> Option<Duration> {
        self.fill(now);
        let missing = (1.0 - self.saved) / self.inflow_per_s;
        // Rounded up: a wait of nothing would not be one.
        (missing > 0.0).then(|| Duration::from_secs_f64(missing) + Duration::from_micros(1))
    }

    /// Takes one that there is. What flowed in while nobody asked is not to flow in again.
    fn take(&mut self, now: Mono) {
        self.fill(now);
        self.saved -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Tokens, Urgency, pacer};
    use crate::runtime::clock::{self, Mono};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn grants_keep_the_rate() {
        let (pacer, bucket) = pacer(100);
        tokio::spawn(bucket.run());
        let start = clock::mono();
        for _ in 0..30 {
            pacer.clone().granted(Urgency::Normal).await;
        }
        let took = clock::mono().since(start);
        assert!(took >= Duration::from_millis(280), "{took:?}"); // 2 at once, 28 at 99/s
    }

    #[test]
    fn no_second_has_more_grants_than_the_rate_and_most_have_nearly_as_many() {
        for rate in [1u32, 7, 21, 22, 49, 90, 200, 10_000] {
            let mut now = Mono::default();
            let mut tokens = Tokens::new(f64::from(rate), now);
            let mut granted = Vec::new();
            // Timers that are late by up to 3 ms, askers that come in bursts, and a long rest.
            for n in 0..rate * 5 + 10 {
                while let Some(wait) = tokens.short(now) {
                    now = now + wait + Duration::from_micros(u64::from(n * 7919 % 3000));
                }
                if n == rate * 2 {
                    now = now + Duration::from_secs(100);
                    tokens.short(now);
                }
                tokens.take(now);
                granted.push(now);
            }
            let mut first = 0;
            for (last, at) in granted.iter().enumerate() {
                while at.since(granted[first]) >= Duration::from_secs(1) {
                    first += 1;
                }
                let count = last - first + 1;
                assert!(
                    count <= rate as usize,
                    "{count} grants in a second at {rate}/s"
                );
            }
            let took = now.since(Mono::default()).as_secs_f64() - 100.0;
            let least = f64::from(rate * 5 + 10) / f64::from(rate);
            assert!(took < least * 1.05 + 0.1, "{took} s at {rate}/s");
        }
    }

    #[test]
    fn a_rest_saves_up_no_more_than_may_be_saved() {
        for rate in [5_u32, 90] {
            let mut tokens = Tokens::new(f64::from(rate), Mono::default());
            assert_eq!(tokens.short(Mono::default()), None);
            // Nobody asks for a minute.
            let now = Mono::default() + Duration::from_secs(60);
            let mut at_once = 0;
            while at_once == 0 || tokens.short(now).is_none() {
                tokens.take(now);
                at_once += 1;
            }
            assert_eq!(f64::from(at_once), tokens.saved_max, "{rate}/s");
        }
    }

    #[tokio::test]
    async fn devices_that_wait_to_send_go_first() {
        let (pacer, bucket) = pacer(100);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for i in 0..40 {
            let urgency = if i < 20 {
                Urgency::Normal
            } else {
                Urgency::Urgent
            };
            let (pacer, order) = (pacer.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                pacer.granted(urgency).await;
                order.lock().unwrap().push(urgency);
            });
        }
        for _ in 0..50 {
            tokio::task::yield_now().await; // every ask is queued before the bucket runs
        }
        tokio::spawn(bucket.run());
        while tasks.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        assert!(
            order[..20].iter().all(|u| *u == Urgency::Urgent),
            "{order:?}"
        );
    }
}
