//! A second look at what loads without a problem and still will not work, or not for long.

use crate::auth::rules::RuleSet;
use crate::auth::x509::{Fingerprint, fingerprints};
use crate::config::named_file::{self, PEM_BYTES_MAX};
use crate::config::{Config, ListenerConfig, Problem};
use crate::gateway::dates::{self, Ending};
use crate::gateway::{acceptors, exposed};
use crate::runtime::clock::{self, Unix};
use crate::telemetry::log::capped;
use crate::tls::Acceptor;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Found {
    fn refuse(&mut self, path: &Path, place: &str, problems: Vec<String>) {
        let file = capped(&path.display().to_string());
        let problems = problems.into_iter();
        let problems = problems.map(|text| Problem::new(file.clone(), place.to_owned(), text));
        self.problems.extend(problems);
    }

    fn warn(&mut self, endings: Vec<Ending>) {
        let warnings = endings.into_iter().map(|ending| ending.warning);
        self.warnings.extend(warnings);
    }
}

/// Looks at everything the configuration names. `rules` are held against the listeners only when
/// the listeners are sound.
pub(super) fn look(path: &Path, config: &Config, rules: Option<&RuleSet>) -> Found {
    let mut found = Found::default();
    if let Some(rules) = rules {
        let now = clock::unix();
        for (index, listener) in config.listeners.iter().enumerate() {
            material(&mut found, path, index, listener, config, now);
        }
        admin(&mut found, path, config, now);
        against_listeners(&mut found, config, rules);
    }
    found.warnings.extend(exposed(config));
    found
}

/// Loads a listener's files as the listener will, and looks at their dates.
fn material(
    found: &mut Found,
    path: &Path,
    index: usize,
    listener: &ListenerConfig,
    config: &Config,
    now: Unix,
) {
    let nobody = Arc::new(|_: &[u8]| None);
    let acceptor = match Acceptor::new(listener, nobody, acceptors::limits(config)) {
        Ok(acceptor) => acceptor,
        Err(problems) => {
            return found.refuse(path, &format!("listener[{index}]"), problems);
        }
    };
    let Some(tls) = &listener.tls else { return };
    found.warn(dates::of_listener(path, index, tls, &acceptor, now));
}

/// The same of the admin port's.
fn admin(found: &mut Found, path: &Path, config: &Config, now: Unix) {
    match acceptors::of_admin(config) {
        Ok(Some(acceptor)) => found.warn(dates::of_admin(path, &acceptor, now)),
        Ok(None) => {}
        Err(problems) => found.refuse(path, "admin", problems),
    }
}

/// Rules that can never fit, because no listener trusts their CA or has their name.
fn against_listeners(found: &mut Found, config: &Config, rules: &RuleSet) {
    let read = |path: &PathBuf| named_file::read(path, PEM_BYTES_MAX);
    let bundles = config.listeners.iter().filter_map(|l| l.tls.as_ref());
    let bundles = bundles.filter_map(|tls| read(tls.client_ca.as_ref()?).ok());
    let trusted: HashSet<Fingerprint> = bundles
        .filter_map(|bundle| fingerprints(&bundle).ok())
        .flatten()
        .collect();
    let known = |name: &String| config.listeners.iter().any(|l| l.name == *name);
    for needs in rules.needs() {
        let mut warn = |text: String| {
            found
                .warnings
                .push(Problem::new(needs.place, needs.rule, text));
        };
        let missing = needs.issuer_cas.iter().filter(|ca| !trusted.contains(*ca));
        match missing.count() {
            0 => {}
            all if all == needs.issuer_cas.len() => warn(
                "never fits: issuer_ca is in no listener's tls.client_ca; add it there".to_owned(),
            ),
            some => warn(format!(
                "{some} of {} certificates of issuer_ca are in no listener's tls.client_ca; add \
                 them there",
                needs.issuer_cas.len()
            )),
        }
        for name in needs.listeners.iter().filter(|name| !known(name)) {
            warn(format!(
                "names listener {:?}, which is not configured; correct when.listener",
                capped(name)
            ));
        }
    }
}
