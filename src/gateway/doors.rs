//! The listeners there are: opened at the start, and by a reload that names others.
//!
//! A reload prepares everything before it changes anything: files are read and ports bound first.
//! A listener that is gone, or is another one now, accepts nobody more; whom it accepted stays.

use super::{StartError, acceptors};
use crate::auth::AuthenticatedDevice;
use crate::auth::rules::RuleSet;
use crate::config::{Config, ListenerConfig};
use crate::listener::{Listener, Shared};
use crate::runtime::sockets::Inherited;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Acceptor, HandshakeLimits, Prepared};
use arc_swap::ArcSwap;
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// See the module's header.
pub(super) struct Doors {
    shared: Arc<Shared>,
    rules: Arc<ArcSwap<RuleSet>>,
    metrics: Arc<Metrics>,
    limits: HandshakeLimits,
    /// Cancelled when nobody is accepted any more.
    accepting: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of the configuration.
    doors: Vec<Door>,
    /// Listeners that accept nobody more, while they have devices.
    retired: Vec<Retired>,
    /// Devices are accepted.
    open: bool,
}

struct Door {
    config: ListenerConfig,
    acceptor: Arc<Acceptor>,
    address: SocketAddr,
    /// A second descriptor: for the next process, and for what takes this one's place.
    socket: TcpListener,
    stop: CancellationToken,
    /// Until it accepts.
    listener: Option<Listener>,
}

struct Retired {
    name: String,
    acceptor: Arc<Acceptor>,
}

/// What a reload found, ready to be adopted.
pub(super) struct Changes(Vec<Change>);

enum Change {
    /// The same listener; its files were read again.
    Keep(Prepared),
    /// Another one, on a socket that is bound already.
    Open(Box<(ListenerConfig, Arc<Acceptor>, TcpListener)>),
}

/// Why there are no changes to adopt.
#[derive(Default)]
pub(super) struct Unfit {
    pub(super) problems: Vec<String>,
    /// Files of TLS are among them, which may be half of a change.
    pub(super) tls: bool,
}

impl Doors {
    /// Binds every listener, on the socket that was handed over for it where there is one.
    ///
    /// # Errors
    /// Every problem of the TLS files, or the first port that cannot be bound.
    pub(super) fn bind(
        config: &Config,
        shared: &Arc<Shared>,
        rules: &Arc<ArcSwap<RuleSet>>,
        metrics: &Arc<Metrics>,
        accepting: &CancellationToken,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let doors = Self {
            shared: shared.clone(),
            rules: rules.clone(),
            metrics: metrics.clone(),
            limits: acceptors::limits(config),
            accepting: accepting.clone(),
            state: Mutex::default(),
        };
        let mut problems = Vec::new();
        let mut made = Vec::new();
        for listener in &config.listeners {
            match doors.acceptor(listener) {
                Ok(acceptor) => made.push((listener.clone(), acceptor)),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(StartError::Tls(problems));
        }
        for (listener, acceptor) in made {
            let socket = match inherited.take(&listener.name, listener.bind) {
                Some(socket) => Ok(socket),
                None => crate::listener::open(listener.bind),
            };
            let (name, address) = (listener.name.clone(), listener.bind);
            let door = socket.and_then(|socket| doors.door(listener, acceptor, socket));
            let door = door.map_err(|error| StartError::Bind {
                what: format!("listener {name:?}"),
                address,
                error,
            })?;
            doors.state().doors.push(door);
        }
        for socket in inherited.left() {
            tracing::warn!(
                name: "socket_not_configured",
                %socket,
                "a socket was passed that no [[listener]] names; it is closed"
            );
        }
        Ok(doors)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acceptor(&self, listener: &ListenerConfig) -> Result<Arc<Acceptor>, Vec<String>> {
        acceptors::of(listener, &self.rules, self.limits)
    }

    fn door(
        &self,
        config: ListenerConfig,
        acceptor: Arc<Acceptor>,
        socket: TcpListener,
    ) -> std::io::Result<Door> {
        acceptors::show_expiries(&acceptor, &self.metrics);
        let second = socket.try_clone()?;
        let shared = self.shared.clone();
        let listener = Listener::on(second, config.clone(), acceptor.clone(), shared)?;
        Ok(Door {
            config,
            acceptor,
            address: listener.local_addr()?,
            socket,
            stop: self.accepting.child_token(),
            listener: Some(listener),
        })
    }

    /// Accepts devices on every listener from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        state.doors.iter_mut().for_each(Door::open);
    }

    /// Every listener with its bound address, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let state = self.state();
        let doors = state.doors.iter();
        doors
            .map(|door| (door.config.name.clone(), door.address))
            .collect()
    }

    /// A descriptor of every port, for the next process.
    pub(super) fn sockets(&self) -> std::io::Result<Vec<(String, TcpListener)>> {
        let state = self.state();
        let doors = state.doors.iter();
        doors
            .map(|door| Ok((door.config.name.clone(), door.socket.try_clone()?)))
            .collect()
    }

    /// Cancelled when nobody is accepted any more.
    pub(super) fn accepting(&self) -> CancellationToken {
        self.accepting.clone()
    }

    /// Gives every port up; who is connected stays.
    pub(super) fn close(&self) {
        self.accepting.cancel();
        self.state().doors.clear();
    }

    /// Every listener's configuration and acceptor, in the order of the configuration.
    pub(super) fn acceptors(&self) -> Vec<(ListenerConfig, Arc<Acceptor>)> {
        let state = self.state();
        let doors = state.doors.iter();
        doors
            .map(|door| (door.config.clone(), door.acceptor.clone()))
            .collect()
    }

    /// Whether the CA behind a session's certificate still vouches for it; one without such a CA
    /// is a matter of the rules alone.
    pub(super) fn vouches_for(&self, device: &AuthenticatedDevice) -> bool {
        let Some(was) = device.vouched() else {
            return true;
        };
        let state = self.state();
        let doors = state.doors.iter().map(|d| (&d.config.name, &d.acceptor));
        let retired = state.retired.iter().map(|r| (&r.name, &r.acceptor));
        let mut named = doors.chain(retired);
        let found = named.find(|(name, _)| **name == was.listener);
        found.is_some_and(|(_, acceptor)| acceptor.stands_for(was.anchors, was.issuer, was.serial))
    }

    /// Reads the files and binds the ports of these listeners; changes nothing. Blocks. Must be
    /// called within the runtime.
    pub(super) fn prepare(&self, wanted: &[ListenerConfig]) -> Result<Changes, Unfit> {
        let state = self.state();
        let mut unfit = Unfit::default();
        let mut changes = Vec::new();
        for listener in wanted {
            if let Some(same) = state.doors.iter().find(|door| door.config == *listener) {
                match same.acceptor.prepare() {
                    Ok(prepared) => changes.push(Change::Keep(prepared)),
                    Err(found) => unfit.refuse(found),
                }
                continue;
            }
            let acceptor = match self.acceptor(listener) {
                Ok(acceptor) => acceptor,
                Err(found) => {
                    unfit.refuse(found);
                    continue;
                }
            };
            // The port of one that goes is taken over while devices stand in its line.
            let same =
                |door: &&Door| door.config.bind == listener.bind && listener.bind.port() != 0;
            let socket = match state.doors.iter().find(same) {
                Some(door) => door.socket.try_clone(),
                None => crate::listener::open(listener.bind),
            };
            match socket {
                Ok(socket) => {
                    let new = Box::new((listener.clone(), acceptor, socket));
                    changes.push(Change::Open(new));
                }
                Err(error) => {
                    let ListenerConfig { name, bind, .. } = listener;
                    let text = format!("cannot bind listener {name:?} to {bind}: {error}");
                    unfit
                        .problems
                        .push(format!("{text}; choose another address"));
                }
            }
        }
        match unfit.problems.is_empty() {
            true => Ok(Changes(changes)),
            false => Err(unfit),
        }
    }

    /// Adopts what was prepared for `wanted`. Must be called within the runtime.
    pub(super) fn adopt(&self, wanted: &[ListenerConfig], changes: Changes) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.doors);
        for (listener, change) in wanted.iter().zip(changes.0) {
            match change {
                Change::Keep(prepared) => {
                    let same = before.iter().position(|door| door.config == *listener);
                    if let Some(at) = same {
                        let door = before.remove(at);
                        door.acceptor.adopt(prepared);
                        acceptors::show_expiries(&door.acceptor, &self.metrics);
                        state.doors.push(door);
                    }
                }
                Change::Open(new) => {
                    let (config, acceptor, socket) = *new;
                    let name = config.name.clone();
                    match self.door(config, acceptor, socket) {
                        Ok(mut door) => {
                            if state.open {
                                door.open();
                            }
                            state.doors.push(door);
                        }
                        Err(error) => tracing::error!(
                            name: "listener_not_opened",
                            listener = %name,
                            %error,
                            "a new listener cannot accept; send SIGHUP once more"
                        ),
                    }
                }
            }
        }
        self.forget(&mut state.retired);
        for gone in before {
            gone.stop.cancel();
            let (name, address) = (gone.config.name, gone.address);
            tracing::info!(
                name: "listener_closed",
                listener = %name,
                %address,
                "accepting no more devices"
            );
            state.retired.push(Retired {
                name,
                acceptor: gone.acceptor,
            });
        }
    }

    /// Forgets those that have no device left whose certificate they vouch for.
    fn forget(&self, retired: &mut Vec<Retired>) {
        let mut needed = HashSet::new();
        self.shared.registry().each(|_, device, _| {
            if let Some(by) = device.vouched() {
                needed.insert(by.listener.to_owned());
            }
        });
        retired.retain(|gone| needed.contains(&gone.name));
    }
}

impl Door {
    fn open(&mut self) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let address = self.address;
        tracing::info!(
            name: "listener_open",
            listener = %self.config.name,
            %address,
            "accepting devices"
        );
        tokio::spawn(listener.run(self.stop.clone()));
    }
}

impl Unfit {
    /// Because of files of TLS.
    pub(super) fn refuse(&mut self, problems: Vec<String>) {
        self.tls = true;
        self.problems.extend(problems);
    }
}
