//! The operators' port: `/metrics`, `/live`, `/ready`, and the API of `api`.
//!
//! A small HTTP/1.1 server with bounds of its own, on its own thread, so that a slow scraper
//! cannot disturb devices and a busy gateway still answers its probes. What is not below `/api/v1/` changes nothing. It
//! knows the upstream only by the [`Readiness`] it is given. One request per connection, and the
//! whole connection within [`AdminLimits::request_timeout`]: there is no idle connection to hold.

pub mod api;
mod heads;
mod page;
mod way;

use crate::runtime::clock;
use crate::telemetry::log::Bound;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Acceptor, Stream};
use api::Api;
use api::problem::Problem;
use api::view::Refusal;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use heads::{Head, Heads};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use way::{Gate, Way};

/// Whether a load balancer should send devices here, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Answers 200 when true, 503 when false: no device can be served.
    pub ready: bool,
    /// [`Phase::name`](crate::runtime::phase::Phase::name).
    pub phase: &'static str,
    /// What is missing or degraded, in words; empty when all is well.
    pub reason: String,
    /// Open upstream connections that hold a valid token.
    pub hub_connections: usize,
    /// Time until the newest accepted token ends, seconds; nothing when there is none.
    pub token_expires_in_s: Option<u64>,
    /// What the hub refuses; a gateway that is ready is degraded by it.
    pub hub_refuses: Vec<Refusal>,
}

impl Readiness {
    /// `ready`, `degraded` or `unavailable`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match (self.ready, self.hub_refuses.is_empty()) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "unavailable",
        }
    }
}

impl serde::Serialize for Readiness {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = to.serialize_struct("Readiness", 7)?;
        fields.serialize_field("ready", &self.ready)?;
        fields.serialize_field("status", self.status())?;
        fields.serialize_field("phase", self.phase)?;
        fields.serialize_field("reason", &self.reason)?;
        fields.serialize_field("hub_connections", &self.hub_connections)?;
        fields.serialize_field("token_expires_in_s", &self.token_expires_in_s)?;
        fields.serialize_field("hub_refuses", &self.hub_refuses)?;
        fields.end()
    }
}

/// Asks for the current readiness. Must not block.
pub type Status = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// Bounds of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminLimits {
    /// From accept to the last byte of the answer; a TLS handshake is part of it.
    pub request_timeout: Duration,
    /// Connections served at once; one more is accepted and waits, the others wait in the socket's
    /// backlog. A place is taken from who is slow to send the head of its request.
    pub connections: usize,
    /// Request line and headers, bytes.
    pub header_bytes: usize,
}

impl Default for AdminLimits {
    /// 5 s, 32 connections, 8 KiB.
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            connections: 32,
            header_bytes: 8 * 1024,
        }
    }
}

/// Pause after `accept` failed, as it does while the process has no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time between two lines about it.
const FAILURE_LINES: Duration = Duration::from_secs(60);

/// Headers of one request.
const HEADERS_MAX: usize = 64;

/// The paths there are.
const PATHS: &[&str] = &["/", "/live", "/metrics", "/ready", "/api/v1/openapi.json"];

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// `/ready`
    pub status: Status,
    /// `/api/v1/`, where there is one.
    pub api: Option<Arc<Api>>,
    /// TLS; without it `/api/v1/` and the page are answered to this machine alone.
    pub tls: Option<Arc<Acceptor>>,
}

/// Serves until `shutdown`, with the default limits. Requests being answered then are finished.
pub async fn serve(listener: TcpListener, served: Served, shutdown: CancellationToken) {
    serve_with(listener, served, shutdown, AdminLimits::default()).await;
}

/// [`serve`] with other limits.
pub async fn serve_with(
    listener: TcpListener,
    served: Served,
    shutdown: CancellationToken,
    limits: AdminLimits,
) {
    let permits = Arc::new(Semaphore::new(limits.connections.max(1)));
    let heads = Heads::default();
    let mut requests = JoinSet::new();
    let failures = Bound::new(1, FAILURE_LINES);
    let gate = Gate::new(served.tls.clone());
    loop {
        let accepted = async {
            let stream = listener.accept().await;
            (heads.place(&permits).await, stream)
        };
        let (permit, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            (permit, stream) = accepted => (permit, stream),
        };
        while requests.try_join_next().is_some() {} // forget the finished ones
        match stream {
            Ok((stream, peer)) => {
                let (head, gate, served) = (heads.begin(), gate.clone(), served.clone());
                requests.spawn(async move {
                    let opened = gate.open(stream, peer);
                    connection(opened, served, limits, head).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if let Some(suppressed) = failures.take(clock::mono()) {
                    tracing::warn!(
                        name: "admin_accept_failed",
                        %error, suppressed,
                        "admin port cannot accept; trying again"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while requests.join_next().await.is_some() {}
}

/// One request and its answer, or nothing when the peer is too slow.
async fn connection(
    opened: impl Future<Output = Option<(Box<dyn Stream>, Way)>>,
    served: Served,
    limits: AdminLimits,
    head: Head,
) {
    let served = async {
        let Some((stream, way)) = opened.await else {
            return Ok(());
        };
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            head.done();
            let served = served.clone();
            async move { Ok::<_, Infallible>(respond(request, &served, way).await) }
        });
        http1::Builder::new()
            .keep_alive(false)
            .max_headers(HEADERS_MAX)
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes.max(8 * 1024))
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_timeout)
            .serve_connection(TokioIo::new(stream), service)
            .await
    };
    let served = tokio::time::timeout(limits.request_timeout, served);
    let served = tokio::select! {
        served = served => served,
        () = head.lost() => {
            tracing::debug!("admin request was slow, and its place was wanted");
            return;
        }
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin request failed"),
        Err(_) => tracing::debug!("admin request took too long"),
    }
}

/// The answer to a request that came by `way`.
async fn respond(request: Request<Incoming>, served: &Served, way: Way) -> Response<Body> {
    let path = request.uri().path();
    let guarded = path.starts_with(api::ROOT) || page::file(path).is_some();
    match (way, &served.api) {
        (Way::Mistaken, _) => Problem::in_clear().into_response(),
        (Way::Clear, _) if guarded => Problem::without_tls().into_response(),
        (_, Some(api)) if path.starts_with(api::ROOT) => api.answer(request.map(Body::new)).await,
        _ => answer(request.method(), path, &served.metrics, &served.status),
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, status: &Status) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let body = "only GET and HEAD are answered here\n";
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET, HEAD")],
            body,
        );
    }
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    match path {
        "/live" => text(StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], "ok\n"),
        "/metrics" => {
            let body = metrics.render();
            text(StatusCode::OK, [(header::CONTENT_TYPE, PROMETHEUS)], body)
        }
        "/ready" => ready(&status()),
        _ => {
            if let Some(file) = page::file(path) {
                return file;
            }
            let body = format!("no such path; there are {}\n", PATHS.join(", "));
            text(StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, TEXT)], body)
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn ready(readiness: &Readiness) -> Response<Body> {
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Plain fields only, so there is nothing that could fail to be written as JSON.
    let body = serde_json::to_string(readiness).unwrap_or_default() + "\n";
    text(code, [(header::CONTENT_TYPE, "application/json")], body)
}

fn text(
    code: StatusCode,
    own: [(header::HeaderName, &'static str); 1],
    body: impl Into<Body>,
) -> Response<Body> {
    let fresh = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, own, fresh, body.into()).into_response()
}

/// A running admin server.
pub struct AdminHandle {
    address: SocketAddr,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl AdminHandle {
    /// The address bound; tells the port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, finishes what is being answered (at most
    /// [`AdminLimits::request_timeout`]), and waits for the thread. Blocks; call it last.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                name: "admin_panicked",
                "the admin thread had panicked; report the line above it"
            );
        }
    }
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Binds the port. Done before anything else starts, so that a port in use stops the start.
///
/// # Errors
/// When the address cannot be bound; the text names it and the fix.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| {
        let text = format!("[admin] bind {address}: {error}; free the port or choose another");
        std::io::Error::new(error.kind(), text)
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves `listener` (from [`bind`]) on a thread and a runtime of its own.
///
/// # Errors
/// When the runtime or the thread cannot be made.
pub fn spawn_thread(
    listener: std::net::TcpListener,
    metrics: Arc<Metrics>,
    status: Status,
) -> std::io::Result<AdminHandle> {
    let served = Served {
        metrics,
        status,
        api: None,
        tls: None,
    };
    spawn_thread_with(listener, served, AdminLimits::default())
}

/// [`spawn_thread`] with other limits.
///
/// # Errors
/// As [`spawn_thread`].
pub fn spawn_thread_with(
    listener: std::net::TcpListener,
    served: Served,
    limits: AdminLimits,
) -> std::io::Result<AdminHandle> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let shutdown = CancellationToken::new();
    let until = shutdown.clone();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(serve_with(listener, served, until, limits));
        })?;
    Ok(AdminHandle {
        address,
        shutdown,
        thread: Some(thread),
    })
}
