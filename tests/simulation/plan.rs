//! What happens in one run: a function of the seed, printable, and made smaller when it fails.

use crate::chance::Chance;

/// Faults stop here; what is left has to come to rest afterwards. Milliseconds.
pub const FAULTS_END: u64 = 60_000;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both directions of every transport break.
    Cut,
    /// Nothing passes for so many milliseconds, in either direction.
    Stall(u64),
    /// Nothing passes any more on the transports there are.
    Freeze,
    /// Bytes that are no frame reach the gateway on every connection.
    Garbage,
    /// The hub closes every connection with an error.
    Close,
    /// The hub ends every session that carries devices.
    EndSessions,
    /// The hub detaches both links of this device, with this condition's number.
    Detach(usize, usize),
    /// New transports are refused for so long.
    Refuse(u64),
    /// Attaches are not answered for so long.
    MuteAttaches(u64),
    /// Tokens are not answered for so long.
    MuteTokens(u64),
    /// Tokens are refused for so long.
    RefuseTokens(u64),
    /// This device is not known for so long.
    Forget(usize, u64),
    /// Messages get no outcome for so long.
    Hold(u64),
    /// One message in three is released, for so long.
    Release(u64),
    /// Messages are rejected for throttling, for so long.
    Throttle(u64),
    /// No credit for telemetry links attached meanwhile, for so long; then all get it.
    Starve(u64),
    /// The wall clock of the gateway jumps by so many seconds.
    Jump(i64),
    /// This device drops its connection and comes back.
    Leave(usize),
    /// The next message of this device is one the hub never takes.
    Poison(usize),
    /// A few commands for this device.
    Commands(usize, u64),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub devices: usize,
    pub messages: u64,
    pub connections: usize,
    pub sessions: usize,
    /// One way, milliseconds.
    pub latency: u64,
    /// Seconds.
    pub token_ttl: u64,
    /// The hub's bounds.
    pub channel_max: u16,
    pub handle_max: u32,
    pub frame_size: u32,
    pub credit: u32,
    /// Links attached a second, at most.
    pub attach_rate: u32,
    /// Of a thousand connections of devices, how many have a bad line.
    pub rough: u64,
    /// Of a thousand, how many are taken over by their own device.
    pub takeovers: u64,
    /// Messages the gateway takes from a device before the hub has decided about them.
    pub window: usize,
    /// When the gateway is stopped in the midst of it; else at rest, once the faults are over.
    pub stop: Option<u64>,
    /// When, and what; in order of time.
    pub faults: Vec<(u64, Fault)>,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let devices = chance.range(1, 7) as usize;
        let count = chance.range(0, 12);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = chance.range(0, FAULTS_END - 1_000);
                (at, fault(&mut chance, devices, FAULTS_END - at))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            devices,
            messages: chance.range(5, 50),
            connections: chance.pick(&[1, 2]),
            sessions: chance.pick(&[1, 2, 4]),
            latency: chance.pick(&[0, 1, 5, 30]),
            token_ttl: chance.pick(&[20, 60, 3_600]),
            channel_max: chance.pick(&[0, 1, 7, 255, 255]),
            handle_max: chance.pick(&[17, 255, 255]),
            frame_size: chance.pick(&[512, 65_536, 65_536]),
            credit: chance.pick(&[1, 10, 100]),
            attach_rate: chance.pick(&[5, 90]),
            rough: chance.pick(&[0, 200, 500]),
            takeovers: chance.pick(&[0, 0, 300, 900]),
            window: chance.pick(&[2, 32]),
            stop: chance
                .happens(150)
                .then(|| chance.range(1_000, FAULTS_END - 1_000)),
            faults,
        }
    }

    /// Whether it holds a fault of this kind.
    pub fn has(&self, kind: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| kind(fault))
    }
}

fn fault(chance: &mut Chance, devices: usize, left: u64) -> Fault {
    let device = chance.range(0, devices as u64 - 1) as usize;
    let time = chance.range(100, 20_000).min(left);
    match chance.range(0, 22) {
        0 => Fault::Cut,
        1 => Fault::Stall(time),
        2 => Fault::Garbage,
        3 => Fault::Close,
        4 => Fault::EndSessions,
        5 => Fault::Detach(device, chance.range(0, 3) as usize),
        6 => Fault::Refuse(time),
        7 => Fault::MuteAttaches(time),
        8 => Fault::MuteTokens(time),
        9 => Fault::Hold(time),
        10 => Fault::Release(time),
        11 => Fault::Throttle(time / 4),
        12 => Fault::Starve(time),
        13 => Fault::Jump(chance.range(0, 4_000) as i64 - 2_000),
        14 => Fault::Leave(device),
        15 => Fault::Poison(device),
        16 => Fault::Freeze,
        17 => Fault::RefuseTokens(time),
        18 => Fault::Forget(device, time),
        _ => Fault::Commands(device, chance.range(1, 5)),
    }
}

/// Leaves out whatever the failure does not need.
pub fn shrink(mut plan: Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut size = plan.faults.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < plan.faults.len() {
            let mut smaller = plan.clone();
            let end = (at + size).min(smaller.faults.len());
            smaller.faults.drain(at..end);
            match fails(&smaller) {
                true => plan = smaller,
                false => at += size,
            }
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2).min(size - 1);
    }
    for devices in 1..plan.devices {
        let smaller = Plan {
            devices,
            ..plan.clone()
        };
        if smaller
            .faults
            .iter()
            .all(|(_, fault)| concerns(fault) < devices)
            && fails(&smaller)
        {
            plan = smaller;
            break;
        }
    }
    let calm: [fn(&mut Plan); 3] = [
        |plan| plan.rough = 0,
        |plan| plan.takeovers = 0,
        |plan| plan.stop = None,
    ];
    for calm in calm {
        let mut calmer = plan.clone();
        calm(&mut calmer);
        if fails(&calmer) {
            plan = calmer;
        }
    }
    plan
}

fn concerns(fault: &Fault) -> usize {
    match fault {
        Fault::Detach(device, _)
        | Fault::Leave(device)
        | Fault::Forget(device, _)
        | Fault::Poison(device)
        | Fault::Commands(device, _) => *device,
        _ => 0,
    }
}
