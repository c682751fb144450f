//! `/devices`: the registry and the command queues.

use super::{Answer, Hubs, Refusal};
use crate::config::secret::Secret;
use crate::emulator::address::Identity;
use crate::emulator::backend::Ack;
use crate::emulator::config::{Keys, duration_text};
use crate::emulator::devices::{Record, Unregistered};
use crate::emulator::errors::{hex, random};
use crate::emulator::hub::Hub;
use crate::emulator::queue::{Command, Queue};
use crate::runtime::clock;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceBody {
    status: String,
    sas: Option<SasBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SasBody {
    primary_key: String,
    secondary_key: Option<String>,
}

/// Registers a device or changes its status; links of a disabled one are detached.
pub(super) async fn set(
    State(hub): Hubs,
    Path(id): Path<String>,
    Json(body): Json<DeviceBody>,
) -> Answer {
    let enabled = match body.status.as_str() {
        "enabled" => true,
        "disabled" => false,
        _ => return Err(bad("status must be \"enabled\" or \"disabled\"")),
    };
    let keys = body.sas.map(keys).transpose()?;
    let record = hub.devices.set(&id, enabled, keys).map_err(bad)?;
    if !enabled {
        hub.detach_disabled(&id);
    }
    Ok(Json(view(&id, &record)))
}

pub(super) fn bad(text: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

fn keys(body: SasBody) -> Result<Keys, Refusal> {
    let decode = |text: String| match STANDARD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(Secret::new(bytes)),
        _ => Err(bad("keys are base64 text")),
    };
    Ok(Keys {
        primary: Some(decode(body.primary_key)?),
        secondary: body.secondary_key.map(decode).transpose()?,
    })
}

fn view(id: &str, record: &Record) -> Value {
    let modules: Vec<&str> = record
        .modules
        .iter()
        .map(|module| module.id.as_str())
        .collect();
    json!({
        "deviceId": id,
        "status": record.status(),
        "generationId": &*record.generation,
        "modules": modules,
    })
}

fn unknown() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no such device, register it with PUT /devices/ID",
    )
}

pub(super) async fn get(State(hub): Hubs, Path(id): Path<String>) -> Answer {
    let record = hub.devices.get(&id).ok_or_else(unknown)?;
    let mut view = view(&id, &record);
    let links = hub.directory.links(Some(&id));
    view["links"] = links
        .iter()
        .map(|link| json!(link.endpoint.path().join("/")))
        .collect();
    view["connectionState"] = json!(if links.is_empty() {
        "Disconnected"
    } else {
        "Connected"
    });
    Ok(Json(view))
}

pub(super) async fn remove(State(hub): Hubs, Path(id): Path<String>) -> Answer {
    if !hub.remove_device(&id) {
        return Err(unknown());
    }
    Ok(Json(json!({ "deleted": id })))
}

/// The device `id`, or the module `$.module` names.
pub(super) fn identity(hub: &Hub, id: &str, module: Option<&str>) -> Result<Identity, Refusal> {
    let identity = Identity {
        device: id.into(),
        module: module.map(Into::into),
    };
    match hub.devices.find(&identity) {
        Ok(_) => Ok(identity),
        Err(Unregistered::Device) => Err(unknown()),
        Err(Unregistered::Module) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "no such module of this device",
        )),
    }
}

fn queue(hub: &Hub, id: &str, module: Option<&str>) -> Result<Arc<Queue>, Refusal> {
    Ok(hub.devices.queue(&identity(hub, id, module)?))
}

/// Queues a command: the body as it is, the query as properties; system properties are spelled
/// as MQTT spells them (`$.mid`, `$.cid`, `$.uid`, `$.ct`, `$.ce`), `$.ttl` is a duration,
/// `$.module` addresses a module.
pub(super) async fn send(
    State(hub): Hubs,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let limits = &hub.config.limits;
    if body.len() > limits.command_bytes {
        let text = format!("a command has at most {} bytes", limits.command_bytes);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let (mono, unix) = (clock::mono(), clock::unix());
    let mut module = None;
    let mut command = Command {
        message_id: hex(&random::<16>()),
        correlation_id: None,
        user_id: None,
        content_type: None,
        content_encoding: None,
        expires: unix + limits.command_ttl,
        expiry_named: false,
        ack: Ack::None,
        properties: Vec::new(),
        body,
    };
    for (key, value) in query {
        match key.as_str() {
            "$.mid" => command.message_id = value,
            "$.cid" => command.correlation_id = Some(value),
            "$.uid" => command.user_id = Some(value),
            "$.ct" => command.content_type = Some(value),
            "$.ce" => command.content_encoding = Some(value),
            "$.module" => module = Some(value),
            "$.ttl" => {
                let ttl = duration_text(&value).ok_or_else(|| bad("$.ttl is written \"60s\""))?;
                command.expires = unix + ttl;
                command.expiry_named = true;
            }
            _ if key.starts_with("$.") => {
                return Err(bad("known are $.mid $.cid $.uid $.ct $.ce $.ttl $.module"));
            }
            _ => {
                if key == "iothub-ack" {
                    let known = "iothub-ack is none, positive, negative or full";
                    command.ack = Ack::named(&value).ok_or_else(|| bad(known))?;
                }
                command.properties.push((key, value));
            }
        }
    }
    let message_id = command.message_id.clone();
    match queue(&hub, &id, module.as_deref())?.push(command, mono, unix) {
        Ok(seq) => Ok((
            StatusCode::CREATED,
            Json(json!({ "id": message_id, "seq": seq })),
        )
            .into_response()),
        Err(_) => {
            let text = "DeviceMaximumQueueDepthExceeded: the device's command queue is full";
            let body = json!({ "errorCode": 403_004, "error": text });
            Ok((StatusCode::FORBIDDEN, Json(body)).into_response())
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ModuleQuery {
    #[serde(rename = "$.module")]
    pub(super) module: Option<String>,
}

pub(super) async fn commands(
    State(hub): Hubs,
    Path(id): Path<String>,
    Query(query): Query<ModuleQuery>,
) -> Answer {
    let queue = queue(&hub, &id, query.module.as_deref())?;
    Ok(Json(json!(queue.view(clock::mono(), clock::unix()))))
}

pub(super) async fn purge(
    State(hub): Hubs,
    Path(id): Path<String>,
    Query(query): Query<ModuleQuery>,
) -> Answer {
    let queue = queue(&hub, &id, query.module.as_deref())?;
    Ok(Json(
        json!({ "purged": queue.purge(clock::mono(), clock::unix()) }),
    ))
}
