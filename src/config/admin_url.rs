//! Where an operator asks a gateway's admin port, as the command line writes it.

use super::endpoint::{bracketed, host_and_port, is_loopback, split_scheme};
use std::fmt;

/// The port of `[admin] bind`, unless another is configured.
const PORT: u16 = 9464;

/// `https://HOST[:PORT]`; or `HOST[:PORT]` and `http://…`, of this machine alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminUrl {
    /// `https`.
    pub tls: bool,
    /// Host name or address; also the TLS server name.
    pub host: String,
    /// Port; 9464 where none is given.
    pub port: u16,
}

impl AdminUrl {
    /// Parses it. Plain HTTP leaves this machine never: the token would cross the network in
    /// clear.
    ///
    /// # Errors
    /// A sentence with the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "write 127.0.0.1:9464, or https://HOST:9464";
        let (tls, rest) = match text.contains("://") {
            true => split_scheme(text, ["https", "http"], "https (or http on loopback)", help)?,
            false => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("has more than host and port; {help}"));
        }
        let (host, port) = host_and_port(rest, help)?;
        if !tls && !is_loopback(host) {
            return Err(format!(
                "plain HTTP to another machine would send the token in the clear; write \
                 https://{rest}, with admin.tls set there"
            ));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(PORT),
        })
    }

    /// What stands in a `Host` field.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https://" } else { "" };
        write!(f, "{scheme}{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::AdminUrl;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for (text, shown) in [
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("localhost", "localhost:9464"),
            ("[::1]:1", "[::1]:1"),
            ("http://127.0.0.1:80/", "127.0.0.1:80"),
            ("https://10.0.0.1", "https://10.0.0.1:9464"),
            ("HTTPS://g.example:443/", "https://g.example:443"),
            ("https://[2001:db8::1]:9", "https://[2001:db8::1]:9"),
        ] {
            assert_eq!(AdminUrl::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn addresses_that_leak_or_mean_nothing_are_refused() {
        for (text, word) in [
            ("10.0.0.1:9464", "https://10.0.0.1:9464"),
            ("http://g.example", "https://g.example"),
            ("localhost.evil.example:9464", "in the clear"),
            ("", "the host is empty"),
            ("ftp://127.0.0.1", "https"),
            ("https://", "host"),
            ("https://user:secret@g.example", "more than host and port"),
            ("https://g.example/path", "more than host and port"),
            ("127.0.0.1:0", "port"),
        ] {
            let said = AdminUrl::parse(text).unwrap_err();
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
