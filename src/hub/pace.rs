//! The pace of attaches: one token bucket for the whole hub, senders of waiting devices first.
//!
//! A hub counts new device connections per second (wire sheet §7); after a loss thousands of
//! links want to come back at once. Each session asks for one grant at a time, so the queues are
//! bounded by the number of sessions.

use crate::runtime::clock;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

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

/// A pacer of `per_s` grants a second for at most `askers` sessions.
pub fn pacer(per_s: u32, askers: usize) -> (Pacer, Bucket) {
    let (urgent, urgent_asks) = mpsc::channel(askers.max(1));
    let (normal, normal_asks) = mpsc::channel(askers.max(1));
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
        // What was saved up and what flows in together never exceed the rate in any second.
        let burst = (self.per_s / 50.0).floor().max(1.0);
        let per_s = self.per_s - (burst - 1.0);
        let mut tokens = burst;
        let mut filled = clock::mono();
        loop {
            let now = clock::mono();
            tokens = (tokens + now.since(filled).as_secs_f64() * per_s).min(burst);
            filled = now;
            if tokens < 1.0 {
                let wait = Duration::from_secs_f64((1.0 - tokens) / per_s);
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
                tokens -= 1.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Urgency, pacer};
    use crate::runtime::clock;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn grants_keep_the_rate() {
        let (pacer, bucket) = pacer(100, 8);
        tokio::spawn(bucket.run());
        let start = clock::mono();
        for _ in 0..30 {
            pacer.clone().granted(Urgency::Normal).await;
        }
        let took = clock::mono().since(start);
        assert!(took >= Duration::from_millis(280), "{took:?}"); // 2 at once, 28 at 99/s
    }

    #[tokio::test]
    async fn no_second_has_more_grants_than_the_rate() {
        let (pacer, bucket) = pacer(200, 8);
        tokio::spawn(bucket.run());
        tokio::time::sleep(Duration::from_millis(300)).await; // nothing to save up
        let mut granted = Vec::new();
        for _ in 0..500 {
            pacer.clone().granted(Urgency::Normal).await;
            granted.push(clock::mono());
        }
        for (first, from) in granted.iter().enumerate() {
            let within = |at: &&clock::Mono| at.since(*from) < Duration::from_secs(1);
            let count = granted[first..].iter().take_while(within).count();
            // Seen by the asker, whose first wake-up may come late on a busy machine.
            assert!(count <= 210, "{count} grants in a second");
        }
        let took = granted[499].since(granted[0]);
        assert!(took < Duration::from_secs(4), "{took:?} for 500 at 200/s");
    }

    #[tokio::test]
    async fn devices_that_wait_to_send_go_first() {
        let (pacer, bucket) = pacer(100, 64);
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
