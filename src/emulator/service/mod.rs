//! The service side over HTTPS, as back ends and their SDKs use it: registry, twins, method calls and
//! queries, each for a token of a policy with the right to it (wire sheet §9.3, §9.4).

mod caller;
mod door;
mod identities;
mod problem;
mod query;
mod twins;

pub(crate) use door::serve;

use crate::emulator::hub::Hub;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use problem::Problem;
use std::sync::Arc;

/// Largest body: a twin with both parts full, or a method's payload, and room around it.
const BODY_MAX: usize = 512 * 1024;

fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/devices", get(identities::list))
        .route("/devices/query", post(query::run))
        .route(
            "/devices/{device}",
            get(identities::get)
                .put(identities::put)
                .delete(identities::remove),
        )
        .route("/devices/{device}/commands", delete(identities::purge))
        .route("/devices/{device}/modules", get(identities::modules))
        .route(
            "/devices/{device}/modules/{module}",
            get(identities::get_module)
                .put(identities::put_module)
                .delete(identities::remove_module),
        )
        .route(
            "/twins/{device}",
            get(twins::get).patch(twins::patch).put(twins::put),
        )
        .route(
            "/twins/{device}/modules/{module}",
            get(twins::get).patch(twins::patch).put(twins::put),
        )
        .route("/twins/{device}/methods", post(twins::call))
        .route(
            "/twins/{device}/modules/{module}/methods",
            post(twins::call),
        )
        .route("/statistics/devices", get(identities::statistics))
        .route("/statistics/service", get(identities::connected))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(hub)
}

async fn unknown() -> Problem {
    Problem::new(404, 404_000, "GenericNotFound", "No such operation.")
}
