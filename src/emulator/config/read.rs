//! The walk over the file's tables.

use super::reader::{Problems, Reader};
use super::{
    AmqpConfig, DeviceConfig, DeviceRange, DisabledDevice, EmulatorConfig, EmulatorLimits,
    EventsConfig, Keys, ModuleConfig, PolicyConfig, Rights, SecondReceiver, ServiceConfig,
    Switches, TlsMaterial, valid_id,
};
use crate::config::secret::Secret;
use std::collections::HashSet;
use std::path::Path;

const DEVICES_MAX: u64 = 1_000_000;
const POLICIES_MAX: usize = 16;

pub(super) fn config(text: &str, base: &Path) -> Result<EmulatorConfig, Vec<String>> {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => return Err(vec![format!("not TOML: {error}")]),
    };
    let problems = Problems::default();
    let mut root = Reader::new(table, "", &problems);
    let insecure = root.flag("insecure", false);
    let config = EmulatorConfig {
        amqp: amqp(root.table("amqp"), base, insecure),
        control_bind: control(root.table("control"), insecure),
        service: service(root.table("service"), insecure),
        events: events(root.table("events")),
        insecure,
        host: hub(root.table("hub")),
        policies: policies(root.tables("policy"), base),
        devices: devices(root.tables("device"), base),
        ranges: ranges(root.tables("device_range"), base),
        limits: limits(root.table("limits")),
        switches: switches(root.table("switches")),
    };
    root.finish();
    let problems = problems.into_inner();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

fn amqp(mut r: Reader<'_>, base: &Path, insecure: bool) -> AmqpConfig {
    let default = AmqpConfig::default();
    let wants_tls = r.has("bind");
    let wants_plain = r.has("plain_bind");
    if !wants_tls && !wants_plain {
        r.problem(
            "bind",
            "no AMQP port, set bind = \"127.0.0.1:5671\" or plain_bind",
        );
    }
    if wants_tls && !r.has("tls") {
        r.problem(
            "tls",
            "is missing, set tls = { cert = \"server.pem\", key = \"server.key\" }",
        );
    }
    let tls = if r.has("tls") {
        tls(r.table("tls"), base)
    } else {
        None
    };
    let config = AmqpConfig {
        bind: r.address("bind", false),
        plain_bind: r.address("plain_bind", !insecure),
        tls,
        idle_timeout: r.duration("idle_timeout", default.idle_timeout),
        idle_timeout_min: r.duration("idle_timeout_min", default.idle_timeout_min),
        handshake_timeout: r.duration("handshake_timeout", default.handshake_timeout),
    };
    if config.idle_timeout.as_millis() > u128::from(u32::MAX) || config.idle_timeout.is_zero() {
        r.problem("idle_timeout", "must be from 1ms to 1193h");
    }
    if config.handshake_timeout.is_zero() {
        r.problem(
            "handshake_timeout",
            "must be longer than nothing, for example \"30s\"",
        );
    }
    // `tls` may be absent; the reader must still know its name.
    if !wants_tls && config.tls.is_none() {
        drop(r.string("tls"));
    }
    r.finish();
    config
}

fn tls(mut r: Reader<'_>, base: &Path) -> Option<TlsMaterial> {
    let mut read = |key: &'static str| {
        let path = r.required(key, "server.pem");
        if path.is_empty() {
            return None;
        }
        std::fs::read(base.join(&path))
            .map_err(|error| r.problem(key, &format!("cannot read {path:?}: {error}")))
            .ok()
    };
    let cert = read("cert");
    let key = read("key");
    r.finish();
    Some(TlsMaterial {
        cert_pem: cert?,
        key_pem: Secret::new(key?),
    })
}

fn control(mut r: Reader<'_>, insecure: bool) -> Option<std::net::SocketAddr> {
    let bind = r.address("bind", !insecure);
    r.finish();
    bind
}

fn service(mut r: Reader<'_>, insecure: bool) -> ServiceConfig {
    let config = ServiceConfig {
        bind: r.address("bind", false),
        plain_bind: r.address("plain_bind", !insecure),
    };
    r.finish();
    config
}

fn events(mut r: Reader<'_>) -> EventsConfig {
    let d = EventsConfig::default();
    let partitions = r.count("partitions", 1..=1024, u64::from(d.partitions));
    let config = EventsConfig {
        host: r.string("host").unwrap_or(d.host),
        name: r.string("name").unwrap_or(d.name),
        partitions: u32::try_from(partitions).unwrap_or(d.partitions),
    };
    for (key, text) in [("host", &config.host), ("name", &config.name)] {
        if text.is_empty() || text.contains(['/', ':', ' ']) {
            r.problem(key, "must be a bare name, without scheme, port or path");
        }
    }
    r.finish();
    config
}

fn hub(mut r: Reader<'_>) -> String {
    let host = r.required("host", "myhub.azure-devices.net");
    if host.contains(['/', ':', ' ']) {
        r.problem(
            "host",
            "must be a bare host name, without scheme, port or path",
        );
    }
    r.finish();
    host
}

fn policies(readers: Vec<Reader<'_>>, base: &Path) -> Vec<PolicyConfig> {
    let mut seen = HashSet::new();
    let mut policies = Vec::new();
    for mut r in readers {
        let name = r.required("name", "device");
        if !seen.insert(name.clone()) {
            r.problem("name", &format!("{name:?} is there twice, rename one"));
        }
        if policies.len() == POLICIES_MAX {
            r.problem("name", "a hub has at most 16 policies");
        }
        let mut rights = Rights::default();
        for right in r.strings("rights") {
            match right.as_str() {
                "DeviceConnect" => rights.device_connect = true,
                "ServiceConnect" => rights.service_connect = true,
                "RegistryRead" => rights.registry_read = true,
                "RegistryWrite" => rights.registry_write = true,
                _ => r.problem(
                    "rights",
                    &format!(
                        "{right:?} is not one of \"DeviceConnect\", \"ServiceConnect\", \
                         \"RegistryRead\", \"RegistryWrite\""
                    ),
                ),
            }
        }
        if !r.has("primary_key") {
            r.problem(
                "primary_key",
                "is missing, make one with `openssl rand -base64 32`",
            );
        }
        let keys = keys(&mut r, base);
        r.finish();
        policies.push(PolicyConfig { name, rights, keys });
    }
    policies
}

fn keys(r: &mut Reader<'_>, base: &Path) -> Keys {
    Keys {
        primary: r.key("primary_key", base),
        secondary: r.key("secondary_key", base),
    }
}

fn sas(r: &mut Reader<'_>, base: &Path) -> Keys {
    let mut sas = r.table("sas");
    let keys = keys(&mut sas, base);
    sas.finish();
    keys
}

fn id(r: &mut Reader<'_>, seen: &mut HashSet<String>) -> String {
    let id = r.required("id", "thermo-1");
    if !id.is_empty() && !valid_id(&id) {
        r.problem(
            "id",
            "must be 1 to 128 of A-Z a-z 0-9 and - . + % _ # * ? ! ( ) , = @ $ ' : ;",
        );
    }
    if !seen.insert(id.clone()) {
        r.problem("id", &format!("{id:?} is there twice, remove one"));
    }
    id
}

fn devices(readers: Vec<Reader<'_>>, base: &Path) -> Vec<DeviceConfig> {
    let mut seen = HashSet::new();
    let mut devices = Vec::new();
    for mut r in readers {
        let id_text = id(&mut r, &mut seen);
        let enabled = r.choice("status", &[("enabled", true), ("disabled", false)], true);
        let keys = sas(&mut r, base);
        let mut names = HashSet::new();
        let mut modules = Vec::new();
        for mut m in r.tables("modules") {
            let id = id(&mut m, &mut names);
            let keys = sas(&mut m, base);
            m.finish();
            modules.push(ModuleConfig { id, keys });
        }
        r.finish();
        devices.push(DeviceConfig {
            id: id_text,
            enabled,
            keys,
            modules,
        });
    }
    devices
}

fn ranges(readers: Vec<Reader<'_>>, base: &Path) -> Vec<DeviceRange> {
    let mut ranges = Vec::new();
    for mut r in readers {
        let prefix = r.required("prefix", "load-");
        if !prefix.is_empty() && !valid_id(&prefix) {
            r.problem("prefix", "holds characters a device id may not have");
        }
        if !r.has("count") {
            r.problem("count", "is missing, for example count = 20000");
        }
        let count = r.count("count", 1..=DEVICES_MAX, 1);
        let keys = sas(&mut r, base);
        r.finish();
        ranges.push(DeviceRange {
            prefix,
            count,
            keys,
        });
    }
    ranges
}

fn limits(mut r: Reader<'_>) -> EmulatorLimits {
    let d = EmulatorLimits::default();
    let limits = EmulatorLimits {
        connections: r.size("connections", 1..=100_000, d.connections),
        links: r.size("links", 1..=10_000_000, d.links),
        attach_rate: r.rate("attach_rate", d.attach_rate),
        d2c_rate: r.rate("d2c_rate", d.d2c_rate),
        token_skew: r.duration("token_skew", d.token_skew),
        tokens_per_connection: r.size("tokens_per_connection", 1..=1000, d.tokens_per_connection),
        message_bytes: r.size("message_bytes", 1024..=1_048_576, d.message_bytes),
        link_message_bytes: r.size("link_message_bytes", 4096..=4_194_304, d.link_message_bytes),
        // Above 32768 the receive buffer of the AMQP library would fill before the credit ends.
        d2c_credit: u32::try_from(r.count("d2c_credit", 1..=32_768, u64::from(d.d2c_credit)))
            .unwrap_or(d.d2c_credit),
        command_queue: r.size("command_queue", 1..=10_000, d.command_queue),
        command_bytes: r.size("command_bytes", 1..=262_144, d.command_bytes),
        command_lock: r.duration("command_lock", d.command_lock),
        max_delivery_count: u8::try_from(r.count("max_delivery_count", 1..=100, 10)).unwrap_or(10),
        command_ttl: r.duration("command_ttl", d.command_ttl),
        modules_per_device: r.size("modules_per_device", 1..=10_000, d.modules_per_device),
        service_connections: r.size("service_connections", 1..=100_000, d.service_connections),
        feedback_max: r.size("feedback_max", 1..=10_000_000, d.feedback_max),
        feedback_delay: r.duration("feedback_delay", d.feedback_delay),
        twin_tags_bytes: r.size("twin_tags_bytes", 2..=1_048_576, d.twin_tags_bytes),
        twin_desired_bytes: r.size("twin_desired_bytes", 2..=1_048_576, d.twin_desired_bytes),
        twin_reported_bytes: r.size("twin_reported_bytes", 2..=1_048_576, d.twin_reported_bytes),
        twins_bytes_max: r.size("twins_bytes_max", 0..=1 << 40, d.twins_bytes_max),
        method_bytes: r.size("method_bytes", 1..=1_048_576, d.method_bytes),
        method_calls: r.size("method_calls", 1..=1_000_000, d.method_calls),
        channel_backlog: r.size("channel_backlog", 1..=10_000, d.channel_backlog),
        ledger_entries_max: r.size("ledger_entries_max", 1..=100_000_000, d.ledger_entries_max),
        ledger_bytes_max: r.size("ledger_bytes_max", 0..=1 << 40, d.ledger_bytes_max),
    };
    if limits.command_lock.is_zero() {
        r.problem(
            "command_lock",
            "must be longer than nothing, the service has \"1m\"",
        );
    }
    r.finish();
    limits
}

fn switches(mut r: Reader<'_>) -> Switches {
    let d = Switches::default();
    let disabled = [
        ("not-found", DisabledDevice::NotFound),
        ("unauthorized", DisabledDevice::Unauthorized),
    ];
    let second = [
        ("internal-error", SecondReceiver::InternalError),
        ("stolen", SecondReceiver::Stolen),
        ("refuse-new", SecondReceiver::RefuseNew),
    ];
    let switches = Switches {
        disabled_device: r.choice("disabled_device", &disabled, d.disabled_device),
        second_receiver: r.choice("second_receiver", &second, d.second_receiver),
        lock_expiry_counts: r.flag("lock_expiry_counts", d.lock_expiry_counts),
        unsettled_waits_for_lock: r.flag("unsettled_waits_for_lock", d.unsettled_waits_for_lock),
    };
    r.finish();
    switches
}
