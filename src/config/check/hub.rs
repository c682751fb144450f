//! `[hub]`: where the hub is and what proves us to it.

use crate::config::endpoint::host_name;
use crate::config::limits::Limits;
use crate::config::reader::Reader;
use crate::config::secret::Secret;
use crate::config::values::{human_count, rate, show_size};
use crate::config::{Endpoint, HubConfig};
use crate::telemetry::log::capped;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

const KIB: usize = 1024;
const ATTACH_RATE_DEFAULT: u32 = 90;
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 1024;

/// Who we are to the hub.
#[derive(Default)]
struct Access {
    host: String,
    policy: String,
    key: Secret,
}

/// Reads the section; `path` is the configuration file's.
pub(super) fn hub(
    reader: &Reader<'_>,
    limits: &Limits,
    path: &Path,
    insecure_permissions: bool,
) -> HubConfig {
    let token_source = super::token::source(reader, insecure_permissions);
    let outside = reader.has("token_file") || reader.has("token_url");
    let access = match outside {
        true => Access {
            host: host(reader),
            ..Access::default()
        },
        false => access(reader),
    };
    let secondary_key = reader
        .secret("secondary_key")
        .filter(|_| !outside)
        .and_then(|text| decoded(reader, "secondary_key", &text));
    if secondary_key
        .as_ref()
        .is_some_and(|second| *second == access.key)
    {
        reader.warning(
            "secondary_key",
            "is the same as the first key, so it is no help when that is revoked; remove it",
        );
    }
    let endpoint = endpoint(reader, &access.host);
    inline_keys(reader, path, &endpoint);
    let audience_default = format!("{}/devices", access.host);
    let audience = reader.text("audience");
    let audience = reader.or_default("audience", audience_default, audience, |text| capped(text));
    let secs = Duration::from_secs;
    let ms = Duration::from_millis;
    let wait = (ms(100), secs(600));
    let max_devices_per_connection = reader.count("max_devices_per_connection", 995, (1, 10_000));
    let (backoff_min, backoff_max) = backoff(reader);
    HubConfig {
        audience,
        token_source,
        ca: ca(reader),
        secondary_key,
        endpoint,
        token_ttl: reader.time("token_ttl", secs(3600), (secs(4), secs(365 * 86_400))),
        renew_at: reader.float(
            "renew_at",
            0.85,
            |share| share > 0.0 && share < 1.0,
            "must be a number between 0 and 1, neither included, as in 0.85",
        ),
        connections: connections(reader, limits, max_devices_per_connection),
        max_devices_per_connection,
        sessions_per_connection: reader.count("sessions_per_connection", 4, (1, 4096)),
        attach_rate_per_s: attach_rate(reader),
        connect_timeout: reader.time("connect_timeout", secs(10), wait),
        operation_timeout: reader.time("operation_timeout", secs(30), wait),
        outcome_timeout: reader.time("outcome_timeout", secs(30), wait),
        idle_timeout: reader.time("idle_timeout", secs(60), (secs(1), secs(1200))),
        backoff_min,
        backoff_max,
        connection_bytes_max: connection_bytes_max(reader, limits),
        host: access.host,
        policy: access.policy,
        key: access.key,
    }
}

/// Host, policy and key: from three keys, or from one connection string.
fn access(reader: &Reader<'_>) -> Access {
    if !reader.has("connection_string") {
        return Access {
            host: host(reader),
            policy: required(
                reader,
                "policy",
                "name a policy with the right DeviceConnect",
            ),
            key: key(reader),
        };
    }
    for key in ["host", "policy", "key"] {
        if reader.has(key) {
            let message = "connection_string says this already; keep one of them";
            reader.problem(key, message);
        }
    }
    let Some(text) = reader.secret("connection_string") else {
        return Access::default();
    };
    match connection_string(&text) {
        Ok(access) => {
            reader.note("host", access.host.clone());
            reader.note("policy", capped(&access.policy));
            access
        }
        Err(message) => {
            reader.problem("connection_string", message);
            Access::default()
        }
    }
}

fn required(reader: &Reader<'_>, key: &str, help: &str) -> String {
    let read = reader.text(key);
    if read.is_none() && reader.table_is_there() && !reader.has(key) {
        reader.problem(key, format!("missing; {help}"));
    }
    read.unwrap_or_default()
}

fn host(reader: &Reader<'_>) -> String {
    let parse = |text: &str| host_name(text.trim()).map(|()| text.trim().to_owned());
    let read = reader.parsed("host", parse, String::clone);
    if read.is_none() && reader.table_is_there() && !reader.has("host") {
        let message = "missing; write the hub's name, as in myhub.azure-devices.net, or give a \
                       connection_string";
        reader.problem("host", message);
    }
    read.unwrap_or_default()
}

fn key(reader: &Reader<'_>) -> Secret {
    if reader.table_is_there() && !reader.has("key") {
        reader.problem(
            "key",
            "missing; write \"${file:PATH}\" of a file with the policy's key (base64), or name a \
             token_file or a token_url",
        );
    }
    reader
        .secret("key")
        .and_then(|text| decoded(reader, "key", &text))
        .unwrap_or_default()
}

fn decoded(reader: &Reader<'_>, key: &str, text: &str) -> Option<Secret> {
    match decode(text) {
        Ok(secret) => Some(secret),
        Err(message) => {
            reader.problem(key, message);
            None
        }
    }
}

/// A policy key out of base64. The sentence never says what was found, only what is wrong.
fn decode(text: &str) -> Result<Secret, String> {
    let bytes = STANDARD.decode(text).map(Secret::new).map_err(|_| {
        "is no base64; copy the key as the portal shows it, with its `=` at the end".to_owned()
    })?;
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
        return Err(format!(
            "decodes to {} bytes; a policy key has at least {KEY_BYTES_MIN}, copy it whole",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`, parts in any order.
fn connection_string(text: &str) -> Result<Access, String> {
    let help = "it must be HostName=…;SharedAccessKeyName=…;SharedAccessKey=…, copied whole";
    let (mut host, mut policy, mut key) = (None, None, None);
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("has a part without `=`; {help}"))?;
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "hostname" => &mut host,
            "sharedaccesskeyname" => &mut policy,
            "sharedaccesskey" => &mut key,
            "deviceid" => {
                return Err(
                    "is a device's; take the one of a policy (hub, Shared access policies)"
                        .to_owned(),
                );
            }
            "endpoint" => {
                return Err(format!("is that of the Event Hubs endpoint; {help}"));
            }
            _ => return Err(format!("has a part that is none of the three; {help}")),
        };
        if place.replace(value.trim()).is_some() {
            return Err(format!("has a part twice; {help}"));
        }
    }
    let missing = |name: &str| format!("lacks {name}; {help}");
    let host = host.ok_or_else(|| missing("HostName"))?;
    host_name(host).map_err(|message| format!("its HostName {message}"))?;
    let policy = policy.filter(|policy| !policy.is_empty());
    let key = key.ok_or_else(|| missing("SharedAccessKey"))?;
    Ok(Access {
        host: host.to_owned(),
        policy: policy
            .ok_or_else(|| missing("SharedAccessKeyName"))?
            .to_owned(),
        key: decode(key).map_err(|message| format!("its SharedAccessKey {message}"))?,
    })
}

fn endpoint(reader: &Reader<'_>, host: &str) -> Endpoint {
    let read = reader.parsed("endpoint", Endpoint::parse, Endpoint::to_string);
    reader.or_default(
        "endpoint",
        Endpoint::of_host(host),
        read,
        Endpoint::to_string,
    )
}

fn ca(reader: &Reader<'_>) -> Option<std::path::PathBuf> {
    let path = reader.path("ca")?;
    if let Err(message) = super::material::authorities(&path) {
        reader.problem("ca", message);
    }
    Some(path)
}

/// Warns of a real hub's key in a file others can read.
fn inline_keys(reader: &Reader<'_>, path: &Path, endpoint: &Endpoint) {
    let exposed = path.metadata().is_ok_and(|m| m.mode() & 0o044 != 0);
    if !exposed || endpoint.is_loopback() {
        return;
    }
    for key in ["key", "secondary_key", "connection_string"] {
        if reader.is_inline(key) {
            reader.warning(
                key,
                "is written out in a file others can read; move it to a file of its own and write \
                 \"${file:PATH}\", or chmod 600 this one",
            );
        }
    }
}

/// The pool: as said, or as many as the device limit needs, two at least so that one may fail.
fn connections(reader: &Reader<'_>, limits: &Limits, per_connection: usize) -> usize {
    let needed = limits.connections.div_ceil(per_connection).max(2);
    let read = reader.count_if_set("connections", (1, 4096));
    if let Some(connections) = read {
        let devices = connections.saturating_mul(per_connection);
        if devices < limits.connections {
            reader.warning(
                "connections",
                format!(
                    "holds {} devices, limits.connections admits {}; those beyond are refused: \
                     remove this key to have {needed} connections",
                    human_count(devices as u64),
                    human_count(limits.connections as u64)
                ),
            );
        }
    }
    reader.or_default("connections", needed, read, usize::to_string)
}

fn attach_rate(reader: &Reader<'_>) -> u32 {
    let show = |per_s: &u32| format!("{per_s}/s");
    let parse = |text: &str| {
        let rate = rate(text)?;
        if !rate.is_whole_per_second() {
            return Err("must come to a whole number per second, as in \"90/s\"".to_owned());
        }
        u32::try_from(rate.per_second_floor())
            .ok()
            .filter(|per_s| (1..=100_000).contains(per_s))
            .ok_or_else(|| "must be from 1/s to 100000/s".to_owned())
    };
    let read = reader.measured("attach_rate", parse, show);
    reader.or_default("attach_rate", ATTACH_RATE_DEFAULT, read, show)
}

fn backoff(reader: &Reader<'_>) -> (Duration, Duration) {
    let ms = Duration::from_millis;
    let min = reader.time("backoff_min", ms(50), (ms(1), ms(60_000)));
    let max = reader.time("backoff_max", ms(5_000), (ms(1), ms(600_000)));
    if min > max {
        let message = "longer than backoff_max; lower it or raise backoff_max";
        reader.problem("backoff_min", message);
    }
    (min, max.max(min))
}

fn connection_bytes_max(reader: &Reader<'_>, limits: &Limits) -> usize {
    let range = (64 * KIB, 256 * KIB * KIB);
    let bytes = reader.size("connection_bytes_max", 2 * KIB * KIB, range);
    if bytes < limits.packet_bytes {
        let packet = show_size(limits.packet_bytes as u64);
        let message =
            format!("a packet of limits.packet_bytes ({packet}) would never fit; raise it");
        reader.problem("connection_bytes_max", message);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn a_connection_string_gives_all_three() {
        for text in [
            format!("HostName=h.example;SharedAccessKeyName=device;SharedAccessKey={KEY}"),
            format!("sharedaccesskey={KEY};HOSTNAME=h.example;SharedAccessKeyName=device;"),
        ] {
            let access = connection_string(&text).unwrap_or_default();
            assert_eq!(access.host, "h.example");
            assert_eq!(access.policy, "device");
            assert!(access.key.ct_eq(b"0123456789abcdef0123456789abcdef"));
        }
    }

    #[test]
    fn a_wrong_connection_string_says_what_is_wrong_and_not_what_it_holds() {
        for (text, word) in [
            (
                "HostName=h.example;SharedAccessKeyName=device".to_owned(),
                "SharedAccessKey",
            ),
            (
                format!("HostName=h.example;SharedAccessKey={KEY}"),
                "SharedAccessKeyName",
            ),
            (
                format!("SharedAccessKeyName=d;SharedAccessKey={KEY}"),
                "HostName",
            ),
            (
                format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}"),
                "policy",
            ),
            (
                format!("Endpoint=sb://x/;SharedAccessKey={KEY}"),
                "Event Hubs",
            ),
            (
                format!("HostName=h;HostName=i;SharedAccessKey={KEY}"),
                "twice",
            ),
            (
                format!("HostName=a b;SharedAccessKeyName=d;SharedAccessKey={KEY}"),
                "HostName",
            ),
            (
                "HostName=h;SharedAccessKeyName=d;SharedAccessKey=mark!ed".to_owned(),
                "base64",
            ),
            (KEY.trim_end_matches('=').to_owned(), "without `=`"),
        ] {
            let Err(message) = connection_string(&text) else {
                panic!("{text} was taken")
            };
            assert!(message.contains(word), "{message}");
            assert!(
                !message.contains(KEY) && !message.contains("mark!ed"),
                "{message}"
            );
        }
    }

    #[test]
    fn short_keys_and_other_alphabets_are_refused() {
        assert!(decode(KEY).is_ok());
        for text in [
            "",
            "QUJD",
            "not base64",
            &KEY.replace('=', ""),
            &KEY.replace('M', "-"),
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
