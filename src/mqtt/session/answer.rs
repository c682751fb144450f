//! What the driver has a device told: subscriptions granted, requests answered; and what a device
//! had said when its connection ended.

use super::{Deliver, Event, Session, Stage, State, Ticket};
use crate::mqtt::decode::{self, Kind};
use crate::mqtt::encode;
use crate::mqtt::inflight::Verdict;
use crate::mqtt::packet::{Packet, PacketId, Protocol, QoS};
use bytes::{Buf, BytesMut};

impl Session {
    /// Answers SUBSCRIBE; `None` = refused (0x80, MQTT 5: 0x87), QoS 2 is granted as 1.
    ///
    /// `false`: this cannot be answered, and the driver closes. 3.1 has no code for a refusal
    /// (3.1 §3.9), and the answer has to fit the client's Maximum Packet Size.
    #[must_use]
    pub fn suback(&mut self, id: PacketId, granted: &[Option<QoS>], out: &mut BytesMut) -> bool {
        let refused = match self.protocol {
            Protocol::V31 if granted.contains(&None) => return false,
            Protocol::V31 | Protocol::V311 => 0x80,
            Protocol::V5 => 0x87,
        };
        let code = |qos: &Option<QoS>| qos.map_or(refused, |qos| qos.min(QoS::AtLeastOnce) as u8);
        let codes: Vec<u8> = granted.iter().map(code).collect();
        let fits = self.takes(encode::ack_list_length(self.protocol, codes.len()));
        if self.open() && fits {
            encode::suback(self.protocol, id, &codes, out);
        }
        fits
    }

    /// Answers UNSUBSCRIBE; of each filter, whether there was such a subscription.
    ///
    /// `false`: the answer does not fit the client's Maximum Packet Size, and the driver closes.
    #[must_use]
    pub fn unsuback(&mut self, id: PacketId, existed: &[bool], out: &mut BytesMut) -> bool {
        // MQTT 5 §3.11.3.
        let code = |existed: &bool| if *existed { 0x00 } else { 0x11 };
        let codes: Vec<u8> = existed.iter().map(code).collect();
        let fits = self.takes(encode::ack_list_length(self.protocol, codes.len()));
        if self.open() && fits {
            encode::unsuback(self.protocol, id, &codes, out);
        }
        fits
    }

    /// A PUBLISH that asked this gateway itself, and is no message to the hub: it is acknowledged
    /// in its turn, and `answer` is sent, if there is one. `false`: there was no room for it.
    pub fn answer(&mut self, ticket: Ticket, answer: Option<&Deliver>, out: &mut BytesMut) -> bool {
        self.decide(ticket, Verdict::Accepted, out);
        answer.is_none_or(|answer| self.deliver(answer, out))
    }

    /// The connection ends from this side: what the device said about commands by its end, out of
    /// `input`. Nothing else in it is heard.
    pub fn last_words(&mut self, input: &mut BytesMut) -> Vec<Event> {
        let mut events = Vec::new();
        while matches!(self.state, State::Open | State::Left)
            && let stage = Stage::Open(self.protocol)
            && let Ok(Some(header)) = decode::header(input, stage, self.packet_bytes_max())
            && input.len() >= header.total()
        {
            if header.kind != Kind::PubAck {
                input.advance(header.total());
                continue;
            }
            let packet = input.split_to(header.total()).freeze();
            match decode::body(&header, &packet, self.protocol, &self.limits.decode()) {
                Ok(Packet::PubAck(id, reason)) => match self.puback(id, reason) {
                    Event::None => {}
                    event => events.push(event),
                },
                _ => break,
            }
        }
        events
    }
}
