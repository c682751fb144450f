//! Reads `tests/data/websocket`; the live port is held against the same cases.

use serde::Deserialize;

/// What a client sends after the upgrade, and what comes of it.
pub(crate) struct Frames {
    pub(crate) name: String,
    pub(crate) clause: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) pong: Option<Vec<u8>>,
    /// The close code, and the word where a rule was broken.
    pub(crate) end: Option<String>,
}

/// A request and its answer.
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
struct FrameFile {
    case: Vec<FrameCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameCase {
    name: String,
    clause: String,
    bytes: String,
    data: String,
    pong: Option<String>,
    end: Option<String>,
}

#[derive(Deserialize)]
struct RequestFile {
    request: Vec<String>,
    case: Vec<RequestCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestCase {
    name: String,
    #[serde(rename = "clause")]
    _clause: String,
    line: Option<String>,
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    with: Vec<String>,
    status: u16,
    #[serde(default)]
    reason: String,
}

/// Bytes as the README of the folder writes them.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let one = |word: &str| -> Vec<u8> {
        if let Some(text) = word.strip_prefix('\'') {
            return text.trim_end_matches('\'').into();
        }
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let pairs = (0..digits.len()).step_by(2);
        let bytes = pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex"));
        bytes
            .collect::<Vec<_>>()
            .repeat(times.parse().expect("a number"))
    };
    text.split_whitespace().flat_map(one).collect()
}

/// `frames.toml`
pub(crate) fn frames() -> Vec<Frames> {
    let text = include_str!("../../../tests/data/websocket/frames.toml");
    let file: FrameFile = toml::from_str(text).expect("frames.toml");
    let read = file.case.into_iter().map(|case| Frames {
        bytes: bytes(&case.bytes),
        data: bytes(&case.data),
        pong: case.pong.as_deref().map(bytes),
        name: case.name,
        clause: case.clause,
        end: case.end,
    });
    read.collect()
}

/// `requests.toml`
pub(crate) fn requests() -> Vec<Request> {
    let text = include_str!("../../../tests/data/websocket/requests.toml");
    let file: RequestFile = toml::from_str(text).expect("requests.toml");
    let build = |case: RequestCase| {
        let mut lines = file.request.clone();
        lines[0] = case.line.unwrap_or(lines[0].clone());
        lines.retain(|line| {
            !case
                .without
                .iter()
                .any(|w| line.starts_with(&format!("{w}:")))
        });
        lines.extend(case.with);
        Request {
            name: case.name,
            bytes: format!("{}\r\n\r\n", lines.join("\r\n")).into(),
            status: case.status,
            reason: case.reason,
        }
    };
    file.case.into_iter().map(build).collect()
}
