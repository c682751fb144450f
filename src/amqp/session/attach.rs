//! ATTACH and DETACH (2.6.3–2.6.6, 2.7.3, 2.7.7). Any number may be under way at once.

use super::{Io, Session, State};
use crate::amqp::event::Event;
use crate::amqp::fault::Fault;
use crate::amqp::link::{self, Link, LinkId, Phase, Stale};
use crate::amqp::performative::{Attach, Detach, TooLarge};
use crate::amqp::slab::NONE;
use fe2o3_amqp_types::definitions::{
    AmqpError, Error, Handle, ReceiverSettleMode, Role, SessionError,
};

impl Session {
    /// The handle the next link gets, if the peer's handle-max allows it.
    pub fn next_handle(&self) -> Option<u32> {
        let handle = self.links.next_key();
        (handle <= self.remote_handle_max).then_some(handle)
    }

    /// Attaches a link. `attach.name` is the stem of its name.
    pub fn attach(
        &mut self,
        io: &mut Io,
        id: LinkId,
        mut attach: Attach,
        credit: u32,
        token: u64,
    ) -> Result<(), TooLarge> {
        let sender = attach.role == Role::Sender;
        let mut link = Link::new(id, token, Phase::AttachSent, sender);
        attach.name = link::fresh_name(&attach.name, id);
        self.dress(io, &mut link, &mut attach, credit);
        io.put(self.id.channel, &attach)?;
        self.links.insert(link);
        if !sender && credit > 0 {
            self.flows.push(&mut self.links, id.handle);
        }
        Ok(())
    }

    /// Fills in what is the engine's part of an ATTACH of ours, and notes what is the link's.
    fn dress(&self, io: &Io, link: &mut Link, attach: &mut Attach, credit: u32) {
        attach.handle = Handle(link.id.handle);
        attach.unsettled = None;
        attach.incomplete_unsettled = false;
        if link.sender {
            attach.initial_delivery_count = Some(io.first_id);
            link.delivery_count = io.first_id;
            link.snd_settle_mode = attach.snd_settle_mode.clone();
        } else {
            let most = io.limits.message_size;
            let size = match attach.max_message_size {
                Some(0) | None => most,
                Some(asked) => asked.min(most),
            };
            attach.initial_delivery_count = None;
            attach.max_message_size = Some(size);
            link.max_message_size = size;
            link.second = attach.rcv_settle_mode == ReceiverSettleMode::Second;
            link.credit = credit.min(i32::MAX as u32);
            link.credit_end = link.delivery_count.wrapping_add(link.credit);
        }
    }

    /// The peer's ATTACH: an answer to ours, or a link it begins.
    pub fn on_attach(&mut self, io: &mut Io, attach: Box<Attach>) -> Result<(), Fault> {
        let handle = attach.handle.0;
        if handle > io.limits.handle_max {
            return Err(Fault::framing("a handle exceeds handle-max"));
        }
        if self.slot(handle).is_ok() {
            return Err(Fault::session(
                SessionError::HandleInUse,
                "an attach names a handle that is in use",
            ));
        }
        let sender = attach.role == Role::Receiver;
        match self.asked_for(&attach.name, sender) {
            Some(key) => {
                self.note_handle(handle, key);
                self.on_answer(io, key, attach)
            }
            None => self.on_offer(io, sender, attach),
        }
    }

    /// The slot of our own ATTACH that has this name and is not answered yet.
    fn asked_for(&self, name: &str, sender: bool) -> Option<u32> {
        let (key, generation) = link::parse_name(name)?;
        let link = self.links.get(key)?;
        let ours = link.id.generation == generation && link.name.is_none();
        let open = link.remote_handle == NONE && link.sender == sender;
        (ours && open).then_some(key)
    }

    fn note_handle(&mut self, handle: u32, key: u32) {
        let at = handle as usize;
        if self.remote_handles.len() <= at {
            self.remote_handles.resize(at + 1, NONE);
        }
        self.remote_handles[at] = key;
        if let Some(link) = self.links.get_mut(key) {
            link.remote_handle = handle;
        }
    }

    fn on_answer(&mut self, io: &mut Io, key: u32, attach: Box<Attach>) -> Result<(), Fault> {
        let Some(link) = self.links.get_mut(key) else {
            return Ok(());
        };
        if link.phase != Phase::AttachSent {
            // We detached before the answer came: the peer's DETACH follows.
            return Ok(());
        }
        Self::learn(link, &attach)?;
        let terminus = if link.sender {
            attach.target.is_some()
        } else {
            attach.source.is_some()
        };
        if !terminus {
            link.phase = Phase::Refusing;
            return Ok(());
        }
        link.phase = Phase::Attached;
        let (link, token) = (link.id, link.token);
        io.events.push_back(Event::Attached {
            link,
            token,
            attach,
        });
        Ok(())
    }

    /// Notes what the peer decides about a link.
    fn learn(link: &mut Link, attach: &Attach) -> Result<(), Fault> {
        if link.sender {
            link.max_message_size = attach.max_message_size.unwrap_or(0);
            link.second = attach.rcv_settle_mode == ReceiverSettleMode::Second;
            return Ok(());
        }
        let Some(count) = attach.initial_delivery_count else {
            let what = "a sender's attach has no initial-delivery-count";
            return Err(Fault::link(link.id.handle, AmqpError::InvalidField, what));
        };
        link.delivery_count = count;
        link.credit_end = count.wrapping_add(link.credit);
        Ok(())
    }

    fn on_offer(&mut self, io: &mut Io, sender: bool, attach: Box<Attach>) -> Result<(), Fault> {
        let Some(handle) = self.next_handle() else {
            return Err(Fault::session(
                AmqpError::ResourceLimitExceeded,
                "no handle within the peer's handle-max is left to answer an attach",
            ));
        };
        let id = LinkId {
            channel: self.id.channel,
            handle,
            generation: io.generation(),
        };
        let mut link = Link::new(id, 0, Phase::Offered, sender);
        let taken = self
            .names
            .get(attach.name.as_str())
            .is_some_and(|slots| slots[usize::from(sender)] != NONE);
        let learned = Self::learn(&mut link, &attach);
        if sender {
            link.delivery_count = io.first_id;
        }
        link.told = taken || learned.is_err();
        let key = self.links.insert(link);
        self.note_handle(attach.handle.0, key);
        if taken {
            let what = "the session has a link of this name and role";
            let error = Error::new(AmqpError::NotAllowed, Some(what.to_owned()), None);
            let _ = self.refuse(io, id, &attach.name, error);
            return Ok(());
        }
        let name: Box<str> = attach.name.as_str().into();
        self.names.entry(name.clone()).or_insert([NONE, NONE])[usize::from(sender)] = key;
        if let Some(link) = self.links.get_mut(key) {
            link.name = Some(name.clone());
        }
        if let Err(fault) = learned {
            let _ = self.refuse(io, id, &name, fault.error());
            return Ok(());
        }
        io.events.push_back(Event::Attaching { link: id, attach });
        Ok(())
    }

    /// Answers the peer's ATTACH. `attach` is the peer's, with what shall differ.
    pub fn accept(
        &mut self,
        io: &mut Io,
        id: LinkId,
        mut attach: Attach,
        credit: u32,
        token: u64,
    ) -> Result<(), Stale> {
        let key = id.handle;
        let link = self.link(id)?;
        if link.phase != Phase::Offered || self.state != State::Mapped {
            return Err(Stale);
        }
        attach.role = if link.sender {
            Role::Sender
        } else {
            Role::Receiver
        };
        let count = link.delivery_count;
        let mut answer = Link::new(id, token, Phase::Attached, link.sender);
        self.dress(io, &mut answer, &mut attach, credit);
        let name = self.link(id)?.name.clone().unwrap_or_default();
        attach.name = name.to_string();
        if io.put(self.id.channel, &attach).is_err() {
            let error = Error::new(AmqpError::FrameSizeTooSmall, None, None);
            return self.refuse(io, id, &name, error);
        }
        let link = self.link_mut(id)?;
        (link.phase, link.token) = (Phase::Attached, token);
        link.snd_settle_mode = answer.snd_settle_mode;
        if !link.sender {
            (link.max_message_size, link.second) = (answer.max_message_size, answer.second);
            link.credit = answer.credit;
            link.credit_end = count.wrapping_add(link.credit);
        }
        if (!link.sender && credit > 0) || (link.sender && link.drain) {
            self.flows.push(&mut self.links, key);
        }
        Ok(())
    }

    /// Refuses the peer's ATTACH (2.6.3): an ATTACH without terminus, then a DETACH with the error.
    pub fn refuse(
        &mut self,
        io: &mut Io,
        id: LinkId,
        name: &str,
        error: Error,
    ) -> Result<(), Stale> {
        let link = self.link_mut(id)?;
        if link.phase != Phase::Offered {
            return Err(Stale);
        }
        let mut attach = if link.sender {
            link::sender(name, "")
        } else {
            link::receiver(name, "")
        };
        attach.handle = Handle(id.handle);
        (attach.source, attach.target) = (None, None);
        if link.sender {
            attach.initial_delivery_count = Some(link.delivery_count);
        }
        link.told = true;
        let _ = io.put(self.id.channel, &attach);
        self.put_detach(io, id.handle, true, Some(error));
        Ok(())
    }

    /// Detaches a link for good. `Event::Detached` follows when the peer has done so too.
    pub fn detach(&mut self, io: &mut Io, id: LinkId, error: Option<Error>) -> Result<(), Stale> {
        let link = self.link(id)?;
        if self.state != State::Mapped || !link.speaks() {
            return Err(Stale);
        }
        self.put_detach(io, id.handle, true, error);
        Ok(())
    }

    /// Detaches a link because of the peer's fault; its user is told now.
    pub fn fail_link(&mut self, io: &mut Io, key: u32, fault: &Fault) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if !matches!(
            link.phase,
            Phase::Attached | Phase::AttachSent | Phase::Offered
        ) {
            return;
        }
        if link.phase == Phase::Offered {
            let (id, name) = (link.id, link.name.clone().unwrap_or_default());
            let _ = self.refuse(io, id, &name, fault.error());
        } else {
            self.put_detach(io, key, true, Some(fault.error()));
        }
        self.lose(io, key);
        if let Some(link) = self.links.get_mut(key) {
            link.told = true;
            let (link, token) = (link.id, link.token);
            io.events.push_back(Event::Detached {
                link,
                token,
                error: Some(Box::new(fault.error())),
                alone: true,
            });
        }
    }

    /// Writes DETACH. Settlements of this turn go before it; nothing about the link goes after it.
    fn put_detach(&mut self, io: &mut Io, key: u32, closed: bool, error: Option<Error>) {
        self.flush_range(io);
        self.waiting.remove(&mut self.links, key);
        self.flows.remove(&mut self.links, key);
        if self.partial.as_ref().is_some_and(|p| p.link == key) {
            self.partial = None;
        }
        if let Some(link) = self.links.get_mut(key) {
            link.phase = Phase::DetachSent;
            link.wants = false;
        }
        let mut detach = Detach {
            handle: Handle(key),
            closed,
            error,
        };
        if io.put(self.id.channel, &detach).is_err() {
            detach.error = None;
            let _ = io.put(self.id.channel, &detach);
        }
    }

    /// The peer's DETACH. Whether it closes or suspends the link, the link has ended: it is never
    /// resumed, and our answer repeats the peer's word (2.6.5, 2.6.6).
    pub fn on_detach(&mut self, io: &mut Io, detach: Detach) -> Result<(), Fault> {
        if self.gone(detach.handle.0) {
            return Ok(());
        }
        let key = self.slot(detach.handle.0)?;
        let Some(link) = self.links.get(key) else {
            return Ok(());
        };
        let (id, token, phase) = (link.id, link.token, link.phase);
        match phase {
            Phase::Offered => {
                if let Some(link) = self.links.get_mut(key) {
                    link.told = true;
                }
                let name = self.links.get(key).and_then(|link| link.name.clone());
                let _ = self.refuse(
                    io,
                    id,
                    &name.unwrap_or_default(),
                    AmqpError::NotAllowed.into(),
                );
                io.events.push_back(Event::Detached {
                    link: id,
                    token,
                    error: detach.error.map(Box::new),
                    alone: true,
                });
                self.forget(key);
                return Ok(());
            }
            Phase::Refusing => {
                self.put_detach(io, key, true, None);
                self.forget(key);
                let error = detach.error.map(Box::new);
                let event = Event::Refused {
                    link: id,
                    token,
                    error,
                };
                io.events.push_back(event);
                return Ok(());
            }
            Phase::Attached => self.put_detach(io, key, detach.closed, None),
            Phase::AttachSent | Phase::DetachSent => {}
        }
        self.end_link(io, key, detach.error.as_ref(), true);
        Ok(())
    }
}
