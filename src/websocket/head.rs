//! The HTTP request in front of a WebSocket, and the answer to it (RFC 6455 §4.2).

use super::{PATHS, PROTOCOL};
use crate::telemetry::reason::Reason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// Header fields of one request; a browser sends some twenty.
pub const FIELDS_MAX: usize = 64;

/// What a server proves it understood the key with (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request is no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its word in logs and metrics.
    pub reason: Reason,
    /// One sentence, for the log and the client.
    pub text: &'static str,
    status: &'static str,
}

const fn refused(reason: Reason, status: &'static str, text: &'static str) -> Refused {
    Refused {
        reason,
        text,
        status,
    }
}

/// The request did not come whole in time.
pub const LATE: Refused = refused(
    Reason::UpgradeTimeout,
    "408 Request Timeout",
    "no whole request within limits.connect_timeout",
);

/// The request is longer than the bound for it.
pub const TOO_LARGE: Refused = refused(
    Reason::UpgradeTooLarge,
    "431 Request Header Fields Too Large",
    "the request is larger than limits.connect_bytes or has more than 64 fields",
);

/// What began as a request goes on otherwise.
pub const NO_HTTP: Refused = malformed("the first bytes are neither MQTT nor HTTP");

/// Bytes follow the request that may only come after its answer (RFC 6455 §4.1).
pub const TOO_EARLY: Refused = malformed("bytes follow the request before it was answered");

const fn malformed(text: &'static str) -> Refused {
    refused(Reason::UpgradeMalformed, "400 Bad Request", text)
}

impl Refused {
    /// The whole answer, after which the connection is closed.
    #[must_use]
    pub fn answer(&self) -> String {
        let more = match self.status.get(..3) {
            Some("426") => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            Some("405") => "Allow: GET\r\n",
            _ => "",
        };
        format!(
            "HTTP/1.1 {}\r\n{more}Connection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{}\n",
            self.status,
            self.text.len() + 1,
            self.text
        )
    }
}

/// What an HTTP request begins with; no MQTT packet a client may begin with does.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    b"PRI ",
];

/// Whether the first bytes begin an HTTP request, as far as they are there.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    let fits = |method: &&[u8]| {
        let count = bytes.len().min(method.len());
        bytes.get(..count) == method.get(..count)
    };
    !bytes.is_empty() && METHODS.iter().any(fits)
}

/// The length of the request at the front of `bytes` once it is whole, its empty line included.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    end.map(|at| at + 4)
}

/// The answer to a whole request.
///
/// # Errors
/// Why it is none that is served.
pub fn upgrade(request: &[u8]) -> Result<String, Refused> {
    let request = std::str::from_utf8(request)
        .map_err(|_| malformed("the request holds bytes that are not UTF-8"))?;
    let mut lines = request.trim_end_matches("\r\n\r\n").split("\r\n");
    let line = lines.next().unwrap_or_default();
    let target = target(line)?;
    let fields = Fields::read(lines)?;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    fields.host()?;
    fields.asks()?;
    let path = path.replace("%24", "$");
    if !PATHS.contains(&&*path) {
        return Err(refused(
            Reason::UpgradePath,
            "404 Not Found",
            "nothing is served here; MQTT is at /$iothub/websocket and /mqtt",
        ));
    }
    let key = fields.key()?;
    let spoken = fields.list("sec-websocket-protocol").any(|p| p == PROTOCOL);
    if !spoken {
        return Err(refused(
            Reason::UpgradeProtocol,
            "400 Bad Request",
            "Sec-WebSocket-Protocol does not name mqtt",
        ));
    }
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n",
        accept(key)
    ))
}

/// What proves to a client that its key was understood.
#[must_use]
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The target of a request line that can be an upgrade's.
fn target(line: &str) -> Result<&str, Refused> {
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return Err(malformed("the request line is not method, target, version"));
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("the target holds control characters"));
    }
    match version {
        "HTTP/1.1" => {}
        _ => {
            return Err(refused(
                Reason::UpgradeMalformed,
                "505 HTTP Version Not Supported",
                "WebSocket needs HTTP/1.1",
            ));
        }
    }
    match method {
        "GET" => Ok(target),
        _ => Err(refused(
            Reason::UpgradeNone,
            "405 Method Not Allowed",
            "this port speaks MQTT, and MQTT over WebSocket by GET",
        )),
    }
}

/// Header fields in their order, values trimmed.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn read(lines: impl Iterator<Item = &'a str>) -> Result<Self, Refused> {
        let mut fields = Vec::new();
        for line in lines {
            if fields.len() == FIELDS_MAX {
                return Err(TOO_LARGE);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or(malformed("a header field without a colon"))?;
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(malformed("the name of a header field is no token"));
            }
            let value = value.trim_matches([' ', '\t']);
            if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(malformed("a header field holds control characters"));
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self
            .0
            .iter()
            .filter(move |f| f.0.eq_ignore_ascii_case(name));
        named.map(|field| field.1)
    }

    /// The items of a field that is a list.
    fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let items = self.all(name).flat_map(|value| value.split(','));
        items.map(|item| item.trim_matches([' ', '\t']))
    }

    /// A field that comes once.
    fn one(&self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    fn host(&self) -> Result<(), Refused> {
        let one = self.one("host");
        one.ok_or(malformed("not one Host field (RFC 9112 §3.2)"))?;
        let has_body = self.all("transfer-encoding").next().is_some()
            || self.all("content-length").any(|length| length != "0");
        match has_body {
            true => Err(malformed("the request has a body")),
            false => Ok(()),
        }
    }

    /// Whether a WebSocket of the one version is asked for.
    fn asks(&self) -> Result<(), Refused> {
        let has = |name, word: &str| self.list(name).any(|item| item.eq_ignore_ascii_case(word));
        if !has("upgrade", "websocket") || !has("connection", "upgrade") {
            return Err(refused(
                Reason::UpgradeNone,
                "426 Upgrade Required",
                "an HTTP request that asks for no WebSocket; this port speaks MQTT",
            ));
        }
        if self.one("sec-websocket-version") != Some("13") {
            return Err(refused(
                Reason::UpgradeVersion,
                "426 Upgrade Required",
                "Sec-WebSocket-Version is not 13",
            ));
        }
        Ok(())
    }

    /// The key: 16 bytes in base64.
    fn key(&self) -> Result<&'a str, Refused> {
        let key = self.one("sec-websocket-key").unwrap_or_default();
        match STANDARD.decode(key) {
            Ok(bytes) if bytes.len() == 16 => Ok(key),
            _ => Err(malformed("Sec-WebSocket-Key is not 16 bytes in base64")),
        }
    }
}
