//! Pairs of method and twin links: one towards the hub and one towards the device, held together by
//! their channel correlation id (wire sheet §4.2). An identity has one pair of each kind; a pair with
//! another id takes the place of the one before.

use crate::emulator::address::{Endpoint, Identity};
use crate::emulator::errors;
use crate::emulator::links::{Direction, Link};
use crate::runtime::clock::Mono;
use dashmap::DashMap;
use fe2o3_amqp::types::messaging::MessageId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

/// Ids of refused attaches remembered: a client must not come back with one of them.
const REFUSED_MAX: usize = 1_024;

/// A message for a link towards a device.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) content: Content,
    /// Not worth sending after this.
    pub(crate) until: Option<Mono>,
}

/// What is said.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// The answer to a twin request.
    Answer {
        correlation_id: MessageId,
        status: i32,
        version: Option<i64>,
        /// The request was a GET, whose answer names an empty `reply-to`.
        get: bool,
        body: Option<Vec<u8>>,
    },
    /// Desired properties changed.
    Push { body: Vec<u8> },
    /// A direct method is called.
    Call {
        id: [u8; 16],
        method: String,
        payload: Vec<u8>,
    },
}

impl Outgoing {
    pub(crate) const fn new(content: Content) -> Self {
        Self {
            content,
            until: None,
        }
    }
}

/// The link towards the device, and the way to it.
#[derive(Debug)]
struct Exit {
    link: Arc<Link>,
    outbox: mpsc::Sender<Outgoing>,
}

#[derive(Debug)]
struct Pair {
    id: Arc<str>,
    to_hub: Option<Arc<Link>>,
    to_device: Option<Exit>,
    /// Desired changes are wanted; ends with the pair.
    subscribed: bool,
}

/// The correlation id is taken, or was refused before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

/// Why a message did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// No link takes messages for the device.
    NoLink,
    /// Too many wait for it.
    Full,
}

/// Every pair. Shared.
#[derive(Debug)]
pub(crate) struct Channels {
    pairs: DashMap<(Identity, Endpoint), Pair>,
    refused: Mutex<VecDeque<(Arc<str>, Direction)>>,
    /// A link towards a device was opened.
    pub(crate) opened: Notify,
    backlog: usize,
}

impl Channels {
    pub(crate) fn new(backlog: usize) -> Self {
        Self {
            pairs: DashMap::new(),
            refused: Mutex::default(),
            opened: Notify::new(),
            backlog,
        }
    }

    /// Remembers that an attach with this id was refused.
    pub(crate) fn refuse(&self, id: &Arc<str>, direction: Direction) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSED_MAX {
            refused.pop_front();
        }
        refused.push_back((Arc::clone(id), direction));
    }

    /// Whether an attach with this id was refused not long ago.
    pub(crate) fn was_refused(&self, id: &str, direction: Direction) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused
            .iter()
            .any(|(other, of)| **other == *id && *of == direction)
    }

    /// Puts `link` into its pair; what comes for the device, if it is the link for that, and the
    /// links of the pair whose place this one takes.
    pub(crate) fn open(self: &Arc<Self>, link: &Arc<Link>) -> Result<Opened, Conflict> {
        let id = link.channel.clone().ok_or(Conflict)?;
        let fresh = || Pair {
            id: Arc::clone(&id),
            to_hub: None,
            to_device: None,
            subscribed: false,
        };
        let key = (link.identity.clone(), link.endpoint);
        let mut pair = self.pairs.entry(key).or_insert_with(fresh);
        let mut displaced = Vec::new();
        if pair.id != id {
            let old = std::mem::replace(&mut *pair, fresh());
            displaced.extend(old.to_hub);
            displaced.extend(old.to_device.map(|exit| exit.link));
        }
        let mut messages = None;
        match link.direction {
            Direction::ToHub if pair.to_hub.is_some() => return Err(Conflict),
            Direction::ToDevice if pair.to_device.is_some() => return Err(Conflict),
            Direction::ToHub => pair.to_hub = Some(Arc::clone(link)),
            Direction::ToDevice => {
                let (outbox, waiting) = mpsc::channel(self.backlog);
                messages = Some(waiting);
                pair.to_device = Some(Exit {
                    link: Arc::clone(link),
                    outbox,
                });
            }
        }
        drop(pair);
        if messages.is_some() {
            self.opened.notify_waiters();
        }
        Ok(Opened {
            messages,
            displaced,
            paired: Paired {
                channels: Arc::clone(self),
                link: Arc::clone(link),
            },
        })
    }

    fn pair<T>(&self, link: &Link, act: impl FnOnce(&mut Pair) -> T) -> Option<T> {
        let key = (link.identity.clone(), link.endpoint);
        let mut pair = self.pairs.get_mut(&key)?;
        (Some(&pair.id) == link.channel.as_ref()).then(|| act(&mut pair))
    }

    /// Turns the word of desired changes on or off for the pair of `link`.
    pub(crate) fn subscribe(&self, link: &Link, on: bool) {
        // A pair that was displaced has nothing to be told.
        let _ = self.pair(link, |pair| pair.subscribed = on);
    }

    /// The way to the device for answers to what came over `link`.
    pub(crate) fn partner(&self, link: &Link) -> Option<mpsc::Sender<Outgoing>> {
        self.pair(link, |pair| {
            pair.to_device.as_ref().map(|exit| exit.outbox.clone())
        })?
    }

    /// Hands a message to the pair of this kind, whichever it is now.
    pub(crate) fn send(
        &self,
        identity: &Identity,
        endpoint: Endpoint,
        message: Outgoing,
    ) -> Result<(), Unsent> {
        let pair = self.pairs.get(&(identity.clone(), endpoint));
        let exit = pair.as_ref().and_then(|pair| pair.to_device.as_ref());
        match exit.map(|exit| exit.outbox.try_send(message)) {
            None | Some(Err(TrySendError::Closed(_))) => Err(Unsent::NoLink),
            Some(Err(TrySendError::Full(_))) => Err(Unsent::Full),
            Some(Ok(())) => Ok(()),
        }
    }

    /// Tells a pair that subscribed; one that does not take what it is told loses its link, so
    /// that it learns of the gap. Whether there was one to tell.
    pub(crate) fn push(&self, identity: &Identity, endpoint: Endpoint, message: Outgoing) -> bool {
        let Some(pair) = self.pairs.get(&(identity.clone(), endpoint)) else {
            return false;
        };
        let (true, Some(exit)) = (pair.subscribed, pair.to_device.as_ref()) else {
            return false;
        };
        if let Err(TrySendError::Full(_)) = exit.outbox.try_send(message) {
            exit.link.stop.ask(errors::too_many("waiting messages"));
        }
        true
    }

    /// Whether method calls can reach the identity.
    pub(crate) fn reachable(&self, identity: &Identity) -> bool {
        let pair = self.pairs.get(&(identity.clone(), Endpoint::Methods));
        pair.is_some_and(|pair| pair.to_device.is_some())
    }
}

/// What [`Channels::open`] gives.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) messages: Option<mpsc::Receiver<Outgoing>>,
    pub(crate) displaced: Vec<Arc<Link>>,
    pub(crate) paired: Paired,
}

/// Keeps a link in its pair while it lives.
#[derive(Debug)]
pub(crate) struct Paired {
    channels: Arc<Channels>,
    link: Arc<Link>,
}

impl Drop for Paired {
    fn drop(&mut self) {
        let (channels, link) = (&self.channels, &self.link);
        let _ = channels.pair(link, |pair| match link.direction {
            Direction::ToHub => pair.to_hub = None,
            Direction::ToDevice => pair.to_device = None,
        });
        let key = (link.identity.clone(), link.endpoint);
        channels.pairs.remove_if(&key, |_, pair| {
            pair.to_hub.is_none() && pair.to_device.is_none()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::links::{ConnectionEntry, Directory, Listed};

    fn link(
        directory: &Arc<Directory>,
        id: &str,
        direction: Direction,
        endpoint: Endpoint,
    ) -> (Arc<Link>, Listed) {
        let entry = Arc::<ConnectionEntry>::default();
        directory.add_link(
            (1, &entry),
            1,
            Identity::device("d"),
            (endpoint, direction),
            Some(id.into()),
        )
    }

    fn push() -> Outgoing {
        Outgoing::new(Content::Push { body: Vec::new() })
    }

    #[test]
    fn a_pair_is_told_only_while_it_subscribed_and_a_newer_pair_takes_its_place() {
        let (directory, channels) = (
            Arc::new(Directory::new(Arc::default())),
            Arc::new(Channels::new(2)),
        );
        let device = Identity::device("d");
        let twin = |id, direction| link(&directory, id, direction, Endpoint::Twin);
        let (asks, _kept) = twin("1", Direction::ToHub);
        let (told, _kept2) = twin("1", Direction::ToDevice);
        let _asks = channels.open(&asks).unwrap();
        let mut first = channels.open(&told).unwrap();
        assert!(!channels.push(&device, Endpoint::Twin, push()));
        channels.subscribe(&asks, true);
        assert!(channels.push(&device, Endpoint::Twin, push()));
        assert!(first.messages.as_mut().unwrap().try_recv().is_ok());
        assert!(channels.partner(&asks).is_some());

        let (newer, _kept3) = twin("2", Direction::ToHub);
        let second = channels.open(&newer).unwrap();
        assert_eq!(second.displaced.len(), 2);
        assert!(channels.partner(&asks).is_none());
        assert!(!channels.push(&device, Endpoint::Twin, push()));
        // The end of the displaced links must not touch the pair that is there now.
        drop((_asks, first));
        channels.subscribe(&newer, true);
        assert!(channels.partner(&newer).is_none());
        drop(second);
        assert!(channels.pairs.is_empty());
    }

    #[test]
    fn one_id_in_one_direction_is_one_link() {
        let (directory, channels) = (
            Arc::new(Directory::new(Arc::default())),
            Arc::new(Channels::new(2)),
        );
        let (one, _kept) = link(&directory, "1", Direction::ToHub, Endpoint::Methods);
        let (two, _kept2) = link(&directory, "1", Direction::ToHub, Endpoint::Methods);
        let open = channels.open(&one).unwrap();
        assert_eq!(channels.open(&two).unwrap_err(), Conflict);
        drop(open);
        channels.open(&two).unwrap();
        channels.refuse(&"x".into(), Direction::ToHub);
        assert!(channels.was_refused("x", Direction::ToHub));
        assert!(!channels.was_refused("x", Direction::ToDevice));
    }

    #[test]
    fn who_does_not_take_what_it_is_told_loses_its_link() {
        let (directory, channels) = (
            Arc::new(Directory::new(Arc::default())),
            Arc::new(Channels::new(2)),
        );
        let device = Identity::device("d");
        let (told, _kept) = link(&directory, "1", Direction::ToDevice, Endpoint::Twin);
        let _open = channels.open(&told).unwrap();
        channels.subscribe(&told, true);
        for _ in 0..3 {
            channels.push(&device, Endpoint::Twin, push());
        }
        assert!(!told.stop.ask(errors::unauthorized()), "asked before");
        let full = channels.send(&device, Endpoint::Twin, push());
        assert_eq!(full, Err(Unsent::Full));
        assert!(!channels.reachable(&device));
    }
}
