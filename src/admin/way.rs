//! By which way a request comes: the TLS handshake where there is one, and what the way allows.
//!
//! Who asks in clear from another machine gets `/live`, `/ready` and `/metrics`, and nothing that
//! a token guards: the token would have crossed the network in clear. HTTP where TLS is spoken is
//! answered with the word what to do. A handshake has the request's own deadline, counts as part
//! of its head (`heads`), and a refused one is logged.

use crate::runtime::clock;
use crate::telemetry::log::Bound;
use crate::telemetry::reason::Reason;
use crate::tls::{Acceptor, HandshakeError, Stream};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Time between two lines about refused handshakes.
const REFUSAL_LINES: Duration = Duration::from_secs(60);

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By TLS, or from this machine.
    Private,
    /// In clear, from another machine.
    Clear,
    /// In clear, where TLS is spoken.
    Mistaken,
}

impl Way {
    /// Of a peer at this address, on a port without TLS.
    fn without_tls(peer: IpAddr) -> Self {
        match peer.to_canonical().is_loopback() {
            true => Self::Private,
            false => Self::Clear,
        }
    }
}

/// Opens the way of each connection.
#[derive(Clone)]
pub(super) struct Gate {
    tls: Option<Arc<Acceptor>>,
    refusals: Arc<Bound>,
}

impl Gate {
    pub(super) fn new(tls: Option<Arc<Acceptor>>) -> Self {
        Self {
            tls,
            refusals: Arc::new(Bound::new(1, REFUSAL_LINES)),
        }
    }

    /// The stream to serve, and what came by it; nothing when the handshake failed.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(Box<dyn Stream>, Way)> {
        let Some(tls) = &self.tls else {
            return Some((Box::new(stream), Way::without_tls(peer.ip())));
        };
        let mut first = [0];
        // An end or an error shows itself in the handshake again.
        if let Ok(1) = stream.peek(&mut first).await
            && first[0].is_ascii_uppercase()
        {
            let text = "HTTP without TLS; let it ask by https://";
            self.tell(peer, Reason::NotTls, text);
            return Some((Box::new(stream), Way::Mistaken));
        }
        match tls.accept(stream, peer).await {
            Ok(accepted) => Some((accepted.stream, Way::Private)),
            Err(HandshakeError { reason, text, .. }) => {
                // A port that is only knocked at is some balancer's idea of health.
                match reason {
                    Reason::PeerClosed => tracing::debug!(%peer, text, "admin handshake ended"),
                    _ => self.tell(peer, reason, &text),
                }
                None
            }
        }
    }

    fn tell(&self, peer: SocketAddr, reason: Reason, text: &str) {
        if let Some(suppressed) = self.refusals.take(clock::mono()) {
            tracing::warn!(
                name: "admin_tls_refused",
                %peer, %reason, detail = text, suppressed,
                "a connection to the admin port was no good TLS"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn only_loopback_is_this_machine() {
        for (peer, way) in [
            ("127.0.0.1", Way::Private),
            ("127.9.9.9", Way::Private),
            ("::1", Way::Private),
            ("::ffff:127.0.0.1", Way::Private),
            ("10.0.0.1", Way::Clear),
            ("::ffff:10.0.0.1", Way::Clear),
            ("fe80::1", Way::Clear),
            ("0.0.0.0", Way::Clear),
        ] {
            assert_eq!(Way::without_tls(peer.parse().unwrap()), way, "{peer}");
        }
    }
}
