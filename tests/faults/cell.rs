//! One cell of the matrix: a fault, under a load, at a moment; and what must hold afterwards.

use crate::rows::{Row, What};
use crate::stage::{Damage, Peak, Stage};
use crate::support::proxy::Line;
use iothub_gateway::emulator::{Fault, FaultKind, FaultScope};
use std::fmt;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What the devices do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    Idle,
    Steady,
}

/// Where in the gateway's work the fault falls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    /// Then every device sends.
    BeforeSend,
    /// Every device has a message at the hub that the hub has not answered.
    Awaiting,
    /// A token is at the hub, and the hub has not answered.
    Renewing,
}

/// A device's pace under steady load.
const PACE: Duration = Duration::from_millis(400);
/// The gateway's outcome time-out on this stage: a message is sent again at most this often.
const RETRY: Duration = Duration::from_secs(3);

/// What a cell came to.
pub struct Report {
    pub name: String,
    pub load: Load,
    pub moment: Moment,
    in_flight: u64,
    usable: Option<Duration>,
    damage: Damage,
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usable = match self.usable {
            Some(time) => format!("{} ms", time.as_millis()),
            None => "never".to_owned(),
        };
        let (damage, verdict) = (&self.damage, &self.damage.verdict);
        let end = match self.wrong.is_empty() {
            true => "ok".to_owned(),
            false => format!("WRONG: {}", self.wrong.join("; ")),
        };
        write!(
            f,
            "{:<60} {:<7} {:<11} in flight {:>3}  missing {} duplicate {:>3} misordered {} \
             foreign {}  closed {:>3}  reconnects {:>2}  usable {:>8}  {end}",
            self.name,
            format!("{:?}", self.load),
            format!("{:?}", self.moment),
            self.in_flight,
            verdict.missing,
            verdict.duplicate,
            verdict.misordered,
            verdict.foreign,
            damage.disconnects,
            damage.reconnects,
            usable,
        )
    }
}

impl Stage {
    /// Runs a cell and leaves the stage whole.
    pub async fn cell(&mut self, row: &Row, load: Load, moment: Moment) -> Report {
        let mut wrong = Vec::new();
        let mut note = |problem: String| wrong.push(problem);
        let devices = self.crew.seen().len() as u64;
        self.crew.pace((load == Load::Steady).then_some(PACE));
        if load == Load::Steady {
            let goal = self.crew.acknowledged() + devices;
            let flowing = async {
                while self.crew.acknowledged() < goal {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            if timeout(Duration::from_secs(10), flowing).await.is_err() {
                note("the load does not flow before the fault".to_owned());
            }
        }
        if let Err(problem) = self.come(moment).await {
            note(problem);
        }
        let peak = Peak::default();
        peak.see(self.crew.in_flight());
        self.strike(row);
        peak.see(self.crew.in_flight());
        if moment == Moment::BeforeSend {
            self.crew.one_each();
        }
        for problem in self.watch(row, &peak).await {
            note(problem);
        }
        self.end(row);
        // A fault is felt when it reaches the gateway, on a busy machine a while after it began.
        let usable = tokio::select! {
            usable = self.crew.probe(row.usable) => usable,
            () = self.count(&peak) => unreachable!("it counts without end"),
        };
        if usable.is_err() {
            println!("{}", self.upstream().await);
            println!("{:?}", self.bench.emulator.stats());
        }
        let settled = self.crew.rest(Duration::from_secs(20)).await;
        for problem in [usable.clone().err(), settled.err()].into_iter().flatten() {
            note(problem);
        }
        if let Err(problem) = self.whole(Duration::from_secs(10)).await {
            note(problem);
        }
        let damage = self.damage().await;
        let strikes = 1 + row.lasting.as_millis().div_ceil(RETRY.as_millis()) as u64;
        wrong.extend(damage.judge(row, peak.get() * strikes));
        Report {
            name: row.name(),
            load,
            moment,
            in_flight: peak.get(),
            usable: usable.ok(),
            damage,
            wrong,
        }
    }

    fn inject(&self, fault: &Fault) {
        self.bench
            .emulator
            .inject(fault)
            .expect("a fault of the catalogue");
    }

    /// Waits for the moment.
    async fn come(&self, moment: Moment) -> Result<(), String> {
        let stats = || self.bench.emulator.stats();
        match moment {
            Moment::BeforeSend => Ok(()),
            Moment::Awaiting => {
                let hold = Fault::new(FaultKind::DispositionsDelayed);
                self.inject(&hold.lasting(Duration::from_millis(400)));
                let goal = stats().accepted + self.crew.seen().len() as u64;
                self.crew.one_each();
                let there = async {
                    while stats().accepted < goal {
                        sleep(Duration::from_millis(2)).await;
                    }
                };
                // Steady messages are in the way of the last few; most is enough.
                let _ = timeout(Duration::from_millis(350), there).await;
                match self.crew.in_flight() {
                    0 => Err("nothing awaits its disposition".to_owned()),
                    _ => Ok(()),
                }
            }
            Moment::Renewing => {
                self.inject(&Fault::new(FaultKind::CbsDelayed).lasting(Duration::from_secs(12)));
                let before = stats().tokens_put;
                let renewing = async {
                    while stats().tokens_put == before {
                        sleep(Duration::from_millis(2)).await;
                    }
                };
                let came = timeout(Duration::from_secs(12), renewing).await;
                came.map_err(|_| "no renewal came".to_owned())
            }
        }
    }

    fn strike(&self, row: &Row) {
        let scope = match self.bench.emulator.connections().first() {
            Some((number, _)) if row.one => FaultScope::Connection(*number),
            _ => FaultScope::All,
        };
        let fault = |kind: FaultKind| {
            let fault = Fault::new(kind).on(scope.clone()).lasting(row.lasting);
            match row.value {
                Some(value) => fault.with(value),
                None => fault,
            }
        };
        let proxy = || self.bench.proxy.as_ref().expect("a proxied stage");
        match row.what {
            What::Hub(kind) | What::HubThenCut(kind) => self.inject(&fault(kind)),
            What::HubAfterCut(kind) => {
                self.inject(&fault(kind));
                self.inject(&Fault::new(FaultKind::KillTcp));
            }
            What::Line(_, line) => proxy().set(line),
            What::Reset => proxy().reset(),
            What::HalfClose => proxy().half_close(),
        }
    }

    fn end(&self, row: &Row) {
        if let What::HubThenCut(_) = row.what {
            self.inject(&Fault::new(FaultKind::KillTcp));
        }
        self.bench.emulator.clear_faults();
        if let What::Line(..) = row.what {
            let proxy = self.bench.proxy.as_ref().expect("a proxied stage");
            proxy.set(Line::default());
        }
    }

    async fn count(&self, peak: &Peak) {
        loop {
            sleep(Duration::from_millis(5)).await;
            peak.see(self.crew.in_flight());
        }
    }

    /// Lets the fault last, and asks `/ready` meanwhile.
    async fn watch(&self, row: &Row, peak: &Peak) -> Vec<String> {
        let mut problems = Vec::new();
        let watching = async {
            loop {
                if problems.is_empty() && self.ready_lies().await {
                    problems.push("/ready says 200 without connection or token".to_owned());
                }
                sleep(Duration::from_millis(250)).await;
            }
        };
        let lasting = row.lasting.max(Duration::from_millis(100));
        tokio::select! {
            () = sleep(lasting) => {}
            () = watching => {}
            () = self.count(peak) => {}
        }
        problems
    }
}

impl Damage {
    /// What of it is wrong. A message may come twice only if it was on its way.
    fn judge(&self, row: &Row, on_their_way: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                wrong.push(what.to_owned());
            }
        };
        check(self.verdict.missing == 0, "messages are missing");
        check(self.verdict.foreign == 0, "messages are attributed wrongly");
        // A hub that refuses one message and takes the next one has put them out of order itself;
        // that can befall what is in flight when such a fault begins or ends, and nothing else.
        let misordered_max = if row.picks() { on_their_way } else { 0 };
        let in_order = self.verdict.misordered <= misordered_max;
        check(in_order, "messages are misordered");
        check(
            self.verdict.duplicate <= on_their_way,
            "too many duplicates",
        );
        check(self.disorder == 0, "PUBACKs are out of order");
        check(self.panics == 0.0, "something panicked");
        if !row.closes {
            check(
                self.disconnects == 0.0 && self.lost == 0,
                "devices were closed",
            );
        }
        wrong
    }
}
