//! The names of what is spoken inside TLS (RFC 7301), for clients that want one agreed on.
//!
//! A client that names nothing served here is served without a name, as before it had any: the
//! first bytes tell MQTT from HTTP in either case.

/// Names a port agrees on, the preferred one first (IANA TLS ALPN Protocol IDs).
pub type Names = &'static [&'static [u8]];

/// HTTP alone.
pub const HTTP: Names = &[b"http/1.1"];

/// MQTT, and MQTT over WebSocket.
const BOTH: Names = &[b"mqtt", b"http/1.1"];
const MQTT: Names = &[b"mqtt"];

/// What a listener speaks.
#[must_use]
pub fn served(websocket: bool) -> Names {
    match websocket {
        true => BOTH,
        false => MQTT,
    }
}

/// The one that is agreed on, out of what a client names.
#[must_use]
pub fn agreed<'a>(
    served: Names,
    offered: impl Iterator<Item = &'a [u8]> + Clone,
) -> Option<&'static [u8]> {
    let mut served = served.iter().copied();
    served.find(|name| offered.clone().any(|offer| offer == *name))
}

/// The names in the list of a ClientHello, up to the first that cannot be read.
pub fn names(mut list: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    std::iter::from_fn(move || {
        let (length, rest) = list.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        list = rest;
        Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::{agreed, names, served};

    #[test]
    fn the_preferred_name_in_common_is_agreed_on_or_none() {
        let agreed = |websocket, list: &'static [u8]| agreed(served(websocket), names(list));
        assert_eq!(agreed(true, b"\x08http/1.1\x04mqtt"), Some(&b"mqtt"[..]));
        assert_eq!(agreed(true, b"\x02h2\x08http/1.1"), Some(&b"http/1.1"[..]));
        assert_eq!(agreed(false, b"\x02h2\x08http/1.1"), None);
        assert_eq!(agreed(true, b"\x0ex-amzn-mqtt-ca"), None);
        assert_eq!(agreed(true, b"\x09mqtt"), None, "cut off");
        assert_eq!(agreed(true, b""), None);
    }
}
