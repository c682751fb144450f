//! Where a device's link is attached: wait for a session whose connection holds a token, wait for
//! the pace, attach, wait for the hub's answer.
//!
//! Any number of devices does this at once; nobody waits for another's answer. A hub that leaves
//! an attach unanswered for `hub.operation_timeout` loses its connection.

use super::device::Path;
use super::driver::{Link, LinkEvent};
use super::encode;
use super::lane::{Lane, NoLink};
use super::outcome::Cause;
use super::pace::Urgency;
use super::pair;
use super::refusals::RefusalCause;
use super::report::within;
use super::share::Share;
use crate::amqp::performative::Attach;
use crate::runtime::random;
use prometheus::IntGauge;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A link on its way. Dropping it is safe at any point: a link that is half attached is detached.
pub type Attaching = Pin<Box<dyn Future<Output = Result<Live, NotAttached>> + Send>>;

/// As [`Attaching`], of a pair.
pub type AttachingPair = Pin<Box<dyn Future<Output = Result<pair::Links, NotAttached>> + Send>>;

/// Why there is no link.
pub enum NotAttached {
    /// The hub refused it; `None`: without an error.
    Refused(Option<Cause>),
    /// The hub allows no more links in any session of the connection.
    Full,
}

/// What is to be attached.
pub struct Wanted {
    /// Its ATTACH, whose name is the beginning of the link's.
    pub attach: Attach,
    /// Where it leads.
    pub address: String,
    /// Who waits for it.
    pub urgency: Urgency,
    /// Counts it while it is on its way.
    pub attaching: IntGauge,
    /// Counts it while it is attached.
    pub attached: IntGauge,
}

/// An attached link. Dropped, it is detached.
pub struct Live {
    /// The link.
    pub link: Link,
    _counted: Share,
}

/// Attaches a link of the device on `path`, after a pause.
pub fn attach(path: &Path, wanted: Wanted, pause: Duration) -> Attaching {
    let shared = Arc::clone(&path.shared);
    let (lane, slot) = (Arc::clone(path.lane()), path.spot.slot);
    let counted = Share::new(&wanted.attaching, 1);
    Box::pin(async move {
        let _counted = counted;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let mut awaited = slot;
        loop {
            lane.session(awaited).await;
            shared.pacer.clone().granted(wanted.urgency).await;
            let mut link = match lane.attach(slot, &wanted.attach) {
                Ok(link) => link,
                Err(NoLink::NoToken) => continue,
                Err(NoLink::NoSession(slot)) => {
                    awaited = slot;
                    continue;
                }
                Err(NoLink::Full) => return Err(NotAttached::Full),
            };
            let silent = || {
                let refusals = &shared.refusals;
                refusals.refused(RefusalCause::LinkSilent, &wanted.address, "");
            };
            let deadline = shared.config.operation_timeout;
            let answered = within(deadline, answer(&mut link), silent).await;
            match answered {
                Ok(Answer::Attached) => {
                    let _counted = Share::new(&wanted.attached, 1);
                    return Ok(Live { link, _counted });
                }
                Ok(Answer::Refused(cause)) => return Err(NotAttached::Refused(cause)),
                Ok(Answer::Stopped) => {}
                Err(_elapsed) => cut(&lane, link).await,
            }
        }
    })
}

/// Attaches both links of a pair, after a pause.
pub fn attach_pair(path: &Path, wanted: pair::Wanted, pause: Duration) -> AttachingPair {
    let shared = Arc::clone(&path.shared);
    let (lane, slot) = (Arc::clone(path.lane()), path.spot.slot);
    let counted = Share::new(&wanted.attaching, 2);
    Box::pin(async move {
        let _counted = counted;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let mut awaited = slot;
        loop {
            lane.session(awaited).await;
            for _ in 0..2 {
                shared.pacer.clone().granted(Urgency::Normal).await;
            }
            let [receiver, sender] = wanted.frames(&random::uuid());
            let links = lane.attach(slot, &receiver);
            let links = links.and_then(|link| Ok((link, lane.attach(slot, &sender)?)));
            let (mut receiver, mut sender) = match links {
                Ok(links) => links,
                Err(NoLink::NoToken) => continue,
                Err(NoLink::NoSession(slot)) => {
                    awaited = slot;
                    continue;
                }
                Err(NoLink::Full) => return Err(NotAttached::Full),
            };
            let silent = || {
                let refusals = &shared.refusals;
                refusals.refused(RefusalCause::LinkSilent, &wanted.address, "");
            };
            let deadline = shared.config.operation_timeout;
            let answers = async { tokio::join!(answer(&mut receiver), answer(&mut sender)) };
            let answered = within(deadline, answers, silent).await;
            match answered {
                Ok((Answer::Attached, Answer::Attached)) => {
                    let live = |link| Live {
                        link,
                        _counted: Share::new(&wanted.attached, 1),
                    };
                    let (receiver, sender) = (live(receiver), live(sender));
                    return Ok(pair::Links { receiver, sender });
                }
                Ok((Answer::Refused(cause), _) | (_, Answer::Refused(cause))) => {
                    return Err(NotAttached::Refused(cause));
                }
                Ok(_) => {}
                Err(_elapsed) => cut(&lane, receiver).await,
            }
        }
    })
}

/// What became of an attach.
enum Answer {
    Attached,
    Refused(Option<Cause>),
    /// Session or connection ended before there was an answer.
    Stopped,
}

async fn answer(link: &mut Link) -> Answer {
    loop {
        match link.next().await {
            LinkEvent::Attached(_) => return Answer::Attached,
            LinkEvent::Refused(error) | LinkEvent::Detached(error) => {
                return Answer::Refused(error.as_deref().map(encode::cause));
            }
            LinkEvent::Stopped => return Answer::Stopped,
            _ => {}
        }
    }
}

/// Gives the connection up on which an attach was not answered.
async fn cut(lane: &Lane, mut link: Link) {
    lane.cut("the hub did not answer an attach within hub.operation_timeout");
    while !matches!(link.next().await, LinkEvent::Stopped) {}
}
