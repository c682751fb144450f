//! W3C Trace Context, level 1: the `traceparent` of a message; pure.

use crate::runtime::hex::hex;
use std::fmt;

/// The name of the property that carries it, in MQTT and in AMQP.
pub const TRACEPARENT: &str = "traceparent";

/// The name of the property that goes with it, carried as it is.
pub const TRACESTATE: &str = "tracestate";

/// Longest `tracestate` that is exported, bytes (Trace Context §3.3.1.5: at least that much).
pub const STATE_BYTES_MAX: usize = 512;

/// Characters of a version 00 `traceparent`.
const TEXT_LEN: usize = 55;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace; not all zeros.
    pub trace: [u8; 16],
    /// The span; not all zeros.
    pub span: [u8; 8],
    /// Whether who sent it records the trace.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent` (Trace Context §3.2.2): of a later version, what version 00 has of it.
    /// `None` for what is none; then there is no parent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let head = bytes.get(..TEXT_LEN)?;
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let version = octet(&head[..2])?;
        let rest = &bytes[TEXT_LEN..];
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        fill(&mut trace, &head[3..35])?;
        fill(&mut span, &head[36..52])?;
        let flags = octet(&head[53..])?;
        let named = trace != [0; 16] && span != [0; 8];
        (dashes && ends && named).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for Context {
    /// The `traceparent`, version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (hex(&self.trace), hex(&self.span));
        write!(f, "00-{trace}-{span}-{:02x}", u8::from(self.sampled))
    }
}

fn fill(into: &mut [u8], text: &[u8]) -> Option<()> {
    for (byte, pair) in into.iter_mut().zip(text.chunks(2)) {
        *byte = octet(pair)?;
    }
    Some(())
}

/// Two hexadecimal digits, lower case as the specification has them.
fn octet(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let [high, low] = pair else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::Context;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_alike() {
        let context = Context::parse(TEXT).expect("a context");
        assert!(context.sampled);
        assert_eq!(context.to_string(), TEXT);
        let quiet = Context::parse(&TEXT.replace("-01", "-00")).expect("a context");
        assert!(!quiet.sampled);
        let later = format!("{}-what-comes", TEXT.replacen("00", "01", 1));
        assert_eq!(Context::parse(&later), Some(context));
    }

    #[test]
    fn what_is_no_traceparent_is_no_parent() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for text in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-x"),
            &TEXT.replacen("00", "ff", 1),
            &TEXT.to_uppercase(),
            &TEXT.replace(id, &"0".repeat(32)),
            &TEXT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &TEXT.replace("-b7", "+b7"),
            &TEXT.replace("b7ad", "b7ag"),
            &format!("00-ü{}", &TEXT[5..]),
        ] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }
}
