//! `/devices/ID/twin` and `/devices/ID/methods/NAME`: what the service side does to a device.

use super::devices::{ModuleQuery, bad, identity};
use super::{Answer, Hubs, Refusal, time};
use crate::emulator::methods::{self, Call, CallError};
use crate::emulator::twin::{Change, Object};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// What the service waits for an answer when nobody says.
const RESPONSE: Duration = Duration::from_secs(30);

pub(super) async fn get(
    State(hub): Hubs,
    Path(id): Path<String>,
    Query(query): Query<ModuleQuery>,
) -> Answer {
    let identity = identity(&hub, &id, query.module.as_deref())?;
    Ok(Json(hub.twins.with(&identity, |twin| twin.for_service())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    #[serde(default)]
    tags: Option<Object>,
    #[serde(default)]
    properties: Option<Properties>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Properties {
    desired: Object,
}

/// Merges tags and desired properties; answers the twin.
pub(super) async fn patch(
    State(hub): Hubs,
    Path(id): Path<String>,
    Query(query): Query<ModuleQuery>,
    Json(patch): Json<Patch>,
) -> Answer {
    let identity = identity(&hub, &id, query.module.as_deref())?;
    let change = Change {
        tags: patch.tags,
        desired: patch.properties.map(|properties| properties.desired),
        replace: false,
    };
    let updated = hub.twins.update(&identity, &change, None);
    updated.map(Json).map_err(|error| bad(&error.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallQuery {
    #[serde(rename = "$.module")]
    module: Option<String>,
    connect: Option<String>,
    response: Option<String>,
}

/// Calls a method: the body is the payload, `connect` and `response` are the times to wait.
pub(super) async fn call(
    State(hub): Hubs,
    Path((id, method)): Path<(String, String)>,
    Query(query): Query<CallQuery>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let identity = identity(&hub, &id, query.module.as_deref())?;
    if body.len() > hub.config.limits.method_bytes {
        let text = format!("at most {} bytes", hub.config.limits.method_bytes);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    if !body.is_empty() && serde_json::from_slice::<Value>(&body).is_err() {
        return Err(bad("the payload of a method is JSON"));
    }
    let response = match &query.response {
        None => RESPONSE,
        Some(text) => time(Some(text))?,
    };
    let call = Call {
        method,
        payload: body.to_vec(),
        connect: time(query.connect.as_deref())?,
        response,
    };
    let called = tokio::select! {
        called = methods::call(&hub, &identity, call) => called,
        () = hub.stopping.cancelled() => Err(CallError::TimedOut),
    };
    Ok(match called {
        Ok(answer) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, answer.to_json()).into_response()
        }
        Err(error) => {
            let (status, code, text) = error.codes();
            let body = json!({ "errorCode": code, "error": text });
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            (status, Json(body)).into_response()
        }
    })
}
