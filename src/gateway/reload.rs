//! Reload: read everything, then swap whole, then close the sessions that lost their right.
//!
//! What reloads: rules with everything they name, server certificates, client CAs, revocation
//! lists, the keys of the hub's policy, listeners, limits and the log's filter. Other keys of the
//! configuration file need a restart; they are checked and named. One problem anywhere keeps all of
//! the old set. Files are read on a blocking thread, one reload at a time; what arrives meanwhile
//! becomes one more.

use super::doors::{Changes, Doors, Unfit};
use super::load::{Sources, environment, load_rules_noting, note_configuration, note_tls};
use super::{acceptors, dates, exposed};
use crate::auth::rules::RuleSet;
use crate::auth::{self, AuthenticatedDevice};
use crate::config::reload::{Files, Watch};
use crate::config::{self, Config, Problem, Setting, limits};
use crate::hub::{Hub, PolicyKeys};
use crate::listener::Shared;
use crate::router::registry::Eviction;
use crate::runtime::clock::{self, Mono, Unix};
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Acceptor, Prepared};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

/// Why a reload happens, as the log says it.
const HANGUP: &str = "SIGHUP";
const CHANGE: &str = "a file changed";
const ORDER: &str = "an operator asked";

/// Least time between the end of a reload and the next one.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a certificate and a key that do not fit each other are given to become a pair: they
/// are two files, and whoever writes them takes a while between the two.
const PAIR: Duration = Duration::from_secs(10);

/// After how long a reload that is still under way is spoken of, and how often then.
const LONG: Duration = Duration::from_secs(10);

/// How often the log says which certificates end.
const DATES: Duration = Duration::from_secs(86_400);

/// What the gateway runs with, and where a reload puts the new.
pub(super) struct Reloader {
    pub(super) doors: Arc<Doors>,
    pub(super) rules: Arc<ArcSwap<RuleSet>>,
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Hub,
    pub(super) metrics: Arc<Metrics>,
    /// Of the admin port, where it speaks TLS.
    pub(super) admin: Option<Arc<Acceptor>>,
    /// An operator asks for a reload.
    pub(super) wanted: Arc<Notify>,
}

/// Everything a reload read, complete.
struct Fresh {
    config: Config,
    rules: RuleSet,
    changes: Changes,
    /// For the admin port.
    admin: Option<Prepared>,
    settings: Vec<Setting>,
}

/// What a reload leaves behind.
struct Done {
    /// What was read, also when it was no good: its next change is the next try.
    files: Files,
    /// The keys of the configuration file, when it could be read.
    settings: Option<Vec<Setting>>,
    /// Nothing was decided: a pair of files may be half changed, and there is time left.
    unsettled: bool,
}

/// Reloads on SIGHUP and on changes of files, until `stop`.
pub(super) async fn run(reloader: Arc<Reloader>, sources: Sources, stop: CancellationToken) {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| {
            tracing::warn!(
                name: "sighup_unavailable",
                %error,
                "SIGHUP cannot be received; files are watched"
            );
        })
        .ok();
    let mut watch = Watch::new(sources.files.clone());
    let mut dates = tokio::time::interval(DATES);
    let mut waiting = Vec::new();
    loop {
        let cause = tokio::select! {
            () = stop.cancelled() => return,
            () = received(hangup.as_mut()) => HANGUP,
            () = reloader.wanted.notified() => ORDER,
            () = watch.changed() => CHANGE,
            _ = dates.tick() => {
                reloader.tell_dates(&sources);
                continue;
            }
        };
        let settled = settle(&reloader, &sources, cause, &mut watch, hangup.as_mut());
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = settled => done,
        };
        if let Some(settings) = done.and_then(|done| done.settings) {
            reloader.tell_dates(&sources);
            let changed = changed_keys(&sources.settings, &settings);
            if changed != waiting {
                tell_waiting(&changed);
                waiting = changed;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Reloads; again when a file changes while a certificate waits for its key, until [`PAIR`] is
/// over. Whoever asks by a signal gets the answer at once.
async fn settle(
    reloader: &Arc<Reloader>,
    sources: &Sources,
    mut cause: &'static str,
    watch: &mut Watch,
    mut hangup: Option<&mut Signal>,
) -> Option<Done> {
    let begun = clock::mono();
    loop {
        let left = PAIR.saturating_sub(clock::mono().since(begun));
        let last = cause != CHANGE || left.is_zero();
        let (work, path) = (reloader.clone(), sources.clone());
        let work = tokio::task::spawn_blocking(move || work.reload(&path, cause, last));
        let done = match told(work, begun).await {
            Ok(done) => done,
            Err(error) => {
                reloader.count("failed");
                reloader.metrics.panics.inc();
                tracing::error!(
                    name: "reload_panicked",
                    %error,
                    "the reload broke off; report this as a defect"
                );
                return None;
            }
        };
        watch.follow(done.files.clone());
        if !done.unsettled {
            return Some(done);
        }
        tokio::select! {
            () = received(hangup.as_deref_mut()) => cause = HANGUP,
            () = watch.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// Waits for a reload, and says so when it takes long: a file system that hangs holds it up, and
/// every later reload behind it.
async fn told<T>(work: JoinHandle<T>, begun: Mono) -> Result<T, JoinError> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(LONG, &mut work).await {
            Ok(done) => return done,
            Err(_) => tracing::warn!(
                name: "reload_slow",
                seconds = clock::mono().since(begun).as_secs(),
                "a reload still reads files; a later one waits for it"
            ),
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

fn tell_waiting(changed: &[String]) {
    if changed.is_empty() {
        tracing::info!(
            name: "config_restored",
            "the configuration file is as it was at the start again"
        );
    } else {
        tracing::warn!(
            name: "restart_needed",
            keys = %changed.join(", "),
            "changed keys need a restart to take effect"
        );
    }
}

/// Keys that differ between the file at the start and now.
fn changed_keys(before: &[Setting], now: &[Setting]) -> Vec<String> {
    let index = |settings: &[Setting]| -> BTreeMap<String, String> {
        let pair = |setting: &Setting| (setting.key.clone(), setting.value.clone());
        settings.iter().map(pair).collect()
    };
    let (before, now) = (index(before), index(now));
    let keys = before.keys().chain(now.keys());
    let differs = |key: &&String| before.get(*key) != now.get(*key);
    let mut changed: Vec<String> = keys.filter(differs).cloned().collect();
    // Where the admin port speaks TLS before and after, other files are taken.
    let elsewhere = |key: &String| {
        key.starts_with("admin.tls.") && before.contains_key(key) && now.contains_key(key)
    };
    changed.retain(|key| !is_taken(key) && !elsewhere(key));
    changed.sort();
    changed.dedup();
    changed
}

/// Whether a reload takes a new value of this key.
fn is_taken(key: &str) -> bool {
    let limit = key.strip_prefix("limits.");
    limit.is_some_and(|limit| !limits::AT_START.contains(&limit))
        || key.starts_with("listener[")
        || [
            "hub.policy",
            "rules.files",
            "rules.insecure_permissions",
            "log.filter",
        ]
        .contains(&key)
}

impl Reloader {
    /// One reload, counted and logged; not when it may still succeed and is not the `last` try.
    /// Blocks.
    fn reload(&self, sources: &Sources, cause: &'static str, last: bool) -> Done {
        let begun = clock::mono();
        let mut files = Files::default();
        let mut unsettled = false;
        let settings = match self.read(sources, &mut files) {
            Ok(fresh) => {
                let (read, config) = (fresh.settings, fresh.config);
                if self.hub.rekey(PolicyKeys::of(&config.hub)) {
                    tracing::info!(
                        name: "policy_keys_changed",
                        cause,
                        "the policy's keys changed; tokens are signed anew"
                    );
                }
                if log::set_filter(&config.log.filter) {
                    tracing::info!(
                        name: "log_filter_changed",
                        filter = config.log.filter,
                        "the log's filter changed"
                    );
                }
                self.adopt_ports(&config, fresh.changes, fresh.admin);
                let rules = Arc::new(fresh.rules);
                let before = self.rules.swap(rules.clone()).counts();
                let closed = self.revoke(&rules, clock::unix());
                self.count("ok");
                show_rules(&rules, &self.metrics);
                let now = rules.counts();
                tracing::info!(
                    name: "reloaded",
                    cause,
                    devices = now.devices,
                    devices_before = before.devices,
                    psk_identities = now.psk_identities,
                    psk_identities_before = before.psk_identities,
                    rules = now.rules,
                    rules_before = before.rules,
                    closed,
                    milliseconds = clock::mono().since(begun).as_millis() as u64,
                    "reloaded"
                );
                for warning in exposed(&config) {
                    tracing::warn!(name: "config_warning", "{warning}");
                }
                Some(read)
            }
            Err(unfit) if unfit.tls && !last => {
                unsettled = true;
                tracing::debug!(problem = unfit.problems[0], "files do not fit yet; waiting");
                None
            }
            Err(unfit) => {
                self.count("failed");
                for problem in &unfit.problems {
                    tracing::error!(
                        name: "reload_refused",
                        cause,
                        "reload refused, nothing changed: {problem}"
                    );
                }
                None
            }
        };
        Done {
            files,
            settings,
            unsettled,
        }
    }

    /// Reads everything, or gives every problem.
    fn read(&self, sources: &Sources, files: &mut Files) -> Result<Fresh, Unfit> {
        let environment = environment();
        note_configuration(&sources.path, &environment, files);
        let examined = config::examine(&sources.path, environment.clone().into_iter());
        let mut problems: Vec<String> = examined.problems.iter().map(ToString::to_string).collect();
        let Some(config) = examined.draft else {
            return Err(Unfit {
                problems,
                tls: false,
            });
        };
        note_tls(&config, files);
        let rules = load_rules_noting(&config, &environment, files);
        let rules = rules.map_err(|found| problems.extend(found.iter().map(ToString::to_string)));
        if let Ok(rules) = &rules {
            let cut = rules.cut_since(&self.rules.load()).into_iter();
            problems.extend(cut.map(|(place, text)| Problem::new(place, "", text).to_string()));
        }
        let changes = self.doors.prepare(&config.listeners);
        let admin = self.prepare_admin(&config);
        match (rules, changes, admin) {
            (Ok(rules), Ok(changes), Ok(admin)) if problems.is_empty() => Ok(Fresh {
                config,
                rules,
                changes,
                admin,
                settings: examined.settings,
            }),
            (_, changes, admin) => {
                let mut found = changes.err().unwrap_or_default();
                if let Err(problems) = admin {
                    found.refuse(problems);
                }
                problems.extend(found.problems);
                problems.dedup();
                Err(Unfit {
                    problems,
                    tls: found.tls,
                })
            }
        }
    }

    /// Uses what was prepared for listeners and the admin port, within the new limits.
    fn adopt_ports(&self, config: &Config, changes: Changes, admin: Option<Prepared>) {
        self.shared.set_limits(&config.limits);
        self.doors.adopt(&config.listeners, changes);
        if let (Some(acceptor), Some(prepared)) = (&self.admin, admin) {
            acceptor.adopt(prepared);
            acceptors::show_expiries(acceptor, &self.metrics);
        }
    }

    /// Reads the files of the admin port, when it speaks TLS and still shall.
    fn prepare_admin(&self, config: &Config) -> Result<Option<Prepared>, Vec<String>> {
        match (&self.admin, &config.admin.tls) {
            (Some(acceptor), Some(tls)) => acceptor.prepare_from(tls).map(Some),
            _ => Ok(None),
        }
    }

    /// Says which certificates have ended or will soon.
    fn tell_dates(&self, sources: &Sources) {
        let (doors, admin) = (self.doors.acceptors(), self.admin.as_ref());
        dates::log(&sources.path, &doors, admin, clock::unix());
    }

    /// Closes every session the new rules would not admit as it is; how many. A device that
    /// connects meanwhile finds the swapped rules by itself (`listener::handshake`).
    fn revoke(&self, rules: &RuleSet, now: Unix) -> usize {
        let lost = |device: &AuthenticatedDevice| {
            !self.doors.vouches_for(device) || lost_right(rules, device, now)
        };
        self.shared
            .registry()
            .kick_where(Eviction::RightsRevoked, |_, device| lost(device))
    }

    fn count(&self, result: &str) {
        self.metrics.config_success.set(i64::from(result == "ok"));
        let reloads = &self.metrics.config_reloads;
        reloads.with_label_values(&[result]).inc();
    }
}

/// Whether a session may not go on. What it may do was fixed when it connected, so one that may
/// do less now is closed and gets its new rights when it comes back.
fn lost_right(rules: &RuleSet, device: &AuthenticatedDevice, now: Unix) -> bool {
    match auth::recheck(rules, device, now) {
        Err(denial) => {
            tracing::debug!(device = %device.device(), reason = %denial.reason, "right revoked");
            true
        }
        Ok(admission) => {
            let (had, has) = (device.permissions(), admission.device.permissions());
            (had.telemetry && !has.telemetry) || (had.commands && !has.commands)
        }
    }
}

/// Shows what is in force, and that it is new.
pub(super) fn show_rules(rules: &RuleSet, metrics: &Metrics) {
    for (credential, count) in rules.identities() {
        let gauge = metrics.loaded_identities.with_label_values(&[credential]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let counts = rules.counts();
    let short = &metrics.psk_short_keys;
    short.set(i64::try_from(counts.psk_short_keys).unwrap_or(i64::MAX));
    if let Some(warning) = counts.short_keys() {
        tracing::warn!(name: "config_warning", "{warning}");
    }
    for (place, text) in rules.open_ends() {
        let warning = Problem::new(place, "", text);
        tracing::warn!(name: "config_warning", "{warning}");
    }
    let count = counts.rules;
    metrics
        .rules_loaded
        .set(i64::try_from(count).unwrap_or(i64::MAX));
    metrics.config_success.set(1);
    metrics
        .config_success_time
        .set(clock::unix().as_secs() as f64);
}

#[cfg(test)]
mod tests {
    use super::changed_keys;
    use crate::config::{Origin, Setting};

    fn setting(key: &str, value: &str) -> Setting {
        Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: Origin::Default,
        }
    }

    #[test]
    fn changed_added_and_removed_keys_are_named_once() {
        let before = [
            setting("a", "1"),
            setting("b", "1"),
            setting("admin.tls.cert", "1"),
            setting("admin.tls.key", "1"),
            setting("hub.key", "(secret)"),
        ];
        let now = [
            setting("a", "2"),
            setting("c", "1"),
            setting("admin.tls.cert", "2"),
            setting("hub.key", "(secret)"),
        ];
        // The certificate is read where it is now; TLS that comes or goes waits.
        let changed = ["a", "admin.tls.key", "b", "c"];
        assert_eq!(changed_keys(&before, &now), changed);
        assert!(changed_keys(&before, &before).is_empty());
    }
}
