//! Who makes the token: this process, a file, or a service.

use super::endpoint::{bracketed, host_and_port, is_loopback, split_scheme};
use std::fmt;
use std::path::PathBuf;

/// Where the hub's token comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// Signed here with the policy's keys.
    #[default]
    Keys,
    /// Ready-made, in a file that somebody else rewrites before the token ends.
    File {
        /// The file.
        path: PathBuf,
        /// Taken although others can read it.
        insecure_permissions: bool,
    },
    /// Ready-made, from an HTTP service.
    Url(TokenUrl),
}

/// `http(s)://HOST[:PORT][/PATH][?QUERY]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUrl {
    /// `https`; `http` for loopback addresses only.
    pub tls: bool,
    /// Host name or address; also the TLS server name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query as they are sent; starts with `/`.
    pub target: String,
}

impl TokenUrl {
    /// Parses the URL of a token service.
    ///
    /// # Errors
    /// A sentence with the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "write https://HOST/PATH";
        let (tls, rest) = split_scheme(text, ["https", "http"], "https or http", help)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("has a user name; give the service another way to know you".to_owned());
        }
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '"' | '<' | '>' | '\\');
        if !target.chars().all(plain) {
            return Err("has characters that must be percent-encoded, or a fragment".to_owned());
        }
        let (host, port) = host_and_port(authority, help)?;
        if !tls && !is_loopback(host) {
            let message = "plain http:// would show the token to the network; use https://, or a \
                           loopback address";
            return Err(message.to_owned());
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            target: format!("{slash}{target}"),
        })
    }

    /// What stands in a `Host` field.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host.into_owned(),
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Without the query, which may hold a key.
impl fmt::Display for TokenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let (path, query) = match self.target.split_once('?') {
            Some((path, _)) => (path, "?…"),
            None => (self.target.as_str(), ""),
        };
        write!(f, "{scheme}://{}{path}{query}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::TokenUrl;

    #[test]
    fn a_url_is_taken_apart() {
        let url = TokenUrl::parse("https://tokens.example/hub/token?code=abc").unwrap();
        assert!(url.tls);
        assert_eq!((url.host.as_str(), url.port), ("tokens.example", 443));
        assert_eq!(url.target, "/hub/token?code=abc");
        assert_eq!(url.authority(), "tokens.example");
        let url = TokenUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 8080));
        assert_eq!(
            (url.target.as_str(), url.authority().as_str()),
            ("/", "[::1]:8080")
        );
        assert_eq!(
            TokenUrl::parse("http://localhost?a=b").unwrap().target,
            "/?a=b"
        );
    }

    #[test]
    fn a_query_is_not_shown() {
        let url = TokenUrl::parse("https://h.example:444/t?code=secret").unwrap();
        assert_eq!(url.to_string(), "https://h.example:444/t?…");
    }

    #[test]
    fn a_bad_url_says_what_is_wrong() {
        for (text, word) in [
            ("tokens.example", "scheme"),
            ("ftp://tokens.example", "https"),
            ("http://tokens.example/t", "plain http"),
            ("https://me:secret@tokens.example/t", "user name"),
            ("https://h.example:99999/", "port"),
            ("https://", "host"),
            ("https://a b/", "host"),
            ("https://h.example/a b", "percent-encoded"),
            ("https://h.example/a\r\nX: y", "percent-encoded"),
            ("https://h.example/#top", "fragment"),
        ] {
            let Err(message) = TokenUrl::parse(text) else {
                panic!("{text} was taken")
            };
            assert!(message.contains(word), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
