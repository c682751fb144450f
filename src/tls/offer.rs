//! What a client offered, in words for the log.
//!
//! Names are the registry's; numbers nobody named are hexadecimal. Bounded: a hello may list
//! thousands of suites, a line of the log names the first few.

use crate::telemetry::reason::Reason;
use crate::tls::hello::{self, Hello};
use crate::tls::refusal::Refusal;
use rustls::{CipherSuite, NamedGroup};
use std::fmt::Write as _;

/// Names in one line.
const NAMES_MAX: usize = 8;

/// Bytes of such a line: the longest names have forty-five.
const LINE_BYTES: usize = NAMES_MAX * 47 + 24;

/// The suites of `hello` that `wanted` picks.
pub fn suites(hello: &Hello, wanted: impl Fn(u16) -> bool) -> String {
    let name = |id| CipherSuite::from(id).as_str();
    list(hello.suites().filter(|id| wanted(*id)), name)
}

/// The key exchange groups of `hello`.
pub fn groups(hello: &Hello) -> String {
    let name = |id| NamedGroup::from(id).as_str();
    hello
        .groups()
        .map_or_else(|| "none".to_owned(), |groups| list(groups, name))
}

/// The PSK key exchange modes of `hello`.
pub const fn modes(hello: &Hello) -> &'static str {
    match (hello.psk_ke, hello.psk_dhe_ke) {
        (true, true) => "psk_ke, psk_dhe_ke",
        (true, false) => "psk_ke",
        (false, true) => "psk_dhe_ke",
        (false, false) => "none",
    }
}

fn list(ids: impl Iterator<Item = u16>, name: impl Fn(u16) -> Option<&'static str>) -> String {
    // Strangers cause this: room for a full line at once, and nothing on the way.
    let mut text = String::with_capacity(LINE_BYTES);
    let mut left_out = 0_usize;
    for (index, id) in ids.filter(|id| !hello::is_signal(*id)).enumerate() {
        if index >= NAMES_MAX {
            left_out += 1;
            continue;
        }
        if index > 0 {
            text.push_str(", ");
        }
        match name(id) {
            // The library writes TLS13_ where the registry writes TLS_.
            Some(name) => match name.strip_prefix("TLS13_") {
                Some(rest) => text.extend(["TLS_", rest]),
                None => text.push_str(name),
            },
            // Writing to a string cannot fail.
            None => drop(write!(text, "0x{id:04X}")),
        }
    }
    if text.is_empty() {
        return "none".to_owned();
    }
    if left_out > 0 {
        let _ = write!(text, " and {left_out} more");
    }
    text
}

impl Refusal {
    /// Names what was offered, where nothing of it is served.
    pub(super) fn with_offer(mut self, hello: &Hello) -> Self {
        let offered = match self.reason {
            Reason::NoSharedSuite => suites(hello, |id| !hello::is_psk_suite(id)),
            Reason::NoSharedGroup => groups(hello),
            _ => return self,
        };
        self.text.push_str("; offered: ");
        self.text.push_str(&offered);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{groups, modes, suites};
    use crate::tls::hello::{Hello, Parsed, parse};
    use crate::tls::hello_bytes::{Builder, vector16};

    fn hello(builder: &Builder) -> Hello {
        match parse(&builder.raw()) {
            Parsed::Complete(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_offered_is_named_and_the_line_stays_short() {
        let builder = Builder::tls12(&[0x0a0a, 0x008c, 0xc0a8, 0x1234, 0x00ff])
            .extension(10, &vector16(&[0, 24, 0x2a, 0x2a, 0x12, 0x34]));
        let offered = hello(&builder);
        assert_eq!(
            suites(&offered, |_| true),
            "TLS_PSK_WITH_AES_128_CBC_SHA, TLS_PSK_WITH_AES_128_CCM_8, 0x1234"
        );
        assert_eq!(suites(&offered, |id| id == 1), "none");
        assert_eq!(groups(&offered), "secp384r1, 0x1234");
        assert_eq!(modes(&offered), "none");
        let many: Vec<u16> = (0x4000..0x4f00).collect();
        let offered = hello(&Builder::tls12(&many));
        let text = suites(&offered, |_| true);
        assert!(
            text.len() < 200 && text.ends_with(" and 3831 more"),
            "{text}"
        );
        assert_eq!(groups(&offered), "none");
    }
}
