//! What operators ask, answered from the running gateway.

use super::history::History;
use crate::admin::Status;
use crate::admin::api::view::{
    Blocked, Connection, Device, Events, Filter, Hub as HubView, Operator, Overview, Page,
};
use crate::auth::identity::parse_client_id;
use crate::auth::{AuthenticatedDevice, CredentialKind, Who};
use crate::hub::Hub;
use crate::listener::Shared;
use crate::router::registry::{Eviction, SessionKey, Tally};
use crate::runtime::clock;
use crate::telemetry::causes::{Cause, Causes};
use crate::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Causes of everybody in one answer.
const LATEST: usize = 200;

/// The parts of the gateway that operators ask about.
pub(super) struct Office {
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Hub,
    pub(super) host: String,
    pub(super) status: Status,
    pub(super) causes: Arc<Causes>,
    pub(super) history: Arc<History>,
    /// How long before its end a token is renewed.
    pub(super) renewed_before: Duration,
    pub(super) reload: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

impl Office {
    /// Notes what the metrics show until `stop`.
    pub(super) fn begin_history(&self, metrics: &Arc<Metrics>, stop: &CancellationToken) {
        let history = self.history.clone();
        tokio::spawn(history.run(metrics.clone(), stop.clone()));
    }
}

fn key(id: &str) -> Option<SessionKey> {
    let (device, module) = parse_client_id(id).ok()?;
    Some(SessionKey::new(device, module))
}

fn connection(key: &SessionKey, device: &AuthenticatedDevice, tally: &Tally) -> Connection {
    let who = Who::of_device(device);
    let rights = device.permissions();
    let allow = [
        (rights.telemetry, "telemetry"),
        (rights.commands, "commands"),
    ];
    Connection {
        device: key.to_string(),
        credential: device.credential().label().to_owned(),
        identity: who.identity().unwrap_or_default(),
        rule: device.rule().to_string(),
        allow: allow
            .iter()
            .filter(|(may, _)| *may)
            .map(|(_, what)| (*what).to_owned())
            .collect(),
        listener: who.listener,
        source: who.source.to_string(),
        connected_s: clock::mono().since(tally.since).as_secs(),
        accepted: tally.accepted.load(Relaxed),
        refused: tally.refused.load(Relaxed),
        commands: tally.commands.load(Relaxed),
    }
}

fn fits(filter: &Filter, name: &str, connection: &dyn Fn() -> Connection) -> Option<Connection> {
    let begins = filter
        .device
        .as_deref()
        .is_none_or(|begin| name.starts_with(begin));
    if !begins {
        return None;
    }
    let connection = connection();
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
    let fits = is(&filter.credential, &connection.credential)
        && is(&filter.listener, &connection.listener)
        && is(&filter.source, &connection.source);
    fits.then_some(connection)
}

impl Operator for Office {
    fn connections(&self, filter: &Filter) -> Page {
        let mut found = Vec::new();
        self.shared.registry().each(|key, device, tally| {
            let name = key.to_string();
            found.extend(fits(filter, &name, &|| connection(key, device, tally)));
        });
        found.sort_by(|a, b| a.device.cmp(&b.device));
        let total = found.len();
        if let Some(after) = &filter.after {
            found.retain(|connection| connection.device > *after);
        }
        let more = found.len() > filter.limit;
        found.truncate(filter.limit);
        let last = found.last().map(|connection| connection.device.clone());
        Page {
            total,
            next: last.filter(|_| more),
            connections: found,
        }
    }

    fn device(&self, id: &str) -> Option<Device> {
        let causes = self.causes.about(id).len();
        let key = key(id);
        let registry = self.shared.registry();
        let live = |key: &SessionKey| registry.look(key, |device, t| connection(key, device, t));
        let connection = key.as_ref().and_then(live);
        let blocked = key.as_ref().and_then(|key| self.shared.blocked(key));
        let known = connection.is_some() || blocked.is_some() || causes > 0;
        known.then(|| Device {
            device: id.to_owned(),
            connection,
            blocked_s: blocked.map(|left| left.as_secs()),
            causes,
        })
    }

    fn causes(&self, id: &str) -> Vec<Cause> {
        self.causes.about(id)
    }

    fn events(&self, id: &str, after: u64) -> Option<Events> {
        let (events, next) = self.shared.events(id, after)?;
        Some(Events { events, next })
    }

    fn latest_causes(&self) -> Vec<Cause> {
        self.causes.latest(LATEST)
    }

    fn overview(&self) -> Overview {
        let kinds = [
            CredentialKind::Psk,
            CredentialKind::X509,
            CredentialKind::Sas,
            CredentialKind::Password,
        ];
        let mut counts = kinds.map(|kind| (kind.label().to_owned(), 0));
        self.shared.registry().each(|_, device, _| {
            let kind = kinds.iter().position(|kind| *kind == device.credential());
            if let Some((_, count)) = kind.and_then(|kind| counts.get_mut(kind)) {
                *count += 1;
            }
        });
        Overview {
            connected: counts.iter().map(|(_, count)| count).sum(),
            credentials: counts.to_vec(),
            history: self.history.moments(),
        }
    }

    fn hub(&self) -> HubView {
        let (readiness, status) = ((self.status)(), self.hub.status());
        let word = readiness.status().to_owned();
        HubView {
            host: self.host.clone(),
            status: word,
            refuses: readiness.hub_refuses,
            reason: readiness.reason,
            connections_ready: status.connections_ready,
            connections_wanted: status.connections_wanted,
            token_expires_in_s: readiness.token_expires_in_s,
            token_renews_in_s: readiness.token_expires_in_s.map(|left| {
                // It is renewed at a share of its life, of which the rest is left then.
                left.saturating_sub(self.renewed_before.as_secs())
            }),
            token_from: status.key_in_use.to_owned(),
        }
    }

    fn close(&self, id: &str) -> bool {
        let registry = self.shared.registry();
        key(id).is_some_and(|key| registry.kick(&key, Eviction::Operator))
    }

    fn block(&self, id: &str, time: Duration) -> Blocked {
        let Some(key) = key(id) else {
            return Blocked::NoDevice;
        };
        match self.shared.block(&key, time) {
            true => {
                tracing::info!(
                    device = id,
                    seconds = time.as_secs(),
                    "an operator blocks a device"
                );
                Blocked::Done
            }
            false => Blocked::Full,
        }
    }

    fn unblock(&self, id: &str) -> bool {
        key(id).is_some_and(|key| self.shared.unblock(&key))
    }

    fn reload(&self) {
        self.reload.notify_one();
    }

    fn drain(&self) {
        self.stop.cancel();
    }
}
