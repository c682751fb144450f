//! When certificates end: one verdict for `check`, for a start and for a reload.
//!
//! What ends is said, from [`SOON`] before it and each day, and is never a reason not to start:
//! devices with pre-shared keys, and those that do not look at dates, are better served than
//! nobody, and a restart must not turn a warning into an outage.

use crate::config::{ListenerConfig, Problem, TlsConfig};
use crate::runtime::clock::Unix;
use crate::telemetry::log::capped;
use crate::tls::{Acceptor, Expiry};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A file that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 86_400);

const DAY: u64 = 86_400;

/// A file that has ended or will soon.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Where it is named, what it means, and what to do.
    pub warning: Problem,
    /// Whether it is past.
    pub over: bool,
}

/// What deserves a word about the files of one listener. `file` is the configuration.
#[must_use]
pub fn of_listener(
    file: &Path,
    index: usize,
    tls: &TlsConfig,
    acceptor: &Acceptor,
    now: Unix,
) -> Vec<Ending> {
    endings(file, acceptor, now, |expiry| {
        let (key, meaning) = role(tls, expiry);
        (format!("listener[{index}].tls.{key}"), meaning)
    })
}

/// What deserves a word about the files of the admin port. `file` is the configuration.
#[must_use]
pub fn of_admin(file: &Path, acceptor: &Acceptor, now: Unix) -> Vec<Ending> {
    let meaning = "who checks it asks the admin port no more (ctl, Prometheus, browsers); renew it";
    endings(file, acceptor, now, |_| {
        ("admin.tls.cert".to_owned(), meaning)
    })
}

/// `role` says where a file is named, and what its end means.
fn endings(
    file: &Path,
    acceptor: &Acceptor,
    now: Unix,
    role: impl Fn(&Expiry) -> (String, &'static str),
) -> Vec<Ending> {
    let file = capped(&file.display().to_string());
    let mut endings = Vec::new();
    for expiry in acceptor.expiries() {
        let (place, meaning) = role(&expiry);
        let name = capped(&expiry.file.display().to_string());
        let over = expiry.at <= now;
        let text = if over {
            let days = now.since(expiry.at).as_secs() / DAY;
            format!("{name} ended {}, {days} days ago: {meaning}", expiry.at)
        } else if expiry.at.since(now) < SOON {
            let days = expiry.at.since(now).as_secs() / DAY;
            format!("{name} ends {}, in {days} days: then {meaning}", expiry.at)
        } else {
            continue;
        };
        endings.push(Ending {
            warning: Problem::new(file.clone(), place, text),
            over,
        });
    }
    endings
}

/// Logs what deserves a word about all listeners and the admin port.
pub(super) fn log(
    file: &Path,
    listeners: &[(ListenerConfig, Arc<Acceptor>)],
    admin: Option<&Arc<Acceptor>>,
    now: Unix,
) {
    let mut all = Vec::new();
    for (index, (listener, acceptor)) in listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        all.extend(of_listener(file, index, tls, acceptor, now));
    }
    all.extend(
        admin
            .map(|acceptor| of_admin(file, acceptor, now))
            .into_iter()
            .flatten(),
    );
    for ending in all {
        if ending.over {
            tracing::error!(name: "certificate_ended", "{}", ending.warning);
        } else {
            tracing::warn!(name: "certificate_ends_soon", "{}", ending.warning);
        }
    }
}

/// Which setting names the file, and what its end means.
fn role(tls: &TlsConfig, expiry: &Expiry) -> (&'static str, &'static str) {
    let is = |path: &Option<PathBuf>| path.as_ref() == Some(&expiry.file);
    if is(&tls.crl) {
        let meaning = "every client certificate is refused; fetch a new list";
        ("crl", meaning)
    } else if is(&tls.client_ca) {
        let meaning = "devices of that CA are admitted on; take it out when they have a newer one";
        ("client_ca", meaning)
    } else {
        let meaning = "devices that check it do not connect; renew it";
        ("cert", meaning)
    }
}
