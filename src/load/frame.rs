//! One PUBLISH, encoded once; only its packet id and its number change. Pure.
//!
//! The payload is the client id, a blank, the number in ten digits, a blank, and `x` up to its
//! size: whoever finds it knows who sent it, and what is missing.

use super::setup::NUMBER_DIGITS;
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::Publish;

/// Packet ids are used in turn, 1 to this.
const PACKET_IDS: u64 = 65_535;

/// The bytes of a PUBLISH.
pub struct Frame {
    bytes: Vec<u8>,
    packet_id: Option<usize>,
    number: usize,
}

/// The payload of message `number`.
#[must_use]
pub fn payload(id: &str, number: u64, size: usize) -> Vec<u8> {
    let mut payload = format!("{id} {number:0NUMBER_DIGITS$} ").into_bytes();
    payload.resize(size.max(payload.len()), b'x');
    payload
}

impl Frame {
    /// The PUBLISH of the device `id`; `None` when it is too large for MQTT.
    #[must_use]
    pub fn new(id: &str, topic: &str, size: usize, qos: u8) -> Option<Self> {
        let payload = payload(id, 0, size);
        let qos = if qos == 0 {
            QoS::AtMostOnce
        } else {
            QoS::AtLeastOnce
        };
        let length = payload.len();
        let mut packet = Publish::new(topic, qos, payload);
        packet.pkid = 1;
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes).ok()?;
        let body = bytes.len() - length;
        Some(Self {
            packet_id: (qos == QoS::AtLeastOnce).then(|| body - 2),
            number: body + id.len() + 1,
            bytes: bytes.to_vec(),
        })
    }

    /// The packet id of message `number`.
    #[must_use]
    pub fn packet_id(number: u64) -> u16 {
        // below 65,536 by the remainder
        u16::try_from((number.saturating_sub(1)) % PACKET_IDS + 1).unwrap_or(1)
    }

    /// Appends message `number`.
    pub fn append(&mut self, number: u64, out: &mut BytesMut) {
        if let Some(at) = self.packet_id {
            self.bytes[at..at + 2].copy_from_slice(&Self::packet_id(number).to_be_bytes());
        }
        let mut rest = number;
        for digit in self.bytes[self.number..self.number + NUMBER_DIGITS]
            .iter_mut()
            .rev()
        {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        out.extend_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, payload};
    use bytes::BytesMut;
    use mqttbytes::v4::Packet;

    #[test]
    fn a_patched_frame_is_the_packet_the_codec_would_write() {
        for (qos, numbers) in [
            (1, [1_u64, 65_535, 65_536, 1_234_567_890]),
            (0, [1, 2, 3, 4]),
        ] {
            let mut frame = Frame::new("load-7", "t/load-7", 300, qos).unwrap();
            let mut out = BytesMut::new();
            for number in numbers {
                frame.append(number, &mut out);
            }
            for number in numbers {
                let Ok(Packet::Publish(packet)) = mqttbytes::v4::read(&mut out, 1000) else {
                    panic!("no PUBLISH");
                };
                assert_eq!(packet.topic, "t/load-7");
                assert_eq!(packet.payload, payload("load-7", number, 300));
                let id = if qos == 0 {
                    0
                } else {
                    Frame::packet_id(number)
                };
                assert_eq!((packet.pkid, packet.qos as u8), (id, qos));
            }
            assert!(out.is_empty());
        }
        assert_eq!(Frame::packet_id(65_536), 1);
    }

    #[test]
    fn the_payload_begins_with_device_and_number() {
        assert_eq!(payload("a", 12, 16), b"a 0000000012 xxx");
    }
}
