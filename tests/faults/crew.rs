//! A hundred devices that stay through many faults: each keeps its connection, sends on order with
//! up to [`WINDOW`] messages in flight, and remembers what it sent and what was acknowledged.

use crate::support::device::{Device, Transport, Who};
use crate::support::fleet::Seen;
use crate::support::fleet_key;
use iothub_gateway::runtime::clock::{self, Mono};
use mqttbytes::QoS;
use mqttbytes::v4::Packet;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Messages of one device on their way at once.
pub const WINDOW: usize = 4;
/// Devices of which one listens for commands.
const LISTENERS: usize = 4;
/// A device connects again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// What the devices are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Order {
    /// Time between a device's messages; `None`: none.
    pace: Option<Duration>,
    /// Messages each has been told to send besides, since the beginning.
    singles: u64,
    over: bool,
}

/// One device's account.
#[derive(Default)]
struct Account {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    connected: AtomicU64,
    lost: AtomicU64,
    disorder: AtomicU64,
    latencies: Mutex<Vec<(Mono, Duration)>>,
}

impl Account {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

/// The devices.
pub struct Crew {
    orders: watch::Sender<Order>,
    accounts: Vec<Arc<Account>>,
    tasks: JoinSet<()>,
}

impl Crew {
    /// Connects `load-0` … and waits until all are there.
    pub async fn connect(address: SocketAddr, count: usize) -> Self {
        let orders = watch::Sender::new(Order::default());
        let accounts: Vec<Arc<Account>> = (0..count).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for (index, account) in accounts.iter().enumerate() {
            let (account, orders) = (Arc::clone(account), orders.subscribe());
            tasks.spawn(async move { live(address, index, &account, orders).await });
        }
        let crew = Self {
            orders,
            accounts,
            tasks,
        };
        let patience = Duration::from_secs(60) + Duration::from_millis(20 * count as u64);
        crew.reach("all devices connected", patience, |a| {
            Account::get(&a.connected) > 0
        })
        .await
        .expect("the devices connect");
        crew
    }

    /// From now on every device sends at this pace.
    pub fn pace(&self, pace: Option<Duration>) {
        self.orders.send_modify(|order| order.pace = pace);
    }

    /// Every device sends one message more.
    pub fn one_each(&self) {
        self.orders.send_modify(|order| order.singles += 1);
    }

    fn sum(&self, of: impl Fn(&Account) -> u64) -> u64 {
        self.accounts.iter().map(|account| of(account)).sum()
    }

    /// Messages acknowledged since the beginning.
    pub fn acknowledged(&self) -> u64 {
        self.sum(|a| Account::get(&a.acknowledged))
    }

    /// Messages sent and not acknowledged.
    pub fn in_flight(&self) -> u64 {
        // Acknowledgements first: a message may be acknowledged between the two readings.
        self.sum(|a| {
            let acknowledged = Account::get(&a.acknowledged);
            Account::get(&a.sent).saturating_sub(acknowledged)
        })
    }

    /// Connections devices lost since the beginning.
    pub fn lost(&self) -> u64 {
        self.sum(|a| Account::get(&a.lost))
    }

    /// PUBACKs that came out of order since the beginning.
    pub fn disorder(&self) -> u64 {
        self.sum(|a| Account::get(&a.disorder))
    }

    /// Takes the latencies since the last call, by the time of the PUBACK.
    pub fn latencies(&self) -> Vec<(Mono, Duration)> {
        let taken = self.accounts.iter().map(|account| {
            let mut latencies = account.latencies.lock().expect("no panic");
            std::mem::take(&mut *latencies)
        });
        taken.flatten().collect()
    }

    /// What every device saw, for the judge.
    pub fn seen(&self) -> HashMap<usize, Seen> {
        let seen = |account: &Arc<Account>| Seen {
            acknowledged: Account::get(&account.acknowledged),
            sent: Account::get(&account.sent),
            reconnects: Account::get(&account.lost),
        };
        self.accounts.iter().map(seen).enumerate().collect()
    }

    async fn reach(
        &self,
        what: &str,
        patience: Duration,
        done: impl Fn(&Account) -> bool,
    ) -> Result<Duration, String> {
        let began = clock::mono();
        let waiting = async {
            while !self.accounts.iter().all(|account| done(account)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(patience, waiting).await.is_ok() {
            return Ok(clock::mono().since(began));
        }
        let late: Vec<usize> = (0..self.accounts.len())
            .filter(|index| !done(&self.accounts[*index]))
            .collect();
        let some = &late[..late.len().min(5)];
        Err(format!(
            "{what}: not {} devices in {patience:?}, e.g. {some:?}",
            late.len()
        ))
    }

    /// Every device sends a message and has it acknowledged; the time the last one took.
    pub async fn probe(&self, patience: Duration) -> Result<Duration, String> {
        let goals: Vec<u64> = self
            .accounts
            .iter()
            .map(|a| Account::get(&a.sent) + 1)
            .collect();
        self.one_each();
        let began = clock::mono();
        for (account, goal) in self.accounts.iter().zip(&goals) {
            let left = patience.saturating_sub(clock::mono().since(began));
            let waiting = async {
                while Account::get(&account.acknowledged) < *goal {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            if timeout(left, waiting).await.is_err() {
                let done =
                    |(a, goal): &(&Arc<Account>, &u64)| Account::get(&a.acknowledged) < **goal;
                let late = self.accounts.iter().zip(&goals).filter(done).count();
                return Err(format!("{late} devices are not usable after {patience:?}"));
            }
        }
        Ok(clock::mono().since(began))
    }

    /// Sends nothing more, and waits until nothing is in flight.
    pub async fn rest(&self, patience: Duration) -> Result<Duration, String> {
        self.pace(None);
        // A device may be about to send the last one.
        sleep(Duration::from_millis(20)).await;
        let idle = |a: &Account| Account::get(&a.acknowledged) == Account::get(&a.sent);
        self.reach("nothing in flight", patience, idle).await
    }

    /// Ends the devices.
    pub async fn leave(mut self) {
        self.orders.send_modify(|order| order.over = true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("device task");
        }
    }
}

async fn live(
    address: SocketAddr,
    index: usize,
    account: &Account,
    mut orders: watch::Receiver<Order>,
) {
    let id = format!("load-{index}");
    let transport = Transport::Psk {
        identity: id.clone(),
        key: fleet_key(index),
        tls13: true,
    };
    let mut member = Member {
        topic: format!("devices/{id}/messages/events/"),
        index,
        account,
        flying: VecDeque::new(),
        singles: 0,
    };
    while !orders.borrow().over {
        let connected = Device::try_connect(address, &transport, &Who::id(&id)).await;
        let Ok(Ok(device)) = connected else {
            sleep(PAUSE).await;
            continue;
        };
        if member.serve(device, &mut orders).await.is_err() {
            account.lost.fetch_add(1, Ordering::SeqCst);
            sleep(PAUSE).await;
        }
    }
}

struct Member<'a> {
    topic: String,
    index: usize,
    account: &'a Account,
    /// Packet id, number, and when it was sent.
    flying: VecDeque<(u16, u64, Mono)>,
    singles: u64,
}

impl Member<'_> {
    async fn send(&mut self, device: &mut Device, number: u64) -> io::Result<()> {
        let body = format!("load-{} {number}", self.index);
        // Counted before it can be acknowledged.
        self.account.sent.fetch_max(number, Ordering::SeqCst);
        let id = device.send(&self.topic, body.as_bytes()).await?;
        self.flying.push_back((id, number, clock::mono()));
        Ok(())
    }

    async fn send_next(&mut self, device: &mut Device) -> io::Result<()> {
        let number = Account::get(&self.account.sent) + 1;
        self.send(device, number).await
    }

    /// One connection. What was not acknowledged on the last one is sent again first.
    async fn serve(
        &mut self,
        mut device: Device,
        orders: &mut watch::Receiver<Order>,
    ) -> io::Result<()> {
        device.patience = Duration::from_secs(86_400);
        if self.index.is_multiple_of(LISTENERS) {
            let filter = format!("devices/load-{}/messages/devicebound/#", self.index);
            device.subscribe(&filter, QoS::AtLeastOnce).await?;
        }
        self.account.connected.fetch_add(1, Ordering::SeqCst);
        self.flying.clear();
        let undecided = Account::get(&self.account.acknowledged) + 1;
        for number in undecided..=Account::get(&self.account.sent) {
            self.send(&mut device, number).await?;
        }
        let mut ping = interval(Duration::from_secs(20));
        let mut tick = None;
        let mut pace = None;
        loop {
            let order = *orders.borrow_and_update();
            if order.over {
                return device.goodbye().await;
            }
            if order.pace != pace {
                pace = order.pace;
                tick = pace.map(interval);
                if let Some(tick) = &mut tick {
                    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
            }
            let room = self.flying.len() < WINDOW;
            tokio::select! {
                biased;
                packet = device.receive() => self.take(packet?),
                () = std::future::ready(()), if room && self.singles < order.singles => {
                    self.singles += 1;
                    self.send_next(&mut device).await?;
                }
                changed = orders.changed() => changed.map_err(io::Error::other)?,
                _ = ping.tick() => device.stream.write_all(&[0xC0, 0]).await?,
                _ = async { tick.as_mut().expect("paced").tick().await },
                    if room && tick.is_some() => self.send_next(&mut device).await?,
            }
        }
    }

    fn take(&mut self, packet: Packet) {
        let Packet::PubAck(ack) = packet else { return };
        match self.flying.pop_front() {
            Some((id, number, sent)) if id == ack.pkid => {
                self.account
                    .acknowledged
                    .fetch_max(number, Ordering::SeqCst);
                let now = clock::mono();
                let mut latencies = self.account.latencies.lock().expect("no panic");
                if latencies.len() < 100_000 {
                    latencies.push((now, now.since(sent)));
                }
            }
            _ => {
                self.account.disorder.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
