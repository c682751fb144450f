//! What a CONNECT claimed, and the line that says why it was refused.

use super::Line;
use crate::auth::{self, Step, Transport, Who};
use crate::listener::Site;
use crate::listener::handshake::Refusal;
use crate::mqtt::packet::Connect;
use crate::runtime::clock;
use crate::telemetry::reason::Reason;
use crate::tls::Peer;
use std::net::SocketAddr;

/// What the handshake proved, in the words of `auth`.
pub(in crate::listener) fn proved(peer: &Peer) -> Transport<'_> {
    match peer {
        Peer::Plain | Peer::Tls(_) => Transport::None,
        Peer::Psk { identity, .. } => Transport::Psk(identity),
        Peer::Certificate {
            chain,
            chain_trusted,
            anchor,
            ..
        } => Transport::Certificate {
            chain,
            trusted: *chain_trusted,
            anchors: anchor.as_slice(),
        },
    }
}

/// What a CONNECT claims.
pub(in crate::listener) fn claim<'a>(
    connect: &'a Connect,
    peer: &'a Peer,
    source: SocketAddr,
    site: &'a Site,
) -> auth::Claim<'a> {
    auth::Claim {
        transport: proved(peer),
        listener: &site.name,
        accept: &site.accept,
        source: source.ip().to_canonical(),
        client_id: &connect.client_id,
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        hub_host: &site.shared.hub_host,
        now: clock::unix(),
    }
}

/// The log line of a refused CONNECT. With `in_full` the rules are asked once more, to name the one
/// that decided; that costs as much as the decision, and a word for each rule.
pub(in crate::listener) fn connect_line<'a>(
    connect: &Connect,
    peer: &Peer,
    source: SocketAddr,
    site: &Site,
    refusal: &'a Refusal,
    in_full: bool,
) -> Line<'a> {
    let claim = claim(connect, peer, source, site);
    let who = Who::of_claim(&claim);
    let explained = || auth::explain(&site.shared.rules.load(), &claim);
    let (device, steps) = match in_full.then(explained) {
        Some(explained) => (explained.device, explained.steps),
        None => (None, Vec::new()),
    };
    let (expected, got) = contrast(refusal.reason, &claim, device.clone());
    let decided = steps.into_iter().rfind(Step::decides);
    Line {
        detail: refusal.detail,
        device,
        rule: decided.map(|step| format!("{} ({})", step.name, step.place)),
        expected,
        got,
        topic: refusal.topic.as_deref(),
        ..Line::new(
            "connection refused",
            who,
            source,
            refusal.reason,
            &*refusal.text,
        )
    }
}

/// What was expected of a CONNECT, and what came, where a word says it. Ids only, never a secret.
fn contrast(
    reason: Reason,
    claim: &auth::Claim<'_>,
    device: Option<String>,
) -> (Option<String>, Option<String>) {
    let id = || Some(claim.client_id.to_owned());
    let username = || claim.username.map(str::to_owned);
    let host = claim.hub_host;
    match reason {
        Reason::ClientIdMismatch => (device, id()),
        Reason::ClientIdMissing => (device, None),
        Reason::ClientIdInvalid => (Some("device or device/module".to_owned()), id()),
        Reason::UsernameHub => (Some(format!("{host}/{}/…", claim.client_id)), username()),
        Reason::UsernameMalformed => {
            let form = format!("{host}/{}/?api-version=2021-04-12", claim.client_id);
            (Some(form), username())
        }
        Reason::SasScope => (Some(format!("{host}/devices/{}", claim.client_id)), None),
        Reason::CredentialNotAccepted => {
            let kinds: Vec<_> = claim.accept.iter().map(|kind| kind.label()).collect();
            (Some(kinds.join(" ")), None)
        }
        _ => (None, None),
    }
}
