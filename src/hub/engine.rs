//! Waits until the engine of a session has handled what was queued for it.
//!
//! The engine takes requests for links and frames of links from two queues, in no fixed order.
//! A refused link frees its handle while its own Detach may still be queued; a request that
//! overtakes that Detach is given the freed handle, and the Detach then undoes the new link, its
//! session, or the connection. So a refusal, and a close that crossed one, is followed by a
//! wait: requests that the engine answers without doing anything, until no queued frame can be
//! left behind. Such a request asks for a link under a name that is in use.
//!
//! A refusal is two frames: an attach without a terminus, and a detach with the reason. The
//! engine answers the first at once with a Detach of its own; that is put off for a moment here,
//! so that the second is found with its reason, and the two Detaches do not cross on the wire.

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::SenderAttachError;
use fe2o3_amqp::session::SessionHandle;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::ready;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Names remembered per session; one that is still attached is enough.
const NAMES_MAX: usize = 16;
/// Requests per wait. The engine picks a ready request before a ready frame in two of three
/// rounds, so a frame is still queued after this many with a chance below one in ten million.
const ROUNDS: usize = 40;
/// First the engine is given time to come to rest by itself, as it nearly always does.
const REST: Duration = Duration::from_millis(1);
/// Without a name in use, time is all there is; nobody else is on such a session.
const REST_ALONE: Duration = Duration::from_millis(10);

/// How long what woke an attach is left alone.
const REST_ATTACH: Duration = Duration::from_millis(2);

/// Lives as long as the link of that name.
pub type InUse = Arc<str>;

/// Link names of one session that are probably attached.
#[derive(Default)]
pub struct Names(VecDeque<Weak<str>>);

impl Names {
    /// Notes the name of a link that was just attached; what it answers lives with the link.
    pub fn attached(&mut self, name: &str) -> InUse {
        let name: InUse = Arc::from(name);
        self.0.retain(|known| known.strong_count() > 0);
        if self.0.len() >= NAMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Arc::downgrade(&name));
        name
    }

    fn in_use(&self) -> Option<InUse> {
        self.0.iter().rev().find_map(Weak::upgrade)
    }

    /// Returns when the engine of `session` has handled every frame queued before the call.
    /// `false`: the session is over.
    pub async fn settle(&self, session: &mut SessionHandle<()>) -> bool {
        sleep(REST).await;
        for _ in 0..ROUNDS {
            let Some(name) = self.in_use() else {
                sleep(REST_ALONE).await;
                return !session.is_ended();
            };
            let request = Sender::builder()
                .name(name.to_string())
                .target("$cbs")
                .attach(session);
            match request.await {
                Err(SenderAttachError::DuplicatedLinkName) => {}
                // The hub had just detached the link of that name: close what we now have.
                Ok(link) => drop(link.close().await),
                Err(_) => return false,
            }
        }
        true
    }
}

/// Runs an attach so that it looks at each answer of the engine a moment late.
pub async fn unhurried<F: Future>(attach: F) -> F::Output {
    let mut attach = pin!(attach);
    let mut begun = false;
    let mut rest: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if begun {
            let rest = rest.get_or_insert_with(|| Box::pin(sleep(REST_ATTACH)));
            ready!(rest.as_mut().poll(cx));
        }
        begun = true;
        rest = None;
        attach.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::{NAMES_MAX, Names, unhurried};

    #[tokio::test]
    async fn an_attach_sees_what_came_right_behind_its_answer() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
        let attach = async {
            receiver.recv().await;
            receiver.try_recv().is_ok()
        };
        let peer = async {
            sender.send("attach").await.unwrap();
            tokio::task::yield_now().await; // an attach in a hurry would look now
            sender.send("detach").await.unwrap();
        };
        let (both, ()) = tokio::join!(unhurried(attach), peer);
        assert!(both);
    }

    #[test]
    fn only_names_of_living_links_are_used_and_few_are_kept() {
        let mut names = Names::default();
        assert_eq!(names.in_use(), None);
        let first = names.attached("first");
        drop(names.attached("gone"));
        assert_eq!(names.in_use(), Some(first.clone()));
        let many: Vec<_> = (0..100).map(|n| names.attached(&n.to_string())).collect();
        assert_eq!(names.0.len(), NAMES_MAX);
        drop(many);
        drop(first);
        assert_eq!(names.in_use(), None);
    }
}
