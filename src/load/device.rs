//! One device: connects, sends what is due, counts what is acknowledged, and says goodbye.
//!
//! Its task is small, since there are thousands: one PUBLISH is encoded once and then patched,
//! nothing is allocated per message, and one timer serves sending, keep-alive and slow reading.

use super::connect::{Connection, Failure, Received, connect, read, take};
use super::frame::Frame;
use super::meter::Meter;
use super::options::Pace;
use super::schedule::Schedule;
use super::setup::{Plan, Setup};
use crate::runtime::clock::{self, Mono};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, Publish};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Most bytes handed to the socket at once.
const BATCH_BYTES: usize = 64 * 1024;
/// A timer that need not ring.
const LONG: Duration = Duration::from_secs(3600);
/// Time for DISCONNECT and close.
const GOODBYE: Duration = Duration::from_secs(1);

/// What all devices do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connect and hold the connection.
    Hold,
    /// Send.
    Run(Schedule),
    /// Send only what was due until then, wait for acknowledgements.
    Drain(Mono),
    /// Leave at once.
    End,
}

/// What all devices share.
pub struct Shared {
    /// How to connect.
    pub setup: Setup,
    /// What is counted.
    pub meter: Meter,
    /// What to do.
    pub phase: watch::Sender<Phase>,
    /// Connections that may be made at a time.
    pub permits: Semaphore,
    /// When the first device started to connect.
    pub begun: Mono,
    /// Nanoseconds from there to the last CONNACK.
    pub last_connected_ns: AtomicU64,
    /// Told when the last device is connected or has failed.
    pub settled: Notify,
}

/// What became of one device.
#[derive(Debug)]
pub struct Outcome {
    /// Its client id.
    pub id: String,
    /// Messages 1 to this were sent.
    pub sent: u64,
    /// Those not acknowledged; at QoS 0 none is listed, since none is acknowledged at all.
    pub open: Vec<u64>,
    /// Whether it got its CONNACK.
    pub connected: bool,
    /// Why it failed, or lost its connection.
    pub failure: Option<Failure>,
}

/// The life of the device `index`.
pub async fn live(shared: Arc<Shared>, index: usize) -> Outcome {
    let plan = shared.setup.plan(index);
    let phase = shared.phase.subscribe();
    // Boxed, so that the large state of a handshake goes when it is over.
    let entered = Box::pin(enter(&shared, &plan, phase.clone())).await;
    if entered.is_err() {
        shared.meter.failed.fetch_add(1, Ordering::SeqCst);
    }
    // the count that completes the fleet is seen by at least the last device
    let totals = &shared.meter;
    let settled = totals.connected.load(Ordering::SeqCst) + totals.failed.load(Ordering::SeqCst);
    if settled >= shared.setup.options.devices as u64 {
        shared.settled.notify_one();
    }
    let connection = match entered {
        Ok(connection) => connection,
        Err(failure) => {
            return Outcome {
                id: plan.id,
                sent: 0,
                open: Vec::new(),
                connected: false,
                failure: Some(failure),
            };
        }
    };
    let mut device = Device::new(&shared, plan, connection);
    let failure = device.serve(phase).await.err();
    if failure.is_some() {
        shared.meter.lost.fetch_add(1, Ordering::Relaxed);
    }
    Outcome {
        sent: device.sent,
        open: device
            .waiting
            .iter()
            .map(|message| message.number)
            .collect(),
        id: device.plan.id,
        connected: true,
        failure,
    }
}

async fn enter(
    shared: &Shared,
    plan: &Plan,
    mut phase: watch::Receiver<Phase>,
) -> Result<Connection, Failure> {
    let options = &shared.setup.options;
    let attempt = async {
        let due = shared.begun + shared.setup.connect_delay(plan.index);
        sleep(due.since(clock::mono())).await;
        let permit = shared.permits.acquire().await;
        let started = clock::mono();
        let connected = timeout(options.connect_timeout, connect(&shared.setup, plan)).await;
        drop(permit);
        let connection = connected.unwrap_or_else(|_| Err(Failure::new("tcp", &"timed out")))?;
        let now = clock::mono();
        let since_begin = u64::try_from(now.since(shared.begun).as_nanos()).unwrap_or(u64::MAX);
        shared
            .last_connected_ns
            .fetch_max(since_begin, Ordering::Relaxed);
        shared.meter.connected(now.since(started));
        Ok(connection)
    };
    tokio::select! {
        connected = attempt => connected,
        _ = phase.wait_for(|phase| *phase == Phase::End) => {
            Err(Failure("interrupted before it was connected".to_owned()))
        }
    }
}

/// A message that is not acknowledged yet.
struct Waiting {
    number: u64,
    /// Its latency counts from here: when it was due, or else when it was made.
    from: Mono,
}

struct Device<'a> {
    shared: &'a Shared,
    plan: Plan,
    connection: Connection,
    phase: Phase,
    /// From the begin of the run on.
    schedule: Option<Schedule>,
    frame: Option<Frame>,
    out: BytesMut,
    sent: u64,
    waiting: VecDeque<Waiting>,
    /// When its first message was sent.
    began: Mono,
    last_written: Mono,
    pinged: bool,
    read_after: Mono,
}

impl<'a> Device<'a> {
    fn new(shared: &'a Shared, plan: Plan, connection: Connection) -> Self {
        Self {
            shared,
            plan,
            connection,
            phase: Phase::Hold,
            schedule: None,
            frame: None,
            out: BytesMut::new(),
            sent: 0,
            waiting: VecDeque::new(),
            began: Mono::default(),
            last_written: clock::mono(),
            pinged: false,
            read_after: Mono::default(),
        }
    }

    async fn serve(&mut self, mut phase: watch::Receiver<Phase>) -> Result<(), Failure> {
        self.enter(*phase.borrow_and_update());
        let mut armed = clock::mono();
        let mut timer = pin!(sleep(Duration::ZERO));
        loop {
            // no lock in the usual case
            if phase.has_changed().unwrap_or(false) {
                self.enter(*phase.borrow_and_update());
            }
            let mut now = clock::mono();
            self.take_all(now)?;
            self.fill(now)?;
            if !self.out.is_empty() {
                self.write(&mut phase).await?;
                now = clock::mono();
                self.written(now);
            }
            let (wake, eager) = (self.wake_at(now), self.due(now).is_some());
            if self.is_done(eager) {
                self.leave().await;
                return Ok(());
            }
            if wake < armed || timer.is_elapsed() {
                timer.set(sleep(wake.since(now)));
                armed = wake;
            }
            let reading = self.read_after <= now;
            tokio::select! {
                biased;
                ended = read(&mut self.connection.stream, &mut self.connection.input),
                    if reading => {
                    ended?;
                    if let Some(pause) = self.shared.setup.options.slow_reader {
                        self.read_after = clock::mono() + pause;
                    }
                }
                _ = phase.changed() => self.enter(*phase.borrow_and_update()),
                () = &mut timer => {}
                () = tokio::task::yield_now(), if eager => {}
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        match (phase, &mut self.schedule) {
            (Phase::Run(schedule), mine) => *mine = Some(schedule),
            (Phase::Drain(at), Some(schedule)) => schedule.until = schedule.until.min(at),
            _ => {}
        }
    }

    /// Whether nothing is left to send or to wait for.
    fn is_done(&self, overdue: bool) -> bool {
        match self.phase {
            Phase::End => true,
            Phase::Drain(_) => self.waiting.is_empty() && !overdue,
            Phase::Hold | Phase::Run(_) => false,
        }
    }

    /// Handles every packet that is complete.
    fn take_all(&mut self, now: Mono) -> Result<(), Failure> {
        while let Some(received) = take(&mut self.connection.input)? {
            match received {
                Received::Ack(id) => self.acknowledged(id, now)?,
                Received::Packet(Packet::Publish(command)) => self.command(&command)?,
                Received::Packet(Packet::PingResp) => self.pinged = false,
                Received::Packet(_) => {
                    return Err(Failure::new("mqtt", &"a packet that has no place here"));
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, id: u16, now: Mono) -> Result<(), Failure> {
        let mut waiting = self.waiting.iter();
        let position = waiting.position(|message| Frame::packet_id(message.number) == id);
        let message = position.and_then(|at| self.waiting.remove(at));
        let Some(message) = message else {
            return Err(Failure::new("mqtt", &"PUBACK for no message in flight"));
        };
        let shard = self.shared.meter.shard();
        shard.acknowledged(position != Some(0));
        if message.number == 1 {
            shard.first(now.since(self.began));
        }
        if self.measures(message.from) {
            shard.latency(now.since(message.from));
        }
        Ok(())
    }

    fn command(&mut self, command: &Publish) -> Result<(), Failure> {
        self.shared.meter.shard().received();
        if command.qos == QoS::AtMostOnce {
            return Ok(());
        }
        let written = PubAck::new(command.pkid).write(&mut self.out);
        written.map_err(|_| Failure::new("mqtt", &"PUBACK cannot be written"))?;
        Ok(())
    }

    fn measures(&self, from: Mono) -> bool {
        self.schedule
            .is_some_and(|schedule| schedule.measures(from))
    }

    /// If a message may be sent now: from when its latency counts.
    fn due(&self, now: Mono) -> Option<Mono> {
        let options = &self.shared.setup.options;
        let schedule = self.schedule.filter(|_| self.has_room())?;
        match options.pace {
            Pace::Idle => None,
            Pace::Closed => (now < schedule.until).then_some(now),
            // a message that was due is sent however late, or a stall at the end would go unseen
            Pace::Open { .. } => {
                let due = schedule.due(self.plan.index, self.sent);
                (due <= now && due < schedule.until).then_some(due)
            }
        }
    }

    fn has_room(&self) -> bool {
        let options = &self.shared.setup.options;
        options.qos == 0 || self.waiting.len() < usize::from(options.window)
    }

    /// Encodes what is due, and a PINGREQ when nothing was written for a keep-alive time.
    fn fill(&mut self, now: Mono) -> Result<(), Failure> {
        while self.out.len() < BATCH_BYTES
            && let Some(from) = self.due(now)
        {
            self.sent += 1;
            let number = self.sent;
            self.append(number)?;
            self.waiting.push_back(Waiting { number, from });
            let shard = self.shared.meter.shard();
            shard.sent();
            if number == 1 && self.shared.setup.options.qos > 0 {
                shard.begun();
                self.began = now;
            }
            if self.measures(from) {
                shard.lateness(now.since(from));
            }
        }
        if self.out.is_empty() && self.ping_at().is_some_and(|at| at <= now) {
            if self.pinged && self.shared.setup.options.slow_reader.is_none() {
                return Err(Failure::new(
                    "mqtt",
                    &"no PINGRESP within the keep-alive time",
                ));
            }
            self.out.extend_from_slice(&[0xC0, 0]);
            self.pinged = true;
        }
        Ok(())
    }

    /// Appends message `number`, encoding the first one.
    fn append(&mut self, number: u64) -> Result<(), Failure> {
        if self.frame.is_none() {
            let options = &self.shared.setup.options;
            let (id, topic) = (&self.plan.id, &self.plan.topic);
            self.frame = Frame::new(id, topic, options.payload, options.qos);
        }
        let frame = self.frame.as_mut();
        let frame =
            frame.ok_or_else(|| Failure::new("mqtt", &"the PUBLISH is too large for MQTT"))?;
        frame.append(number, &mut self.out);
        Ok(())
    }

    async fn write(&mut self, phase: &mut watch::Receiver<Phase>) -> Result<(), Failure> {
        tokio::select! {
            biased;
            written = self.connection.stream.write_all(&self.out) => {
                written.map_err(|error| Failure::io("mqtt", &error))
            }
            _ = phase.wait_for(|phase| *phase == Phase::End) => {
                Err(Failure::new("mqtt", &"the server had stopped reading"))
            }
        }
    }

    /// At QoS 0 nothing more will be heard of what was written.
    fn written(&mut self, now: Mono) {
        self.out.clear();
        self.last_written = now;
        if self.shared.setup.options.qos == 0 {
            let shard = self.shared.meter.shard();
            let schedule = self.schedule;
            let measured = |from| schedule.is_some_and(|schedule| schedule.measures(from));
            for message in self
                .waiting
                .drain(..)
                .filter(|message| measured(message.from))
            {
                shard.latency(now.since(message.from));
            }
        }
    }

    fn ping_at(&self) -> Option<Mono> {
        let seconds = self.shared.setup.options.keep_alive_s;
        (seconds > 0).then(|| self.last_written + Duration::from_secs(u64::from(seconds)))
    }

    /// When there is something to do even if the server sends nothing.
    fn wake_at(&self, now: Mono) -> Mono {
        let mut wake = self.ping_at().unwrap_or(now + LONG);
        if self.read_after > now {
            wake = wake.min(self.read_after);
        }
        let open = matches!(self.shared.setup.options.pace, Pace::Open { .. });
        if let Some(schedule) = self.schedule.filter(|_| open && self.has_room()) {
            let due = schedule.due(self.plan.index, self.sent);
            if due < schedule.until {
                wake = wake.min(due);
            }
        }
        wake
    }

    /// DISCONNECT and close; whatever goes wrong now is no failure.
    async fn leave(&mut self) {
        let stream = &mut self.connection.stream;
        let goodbye = async {
            stream.write_all(&[0xE0, 0]).await?;
            stream.shutdown().await
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }
}
