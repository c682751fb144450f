//! DISPOSITION (2.7.6) in both directions: one open range, written when something else must be
//! said or the turn ends.

use super::{Io, Session};
use crate::amqp::delivery::{DeliveryId, Outcome, State as DeliveryState};
use crate::amqp::event::Event;
use crate::amqp::fault::Fault;
use crate::amqp::frame::{self, Kind};
use crate::amqp::link::{Phase, Stale};
use crate::amqp::performative::Disposition;
use crate::amqp::types::code;
use bytes::BytesMut;

const ACCEPTED: &[u8] = &[code::DESCRIBED, code::SMALL_ULONG, 0x24, code::LIST0];
const RELEASED: &[u8] = &[code::DESCRIBED, code::SMALL_ULONG, 0x26, code::LIST0];

/// Consecutive deliveries that ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    receiver: bool,
    settled: bool,
    state: Option<&'static [u8]>,
    first: u32,
    last: u32,
}

impl Session {
    /// The peer's DISPOSITION. Costs what it settles, not what it names.
    pub fn on_disposition(&mut self, io: &mut Io, d: &Disposition<'_>) -> Result<(), Fault> {
        let state = d
            .state
            .map(|state| DeliveryState::decode(state, &io.limits));
        let state = state
            .transpose()
            .map_err(|malformed| Fault::decode(malformed.0))?;
        let last = d.last.unwrap_or(d.first);
        if d.receiver {
            let outcome = match (state, d.settled) {
                (Some(DeliveryState::Terminal(outcome)), _) => outcome,
                (_, true) => Outcome::Settled,
                (_, false) => return Ok(()),
            };
            self.outcomes(io, d.first, last, d.settled, &outcome);
            self.wake(io);
        } else if d.settled {
            self.settled_by_sender(d.first, last);
        }
        Ok(())
    }

    fn outcomes(&mut self, io: &mut Io, first: u32, last: u32, settled: bool, outcome: &Outcome) {
        let mut cursor = self.sent.cursor(first, last);
        while let Some((key, at)) = self.sent.seek(&mut cursor) {
            let Some(link) = self.links.get_mut(at) else {
                break;
            };
            let Some(delivery) = self.sent.remove(&mut link.unsettled, key) else {
                break;
            };
            io.events.push_back(Event::Outcome {
                link: link.id,
                token: link.token,
                delivery: delivery.token,
                outcome: outcome.clone(),
            });
            if !settled {
                // The receiver waits for us to forget it first.
                self.extend(io, false, delivery.id, true, None);
            }
        }
    }

    fn settled_by_sender(&mut self, first: u32, last: u32) {
        let mut cursor = self.received.cursor(first, last);
        while let Some((key, at)) = self.received.seek(&mut cursor) {
            let Some(link) = self.links.get_mut(at) else {
                break;
            };
            if let Some(incoming) = &mut link.incoming
                && incoming.key == key
            {
                // Not whole yet: it arrives as a settled one.
                incoming.settled = true;
                continue;
            }
            self.received.remove(&mut link.unsettled, key);
        }
        self.flow_owed |= self.half_used();
    }

    /// The user's word about a delivery it received.
    pub fn settle(&mut self, io: &mut Io, id: DeliveryId, outcome: &Outcome) -> Result<(), Stale> {
        let link = self.links.get_mut(id.link.handle).ok_or(Stale)?;
        if link.id != id.link || link.phase != Phase::Attached {
            return Err(Stale);
        }
        let delivery = self.received.get_mut(id.key, id.id).ok_or(Stale)?;
        if delivery.answered {
            return Err(Stale);
        }
        let settled = !delivery.second;
        if settled {
            self.received.remove(&mut link.unsettled, id.key);
        } else {
            delivery.answered = true;
        }
        match outcome {
            Outcome::Accepted => self.extend(io, true, id.id, settled, Some(ACCEPTED)),
            Outcome::Released => self.extend(io, true, id.id, settled, Some(RELEASED)),
            Outcome::Settled | Outcome::Unknown => self.extend(io, true, id.id, settled, None),
            other => {
                self.flush_range(io);
                let mut state = BytesMut::new();
                other.encode(&mut state);
                self.put_disposition(io, true, id.id, id.id, settled, Some(&state));
            }
        }
        self.flow_owed |= self.half_used();
        Ok(())
    }

    /// Adds a delivery to the open range, or writes that and opens another.
    fn extend(
        &mut self,
        io: &mut Io,
        receiver: bool,
        id: u32,
        settled: bool,
        state: Option<&'static [u8]>,
    ) {
        if let Some(range) = &mut self.range
            && (range.receiver, range.settled, range.state) == (receiver, settled, state)
        {
            if id == range.last.wrapping_add(1) {
                range.last = id;
                return;
            }
            if id == range.first.wrapping_sub(1) {
                range.first = id;
                return;
            }
        }
        self.flush_range(io);
        self.range = Some(Range {
            receiver,
            settled,
            state,
            first: id,
            last: id,
        });
    }

    /// Writes the open range.
    pub(super) fn flush_range(&mut self, io: &mut Io) {
        if let Some(r) = self.range.take() {
            self.put_disposition(io, r.receiver, r.first, r.last, r.settled, r.state);
        }
    }

    fn put_disposition(
        &self,
        io: &mut Io,
        receiver: bool,
        first: u32,
        last: u32,
        settled: bool,
        state: Option<&[u8]>,
    ) {
        let disposition = Disposition {
            receiver,
            first,
            last: (last != first).then_some(last),
            settled,
            state,
            batchable: false,
        };
        let at = frame::begin(&mut io.out, Kind::Amqp, self.id.channel);
        disposition.encode(&mut io.out);
        if frame::finish(&mut io.out, at) > io.frame_max {
            // An error with too many words does not fit the peer's frames: the outcome does.
            io.out.truncate(at);
            let short = state.and_then(|state| state.get(..3));
            let short = short.map(|head| [head, &[code::LIST0]].concat());
            if short.as_deref() != state {
                self.put_disposition(io, receiver, first, last, settled, short.as_deref());
            }
        }
    }
}
