//! The names of what is spoken inside TLS (RFC 7301), for clients that want one agreed on.
//!
//! A client that names nothing served here is served without a name, as before it had any: the
//! first bytes tell MQTT from HTTP in either case.

/// MQTT at once, and MQTT over WebSocket (IANA TLS ALPN Protocol IDs).
const SERVED: [&[u8]; 2] = [b"mqtt", b"http/1.1"];

/// What a listener speaks, the preferred one first.
#[must_use]
pub fn served(websocket: bool) -> &'static [&'static [u8]] {
    match websocket {
        true => &SERVED,
        false => &SERVED[..1],
    }
}

/// The one that is agreed on, out of what a client names.
#[must_use]
pub fn agreed<'a>(
    websocket: bool,
    offered: impl Iterator<Item = &'a [u8]> + Clone,
) -> Option<&'static [u8]> {
    let mut served = served(websocket).iter().copied();
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
    use super::{agreed, names};

    #[test]
    fn the_preferred_name_in_common_is_agreed_on_or_none() {
        let agreed = |websocket, list: &'static [u8]| agreed(websocket, names(list));
        assert_eq!(agreed(true, b"\x08http/1.1\x04mqtt"), Some(&b"mqtt"[..]));
        assert_eq!(agreed(true, b"\x02h2\x08http/1.1"), Some(&b"http/1.1"[..]));
        assert_eq!(agreed(false, b"\x02h2\x08http/1.1"), None);
        assert_eq!(agreed(true, b"\x0ex-amzn-mqtt-ca"), None);
        assert_eq!(agreed(true, b"\x09mqtt"), None, "cut off");
        assert_eq!(agreed(true, b""), None);
    }
}
