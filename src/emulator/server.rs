//! The ports: accept, TLS, handshake, and one task per connection.

use crate::emulator::config::TlsMaterial;
use crate::emulator::connection;
use crate::emulator::faults::{FaultKind, Place};
use crate::emulator::hub::Hub;
use crate::emulator::io::BoxedTransport;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a failed accept, mostly a lack of descriptors.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends of the emulator's life, seen by every task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifetime {
    /// No new connection; open ones are closed in form.
    pub(crate) stopping: CancellationToken,
    /// Everything ends at once.
    pub(crate) aborted: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The server side of TLS 1.2 and 1.3, no client certificates.
pub(crate) fn tls_acceptor(material: &TlsMaterial) -> Result<TlsAcceptor, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&material.cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(material.key_pem.expose())
        .map_err(|_| "the private key is no PEM".to_owned())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("the certificate and key cannot be used: {error}"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until the emulator stops.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    hub: Arc<Hub>,
    life: Lifetime,
) {
    loop {
        let accepted = tokio::select! {
            () = life.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(
                    name: "accept_failed",
                    target: "emulator", %error,
                    "cannot accept connections"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if hub.stats.connections.get() >= hub.config.limits.connections as u64 {
            hub.stats.connections_refused.inc();
            continue;
        }
        if hub
            .faults
            .at(FaultKind::RefuseConnections, Place::default())
            .is_some()
        {
            hub.stats.connections_fault.inc();
            // Dropped with data or not, the peer sees a reset.
            drop(socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)));
            continue;
        }
        let (tls, hub, life) = (tls.clone(), Arc::clone(&hub), life.clone());
        let tasks = life.tasks.clone();
        tasks.spawn(serve_one(socket, peer, tls, hub, life));
    }
}

async fn serve_one(
    socket: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    hub: Arc<Hub>,
    life: Lifetime,
) {
    // Listed from here on, so that the limit counts handshakes too.
    let (id, entry, _listed) = hub.directory.add_connection();
    let aborted = life.aborted.clone();
    let serving = async {
        if hub
            .faults
            .at(FaultKind::BlackHole, Place::default())
            .is_some()
        {
            unheard(socket).await;
            return;
        }
        let timeout = hub.config.amqp.handshake_timeout;
        let secured = tokio::time::timeout(timeout, secure(socket, tls)).await;
        match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(transport) => {
                connection::serve(transport, peer, id, entry, Arc::clone(&hub), life).await;
            }
            Err(error) => {
                hub.stats.handshakes_failed.inc();
                tracing::debug!(target: "emulator", %peer, %error, "TLS failed");
            }
        }
    };
    tokio::select! {
        () = aborted.cancelled() => {}
        () = serving => {}
    }
}

/// Takes what the peer sends until it gives up, and says nothing.
async fn unheard(mut socket: TcpStream) {
    let mut unseen = [0; 4096];
    while socket.read(&mut unseen).await.is_ok_and(|n| n > 0) {}
}

/// Shakes hands, where there is TLS.
pub(crate) async fn secure(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
) -> io::Result<BoxedTransport> {
    socket.set_nodelay(true)?;
    Ok(match tls {
        Some(tls) => Box::new(tls.accept(socket).await?),
        None => Box::new(socket),
    })
}
