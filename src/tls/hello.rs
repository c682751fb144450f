//! Reads what a ClientHello offers, without answering it.
//!
//! A pure, strict parser (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2): it decides which stack gets the
//! connection, so it must never panic, never loop, and never keep more than [`MAX_HELLO_BYTES`].
//! Everything a later step needs (the message for the binder, the identities) is a range of one
//! reassembled buffer. Neighbours: `route` judges the result, `replay` gives the same bytes on.

mod suites;

pub use suites::{is_psk_suite, is_signal};

use super::alpn;
use std::ops::Range;
use suites::{SuiteKind, suite_kind};

/// Raw bytes of a ClientHello, record headers included. The largest hellos in the field (a
/// post-quantum key share, a resumption ticket holding a chain) stay under 4 KiB.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;
/// Records one ClientHello may be cut into.
pub const MAX_HELLO_RECORDS: usize = 16;
/// Identities of one `pre_shared_key` extension that are looked at. Devices send one.
pub const MAX_IDENTITIES: usize = 4;
/// Server name kept for the log, bytes (RFC 1035 §2.3.4).
const MAX_SNI_BYTES: usize = 255;

const RECORD_HEADER: usize = 5;
const RECORD_PAYLOAD_MAX: usize = 1 << 14;
const MESSAGE_HEADER: usize = 4;

/// How far the bytes read so far go.
#[derive(Debug)]
pub enum Parsed {
    /// A strict prefix of a possible ClientHello.
    Partial,
    /// All of it.
    Complete(Hello),
    /// Can never become a ClientHello; the text says which field.
    Malformed(&'static str),
    /// Longer than [`MAX_HELLO_BYTES`] or in more than [`MAX_HELLO_RECORDS`] records.
    TooLarge,
}

/// An external PSK, or a ticket, offered in TLS 1.3 (RFC 8446 §4.2.11).
#[derive(Clone, Debug)]
struct Offer {
    identity: Range<usize>,
    binder: Range<usize>,
}

/// What a ClientHello offers.
#[derive(Debug, Default)]
pub struct Hello {
    message: Vec<u8>,
    /// TLS 1.2 is offered.
    pub tls12: bool,
    /// TLS 1.3 is offered, with at least one TLS 1.3 suite.
    pub tls13: bool,
    /// At least one TLS 1.2 suite authenticated by a PSK.
    pub psk_suites: bool,
    /// At least one TLS 1.2 suite authenticated by a certificate.
    pub certificate_suites: bool,
    /// The client can do PSK with (EC)DHE (`psk_dhe_ke`, RFC 8446 §4.2.9).
    pub psk_dhe_ke: bool,
    /// The client can do PSK without (EC)DHE (`psk_ke`).
    pub psk_ke: bool,
    /// Largest plaintext of a record the client asks for, bytes: `max_fragment_length` (RFC 6066
    /// §4) or `record_size_limit` (RFC 8449 §4).
    pub record_bytes: Option<usize>,
    suites: Range<usize>,
    groups: Option<Range<usize>>,
    offers: Vec<Offer>,
    binders_start: usize,
    sni: Option<Range<usize>>,
    alpn: Range<usize>,
}

impl Hello {
    /// Identities of `pre_shared_key` with their binders, in order, at most [`MAX_IDENTITIES`].
    pub fn offers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let slice = |range: &Range<usize>| self.message.get(range.clone()).unwrap_or_default();
        self.offers
            .iter()
            .map(move |offer| (slice(&offer.identity), slice(&offer.binder)))
    }

    /// Whether `pre_shared_key` was sent.
    #[must_use]
    pub fn has_offers(&self) -> bool {
        !self.offers.is_empty()
    }

    /// Every cipher suite, in order, signalling values included.
    pub fn suites(&self) -> impl Iterator<Item = u16> {
        self.numbers(&self.suites)
    }

    /// The groups for key exchange, in order; `None` when the client names none, which in TLS 1.2
    /// means any (RFC 8422 §4).
    #[must_use]
    pub fn groups(&self) -> Option<impl Iterator<Item = u16>> {
        self.groups.as_ref().map(|range| self.numbers(range))
    }

    fn numbers(&self, range: &Range<usize>) -> impl Iterator<Item = u16> {
        let bytes = self.message.get(range.clone()).unwrap_or_default();
        let pairs = bytes.chunks_exact(2);
        pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// The message up to the binders, as they authenticate it (RFC 8446 §4.2.11.2). Empty when
    /// nothing was offered.
    #[must_use]
    pub fn truncated(&self) -> &[u8] {
        self.message.get(..self.binders_start).unwrap_or_default()
    }

    /// What the client would speak inside TLS (RFC 7301), in order; a list that cannot be read ends
    /// where it is wrong, and the library that serves the client judges it.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> + Clone {
        alpn::names(self.message.get(self.alpn.clone()).unwrap_or_default())
    }

    /// The server name asked for, if it is printable ASCII of at most 255 bytes.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        let name = self.message.get(self.sni.clone()?)?;
        let printable = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        std::str::from_utf8(name).ok().filter(|_| printable)
    }
}

/// Reads the ClientHello at the start of `raw`, the client's first bytes.
///
/// Costs O(records) until the message is whole, then one pass: calling it after every segment
/// of a hello sent byte by byte is cheap.
#[must_use]
pub fn parse(raw: &[u8]) -> Parsed {
    match reassemble(raw) {
        Err(Stop::Partial) if raw.len() >= MAX_HELLO_BYTES => Parsed::TooLarge,
        Err(Stop::Partial) => Parsed::Partial,
        Err(Stop::TooLarge) => Parsed::TooLarge,
        Err(Stop::Malformed(text)) => Parsed::Malformed(text),
        Ok(message) => match read_message(message) {
            Ok(hello) => Parsed::Complete(hello),
            Err(text) => Parsed::Malformed(text),
        },
    }
}

enum Stop {
    Partial,
    TooLarge,
    Malformed(&'static str),
}

/// One record's payload as far as it has arrived, and what follows it.
fn record(raw: &[u8]) -> Result<(&[u8], usize, &[u8]), Stop> {
    let header = raw.get(..RECORD_HEADER.min(raw.len())).unwrap_or_default();
    if header.first().is_some_and(|kind| *kind != 22) {
        return Err(Stop::Malformed("a record that is not a handshake record"));
    }
    if header.get(1).is_some_and(|major| *major != 3) {
        return Err(Stop::Malformed("record version"));
    }
    let [_, _, _, high, low] = *header else {
        return Err(Stop::Partial);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > RECORD_PAYLOAD_MAX {
        return Err(Stop::Malformed("record length"));
    }
    let body = raw.get(RECORD_HEADER..).unwrap_or_default();
    let (payload, rest) = body.split_at(length.min(body.len()));
    Ok((payload, length, rest))
}

/// Joins the records of the first handshake message.
fn reassemble(raw: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut pieces: [&[u8]; MAX_HELLO_RECORDS] = [&[]; MAX_HELLO_RECORDS];
    let mut head = [0_u8; MESSAGE_HEADER];
    let mut have = 0_usize;
    let mut rest = raw;
    for index in 0..MAX_HELLO_RECORDS {
        let (payload, announced, after) = record(rest)?;
        pieces[index] = payload;
        for (slot, byte) in head.iter_mut().skip(have).zip(payload) {
            *slot = *byte;
        }
        have += payload.len();
        if have >= 1 && head[0] != 1 {
            return Err(Stop::Malformed("the first message is not a ClientHello"));
        }
        if have >= MESSAGE_HEADER {
            let body =
                usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            let whole = MESSAGE_HEADER + body;
            let overhead = (index + 1) * RECORD_HEADER;
            if whole + overhead > MAX_HELLO_BYTES {
                return Err(Stop::TooLarge);
            }
            // The record as announced, not as arrived: the verdict must not depend on timing.
            if have - payload.len() + announced > whole {
                return Err(Stop::Malformed("bytes after the ClientHello in its record"));
            }
            if have == whole {
                return Ok(pieces[..=index].concat());
            }
        }
        if payload.len() < announced {
            return Err(Stop::Partial);
        }
        rest = after;
    }
    Err(Stop::TooLarge)
}

/// A position in the message; every read is checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.end)?;
        let range = self.at..end;
        self.at = end;
        Some(range)
    }

    fn u8(&mut self) -> Option<u8> {
        let range = self.take(1)?;
        self.bytes.get(range.start).copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    /// A vector with a length of `width` bytes in front, as a cursor of its own.
    fn vector(&mut self, width: usize) -> Option<Cursor<'a>> {
        let mut count = 0;
        for _ in 0..width {
            count = count << 8 | usize::from(self.u8()?);
        }
        let range = self.take(count)?;
        Some(Cursor {
            bytes: self.bytes,
            at: range.start,
            end: range.end,
        })
    }

    fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    fn range(&self) -> Range<usize> {
        self.at..self.end
    }
}

fn read_message(message: Vec<u8>) -> Result<Hello, &'static str> {
    let mut hello = Hello::default();
    let mut cursor = Cursor {
        bytes: &message,
        at: MESSAGE_HEADER,
        end: message.len(),
    };
    let legacy_version = cursor.u16().ok_or("legacy_version")?;
    cursor.take(32).ok_or("random")?;
    let session_id = cursor.vector(1).ok_or("session_id")?;
    if session_id.range().len() > 32 {
        return Err("session_id");
    }
    let suites = cursor.vector(2).ok_or("cipher_suites")?;
    hello.suites = suites.range();
    let tls13_suites = read_suites(&mut hello, suites).ok_or("cipher_suites")?;
    let compression = cursor.vector(1).ok_or("compression_methods")?;
    if !message
        .get(compression.range())
        .is_some_and(|methods| methods.contains(&0))
    {
        return Err("compression_methods");
    }
    let mut versions = Versions::Legacy(legacy_version);
    if !cursor.is_empty() {
        let extensions = cursor.vector(2).ok_or("extensions")?;
        if !cursor.is_empty() {
            return Err("bytes after the extensions");
        }
        read_extensions(&mut hello, &mut versions, extensions)?;
    }
    (hello.tls12, hello.tls13) = match versions {
        Versions::Legacy(version) => (version >= 0x0303, false),
        Versions::Listed { tls12, tls13 } => (tls12, tls13 && tls13_suites),
    };
    hello.message = message;
    Ok(hello)
}

enum Versions {
    Legacy(u16),
    Listed { tls12: bool, tls13: bool },
}

/// Sorts the suites by kind; answers whether a TLS 1.3 suite is among them.
fn read_suites(hello: &mut Hello, mut suites: Cursor<'_>) -> Option<bool> {
    let mut tls13 = false;
    if suites.is_empty() {
        return None;
    }
    while !suites.is_empty() {
        match suite_kind(suites.u16()?) {
            SuiteKind::Tls13 => tls13 = true,
            SuiteKind::Psk => hello.psk_suites = true,
            SuiteKind::Certificate => hello.certificate_suites = true,
            SuiteKind::Other => {}
        }
    }
    Some(tls13)
}

fn read_extensions(
    hello: &mut Hello,
    versions: &mut Versions,
    mut extensions: Cursor<'_>,
) -> Result<(), &'static str> {
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        if hello.has_offers() {
            return Err("pre_shared_key is not the last extension");
        }
        let kind = extensions.u16().ok_or("extension type")?;
        let body = extensions.vector(2).ok_or("extension length")?;
        if !LOOKED_AT.contains(&kind) {
            continue;
        }
        if seen.contains(&kind) {
            return Err("an extension sent twice");
        }
        seen.push(kind);
        match kind {
            SNI => hello.sni = read_sni(body).ok_or("server_name")?,
            SUPPORTED_VERSIONS => *versions = read_versions(body).ok_or("supported_versions")?,
            PSK_MODES => {
                (hello.psk_ke, hello.psk_dhe_ke) =
                    read_modes(body).ok_or("psk_key_exchange_modes")?;
            }
            ALPN => hello.alpn = read_alpn(body),
            GROUPS => hello.groups = Some(read_groups(body).ok_or("supported_groups")?),
            FRAGMENT_LENGTH | RECORD_SIZE_LIMIT => {
                let asked = read_record_bytes(kind, body);
                hello.record_bytes = asked.into_iter().chain(hello.record_bytes).min();
            }
            _ => read_pre_shared_key(hello, body).ok_or("pre_shared_key")?,
        }
    }
    Ok(())
}

const SNI: u16 = 0;
const FRAGMENT_LENGTH: u16 = 1;
const GROUPS: u16 = 10;
const ALPN: u16 = 16;
const RECORD_SIZE_LIMIT: u16 = 28;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
const PSK_MODES: u16 = 45;
const LOOKED_AT: [u16; 8] = [
    SNI,
    FRAGMENT_LENGTH,
    GROUPS,
    ALPN,
    RECORD_SIZE_LIMIT,
    PRE_SHARED_KEY,
    SUPPORTED_VERSIONS,
    PSK_MODES,
];

fn read_sni(mut body: Cursor<'_>) -> Option<Option<Range<usize>>> {
    let mut list = body.vector(2)?;
    let kind = list.u8()?;
    let name = list.vector(2)?.range();
    (body.is_empty()).then_some(())?;
    Some(Some(name).filter(|name| kind == 0 && name.len() <= MAX_SNI_BYTES))
}

fn read_versions(mut body: Cursor<'_>) -> Option<Versions> {
    let mut list = body.vector(1)?;
    let (mut tls12, mut tls13) = (false, false);
    if list.is_empty() || !body.is_empty() {
        return None;
    }
    while !list.is_empty() {
        match list.u16()? {
            0x0303 => tls12 = true,
            0x0304 => tls13 = true,
            _ => {}
        }
    }
    Some(Versions::Listed { tls12, tls13 })
}

/// Whether `psk_ke` and `psk_dhe_ke` are among the modes.
fn read_modes(mut body: Cursor<'_>) -> Option<(bool, bool)> {
    let mut list = body.vector(1)?;
    let (mut alone, mut dhe) = (false, false);
    if list.is_empty() || !body.is_empty() {
        return None;
    }
    while !list.is_empty() {
        match list.u8()? {
            0 => alone = true,
            1 => dhe = true,
            _ => {}
        }
    }
    Some((alone, dhe))
}

fn read_groups(mut body: Cursor<'_>) -> Option<Range<usize>> {
    let list = body.vector(2)?.range();
    (body.is_empty() && list.len().is_multiple_of(2)).then_some(list)
}

fn read_alpn(mut body: Cursor<'_>) -> Range<usize> {
    body.vector(2).map_or(0..0, |list| list.range())
}

/// A wish that cannot be read is none; the library that serves the client judges it.
fn read_record_bytes(kind: u16, mut body: Cursor<'_>) -> Option<usize> {
    if kind == FRAGMENT_LENGTH {
        return match body.u8()? {
            code @ 1..=4 => Some(256 << code),
            _ => None,
        };
    }
    // One less: in TLS 1.3 the limit counts the byte that tells the content's type.
    let limit = usize::from(body.u16()?);
    (limit >= 64).then(|| limit - 1)
}

fn read_pre_shared_key(hello: &mut Hello, mut body: Cursor<'_>) -> Option<()> {
    let mut identities = body.vector(2)?;
    hello.binders_start = body.at;
    let mut binders = body.vector(2)?;
    if identities.is_empty() || !body.is_empty() {
        return None;
    }
    while !identities.is_empty() {
        let identity = identities.vector(2)?.range();
        identities.take(4)?; // obfuscated_ticket_age: external keys need not send zero
        let binder = binders.vector(1)?.range();
        if identity.is_empty() || binder.len() < 32 {
            return None;
        }
        if hello.offers.len() < MAX_IDENTITIES {
            hello.offers.push(Offer { identity, binder });
        }
    }
    binders.is_empty().then_some(())
}

#[cfg(test)]
mod tests;
