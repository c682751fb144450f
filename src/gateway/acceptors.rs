//! What a listener does TLS with: its files, and the rules of the moment.

use crate::auth::rules::RuleSet;
use crate::config::secret::Secret;
use crate::config::{Config, ListenerConfig};
use crate::telemetry::metrics::Metrics;
use crate::tls::{
    Acceptor, CertificateRules, HandshakeLimits, OldCertificate, PskHash, PskKeys, PskLookup,
};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The acceptor of a listener. Reads files.
///
/// # Errors
/// All problems at once.
pub(super) fn of(
    listener: &ListenerConfig,
    rules: &Arc<ArcSwap<RuleSet>>,
    limits: HandshakeLimits,
) -> Result<Arc<Acceptor>, Vec<String>> {
    let (psk, certificates) = (psk_lookup(rules), certificate_rules(rules));
    Acceptor::with_rules(listener, psk, certificates, limits).map(Arc::new)
}

/// How long a handshake may take.
#[must_use]
pub fn limits(config: &Config) -> HandshakeLimits {
    HandshakeLimits {
        hello: config.limits.hello_timeout,
        total: config.limits.tls_timeout,
    }
}

/// The acceptor of the admin port, where it speaks TLS. Reads files.
///
/// # Errors
/// All problems at once.
pub fn of_admin(config: &Config) -> Result<Option<Arc<Acceptor>>, Vec<String>> {
    let made = |tls| Acceptor::for_http("[admin]", tls, limits(config)).map(Arc::new);
    config.admin.tls.clone().map(made).transpose()
}

/// Shows when the files of a listener, or of the admin port, end.
pub(super) fn show_expiries(acceptor: &Acceptor, metrics: &Metrics) {
    for expiry in acceptor.expiries() {
        let file = expiry.file.display().to_string();
        let gauge = metrics.certificate_expiry.with_label_values(&[&file]);
        gauge.set(expiry.at.as_secs() as f64);
    }
}

/// The keys of a PSK identity, from the rules of the moment.
fn psk_lookup(rules: &Arc<ArcSwap<RuleSet>>) -> PskLookup {
    let rules = rules.clone();
    Arc::new(move |identity| {
        let rules = rules.load();
        let entry = rules.psk(identity)?;
        Some(PskKeys {
            key: Secret::new(entry.key.to_vec()),
            next_key: entry.next_key.map(|key| Secret::new(key.to_vec())),
            hash: match entry.hash {
                crate::auth::rules::PskHash::Sha256 => PskHash::Sha256,
                crate::auth::rules::PskHash::Sha384 => PskHash::Sha384,
            },
        })
    })
}

/// Which certificates the rules of the moment know, and which old ones they admit.
fn certificate_rules(rules: &Arc<ArcSwap<RuleSet>>) -> CertificateRules {
    let (known, old) = (rules.clone(), rules.clone());
    CertificateRules {
        registered: Arc::new(move |der| known.load().registers_certificate(der)),
        admits: Arc::new(move |kind| {
            let allowed = old.load().allow_x509();
            match kind {
                OldCertificate::V1 => allowed.v1,
                OldCertificate::AnyEku => allowed.any_eku,
            }
        }),
    }
}
