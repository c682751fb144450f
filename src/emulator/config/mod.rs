//! `emulator.toml`: what it may say, and every problem in it at once.

mod environment;
mod read;
mod reader;
#[cfg(test)]
mod tests;

use crate::config::secret::Secret;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Everything the emulator needs, checked.
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// `[amqp]`: the ports devices and gateways connect to.
    pub amqp: AmqpConfig,
    /// `[control] bind`: the HTTP control API. Absent: not served.
    pub control_bind: Option<SocketAddr>,
    /// `[service]`: the service side over HTTPS.
    pub service: ServiceConfig,
    /// `[events]`: the Event-Hubs-compatible endpoint.
    pub events: EventsConfig,
    /// `insecure = true` at the head of the file: the port without TLS and the control API, which
    /// hands out keys, may be bound beyond loopback. For a container of its own.
    pub insecure: bool,
    /// `[hub] host`: the host name tokens must name.
    pub host: String,
    /// `[[policy]]`: shared access policies.
    pub policies: Vec<PolicyConfig>,
    /// `[[device]]`: registered devices.
    pub devices: Vec<DeviceConfig>,
    /// `[[device_range]]`: fleets, computed and not stored.
    pub ranges: Vec<DeviceRange>,
    /// `[limits]`.
    pub limits: EmulatorLimits,
    /// `[switches]`: points where the real hub's behaviour is not known.
    pub switches: Switches,
}

/// `[amqp]`.
#[derive(Clone, Debug)]
pub struct AmqpConfig {
    /// Address of the TLS port.
    pub bind: Option<SocketAddr>,
    /// Address of the port without TLS; loopback unless `insecure`.
    pub plain_bind: Option<SocketAddr>,
    /// Certificate of the TLS port.
    pub tls: Option<TlsMaterial>,
    /// `idle-time-out` announced in OPEN (service: 240 s).
    pub idle_timeout: Duration,
    /// Smallest `idle-time-out` taken from a client (service: 5 s); zero takes any.
    pub idle_timeout_min: Duration,
    /// Time for TLS, SASL and OPEN together.
    pub handshake_timeout: Duration,
}

/// `[service]`: registry, twins and methods over HTTP.
#[derive(Clone, Debug, Default)]
pub struct ServiceConfig {
    /// Address of the port with TLS; the certificate is that of `[amqp]`.
    pub bind: Option<SocketAddr>,
    /// Address of the port without TLS; loopback unless `insecure`.
    pub plain_bind: Option<SocketAddr>,
}

/// `[events]`: where back ends read what devices sent; served on the AMQP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// Host name back ends are sent to.
    pub host: String,
    /// Name of the event hub.
    pub name: String,
    /// Partitions; a device's events are all in one.
    pub partitions: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            name: "events".to_owned(),
            partitions: 4,
        }
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug)]
pub struct TlsMaterial {
    /// Chain, leaf first.
    pub cert_pem: Vec<u8>,
    /// Private key.
    pub key_pem: Secret,
}

/// One `[[policy]]`.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Name, `skn` of its tokens.
    pub name: String,
    /// What its tokens may do.
    pub rights: Rights,
    /// Primary and secondary key, decoded.
    pub keys: Keys,
}

/// Rights of a policy (wire sheet §1.2 point 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// `DeviceConnect`: every device-side link.
    pub device_connect: bool,
    /// `ServiceConnect`: service-side links.
    pub service_connect: bool,
    /// `RegistryRead`.
    pub registry_read: bool,
    /// `RegistryWrite`, includes reading.
    pub registry_write: bool,
}

/// Primary and secondary key of a policy, device or module, decoded.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Tried first.
    pub primary: Option<Secret>,
    /// Tried second.
    pub secondary: Option<Secret>,
}

impl Keys {
    /// The keys present, primary first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.primary.iter().chain(self.secondary.iter())
    }
}

/// One `[[device]]`.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Device id, case-sensitive.
    pub id: String,
    /// `status = "enabled" | "disabled"`.
    pub enabled: bool,
    /// `sas = { primary_key, secondary_key }`.
    pub keys: Keys,
    /// `modules = [{ id, sas }]`.
    pub modules: Vec<ModuleConfig>,
}

/// A module of a device.
#[derive(Clone, Debug)]
pub struct ModuleConfig {
    /// Module id.
    pub id: String,
    /// Its keys.
    pub keys: Keys,
}

/// One `[[device_range]]`: `prefix` + 0 … `count` − 1.
#[derive(Clone, Debug)]
pub struct DeviceRange {
    /// Text before the number.
    pub prefix: String,
    /// Number of devices.
    pub count: u64,
    /// Keys shared by the whole range, if any.
    pub keys: Keys,
}

/// `[limits]`. Defaults are the service's (wire sheet §7) where it has the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatorLimits {
    /// AMQP connections at once.
    pub connections: usize,
    /// Links at once, all connections together.
    pub links: usize,
    /// Device link attaches per second; `None` = not throttled (S1: 100).
    pub attach_rate: Option<u32>,
    /// Device-to-cloud messages per second; `None` = not throttled (S1: 100).
    pub d2c_rate: Option<u32>,
    /// How long a token is taken after its expiry.
    pub token_skew: Duration,
    /// Tokens on one connection.
    pub tokens_per_connection: usize,
    /// Largest device-to-cloud message or batch, encoded, bytes.
    pub message_bytes: usize,
    /// `max-message-size` of links; a larger message detaches the link, bytes.
    pub link_message_bytes: usize,
    /// Credit of an events link.
    pub d2c_credit: u32,
    /// Commands waiting for one device.
    pub command_queue: usize,
    /// Largest command, bytes.
    pub command_bytes: usize,
    /// How long a delivered command stays locked for its receiver.
    pub command_lock: Duration,
    /// Deliveries of one command before it is dead-lettered.
    pub max_delivery_count: u8,
    /// Life of a command that names none.
    pub command_ttl: Duration,
    /// Modules of one device.
    pub modules_per_device: usize,
    /// HTTP connections of back ends at once; further ones wait.
    pub service_connections: usize,
    /// Reports of commands that wait for a reader, some 300 bytes each; the oldest are dropped.
    pub feedback_max: usize,
    /// How long reports are gathered before they are a message; 64 are one at once.
    pub feedback_delay: Duration,
    /// Largest tags of a twin, bytes of JSON.
    pub twin_tags_bytes: usize,
    /// Largest desired properties of a twin, bytes of JSON.
    pub twin_desired_bytes: usize,
    /// Largest reported properties of a twin, bytes of JSON.
    pub twin_reported_bytes: usize,
    /// Bytes all twins hold together; beyond it changes that add are refused.
    pub twins_bytes_max: usize,
    /// Largest payload of a method call, and of its answer, bytes.
    pub method_bytes: usize,
    /// Method calls that wait for their answers at once; further ones are refused with 429.
    pub method_calls: usize,
    /// Twin answers, desired changes or method calls that wait for one link; each holds at most
    /// a twin or a method's payload.
    pub channel_backlog: usize,
    /// Messages the ledger holds; when full, further messages are refused, none is forgotten.
    pub ledger_entries_max: usize,
    /// Bytes of bodies and properties the ledger holds; the oldest are dropped.
    pub ledger_bytes_max: usize,
}

/// `[switches]`: points on which the real hub is not known for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    /// How an attach of a disabled device is refused.
    pub disabled_device: DisabledDevice,
    /// What happens when a device's command link is opened twice.
    pub second_receiver: SecondReceiver,
    /// Whether a lock that runs out adds to the delivery count (older documentation says so).
    pub lock_expiry_counts: bool,
    /// Whether commands unsettled when their link closes wait for the lock to run out
    /// (`false`: they are available at once).
    pub unsettled_waits_for_lock: bool,
}

/// See [`Switches::disabled_device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisabledDevice {
    /// `amqp:not-found`, what the Node SDK reports.
    NotFound,
    /// `amqp:unauthorized-access` with error 403012.
    Unauthorized,
}

/// See [`Switches::second_receiver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondReceiver {
    /// The older link is detached with `amqp:internal-error`.
    InternalError,
    /// The older link is detached with `amqp:link:stolen`.
    Stolen,
    /// The newer link is refused with `amqp:internal-error`.
    RefuseNew,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            bind: None,
            plain_bind: None,
            tls: None,
            idle_timeout: Duration::from_secs(240),
            idle_timeout_min: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for EmulatorLimits {
    fn default() -> Self {
        Self {
            connections: 1_000,
            links: 262_144,
            attach_rate: None,
            d2c_rate: None,
            token_skew: Duration::from_secs(300),
            tokens_per_connection: 1_000,
            message_bytes: 256 * 1024,
            link_message_bytes: 1024 * 1024,
            d2c_credit: 1_000,
            command_queue: 50,
            command_bytes: 64 * 1024,
            command_lock: Duration::from_secs(60),
            max_delivery_count: 10,
            command_ttl: Duration::from_secs(3600),
            modules_per_device: 50,
            service_connections: 100,
            feedback_max: 10_000,
            feedback_delay: Duration::from_secs(15),
            twin_tags_bytes: 8 * 1024,
            twin_desired_bytes: 32 * 1024,
            twin_reported_bytes: 32 * 1024,
            twins_bytes_max: 256 * 1024 * 1024,
            method_bytes: 128 * 1024,
            method_calls: 1_000,
            channel_backlog: 100,
            ledger_entries_max: 2_000_000,
            ledger_bytes_max: 64 * 1024 * 1024,
        }
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            disabled_device: DisabledDevice::NotFound,
            second_receiver: SecondReceiver::InternalError,
            lock_expiry_counts: false,
            unsettled_waits_for_lock: false,
        }
    }
}

impl EmulatorConfig {
    /// A hub named `host` on free loopback ports, without TLS, policies or devices; for tests
    /// and demonstrations, which fill in the rest.
    #[must_use]
    pub fn loopback(host: &str) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            amqp: AmqpConfig {
                plain_bind: Some(any),
                ..AmqpConfig::default()
            },
            control_bind: Some(any),
            service: ServiceConfig {
                bind: None,
                plain_bind: Some(any),
            },
            events: EventsConfig::default(),
            insecure: false,
            host: host.to_owned(),
            policies: Vec::new(),
            devices: Vec::new(),
            ranges: Vec::new(),
            limits: EmulatorLimits::default(),
            switches: Switches::default(),
        }
    }

    /// Reads `text`; relative paths in it start at `base`.
    ///
    /// # Errors
    /// Every problem of the text, each with its key and what to do about it.
    pub fn from_toml(text: &str, base: &Path) -> Result<Self, Vec<String>> {
        read::config(text, base)
    }

    /// Reads `IOTHUB_EMULATOR_…` variables, for a container: one policy, devices by name, every
    /// port on every address. `get` looks a variable up; `key` gives a fresh base64 key.
    ///
    /// # Errors
    /// Every problem, each with its variable and what to do about it.
    pub fn from_environment(
        get: impl Fn(&str) -> Option<String>,
        key: impl Fn() -> String,
    ) -> Result<(Self, ConnectionStrings), Vec<String>> {
        environment::config(&get, &key)
    }
}

/// What clients of a hub made by [`EmulatorConfig::from_environment`] need; holds keys.
pub struct ConnectionStrings {
    /// For a gateway: the policy with DeviceConnect.
    pub gateway: String,
    /// For each device with a key of its own.
    pub devices: Vec<String>,
}

impl PolicyConfig {
    /// A policy that lets devices connect, with `primary` as its key.
    #[must_use]
    pub fn device_connect(name: &str, primary: Secret, secondary: Option<Secret>) -> Self {
        Self {
            name: name.to_owned(),
            rights: Rights {
                device_connect: true,
                ..Rights::default()
            },
            keys: Keys {
                primary: Some(primary),
                secondary,
            },
        }
    }
}

impl DeviceConfig {
    /// An enabled device; without keys it connects through a hub policy only.
    #[must_use]
    pub fn new(id: &str, keys: Keys) -> Self {
        Self {
            id: id.to_owned(),
            enabled: true,
            keys,
            modules: Vec::new(),
        }
    }
}

/// Whether `id` is a device or module id (wire sheet §1.3).
pub(crate) fn valid_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.+%_#*?!(),=@$':;".contains(&b))
}

/// A duration written as the configuration writes it.
pub(crate) fn duration_text(text: &str) -> Option<Duration> {
    reader::duration(text)
}
