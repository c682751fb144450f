//! A hub described by `IOTHUB_EMULATOR_…` variables, for containers: no file, one policy, devices
//! by name. Ports are fixed, because a container's are mapped outside.

use super::{
    AmqpConfig, ConnectionStrings, DeviceConfig, DeviceRange, EmulatorConfig, EmulatorLimits,
    EventsConfig, Keys, PolicyConfig, ServiceConfig, Switches, TlsMaterial, valid_id,
};
use crate::config::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::{Ipv6Addr, SocketAddr};

/// The hub's name; tokens must name it.
const HOST: &str = "IOTHUB_EMULATOR_HOST";
/// Name of the policy with DeviceConnect.
const POLICY: &str = "IOTHUB_EMULATOR_POLICY";
/// Its key, base64; made afresh when absent.
const POLICY_KEY: &str = "IOTHUB_EMULATOR_POLICY_KEY";
/// Devices: `id`, `id=BASE64KEY` or `prefix*COUNT`, separated by commas or blanks.
const DEVICES: &str = "IOTHUB_EMULATOR_DEVICES";
/// Files of the TLS port's certificate chain and key, PEM; without them there is no TLS port.
const CERT: &str = "IOTHUB_EMULATOR_CERT";
const KEY: &str = "IOTHUB_EMULATOR_KEY";
const KNOWN: [&str; 6] = [HOST, POLICY, POLICY_KEY, DEVICES, CERT, KEY];

/// Devices of one range at most.
const RANGE_MAX: u64 = 1_000_000;

type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn config(
    get: Get<'_>,
    fresh_key: &dyn Fn() -> String,
) -> Result<(EmulatorConfig, ConnectionStrings), Vec<String>> {
    let mut problems = Vec::new();
    let text = |name: &str, default: &str| get(name).unwrap_or_else(|| default.to_owned());
    let host = text(HOST, "localhost");
    if host.is_empty() || host.contains(['/', ':', ' ', ';']) {
        problems.push(format!(
            "{HOST}: must be a bare host name, such as myhub.azure-devices.net"
        ));
    }
    let policy = text(POLICY, "device");
    let policy_key = get(POLICY_KEY).unwrap_or_else(fresh_key);
    let primary = secret(POLICY_KEY, &policy_key, &mut problems);
    let mut strings = ConnectionStrings {
        gateway: format!(
            "HostName={host};SharedAccessKeyName={policy};SharedAccessKey={policy_key}"
        ),
        devices: Vec::new(),
    };
    let (mut devices, mut ranges) = (Vec::new(), Vec::new());
    let names = get(DEVICES).unwrap_or_default();
    for entry in names
        .split([',', ' ', '\n'])
        .filter(|entry| !entry.is_empty())
    {
        match one(entry, &host, &mut strings) {
            Ok(Entry::Device(device)) => devices.push(device),
            Ok(Entry::Range(range)) => ranges.push(range),
            Err(problem) => problems.push(format!("{DEVICES}: {entry:?} {problem}")),
        }
    }
    if devices.is_empty() && ranges.is_empty() && problems.is_empty() {
        problems.push(format!(
            "{DEVICES}: is missing, for example thermo-1,load-*1000"
        ));
    }
    let tls = material(get, &mut problems);
    if !problems.is_empty() {
        problems.push(format!("the variables are {}", KNOWN.join(", ")));
        return Err(problems);
    }
    let any = |port| Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let config = EmulatorConfig {
        amqp: AmqpConfig {
            bind: tls.is_some().then(|| any(5671)).flatten(),
            plain_bind: any(5672),
            tls,
            ..AmqpConfig::default()
        },
        control_bind: any(5680),
        service: ServiceConfig::default(),
        events: EventsConfig::default(),
        insecure: true,
        policies: primary
            .map(|key| PolicyConfig::device_connect(&policy, key, None))
            .into_iter()
            .collect(),
        host,
        devices,
        ranges,
        limits: EmulatorLimits::default(),
        switches: Switches::default(),
    };
    Ok((config, strings))
}

enum Entry {
    Device(DeviceConfig),
    Range(DeviceRange),
}

/// One word of [`DEVICES`].
fn one(entry: &str, host: &str, strings: &mut ConnectionStrings) -> Result<Entry, &'static str> {
    if let Some((prefix, count)) = entry.split_once('*') {
        let count = count
            .parse()
            .ok()
            .filter(|count| (1..=RANGE_MAX).contains(count));
        let count = count.ok_or("is no range; write prefix*COUNT, COUNT from 1 to 1000000")?;
        if !valid_id(prefix) {
            return Err("has a prefix no device id may have");
        }
        return Ok(Entry::Range(DeviceRange {
            prefix: prefix.to_owned(),
            count,
            keys: Keys::default(),
        }));
    }
    let (id, key) = match entry.split_once('=') {
        Some((id, key)) => (id, Some(key)),
        None => (entry, None),
    };
    if !valid_id(id) {
        return Err("is no device id");
    }
    let mut keys = Keys::default();
    if let Some(key) = key {
        let bytes = STANDARD
            .decode(key)
            .map_err(|_| "has a key that is not base64")?;
        keys.primary = Some(Secret::new(bytes));
        let string = format!("HostName={host};DeviceId={id};SharedAccessKey={key}");
        strings.devices.push(string);
    }
    Ok(Entry::Device(DeviceConfig::new(id, keys)))
}

fn secret(name: &str, text: &str, problems: &mut Vec<String>) -> Option<Secret> {
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() >= 16 => Some(Secret::new(bytes)),
        _ => {
            problems.push(format!("{name}: must be base64 of 16 bytes or more"));
            None
        }
    }
}

fn material(get: Get<'_>, problems: &mut Vec<String>) -> Option<TlsMaterial> {
    let (cert, key) = match (get(CERT), get(KEY)) {
        (None, None) => return None,
        (Some(cert), Some(key)) => (cert, key),
        _ => {
            problems.push(format!("{CERT} and {KEY} go together, both name PEM files"));
            return None;
        }
    };
    let mut read = |name: &str, path: &str| {
        std::fs::read(path)
            .inspect_err(|error| problems.push(format!("{name}: cannot read {path}: {error}")))
            .ok()
    };
    let (cert_pem, key_pem) = (read(CERT, &cert), read(KEY, &key));
    Some(TlsMaterial {
        cert_pem: cert_pem?,
        key_pem: Secret::new(key_pem?),
    })
}

#[cfg(test)]
mod tests {
    use super::{EmulatorConfig, config};

    const KEY: &str = "ZGV2ZWxvcG1lbnQtb25seS1rZXktMDEyMzQ1Njc4OTA=";

    fn read(
        variables: &[(&str, &str)],
    ) -> Result<(EmulatorConfig, super::ConnectionStrings), Vec<String>> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        config(&get, &|| KEY.to_owned())
    }

    #[test]
    fn devices_ranges_and_a_fresh_key_make_a_hub_and_its_connection_strings() {
        let device_key = format!("press-7={KEY}");
        let devices = format!("thermo-1,{device_key} load-*20");
        let (hub, strings) = read(&[("IOTHUB_EMULATOR_DEVICES", &devices)]).unwrap();
        let ids: Vec<_> = hub
            .devices
            .iter()
            .map(|device| device.id.as_str())
            .collect();
        assert_eq!(ids, ["thermo-1", "press-7"]);
        assert_eq!(
            (hub.ranges[0].prefix.as_str(), hub.ranges[0].count),
            ("load-", 20)
        );
        assert!(hub.amqp.bind.is_none() && hub.insecure);
        assert_eq!(
            strings.gateway,
            format!("HostName=localhost;SharedAccessKeyName=device;SharedAccessKey={KEY}")
        );
        assert_eq!(strings.devices.len(), 1);
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_variable() {
        let problems = read(&[
            ("IOTHUB_EMULATOR_HOST", "http://x"),
            ("IOTHUB_EMULATOR_POLICY_KEY", "short"),
            ("IOTHUB_EMULATOR_DEVICES", "a/b,load-*0"),
            ("IOTHUB_EMULATOR_CERT", "c.pem"),
        ]);
        let problems = problems.err().unwrap();
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems[0].starts_with("IOTHUB_EMULATOR_HOST: "));
        assert!(problems[4].starts_with("IOTHUB_EMULATOR_CERT and "));
        assert!(read(&[]).err().unwrap()[0].starts_with("IOTHUB_EMULATOR_DEVICES: is missing"));
    }
}
