//! A link each way between one device and a service of its hub, methods or its twin: attached
//! together, known to the hub as one by a channel correlation id, and lost together.

use super::attach::{self, Live, NotAttached};
use super::device::{NO_HANDLES, Path, Patience, full};
use super::driver::LinkEvent;
use super::encode::{self, Encoded};
use super::exchange;
use super::outcome::{Cause, DeviceGone};
use super::refusals::Class;
use super::tuning;
use crate::amqp::performative::Attach;
use crate::amqp::{self, DeliveryId, Message, Outcome, SendError};
use bytes::Bytes;
use prometheus::IntGauge;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Both links.
pub struct Links {
    /// What the hub sends.
    pub receiver: Live,
    /// What is sent to it.
    pub sender: Live,
}

type Attaching = Pin<Box<dyn Future<Output = Result<Links, NotAttached>> + Send>>;

enum State {
    Idle,
    Attaching(Attaching),
    Live(Links),
}

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Direct methods.
    Methods,
    /// The twin.
    Twin,
}

impl Service {
    /// How its links' names and channel ids begin.
    const fn stem(self) -> &'static str {
        match self {
            Self::Methods => "methods",
            Self::Twin => "twin",
        }
    }
}

/// What happened to a pair.
#[derive(Debug)]
pub enum PairEvent {
    /// Both links are there.
    Attached,
    /// The hub sent something; it has been settled.
    Delivery(Bytes),
    /// What was sent under this token has its outcome.
    Outcome(u64, Outcome),
    /// A send that had to wait is worth another try.
    Credit,
    /// Both links are gone; they come back when they are wanted. Whether the hub has no such links
    /// at all.
    Lost { unserved: bool },
}

/// The pair of one device and service.
pub struct Pair {
    service: Service,
    state: State,
    patience: Patience,
}

impl Pair {
    /// One that is not attached.
    pub fn new(service: Service) -> Self {
        Self {
            service,
            state: State::Idle,
            patience: Patience::default(),
        }
    }

    /// Whether both links are there.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Whether nothing is under way about the links themselves.
    pub fn is_quiet(&self) -> bool {
        !matches!(self.state, State::Attaching(_))
    }

    /// Gives the links up, which are then detached.
    pub fn leave(&mut self) -> Vec<Live> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Live(links) => vec![links.receiver, links.sender],
            _ => Vec::new(),
        }
    }

    /// What happened next; attaches the links when they are `wanted`.
    pub fn poll(
        &mut self,
        path: &Path,
        cx: &mut Context<'_>,
        wanted: bool,
    ) -> Poll<Result<PairEvent, DeviceGone>> {
        loop {
            match &mut self.state {
                State::Idle if !wanted => return Poll::Pending,
                State::Idle => self.state = State::Attaching(self.attach(path)),
                State::Attaching(attaching) => match attaching.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(links)) => {
                        path.succeeded(Class::Link);
                        self.state = State::Live(links);
                        return Poll::Ready(Ok(PairEvent::Attached));
                    }
                    Poll::Ready(Err(NotAttached::Full)) => {
                        return Poll::Ready(Err(full(NO_HANDLES)));
                    }
                    Poll::Ready(Err(NotAttached::Refused(cause))) => {
                        return Poll::Ready(self.lost(path, cause.as_ref()));
                    }
                },
                State::Live(links) => {
                    let Links { receiver, sender } = links;
                    let event = match receiver.link.poll(cx) {
                        Poll::Ready(event) => event,
                        Poll::Pending => match sender.link.poll(cx) {
                            Poll::Ready(event) => event,
                            Poll::Pending => return Poll::Pending,
                        },
                    };
                    if let Some(event) = self.on(path, event) {
                        return Poll::Ready(event);
                    }
                }
            }
        }
    }

    fn on(&mut self, path: &Path, event: LinkEvent) -> Option<Result<PairEvent, DeviceGone>> {
        Some(match event {
            LinkEvent::Delivery {
                delivery,
                payload,
                settled,
            } => {
                self.patience.reset();
                if !settled {
                    self.settle(delivery);
                }
                Ok(PairEvent::Delivery(payload))
            }
            LinkEvent::Outcome(token, outcome) => {
                self.patience.reset();
                Ok(PairEvent::Outcome(token, outcome))
            }
            LinkEvent::Credit(_) => Ok(PairEvent::Credit),
            LinkEvent::Refused(error) | LinkEvent::Detached(error) => {
                let cause = error.as_deref().map(encode::cause);
                self.lost(path, cause.as_ref())
            }
            LinkEvent::Stopped => {
                self.state = State::Idle;
                Ok(PairEvent::Lost { unserved: false })
            }
            LinkEvent::Attached(_) | LinkEvent::Drained => return None,
        })
    }

    /// Nothing is sent twice for want of it: the hub has handed over what it had.
    fn settle(&mut self, delivery: DeliveryId) {
        if let State::Live(links) = &mut self.state {
            let _ = links.receiver.link.settle(delivery, &Outcome::Accepted);
        }
    }

    fn lost(&mut self, path: &Path, cause: Option<&Cause>) -> Result<PairEvent, DeviceGone> {
        self.state = State::Idle;
        let unserved = cause.is_some_and(exchange::is_unserved);
        if unserved {
            let detaches = &path.shared.metrics.hub_detaches;
            detaches.with_label_values(&["unserved"]).inc();
            self.patience.lose(true);
        } else {
            path.detached(cause, &mut self.patience)?;
        }
        Ok(PairEvent::Lost { unserved })
    }

    /// Sends a message; `true`: an outcome under this token follows.
    ///
    /// # Errors
    /// Nothing was sent. After [`SendError::WouldBlock`] and [`SendError::Stale`] an event follows.
    pub fn send(&mut self, message: &Encoded, token: u64) -> Result<bool, SendError> {
        let State::Live(links) = &mut self.state else {
            return Err(SendError::Stale);
        };
        let mut message = Message {
            head: &message.head,
            body: message.body.clone(),
            settled: false,
            token,
        };
        match links.sender.link.send(&message) {
            // The hub may ask for messages without outcome, as its SDKs send them (§4.3).
            Err(SendError::NotAllowed) => {
                message.settled = true;
                links.sender.link.send(&message).map(|_| false)
            }
            sent => sent.map(|_| true),
        }
    }

    /// Lets the hub send as many more as `room` has beside what came and was not taken; in steps of
    /// half of `window`, so that a Flow is not sent for each.
    pub fn top_up(&mut self, window: u32, room: usize) {
        let State::Live(links) = &mut self.state else {
            return;
        };
        let link = &mut links.receiver.link;
        let free = room.saturating_sub(link.untaken());
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        // What has ended is about to say so.
        let credit = link.credit().unwrap_or(free);
        let missing = free.saturating_sub(credit);
        let due = missing > 0 && (credit == 0 || missing >= window.div_ceil(2));
        if due || credit > free {
            let _ = link.set_credit(free);
        }
    }

    fn attach(&self, path: &Path) -> Attaching {
        let gauges = &path.shared.gauges;
        let (address, attaching, attached) = match self.service {
            Service::Methods => (
                path.device.address.methods(),
                &gauges.methods_attaching,
                &gauges.methods,
            ),
            Service::Twin => (
                path.device.address.twin(),
                &gauges.twins_attaching,
                &gauges.twins,
            ),
        };
        let wanted = Wanted {
            service: self.service,
            address,
            attaching: attaching.clone(),
            attached: attached.clone(),
        };
        attach::attach_pair(path, wanted, self.patience.left())
    }
}

/// What is to be attached.
pub struct Wanted {
    service: Service,
    /// Where both links lead.
    pub address: String,
    /// Counts them while they are on their way.
    pub attaching: IntGauge,
    /// Counts them while they are attached.
    pub attached: IntGauge,
}

impl Wanted {
    /// The ATTACHs of one try, receiver and sender. The hub takes no channel id twice (wire sheet
    /// §4.2), so each try has its own.
    pub fn frames(&self, channel: &str) -> [Attach; 2] {
        let stem = self.service.stem();
        let properties = exchange::attach_properties(&format!("{stem}:{channel}"));
        let mut receiver = amqp::receiver(&format!("{stem}-down"), &self.address);
        receiver.max_message_size = Some(tuning::COMMAND_BYTES_MAX);
        let mut sender = amqp::sender(&format!("{stem}-up"), &self.address);
        receiver.properties = Some(properties.clone());
        sender.properties = Some(properties);
        [receiver, sender]
    }
}
