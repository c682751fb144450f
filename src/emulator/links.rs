//! Who is connected: connections, sessions and device links by number and by device, each with
//! a way to stop it. The registry, the token timer and the faults act through this directory.

use crate::emulator::address::{Endpoint, Identity, Node};
use crate::emulator::stats::Stats;
use dashmap::DashMap;
use fe2o3_amqp::types::definitions::Error;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Notify;

/// A request to stop, given once, awaited by one task.
#[derive(Debug)]
pub(crate) struct Stop<T> {
    asked: AtomicBool,
    reason: Mutex<Option<T>>,
    notify: Notify,
}

impl<T> Default for Stop<T> {
    fn default() -> Self {
        Self {
            asked: AtomicBool::new(false),
            reason: Mutex::default(),
            notify: Notify::new(),
        }
    }
}

impl<T> Stop<T> {
    /// Asks; whether this was the first time.
    pub(crate) fn ask(&self, reason: T) -> bool {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if self.asked.swap(true, Ordering::AcqRel) {
            return false;
        }
        *slot = Some(reason);
        drop(slot);
        self.notify.notify_one();
        true
    }

    /// Waits until somebody asks. Cancel safe: the reason stays until it is returned.
    pub(crate) async fn asked(&self) -> T {
        loop {
            if self.asked.load(Ordering::Acquire) {
                let reason = self
                    .reason
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if let Some(reason) = reason {
                    return reason;
                }
            }
            self.notify.notified().await;
        }
    }
}

/// How a connection is stopped.
#[derive(Debug)]
pub(crate) enum ConnectionStop {
    /// The socket is closed without a word.
    Kill,
    /// AMQP close, with this error if there is one.
    Close(Option<Error>),
}

/// Which way a link's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToHub,
    ToDevice,
}

/// A device link that is attached.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) connection: u64,
    pub(crate) session: u64,
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) direction: Direction,
    /// Channel correlation id of a method or twin link.
    pub(crate) channel: Option<Arc<str>>,
    pub(crate) stop: Stop<Error>,
}

/// A link of a back end that is attached.
#[derive(Debug)]
pub(crate) struct ServiceLink {
    pub(crate) id: u64,
    pub(crate) node: Node,
    pub(crate) stop: Stop<Error>,
}

/// Which of the two `$cbs` links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CbsRole {
    Requests,
    Replies,
}

/// A way to stop a `$cbs` link; the link holds the other end.
type CbsLink = (CbsRole, Weak<Stop<Error>>);

/// A connection that is open.
#[derive(Debug, Default)]
pub(crate) struct ConnectionEntry {
    pub(crate) stop: Stop<ConnectionStop>,
    /// Nothing more is read from the socket or written to it.
    pub(crate) silent: Arc<AtomicBool>,
    links: Mutex<HashMap<u64, Arc<Link>>>,
    service: Mutex<HashMap<u64, Arc<ServiceLink>>>,
    cbs: Mutex<Vec<CbsLink>>,
}

impl ConnectionEntry {
    /// The device links attached now.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.values().cloned().collect()
    }

    /// The links of back ends attached now.
    pub(crate) fn service_links(&self) -> Vec<Arc<ServiceLink>> {
        let links = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        links.values().cloned().collect()
    }

    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Lists a `$cbs` link for as long as it keeps what this returns.
    pub(crate) fn add_cbs_link(&self, role: CbsRole) -> Arc<Stop<Error>> {
        let stop = Arc::default();
        let mut cbs = self.cbs.lock().unwrap_or_else(PoisonError::into_inner);
        cbs.retain(|(_, link)| link.strong_count() > 0);
        cbs.push((role, Arc::downgrade(&stop)));
        stop
    }

    pub(crate) fn cbs_links(&self, role: CbsRole) -> Vec<Arc<Stop<Error>>> {
        let cbs = self.cbs.lock().unwrap_or_else(PoisonError::into_inner);
        let of_role = cbs.iter().filter(|(of, _)| *of == role);
        of_role.filter_map(|(_, link)| link.upgrade()).collect()
    }
}

/// A session that is begun.
#[derive(Debug, Default)]
pub(crate) struct SessionEntry {
    pub(crate) connection: u64,
    pub(crate) stop: Stop<Error>,
}

/// Everything that is open. Shared.
#[derive(Debug)]
pub(crate) struct Directory {
    last: AtomicU64,
    connections: DashMap<u64, Arc<ConnectionEntry>>,
    sessions: DashMap<u64, Arc<SessionEntry>>,
    by_device: DashMap<Arc<str>, Vec<Arc<Link>>>,
    stats: Arc<Stats>,
}

impl Directory {
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self {
            last: AtomicU64::new(0),
            connections: DashMap::new(),
            sessions: DashMap::new(),
            by_device: DashMap::new(),
            stats,
        }
    }

    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add_connection(self: &Arc<Self>) -> (u64, Arc<ConnectionEntry>, Listed) {
        let (id, entry) = (self.number(), Arc::<ConnectionEntry>::default());
        self.connections.insert(id, Arc::clone(&entry));
        self.stats.connections.inc();
        self.stats.connections_total.inc();
        (
            id,
            entry,
            Listed {
                directory: Arc::clone(self),
                what: What::Connection(id),
            },
        )
    }

    pub(crate) fn add_session(
        self: &Arc<Self>,
        connection: u64,
    ) -> (u64, Arc<SessionEntry>, Listed) {
        let id = self.number();
        let entry = Arc::new(SessionEntry {
            connection,
            stop: Stop::default(),
        });
        self.sessions.insert(id, Arc::clone(&entry));
        self.stats.sessions.inc();
        (
            id,
            entry,
            Listed {
                directory: Arc::clone(self),
                what: What::Session(id),
            },
        )
    }

    pub(crate) fn add_link(
        self: &Arc<Self>,
        connection: (u64, &Arc<ConnectionEntry>),
        session: u64,
        identity: Identity,
        (endpoint, direction): (Endpoint, Direction),
        channel: Option<Arc<str>>,
    ) -> (Arc<Link>, Listed) {
        let stop = Stop::default();
        let id = self.number();
        let link = Link {
            id,
            connection: connection.0,
            session,
            identity,
            endpoint,
            direction,
            channel,
            stop,
        };
        let link = Arc::new(link);
        let mut on_connection = connection
            .1
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        on_connection.insert(id, Arc::clone(&link));
        drop(on_connection);
        self.by_device
            .entry(Arc::clone(&link.identity.device))
            .or_default()
            .push(Arc::clone(&link));
        self.stats.links.inc();
        self.stats.attaches.inc();
        let what = What::Link(Arc::clone(&link), Arc::clone(connection.1));
        (
            link,
            Listed {
                directory: Arc::clone(self),
                what,
            },
        )
    }

    pub(crate) fn add_service_link(
        self: &Arc<Self>,
        connection: &Arc<ConnectionEntry>,
        node: Node,
    ) -> (Arc<ServiceLink>, Listed) {
        let link = Arc::new(ServiceLink {
            id: self.number(),
            node,
            stop: Stop::default(),
        });
        let mut links = connection
            .service
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        links.insert(link.id, Arc::clone(&link));
        drop(links);
        self.stats.service_links.inc();
        let what = What::Service(link.id, Arc::clone(connection));
        let directory = Arc::clone(self);
        (link, Listed { directory, what })
    }

    /// Links of one device, or of all.
    pub(crate) fn links(&self, device: Option<&str>) -> Vec<Arc<Link>> {
        match device {
            Some(device) => self
                .by_device
                .get(device)
                .map(|links| links.clone())
                .unwrap_or_default(),
            None => self
                .by_device
                .iter()
                .flat_map(|links| links.value().clone())
                .collect(),
        }
    }

    /// The connection of this number.
    pub(crate) fn connection(&self, id: u64) -> Option<Arc<ConnectionEntry>> {
        self.connections.get(&id).map(|e| Arc::clone(e.value()))
    }

    /// Numbers of the connections that are open, with their device links, oldest first.
    pub(crate) fn numbers(&self) -> Vec<(u64, usize)> {
        let mut numbers: Vec<(u64, usize)> = self
            .connections
            .iter()
            .map(|e| (*e.key(), e.value().links().len()))
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// Connections that hold a link of `device`, or all.
    pub(crate) fn connections(&self, device: Option<&str>) -> Vec<Arc<ConnectionEntry>> {
        let Some(device) = device else {
            return self
                .connections
                .iter()
                .map(|e| Arc::clone(e.value()))
                .collect();
        };
        let mut ids: Vec<u64> = self
            .links(Some(device))
            .iter()
            .map(|l| l.connection)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let get = |id: &u64| self.connections.get(id).map(|e| Arc::clone(e.value()));
        ids.iter().filter_map(get).collect()
    }

    /// Sessions that hold a link of `device`, or all.
    pub(crate) fn sessions(&self, device: Option<&str>) -> Vec<Arc<SessionEntry>> {
        let Some(device) = device else {
            return self
                .sessions
                .iter()
                .map(|e| Arc::clone(e.value()))
                .collect();
        };
        let mut ids: Vec<u64> = self.links(Some(device)).iter().map(|l| l.session).collect();
        ids.sort_unstable();
        ids.dedup();
        let get = |id: &u64| self.sessions.get(id).map(|e| Arc::clone(e.value()));
        ids.iter().filter_map(get).collect()
    }
}

#[derive(Debug)]
enum What {
    Connection(u64),
    Session(u64),
    Link(Arc<Link>, Arc<ConnectionEntry>),
    Service(u64, Arc<ConnectionEntry>),
}

/// Keeps an entry listed while it lives.
#[derive(Debug)]
pub(crate) struct Listed {
    directory: Arc<Directory>,
    what: What,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let directory = &self.directory;
        match &self.what {
            What::Connection(id) => {
                directory.connections.remove(id);
                directory.stats.connections.dec();
            }
            What::Session(id) => {
                directory.sessions.remove(id);
                directory.stats.sessions.dec();
            }
            What::Service(id, connection) => {
                let mut links = connection
                    .service
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                links.remove(id);
                directory.stats.service_links.dec();
            }
            What::Link(link, connection) => {
                let mut links = connection
                    .links
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                links.remove(&link.id);
                drop(links);
                let device = &link.identity.device;
                if let Some(mut links) = directory.by_device.get_mut(device) {
                    links.retain(|other| other.id != link.id);
                }
                directory
                    .by_device
                    .remove_if(device, |_, links| links.is_empty());
                directory.stats.links.dec();
            }
        }
    }
}
