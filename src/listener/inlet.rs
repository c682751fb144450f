//! A way in without a port: somebody else accepted the stream and knows what its transport proved.

use super::handshake::Carrier;
use super::{Arrived, Shared, Site};
use crate::config::ListenerConfig;
use crate::tls::{Accepted, Acceptor};
use std::net::SocketAddr;
use std::sync::Arc;

/// Serves streams as a [`Listener`](super::Listener) serves the sockets of its port: the same
/// bounds, rules, sessions and metrics. Whoever holds it vouches for what it says was proved.
pub struct Inlet {
    site: Arc<Site>,
}

impl Inlet {
    /// An inlet with a listener's name, credentials and versions; `config.bind` is not used, and
    /// `acceptor` only to ask whether a certificate still stands.
    #[must_use]
    pub fn new(config: ListenerConfig, acceptor: Arc<Acceptor>, shared: Arc<Shared>) -> Self {
        let site = Arc::new(Site::new(config, acceptor, shared));
        Self { site }
    }

    /// Admits or refuses a stream at once, and serves it in a task of its own. `source` is the
    /// peer's address, for the bounds per source, the rules and the log. Keep-alive and write
    /// timeouts hold as for a socket.
    pub fn serve(&self, accepted: Accepted, source: SocketAddr) {
        let carrier = Carrier::Proved(accepted);
        self.site.admit(Arrived::new(carrier, source, &self.site));
    }
}
