//! `/messages`: what the hub accepted.

use super::{Answer, Hubs, Refusal, time};
use crate::emulator::errors::{hex, iso8601};
use crate::emulator::ledger::{Content, Entry};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;
/// Longest wait for a message.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    device: Option<String>,
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    wait: Option<String>,
}

/// Entries after `after`, oldest first; with `wait`, not before there is one or the time is up.
pub(super) async fn messages(State(hub): Hubs, Query(selection): Query<Selection>) -> Answer {
    let limit = selection.limit.unwrap_or(LIMIT_DEFAULT);
    if limit > LIMIT_MAX {
        let text = format!("limit is at most {LIMIT_MAX}, page with after");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let wait = time(selection.wait.as_deref())?.min(WAIT_MAX);
    let device = selection.device.as_deref();
    let read = || hub.ledger.messages(device, selection.after, limit);
    let mut found = read();
    if found.is_empty() && !wait.is_zero() {
        let wanted = |entry: &Entry| device.is_none_or(|device| device == entry.device());
        let arrival = hub.ledger.wait_for(selection.after, wanted);
        tokio::select! {
            _ = arrival => found = read(),
            () = tokio::time::sleep(wait) => {}
            () = hub.stopping.cancelled() => {}
        }
    }
    Ok(Json(Value::Array(found.iter().map(row).collect())))
}

fn row(entry: &Entry) -> Value {
    let pairs = |pairs: &[(String, String)]| -> Map<String, Value> {
        pairs
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect()
    };
    let empty = Content::default();
    let content = entry.content.as_deref().unwrap_or(&empty);
    let mut system = pairs(&content.system);
    let mut stamp = |key: &str, value: &str| drop(system.insert(key.to_owned(), json!(value)));
    stamp("iothub-connection-device-id", entry.device());
    if let Some(module) = entry.module() {
        stamp("iothub-connection-module-id", module);
    }
    stamp("iothub-connection-auth-method", entry.auth_method());
    stamp("iothub-connection-auth-generation-id", entry.generation());
    stamp("iothub-enqueuedtime", &iso8601(entry.at));
    stamp("iothub-message-source", "Telemetry");
    json!({
        "seq": entry.seq,
        "device": entry.device(),
        "module": entry.module(),
        "sha256": hex(&entry.sha256),
        "size": entry.size,
        "kept": entry.content.is_some(),
        "body": entry.body().map(|body| STANDARD.encode(body)),
        "properties": pairs(&content.properties),
        "system": system,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgetting {
    through: u64,
}

/// Makes room in long runs: entries up to `through` are forgotten.
pub(super) async fn forget(State(hub): Hubs, Query(range): Query<Forgetting>) -> Json<Value> {
    Json(json!({ "forgotten": hub.ledger.forget(range.through) }))
}
