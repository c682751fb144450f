//! `/devices/…`: identities of devices and modules, as the service shows them.

use super::Problem;
use super::caller::{Caller, Input, Right};
use super::twins::registered;
use crate::config::secret::Secret;
use crate::emulator::address::Identity;
use crate::emulator::config::Keys;
use crate::emulator::devices::{Auth, Module, Record, Registration};
use crate::emulator::hub::Hub;
use crate::runtime::clock;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most devices of one list.
const TOP_MAX: usize = 1_000;
/// A time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

type Hubs = State<Arc<Hub>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SymmetricKey {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thumbprints {
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric_key: Option<SymmetricKey>,
    x509_thumbprint: Option<Thumbprints>,
}

/// An identity as clients send it; what else is in it is the hub's to say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body {
    device_id: Option<String>,
    module_id: Option<String>,
    status: Option<String>,
    status_reason: Option<String>,
    authentication: Option<Authentication>,
}

impl Body {
    fn registration(self) -> Result<Registration, Problem> {
        let disabled = match self.status.as_deref() {
            None | Some("enabled") => false,
            Some("disabled") => true,
            Some(_) => return Err(Problem::bad("status must be enabled or disabled.")),
        };
        let authentication = self.authentication.unwrap_or_default();
        let prints = authentication.x509_thumbprint.unwrap_or_default();
        let auth = match authentication.kind.as_deref() {
            None | Some("sas") => Auth::Sas,
            Some("selfSigned") => Auth::SelfSigned {
                primary: prints.primary_thumbprint,
                secondary: prints.secondary_thumbprint,
            },
            Some("certificateAuthority") => Auth::Authority,
            Some(_) => return Err(Problem::bad("authentication.type is not known.")),
        };
        let given = authentication.symmetric_key.unwrap_or_default();
        Ok(Registration {
            disabled,
            reason: self.status_reason,
            auth,
            keys: Keys {
                primary: key(given.primary_key)?,
                secondary: key(given.secondary_key)?,
            },
        })
    }
}

/// A key of 16 to 64 bytes in base64; none when there is no text.
fn key(text: Option<String>) -> Result<Option<Secret>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match STANDARD.decode(text) {
        Ok(bytes) if (16..=64).contains(&bytes.len()) => Ok(Some(Secret::new(bytes))),
        _ => Err(Problem::bad("Keys are base64 of 16 to 64 bytes.")),
    }
}

fn authentication(auth: &Auth, keys: &Keys) -> Value {
    let text = |key: &Option<Secret>| key.as_ref().map(|key| STANDARD.encode(key.expose()));
    let (primary, secondary) = match auth {
        Auth::SelfSigned { primary, secondary } => (primary.as_deref(), secondary.as_deref()),
        Auth::Sas | Auth::Authority => (None, None),
    };
    json!({
        "type": auth.name(),
        "symmetricKey": {
            "primaryKey": text(&keys.primary),
            "secondaryKey": text(&keys.secondary),
        },
        "x509Thumbprint": { "primaryThumbprint": primary, "secondaryThumbprint": secondary },
    })
}

fn connection_state(hub: &Hub, identity: &Identity) -> &'static str {
    let links = hub.directory.links(Some(&identity.device));
    match links.iter().any(|link| link.identity == *identity) {
        true => "Connected",
        false => "Disconnected",
    }
}

fn view(hub: &Hub, id: &str, record: &Record) -> Value {
    let identity = Identity {
        device: id.into(),
        module: None,
    };
    let queue = hub.devices.queue(&identity);
    json!({
        "deviceId": id,
        "generationId": &*record.generation,
        "etag": &*record.etag,
        "connectionState": connection_state(hub, &identity),
        "status": record.status(),
        "statusReason": record.reason,
        "connectionStateUpdatedTime": NEVER,
        "statusUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": queue.depth(clock::mono(), clock::unix()),
        "authentication": authentication(&record.auth, &record.keys),
        "capabilities": { "iotEdge": false },
    })
}

fn module_view(hub: &Hub, identity: &Identity, module: &Module) -> Value {
    json!({
        "deviceId": &*identity.device,
        "moduleId": module.id,
        "managedBy": null,
        "generationId": &*module.generation,
        "etag": &*module.etag,
        "connectionState": connection_state(hub, identity),
        "connectionStateUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authentication": authentication(&Auth::Sas, &module.keys),
    })
}

/// A twin with what the registry knows of its device around it.
pub(super) fn twin_view(hub: &Hub, identity: &Identity, record: &Record) -> Value {
    let mut twin = hub.twins.with(identity, |twin| twin.for_service());
    let around = json!({
        "deviceId": &*identity.device,
        "deviceEtag": &*record.etag,
        "status": record.status(),
        "statusReason": record.reason,
        "statusUpdateTime": NEVER,
        "connectionState": connection_state(hub, identity),
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": record.auth.name(),
        "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
        "capabilities": { "iotEdge": false },
    });
    if let (Value::Object(twin), Value::Object(around)) = (&mut twin, around) {
        twin.extend(around);
        if let Some(module) = &identity.module {
            twin.insert("moduleId".to_owned(), json!(&**module));
        }
    }
    twin
}

/// An answer whose etag is its header too.
fn tagged(view: Value) -> Response {
    let etag = format!("\"{}\"", view["etag"].as_str().unwrap_or_default());
    ([(header::ETAG, etag)], Json(view)).into_response()
}

#[derive(Deserialize)]
pub(super) struct Top {
    top: Option<usize>,
}

pub(super) async fn list(
    State(hub): Hubs,
    caller: Caller,
    Query(query): Query<Top>,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::RegistryRead)?;
    let top = query.top.unwrap_or(TOP_MAX).min(TOP_MAX);
    let ids: Vec<String> = hub.devices.ids().take(top).collect();
    let shown = ids.iter().filter_map(|id| {
        let record = hub.devices.get(id)?;
        Some(view(&hub, id, &record))
    });
    Ok(Json(shown.collect()))
}

pub(super) async fn get(
    State(hub): Hubs,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Right::RegistryRead)?;
    let record = hub.devices.get(&id);
    let record = record.ok_or_else(|| Problem::device_not_found(&id))?;
    Ok(tagged(view(&hub, &id, &record)))
}

/// Creates a device; with `If-Match` changes it. Links of a disabled one are detached.
pub(super) async fn put(
    State(hub): Hubs,
    caller: Caller,
    Path(id): Path<String>,
    Input(body): Input<Body>,
) -> Result<Response, Problem> {
    caller.needs(Right::RegistryWrite)?;
    if body.device_id.as_ref().is_some_and(|named| *named != id) {
        return Err(Problem::bad("deviceId is not the id of the path."));
    }
    let registration = body.registration()?;
    let record = hub
        .devices
        .put(&id, registration, caller.if_match.as_deref())?;
    if !record.enabled {
        hub.detach_disabled(&id);
    }
    Ok(tagged(view(&hub, &id, &record)))
}

pub(super) async fn remove(
    State(hub): Hubs,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.needs(Right::RegistryWrite)?;
    hub.devices.check_etag(&id, caller.if_match.as_deref())?;
    hub.remove_device(&id);
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the commands that wait for a device.
pub(super) async fn purge(
    State(hub): Hubs,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::Service)?;
    let identity = Identity {
        device: id.as_str().into(),
        module: None,
    };
    registered(&hub, &identity)?;
    let purged = hub
        .devices
        .queue(&identity)
        .purge(clock::mono(), clock::unix());
    Ok(Json(json!({
        "deviceId": id,
        "moduleId": null,
        "totalMessagesPurged": purged,
    })))
}

fn module_of(device: &str, module: &str) -> Identity {
    Identity {
        device: device.into(),
        module: Some(module.into()),
    }
}

pub(super) async fn modules(
    State(hub): Hubs,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::RegistryRead)?;
    let record = hub.devices.get(&id);
    let record = record.ok_or_else(|| Problem::device_not_found(&id))?;
    let modules = record.modules.iter();
    let shown = modules.map(|module| module_view(&hub, &module_of(&id, &module.id), module));
    Ok(Json(shown.collect()))
}

pub(super) async fn get_module(
    State(hub): Hubs,
    caller: Caller,
    Path((device, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.needs(Right::RegistryRead)?;
    let identity = module_of(&device, &id);
    let module = hub.devices.module(&identity)?;
    Ok(tagged(module_view(&hub, &identity, &module)))
}

pub(super) async fn put_module(
    State(hub): Hubs,
    caller: Caller,
    Path((device, id)): Path<(String, String)>,
    Input(body): Input<Body>,
) -> Result<Response, Problem> {
    caller.needs(Right::RegistryWrite)?;
    if body.module_id.as_ref().is_some_and(|named| *named != id) {
        return Err(Problem::bad("moduleId is not the id of the path."));
    }
    let identity = module_of(&device, &id);
    let max = hub.config.limits.modules_per_device;
    let module = hub.devices.put_module(
        &identity,
        body.registration()?,
        caller.if_match.as_deref(),
        max,
    )?;
    Ok(tagged(module_view(&hub, &identity, &module)))
}

pub(super) async fn remove_module(
    State(hub): Hubs,
    caller: Caller,
    Path((device, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.needs(Right::RegistryWrite)?;
    let identity = module_of(&device, &id);
    hub.remove_module(&identity, caller.if_match.as_deref())?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn statistics(State(hub): Hubs, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs(Right::RegistryRead)?;
    let (mut enabled, mut disabled) = (0u64, 0u64);
    for id in hub.devices.ids() {
        match hub.devices.get(&id) {
            Some(record) if record.enabled => enabled += 1,
            Some(_) => disabled += 1,
            None => {}
        }
    }
    Ok(Json(json!({
        "totalDeviceCount": enabled + disabled,
        "enabledDeviceCount": enabled,
        "disabledDeviceCount": disabled,
    })))
}

pub(super) async fn connected(State(hub): Hubs, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs(Right::RegistryRead)?;
    let links = hub.directory.links(None);
    let mut devices: Vec<_> = links.iter().map(|link| &link.identity.device).collect();
    devices.sort_unstable();
    devices.dedup();
    Ok(Json(json!({ "connectedDeviceCount": devices.len() })))
}
