//! Frames, both ways: what a client sends is unmasked where it lies, what is sent gets a header.
//!
//! The decoder keeps a header that is not whole and the payload of a control frame, 139 bytes
//! together, whatever a peer announces.

use super::violation::Violation;

/// The longest payload of a control frame, bytes (RFC 6455 §5.5).
pub const CONTROL_MAX: usize = 125;

/// The longest header a server writes for a payload under 64 KiB.
pub const HEADER_MAX: usize = 4;

/// The largest payload put into one frame, bytes.
pub const PAYLOAD_MAX: usize = 16 * 1024;

const MASK: usize = 4;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Close codes that are said (RFC 6455 §7.4.1).
pub const NORMAL: u16 = 1000;
/// A Close frame without a code.
pub const NO_CODE: u16 = 1005;

/// Why no more bytes of MQTT come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed, with this code.
    Closed(u16),
    /// The client broke a rule.
    Broken(Violation),
}

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// A frame whose header is read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    mask: [u8; MASK],
    /// Payload not seen yet.
    left: u64,
}

/// The client's side of the stream.
#[derive(Debug)]
pub struct Decoder {
    frame_max: u64,
    header: [u8; 14],
    have: usize,
    frame: Option<Frame>,
    /// A data message has begun and not ended.
    in_message: bool,
    /// Payload of the control frame being read.
    control: Vec<u8>,
    /// The newest ping that is not answered; older ones need no answer (RFC 6455 §5.5.3).
    ping: Option<Vec<u8>>,
    end: Option<End>,
}

impl Decoder {
    /// A decoder that takes frames up to `frame_max` bytes of payload.
    #[must_use]
    pub fn new(frame_max: usize) -> Self {
        Self {
            frame_max: frame_max as u64,
            header: [0; 14],
            have: 0,
            frame: None,
            in_message: false,
            control: Vec::new(),
            ping: None,
            end: None,
        }
    }

    /// Why the stream is over, once it is.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The payload of a ping that asks for an answer.
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Takes the bytes that came; those of MQTT move to the front of `bytes`, and their number is
    /// the answer. What follows an end is not looked at.
    pub fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && self.end.is_none() {
            let Some(frame) = &mut self.frame else {
                let (taken, read) = self.read_header(bytes.get(from..).unwrap_or_default());
                from += taken;
                if let Err(violation) = read {
                    self.end = Some(End::Broken(violation));
                }
                self.frame_ends();
                continue;
            };
            let room = bytes.len() - from;
            let count = usize::try_from(frame.left).unwrap_or(room).min(room);
            let Some(payload) = bytes.get_mut(from..from + count) else {
                break;
            };
            unmask(payload, frame.mask);
            frame.mask.rotate_left(count % MASK);
            frame.left -= count as u64;
            if frame.kind == Kind::Data {
                bytes.copy_within(from..from + count, to);
                to += count;
            } else {
                self.control.extend_from_slice(payload);
            }
            from += count;
            self.frame_ends();
        }
        to
    }

    /// Reads on in a header; the bytes taken, and what is wrong with it.
    fn read_header(&mut self, bytes: &[u8]) -> (usize, Result<(), Violation>) {
        for (index, byte) in bytes.iter().enumerate() {
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *byte;
            }
            self.have += 1;
            match self.judge() {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    self.have = 0;
                    self.frame = Some(frame);
                    return (index + 1, Ok(()));
                }
                Err(violation) => return (index + 1, Err(violation)),
            }
        }
        (bytes.len(), Ok(()))
    }

    /// Judges the header as far as it is there: what is wrong is said at the first byte that
    /// shows it.
    fn judge(&mut self) -> Result<Option<Frame>, Violation> {
        let header = self.header.get(..self.have).unwrap_or_default();
        let Some(first) = header.first() else {
            return Ok(None);
        };
        let is_final = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(Violation::Reserved);
        }
        let kind = match first & 0x0f {
            CONTINUATION if !self.in_message => return Err(Violation::Continuation),
            TEXT => return Err(Violation::Text),
            BINARY if self.in_message => return Err(Violation::Interleaved),
            CONTINUATION | BINARY => Kind::Data,
            CLOSE => Kind::Close,
            PING => Kind::Ping,
            PONG => Kind::Pong,
            _ => return Err(Violation::Opcode),
        };
        if kind != Kind::Data && !is_final {
            return Err(Violation::ControlFragment);
        }
        let Some(second) = header.get(1) else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7f;
        if kind != Kind::Data && usize::from(short) > CONTROL_MAX {
            return Err(Violation::ControlLength);
        }
        let Some((length, rest)) = length(short, header.get(2..).unwrap_or_default())? else {
            return Ok(None);
        };
        if length > self.frame_max {
            return Err(Violation::TooLarge);
        }
        let Ok(mask) = <[u8; MASK]>::try_from(rest) else {
            return Ok(None);
        };
        if kind == Kind::Data {
            self.in_message = !is_final;
        }
        Ok(Some(Frame {
            kind,
            mask,
            left: length,
        }))
    }

    /// Acts on a frame whose payload is whole.
    fn frame_ends(&mut self) {
        let Some(frame) = self.frame.take_if(|frame| frame.left == 0) else {
            return;
        };
        let payload = std::mem::take(&mut self.control);
        match frame.kind {
            Kind::Data | Kind::Pong => {}
            Kind::Ping => self.ping = Some(payload),
            Kind::Close => {
                self.end = Some(closed(&payload).map_or_else(End::Broken, End::Closed));
            }
        }
    }
}

/// The length, and what follows it in the header; `None` while it is not whole.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (width, least) = match short {
        126 => (2, 126),
        127 => (8, 1 << 16),
        short => return Ok(Some((short.into(), rest))),
    };
    // The highest bit must not be set, whatever follows.
    if width == 8 && rest.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(Violation::Length);
    }
    let Some((digits, rest)) = rest.split_at_checked(width) else {
        return Ok(None);
    };
    let value = digits.iter().fold(0, |v, byte| v << 8 | u64::from(*byte));
    match value < least {
        true => Err(Violation::Length),
        false => Ok(Some((value, rest))),
    }
}

/// The code of a Close frame.
fn closed(payload: &[u8]) -> Result<u16, Violation> {
    let [high, low, text @ ..] = payload else {
        return match payload {
            [] => Ok(NO_CODE),
            _ => Err(Violation::CloseLength),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Violation::CloseCode),
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(code),
        Err(_) => Err(Violation::CloseText),
    }
}

/// Takes the mask off (RFC 6455 §5.3), four bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; MASK]) {
    let mut chunks = payload.chunks_exact_mut(MASK);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// The header of a binary frame of `length` bytes, at most [`PAYLOAD_MAX`], in one piece.
#[must_use]
pub fn header(length: usize) -> ([u8; HEADER_MAX], usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    match length {
        0..126 => ([0x80 | BINARY, low, 0, 0], 2),
        _ => ([0x80 | BINARY, 126, high, low], 4),
    }
}

/// The answer to a ping.
#[must_use]
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(PONG, payload)
}

/// A Close frame; [`NO_CODE`] is said by silence.
#[must_use]
pub fn close(code: u16) -> Vec<u8> {
    match code {
        NO_CODE => control(CLOSE, &[]),
        code => control(CLOSE, &code.to_be_bytes()),
    }
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..CONTROL_MAX).unwrap_or(payload);
    let length = u8::try_from(payload.len()).unwrap_or_default();
    [&[0x80 | opcode, length], payload].concat()
}
