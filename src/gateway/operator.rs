//! What operators ask, answered from the running gateway.

use super::history::History;
use crate::admin::Status;
use crate::admin::api::view::{
    Blocked, Connection, Device, Events, Filter, Hub as HubView, Level, Log, Operator, Overview,
    Page,
};
use crate::auth::identity::parse_client_id;
use crate::auth::{AuthenticatedDevice, CredentialKind, Who};
use crate::hub::Hub;
use crate::listener::Shared;
use crate::router::registry::{Eviction, SessionKey, Tally};
use crate::runtime::clock;
use crate::telemetry::causes::{Cause, Causes};
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use std::collections::BTreeSet;
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
    Connection {
        device: key.to_string(),
        credential: device.credential().label().to_owned(),
        identity: who.identity().unwrap_or_default(),
        rule: device.rule().to_string(),
        allow: device.permissions().words().map(str::to_owned).collect(),
        listener: who.listener,
        source: who.source.to_string(),
        connected_s: clock::mono().since(tally.since).as_secs(),
        accepted: tally.accepted.load(Relaxed),
        refused: tally.refused.load(Relaxed),
        commands: tally.commands.load(Relaxed),
    }
}

/// Whether a session is wanted. Asked of each of them, so it builds nothing it is not asked for.
fn fits(filter: &Filter, name: &str, device: &AuthenticatedDevice) -> bool {
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
    let (listener, source) = device.came_by();
    let begins = |begin: &String| name.starts_with(begin.as_str());
    filter.device.as_ref().is_none_or(begins)
        && is(&filter.credential, device.credential().label())
        && is(&filter.listener, listener)
        && (filter.source.is_none() || is(&filter.source, &source.to_string()))
}

/// The names of one page, out of names in any order.
struct Names<'a> {
    filter: &'a Filter,
    total: usize,
    /// One more than the page has, to know whether there is another.
    first: BTreeSet<String>,
}

impl<'a> Names<'a> {
    fn of(filter: &'a Filter) -> Self {
        Self {
            filter,
            total: 0,
            first: BTreeSet::new(),
        }
    }

    fn offer(&mut self, name: String) {
        self.total += 1;
        let is_behind = self.filter.after.as_ref().is_none_or(|after| name > *after);
        if is_behind {
            self.first.insert(name);
            if self.first.len() > self.filter.limit + 1 {
                self.first.pop_last();
            }
        }
    }

    /// The page's names, and `after` of the next one.
    fn page(mut self) -> (BTreeSet<String>, Option<String>) {
        let more = self.first.len() > self.filter.limit;
        if more {
            self.first.pop_last();
        }
        let next = self.first.last().filter(|_| more).cloned();
        (self.first, next)
    }
}

impl Operator for Office {
    fn connections(&self, filter: &Filter) -> Page {
        let registry = self.shared.registry();
        let mut names = Names::of(filter);
        registry.each(|key, device, _| {
            let name = key.to_string();
            if fits(filter, &name, device) {
                names.offer(name);
            }
        });
        let total = names.total;
        let (names, next) = names.page();
        // Whoever left between the two looks is left out.
        let shown = names.iter().filter_map(|name| {
            let key = key(name)?;
            registry.look(&key, |device, tally| connection(&key, device, tally))
        });
        Page {
            total,
            connections: shown.collect(),
            next,
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
                    name: "device_blocked",
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

    fn log(&self) -> Log {
        Log {
            filter: log::filter(),
        }
    }

    fn set_log(&self, level: Level) -> bool {
        if log::filter().is_empty() {
            return false;
        }
        tracing::info!(
            name: "operator_sets_log",
            filter = level.word(),
            "an operator changes the log's level"
        );
        log::set_filter(level.word());
        true
    }

    fn reload(&self) {
        self.reload.notify_one();
    }

    fn drain(&self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, Names};

    /// The pages of nine names, as a reader goes through them.
    #[test]
    fn pages_are_in_order_and_together_everything() {
        for limit in 1..=10 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let filter = Filter {
                    limit,
                    after,
                    ..Filter::default()
                };
                let mut names = Names::of(&filter);
                for name in ["d", "b", "i", "a", "c", "h", "e", "g", "f"] {
                    names.offer(name.to_owned());
                }
                assert_eq!(names.total, 9);
                let (page, next) = names.page();
                assert!(page.len() == limit || next.is_none());
                seen.extend(page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen.concat(), "abcdefghi", "{limit}");
        }
    }
}
