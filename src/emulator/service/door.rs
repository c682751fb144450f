//! The service side's ports: TLS and, for tests on one machine, without. Handshakes run beside each
//! other; the number of connections is bounded.

use super::router;
use crate::emulator::hub::Hub;
use crate::emulator::io::BoxedTransport;
use crate::emulator::server::{self, Lifetime};
use axum::serve::Listener;
use std::future::{IntoFuture, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// Connections ready and not yet taken up.
const READY_MAX: usize = 16;

/// Serves until the emulator stops.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    hub: Arc<Hub>,
    life: Lifetime,
) {
    let address = listener
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let (ready, connections) = mpsc::channel(READY_MAX);
    let accepting = accept(listener, tls, ready, Arc::clone(&hub), life.clone());
    life.tasks.spawn(accepting);
    let doors = Doors {
        connections,
        address,
    };
    let stopping = life.stopping.clone().cancelled_owned();
    let serving = axum::serve(doors, router(hub)).with_graceful_shutdown(stopping);
    tokio::select! {
        () = life.aborted.cancelled() => {}
        served = serving.into_future() => if let Err(error) = served {
            tracing::error!(
                name: "service_ended", target: "emulator", %error, "the service side ended"
            );
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    ready: mpsc::Sender<(Connection, SocketAddr)>,
    hub: Arc<Hub>,
    life: Lifetime,
) {
    let room = Arc::new(Semaphore::new(hub.config.limits.service_connections));
    loop {
        // Waits for room before it accepts: who comes then waits in the backlog.
        let permit = tokio::select! {
            () = life.stopping.cancelled() => return,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = life.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(
                    name: "accept_failed", target: "emulator", %error, "cannot accept connections"
                );
                tokio::time::sleep(server::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        let timeout = hub.config.amqp.handshake_timeout;
        let aborted = life.aborted.clone();
        life.tasks.spawn(async move {
            let securing = tokio::time::timeout(timeout, server::secure(socket, tls));
            let secured = tokio::select! {
                () = aborted.cancelled() => return,
                secured = securing => secured,
            };
            if let Ok(Ok(stream)) = secured {
                let connection = Connection {
                    stream,
                    _room: permit,
                };
                // Fails when the emulator stops.
                drop(ready.send((connection, peer)).await);
            }
        });
    }
}

/// Connections whose handshake is over.
struct Doors {
    connections: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

impl Listener for Doors {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The accept loop has ended, and so will whoever asks.
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection and its room.
struct Connection {
    stream: BoxedTransport,
    _room: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
