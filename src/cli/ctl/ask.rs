//! One request to the admin port, and its answer or its problem.

use super::wire;
use crate::cli::exit::Exit;
use crate::config::AdminUrl;
use crate::config::secret::Secret;
use crate::config::secret_file;
use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::env::VarError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For a whole request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer: 1000 connections.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

const VARIABLE: &str = "IOTHUB_GATEWAY_TOKEN";
/// Asked when somebody else seems to answer.
pub(super) const IS_IT: &str = "is this its admin.bind?";

/// The token in `text`, of which `name` is the origin.
fn token_of(text: &str, name: &str) -> Result<Secret, String> {
    match text.trim() {
        "" => Err(format!("{name} is empty; put the token there, or unset it")),
        text if text.contains(|c: char| !c.is_ascii_graphic()) => Err(format!(
            "{name} holds more than a token; it must be one line without spaces"
        )),
        text => Ok(text.into()),
    }
}

/// Where to ask, and as whom.
pub(super) struct Ask {
    admin: AdminUrl,
    /// Trusted beside the system's roots.
    ca: Option<PathBuf>,
    token: Option<Secret>,
}

/// Why there is no answer.
pub(super) struct Failure {
    text: String,
    /// What the process ends with.
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>, exit: Exit) -> Self {
        let text = text.into();
        Self { text, exit }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A path segment or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Ask {
    /// Reads the token.
    ///
    /// # Errors
    /// What is wrong with its file.
    pub(super) fn new(
        admin: AdminUrl,
        ca: Option<PathBuf>,
        token: Option<&Path>,
    ) -> Result<Self, String> {
        let token = match token {
            Some(path) => {
                let text = secret_file::read(path, false)?;
                Some(token_of(&text, &path.display().to_string())?)
            }
            None => match std::env::var(VARIABLE) {
                Ok(text) => Some(token_of(&text, VARIABLE)?),
                Err(VarError::NotPresent) => None,
                Err(VarError::NotUnicode(_)) => return Err(format!("{VARIABLE} is no text")),
            },
        };
        Ok(Self { admin, ca, token })
    }

    /// A question.
    pub(super) async fn get(&self, path: &str) -> Result<String, Failure> {
        self.order("GET", path, "").await
    }

    /// A question or an order: its answer.
    pub(super) async fn order(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<String, Failure> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        let late = || {
            let text = format!("{}: no answer within 10 s; {IS_IT}", self.admin);
            Failure::new(text, Exit::Unavailable)
        };
        let (status, text) = asked.unwrap_or_else(|_| Err(late()))?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let Some(detail) = problem["detail"].as_str() else {
            let admin = &self.admin;
            let text = format!("{admin}: answers {status}, and not as a gateway does; {IS_IT}");
            return Err(Failure::new(text, Exit::Unavailable));
        };
        Err(match status {
            401 | 403 => {
                let text = format!("{detail}; give the token by --token-file");
                Failure::new(text, Exit::NoPermission)
            }
            _ => Failure::new(detail, Exit::No),
        })
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String), Failure> {
        let admin = &self.admin;
        let broken = |error: &dyn fmt::Display| {
            Failure::new(format!("{admin}: {error}; {IS_IT}"), Exit::Unavailable)
        };
        let stream = wire::connect(admin, self.ca.as_deref()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let serving = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, admin.authority())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let bearer = [b"Bearer ", token.expose()].concat();
            let mut value =
                header::HeaderValue::from_bytes(&bearer).map_err(|error| broken(&error))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Body::from(body.to_owned()))
            .map_err(|error| broken(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let answer = to_bytes(Body::new(response.into_body()), ANSWER_MAX).await;
        serving.abort();
        let answer = answer.map_err(|error| broken(&error))?;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }
}
