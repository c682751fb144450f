//! Many devices that publish and remember what was acknowledged, held against the hub's ledger.

use super::device::{Device, Transport, Who};
use super::fleet_key;
use iothub_gateway::emulator::{EmulatorHandle, Ledger};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// A message the hub accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub device: String,
    pub body: Vec<u8>,
}

/// Everything in the hub's ledger, oldest first.
pub fn ledger(emulator: &EmulatorHandle) -> Vec<Accepted> {
    messages(emulator.ledger())
}

/// Everything in a ledger, which outlives its hub.
pub fn messages(ledger: &Ledger) -> Vec<Accepted> {
    ledger
        .messages(None, 0, usize::MAX)
        .into_iter()
        .map(|entry| Accepted {
            device: entry.device().to_owned(),
            body: entry.body().map(|body| body.to_vec()).unwrap_or_default(),
        })
        .collect()
}

/// What one device saw.
#[derive(Default, Debug)]
pub struct Seen {
    /// Messages handed to the gateway.
    pub sent: u64,
    /// The newest number acknowledged; numbers are acknowledged in order from 1.
    pub acknowledged: u64,
    /// Connections after the first.
    pub reconnects: u64,
}

/// A fleet at work.
pub struct Fleet {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    tasks: JoinSet<(usize, Seen)>,
}

impl Fleet {
    /// `count` PSK devices, each publishing one message after the other at QoS 1.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let (stop, progress, refused) = (stop.clone(), progress.clone(), refused.clone());
            tasks.spawn(async move {
                let seen = work(address, index, &stop, &progress, &refused).await;
                (index, seen)
            });
        }
        Self {
            stop,
            progress,
            refused,
            tasks,
        }
    }

    /// Messages acknowledged so far, all devices together.
    pub fn acknowledged(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Attempts to connect that did not end in a CONNACK 0, all devices together.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until `messages` more are acknowledged.
    pub async fn flows(&self, messages: u64) {
        let goal = self.acknowledged() + messages;
        let flowing = tokio::time::timeout(Duration::from_secs(60), async {
            while self.acknowledged() < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        flowing.await.expect("messages flow");
    }

    /// Lets every device finish the message in its hand, and gives what they saw.
    pub async fn finish(mut self) -> HashMap<usize, Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = HashMap::new();
        while let Some(joined) = self.tasks.join_next().await {
            let (index, device) = joined.expect("device task");
            seen.insert(index, device);
        }
        seen
    }
}

/// One device: connects (again, if it must) and sends numbered messages until told to stop. A
/// message that was not acknowledged when the connection broke is sent again.
async fn work(
    address: SocketAddr,
    index: usize,
    stop: &AtomicBool,
    progress: &AtomicU64,
    refused: &AtomicU64,
) -> Seen {
    let id = format!("load-{index}");
    let topic = format!("devices/{id}/messages/events/");
    let transport = Transport::Psk {
        identity: id.clone(),
        key: fleet_key(index),
        tls13: true,
    };
    let mut seen = Seen::default();
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        let connected = Device::try_connect(address, &transport, &Who::id(&id)).await;
        let Ok(Ok(mut device)) = connected else {
            refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        device.patience = Duration::from_secs(60);
        seen.reconnects += u64::from(!first);
        first = false;
        while !stop.load(Ordering::Relaxed) {
            let number = seen.acknowledged + 1;
            seen.sent = seen.sent.max(number);
            let body = format!("{id} {number}");
            if device.publish(&topic, body.as_bytes()).await.is_err() {
                break;
            }
            seen.acknowledged = number;
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen
}

/// What the ledger says about what the devices saw: four numbers.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged and not at the hub.
    pub missing: u64,
    /// At the hub more than once.
    pub duplicate: u64,
    /// At the hub after a later message of the same device.
    pub misordered: u64,
    /// Attributed to a device that did not send it, or never sent.
    pub foreign: u64,
}

/// Holds the ledger against the devices. A message that came twice is misordered only if its
/// first arrival was.
pub fn judge(accepted: &[Accepted], seen: &HashMap<usize, Seen>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut newest: HashMap<&str, u64> = HashMap::new();
    let mut counts: HashMap<(&str, u64), u64> = HashMap::new();
    for message in accepted {
        let text = String::from_utf8_lossy(&message.body);
        let parsed = text
            .split_once(' ')
            .map(|(id, n)| (id.to_owned(), n.parse::<u64>()));
        let Some((id, Ok(number))) = parsed else {
            verdict.foreign += 1;
            continue;
        };
        let index = id
            .strip_prefix("load-")
            .and_then(|i| i.parse::<usize>().ok());
        let known = index
            .and_then(|i| seen.get(&i))
            .is_some_and(|s| number <= s.sent);
        if id != message.device || !known {
            verdict.foreign += 1;
            continue;
        }
        let count = counts.entry((&message.device, number)).or_default();
        *count += 1;
        if *count > 1 {
            verdict.duplicate += 1;
            continue;
        }
        let last = newest.entry(&message.device).or_default();
        if number < *last {
            verdict.misordered += 1;
        }
        *last = number.max(*last);
    }
    for (index, device) in seen {
        let id = format!("load-{index}");
        for number in 1..=device.acknowledged {
            verdict.missing += u64::from(!counts.contains_key(&(id.as_str(), number)));
        }
    }
    verdict
}

#[test]
fn the_judge_tells_the_four_apart() {
    let message = |device: &str, body: &str| Accepted {
        device: device.to_owned(),
        body: body.as_bytes().to_vec(),
    };
    let seen = HashMap::from([
        (
            0,
            Seen {
                sent: 4,
                acknowledged: 4,
                reconnects: 0,
            },
        ),
        (1, Seen::default()),
    ]);
    let accepted = [
        message("load-0", "load-0 1"),
        message("load-0", "load-0 3"),
        message("load-0", "load-0 2"),
        message("load-0", "load-0 2"),
        message("load-1", "load-0 1"),
        message("load-1", "load-1 7"),
    ];
    let verdict = judge(&accepted, &seen);
    assert_eq!(
        verdict,
        Verdict {
            missing: 1,
            duplicate: 1,
            misordered: 1,
            foreign: 2
        }
    );
}
