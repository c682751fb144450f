//! The packets a device needs, in 3.1.1 and 5; no code of it is the gateway's.

use bytes::{Buf, BufMut, BytesMut};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// What a gateway sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Code, and how many messages may be without PUBACK.
    Connack(u8, u16),
    /// Topic, packet id at QoS 1, payload.
    Publish(String, Option<u16>, String),
    Puback(u16, u8),
    Suback(u16, u8),
    Pingresp,
    Disconnect(u8),
}

/// Frames `body`.
fn packet(first: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(first);
    let mut rest = body.len();
    loop {
        let more = if rest > 0x7f { 0x80 } else { 0 };
        out.put_u8((rest & 0x7f) as u8 | more);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.put_u16(text.len() as u16);
    body.extend_from_slice(text.as_bytes());
}

impl Version {
    /// No properties, where there could be some.
    fn none(self, body: &mut Vec<u8>) {
        if self == Self::V5 {
            body.push(0);
        }
    }

    pub fn connect(self, id: &str, keep_alive_s: u16, receive_maximum: u16, out: &mut BytesMut) {
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        body.extend([if self == Self::V5 { 5 } else { 4 }, 0b10]);
        body.put_u16(keep_alive_s);
        if self == Self::V5 {
            body.extend([3, 0x21]);
            body.put_u16(receive_maximum);
        }
        text(&mut body, id);
        packet(0x10, &body, out);
    }

    pub fn subscribe(self, packet_id: u16, filter: &str, qos: u8, out: &mut BytesMut) {
        let mut body = packet_id.to_be_bytes().to_vec();
        self.none(&mut body);
        text(&mut body, filter);
        body.push(qos);
        packet(0x82, &body, out);
    }

    /// At QoS 1.
    pub fn publish(self, packet_id: u16, topic: &str, payload: &str, out: &mut BytesMut) {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.put_u16(packet_id);
        self.none(&mut body);
        body.extend_from_slice(payload.as_bytes());
        packet(0x32, &body, out);
    }

    /// The next packet, once it is whole; what is none says why.
    pub fn read(self, input: &mut BytesMut) -> Option<Result<Packet, String>> {
        let mut length = 0;
        let mut header = 1;
        loop {
            let byte = *input.get(header)?;
            length |= usize::from(byte & 0x7f) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if input.len() < header + length {
            return None;
        }
        let first = input[0];
        input.advance(header);
        let body = input.split_to(length).to_vec();
        let read = self.body(first, &body);
        Some(read.ok_or_else(|| format!("{first:#x} {body:x?} is no packet of {self:?}")))
    }

    fn body(self, first: u8, body: &[u8]) -> Option<Packet> {
        let mut rest = body;
        Some(match first {
            0x20 => {
                let (0, code) = (u8_of(&mut rest)?, u8_of(&mut rest)?) else {
                    return None; // no session was ever kept
                };
                let properties = self.properties(&mut rest)?;
                Packet::Connack(code, receive_maximum(properties)?)
            }
            0x30 | 0x32 => {
                let length = usize::from(u16_of(&mut rest)?);
                let topic = String::from_utf8(rest.split_off(..length)?.to_vec()).ok()?;
                let id = match first & 2 {
                    0 => None,
                    _ => Some(u16_of(&mut rest)?),
                };
                self.properties(&mut rest)?;
                let payload = String::from_utf8(rest.to_vec()).ok()?;
                Packet::Publish(topic, id, payload)
            }
            0x40 => {
                let id = u16_of(&mut rest)?;
                let code = match self {
                    Self::V5 if !rest.is_empty() => u8_of(&mut rest)?,
                    _ => 0,
                };
                Packet::Puback(id, code)
            }
            0x90 => {
                let id = u16_of(&mut rest)?;
                self.properties(&mut rest)?;
                Packet::Suback(id, u8_of(&mut rest)?)
            }
            0xd0 => Packet::Pingresp,
            0xe0 if self == Self::V5 => Packet::Disconnect(body.first().copied().unwrap_or(0)),
            _ => return None,
        })
    }

    fn properties<'a>(self, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        if self == Self::V311 {
            return Some(&[]);
        }
        let mut length = 0;
        for shift in [0, 7] {
            let byte = u8_of(rest)?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return rest.split_off(..length);
            }
        }
        None
    }
}

pub fn puback(packet_id: u16, out: &mut BytesMut) {
    packet(0x40, &packet_id.to_be_bytes(), out);
}

pub fn ping(out: &mut BytesMut) {
    packet(0xc0, &[], out);
}

pub fn disconnect(out: &mut BytesMut) {
    packet(0xe0, &[], out);
}

/// Among a CONNACK's properties (MQTT 5 §3.2.2.3).
fn receive_maximum(mut properties: &[u8]) -> Option<u16> {
    let mut maximum = u16::MAX;
    while !properties.is_empty() {
        match u8_of(&mut properties)? {
            0x21 => maximum = u16_of(&mut properties)?,
            0x13 => drop(u16_of(&mut properties)?),
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => drop(u8_of(&mut properties)?),
            0x11 | 0x27 => drop(properties.split_off(..4)?),
            0x12 | 0x1f => {
                let length = usize::from(u16_of(&mut properties)?);
                properties.split_off(..length)?;
            }
            _ => return None,
        }
    }
    Some(maximum)
}

fn u8_of(rest: &mut &[u8]) -> Option<u8> {
    rest.split_off_first().copied()
}

fn u16_of(rest: &mut &[u8]) -> Option<u16> {
    let bytes = rest.split_off(..2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}
