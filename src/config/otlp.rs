//! `[telemetry.otlp]`: where traces go, and how many.

use super::endpoint::{bracketed, host_and_port, is_loopback, split_scheme};
use super::reader::Reader;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[telemetry.otlp]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// The collector.
    pub endpoint: CollectorUrl,
    /// Extra root certificates for it, PEM.
    pub ca: Option<PathBuf>,
    /// Share of the messages without a `traceparent` that get a span, 0 ≤ x ≤ 1.
    pub sample_ratio: f64,
    /// Spans that wait for the collector at most; more are dropped.
    pub queue_spans: usize,
    /// One request to it at most.
    pub timeout: Duration,
}

/// `http(s)://HOST[:PORT][/PATH]` of an OTLP/HTTP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl {
    /// `https`.
    pub tls: bool,
    /// Host name or address; also the TLS server name.
    pub host: String,
    /// Port; 4318 where none is given.
    pub port: u16,
    /// Path of the requests; `v1/traces` follows a base path that has it not.
    pub target: String,
}

/// The port of OTLP over HTTP.
const PORT: u16 = 4318;

/// The signal's path below the base (OTLP exporter specification, "Endpoint URLs").
const SIGNAL: &str = "v1/traces";

impl CollectorUrl {
    /// Parses the URL of a collector.
    ///
    /// # Errors
    /// A sentence with the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "write http://HOST:4318 or https://HOST:4318";
        let (tls, rest) = split_scheme(text, ["https", "http"], "http or https", help)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err("has a user name; the collector is asked without one".to_owned());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/%".contains(c);
        if !path.chars().all(plain) {
            return Err(format!("has more than a path; {help}"));
        }
        let (host, port) = host_and_port(authority, help)?;
        let path = path.trim_end_matches('/');
        let base = path.strip_suffix(SIGNAL).unwrap_or(path);
        let base = base.trim_matches('/');
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(PORT),
            target: match base {
                "" => format!("/{SIGNAL}"),
                base => format!("/{base}/{SIGNAL}"),
            },
        })
    }

    /// What stands in a `Host` field.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// Reads the section; `None` where no collector is named, or nothing is sampled.
pub(super) fn otlp(root: &Reader<'_>) -> Option<OtlpConfig> {
    let telemetry = Reader::new(root.cx, root.table("telemetry"), "telemetry");
    let reader = Reader::new(root.cx, telemetry.table("otlp"), "telemetry.otlp");
    let endpoint = reader.parsed("endpoint", CollectorUrl::parse, CollectorUrl::to_string);
    let share = |value: f64| (0.0..=1.0).contains(&value);
    let sample_ratio = reader.float("sample_ratio", 0.01, share, "must be from 0 to 1");
    let queue_spans = reader.count("queue_spans", 2048, (1, 10_000));
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(60));
    let timeout = reader.time("timeout", Duration::from_secs(10), (least, most));
    let ca = reader.path("ca");
    let endpoint = endpoint?;
    if !endpoint.tls && !is_loopback(&endpoint.host) {
        reader.warning(
            "endpoint",
            "device ids and message ids travel in the open; write https://, or a collector on \
             this machine",
        );
    }
    (sample_ratio > 0.0).then_some(OtlpConfig {
        endpoint,
        ca,
        sample_ratio,
        queue_spans,
        timeout,
    })
}

#[cfg(test)]
mod tests {
    use super::CollectorUrl;

    #[test]
    fn a_collectors_url_is_a_base_or_the_whole() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector", "http://collector:4318/v1/traces"),
            ("HTTPS://c.example:443/", "https://c.example:443/v1/traces"),
            (
                "https://c.example/otlp",
                "https://c.example:4318/otlp/v1/traces",
            ),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(CollectorUrl::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "collector:4318",
            "grpc://collector:4317",
            "http://",
            "http://user@collector",
            "http://collector:0",
            "http://collector/a?b=c",
            "http://collector/a b",
        ] {
            assert!(CollectorUrl::parse(text).is_err(), "{text} was taken");
        }
    }
}
