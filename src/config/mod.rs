//! Configuration: checked once, then immutable.
//!
//! [`load`] reads the file, applies the environment and checks everything in one pass; what it
//! returns needs no further checking. It opens no port, and no problem it reports holds a secret.

mod admin_url;
mod check;
mod endpoint;
mod env;
mod file;
pub mod limits;
pub mod named_file;
mod otlp;
mod problem;
mod reader;
pub mod reload;
mod schema;
pub mod secret;
pub mod secret_file;
mod token_source;
pub mod values;

pub use admin_url::AdminUrl;
pub use check::{Examination, Loaded, examine, load};
pub use endpoint::host_name;
pub use env::{files_named, interpolate};
pub use file::Origin;
pub use otlp::{CollectorUrl, OtlpConfig};
pub use problem::Problem;
pub use reader::Setting;
pub use token_source::{TokenSource, TokenUrl};

use crate::auth::CredentialKind;
use crate::mqtt::packet::Versions;
use limits::Limits;
use secret::Secret;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything `run` needs, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The upstream.
    pub hub: HubConfig,
    /// The device-side ports.
    pub listeners: Vec<ListenerConfig>,
    /// Rules files, in order.
    pub rules_files: Vec<PathBuf>,
    /// Where messages are kept that rules say to keep.
    pub refused_folder: Option<PathBuf>,
    /// Every bound.
    pub limits: Limits,
    /// The operators' port.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
    /// Traces; `None`: there are none.
    pub otlp: Option<OtlpConfig>,
    /// How the process stops.
    pub shutdown: ShutdownConfig,
    /// Secret files that others can read are taken.
    pub insecure_permissions: bool,
}

/// `[hub]`.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Host name of the hub, `name.azure-devices.net`; names the token's audience.
    pub host: String,
    /// Token scope before encoding; default `<host>/devices`.
    pub audience: String,
    /// Who makes the token.
    pub token_source: TokenSource,
    /// Policy name, `skn` of the token; empty when somebody else makes it.
    pub policy: String,
    /// Policy key, decoded; empty when somebody else makes the token.
    pub key: Secret,
    /// Second policy key, decoded.
    pub secondary_key: Option<Secret>,
    /// Where to connect.
    pub endpoint: Endpoint,
    /// Extra root certificates for the endpoint, PEM.
    pub ca: Option<PathBuf>,
    /// Life of a minted token.
    pub token_ttl: Duration,
    /// Share of the token's life after which it is renewed, 0 < x < 1.
    pub renew_at: f64,
    /// AMQP connections at most; the pool opens them as devices need them.
    pub connections: usize,
    /// Devices on one connection; more are refused.
    pub max_devices_per_connection: usize,
    /// AMQP sessions devices are spread over, per connection.
    pub sessions_per_connection: usize,
    /// Links attached per second, all connections together.
    pub attach_rate_per_s: u32,
    /// TCP, TLS and AMQP open, each at most.
    pub connect_timeout: Duration,
    /// A link's attach, detach or a token's put, each at most.
    pub operation_timeout: Duration,
    /// Time for a disposition before the link is rebuilt.
    pub outcome_timeout: Duration,
    /// AMQP idle time-out this side announces; a peer silent for it is dead.
    pub idle_timeout: Duration,
    /// First and longest pause between connection attempts; jittered.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// Unsettled bytes on one connection; more waits at the devices' sockets.
    pub connection_bytes_max: usize,
}

/// Where the hub's AMQP port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `amqps` or, for loopback addresses only, `amqp`.
    pub tls: bool,
    /// Host name or address; also the TLS server name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Name in logs and metrics.
    pub name: String,
    /// Address and port.
    pub bind: SocketAddr,
    /// TLS; absent = plain, loopback only unless `insecure`.
    pub tls: Option<TlsConfig>,
    /// Plain MQTT beyond loopback was asked for in words.
    pub insecure: bool,
    /// Credentials taken here.
    pub accept: Vec<CredentialKind>,
    /// Versions of MQTT served here.
    pub mqtt_versions: Versions,
}

/// `tls = { … }` of a listener; of `[admin]`, which has `cert` and `key` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Server certificate chain, PEM. Absent: this listener serves PSK only.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// CA bundle for client certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Certificate revocation lists, PEM.
    pub crl: Option<PathBuf>,
    /// TLS 1.2 hellos that offer PSK and certificates: which one wins.
    pub mixed: Mixed,
    /// What is served to PSK clients beside the default.
    pub psk: PskConfig,
    /// Largest plaintext of a record that is sent, bytes; `None`: the protocol's 16 KiB.
    pub record_bytes: Option<usize>,
}

/// `psk_…` of `tls = { … }`: what costs something or protects less. ECDHE-PSK, and in TLS 1.3
/// `psk_dhe_ke`, are always served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PskConfig {
    /// TLS 1.3 without an ephemeral exchange: no forward secrecy.
    pub ke: bool,
    /// TLS 1.2 suites with CBC and SHA-1.
    pub cbc_sha1: bool,
    /// TLS 1.2 DHE-PSK over a finite field: 27 times the cost of plain PSK.
    pub ffdhe: bool,
}

/// Policy for TLS 1.2 hellos that offer both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixed {
    /// Take the PSK stack.
    #[default]
    Psk,
    /// Take the certificate stack.
    Certificate,
}

/// What happens to a command the device has not acknowledged when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// AMQP `released`: back in the queue at once, counted by the hub.
    #[default]
    Release,
    /// AMQP `modified` with delivery-failed: as release, and marked failed.
    Abandon,
    /// No disposition: the hub's one-minute lock runs out, not counted.
    LockExpiry,
}

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// `/metrics`, `/live`, `/ready`, `/api/v1/`.
    pub bind: SocketAddr,
    /// Certificate and key; absent = plain HTTP, which has no API for other machines.
    pub tls: Option<TlsConfig>,
    /// May read the API.
    pub read_token: Option<Secret>,
    /// May read it and give orders.
    pub operate_token: Option<Secret>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `text` or `json`.
    pub json: bool,
    /// Filter in `tracing` syntax, default `info`.
    pub filter: String,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// `/ready` is 503 for this long before listeners close.
    pub announce: Duration,
    /// Messages in flight have this long to be settled.
    pub settle: Duration,
    /// Devices and hub connections have this long to close.
    pub close: Duration,
    /// Devices told to go per second; `None`: all of them within half of `close`.
    pub drain_rate_per_s: Option<u32>,
    /// Where the next process asks for this one's sockets; `None`: nowhere.
    pub handover: Option<PathBuf>,
}

impl ShutdownConfig {
    /// Time it takes to tell `devices` to go, one after the other.
    #[must_use]
    pub fn paced(&self, devices: usize) -> Duration {
        self.drain_rate_per_s.map_or(Duration::ZERO, |rate| {
            let devices = u32::try_from(devices).unwrap_or(u32::MAX);
            Duration::from_secs(1) * devices / rate.max(1)
        })
    }

    /// The longest a stop takes with `devices` connected; what an orchestrator has to grant.
    #[must_use]
    pub fn longest(&self, devices: usize) -> Duration {
        self.announce + self.paced(devices) + self.settle + self.close
    }
}
