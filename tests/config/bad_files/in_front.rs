//! What a listener says of WebSockets and of the proxies in front of it.

use super::{Bad, bad};

pub(super) const TABLE: &[Bad] = &[
    bad(
        "a proxy that is no address",
        "bind",
        "proxy_protocol = [\"10.0.0.0/8\", \"balancer.example\"]\nbind",
        "listener[0].proxy_protocol[1]",
        "not an address or range",
    ),
    bad(
        "a proxy range with bits beyond its prefix",
        "bind",
        "proxy_protocol = [\"10.1.0.0/8\"]\nbind",
        "listener[0].proxy_protocol[0]",
        "beyond the prefix",
    ),
    bad(
        "websocket is no yes or no",
        "bind",
        "websocket = \"yes\"\nbind",
        "listener[0].websocket",
        "true",
    ),
];
