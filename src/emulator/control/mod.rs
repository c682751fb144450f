//! The control API: HTTP and JSON on a loopback address, for tests, the load generator and the
//! demonstration. It hands out new policy keys, so it answers to no other address, unless told so
//! (`insecure`), and never to a request that a browser made for a foreign page.

mod devices;
mod faults;
mod ledger;
mod twins;

use crate::emulator::config::duration_text;
use crate::emulator::hub::Hub;
use crate::emulator::policies::KeySlot;
use crate::emulator::server::Lifetime;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

type Hubs = State<Arc<Hub>>;

/// Largest body of a request that is not a command.
const BODY_MAX: usize = 256 * 1024;

/// An answer that is not a success: status, and a sentence that names the fix.
struct Refusal(StatusCode, String);

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// Serves until the emulator stops.
pub(crate) async fn serve(listener: TcpListener, hub: Arc<Hub>, life: Lifetime) {
    let stopping = life.stopping.clone().cancelled_owned();
    let serving = axum::serve(listener, router(hub)).with_graceful_shutdown(stopping);
    tokio::select! {
        () = life.aborted.cancelled() => {}
        served = serving.into_future() => if let Err(error) = served {
            tracing::error!(
                name: "control_ended",
                target: "emulator", %error,
                "the control API ended"
            );
        }
    }
}

fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/stats", get(stats))
        .route("/certificate", get(certificate))
        .route("/messages", get(ledger::messages).delete(ledger::forget))
        .route(
            "/devices/{id}",
            put(devices::set).get(devices::get).delete(devices::remove),
        )
        .route(
            "/devices/{id}/commands",
            post(devices::send)
                .get(devices::commands)
                .delete(devices::purge),
        )
        .route("/devices/{id}/twin", get(twins::get).patch(twins::patch))
        .route("/devices/{id}/methods/{name}", post(twins::call))
        .route("/policies/{name}/rotate", post(rotate))
        .route(
            "/faults",
            post(faults::inject).get(faults::list).delete(faults::clear),
        )
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&hub), local_only))
        .with_state(hub)
}

/// A page elsewhere can make a browser call a loopback port, and by rebinding its name even read
/// the answer; neither knows our address as host.
async fn local_only(State(hub): Hubs, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|value| value.to_str().unwrap_or(""));
    let local = hub.config.insecure
        || host.is_none_or(|host| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            ["127.0.0.1", "localhost", "[::1]"].contains(&name) || name.starts_with("127.")
        });
    if !local || request.headers().contains_key(header::ORIGIN) {
        let text = "only requests for a loopback host, and none from web pages, are answered";
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

/// The chain of the TLS port, PEM: what a client has to trust.
async fn certificate(State(hub): Hubs) -> Response {
    match &hub.config.amqp.tls {
        Some(tls) => tls.cert_pem.clone().into_response(),
        None => Refusal::new(StatusCode::NOT_FOUND, "amqp.tls is not set").into_response(),
    }
}

async fn stats(State(hub): Hubs) -> Json<Value> {
    Json(json!(hub.stats.snapshot()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    which: KeySlot,
    /// Base64; without it the hub makes one.
    #[serde(default)]
    key: Option<String>,
}

async fn rotate(State(hub): Hubs, Path(name): Path<String>, body: Json<Rotation>) -> Answer {
    let Json(Rotation { which, key }) = body;
    let given = key.map(|text| STANDARD.decode(text));
    let given = given
        .transpose()
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the key is base64 text"))?;
    match hub.policies.rotate(&name, which, given) {
        Some(key) => Ok(Json(json!({ "key": key }))),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "no such policy, see the configuration",
        )),
    }
}

/// A time of a request; absent is none.
fn time(text: Option<&str>) -> Result<Duration, Refusal> {
    let Some(text) = text else {
        return Ok(Duration::ZERO);
    };
    duration_text(text)
        .filter(|time| *time <= Duration::from_secs(86_400))
        .ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "times are written \"250ms\", \"5s\", at most \"24h\"",
            )
        })
}
