//! A device's links as its connection task sees them: one owner, one poll, no task of their own.

use super::HubEvent;
use super::attach::Live;
use super::device::{Device, Path, full};
use super::downlink::Downlink;
use super::driver::LinkEvent;
use super::lane::Shared;
use super::message::{MethodBounds, Settlement, Telemetry, TwinBounds, TwinRequest};
use super::methods::Methods;
use super::outcome::DeviceGone;
use super::requests::Stray;
use super::twin::{Busy, Twin};
use super::uplink::Uplink;
use crate::config::OnDisconnect;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Where a device stands with the pool of connections.
enum Place {
    /// There is no room, or the hub does not want it any more.
    Gone,
    /// It needs no connection yet.
    Nowhere(Box<Device>),
    /// It leaves a crowded connection; its old links are closed before it has new ones.
    Leaving(Box<Device>, Vec<Live>),
    /// On a connection.
    At(Box<Path>),
}

/// The upstream links of one device, owned by its connection task.
pub struct DeviceLinks {
    place: Place,
    uplink: Option<Box<Uplink>>,
    downlink: Option<Box<Downlink>>,
    methods: Option<Box<Methods>>,
    twin: Option<Box<Twin>>,
    events: VecDeque<HubEvent>,
    next_delivery: u64,
}

impl DeviceLinks {
    pub(super) fn new(device: Box<Device>) -> Self {
        Self {
            place: Place::Nowhere(device),
            uplink: None,
            downlink: None,
            methods: None,
            twin: None,
            events: VecDeque::new(),
            next_delivery: 1,
        }
    }

    /// Links of a device there is no room for: they report that and nothing else.
    pub(super) fn refused() -> Self {
        let gone = full(NO_ROOM);
        Self {
            place: Place::Gone,
            uplink: None,
            downlink: None,
            methods: None,
            twin: None,
            events: VecDeque::from([HubEvent::Gone(gone)]),
            next_delivery: 1,
        }
    }

    /// Takes a message over. It is sent, and sent again after a connection loss with the same
    /// message-id, until the hub decides. The caller bounds how many are outstanding. After
    /// [`HubEvent::Gone`] messages are dropped.
    pub fn send(&mut self, ticket: u64, message: Telemetry) {
        if !matches!(self.place, Place::Gone) {
            let uplink = self.uplink.get_or_insert_with(|| Box::new(Uplink::new()));
            uplink.push(ticket, message);
        }
    }

    /// Messages the hub has not decided about, answers to methods included.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let messages = self.uplink.as_ref().map_or(0, |up| up.outstanding());
        let answers = self.methods.as_ref().map_or(0, |m| m.outstanding());
        messages + answers
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        match &self.place {
            Place::Gone => None,
            Place::Nowhere(device) | Place::Leaving(device, _) => Some(&device.shared),
            Place::At(path) => Some(&path.shared),
        }
        .cloned()
    }

    /// The device takes method calls from now on, under these bounds.
    pub fn call_methods(&mut self, bounds: MethodBounds) {
        if let Some(methods) = &mut self.methods {
            methods.subscribe(bounds);
        } else if let Some(shared) = self.shared() {
            self.methods = Some(Box::new(Methods::new(shared, bounds)));
        }
    }

    /// No more method calls; those the device has may still be answered.
    pub fn call_no_methods(&mut self) {
        if let Some(methods) = &mut self.methods {
            methods.unsubscribe();
        }
    }

    /// Takes the answer to a method call over; [`HubEvent::Taken`] with `ticket` follows.
    ///
    /// # Errors
    /// When no call waits for it.
    pub fn answer(
        &mut self,
        ticket: u64,
        call: u64,
        status: i32,
        body: Bytes,
    ) -> Result<(), Stray> {
        let methods = self.methods.as_mut().ok_or(Stray::Unknown)?;
        methods.reply(ticket, call, status, body)
    }

    /// A call the device could not be told of; `result` says why in the metrics.
    pub fn drop_call(&mut self, call: u64, result: &str) {
        if let Some(methods) = &mut self.methods {
            methods.drop_call(call, result);
        }
    }

    fn twin(&mut self, bounds: TwinBounds) -> Option<&mut Twin> {
        if self.twin.is_none() {
            let shared = self.shared()?;
            self.twin = Some(Box::new(Twin::new(shared, bounds)));
        }
        self.twin.as_deref_mut()
    }

    /// Takes a twin request over; [`HubEvent::Taken`] with `ticket` and [`HubEvent::Twin`] follow.
    /// After [`HubEvent::Gone`] it is dropped.
    ///
    /// # Errors
    /// When as much as `bounds` allow waits.
    pub fn ask_twin(
        &mut self,
        ticket: u64,
        request: TwinRequest,
        bounds: TwinBounds,
    ) -> Result<(), Busy> {
        match self.twin(bounds) {
            Some(twin) => twin.ask(ticket, request, bounds),
            None => Ok(()),
        }
    }

    /// The device is told of changes of its desired properties, each once and in order.
    pub fn follow_desired(&mut self, bounds: TwinBounds) {
        if let Some(twin) = self.twin(bounds) {
            twin.follow(bounds);
        }
    }

    /// It is told no more.
    pub fn leave_desired(&mut self) {
        if let Some(twin) = &mut self.twin {
            twin.unfollow();
        }
    }

    /// Every [`HubEvent::Method`] and [`HubEvent::Desired`] that was handed out is on the device's
    /// socket, or dropped.
    pub fn requests_written(&mut self) {
        if let Some(methods) = &mut self.methods {
            methods.written();
        }
        if let Some(twin) = &mut self.twin {
            twin.written();
        }
    }

    /// Opens the command link with room for `credit` commands; kept open over reconnections.
    /// Called again, it changes the room.
    pub fn subscribe(&mut self, credit: u32) {
        match &mut self.downlink {
            Some(downlink) => downlink.resize(credit),
            None if !matches!(self.place, Place::Gone) => {
                self.downlink = Some(Box::new(Downlink::new(credit)));
            }
            None => {}
        }
    }

    /// Closes the command link; unsettled commands go back to the hub.
    pub fn unsubscribe(&mut self) {
        self.downlink = None;
    }

    /// Settles a command and gives its credit back. A command of a link that is gone only gives
    /// its credit back; the hub delivers it again.
    pub fn settle(&mut self, delivery: u64, how: Settlement) {
        if let Some(downlink) = &mut self.downlink {
            downlink.settle(delivery, how);
        }
    }

    /// The next event. Cancel-safe: dropping the future loses nothing. Pending while idle.
    pub async fn next(&mut self) -> HubEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<HubEvent> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Err(gone) = self.poll_links(cx) {
            self.uplink = None;
            self.downlink = None;
            self.methods = None;
            self.twin = None;
            self.place = Place::Gone;
            self.events.push_back(HubEvent::Gone(gone));
        }
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }

    fn poll_links(&mut self, cx: &mut Context<'_>) -> Result<(), DeviceGone> {
        self.leave_if_crowded();
        self.arrive(cx)?;
        let Place::At(path) = &self.place else {
            return Ok(());
        };
        if let Some(uplink) = &mut self.uplink {
            uplink.poll(path, cx, &mut self.events)?;
        }
        if let Some(downlink) = &mut self.downlink {
            downlink.poll(path, cx, &mut self.next_delivery, &mut self.events)?;
        }
        if let Some(methods) = &mut self.methods {
            methods.poll(path, cx, &mut self.events)?;
        }
        if self.methods.as_ref().is_some_and(|m| m.is_over()) {
            self.methods = None;
        }
        if let Some(twin) = &mut self.twin {
            twin.poll(path, cx, &mut self.events)?;
        }
        Ok(())
    }

    /// Gives up a place on a crowded connection while nothing is under way.
    fn leave_if_crowded(&mut self) {
        let quiet = self.uplink.as_ref().is_none_or(|uplink| uplink.quiet())
            && self.downlink.as_ref().is_none_or(|down| down.quiet())
            && self.methods.as_ref().is_none_or(|methods| methods.quiet())
            && self.twin.as_ref().is_none_or(|twin| twin.quiet());
        let crowded = matches!(&self.place, Place::At(path) if path.lane().crowded());
        if !(quiet && crowded) {
            return;
        }
        if let Place::At(path) = std::mem::replace(&mut self.place, Place::Gone) {
            let links = [
                self.uplink.as_mut().and_then(|uplink| uplink.leave()),
                self.downlink.as_mut().and_then(|down| down.leave()),
            ];
            let mut links: Vec<Live> = links.into_iter().flatten().collect();
            links.extend(self.methods.iter_mut().flat_map(|methods| methods.leave()));
            links.extend(self.twin.iter_mut().flat_map(|twin| twin.leave()));
            for live in &mut links {
                live.link.detach(None);
            }
            self.place = Place::Leaving(path.device, links);
        }
    }

    /// Finds the device a place as soon as it needs one.
    fn arrive(&mut self, cx: &mut Context<'_>) -> Result<(), DeviceGone> {
        if let Place::Leaving(_, closing) = &mut self.place {
            closing.retain_mut(|live| !detached(live, cx));
            if !closing.is_empty() {
                return Ok(());
            }
        }
        let wanted = self.downlink.is_some()
            || self.methods.is_some()
            || self.twin.as_ref().is_some_and(|twin| twin.is_wanted())
            || self.outstanding() > 0;
        self.place = match std::mem::replace(&mut self.place, Place::Gone) {
            Place::Nowhere(device) | Place::Leaving(device, _) if wanted => Place::At(Box::new(
                Path::of(device).map_err(|_no_room| full(NO_ROOM))?,
            )),
            Place::Leaving(device, _) => Place::Nowhere(device),
            place => place,
        };
        Ok(())
    }

    /// Ends the links in the background: messages in flight are abandoned unacknowledged,
    /// unsettled commands go back as `policy` says. Dropping is the same with `release`.
    pub fn close(mut self, policy: OnDisconnect) {
        if let Some(downlink) = &mut self.downlink {
            downlink.policy = policy;
        }
    }
}

const NO_ROOM: &str = "every hub connection has max_devices_per_connection devices";

/// Whether the hub has answered the detach of a link that is given up.
fn detached(live: &mut Live, cx: &mut Context<'_>) -> bool {
    loop {
        match live.link.poll(cx) {
            Poll::Pending => return false,
            Poll::Ready(LinkEvent::Refused(_) | LinkEvent::Detached(_) | LinkEvent::Stopped) => {
                return true;
            }
            Poll::Ready(_) => {}
        }
    }
}
