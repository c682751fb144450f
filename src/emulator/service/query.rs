//! `POST /devices/query`: the part of the service's query language that tests ask for, page by page.

mod language;

use super::Problem;
use super::caller::{Caller, Input, Right};
use super::identities::twin_view;
use crate::emulator::address::Identity;
use crate::emulator::hub::Hub;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use language::{Query, Source};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Twins of a page, when the caller does not say and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Devices looked at for one page, so that no request holds the hub up for long.
const LOOKS_MAX: usize = 20_000;

#[derive(Deserialize)]
pub(super) struct Body {
    query: String,
}

/// Twins that match; `x-ms-continuation` of the answer, sent back, asks for the next page. It is a
/// place in the registry: what is registered or deleted in between may come twice or not at all.
pub(super) async fn run(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    headers: HeaderMap,
    Input(body): Input<Body>,
) -> Result<Response, Problem> {
    caller.needs(Right::Service)?;
    let query = Query::parse(&body.query).map_err(Problem::bad)?;
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name, default| match header(name) {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| Problem::bad(format!("{name} is no number."))),
    };
    let page = number("x-ms-max-item-count", PAGE)?.clamp(1, PAGE_MAX);
    let start = number("x-ms-continuation", 0)?;

    let mut found = Vec::new();
    let mut next = None;
    for (at, id) in hub.devices.ids().enumerate().skip(start) {
        if found.len() >= page || at - start >= LOOKS_MAX {
            next = Some(at);
            break;
        }
        let twins = twins(&hub, &id, query.source);
        found.extend(twins.into_iter().filter(|twin| query.matches(twin)));
    }
    let kind = ("x-ms-item-type", "Twin".to_owned());
    let place = next.map(|next| ("x-ms-continuation", next.to_string()));
    let headers: Vec<_> = std::iter::once(kind).chain(place).collect();
    Ok((
        axum::response::AppendHeaders(headers),
        Json(Value::Array(found)),
    )
        .into_response())
}

fn twins(hub: &Hub, id: &str, source: Source) -> Vec<Value> {
    let Some(record) = hub.devices.get(id) else {
        return Vec::new();
    };
    let view = |module: Option<&str>| {
        let identity = Identity {
            device: id.into(),
            module: module.map(Into::into),
        };
        twin_view(hub, &identity, &record)
    };
    match source {
        Source::Devices => vec![view(None)],
        Source::Modules => {
            let modules = record.modules.iter();
            modules.map(|module| view(Some(&module.id))).collect()
        }
    }
}
