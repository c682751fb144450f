//! One run: hub, gateway and devices on one thread, in a time that passes when nobody is busy.

use crate::chance::Chance;
use crate::device::{Device, Handle, name};
use crate::gateway::Gateway;
use crate::hub::{Bounds, Order, Orders, Peer};
use crate::ledger::Ledger;
use crate::plan::{FAULTS_END, Fault, Plan};
use crate::wire::Wires;
use iothub_gateway::hub::environment::{Dialled, Environment, Transport};
use iothub_gateway::runtime::clock::{self, Mono, Unix};
use iothub_gateway::runtime::random;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// All has to be at rest this long after the last fault. A command on a connection that stands
/// still comes again when the hub gives it up, after its idle time-out of 240 s.
const REST: Duration = Duration::from_secs(300);
/// When a run begins, on the wall clock.
const BEGIN: u64 = 1_790_000_000;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The run's time; what is outside of one has none.
fn virtual_time() -> Mono {
    let begun = BEGUN.get().unwrap_or_else(Instant::now);
    // Not at zero: some readers take zero for never.
    Mono::from_start(Duration::from_secs(1_000) + (Instant::now() - begun))
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub violations: Vec<String>,
    pub messages: usize,
    pub duplicates: u64,
    pub commands: usize,
    /// Connections of devices, and how many of them took an older one over.
    pub sessions: u64,
    pub takeovers: u64,
    pub connections: u64,
    pub tokens: u64,
    pub attaches: usize,
    /// Virtual seconds.
    pub seconds: u64,
    pub story: Vec<String>,
}

impl Figures {
    /// Adds what a run came to, its story apart.
    pub fn add(&mut self, run: &Self) {
        self.messages += run.messages;
        self.duplicates += run.duplicates;
        self.commands += run.commands;
        self.sessions += run.sessions;
        self.takeovers += run.takeovers;
        self.seconds += run.seconds;
    }
}

/// Runs a plan to its end.
pub fn run(plan: &Plan, tell: bool) -> Figures {
    clock::replace(virtual_time);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let figures = runtime.block_on(async {
        BEGUN.set(Some(Instant::now()));
        random::seed(plan.seed);
        World::new(plan, tell).live(plan).await
    });
    BEGUN.set(None);
    figures
}

/// Whether nothing was left to do before the stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Found,
    Never,
    NotAsked,
}

struct World {
    ledger: Arc<Mutex<Ledger>>,
    wires: Arc<Wires>,
    orders: Orders,
    skew: Arc<AtomicI64>,
    gateway: Arc<Gateway>,
    devices: Vec<Arc<Handle>>,
    next_command: u64,
    begun: Instant,
}

impl World {
    fn new(plan: &Plan, tell: bool) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger {
            story: tell.then(Vec::new),
            ..Ledger::default()
        }));
        let (wires, orders) = (Arc::new(Wires::default()), Orders::default());
        let skew = Arc::new(AtomicI64::new(0));
        let wall = |skew: Arc<AtomicI64>| {
            let begun = virtual_time();
            move || {
                let passed = virtual_time().since(begun).as_secs();
                (BEGIN + passed).saturating_add_signed(skew.load(Ordering::Relaxed))
            }
        };
        let dial = dial(
            plan,
            &ledger,
            &wires,
            &orders,
            Arc::new(wall(Arc::default())),
        );
        let gateway_wall = wall(Arc::clone(&skew));
        let environment = Environment {
            dial: Some(dial),
            wall: Arc::new(move || Unix::from_secs(gateway_wall())),
            control_thread: false,
        };
        let gateway = Arc::new(Gateway::start(plan, environment));
        let begun = Instant::now();
        let mut world = Self {
            ledger,
            wires,
            orders,
            skew,
            gateway,
            devices: Vec::new(),
            next_command: 0,
            begun,
        };
        for index in 0..plan.devices {
            world.connect(plan, index);
        }
        world
    }

    fn connect(&mut self, plan: &Plan, index: usize) {
        let handle = Arc::new(Handle::default());
        let mut device = Device {
            index,
            messages: plan.messages,
            gateway: Arc::clone(&self.gateway),
            ledger: Arc::clone(&self.ledger),
            handle: Arc::clone(&handle),
            chance: Chance::new(plan.seed ^ (index as u64 + 1) << 32),
            rough: plan.rough,
            takeovers: plan.takeovers,
            calm_at: self.begun + Duration::from_millis(FAULTS_END),
            few_handles: plan.handle_max < 255,
            may_be_unknown: plan.has(|fault| matches!(fault, Fault::Forget(of, _) if *of == index)),
            qos: 0,
            given_up: self.begun,
        };
        device.qos = u8::from(device.chance.happens(750));
        tokio::spawn(device.run());
        self.devices.push(handle);
    }

    async fn live(mut self, plan: &Plan) -> Figures {
        let end = plan.stop.unwrap_or(FAULTS_END);
        for (at, fault) in plan.faults.iter().filter(|(at, _)| *at < end) {
            sleep_until(self.begun + Duration::from_millis(*at)).await;
            self.ledger
                .lock()
                .expect("whole")
                .note(|| format!("{at} ms: {fault:?}"));
            self.commit(*fault);
        }
        sleep_until(self.begun + Duration::from_millis(end)).await;
        let rested = match plan.stop {
            Some(_) => Rest::NotAsked,
            None => {
                self.skew.store(0, Ordering::Relaxed);
                let rested = tokio::time::timeout(REST, self.rest()).await;
                rested.map_or(Rest::Never, |()| Rest::Found)
            }
        };
        let mut figures = Figures {
            seconds: (Instant::now() - self.begun).as_secs(),
            ..Figures::default()
        };
        for handle in &self.devices {
            handle.record.lock().expect("whole").stopping = true;
        }
        self.gateway.drain(&self.ledger).await;
        let closed = self.gateway.hub.shutdown(Duration::from_secs(30)).await;
        sleep(Duration::from_secs(1)).await;
        self.judge(plan, rested, closed, &mut figures);
        figures
    }

    /// Waits until nothing is left to do.
    async fn rest(&self) {
        loop {
            let done = |handle: &Arc<Handle>| handle.record.lock().expect("whole").done;
            let devices = self.devices.iter().all(done);
            let commands = {
                let mut ledger = self.ledger.lock().expect("whole");
                let devices = ledger.devices.values_mut();
                let completed: usize = devices.map(|device| device.completed.len()).sum();
                completed as u64 == self.next_command
            };
            let hub = self.gateway.hub.status();
            let well = hub.connections_ready == hub.connections_wanted && hub.problem.is_empty();
            if devices && commands && well {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn judge(&self, plan: &Plan, rested: Rest, closed: bool, figures: &mut Figures) {
        let mut ledger = self.ledger.lock().expect("whole");
        if rested == Rest::Never {
            let problem = self.gateway.hub.status().problem;
            ledger.wrong(format!(
                "no rest within {REST:?} after the faults (I11): {problem}"
            ));
        }
        let rested = rested == Rest::Found;
        if rested && !closed {
            ledger.wrong("the shutdown did not end in time");
        }
        // What stands still for ever never hears of it.
        let frozen = plan.has(|fault| *fault == Fault::Freeze);
        let left = ledger.connections - ledger.ended;
        if rested && left > 0 && !frozen {
            ledger.wrong(format!("the shutdown left {left} connections behind"));
        }
        if !plan.has(breaks) && ledger.connections > plan.connections as u64 {
            let count = ledger.connections;
            ledger.wrong(format!(
                "{count} connections, though nothing broke one (I8)"
            ));
        }
        // Each connection and each pause between two attempts has room for a few.
        let most = 2 * ledger.connections + 4 * (figures.seconds + 1);
        if ledger.tokens > most {
            let (count, seconds) = (ledger.tokens, figures.seconds);
            ledger.wrong(format!("{count} tokens were put within {seconds} s (I12)"));
        }
        judge_pace(plan, &mut ledger);
        for (index, handle) in self.devices.iter().enumerate() {
            let record = handle.record.lock().expect("whole");
            let hub = ledger.device(index);
            let lost: Vec<_> = record.received.difference(&hub.accepted).collect();
            // At QoS 0 what was on its way when a connection ended is lost.
            let stray = hub.completed.difference(&record.taken);
            let stray: Vec<_> = stray.filter(|_| !record.may_miss).collect();
            let (lost, stray) = (format!("{lost:?}"), format!("{stray:?}"));
            let all = record.received.len() as u64 == plan.messages;
            let duplicates = hub.duplicates;
            figures.messages += record.received.len();
            figures.commands += hub.completed.len();
            figures.duplicates += duplicates;
            figures.sessions += record.sessions;
            figures.takeovers += record.takeovers;
            if lost != "[]" {
                ledger.wrong(format!("{} lacks {lost} (I1)", name(index)));
            }
            if stray != "[]" {
                ledger.wrong(format!("{} never took {stray} (I7)", name(index)));
            }
            if rested && !all {
                ledger.wrong(format!("{} has no receipt for some", name(index)));
            }
            if duplicates > 0 && !plan.has(loses) && !record.broken {
                ledger.wrong(format!(
                    "{} sent {duplicates} twice without a loss",
                    name(index)
                ));
            }
        }
        figures.violations = std::mem::take(&mut ledger.violations);
        figures.story = ledger.story.take().unwrap_or_default();
        figures.connections = ledger.connections;
        figures.tokens = ledger.tokens;
        figures.attaches = ledger.attaches.len();
    }

    fn commit(&mut self, fault: Fault) {
        match fault {
            Fault::Cut => self.wires.cut(),
            Fault::Stall(time) => {
                self.wires.stall(true);
                let wires = Arc::clone(&self.wires);
                self.later(time, move || wires.stall(false));
            }
            Fault::Freeze => self.wires.freeze(),
            Fault::Garbage => self.wires.garbage(),
            Fault::Close => self.order(Order::Close),
            Fault::EndSessions => self.order(Order::EndSessions),
            Fault::Detach(device, why) => self.order(Order::Detach(device, why)),
            Fault::Refuse(time) => self.mood(time, |mood| &mut mood.refuse, None),
            Fault::MuteAttaches(time) => self.mood(time, |mood| &mut mood.mute_attaches, None),
            Fault::MuteTokens(time) => self.mood(time, |mood| &mut mood.mute_tokens, None),
            Fault::RefuseTokens(time) => self.mood(time, |mood| &mut mood.refuse_tokens, None),
            Fault::Forget(device, time) => self.forget(device, time),
            Fault::Hold(time) => self.mood(time, |mood| &mut mood.hold, Some(Order::Decide)),
            Fault::Release(time) => self.mood(time, |mood| &mut mood.release, None),
            Fault::Throttle(time) => self.mood(time, |mood| &mut mood.throttle, None),
            Fault::Starve(time) => self.mood(time, |mood| &mut mood.starve, Some(Order::Feed)),
            Fault::Jump(by) => drop(self.skew.fetch_add(by, Ordering::Relaxed)),
            Fault::Leave(device) => self.devices[device].leave.notify_one(),
            Fault::Poison(device) => {
                self.devices[device].record.lock().expect("whole").poison = true
            }
            Fault::Commands(device, count) => {
                let mut ledger = self.ledger.lock().expect("whole");
                for _ in 0..count {
                    ledger.device(device).queue.push_back(self.next_command);
                    self.next_command += 1;
                }
                drop(ledger);
                self.order(Order::Commands(device));
            }
        }
    }

    /// The hub does not know a device for a while; of its links it says so when they are attached.
    fn forget(&self, device: usize, time: u64) {
        self.ledger.lock().expect("whole").device(device).forgotten += 1;
        self.devices[device].leave.notify_one();
        let ledger = Arc::clone(&self.ledger);
        self.later(time, move || {
            ledger.lock().expect("whole").device(device).forgotten -= 1;
        });
    }

    fn order(&self, order: Order) {
        self.orders.give(order);
    }

    fn later(&self, time: u64, act: impl FnOnce() + Send + 'static) {
        tokio::spawn(async move {
            sleep(Duration::from_millis(time)).await;
            act();
        });
    }

    /// Puts the hub into a mood for a while; then tells it that it is over.
    fn mood(&self, time: u64, of: fn(&mut crate::ledger::Mood) -> &mut bool, end: Option<Order>) {
        *of(&mut self.ledger.lock().expect("whole").mood) = true;
        let (ledger, orders) = (Arc::clone(&self.ledger), self.orders.clone());
        self.later(time, move || {
            *of(&mut ledger.lock().expect("whole").mood) = false;
            if let Some(order) = end {
                orders.give(order);
            }
        });
    }
}

/// No second has more attaches than the plan's rate.
fn judge_pace(plan: &Plan, ledger: &mut Ledger) {
    let rate = u64::from(plan.attach_rate);
    for pair in ledger.attaches.clone().windows(rate as usize + 1) {
        // The network may bring closer together what left apart.
        if pair[rate as usize] - pair[0] + plan.latency + 20 < 1_000 && !plan.has(delays) {
            ledger.wrong(format!("more than {rate} attaches within a second (I13)"));
            break;
        }
    }
}

/// Faults after which a message may have to be sent twice.
fn loses(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::Commands(..) | Fault::Poison(_) | Fault::Starve(_) | Fault::Throttle(_)
    )
}

/// Faults after which a connection may have to be made anew.
fn breaks(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::Commands(..)
            | Fault::Poison(_)
            | Fault::Starve(_)
            | Fault::Throttle(_)
            | Fault::Leave(_)
            | Fault::Forget(..)
            | Fault::Release(_)
            | Fault::Detach(..)
    )
}

/// Faults that let what was sent one after the other arrive together.
fn delays(fault: &Fault) -> bool {
    matches!(fault, Fault::Stall(_) | Fault::Freeze)
}

type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

fn dial(
    plan: &Plan,
    ledger: &Arc<Mutex<Ledger>>,
    wires: &Arc<Wires>,
    orders: &Orders,
    wall: Wall,
) -> Arc<dyn Fn() -> Dialled + Send + Sync> {
    let late = |fault: &Fault| {
        matches!(
            fault,
            Fault::MuteTokens(_)
                | Fault::RefuseTokens(_)
                | Fault::Jump(_)
                | Fault::Stall(_)
                | Fault::Freeze
        )
    };
    let bounds = Bounds {
        channel_max: plan.channel_max,
        handle_max: plan.handle_max,
        frame_size: plan.frame_size,
        credit: plan.credit,
        tokens_in_time: !plan.has(late),
    };
    let latency = Duration::from_millis(plan.latency);
    let chance = Mutex::new(Chance::new(plan.seed ^ 0xabcd));
    let (ledger, wires, orders) = (Arc::clone(ledger), Arc::clone(wires), orders.clone());
    Arc::new(move || {
        let seed = chance.lock().expect("whole").next();
        let (ledger, wires, orders) = (Arc::clone(&ledger), Arc::clone(&wires), orders.clone());
        let (bounds, wall) = (bounds.clone(), Arc::clone(&wall));
        Box::pin(async move {
            sleep(latency * 2).await;
            if ledger.lock().expect("whole").mood.refuse {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            let (gateway, hub) = wires.open(latency);
            let taken = orders.join();
            let peer = Peer::new(bounds, Chance::new(seed), ledger, wall, orders);
            tokio::spawn(peer.serve(hub, taken));
            Ok(Box::new(gateway) as Box<dyn Transport>)
        })
    })
}
