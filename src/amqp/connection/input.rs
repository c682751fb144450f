//! Bytes of the peer.

use super::{Closed, Connection, Fed, Stage};
use crate::amqp::event::Event;
use crate::amqp::fault::{Fault, Scope};
use crate::amqp::frame::{self, Head, Kind};
use crate::amqp::performative::{self, Begin, Close, End, Performative};
use crate::amqp::session::{Arrival, Session, SessionId, State};
use crate::amqp::slab::NONE;
use crate::runtime::clock::Mono;
use bytes::{Buf, Bytes, BytesMut};
use fe2o3_amqp_types::definitions::AmqpError;

/// Payloads below it are copied out of the read buffer; a larger one keeps it alive.
const COPY_BELOW: usize = 4096;

/// A message whose bytes are still in its frame, `from` on.
struct Fresh {
    event: Event,
    from: usize,
}

impl Connection {
    /// Takes whole frames from the front of `input`. What is left is the beginning of a frame,
    /// or what must wait ([`Fed::Busy`]).
    pub fn feed(&mut self, input: &mut BytesMut, now: Mono) -> Fed {
        loop {
            if self.stage == Stage::Over {
                input.clear();
                return Fed::Over;
            }
            let full = self.io.events.len() >= self.io.limits.events || self.io.output_full();
            if full || self.stage == Stage::SaslVerdict {
                return Fed::Busy;
            }
            if matches!(self.stage, Stage::FirstHeader | Stage::AmqpHeader) {
                let Some(header) = input.first_chunk::<8>().copied() else {
                    return Fed::Hungry;
                };
                input.advance(8);
                self.on_header(header);
                continue;
            }
            let sasl = matches!(
                self.stage,
                Stage::SaslMechanisms | Stage::SaslOutcome | Stage::SaslInit
            );
            let max = match sasl {
                true => self.io.limits.sasl_frame_size,
                false => self.io.limits.frame_size,
            };
            let head = match frame::head(input, max) {
                Ok(Some(head)) if head.size <= input.len() => head,
                Ok(_) => return Fed::Hungry,
                Err(fault) => {
                    self.fail(fault);
                    continue;
                }
            };
            self.heard = now;
            self.on_whole_frame(input, &head, sasl);
        }
    }

    fn on_whole_frame(&mut self, input: &mut BytesMut, head: &Head, sasl: bool) {
        let kind = if sasl { Kind::Sasl } else { Kind::Amqp };
        if head.kind != kind {
            input.advance(head.size);
            self.fail(Fault::framing("a frame is of the other layer's type"));
            return;
        }
        let frame = &input[..head.size];
        if sasl {
            let done = self.on_sasl(&frame[head.body..]);
            input.advance(head.size);
            if let Err(fault) = done {
                self.fail(fault);
            }
            return;
        }
        match self.on_frame(head, frame) {
            Ok(None) => input.advance(head.size),
            Ok(Some(Fresh { mut event, from })) => {
                let bytes = if head.size - from < COPY_BELOW {
                    let copy = Bytes::copy_from_slice(&frame[from..]);
                    input.advance(head.size);
                    copy
                } else {
                    input.split_to(head.size).freeze().slice(from..)
                };
                if let Event::Delivery { payload, .. } = &mut event {
                    *payload = bytes;
                }
                self.io.events.push_back(event);
            }
            Err((key, fault)) => {
                input.advance(head.size);
                self.on_fault(key, fault);
            }
        }
    }

    fn on_fault(&mut self, key: u32, fault: Fault) {
        match fault.scope {
            Scope::Connection => self.fail(fault),
            Scope::Session => self.fail_session(key, &fault),
            Scope::Link(link) => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.fail_link(&mut self.io, link, &fault);
                }
            }
        }
        self.touch(key);
    }

    /// An AMQP frame. A fault comes with the session it happened in.
    fn on_frame(&mut self, head: &Head, frame: &[u8]) -> Result<Option<Fresh>, (u32, Fault)> {
        let none = |fault| (NONE, fault);
        let body = &frame[head.body..];
        let performative = performative::decode(body, &self.io.limits).map_err(none)?;
        match performative {
            Performative::Empty => return Ok(None),
            Performative::Close(close) => {
                self.on_close(*close);
                return Ok(None);
            }
            _ if self.stage == Stage::Closing => return Ok(None),
            Performative::Open(open) if self.stage == Stage::Open => {
                self.on_open(open).map_err(none)?;
                return Ok(None);
            }
            Performative::Open(_) => return Err(none(illegal("a second open"))),
            _ if self.stage == Stage::Open => return Err(none(illegal("a frame before open"))),
            _ => {}
        }
        if head.channel > self.io.limits.channel_max {
            return Err(none(Fault::framing("a channel exceeds channel-max")));
        }
        if let Performative::Begin(begin) = performative {
            self.on_begin(head.channel, &begin).map_err(none)?;
            return Ok(None);
        }
        let key = self.local(head.channel).map_err(none)?;
        if let Performative::End(end) = performative {
            self.on_end(key, *end);
            return Ok(None);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(None);
        };
        if session.state != State::Mapped {
            return Ok(None);
        }
        let io = &mut self.io;
        let done = match performative {
            Performative::Transfer(transfer, payload) => {
                match session.on_transfer(io, &transfer, payload) {
                    Ok(Arrival::Nothing) => Ok(()),
                    Ok(Arrival::Whole(event)) => {
                        io.events.push_back(event);
                        Ok(())
                    }
                    Ok(Arrival::Single(event)) => {
                        let from = head.size - payload.len();
                        self.touch(key);
                        return Ok(Some(Fresh { event, from }));
                    }
                    Err(fault) => Err(fault),
                }
            }
            Performative::Disposition(disposition) => session.on_disposition(io, &disposition),
            Performative::Flow(flow) => session.on_flow(io, &flow),
            Performative::Attach(attach) => session.on_attach(io, attach),
            Performative::Detach(detach) => session.on_detach(io, *detach),
            _ => Ok(()),
        };
        done.map_err(|fault| (key, fault))?;
        self.touch(key);
        Ok(None)
    }

    /// Our channel of the peer's.
    fn local(&self, channel: u16) -> Result<u32, Fault> {
        match self.remote_channels.get(usize::from(channel)) {
            Some(key) if *key != NONE => Ok(*key),
            _ => Err(Fault::connection(
                AmqpError::NotAllowed,
                "a frame came on a channel without session",
            )),
        }
    }

    fn on_begin(&mut self, channel: u16, begin: &Begin) -> Result<(), Fault> {
        if self.local(channel).is_ok() {
            return Err(illegal("a begin on a channel that has a session"));
        }
        let key = match begin.remote_channel {
            Some(ours) => {
                let key = u32::from(ours);
                let fits = |s: &Session| s.remote_channel.is_none();
                if !self.sessions.get(key).is_some_and(fits) {
                    return Err(illegal("a begin answers none of ours"));
                }
                key
            }
            None => self.invited()?,
        };
        let at = usize::from(channel);
        if self.remote_channels.len() <= at {
            self.remote_channels.resize(at + 1, NONE);
        }
        self.remote_channels[at] = key;
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        if session.state == State::EndSent {
            // We ended it before the answer came: the peer's END follows.
            session.remote_channel = Some(channel);
            return Ok(());
        }
        session.on_begin(channel, begin);
        let by_peer = begin.remote_channel.is_none();
        let id = session.id;
        if by_peer && session.put_begin(&mut self.io).is_err() {
            return Err(illegal(
                "a begin cannot be answered in the peer's frame size",
            ));
        }
        self.io.events.push_back(Event::Begun {
            session: id,
            by_peer,
        });
        Ok(())
    }

    /// A session for the peer's BEGIN.
    fn invited(&mut self) -> Result<u32, Fault> {
        let key = self.sessions.next_key();
        if key > u32::from(self.remote_channel_max) {
            let what = "no channel within the peer's channel-max is left to answer a begin";
            return Err(Fault::connection(AmqpError::ResourceLimitExceeded, what));
        }
        let id = SessionId {
            channel: key as u16,
            generation: self.io.generation(),
        };
        let session = Session::new(id, &self.io);
        Ok(self.sessions.insert(session))
    }

    /// The peer's END. Its channel is free at once: it may be begun again in the next frame.
    fn on_end(&mut self, key: u32, end: End) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.put_end(&mut self.io, None);
        }
        self.end_session(key, end.error.as_ref());
    }

    fn on_close(&mut self, close: Close) {
        if self.stage == Stage::Closing {
            self.finish(Closed::Local, close.error.as_ref());
            return;
        }
        if self.stage == Stage::Up {
            self.flush();
        }
        self.put_close(None);
        let error = close.error;
        self.finish(Closed::Peer(error.clone().map(Box::new)), error.as_ref());
    }
}

fn illegal(what: &'static str) -> Fault {
    Fault::connection(AmqpError::IllegalState, what)
}
