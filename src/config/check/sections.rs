//! The small sections: limits, rules, admin, log, shutdown.

use super::listener::tls_files;
use crate::config::file::Node;
use crate::config::limits::{Limits, ROWS};
use crate::config::reader::{Reader, absolute, text_of};
use crate::config::secret::Secret;
use crate::config::values::{show_duration, show_size};
use crate::config::{AdminConfig, LogConfig, OnDisconnect, ShutdownConfig, TlsConfig};
use crate::telemetry::log::{capped, parse_filter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `[limits]`: each row by itself, then the ones that only make sense together.
pub(super) fn limits(reader: &Reader<'_>) -> Limits {
    let mut limits = Limits::default();
    for row in ROWS {
        if let Some(bound) = reader.bound(row) {
            (row.set)(&mut limits, bound);
        }
    }
    let policy = reader.parsed("commands_on_disconnect", on_disconnect, |policy| {
        on_disconnect_name(*policy).to_owned()
    });
    limits.commands_on_disconnect = reader.or_default(
        "commands_on_disconnect",
        OnDisconnect::default(),
        policy,
        |policy| on_disconnect_name(*policy).to_owned(),
    );
    if limits.uplink_bytes < limits.packet_bytes {
        let packet = show_size(limits.packet_bytes as u64);
        reader.problem(
            "uplink_bytes",
            format!("a packet of packet_bytes ({packet}) would never fit; make it at least that"),
        );
    }
    if limits.connect_bytes > limits.packet_bytes {
        let packet = show_size(limits.packet_bytes as u64);
        reader.problem(
            "connect_bytes",
            format!("larger than packet_bytes ({packet}); lower it or raise packet_bytes"),
        );
    }
    if limits.hello_timeout > limits.tls_timeout {
        if reader.has("hello_timeout") {
            let tls = show_duration(limits.tls_timeout);
            let message = format!("longer than tls_timeout ({tls}), which contains it; lower it");
            reader.problem("hello_timeout", message);
        }
        limits.hello_timeout = limits.tls_timeout;
    }
    limits
}

fn on_disconnect(text: &str) -> Result<OnDisconnect, String> {
    match text {
        "release" => Ok(OnDisconnect::Release),
        "abandon" => Ok(OnDisconnect::Abandon),
        "lock_expiry" => Ok(OnDisconnect::LockExpiry),
        _ => Err("must be \"release\", \"abandon\" or \"lock_expiry\"".to_owned()),
    }
}

const fn on_disconnect_name(policy: OnDisconnect) -> &'static str {
    match policy {
        OnDisconnect::Release => "release",
        OnDisconnect::Abandon => "abandon",
        OnDisconnect::LockExpiry => "lock_expiry",
    }
}

/// `[rules]`: the files, absolute, in order.
pub(super) fn rules_files(reader: &Reader<'_>) -> Vec<PathBuf> {
    let Some(items) = reader.list("files") else {
        if !reader.has("files") {
            reader.problem(
                "files",
                "missing, so no device could connect; add files = [\"rules.toml\"]",
            );
        }
        return Vec::new();
    };
    let mut files = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = format!("files[{index}]");
        if matches!(item.node, Node::Failed) {
            continue;
        }
        match text_of(item).and_then(|text| absolute(&reader.cx.base, text)) {
            Ok(path) if files.contains(&path) => {
                reader.problem_at(&key, item, "is the same file as an earlier one; remove it");
            }
            Ok(path) => files.push(path),
            Err(message) => reader.problem_at(&key, item, message),
        }
    }
    if items.is_empty() {
        reader.problem(
            "files",
            "empty, so no device could connect; name a rules file",
        );
    }
    let shown: Vec<_> = files
        .iter()
        .map(|path| capped(&path.display().to_string()))
        .collect();
    reader.note("files", shown.join(", "));
    files
}

/// An address and port to listen on.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let help = "write an IP address and a port, as in \"0.0.0.0:8883\" or \"[::]:8883\"";
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("the port is missing; {help}"));
    }
    match text.rsplit_once(':') {
        Some(("", _)) => Err(format!("the address is missing; {help}")),
        Some(("localhost", port)) => Err(format!("names are not resolved; write 127.0.0.1:{port}")),
        Some(_) => Err(format!("is no address and port; {help}")),
        None => Err(format!("the address or the port is missing; {help}")),
    }
}

/// `[admin]`.
pub(super) fn admin(reader: &Reader<'_>, insecure_permissions: bool) -> AdminConfig {
    let default: SocketAddr = ([127, 0, 0, 1], 9464).into();
    let read = reader.parsed("bind", socket_address, SocketAddr::to_string);
    let bind = reader.or_default("bind", default, read, SocketAddr::to_string);
    let tls = reader.table("tls").map(|table| {
        let path = format!("{}.tls", reader.path_name());
        let reader = Reader::new(reader.cx, Some(table), &path);
        admin_tls(&reader, insecure_permissions)
    });
    if !bind.ip().is_loopback() {
        let open = "metrics and health can be read by whoever reaches this address; bind to \
                    127.0.0.1 or close it with a firewall";
        let plain = "; page and API are answered to this machine alone until tls = { cert = …, \
                     key = … } is set";
        // A `tls` of the wrong shape was reported.
        let plain = if reader.has("tls") { "" } else { plain };
        reader.warning("bind", format!("{open}{plain}"));
    }
    let tokens = ["read_token", "operate_token"].map(|key| token(reader, key));
    let [read_token, operate_token] = tokens;
    if read_token.is_some() && read_token == operate_token {
        reader.problem(
            "operate_token",
            "is the read_token too; make another, or remove read_token",
        );
    }
    AdminConfig {
        bind,
        tls,
        read_token,
        operate_token,
    }
}

/// `tls` of `[admin]`: a certificate and its key.
fn admin_tls(reader: &Reader<'_>, insecure_permissions: bool) -> TlsConfig {
    let tls = TlsConfig {
        cert: reader.path("cert"),
        key: reader.path("key"),
        ..TlsConfig::default()
    };
    if !reader.has("cert") && !reader.has("key") {
        reader.problem(
            "cert",
            "missing; name the server's certificate, and its key by key",
        );
    }
    tls_files(reader, &tls, insecure_permissions);
    tls
}

/// Least characters of a token.
const TOKEN_CHARS_MIN: usize = 16;

/// A bearer token (RFC 6750 §2.1).
fn token(reader: &Reader<'_>, key: &str) -> Option<Secret> {
    let text = reader.secret(key)?;
    let fit = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if text.len() < TOKEN_CHARS_MIN || !text.chars().all(fit) {
        reader.problem(
            key,
            "must be at least 16 of the characters A-Z a-z 0-9 - . _ ~ + / =; make one with \
             `openssl rand -base64 32`",
        );
        return None;
    }
    if reader.is_inline(key) {
        reader.warning(
            key,
            "a secret in the configuration file; write ${file:PATH} instead",
        );
    }
    Some(Secret::from(text.as_str()))
}

/// `[log]`.
pub(super) fn log(reader: &Reader<'_>) -> LogConfig {
    let show = |json: &bool| if *json { "json" } else { "text" }.to_owned();
    let format = |text: &str| match text {
        "json" => Ok(true),
        "text" => Ok(false),
        _ => Err("must be \"text\" or \"json\"".to_owned()),
    };
    let json = reader.parsed("format", format, show);
    let filter = |text: &str| parse_filter(text).map(|_| text.trim().to_owned());
    let read = reader.parsed("filter", filter, |text| capped(text));
    LogConfig {
        json: reader.or_default("format", false, json, show),
        filter: reader.or_default("filter", "info".to_owned(), read, String::clone),
    }
}

/// `drain_rate`: how fast devices are told to go.
fn drain_rate(reader: &Reader<'_>) -> Option<u32> {
    let help = "write a rate from 1/s to 100000/s, as in \"90/s\"";
    let parse = |text: &str| {
        let rate = text.trim().strip_suffix("/s").and_then(|n| n.parse().ok());
        let rate = rate.filter(|rate| (1..=100_000).contains(rate));
        rate.ok_or_else(|| help.to_owned())
    };
    reader.parsed("drain_rate", parse, |rate: &u32| format!("{rate}/s"))
}

/// `[shutdown]`; the defaults add up to less than the 30 s an orchestrator usually grants.
pub(super) fn shutdown(reader: &Reader<'_>) -> ShutdownConfig {
    let secs = Duration::from_secs;
    let range = (Duration::ZERO, secs(3600));
    ShutdownConfig {
        announce: reader.time("announce", secs(5), range),
        settle: reader.time("settle", secs(15), range),
        close: reader.time("close", secs(5), (secs(1), secs(3600))),
        drain_rate_per_s: drain_rate(reader),
        handover: reader.path("handover"),
    }
}
