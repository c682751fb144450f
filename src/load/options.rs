//! What a run is told. Secrets are named here by file or variable, never held.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A run of the load generator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Server, name or address.
    pub host: String,
    /// Server port.
    pub port: u16,
    /// How many devices.
    pub devices: usize,
    /// The number `{n}` of the first device.
    pub first: u64,
    /// Template of the client ids.
    pub client_id: String,
    /// Template of the topic published to.
    pub topic: String,
    /// Template of the filter subscribed to.
    pub subscribe: Option<String>,
    /// How devices prove themselves.
    pub credentials: Credentials,
    /// Only this TLS version; both when `None`.
    pub tls: Option<TlsVersion>,
    /// CA of the server's certificate; turns TLS on.
    pub ca: Option<PathBuf>,
    /// Local addresses, used in turn; the system's choice when empty.
    pub sources: Vec<IpAddr>,
    /// Connections started a second; all at once when `None`.
    pub connect_rate: Option<u32>,
    /// Most connections being made at a time.
    pub concurrency: usize,
    /// From the first SYN to SUBACK.
    pub connect_timeout: Duration,
    /// MQTT keep-alive, seconds; 0 sends no PINGREQ.
    pub keep_alive_s: u16,
    /// When messages are sent.
    pub pace: Pace,
    /// Most unacknowledged messages of a device.
    pub window: u16,
    /// 0 or 1.
    pub qos: u8,
    /// Payload size, bytes.
    pub payload: usize,
    /// Time before the measured part.
    pub warmup: Duration,
    /// Length of the measured part.
    pub duration: Duration,
    /// Longest wait for acknowledgements after the last message.
    pub drain: Duration,
    /// Pause after every read of at most 1 KiB.
    pub slow_reader: Option<Duration>,
    /// The server's process, measured through `/proc`.
    pub pid: Option<u32>,
    /// Base of the emulator's control API, `http://127.0.0.1:5680`.
    pub ledger: Option<String>,
    /// Whether a progress line is kept on standard error.
    pub progress: bool,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// This many a second by all devices together, whatever the server does.
    Open {
        /// Messages a second.
        rate: u32,
    },
    /// The next one as soon as the window has room.
    Closed,
    /// None: connections are held.
    Idle,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3
    #[value(name = "1.3")]
    V13,
}

/// How devices prove themselves. A *source* is a path, or `env:NAME` for a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    None,
    /// Pre-shared keys; turns TLS on.
    Psk {
        /// Template of the identities; the client id when `None`.
        identity: Option<String>,
        /// Source of lines `identity:HEX`.
        file: Option<String>,
        /// Source of one key template (`hex:…`, `base64:…` or `raw:…`), instead of `file`.
        template: Option<String>,
    },
    /// Client certificates; turns TLS on and needs a CA.
    Certificate {
        /// Template of the paths of PEM chains.
        cert: String,
        /// Template of the paths of PEM keys.
        key: String,
    },
    /// SAS tokens, minted when a device connects.
    Sas {
        /// Source of lines `id:BASE64`, or of one template of a base64 key.
        keys: String,
        /// The hub's host name, in scope and user name.
        hub: String,
        /// Life of the tokens.
        ttl: Duration,
    },
    /// User names and passwords.
    Password {
        /// Template of the user names.
        username: String,
        /// Source of one password template, or of lines `username:password`.
        passwords: String,
    },
}

/// Most devices of one process.
pub const DEVICES_MAX: usize = 1_000_000;
/// Largest payload, bytes: IoT Hub's limit.
pub const PAYLOAD_MAX: usize = 256 * 1024;
/// Largest window; far below the 65,535 packet ids.
pub const WINDOW_MAX: u16 = 10_000;
/// Highest rate, messages a second.
pub const RATE_MAX: u32 = 10_000_000;
/// Descriptors kept for everything that is no device.
const DESCRIPTORS_OWN: usize = 64;

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 1883,
            devices: 100,
            first: 0,
            client_id: "load-{n}".to_owned(),
            topic: "devices/{id}/messages/events/".to_owned(),
            subscribe: None,
            credentials: Credentials::None,
            tls: None,
            ca: None,
            sources: Vec::new(),
            connect_rate: Some(500),
            concurrency: 256,
            connect_timeout: Duration::from_secs(30),
            keep_alive_s: 60,
            pace: Pace::Closed,
            window: 1,
            qos: 1,
            payload: 256,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            slow_reader: None,
            pid: None,
            ledger: None,
            progress: false,
        }
    }
}

impl Options {
    /// What is wrong with the numbers, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |holds: bool, sentence: String| {
            if !holds {
                problems.push(sentence);
            }
        };
        need(
            (1..=DEVICES_MAX).contains(&self.devices),
            format!("--devices must be 1 to {DEVICES_MAX}"),
        );
        need(
            self.first.checked_add(self.devices as u64).is_some(),
            "--first is too large".to_owned(),
        );
        need(
            (1..=WINDOW_MAX).contains(&self.window),
            format!("--window must be 1 to {WINDOW_MAX}"),
        );
        need(self.qos <= 1, "--qos must be 0 or 1".to_owned());
        need(
            self.payload <= PAYLOAD_MAX,
            format!("--payload must be at most {PAYLOAD_MAX} bytes"),
        );
        need(
            !matches!(self.pace, Pace::Open { rate } if rate == 0 || rate > RATE_MAX),
            format!("--rate must be 1 to {RATE_MAX} messages a second"),
        );
        need(
            self.connect_rate != Some(0),
            "--connect-rate must be at least 1; --storm has no rate".to_owned(),
        );
        need(
            (1..=100_000).contains(&self.concurrency),
            "--concurrency must be 1 to 100000".to_owned(),
        );
        need(
            !self.duration.is_zero() && !self.connect_timeout.is_zero(),
            "--duration and --connect-timeout must be longer than nothing".to_owned(),
        );
        let tls = self.ca.is_some() || matches!(self.credentials, Credentials::Psk { .. });
        need(
            self.tls.is_none() || tls,
            "--tls needs --ca FILE (server certificate) or a PSK".to_owned(),
        );
        problems
    }

    /// Whether the process may open enough sockets; `limits` is the text of `/proc/self/limits`.
    pub(super) fn descriptor_problem(&self, limits: &str) -> Option<String> {
        let line = limits
            .lines()
            .find_map(|l| l.strip_prefix("Max open files"))?;
        let soft: usize = line.split_whitespace().next()?.parse().ok()?;
        let needed = self.devices + DESCRIPTORS_OWN;
        (needed > soft).then(|| {
            format!(
                "{} devices need {needed} descriptors and this process may have {soft}; raise \
                 the limit with `ulimit -n {needed}`, or start fewer devices",
                self.devices
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Pace, TlsVersion};

    #[test]
    fn the_defaults_are_fine_and_each_bad_number_is_named() {
        assert!(Options::default().problems().is_empty());
        let bad = Options {
            devices: 0,
            window: 0,
            qos: 2,
            payload: 1 << 20,
            pace: Pace::Open { rate: 0 },
            connect_rate: Some(0),
            tls: Some(TlsVersion::V13),
            ..Options::default()
        };
        let problems = bad.problems().join("\n");
        for name in [
            "--devices",
            "--window",
            "--qos",
            "--payload",
            "--rate",
            "--connect-rate",
            "--ca",
        ] {
            assert!(problems.contains(name), "{name} in {problems}");
        }
    }

    #[test]
    fn too_few_descriptors_are_noticed_before_the_first_device() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\n\
                      Max open files            1024                 20000                files\n";
        let options = |devices| Options {
            devices,
            ..Options::default()
        };
        let problem = options(961).descriptor_problem(limits).unwrap();
        assert!(problem.contains("ulimit -n 1025"), "{problem}");
        assert_eq!(options(960).descriptor_problem(limits), None);
    }
}
