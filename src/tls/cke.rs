//! Watches the plaintext of a TLS 1.2 PSK handshake for the identity in ClientKeyExchange.
//!
//! OpenSSL hands the identity over as a C string, cut at the first NUL; this reads the bytes as
//! sent (RFC 4279 §2: the identity opens the message in PSK, DHE_PSK and ECDHE_PSK alike). It
//! observes only: what it cannot follow it reports as no identity. Pure, bounded, no panic.

/// Longest identity kept, bytes; longer ones are invalid anyway.
const KEPT: usize = crate::tls::MAX_IDENTITY_BYTES + 1;
/// Handshake message type.
const CLIENT_KEY_EXCHANGE: u8 = 16;
/// Record type.
const HANDSHAKE: u8 = 22;

/// Fed with everything the client sends from its first byte.
#[derive(Default)]
pub struct Watch {
    record_header: Vec<u8>,
    record_left: usize,
    message_header: Vec<u8>,
    message_left: usize,
    found: Vec<u8>,
    done: bool,
}

impl Watch {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            if self.record_left == 0 {
                let took = fill(&mut self.record_header, 5, bytes);
                bytes = bytes.get(took..).unwrap_or_default();
                let [kind, _, _, high, low] = self.record_header[..] else {
                    return;
                };
                self.record_header.clear();
                self.record_left = usize::from(u16::from_be_bytes([high, low]));
                // Anything but handshake records is past the plaintext, or an alert.
                self.done = kind != HANDSHAKE;
                continue;
            }
            let (part, rest) = bytes.split_at(self.record_left.min(bytes.len()));
            self.record_left -= part.len();
            bytes = rest;
            self.messages(part);
        }
    }

    /// The identity as sent, once all of it was seen; longer ones are cut at [`KEPT`] bytes.
    #[must_use]
    pub fn identity(&self) -> Option<&[u8]> {
        let (length, rest) = self.found.split_at_checked(2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        rest.get(..length.min(KEPT))
    }

    fn messages(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            if self.message_header.len() < 4 {
                let took = fill(&mut self.message_header, 4, bytes);
                bytes = bytes.get(took..).unwrap_or_default();
                let [_, a, b, c] = self.message_header[..] else {
                    return;
                };
                self.message_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            }
            let (part, rest) = bytes.split_at(self.message_left.min(bytes.len()));
            self.message_left -= part.len();
            bytes = rest;
            let wanted = self.message_header.first() == Some(&CLIENT_KEY_EXCHANGE);
            if wanted {
                fill(&mut self.found, 2 + KEPT, part);
            }
            if self.message_left == 0 {
                self.message_header.clear();
                self.done = wanted;
            }
        }
    }
}

/// Tops `target` up to `size` from `source`; answers how much was taken.
fn fill(target: &mut Vec<u8>, size: usize, source: &[u8]) -> usize {
    let took = size.saturating_sub(target.len()).min(source.len());
    target.extend_from_slice(source.get(..took).unwrap_or_default());
    took
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Watch};
    use proptest::prelude::*;

    fn stream(identity: &[u8], record: usize) -> Vec<u8> {
        let mut message = vec![1, 0, 0, 3, 9, 9, 9];
        let body = [
            &(identity.len() as u16).to_be_bytes()[..],
            identity,
            &[4, 1, 2, 3, 4],
        ]
        .concat();
        message.extend([16, 0, (body.len() >> 8) as u8, body.len() as u8]);
        message.extend(body);
        message
            .chunks(record)
            .flat_map(|p| [&[22, 3, 3, (p.len() >> 8) as u8, p.len() as u8], p].concat())
            .chain([20, 3, 3, 0, 1, 1])
            .collect()
    }

    #[test]
    fn the_identity_is_found_however_records_and_reads_are_cut() {
        for identity in [&b"dev"[..], b"a\0b", b"", &[b'x'; 128], &[0xff; 200]] {
            for (record, read) in [(1, 1), (3, 2), (7, 5), (4096, 1), (4096, 4096)] {
                let mut watch = Watch::default();
                for part in stream(identity, record).chunks(read) {
                    watch.feed(part);
                }
                let kept = &identity[..identity.len().min(KEPT)];
                assert_eq!(watch.identity(), Some(kept), "{record} {read}");
            }
        }
    }

    #[test]
    fn an_encrypted_or_unfinished_handshake_has_none() {
        let mut watch = Watch::default();
        watch.feed(&[20, 3, 3, 0, 1, 1]);
        watch.feed(&stream(b"dev", 100));
        assert_eq!(watch.identity(), None);
        let mut watch = Watch::default();
        let all = stream(b"dev", 100);
        watch.feed(&all[..18]);
        assert_eq!(watch.identity(), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_grows(parts in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..300), 0..40)) {
            let mut watch = Watch::default();
            for part in &parts {
                watch.feed(part);
            }
            prop_assert!(watch.found.len() <= KEPT + 2);
        }
    }
}
