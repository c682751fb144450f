//! Drives one device: bytes ⇄ session ⇄ links, in one small task that owns all of it.
//!
//! A turn handles what has arrived, writes once, and waits for the next of: socket, hub, order,
//! deadline. It never acknowledges on its own: a PUBACK comes out of the session for a
//! `HubAccepted`. When the session's window, the rule's rate or the device's own reading says
//! stop, the socket is not read and the keep-alive clock stands still. Neighbours: `handshake`
//! hands the connection over, `finish` ends it.

mod alarm;
mod close;
mod commands;
mod ears;
mod events;
mod finish;
mod io;
mod rate;
mod refused;
mod reserved;
mod subscriptions;
#[cfg(test)]
mod tests;
mod traced;
mod uplink;
mod upstream;

use super::admission::Permit;
use super::ending::Ending;
use super::setup::{Counted, Pause, Paused, Setup};
use crate::auth::AuthenticatedDevice;
use crate::auth::rules::DeviceLimits;
use crate::hub::HubEvent;
use crate::mqtt::session::Session;
use crate::router::registry::{Claim, Order};
use crate::runtime::clock::{self, Mono};
use crate::tls::Stream;
use alarm::Alarm;
use bytes::BytesMut;
use close::Close;
use ears::Ears;
pub(super) use finish::shut;
use io::Outbox;
use rate::Rate;
use refused::{Filed, Filing};
use reserved::Said;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use subscriptions::Subscriptions;
use uplink::Uplink;
pub(super) use upstream::Upstream;

/// Answers waiting for the socket beyond which nothing more is read: a device that does not take
/// its PINGRESPs may not make the gateway collect them.
const OUT_BYTES_MAX: usize = 4 * 1024;

/// Hub events handled before the socket gets its turn.
const HUB_BATCH: usize = 64;

/// What the handshake hands over.
pub(super) struct Opened<U> {
    pub(super) stream: Box<dyn Stream>,
    /// Has answered CONNECT positively; the CONNACK is in `out`.
    pub(super) session: Session,
    pub(super) links: U,
    pub(super) device: AuthenticatedDevice,
    pub(super) claim: Claim,
    pub(super) setup: Arc<Setup>,
    /// Bytes that came after CONNECT.
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    pub(super) bounds: Bounds,
    pub(super) source: SocketAddr,
    pub(super) live: Counted,
    /// Counted while it may be silent for longer than a load balancer likes.
    pub(super) long_keep_alive: Option<Counted>,
    pub(super) permit: Permit,
    pub(super) ending: Ending,
}

/// What the rule that admitted the device bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// When the credential ends.
    pub(super) expires: Option<Mono>,
    /// Rate and payload.
    pub(super) limits: DeviceLimits,
}

/// One device's connection.
pub(super) struct Conn<U> {
    stream: Box<dyn Stream>,
    ears: Ears,
    session: Session,
    links: U,
    device: AuthenticatedDevice,
    claim: Claim,
    setup: Arc<Setup>,
    /// Packets not taken yet; owns memory only while there are bytes.
    input: BytesMut,
    /// Since when the first packet in `input` is unfinished.
    partial_since: Option<Mono>,
    out: Outbox,
    alarm: Alarm,
    uplink: Uplink,
    rate: Rate,
    /// Refused messages that are being kept.
    filing: Option<Box<Filing>>,
    bounds: Bounds,
    subscriptions: Subscriptions,
    /// Whether the command link is kept only for commands the device has still to acknowledge.
    unsubscribing: bool,
    /// Whether method calls or changes of desired properties are in the outbox.
    requests_unwritten: bool,
    /// What was said once in the log.
    said: Said,
    /// QoS 0 commands in the outbox; bounded by the links' credit.
    commands_unwritten: Vec<u64>,
    /// QoS 1 commands with the device.
    commands_unacknowledged: usize,
    /// When to close, and until when to wait for what is in flight.
    drain: Option<(Mono, Mono)>,
    paused: Paused,
    source: SocketAddr,
    since: Mono,
    /// Gone once the socket is closed.
    live: Option<Counted>,
    _long_keep_alive: Option<Counted>,
    permit: Permit,
    ending: Ending,
}

/// What ended a wait.
enum Wake {
    Flushed(std::io::Result<()>),
    Order(Order),
    Hub(HubEvent),
    Read(std::io::Result<usize>),
    Filed(Option<Filed>),
    Alarm,
}

/// Serves an admitted device to its end.
pub(super) async fn serve<U: Upstream>(mut conn: Box<Conn<U>>) {
    let close = conn.run().await;
    // Boxed because it is cold: it must not add to the memory of the idle connection.
    Box::pin(finish::finish(conn, close)).await;
}

impl<U: Upstream> Conn<U> {
    pub(super) fn new(opened: Opened<U>) -> Box<Self> {
        Box::new(Self {
            alarm: Alarm::new(opened.session.deadline()),
            stream: opened.stream,
            ears: Ears::default(),
            session: opened.session,
            links: opened.links,
            device: opened.device,
            claim: opened.claim,
            setup: opened.setup,
            input: opened.input,
            partial_since: None,
            out: Outbox::new(opened.out),
            uplink: Uplink::default(),
            rate: Rate::new(opened.bounds.limits.messages_per_s),
            filing: None,
            bounds: opened.bounds,
            subscriptions: Subscriptions::default(),
            unsubscribing: false,
            requests_unwritten: false,
            said: Said::default(),
            commands_unwritten: Vec::new(),
            commands_unacknowledged: 0,
            drain: None,
            paused: Paused::default(),
            source: opened.source,
            since: clock::mono(),
            live: Some(opened.live),
            _long_keep_alive: opened.long_keep_alive,
            permit: opened.permit,
            ending: opened.ending,
        })
    }

    /// The links, which are to be polled for what is asked of them.
    fn upstream(&mut self) -> &mut U {
        self.ears.hub.hear();
        &mut self.links
    }

    async fn run(&mut self) -> Close {
        loop {
            if let Err(close) = self.turn().await {
                return close;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Close> {
        let now = clock::mono();
        self.take_packets(now)?;
        // Most writes are taken at once; then what was held back for them goes on at once too.
        if self.flush_now().await? && !self.input.is_empty() {
            return Ok(());
        }
        self.check_drain(now)?;
        match self.wait(now).await {
            Wake::Flushed(result) => {
                result.map_err(|error| Close::socket(&error))?;
                self.flushed();
            }
            Wake::Order(order) => self.obey(order)?,
            Wake::Hub(event) => {
                self.hub_event(event)?;
                self.absorb().await?;
            }
            Wake::Filed(filed) => self.filed(filed)?,
            Wake::Read(Ok(0)) => return Err(Close::peer_closed()),
            Wake::Read(Ok(_)) => {}
            Wake::Read(Err(error)) => return Err(Close::socket(&error)),
            Wake::Alarm => self.check_deadlines(clock::mono())?,
        }
        Ok(())
    }

    /// Writes what waits, as far as the socket takes it; whether anything was finished.
    async fn flush_now(&mut self) -> Result<bool, Close> {
        let Self {
            stream, ears, out, ..
        } = self;
        if out.is_idle() {
            return Ok(false);
        }
        let flush = poll_fn(|cx| {
            let flushed = ears.socket.with(cx, |cx| out.poll_flush(stream, cx));
            Poll::Ready(flushed)
        });
        match flush.await {
            Poll::Ready(result) => {
                result.map_err(|error| Close::socket(&error))?;
                self.flushed();
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// Takes every packet that is there and may be taken.
    fn take_packets(&mut self, now: Mono) -> Result<(), Close> {
        let mut taken = false;
        while !self.input.is_empty() && self.may_take(now) {
            let next = self.session.next(&mut self.input, &mut self.out.bytes, now);
            match next.map_err(Close::violation)? {
                Some(event) => {
                    taken = true;
                    self.packet(event, now)?;
                }
                None => break,
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.partial_since = None;
        } else if !self.is_reading(now) {
            self.partial_since = None;
        } else if taken || self.partial_since.is_none() {
            self.partial_since = Some(now);
        }
        Ok(())
    }

    /// Whether the session may be asked for a packet; whether its window takes one, it knows
    /// itself.
    fn may_take(&self, now: Mono) -> bool {
        self.drain.is_none()
            && self.filing.is_none()
            && self.rate.blocked_until(now).is_none()
            && self.out.bytes.len() <= OUT_BYTES_MAX
    }

    fn pause(&self, now: Mono) -> Option<Pause> {
        if self.session.paused() {
            Some(Pause::Window)
        } else if self.filing.is_some() {
            Some(Pause::Filing)
        } else if self.rate.blocked_until(now).is_some() {
            Some(Pause::Rate)
        } else if self.out.bytes.len() > OUT_BYTES_MAX {
            Some(Pause::Write)
        } else {
            None
        }
    }

    fn is_reading(&self, now: Mono) -> bool {
        self.drain.is_none() && self.pause(now).is_none()
    }

    /// Waits for what comes first. The outbox goes first, so that what a turn produced leaves in
    /// one write; the hub before the socket, so that windows open before more is read.
    async fn wait(&mut self, now: Mono) -> Wake {
        let pause = self.pause(now);
        self.paused.show(pause, &self.setup);
        let reading = pause.is_none() && self.drain.is_none();
        let deadline = self.deadline(now, reading);
        let write_timeout = self.setup.limits.write_timeout;
        let Self {
            stream,
            ears,
            links,
            claim,
            input,
            out,
            alarm,
            filing,
            ..
        } = self;
        let mut event = pin!(links.next());
        let mut ask = |ears: &mut Ears, cx: &Context<'_>, rung: bool| {
            let Ears { socket, hub, bell } = ears;
            if !out.is_idle()
                && let Poll::Ready(result) = socket.with(cx, |cx| out.poll_flush(stream, cx))
            {
                return Poll::Ready(Wake::Flushed(result));
            }
            if rung && let Poll::Ready(order) = bell.with(cx, |cx| claim.poll_order(cx)) {
                return Poll::Ready(Wake::Order(order));
            }
            if rung
                && let Some(filing) = filing.as_deref_mut()
                && let Poll::Ready(filed) = bell.with(cx, |cx| filing.poll(cx))
            {
                return Poll::Ready(Wake::Filed(filed));
            }
            if let Poll::Ready(event) = hub.if_heard(cx, |cx| event.as_mut().poll(cx)) {
                return Poll::Ready(Wake::Hub(event));
            }
            if reading
                && let Poll::Ready(result) =
                    socket.if_heard(cx, |cx| io::poll_read(stream, input, cx))
            {
                return Poll::Ready(Wake::Read(result));
            }
            // A stall may have begun a few lines above.
            let stall = out.stalled_since().map(|since| since + write_timeout);
            let deadline = stall.map_or(deadline, |stall| stall.min(deadline));
            if !rung && alarm.rings_by(deadline) {
                return Poll::Pending;
            }
            let rings = bell.with(cx, |cx| alarm.poll(cx, deadline));
            rings.map(|()| Wake::Alarm)
        };
        poll_fn(|cx| {
            let rung = ears.bell.take(cx);
            let woken = ask(ears, cx, rung);
            if rung && woken.is_ready() {
                ears.bell.hear();
            }
            woken
        })
        .await
    }

    /// The next point in time at which something must be done unasked, write stalls apart.
    fn deadline(&self, now: Mono, reading: bool) -> Mono {
        let mut next = self.bounds.expires.unwrap_or(Mono::far_future());
        if reading {
            next = next.min(self.session.deadline());
            if let Some(since) = self.partial_since {
                next = next.min(since + self.setup.limits.packet_timeout);
            }
        } else if let Some((close_at, settle_until)) = self.drain {
            next = next.min(if now < close_at {
                close_at
            } else {
                settle_until
            });
        } else if let Some(until) = self.rate.blocked_until(now) {
            next = next.min(until);
        }
        next
    }

    fn check_deadlines(&self, now: Mono) -> Result<(), Close> {
        if self.bounds.expires.is_some_and(|at| now >= at) {
            return Err(Close::credential_expired());
        }
        let limits = &self.setup.limits;
        let over = |since: Option<Mono>, limit| since.is_some_and(|s| now >= s + limit);
        if over(self.out.stalled_since(), limits.write_timeout) {
            return Err(Close::write_stall());
        }
        if self.is_reading(now) {
            if over(self.partial_since, limits.packet_timeout) {
                return Err(Close::packet_timeout());
            }
            if let Some(violation) = self.session.expired(now) {
                return Err(Close::expired(violation));
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<(), Close> {
        if let Order::Drain {
            close_at,
            settle_until,
        } = order
        {
            self.drain = Some((close_at.min(settle_until), settle_until));
        }
        Close::ordered(order).map_or(Ok(()), Err)
    }

    fn check_drain(&self, now: Mono) -> Result<(), Close> {
        let Some((close_at, settle_until)) = self.drain else {
            return Ok(());
        };
        let settled =
            self.links.outstanding() == 0 && self.uplink.is_settled() && self.out.is_idle();
        let settled = settled && self.filing.is_none();
        if now >= settle_until || (now >= close_at && settled) {
            return Err(Close::drained());
        }
        Ok(())
    }

    /// Handles the hub events that are ready besides the one that woke the task, so that their
    /// PUBACKs leave in one write.
    async fn absorb(&mut self) -> Result<(), Close> {
        if self.links.outstanding() == 0 && self.subscriptions.commands().is_none() {
            return Ok(());
        }
        for _ in 1..HUB_BATCH {
            let Self { links, ears, .. } = self;
            // What is not ready now wakes the task in the next wait; here nobody waits.
            let polled = poll_fn(|cx| {
                let polled = ears.hub.with(cx, |cx| pin!(links.next()).poll(cx));
                Poll::Ready(polled)
            });
            match polled.await {
                Poll::Ready(event) => self.hub_event(event)?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}
