//! Host names and endpoint addresses as the file writes them.

use super::Endpoint;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// The AMQP ports: over TLS, and plain.
const AMQPS_PORT: u16 = 5671;
const AMQP_PORT: u16 = 5672;

impl Endpoint {
    /// The service's own endpoint: `amqps://<host>:5671`.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        Self {
            tls: true,
            host: host.to_owned(),
            port: AMQPS_PORT,
        }
    }

    /// Parses `amqps://HOST[:PORT]`, or `amqp://` when the host is a loopback address.
    ///
    /// # Errors
    /// A sentence with the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "write amqps://HOST:5671";
        let must = "amqps (or amqp on loopback)";
        let (tls, rest) = split_scheme(text, ["amqps", "amqp"], must, help)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("has more than host and port; {help}"));
        }
        let (host, port) = host_and_port(rest, help)?;
        let port = port.unwrap_or(if tls { AMQPS_PORT } else { AMQP_PORT });
        let endpoint = Self {
            tls,
            host: host.to_owned(),
            port,
        };
        if !tls && !endpoint.is_loopback() {
            return Err(
                "plain amqp:// would send the token in the clear; use amqps://, or a \
                        loopback address"
                    .to_owned(),
            );
        }
        Ok(endpoint)
    }

    /// Whether the endpoint is on this machine: 127.0.0.0/8, ::1 or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        write!(f, "{scheme}://{}:{}", bracketed(&self.host), self.port)
    }
}

/// Takes the scheme off a URL: whether it is the first of the two, which is over TLS, and what
/// follows. `must` names them in the error.
pub(super) fn split_scheme<'a>(
    text: &'a str,
    [tls, plain]: [&str; 2],
    must: &str,
    help: &str,
) -> Result<(bool, &'a str), String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("has no scheme; {help}"))?;
    let is_tls = scheme.eq_ignore_ascii_case(tls);
    if !is_tls && !scheme.eq_ignore_ascii_case(plain) {
        return Err(format!("the scheme must be {must}; {help}"));
    }
    Ok((is_tls, rest))
}

/// The host name or address and the port of an authority without a user name.
pub(super) fn host_and_port<'a>(
    text: &'a str,
    help: &str,
) -> Result<(&'a str, Option<u16>), String> {
    let (host, port) = split_port(text).ok_or_else(|| format!("the port is bad; {help}"))?;
    if host.parse::<IpAddr>().is_err() {
        host_name(host).map_err(|message| format!("the host {message}"))?;
    }
    Ok((host, port))
}

/// Whether a host is this machine: 127.0.0.0/8, ::1 or `localhost`.
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// A host as it stands in a URL.
pub(super) fn bracketed(host: &str) -> Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(v6) = text.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host,
            rest.strip_prefix(':')
                .map_or(rest.is_empty().then_some(None), |p| Some(Some(p)))?,
        )
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let Some(port) = port else {
        return Some((host, None));
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|p| digits && *p != 0)?;
    Some((host, Some(port)))
}

/// Checks a host name (RFC 1123): labels of letters, digits and inner hyphens.
///
/// # Errors
/// A sentence with the fix.
pub fn host_name(text: &str) -> Result<(), String> {
    let help = "write the name alone, as in myhub.azure-devices.net";
    if text.is_empty() {
        return Err(format!("is empty; {help}"));
    }
    if text.contains("://") || text.contains(['/', ':', '@', ' ']) {
        return Err(format!("is no host name; {help}"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(format!(
            "has characters or parts a host name cannot have; {help}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown_alike() {
        for (text, shown) in [
            ("amqps://h.example", "amqps://h.example:5671"),
            ("AMQPS://h.example:443/", "amqps://h.example:443"),
            ("amqp://127.0.0.1", "amqp://127.0.0.1:5672"),
            ("amqp://localhost:15672", "amqp://localhost:15672"),
            ("amqps://[::1]:5671", "amqps://[::1]:5671"),
            ("amqp://[::1]", "amqp://[::1]:5672"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn endpoints_that_leak_or_mean_nothing_are_refused() {
        for text in [
            "",
            "h.example:5671",
            "https://h.example",
            "amqps://",
            "amqps://h.example:0",
            "amqps://h.example:65536",
            "amqps://h.example:+5671",
            "amqps://h.example:",
            "amqps://user:secret@h.example",
            "amqps://h.example/path",
            "amqps://[::1",
            "amqps://[::1]x",
            "amqps://[nonsense]:1",
            "amqp://10.0.0.1",
            "amqp://localhost.evil.example",
            "amqps://h_x.example",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn host_names_are_names_only() {
        assert_eq!(host_name("myhub.azure-devices.net"), Ok(()));
        for text in [
            "",
            "https://x",
            "x:5671",
            "-x.y",
            "x-.y",
            "x..y",
            "x y",
            "x.",
            "ü.de",
        ] {
            assert!(host_name(text).is_err(), "{text}");
        }
        assert!(host_name(&"a".repeat(64)).is_err());
    }
}
