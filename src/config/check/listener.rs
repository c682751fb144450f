//! `[[listener]]`: addresses, TLS, and which credentials can be proved where.

use super::material;
use super::sections::socket_address;
use crate::auth::CredentialKind;
use crate::config::file::{Entry, Node};
use crate::config::reader::{Reader, complain, text_of};
use crate::config::{ListenerConfig, Mixed, PskConfig, TlsConfig};
use crate::mqtt::packet::{Protocol, Versions};
use std::net::SocketAddr;

const LISTENERS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
/// Plaintext of a record: the smallest of RFC 6066 §4 halved, and the protocol's largest.
const RECORD_BYTES: (usize, usize) = (256, 16 * 1024);
const KINDS: [CredentialKind; 4] = [
    CredentialKind::Psk,
    CredentialKind::X509,
    CredentialKind::Sas,
    CredentialKind::Password,
];

/// All listeners that could be read.
pub(super) fn listeners(
    root: &Reader<'_>,
    admin: SocketAddr,
    insecure_permissions: bool,
) -> Vec<ListenerConfig> {
    let items = root.list("listener").unwrap_or_default();
    if items.is_empty() && (!root.has("listener") || root.list("listener").is_some()) {
        root.problem("listener", "missing; add a [[listener]] with name and bind");
    }
    if items.len() > LISTENERS_MAX {
        root.problem(
            "listener",
            format!("more than {LISTENERS_MAX}; remove some"),
        );
    }
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    for (index, item) in items.iter().take(LISTENERS_MAX).enumerate() {
        let Node::Table(table) = &item.node else {
            continue; // reported with the shape
        };
        let path = format!("listener[{index}]");
        let reader = Reader::new(root.cx, Some(table), &path);
        let Some(listener) = listener(&reader, item, insecure_permissions) else {
            continue;
        };
        if listeners.iter().any(|other| other.name == listener.name) {
            reader.problem("name", "another listener has this name; give each its own");
        }
        let mut taken = listeners.iter().map(|l| (l.name.as_str(), l.bind));
        let admin = std::iter::once(("[admin]", admin));
        if let Some((who, other)) = admin
            .chain(&mut taken)
            .find(|(_, b)| overlap(*b, listener.bind))
        {
            let message = format!(
                "{} overlaps {other} of {who}; change one port",
                listener.bind
            );
            reader.problem("bind", message);
        }
        drop(taken);
        listeners.push(listener);
    }
    listeners
}

fn listener(
    reader: &Reader<'_>,
    item: &Entry,
    insecure_permissions: bool,
) -> Option<ListenerConfig> {
    let name = reader.parsed("name", name, String::clone);
    if !reader.has("name") {
        reader.problem_at("name", item, "missing; name it, as in name = \"devices\"");
    }
    let bind = reader.parsed("bind", socket_address, SocketAddr::to_string);
    if !reader.has("bind") {
        reader.problem_at(
            "bind",
            item,
            "missing; add one, as in bind = \"0.0.0.0:8883\"",
        );
    }
    let insecure = reader.boolean("insecure", false);
    let tls = reader.table("tls").map(|table| {
        let path = format!("{}.tls", reader.path_name());
        tls(
            &Reader::new(reader.cx, Some(table), &path),
            insecure_permissions,
        )
    });
    // A `tls` of the wrong shape was reported; it must not read as a wish for plain.
    let plain = !reader.has("tls");
    let accept = accept(reader, tls.as_ref(), plain);
    if let (Some(bind), true) = (bind, plain) {
        plain_is_wanted(reader, bind, insecure, &accept);
    }
    if insecure && !plain {
        reader.warning("insecure", "has no effect on a TLS listener; remove it");
    }
    Some(ListenerConfig {
        name: name?,
        bind: bind?,
        tls,
        insecure,
        accept,
        mqtt_versions: versions(reader),
    })
}

/// A name that can be a metric label and a log word.
fn name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
        return Err("must be 1 to 64 letters, digits, `-` or `_`".to_owned());
    }
    Ok(text.to_owned())
}

fn plain_is_wanted(
    reader: &Reader<'_>,
    bind: SocketAddr,
    insecure: bool,
    accept: &[CredentialKind],
) {
    if bind.ip().is_loopback() {
        return;
    }
    if !insecure {
        reader.problem(
            "bind",
            "plain MQTT beyond loopback; add tls = { cert = …, key = … }, bind to 127.0.0.1, or \
             set insecure = true",
        );
        return;
    }
    let shown: Vec<_> = accept.iter().map(|kind| kind.label()).collect();
    reader.warning(
        "insecure",
        format!(
            "{} and every message can be read and replayed on the way; use tls, or keep this \
             address inside a network you trust",
            shown.join(", ")
        ),
    );
}

/// The versions of MQTT served: as listed, or every one.
fn versions(reader: &Reader<'_>) -> Versions {
    let Some(items) = reader.list("mqtt_versions") else {
        reader.note(
            "mqtt_versions",
            Protocol::ALL.map(Protocol::name).join(", "),
        );
        return Versions::ALL;
    };
    if items.is_empty() {
        reader.problem(
            "mqtt_versions",
            "empty, so no device could connect; name a version",
        );
    }
    let mut served = Versions::NONE;
    let mut shown = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = format!("mqtt_versions[{index}]");
        if matches!(item.node, Node::Failed) {
            continue;
        }
        let version = text_of(item).and_then(|text| {
            let found = Protocol::ALL.into_iter().find(|v| v.name() == text);
            found.ok_or_else(|| complain(item, "must be \"3.1\", \"3.1.1\" or \"5\""))
        });
        match version {
            Ok(version) if served.has(version) => {
                reader.problem_at(&key, item, "is listed twice; remove one");
            }
            Ok(version) => {
                served = served.and(version);
                shown.push(version.name());
            }
            Err(message) => reader.problem_at(&key, item, message),
        }
    }
    reader.note("mqtt_versions", shown.join(", "));
    served
}

/// The credentials taken: as listed, or all this listener can check.
fn accept(reader: &Reader<'_>, tls: Option<&TlsConfig>, plain: bool) -> Vec<CredentialKind> {
    let obstacle = |kind| obstacle(kind, tls, plain);
    let Some(items) = reader.list("accept") else {
        let all: Vec<_> = KINDS
            .into_iter()
            .filter(|k| obstacle(*k).is_none())
            .collect();
        reader.note("accept", labels(&all));
        return all;
    };
    if items.is_empty() {
        reader.problem(
            "accept",
            "empty, so no device could connect; name a credential",
        );
    }
    let mut accepted = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = format!("accept[{index}]");
        if matches!(item.node, Node::Failed) {
            continue;
        }
        let kind =
            text_of(item).and_then(|text| kind(text).map_err(|message| complain(item, &message)));
        match kind {
            Ok(kind) if accepted.contains(&kind) => {
                reader.problem_at(&key, item, "is listed twice; remove one");
            }
            Ok(kind) => {
                if let Some(message) = obstacle(kind) {
                    reader.problem_at(&key, item, format!("{} {message}", kind.label()));
                }
                accepted.push(kind);
            }
            Err(message) => reader.problem_at(&key, item, message),
        }
    }
    reader.note("accept", labels(&accepted));
    accepted
}

fn kind(text: &str) -> Result<CredentialKind, String> {
    KINDS
        .into_iter()
        .find(|kind| kind.label() == text)
        .ok_or_else(|| "must be \"psk\", \"x509\", \"sas\" or \"password\"".to_owned())
}

fn labels(kinds: &[CredentialKind]) -> String {
    let labels: Vec<_> = kinds.iter().map(|kind| kind.label()).collect();
    labels.join(", ")
}

/// Why this listener cannot check credentials of this kind.
fn obstacle(kind: CredentialKind, tls: Option<&TlsConfig>, plain: bool) -> Option<&'static str> {
    let certificate = tls.is_some_and(|tls| tls.cert.is_some());
    match kind {
        CredentialKind::Psk if plain => {
            Some("is proved in the TLS handshake; add tls = {} or remove it")
        }
        CredentialKind::X509 if plain => {
            Some("is proved in the TLS handshake; add tls = { cert = …, key = … } or remove it")
        }
        CredentialKind::X509 if !certificate => {
            Some("needs a server certificate; add cert and key to tls, or remove it")
        }
        CredentialKind::Sas | CredentialKind::Password if !plain && !certificate => Some(
            "needs a server certificate, or no device could send it; add cert and key to tls, or \
             remove it",
        ),
        _ => None,
    }
}

fn tls(reader: &Reader<'_>, insecure_permissions: bool) -> TlsConfig {
    let mixed = |text: &str| match text {
        "psk" => Ok(Mixed::Psk),
        "certificate" => Ok(Mixed::Certificate),
        _ => Err("must be \"psk\" or \"certificate\"".to_owned()),
    };
    let show = |mixed: &Mixed| match mixed {
        Mixed::Psk => "psk".to_owned(),
        Mixed::Certificate => "certificate".to_owned(),
    };
    let read = reader.parsed("mixed", mixed, show);
    let tls = TlsConfig {
        cert: reader.path("cert"),
        key: reader.path("key"),
        client_ca: reader.path("client_ca"),
        crl: reader.path("crl"),
        mixed: reader.or_default("mixed", Mixed::default(), read, show),
        psk: psk(reader),
        record_bytes: record_bytes(reader),
    };
    tls_files(reader, &tls, insecure_permissions);
    tls
}

/// What is served to PSK clients beside the default, each with its price.
fn psk(reader: &Reader<'_>) -> PskConfig {
    let ffdhe = reader.boolean("psk_ffdhe", false);
    let former = reader.has("dhe_psk") && reader.boolean("dhe_psk", false);
    if reader.has("dhe_psk") {
        let text = "is called psk_ffdhe now, because ECDHE-PSK is served without it; rename it";
        reader.warning("dhe_psk", text);
    }
    let psk = PskConfig {
        ffdhe: ffdhe || former,
        cbc_sha1: reader.boolean("psk_cbc_sha1", false),
        ke: reader.boolean("psk_ke", false),
    };
    if psk.ke {
        reader.warning(
            "psk_ke",
            "such a session has no forward secrecy: whoever learns a key later reads what was \
             recorded; keep it to a listener for the devices that need it",
        );
    }
    psk
}

/// Largest record sent; the protocol's own bound is no bound.
fn record_bytes(reader: &Reader<'_>) -> Option<usize> {
    let bytes = reader.size("record_bytes", RECORD_BYTES.1, RECORD_BYTES);
    Some(bytes).filter(|bytes| *bytes < RECORD_BYTES.1)
}

/// Every file that `tls` names: there, of the right kind, and fitting each other.
pub(super) fn tls_files(reader: &Reader<'_>, tls: &TlsConfig, insecure_permissions: bool) {
    let chain = tls.cert.as_deref().and_then(|path| {
        let chain = material::certificates(path);
        chain
            .map_err(|message| reader.problem("cert", message))
            .ok()
    });
    let key = tls.key.as_deref().and_then(|path| {
        let key = material::private_key(path, insecure_permissions);
        key.map_err(|message| reader.problem("key", message)).ok()
    });
    if let (Some(chain), Some(key)) = (chain, key)
        && let Err(message) = material::belong_together(chain, key)
    {
        reader.problem("key", message);
    }
    match (reader.has("cert"), reader.has("key")) {
        (true, false) => reader.problem("key", "missing; name the private key of cert"),
        (false, true) => reader.problem("cert", "missing; name the certificate of key"),
        _ => {}
    }
    if let Some(path) = &tls.client_ca {
        if !reader.has("cert") {
            let message = "client certificates need a server certificate; add cert and key";
            reader.problem("client_ca", message);
        }
        if let Err(message) = material::authorities(path) {
            reader.problem("client_ca", message);
        }
    }
    if let Some(path) = &tls.crl {
        if !reader.has("client_ca") {
            reader.problem(
                "crl",
                "has no effect without client_ca; add that or remove this",
            );
        }
        if let Err(message) = material::revocations(path) {
            reader.problem("crl", message);
        }
    }
}

/// Whether the two cannot both be bound. Port 0 is whatever is free.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let wildcard_v6 = |address: SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
    let either_unspecified = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip()
            || (same_family && either_unspecified)
            || wildcard_v6(a)
            || wildcard_v6(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_when_both_cannot_be_bound() {
        let overlap = |a: &str, b: &str| overlap(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("127.0.0.1:1", "127.0.0.1:1"));
        assert!(overlap("0.0.0.0:1", "127.0.0.1:1"));
        assert!(overlap("[::]:1", "127.0.0.1:1"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!overlap("127.0.0.1:1", "[::1]:1"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
    }
}
