//! Who calls, with the token of a policy and what that policy may do, and what they send along.

use super::Problem;
use crate::emulator::config::Rights;
use crate::emulator::hub::Hub;
use crate::emulator::tokens::Grant;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, IF_MATCH};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A caller whose token was found good, and what it asks for.
pub(super) struct Caller {
    grant: Grant,
    path: Vec<String>,
    /// `If-Match` without its quotes.
    pub(super) if_match: Option<String>,
}

/// A right of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Service,
    RegistryRead,
    RegistryWrite,
}

impl Caller {
    /// Refuses unless the policy has `right` and the token's scope covers the path.
    pub(super) fn needs(&self, right: Right) -> Result<(), Problem> {
        let has = |rights: Rights| match right {
            Right::Service => rights.service_connect,
            Right::RegistryRead => rights.registry_read || rights.registry_write,
            Right::RegistryWrite => rights.registry_write,
        };
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        if self.grant.may(has, &path) {
            return Ok(());
        }
        let message = "Unauthorized: the policy or the scope of the token does not cover this.";
        Err(Problem::new(
            401,
            401_002,
            "IotHubUnauthorizedAccess",
            message,
        ))
    }
}

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let token = header(AUTHORIZATION).unwrap_or_default();
        let grant = hub.authority().verify(token, hub.now()).map_err(|error| {
            let name = "IotHubUnauthorizedAccess";
            Problem::new(401, 401_002, name, error.to_string())
        })?;
        let query = parts.uri.query().unwrap_or_default();
        let named = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .any(|(key, value)| key.eq_ignore_ascii_case("api-version") && !value.is_empty());
        if !named {
            let message = "The query has no api-version.";
            return Err(Problem::new(400, 400_005, "ArgumentNull", message));
        }
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let path = parts.uri.path().trim_start_matches('/');
        Ok(Self {
            grant,
            path: path.split('/').map(decoded).collect(),
            if_match: header(IF_MATCH).map(|etag| etag.trim_matches('"').to_owned()),
        })
    }
}

/// The JSON of a request, refused in the service's form.
pub(super) struct Input<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Hub>> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, hub).await.map_err(|_| {
            let message = "The body is too large, or did not arrive.";
            Problem::new(413, 413_001, "MessageTooLarge", message)
        })?;
        let read = serde_json::from_slice(&bytes);
        read.map(Input).map_err(|error| {
            let message = format!("The body is not what is expected: {error}");
            Problem::new(400, 400_006, "IotHubFormatError", message)
        })
    }
}
