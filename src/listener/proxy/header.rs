//! The PROXY protocol's header, versions 1 and 2, as far as it has come; pure.
//!
//! It never asks for a byte that may belong to what follows. Values added to version 2 (TLVs) are
//! skipped: the proxy is trusted for the address, and for nothing else.

use crate::telemetry::reason::Reason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What version 2 begins with (proxy-protocol.txt §2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The shortest header: `PROXY UNKNOWN` and its end of line.
const SHORTEST: usize = 15;
/// The longest line of version 1, its end included (§2.1).
const LINE_MAX: usize = 107;
/// Version 2 up to its length.
const FIXED: usize = 16;
/// The longest header of version 2 that is read, bytes; the specification asks for 536, and a
/// client certificate's names fit, too.
pub(super) const HEADER_MAX: usize = 4 * 1024;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read at most so many bytes more.
    Read(usize),
    /// Read on to a line feed, at most so many bytes.
    Line(usize),
    /// The header is whole; `None`: the connection is the proxy's own, or it does not know whose.
    Done(Option<SocketAddr>),
}

/// Why the header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) text: &'static str,
}

const fn malformed(text: &'static str) -> Refused {
    Refused {
        reason: Reason::ProxyMalformed,
        text,
    }
}

const MISSING: Refused = malformed(
    "no PROXY header, although the address is one of proxy_protocol: let the proxy send it",
);

/// Whether bytes begin as a header does.
pub(in super::super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(WORD) || bytes.starts_with(SIGNATURE)
}

/// Looks at all that has come.
pub(super) fn step(bytes: &[u8]) -> Result<Step, Refused> {
    let begins = |start: &[u8]| {
        let count = bytes.len().min(start.len());
        bytes.get(..count) == start.get(..count)
    };
    if bytes.is_empty() {
        Ok(Step::Read(SHORTEST))
    } else if begins(WORD) {
        version1(bytes)
    } else if begins(SIGNATURE) {
        version2(bytes)
    } else {
        Err(MISSING)
    }
}

fn version1(bytes: &[u8]) -> Result<Step, Refused> {
    let Some(line) = bytes.strip_suffix(b"\n") else {
        return match bytes.len() {
            LINE_MAX.. => Err(malformed("the line of PROXY has no end")),
            length if length < SHORTEST => Ok(Step::Read(SHORTEST - length)),
            length => Ok(Step::Line(LINE_MAX - length)),
        };
    };
    let line = line
        .strip_suffix(b"\r")
        .and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(malformed(
        "the line of PROXY is not text that ends in CR LF",
    ))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Step::Done(None));
    }
    let rest: Vec<&str> = words.collect();
    let [source, destination, from, to] = rest[..] else {
        return Err(malformed(
            "the line of PROXY is not family, two addresses, two ports",
        ));
    };
    let source = match family {
        "TCP4" => pair::<Ipv4Addr>(source, destination),
        "TCP6" => pair::<Ipv6Addr>(source, destination),
        _ => {
            return Err(malformed(
                "the family of PROXY is neither TCP4, TCP6 nor UNKNOWN",
            ));
        }
    };
    let source = source.ok_or(malformed("an address of PROXY cannot be read"))?;
    match (port(from), port(to)) {
        (Some(from), Some(_)) => likely(source, from),
        _ => Err(malformed("a port of PROXY cannot be read")),
    }
}

/// Both addresses have to be of the family; the first is who connects.
fn pair<A: FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<IpAddr> {
    let _: A = destination.parse().ok()?;
    source.parse::<A>().ok().map(Into::into)
}

/// A port without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn version2(bytes: &[u8]) -> Result<Step, Refused> {
    if let Some(command) = bytes.get(12)
        && !matches!(command, 0x20 | 0x21)
    {
        return Err(malformed(
            "version or command of the PROXY header is another than 2, 0 or 1",
        ));
    }
    let [.., command, family, high, low] = *bytes.get(..FIXED).unwrap_or_default() else {
        return Ok(Step::Read(FIXED - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > HEADER_MAX {
        return Err(Refused {
            reason: Reason::ProxyTooLarge,
            text: "the PROXY header is larger than 4 KiB",
        });
    }
    let is_local = command == 0x20;
    let least = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => {
            return Err(malformed(
                "the family of the PROXY header is not a stream's",
            ));
        }
    };
    if length < least {
        return Err(malformed("the PROXY header has no room for its addresses"));
    }
    let body = bytes.get(FIXED..).unwrap_or_default();
    if body.len() < length {
        return Ok(Step::Read(length - body.len()));
    }
    let named = match family {
        0x11 if !is_local => address::<4>(body, 8).map(|(a, p)| (IpAddr::from(a), p)),
        0x21 if !is_local => address::<16>(body, 32).map(|(a, p)| (IpAddr::from(a), p)),
        _ => None,
    };
    named.map_or(Ok(Step::Done(None)), |(source, port)| likely(source, port))
}

/// The address a body begins with, and the port at `at`.
fn address<const N: usize>(body: &[u8], at: usize) -> Option<([u8; N], u16)> {
    let port = body.get(at..at + 2)?.first_chunk()?;
    Some((*body.first_chunk()?, u16::from_be_bytes(*port)))
}

/// Takes what can be the address of a connection.
fn likely(source: IpAddr, port: u16) -> Result<Step, Refused> {
    let source = source.to_canonical();
    let broadcast = source == IpAddr::V4(Ipv4Addr::BROADCAST);
    if source.is_unspecified() || source.is_multicast() || broadcast || port == 0 {
        return Err(Refused {
            reason: Reason::ProxyAddress,
            text: "the PROXY header names an address or port nobody connects from",
        });
    }
    Ok(Step::Done(Some(SocketAddr::new(source, port))))
}

#[cfg(test)]
pub(in super::super) mod tests;
