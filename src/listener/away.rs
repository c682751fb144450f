//! A hub that keeps everybody waiting: what it is that it refuses, in one place for `/ready`, the
//! log and the causes.

use crate::hub::refusals::{Class, Standing};
use crate::hub::{Hub, HubStatus};

/// What the hub refuses, while no device can be served by it.
#[must_use]
pub fn keeps_away(hub: &HubStatus) -> Option<&Standing> {
    // What was met last is what is in the way now.
    let latest = |which: &dyn Fn(&&Standing) -> bool| {
        let standing = hub.refusals.iter().filter(which);
        standing.min_by_key(|refused| refused.quiet)
    };
    if hub.connections_ready > 0 {
        return latest(&|refused| refused.blocks);
    }
    let way_in = |refused: &&Standing| {
        let class = refused.cause.class();
        matches!(class, Class::Connect | Class::Token)
    };
    latest(&way_in).or(latest(&|_| true))
}

/// What it refuses, since when, and what to do, in a sentence.
#[must_use]
pub fn explained(refused: &Standing) -> String {
    let cause = refused.cause;
    let (word, says, fix) = (cause.word(), cause.says(), cause.fix());
    format!("{word} for {} s: {says}; {fix}", refused.lasted.as_secs())
}

/// That a session which ended so waited for the hub, and what to do; nothing while the hub serves.
pub(super) fn waited(hub: &Hub, end: &str) -> Option<(String, &'static str)> {
    let status = hub.status();
    let refused = keeps_away(&status)?;
    let (word, says) = (refused.cause.word(), refused.cause.says());
    let since = refused.lasted.as_secs();
    let text = format!(
        "the device waited for a hub that serves nobody ({word} for {since} s: {says}); {end}"
    );
    Some((text, refused.cause.fix()))
}

#[cfg(test)]
mod tests {
    use super::keeps_away;
    use crate::hub::HubStatus;
    use crate::hub::refusals::{RefusalCause, Standing};
    use std::time::Duration;

    #[test]
    fn the_way_in_is_named_before_what_one_device_meets() {
        let standing = |cause, blocks| Standing {
            cause,
            count: 1,
            lasted: Duration::from_secs(9),
            quiet: Duration::from_secs(1),
            blocks,
        };
        let mut hub = HubStatus {
            refusals: vec![
                standing(RefusalCause::DeviceUnknown, false),
                standing(RefusalCause::Unreachable, false),
            ],
            ..HubStatus::default()
        };
        let named = |hub: &HubStatus| keeps_away(hub).map(|refused| refused.cause);
        assert_eq!(named(&hub), Some(RefusalCause::Unreachable));
        hub.refusals.push(Standing {
            quiet: Duration::ZERO,
            ..standing(RefusalCause::CbsSilent, false)
        });
        assert_eq!(named(&hub), Some(RefusalCause::CbsSilent), "the latest");
        hub.connections_ready = 1;
        assert_eq!(named(&hub), None, "it serves");
        hub.refusals.push(standing(RefusalCause::Quota, true));
        assert_eq!(named(&hub), Some(RefusalCause::Quota));
    }
}
