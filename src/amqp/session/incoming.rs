//! Messages we receive: TRANSFERs (2.7.5) put together, within window, credit and size.

use super::{Io, Session};
use crate::amqp::delivery::DeliveryId;
use crate::amqp::event::Event;
use crate::amqp::fault::Fault;
use crate::amqp::link::{Incoming, LinkId, Phase, Stale};
use crate::amqp::performative::Transfer;
use crate::amqp::slab::NONE;
use crate::amqp::types;
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{AmqpError, LinkError, SessionError};

/// What a TRANSFER made.
pub(in crate::amqp) enum Arrival {
    /// Nothing to tell yet.
    Nothing,
    /// A delivery, whole.
    Whole(Event),
    /// A delivery in one frame: the event lacks its payload, which is the frame's.
    Single(Event),
}

impl Session {
    /// Whether the peer has used half of the window it was offered.
    pub(super) fn half_used(&self) -> bool {
        self.incoming_window <= self.offered / 2
    }

    /// The peer's TRANSFER, and the bytes after it.
    pub fn on_transfer(
        &mut self,
        io: &mut Io,
        transfer: &Transfer<'_>,
        payload: &[u8],
    ) -> Result<Arrival, Fault> {
        if self.incoming_window == 0 {
            let what = "a transfer was sent while the session's window was closed";
            return Err(Fault::session(SessionError::WindowViolation, what));
        }
        self.incoming_window -= 1;
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        self.flow_owed |= self.half_used();
        let key = self.slot(transfer.handle)?;
        let Some(link) = self.links.get_mut(key) else {
            return Ok(Arrival::Nothing);
        };
        if link.incoming.is_some() {
            return self.on_next(io, key, transfer, payload);
        }
        let heard = link.phase == Phase::Attached || link.phase == Phase::Offered;
        let in_sequence = match transfer.delivery_id {
            Some(id) if !self.received_any => {
                self.received.start(id);
                self.received_any = true;
                true
            }
            Some(id) => id == self.received.next(),
            None => false,
        };
        if !heard || link.sender {
            // Crossed our DETACH: of no interest, but it may use up a delivery-id.
            if in_sequence {
                self.received.skip();
            }
            if heard {
                let what = "a transfer was sent to a sender";
                return Err(Fault::link(key, AmqpError::NotAllowed, what));
            }
            return Ok(Arrival::Nothing);
        }
        if !in_sequence {
            let what = "a delivery's first transfer has not the next delivery-id";
            return Err(Fault::session(AmqpError::InvalidField, what));
        }
        self.on_first(io, key, transfer, payload)
    }

    fn on_first(
        &mut self,
        io: &mut Io,
        key: u32,
        transfer: &Transfer<'_>,
        payload: &[u8],
    ) -> Result<Arrival, Fault> {
        let id = self.received.next();
        let Some(link) = self.links.get_mut(key) else {
            return Ok(Arrival::Nothing);
        };
        let credit = types::before(link.delivery_count, link.credit_end);
        let fits = link.max_message_size == 0 || payload.len() as u64 <= link.max_message_size;
        let fault = if !credit {
            Some(Fault::over_credit(key))
        } else if transfer.resume {
            let what = "links are not resumed here";
            Some(Fault::link(key, AmqpError::NotImplemented, what))
        } else if transfer.delivery_tag.is_none() {
            let what = "a delivery's first transfer has no delivery-tag";
            Some(Fault::link(key, AmqpError::InvalidField, what))
        } else if !fits {
            Some(too_large(key))
        } else {
            None
        };
        if let Some(fault) = fault {
            self.received.skip();
            return Err(fault);
        }
        link.delivery_count = link.delivery_count.wrapping_add(1);
        link.credit = link.credit.saturating_sub(1);
        let settled = transfer.settled.unwrap_or(false);
        if transfer.aborted {
            self.received.skip();
            return Ok(Arrival::Nothing);
        }
        let message_format = transfer.message_format.unwrap_or(0);
        let whole = !transfer.more;
        let delivery = if whole && settled {
            self.received.skip();
            NONE
        } else {
            // The sender may ask for less than the link's mode, not for more (2.7.5).
            let second = link.second && transfer.rcv_settle_mode != Some(0);
            self.received.push(&mut link.unsettled, key, 0, second)
        };
        if whole {
            let event = arrived(link.id, link.token, (delivery, id), message_format, settled);
            return Ok(Arrival::Single(event));
        }
        let incoming = Incoming {
            key: delivery,
            id,
            message_format,
            settled,
            bytes: BytesMut::new(),
        };
        link.incoming = Some(Box::new(incoming));
        self.append(io, key, payload)?;
        Ok(Arrival::Nothing)
    }

    fn on_next(
        &mut self,
        io: &mut Io,
        key: u32,
        transfer: &Transfer<'_>,
        payload: &[u8],
    ) -> Result<Arrival, Fault> {
        let Some(link) = self.links.get_mut(key) else {
            return Ok(Arrival::Nothing);
        };
        let Some(incoming) = &mut link.incoming else {
            return Ok(Arrival::Nothing);
        };
        if transfer.delivery_id.is_some_and(|id| id != incoming.id) {
            let what = "a delivery begins on a link before the one before it is whole";
            return Err(Fault::session(AmqpError::InvalidField, what));
        }
        incoming.settled |= transfer.settled.unwrap_or(false);
        if !transfer.aborted {
            let more = transfer.more;
            self.append(io, key, payload)?;
            if more {
                return Ok(Arrival::Nothing);
            }
        }
        let Some(link) = self.links.get_mut(key) else {
            return Ok(Arrival::Nothing);
        };
        let Some(incoming) = link.incoming.take() else {
            return Ok(Arrival::Nothing);
        };
        io.incoming_bytes -= incoming.bytes.len();
        let mut delivery = incoming.key;
        if incoming.settled || transfer.aborted {
            self.received.remove(&mut link.unsettled, delivery);
            delivery = NONE;
        }
        if transfer.aborted {
            return Ok(Arrival::Nothing);
        }
        let names = (delivery, incoming.id);
        let format = incoming.message_format;
        let mut event = arrived(link.id, link.token, names, format, incoming.settled);
        if let Event::Delivery { payload, .. } = &mut event {
            *payload = incoming.bytes.freeze();
        }
        Ok(Arrival::Whole(event))
    }

    /// Adds a frame's bytes to a delivery, if there is room for them.
    fn append(&mut self, io: &mut Io, key: u32, payload: &[u8]) -> Result<(), Fault> {
        let Some(link) = self.links.get_mut(key) else {
            return Ok(());
        };
        let limit = link.max_message_size;
        let Some(incoming) = &mut link.incoming else {
            return Ok(());
        };
        let size = (incoming.bytes.len() + payload.len()) as u64;
        if limit != 0 && size > limit {
            return Err(too_large(key));
        }
        if io.incoming_bytes + payload.len() > io.limits.incoming_bytes {
            let what = "too many bytes of messages that are not whole yet";
            return Err(Fault::link(key, AmqpError::ResourceLimitExceeded, what));
        }
        io.incoming_bytes += payload.len();
        incoming.bytes.extend_from_slice(payload);
        Ok(())
    }

    /// Says how many deliveries a link may receive from now on.
    pub fn set_credit(&mut self, id: LinkId, credit: u32, drain: bool) -> Result<(), Stale> {
        let link = self.link_mut(id)?;
        if link.sender || !link.speaks() {
            return Err(Stale);
        }
        link.credit = credit.min(i32::MAX as u32);
        link.drain = drain;
        let end = link.delivery_count.wrapping_add(link.credit);
        // What was granted once may be on its way: less credit is no reason to punish it.
        if types::before(link.credit_end, end) {
            link.credit_end = end;
        }
        self.flows.push(&mut self.links, id.handle);
        Ok(())
    }
}

fn too_large(key: u32) -> Fault {
    let what = "a message exceeds the link's max-message-size";
    Fault::link(key, LinkError::MessageSizeExceeded, what)
}

fn arrived(
    link: LinkId,
    token: u64,
    (key, id): (u32, u32),
    message_format: u32,
    settled: bool,
) -> Event {
    Event::Delivery {
        link,
        token,
        delivery: DeliveryId { link, key, id },
        payload: Bytes::new(),
        message_format,
        settled,
    }
}
