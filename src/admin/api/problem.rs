//! What went wrong with a request, as RFC 9457 and RFC 6750 have it.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};

/// A problem document.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    /// `WWW-Authenticate` or `Allow`.
    header: Option<(header::HeaderName, String)>,
}

const REALM: &str = "Bearer realm=\"iothub-gateway\"";

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            title,
            detail: detail.into(),
            header: None,
        }
    }

    fn challenged(self, error: &str) -> Self {
        let challenge = match error {
            "" => REALM.to_owned(),
            error => format!("{REALM}, error=\"{error}\""),
        };
        Self {
            header: Some((header::WWW_AUTHENTICATE, challenge)),
            ..self
        }
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let title = "Method not allowed";
        let detail = format!("this path takes {allow}");
        Self {
            header: Some((header::ALLOW, allow.to_owned())),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, title, detail)
        }
    }

    pub(super) fn path() -> Self {
        let detail = "no such path; /api/v1/openapi.json describes those there are";
        Self::new(StatusCode::NOT_FOUND, "Not found", detail)
    }

    pub(super) fn device(id: &str) -> Self {
        let detail = format!("{id} is not connected, not kept out, and nothing is known of it");
        Self::new(StatusCode::NOT_FOUND, "Unknown device", detail)
    }

    pub(super) fn not_connected(id: &str) -> Self {
        let detail = format!("{id} is not connected here");
        Self::new(StatusCode::NOT_FOUND, "Not connected", detail)
    }

    pub(super) fn not_blocked(id: &str) -> Self {
        let detail = format!("{id} is not kept out");
        Self::new(StatusCode::NOT_FOUND, "Not blocked", detail)
    }

    pub(super) fn no_device(id: &str) -> Self {
        let detail = format!("{id} is no device id, nor device/module");
        Self::new(StatusCode::NOT_FOUND, "No device", detail)
    }

    pub(super) fn watched() -> Self {
        let detail = "as many devices as limits.watches allows are watched already";
        Self::new(StatusCode::CONFLICT, "No room", detail)
    }

    pub(super) fn full() -> Self {
        let detail = "as many devices as limits.blocks allows are kept out already";
        Self::new(StatusCode::CONFLICT, "No room", detail)
    }

    pub(super) fn no_log() -> Self {
        let detail = "this process does not log by itself";
        Self::new(StatusCode::CONFLICT, "No log", detail)
    }

    pub(super) fn body(form: &str, why: &str) -> Self {
        let detail = format!("the body must be {form}: {why}");
        Self::new(StatusCode::BAD_REQUEST, "Bad body", detail)
    }

    pub(super) fn no_body() -> Self {
        let detail = "this order takes no body; send none";
        Self::new(StatusCode::BAD_REQUEST, "Bad body", detail)
    }

    pub(super) fn query(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad query", why)
    }

    pub(super) fn too_large() -> Self {
        let detail = "a body has at most 4096 bytes and comes in time";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Body too large", detail)
    }

    pub(super) fn authorization() -> Self {
        let detail = "send one header `Authorization: Bearer TOKEN`";
        let problem = Self::new(StatusCode::BAD_REQUEST, "Bad Authorization", detail);
        problem.challenged("invalid_request")
    }

    pub(super) fn challenge() -> Self {
        let detail = "send `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, "Token needed", detail).challenged("")
    }

    pub(super) fn token() -> Self {
        let detail = "this is neither admin.read_token nor admin.operate_token";
        Self::new(StatusCode::UNAUTHORIZED, "Wrong token", detail).challenged("invalid_token")
    }

    pub(super) fn foreign() -> Self {
        let detail = "without a token only requests for a loopback host, and none from other \
                      pages, are answered; set admin.read_token, or ask 127.0.0.1";
        Self::new(StatusCode::FORBIDDEN, "Not for this host", detail)
    }

    pub(super) fn scope() -> Self {
        let detail = "orders need admin.operate_token; this is the token for reading";
        let problem = Self::new(StatusCode::FORBIDDEN, "Not for this token", detail);
        problem.challenged("insufficient_scope")
    }

    pub(super) fn no_token(key: &str) -> Self {
        let detail = format!("nobody may do this until {key} is set in the configuration");
        Self::new(StatusCode::FORBIDDEN, "Not allowed", detail).challenged("insufficient_scope")
    }

    pub(in crate::admin) fn without_tls() -> Self {
        let detail = "in clear this address answers /live, /ready and /metrics alone; set \
                      admin.tls = { cert, key } and ask by https://, or ask on the gateway's own \
                      machine";
        Self::new(StatusCode::FORBIDDEN, "Not without TLS", detail)
    }

    pub(in crate::admin) fn in_clear() -> Self {
        let detail = "this port speaks TLS; ask by https://";
        Self::new(StatusCode::BAD_REQUEST, "Not without TLS", detail)
    }

    pub(in crate::admin) fn into_response(self) -> Response<Body> {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = crate::admin::text(self.status, kind, body.to_string());
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
