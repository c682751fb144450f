//! `/faults`: the catalogue, what is under way, and how to begin and end it.

use super::{Hubs, Refusal, time};
use crate::emulator::faults::{self, Fault, FaultError, FaultKind, FaultScope, Shape};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    name: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    delay: Option<String>,
    #[serde(default)]
    duration: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    connection: Option<u64>,
}

/// Begins a fault.
pub(super) async fn inject(
    State(hub): Hubs,
    Json(request): Json<Request>,
) -> Result<Response, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let Some(kind) = FaultKind::named(&request.name) else {
        let like = FaultKind::like(&request.name).name();
        return Err(bad(format!(
            "no such fault; did you mean {like}? GET /faults lists them all"
        )));
    };
    let scope = match (request.device, request.connection) {
        (None, None) => FaultScope::All,
        (Some(device), None) => FaultScope::Device(device),
        (None, Some(connection)) => FaultScope::Connection(connection),
        (Some(_), Some(_)) => {
            return Err(bad("name a device or a connection, not both".to_owned()));
        }
    };
    let mut fault = Fault::new(kind)
        .after(time(request.delay.as_deref())?)
        .lasting(time(request.duration.as_deref())?)
        .on(scope);
    if let Some(value) = &request.value {
        fault = fault.with(value);
    }
    match faults::inject(&hub, &fault) {
        Ok(id) => Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response()),
        Err(error) => {
            let status = match error {
                FaultError::Missing(_) => StatusCode::NOT_IMPLEMENTED,
                FaultError::TooMany => StatusCode::TOO_MANY_REQUESTS,
                FaultError::Value(_) | FaultError::Scope(_) => StatusCode::BAD_REQUEST,
            };
            Err(Refusal::new(status, error.to_string()))
        }
    }
}

/// The catalogue, what is under way, and the connections a scope can name.
pub(super) async fn list(State(hub): Hubs) -> Json<Value> {
    let known: Vec<_> = FaultKind::ALL
        .iter()
        .map(|kind| {
            let shape = kind.shape();
            json!({
                "name": kind,
                "about": kind.about(),
                "implemented": shape != Shape::Missing,
                "lasting": shape == Shape::State,
                "values": kind.values(),
            })
        })
        .collect();
    let numbers = hub.directory.numbers();
    let connections: Vec<_> = numbers
        .iter()
        .map(|(id, links)| json!({ "connection": id, "links": links }))
        .collect();
    Json(json!({
        "known": known,
        "active": hub.faults.under_way(),
        "connections": connections,
    }))
}

/// Ends every fault.
pub(super) async fn clear(State(hub): Hubs) -> Json<Value> {
    Json(json!({ "ended": hub.faults.clear() }))
}
