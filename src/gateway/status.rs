//! What `/ready` answers, and in which words.

use crate::admin::api::view::Refusal;
use crate::admin::{self, Readiness};
use crate::hub::refusals::Standing;
use crate::hub::{Hub, HubStatus};
use crate::listener::away::{explained, keeps_away};
use crate::runtime::clock;
use crate::runtime::phase::Phase;
use std::sync::Arc;
use tokio::sync::watch;

/// What `/ready` answers: the truth of this moment.
pub(super) fn status(hub: Hub, phase: watch::Receiver<Phase>) -> admin::Status {
    Arc::new(move || {
        let (phase, hub) = (*phase.borrow(), hub.status());
        let now = clock::unix();
        let token = hub.token_expiry.filter(|expiry| *expiry > now);
        let blocks = hub.refusals.iter().find(|refused| refused.blocks);
        let reason = match (phase, token, hub.connections_ready) {
            (Phase::Ready, Some(_), 1..) => blocks.map(explained).unwrap_or_default(),
            (Phase::Ready, None, _) => format!("no valid token at the hub: {}", problem(&hub)),
            (Phase::Ready, _, _) => format!("no connection to the hub: {}", problem(&hub)),
            (Phase::Starting, _, _) => format!("the phase is Starting: {}", problem(&hub)),
            (other, _, _) => format!("the phase is {}", other.name()),
        };
        let ready = reason.is_empty();
        let degraded = hub.refusals.first().filter(|_| ready).map(explained);
        Readiness {
            ready,
            phase: phase.name(),
            reason: degraded.unwrap_or(reason),
            hub_connections: hub.connections_ready,
            token_expires_in_s: token.map(|expiry| expiry.since(now).as_secs()),
            hub_refuses: hub.refusals.iter().map(refused).collect(),
        }
    })
}

/// What keeps the gateway from its hub, in a sentence.
pub(super) fn problem(hub: &HubStatus) -> String {
    match keeps_away(hub) {
        Some(refused) if hub.problem.is_empty() => explained(refused),
        Some(refused) => format!("{} ({})", explained(refused), hub.problem),
        None if hub.problem.is_empty() => "the hub has not answered yet".to_owned(),
        None => hub.problem.clone(),
    }
}

fn refused(refused: &Standing) -> Refusal {
    let cause = refused.cause;
    Refusal {
        cause: cause.word().into(),
        code: cause.code().into(),
        says: cause.says().into(),
        fix: cause.fix().into(),
        count: refused.count,
        lasts_s: refused.lasted.as_secs(),
    }
}
