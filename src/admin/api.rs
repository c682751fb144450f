//! `/api/v1`: the operators' questions and orders, HTTP and JSON.
//!
//! Described by `openapi.json`, which is served beside it. Who reads needs the read token where
//! one is configured, and a loopback address where none is; an order always needs the operate
//! token (RFC 6750). What comes in clear from another machine never gets here (`way`). Errors are problem documents (RFC 9457). Knows the gateway only as an
//! [`Operator`], and keeps nothing between two requests.

pub(super) mod problem;
pub mod view;

use crate::config::secret::Secret;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use problem::Problem;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use view::{Block, Blocked, Filter, Operator, SetLog};

/// Where it lives.
pub const ROOT: &str = "/api/v1/";

/// Bytes of a request's body.
const BODY_MAX: usize = 4 * 1024;
/// Shortest and longest block of a device.
const BLOCK_MIN: Duration = Duration::from_secs(1);
const BLOCK_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Largest number that every reader of JSON takes as it is (RFC 8259 §6).
const AFTER_MAX: u64 = (1 << 53) - 1;
/// Connections of one page, unless asked for fewer.
const PAGE: usize = 100;
/// Most connections of one page.
const PAGE_MAX: usize = 1000;

/// What bodies look like.
const BLOCK_FORM: &str = "{\"seconds\": N}";
const LOG_FORM: &str = "{\"level\": \"error\", \"warn\", \"info\", …}";

const OPENAPI: &str = include_str!("api/openapi.json");

/// Who may ask.
#[derive(Clone, Default)]
pub struct Tokens {
    /// May read.
    pub read: Option<Secret>,
    /// May read and give orders.
    pub operate: Option<Secret>,
    /// Requests come from this machine alone.
    pub loopback: bool,
}

/// The API.
pub struct Api {
    operator: Arc<dyn Operator>,
    tokens: Tokens,
}

/// What a request needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Read,
    Operate,
}

impl Role {
    /// What this request needs.
    fn of(method: &Method, parts: &[&str]) -> Self {
        match parts {
            ["reload" | "drain"] | ["devices", _, "connection" | "block"] => Self::Operate,
            ["log"] if *method != Method::GET => Self::Operate,
            _ => Self::Read,
        }
    }
}

type Answer = Result<Response<Body>, Problem>;

impl Api {
    /// An API over `operator`.
    #[must_use]
    pub fn new(operator: Arc<dyn Operator>, tokens: Tokens) -> Self {
        Self { operator, tokens }
    }

    /// Answers a request whose path begins with [`ROOT`].
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let answer = self.route(request).await;
        answer.unwrap_or_else(Problem::into_response)
    }

    async fn route(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix(ROOT).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let query = head.uri.query().unwrap_or_default();
        let method = &head.method;
        let allowed = self.may(&head.headers, Role::of(&head.method, &parts));
        let known = |methods: &'static str| match methods.split(", ").any(|m| m == method.as_str())
        {
            true => allowed.as_ref().map(drop).map_err(Clone::clone),
            false => Err(Problem::method(methods)),
        };
        match parts[..] {
            ["openapi.json"] => described(method),
            ["connections"] => {
                known("GET")?;
                ok(&self.operator.connections(&filter(query)?))
            }
            ["causes"] => {
                known("GET")?;
                ok(&self.operator.latest_causes())
            }
            ["overview"] => {
                known("GET")?;
                ok(&self.operator.overview())
            }
            ["hub"] => {
                known("GET")?;
                ok(&self.operator.hub())
            }
            ["devices", id] => {
                known("GET")?;
                self.device(id)
            }
            ["devices", id, "causes"] => {
                known("GET")?;
                ok(&self.operator.causes(&decoded(id)?))
            }
            ["devices", id, "events"] => {
                known("GET")?;
                self.events(&decoded(id)?, query)
            }
            ["devices", id, "connection"] => {
                known("DELETE")?;
                nothing(body).await?;
                self.close(id)
            }
            ["devices", id, "block"] => {
                known("PUT, DELETE")?;
                self.block(method, &decoded(id)?, body).await
            }
            ["log"] => {
                known("GET, PUT")?;
                self.log(method, body).await
            }
            [order @ ("reload" | "drain")] => {
                known("POST")?;
                nothing(body).await?;
                match order {
                    "reload" => self.operator.reload(),
                    _ => self.operator.drain(),
                }
                Ok(accepted())
            }
            _ => Err(Problem::path()),
        }
    }

    fn device(&self, id: &str) -> Answer {
        let device = self.operator.device(&decoded(id)?);
        ok(&device.ok_or_else(|| Problem::device(id))?)
    }

    fn close(&self, id: &str) -> Answer {
        match self.operator.close(&decoded(id)?) {
            true => Ok(empty()),
            false => Err(Problem::not_connected(id)),
        }
    }

    fn events(&self, id: &str, query: &str) -> Answer {
        let after = match query.strip_prefix("after=") {
            Some(after) => {
                let after = after.parse().ok().filter(|after| *after <= AFTER_MAX);
                after.ok_or_else(|| Problem::query("after is a number of an answer before"))?
            }
            None if query.is_empty() => 0,
            None => return Err(Problem::query("known is after")),
        };
        let events = self.operator.events(id, after);
        ok(&events.ok_or_else(Problem::watched)?)
    }

    async fn log(&self, method: &Method, body: Body) -> Answer {
        if *method == Method::GET {
            return ok(&self.operator.log());
        }
        let wanted: SetLog = serde_json::from_slice(&whole(body).await?)
            .map_err(|error| Problem::body(LOG_FORM, &error.to_string()))?;
        match self.operator.set_log(wanted.level) {
            true => Ok(empty()),
            false => Err(Problem::no_log()),
        }
    }

    async fn block(&self, method: &Method, id: &str, body: Body) -> Answer {
        if *method == Method::DELETE {
            nothing(body).await?;
            return match self.operator.unblock(id) {
                true => Ok(empty()),
                false => Err(Problem::not_blocked(id)),
            };
        }
        let block: Block = serde_json::from_slice(&whole(body).await?)
            .map_err(|error| Problem::body(BLOCK_FORM, &error.to_string()))?;
        let time = Duration::try_from_secs_f64(block.seconds).ok();
        let time = time.filter(|time| (BLOCK_MIN..=BLOCK_MAX).contains(time));
        let time =
            time.ok_or_else(|| Problem::body(BLOCK_FORM, "seconds are 1 to 2592000 (30 days)"))?;
        match self.operator.block(id, time) {
            Blocked::Done => Ok(empty()),
            Blocked::NoDevice => Err(Problem::no_device(id)),
            Blocked::Full => Err(Problem::full()),
        }
    }

    /// Whether the bearer of this request may do what `role` may.
    fn may(&self, headers: &HeaderMap, role: Role) -> Result<(), Problem> {
        let Tokens {
            read,
            operate,
            loopback,
        } = &self.tokens;
        let bearer = bearer(headers)?;
        let is = |token: &Option<Secret>| {
            let (Some(token), Some(bearer)) = (token, &bearer) else {
                return false;
            };
            token.ct_eq(bearer.as_bytes())
        };
        // Both are compared, whichever fits.
        let (operates, reads) = (is(operate), is(read));
        let configured = match role {
            Role::Read => read.is_some() || (operate.is_some() && !loopback),
            Role::Operate => operate.is_some(),
        };
        match (role, &bearer) {
            _ if operates => Ok(()),
            (Role::Read, _) if reads => Ok(()),
            (Role::Read, None) if !configured && *loopback => match is_local(headers) {
                true => Ok(()),
                false => Err(Problem::foreign()),
            },
            (Role::Operate, _) if !configured => Err(Problem::no_token("admin.operate_token")),
            (Role::Read, _) if !configured && !loopback => {
                Err(Problem::no_token("admin.read_token"))
            }
            (Role::Operate, Some(_)) if reads => Err(Problem::scope()),
            (_, Some(_)) => Err(Problem::token()),
            (_, None) => Err(Problem::challenge()),
        }
    }
}

/// Whether a request without a token was made for this machine: a page elsewhere can make a browser
/// call a loopback port, and by rebinding its name even read the answer; neither knows our address
/// as host.
fn is_local(headers: &HeaderMap) -> bool {
    let host = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        let scheme = ["http://", "https://"];
        let value = scheme
            .iter()
            .find_map(|scheme| value.strip_prefix(scheme))
            .unwrap_or(value);
        Some(
            value
                .rsplit_once(':')
                .map_or(value, |(host, _)| host)
                .to_owned(),
        )
    };
    let is_ours = |host: &String| match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    };
    let named = host(header::HOST).is_some_and(|host| is_ours(&host));
    named
        && headers
            .get(header::ORIGIN)
            .is_none_or(|_| host(header::ORIGIN).is_some_and(|o| is_ours(&o)))
}

/// The token of `Authorization: Bearer …`; nothing without that header.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(header::AUTHORIZATION) {
            true => Err(Problem::authorization()),
            false => Ok(None),
        };
    };
    let text = value.to_str().map_err(|_| Problem::authorization())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => Err(Problem::authorization()),
    }
}

/// `limit`, `after`, `device`, `credential`, `listener`, `source` of a query.
fn filter(query: &str) -> Result<Filter, Problem> {
    let mut filter = Filter {
        limit: PAGE,
        ..Filter::default()
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(&value.replace('+', " "))?;
        match key {
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n));
                filter.limit = limit.ok_or_else(|| Problem::query("limit must be 1 to 1000"))?;
            }
            "after" => filter.after = Some(value),
            "device" => filter.device = Some(value),
            "credential" => filter.credential = Some(value),
            "listener" => filter.listener = Some(value),
            "source" => filter.source = Some(value),
            _ => {
                let known = "known are limit, after, device, credential, listener, source";
                return Err(Problem::query(known));
            }
        }
    }
    Ok(filter)
}

fn decoded(text: &str) -> Result<String, Problem> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned())
        .map_err(|_| Problem::query("the path and the query are percent-encoded UTF-8"))
}

/// The description; whoever can reach the port may read it.
fn described(method: &Method) -> Answer {
    match *method == Method::GET {
        true => Ok(json(StatusCode::OK, OPENAPI.to_owned())),
        false => Err(Problem::method("GET")),
    }
}

/// Refuses a body where none is taken, at its first byte.
async fn nothing(body: Body) -> Result<(), Problem> {
    let nothing = to_bytes(body, 0).await;
    nothing.map(drop).map_err(|_| Problem::no_body())
}

async fn whole(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, BODY_MAX)
        .await
        .map_err(|_| Problem::too_large())
}

fn ok(value: &impl Serialize) -> Answer {
    // Plain structures, so there is nothing that could fail to be written as JSON.
    let body = serde_json::to_string(value).unwrap_or_default();
    Ok(json(StatusCode::OK, body))
}

fn json(code: StatusCode, body: String) -> Response<Body> {
    super::text(code, [(header::CONTENT_TYPE, "application/json")], body)
}

fn empty() -> Response<Body> {
    super::text(
        StatusCode::NO_CONTENT,
        [(header::CONTENT_TYPE, super::TEXT)],
        "",
    )
}

fn accepted() -> Response<Body> {
    json(StatusCode::ACCEPTED, "{}".to_owned())
}
