//! Messages we send: TRANSFERs (2.7.5), in as many frames as the peer's frame size asks for.

use super::{Io, Session, State};
use crate::amqp::delivery::DeliveryId;
use crate::amqp::event::Event;
use crate::amqp::frame::{self, Kind};
use crate::amqp::link::{LinkId, Message, Phase, SendError};
use crate::amqp::performative::Transfer;
use crate::amqp::slab::NONE;
use bytes::{BufMut, Bytes};
use fe2o3_amqp_types::definitions::SenderSettleMode;

/// Frame header and the longest TRANSFER we write.
const OVERHEAD: usize = 48;

/// A delivery whose next frames wait for the peer's session window. There is at most one in a
/// session: with the window closed no other begins.
#[derive(Debug)]
pub(super) struct Partial {
    pub link: u32,
    id: u32,
    head: Bytes,
    body: Bytes,
    aborted: bool,
}

impl Session {
    /// Whether the session, whatever the link, can take a message now.
    fn blocked(&self, io: &Io) -> bool {
        self.remote_window == 0
            || self.partial.is_some()
            || io.output_full()
            || !self.sent.has_room(&io.limits)
    }

    /// Sends a message, or says why not.
    pub fn send(
        &mut self,
        io: &mut Io,
        id: LinkId,
        message: &Message<'_>,
    ) -> Result<DeliveryId, SendError> {
        let blocked = self.blocked(io);
        let Some(link) = self.links.get_mut(id.handle) else {
            return Err(SendError::Stale);
        };
        if link.id != id || link.phase != Phase::Attached || self.state != State::Mapped {
            return Err(SendError::Stale);
        }
        let size = (message.head.len() + message.body.len()) as u64;
        let limit = link.max_message_size;
        if limit != 0 && size > limit {
            return Err(SendError::TooLarge { limit });
        }
        let forbidden = match link.snd_settle_mode {
            SenderSettleMode::Settled => !message.settled,
            SenderSettleMode::Unsettled => message.settled,
            SenderSettleMode::Mixed => false,
        };
        if forbidden || !link.sender {
            return Err(SendError::NotAllowed);
        }
        if link.credit == 0 || blocked {
            link.wants = true;
            if link.credit > 0 {
                self.waiting.push(&mut self.links, id.handle);
            }
            return Err(SendError::WouldBlock);
        }
        link.credit -= 1;
        link.delivery_count = link.delivery_count.wrapping_add(1);
        let number = self.sent.next();
        let key = if message.settled {
            self.sent.skip();
            NONE
        } else {
            let list = &mut link.unsettled;
            self.sent.push(list, id.handle, message.token, link.second)
        };
        let rest = (message.head, &message.body[..]);
        let tag = number.to_be_bytes();
        let first = Transfer {
            delivery_tag: Some(&tag),
            message_format: Some(0),
            settled: Some(message.settled),
            ..Transfer::default()
        };
        let (head, body) = self.put_frames(io, id.handle, number, first, rest);
        if head.len() + body.len() > 0 {
            let head = Bytes::copy_from_slice(head);
            let body = message.body.slice(message.body.len() - body.len()..);
            self.partial = Some(Box::new(Partial {
                link: id.handle,
                id: number,
                head,
                body,
                aborted: false,
            }));
        }
        let link = id;
        Ok(DeliveryId {
            link,
            key,
            id: number,
        })
    }

    /// Writes frames until the message or the window ends; answers what is left.
    fn put_frames<'m>(
        &mut self,
        io: &mut Io,
        handle: u32,
        id: u32,
        first: Transfer<'_>,
        (mut head, mut body): (&'m [u8], &'m [u8]),
    ) -> (&'m [u8], &'m [u8]) {
        let room = io.frame_max - OVERHEAD;
        let mut transfer = first;
        while self.remote_window > 0 {
            let left = head.len() + body.len();
            transfer.handle = handle;
            transfer.delivery_id = Some(id);
            transfer.more = left > room;
            let at = frame::begin(&mut io.out, Kind::Amqp, self.id.channel);
            transfer.encode(&mut io.out);
            let chunk = left.min(room);
            let (now, later) = head.split_at(head.len().min(chunk));
            io.out.put_slice(now);
            head = later;
            let (now, later) = body.split_at(chunk - now.len());
            io.out.put_slice(now);
            body = later;
            frame::finish(&mut io.out, at);
            self.remote_window -= 1;
            self.next_outgoing_id = self.next_outgoing_id.wrapping_add(1);
            if !transfer.more {
                break;
            }
            transfer = Transfer::default();
        }
        (head, body)
    }

    /// Goes on with the delivery that waits for the window.
    pub(super) fn resume_partial(&mut self, io: &mut Io) {
        if self.remote_window == 0 {
            return;
        }
        let Some(mut partial) = self.partial.take() else {
            return;
        };
        let next = Transfer {
            aborted: partial.aborted,
            ..Transfer::default()
        };
        if partial.aborted {
            self.put_frames(io, partial.link, partial.id, next, (&[], &[]));
            return;
        }
        let rest = (&partial.head[..], &partial.body[..]);
        let (head, body) = self.put_frames(io, partial.link, partial.id, next, rest);
        let (head, body) = (head.len(), body.len());
        if head + body > 0 {
            partial.head = partial.head.slice(partial.head.len() - head..);
            partial.body = partial.body.slice(partial.body.len() - body..);
            self.partial = Some(partial);
        }
    }

    /// Withdraws a delivery of which not every frame is written (2.6.14, aborted). Its outcome
    /// is `Unknown`, at once. False: it is written whole, or has its outcome.
    pub fn abort(&mut self, io: &mut Io, id: DeliveryId) -> bool {
        let Some(partial) = &mut self.partial else {
            return false;
        };
        if (partial.link, partial.id) != (id.link.handle, id.id) || partial.aborted {
            return false;
        }
        partial.aborted = true;
        (partial.head, partial.body) = (Bytes::new(), Bytes::new());
        if let Some(link) = self.links.get_mut(partial.link)
            && let Some(delivery) = self.sent.remove(&mut link.unsettled, id.key)
        {
            io.events.push_back(Event::Outcome {
                link: link.id,
                token: link.token,
                delivery: delivery.token,
                outcome: crate::amqp::Outcome::Unknown,
            });
        }
        true
    }

    /// Tells links that wait to try again: as many as the window has room for, so that nobody is
    /// woken for nothing. Those that do not use it leave it to the next turn's.
    pub fn wake(&mut self, io: &mut Io) {
        if self.waiting.is_empty() || self.blocked(io) {
            return;
        }
        let mut room = self.remote_window;
        while room > 0
            && let Some(key) = self.waiting.pop(&mut self.links)
        {
            let Some(link) = self.links.get_mut(key) else {
                continue;
            };
            if link.phase != Phase::Attached || link.credit == 0 {
                continue;
            }
            link.wants = false;
            room -= 1;
            io.events.push_back(Event::Credit {
                link: link.id,
                token: link.token,
                credit: link.credit,
            });
        }
    }
}
