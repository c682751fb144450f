//! The TLS side of the listeners, which asks the rules of the moment.

use super::{StartError, reload};
use crate::auth::rules::{PskHash as RuleHash, RuleSet};
use crate::config::Config;
use crate::config::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::tls::{
    Acceptor, CertificateRules, HandshakeLimits, OldCertificate, PskHash, PskKeys, PskLookup,
};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// One acceptor for each listener, all problems at once.
pub(super) fn acceptors(
    config: &Config,
    rules: &Arc<ArcSwap<RuleSet>>,
    metrics: &Metrics,
) -> Result<Vec<Arc<Acceptor>>, StartError> {
    let limits = HandshakeLimits {
        hello: config.limits.hello_timeout,
        total: config.limits.tls_timeout,
    };
    let mut made = Vec::new();
    let mut problems = Vec::new();
    for listener in &config.listeners {
        let (psk, certificates) = (psk_lookup(rules), certificate_rules(rules));
        match Acceptor::with_rules(listener, psk, certificates, limits) {
            Ok(acceptor) => {
                reload::show_expiries(&acceptor, metrics);
                made.push(Arc::new(acceptor));
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(made)
    } else {
        Err(StartError::Tls(problems))
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
                RuleHash::Sha256 => PskHash::Sha256,
                RuleHash::Sha384 => PskHash::Sha384,
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
