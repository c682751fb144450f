//! The end of a connection: a word to the peer, the socket, the will, what is in flight.
//!
//! The socket closes first and at once; the device's upstream work then has a short bounded time,
//! shorter still when a newer connection of the device waits. Everything counted in flight is
//! counted out. The claim on the device is the last thing given back.

use super::close::{Close, GRACE_CONTENDED};
use super::{Conn, Upstream, io};
use crate::auth::Who;
use crate::hub::HubEvent;
use crate::hub::message::Settlement;
use crate::hub::outcome::{HubAccepted, Refusal};
use crate::listener::refusal::Line;
use crate::listener::{log_text, poison};
use crate::mqtt::packet::QoS;
use crate::mqtt::session::Event;
use crate::router::topic_map;
use crate::runtime::clock::{self, Mono};
use crate::telemetry::log::CONNECT;
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::Outcome;
use crate::tls::Stream;
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Time for the last bytes and the close of TLS and TCP.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Most of what a device says at the end that is looked through for PUBACKs; after that its
/// commands go back to the hub, which delivers them again.
const LAST_BYTES: usize = 64 * 1024;

/// Time for a will to be accepted.
const WILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The will's ticket; the session counts from the other end.
const WILL_TICKET: u64 = u64::MAX;

/// Closes the stream properly, within a bound: TLS close_notify, then FIN. With `linger` it then
/// waits for the peer's own end: a socket closed over unread bytes is reset, and the last PUBACKs
/// and the reason of the close with it.
pub(in crate::listener) async fn shut(stream: Box<dyn Stream>, linger: bool) {
    shut_listening(stream, linger, |_| {}).await;
}

/// As [`shut`]; `heard` gets what the peer says until its end.
async fn shut_listening(
    mut stream: Box<dyn Stream>,
    linger: bool,
    mut heard: impl FnMut(&[u8]) + Send,
) {
    let close = async {
        stream.shutdown().await?;
        let mut bytes = [0; 512];
        while linger
            && let read = stream.read(&mut bytes).await?
            && read > 0
        {
            heard(&bytes[..read]);
        }
        std::io::Result::Ok(())
    };
    // A peer that does not take part gets the kernel's close when the stream drops.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
}

/// Ends the connection for `close`'s reason.
pub(super) async fn finish<U: Upstream>(mut conn: Box<Conn<U>>, close: Close) {
    if close.reachable {
        conn.read_the_rest().await;
    }
    conn.heed(&close);
    if let Some(goodbye) = close.goodbye {
        let out = &mut conn.out.bytes;
        conn.session.goodbye(goodbye, &close.text, out);
    }
    if close.reachable {
        conn.say_the_rest().await;
    }
    let stream = std::mem::replace(&mut conn.stream, Box::new(tokio::io::empty()));
    match close.reachable {
        true => {
            let input = &mut conn.input;
            let mut room = LAST_BYTES;
            let hear = |bytes: &[u8]| {
                // What has no room ends it: a later packet would begin in the middle of one.
                room = room.saturating_sub(bytes.len());
                if room > 0 {
                    input.extend_from_slice(bytes);
                }
            };
            shut_listening(stream, close.linger, hear).await;
        }
        false => drop(stream),
    }
    conn.heed(&close);
    conn.input = BytesMut::new();
    conn.ending.end(close.reason);
    conn.live = None;
    conn.paused.show(None, &conn.setup);
    conn.log_end(&close);
    if close.poison && conn.setup.loops.closed(conn.claim.key()) {
        conn.log_loop(&close);
    }
    conn.settle_upstream(&close).await;
}

impl<U: Upstream> Conn<U> {
    /// Reads what has come and was not read.
    async fn read_the_rest(&mut self) {
        let Self { stream, input, .. } = self;
        let before = input.len();
        while input.len() - before < LAST_BYTES {
            let read = poll_fn(|cx| Poll::Ready(io::poll_read(stream, input, cx)));
            if !matches!(read.await, Poll::Ready(Ok(1..))) {
                break;
            }
        }
    }

    /// What the device said about commands by the time of this end counts.
    fn heed(&mut self, close: &Close) {
        if !close.settles {
            return;
        }
        for event in self.session.last_words(&mut self.input) {
            match event {
                Event::Delivered(command) => self.command_decided(command, Settlement::Accepted),
                Event::Rejected(command) => self.command_decided(command, Settlement::Rejected),
                _ => {}
            }
        }
    }

    async fn say_the_rest(&mut self) {
        let Self { stream, out, .. } = self;
        if out.is_idle() {
            return;
        }
        let flush = poll_fn(|cx| out.poll_flush(stream, cx));
        if let Ok(Ok(())) = tokio::time::timeout(CLOSE_TIMEOUT, flush).await {
            self.flushed();
        }
    }

    fn log_end(&self, close: &Close) {
        self.see("disconnected", || {
            format!("{}: {}", close.reason, close.text)
        });
        tracing::info!(
            name: "device_disconnected",
            target: CONNECT,
            device = %self.claim.key(),
            source = %self.source,
            reason = %close.reason,
            text = log_text(&close.text),
            seconds = clock::mono().since(self.since).as_secs(),
            "device disconnected"
        );
        let line = self.line("session ended", close.reason, &close.text);
        match close.reason {
            _ if close.is_told => {}
            Reason::Drain => {}
            // With nothing in flight it had what it came for.
            Reason::Clean if self.links.outstanding() == 0 => {}
            reason if reason.refuses() => self.setup.voice.say(line),
            _ => self.setup.voice.lost(line),
        }
    }

    /// Shows whoever looks at this device what it did.
    pub(super) fn see(&self, what: &'static str, text: impl FnOnce() -> String) {
        if self.setup.watches.any() {
            let device = self.claim.key().to_string();
            self.setup.watches.see(&device, what, &text());
        }
    }

    /// A line about this connection.
    pub(super) fn line<'a>(&self, what: &'static str, reason: Reason, text: &'a str) -> Line<'a> {
        Line {
            rule: Some(self.device.rule().to_string()),
            is_of_session: true,
            ..Line::new(
                what,
                Who::of_device(&self.device),
                self.source,
                reason,
                text,
            )
        }
    }

    /// Names a device that is closed for a message again and again.
    fn log_loop(&self, close: &Close) {
        self.setup.voice.say(Line {
            got: Some(close.reason.word().to_owned()),
            ..self.line("device in a loop", poison::REASON, poison::TEXT)
        });
    }

    /// Sends the will, waits for what is in flight within the close's grace, ends the links.
    async fn settle_upstream(mut self: Box<Self>, close: &Close) {
        let mut will = match close.will {
            true => self.send_will(),
            false => None,
        };
        let grace = match will {
            Some(_) if close.grace > GRACE_CONTENDED => WILL_TIMEOUT,
            _ => close.grace,
        };
        if !grace.is_zero() {
            let until = clock::mono() + grace;
            self.wait_upstream(&mut will, until).await;
        }
        if let Some(qos) = will {
            self.count("uplink", qos, "will_lost");
        }
        self.traced_to_the_end();
        for qos in self.uplink.undecided() {
            self.count("uplink", qos, "abandoned");
            self.setup.metrics.uplink_inflight.dec();
        }
        let commands = self.commands_unacknowledged + self.commands_unwritten.len();
        let left = i64::try_from(commands).unwrap_or(i64::MAX);
        self.setup.metrics.downlink_inflight.sub(left);
        let Conn {
            links,
            setup,
            claim,
            permit,
            ..
        } = *self;
        links.close(setup.limits.commands_on_disconnect);
        drop(claim);
        drop(permit);
    }

    /// Hands the will to the links; its QoS when there is one to wait for.
    fn send_will(&mut self) -> Option<QoS> {
        let will = self.session.take_will()?;
        let qos = will.qos;
        let manner = self.bounds.limits.properties;
        let properties = self.setup.limits.properties;
        match topic_map::will(&self.device, will, properties, manner) {
            Ok(mapped) => {
                self.count_mended(mapped.mended);
                self.links.send(WILL_TICKET, mapped.telemetry);
                Some(qos)
            }
            // It was checked at CONNECT; what made it wrong since then voids it.
            Err(error) => {
                self.count("uplink", qos, error.reason().word());
                None
            }
        }
    }

    /// Waits until the hub has decided about everything in flight, or `until`.
    async fn wait_upstream(&mut self, will: &mut Option<QoS>, mut until: Mono) {
        while will.is_some() || self.links.outstanding() > 0 {
            match self.next_upstream(until).await {
                Late::Hurry => until = until.min(clock::mono() + GRACE_CONTENDED),
                Late::Hub(HubEvent::Sent(WILL_TICKET, result)) => {
                    if let Some(qos) = will.take() {
                        let fate = result.map_or_else(|r| r.reason, |_| "will_accepted");
                        self.count("uplink", qos, fate);
                    }
                }
                Late::Hub(HubEvent::Sent(ticket, result)) => self.decided_late(ticket, result),
                // Left unsettled: closing the links gives it back as the setting says.
                Late::Hub(HubEvent::Command(_)) => {}
                // Nobody is there to hear it.
                Late::Hub(
                    HubEvent::Method(_)
                    | HubEvent::Twin(_)
                    | HubEvent::Desired(_)
                    | HubEvent::Taken(..),
                ) => {}
                Late::Hub(HubEvent::Gone(_)) | Late::TimeIsUp => return,
            }
        }
    }

    async fn next_upstream(&mut self, until: Mono) -> Late {
        let Self {
            links,
            claim,
            alarm,
            ..
        } = self;
        let mut event = pin!(links.next());
        poll_fn(|cx| {
            if claim.poll_order(cx).is_ready() {
                return Poll::Ready(Late::Hurry);
            }
            if let Poll::Ready(event) = event.as_mut().poll(cx) {
                return Poll::Ready(Late::Hub(event));
            }
            alarm.poll(cx, until).map(|()| Late::TimeIsUp)
        })
        .await
    }

    /// Counts a message the hub decided about when its device was gone. Without a PUBACK a
    /// QoS 1 message is not acknowledged, whatever the hub said.
    fn decided_late(&mut self, ticket: u64, result: Result<HubAccepted, Refusal>) {
        let outcome = match &result {
            Ok(_) => Outcome::Accepted,
            Err(refusal) => Outcome::Failed(refusal.reason),
        };
        self.traced(ticket, outcome);
        let Some(qos) = self.decided(ticket) else {
            return;
        };
        match (result, qos) {
            (Ok(_), QoS::AtMostOnce) => self.setup.metrics.uplink_qos0_accepted.inc(),
            (Ok(_), _) => self.count("uplink", qos, "accepted_unacknowledged"),
            (Err(refusal), _) => self.count("uplink", qos, refusal.reason),
        }
    }
}

/// What happens while a closed connection's messages are waited for.
enum Late {
    /// Somebody waits for the end.
    Hurry,
    Hub(HubEvent),
    TimeIsUp,
}
