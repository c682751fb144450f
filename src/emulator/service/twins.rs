//! `/twins/…`: twins and method calls of devices and modules.

use super::Problem;
use super::caller::{Caller, Input, Right};
use super::identities::twin_view;
use crate::emulator::address::Identity;
use crate::emulator::devices::{Record, RegistryError, Unregistered};
use crate::emulator::hub::Hub;
use crate::emulator::methods::{self, Call, CallError};
use crate::emulator::twin::{Change, Object};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// `connectTimeoutInSeconds` and `responseTimeoutInSeconds` (wire sheet §9.4).
const CONNECT_MAX: u64 = 300;
const RESPONSE: std::ops::RangeInclusive<u64> = 5..=300;

/// The identity a path names: a device, or a module of one.
#[derive(Deserialize)]
pub(super) struct Named {
    device: String,
    module: Option<String>,
}

impl Named {
    pub(super) fn identity(self) -> Identity {
        Identity {
            device: self.device.into(),
            module: self.module.map(Into::into),
        }
    }
}

pub(super) fn registered(hub: &Hub, identity: &Identity) -> Result<Record, Problem> {
    hub.devices.find(identity).map_err(|what| {
        let device = identity.device.to_string();
        match (what, &identity.module) {
            (Unregistered::Module, Some(module)) => {
                RegistryError::ModuleNotFound(device, module.to_string()).into()
            }
            _ => Problem::device_not_found(&device),
        }
    })
}

pub(super) async fn get(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::Service)?;
    let identity = named.identity();
    let record = registered(&hub, &identity)?;
    Ok(Json(twin_view(&hub, &identity, &record)))
}

pub(super) async fn patch(
    hub: State<Arc<Hub>>,
    caller: Caller,
    named: Path<Named>,
    Input(body): Input<Value>,
) -> Result<Json<Value>, Problem> {
    update(hub, &caller, named, &body, false)
}

pub(super) async fn put(
    hub: State<Arc<Hub>>,
    caller: Caller,
    named: Path<Named>,
    Input(body): Input<Value>,
) -> Result<Json<Value>, Problem> {
    update(hub, &caller, named, &body, true)
}

/// Whatever else a twin has, as clients send it along, changes nothing.
fn update(
    State(hub): State<Arc<Hub>>,
    caller: &Caller,
    Path(named): Path<Named>,
    body: &Value,
    replace: bool,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::Service)?;
    let identity = named.identity();
    let record = registered(&hub, &identity)?;
    let change = Change {
        tags: part(&body["tags"], "tags")?,
        desired: part(&body["properties"]["desired"], "properties.desired")?,
        replace,
    };
    hub.twins
        .update(&identity, &change, caller.if_match.as_deref())?;
    Ok(Json(twin_view(&hub, &identity, &record)))
}

fn part(value: &Value, name: &str) -> Result<Option<Object>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::Object(object) => Ok(Some(object.clone())),
        _ => Err(Problem::bad(format!("{name} must be an object."))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Invocation {
    method_name: String,
    #[serde(default)]
    payload: Value,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

pub(super) async fn call(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(named): Path<Named>,
    Input(invocation): Input<Invocation>,
) -> Result<Response, Problem> {
    caller.needs(Right::Service)?;
    let identity = named.identity();
    registered(&hub, &identity)?;
    let connect = invocation.connect_timeout_in_seconds.unwrap_or(0);
    let response = invocation.response_timeout_in_seconds.unwrap_or(30);
    if connect > CONNECT_MAX {
        return Err(Problem::bad("connectTimeoutInSeconds is at most 300."));
    }
    if !RESPONSE.contains(&response) {
        return Err(Problem::bad("responseTimeoutInSeconds is from 5 to 300."));
    }
    let payload = invocation.payload.to_string().into_bytes();
    let max = hub.config.limits.method_bytes;
    if payload.len() > max {
        let message = format!("The payload is larger than {max} bytes.");
        return Err(Problem::new(413, 413_001, "MessageTooLarge", message));
    }
    let call = Call {
        method: invocation.method_name,
        payload,
        connect: Duration::from_secs(connect),
        response: Duration::from_secs(response),
    };
    let answer = tokio::select! {
        answer = methods::call(&hub, &identity, call) => answer?,
        () = hub.stopping.cancelled() => return Err(CallError::TimedOut.into()),
    };
    let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    Ok((json, answer.to_json()).into_response())
}
