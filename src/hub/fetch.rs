//! One HTTP/1.1 GET, for the token service: bounded, with `Connection: close`, no redirects.
//!
//! The answer is a secret: it is kept in memory that is wiped, and nothing of it is quoted in an
//! error. The caller sets the deadline.

use super::connect::{self, ConnectError};
use crate::config::{HubConfig, TokenUrl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

/// Head and body of an answer, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Fields of an answer.
const FIELDS_MAX: usize = 100;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// TCP or TLS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The exchange broke off.
    #[error("the token service broke off: {0}")]
    Io(#[from] std::io::Error),
    /// Not HTTP, or more than a token.
    #[error("the token service answered with {0}")]
    Answer(&'static str),
    /// Another status than 200.
    #[error("the token service answered with status {0}")]
    Status(u16),
}

/// Asks `url` for a token for `sr`, which is already percent-encoded.
pub async fn token(
    config: &HubConfig,
    url: &TokenUrl,
    sr: &str,
) -> Result<Zeroizing<String>, FetchError> {
    let mut stream = connect::wire(config, url.tls, &url.host, url.port).await?;
    let joint = if url.target.contains('?') { '&' } else { '?' };
    let request = format!(
        "GET {}{joint}sr={sr} HTTP/1.1\r\nHost: {}\r\nAccept: text/plain\r\n\
         User-Agent: iothub-gateway\r\nConnection: close\r\n\r\n",
        url.target,
        url.authority()
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Allocated once: growing would leave copies behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    loop {
        if let Some(body) = body(&answer, false)? {
            return text(&body);
        }
        if answer.len() == ANSWER_BYTES_MAX {
            return Err(FetchError::Answer("more than a token"));
        }
        let room = (ANSWER_BYTES_MAX - answer.len()) as u64;
        let read = (&mut stream).take(room).read_buf(&mut *answer).await;
        match read {
            Ok(1..) => {}
            // Many servers end TLS without saying so; what is complete is complete.
            Ok(0) | Err(_) if !answer.is_empty() => {
                let body = body(&answer, true)?;
                return text(&body.ok_or(FetchError::Answer("half an answer"))?);
            }
            Ok(0) => return Err(FetchError::Answer("nothing")),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The token in a body: white space around it and one pair of quotes are not part of it.
fn text(body: &[u8]) -> Result<Zeroizing<String>, FetchError> {
    let text = std::str::from_utf8(body).map_err(|_| FetchError::Answer("no text"))?;
    let text = text.trim();
    let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    Ok(Zeroizing::new(bare.unwrap_or(text).to_owned()))
}

/// The body of `answer` when it is complete; `ended`: no more will come.
fn body(answer: &[u8], ended: bool) -> Result<Option<Zeroizing<Vec<u8>>>, FetchError> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        let shown = answer.get(..5).unwrap_or(answer);
        if !b"HTTP/".starts_with(shown) {
            return Err(FetchError::Answer("something that is no HTTP"));
        }
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])
        .map_err(|_| FetchError::Answer("something that is no HTTP"))?;
    let rest = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    match status(lines.next().unwrap_or_default())? {
        200 => {}
        other => return Err(FetchError::Status(other)),
    }
    let (mut length, mut chunked) = (None, false);
    for (number, line) in lines.enumerate() {
        let (name, value) = line
            .split_once(':')
            .filter(|_| number < FIELDS_MAX)
            .ok_or(FetchError::Answer("a bad field"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let bytes: usize = value
                .parse()
                .map_err(|_| FetchError::Answer("a bad length"))?;
            if bytes > ANSWER_BYTES_MAX {
                return Err(FetchError::Answer("more than a token"));
            }
            length = Some(bytes);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(FetchError::Answer("an unknown transfer encoding"));
            }
        }
    }
    match (chunked, length) {
        (true, _) => unchunked(rest),
        (false, Some(length)) => Ok(rest.get(..length).map(|body| Zeroizing::new(body.to_vec()))),
        (false, None) => Ok(ended.then(|| Zeroizing::new(rest.to_vec()))),
    }
}

fn status(line: &str) -> Result<u16, FetchError> {
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default();
    let code = words.next().and_then(|code| code.parse().ok());
    match (version, code) {
        ("HTTP/1.1" | "HTTP/1.0", Some(code)) => Ok(code),
        _ => Err(FetchError::Answer("something that is no HTTP")),
    }
}

/// A chunked body when it is complete.
fn unchunked(mut rest: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, FetchError> {
    let bad = || FetchError::Answer("a bad chunk");
    let mut body = Zeroizing::new(Vec::with_capacity(rest.len()));
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return if rest.len() > 32 {
                Err(bad())
            } else {
                Ok(None)
            };
        };
        let size = std::str::from_utf8(&rest[..end]).map_err(|_| bad())?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .ok()
            .filter(|size| *size <= ANSWER_BYTES_MAX)
            .ok_or_else(bad)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = rest.get(..size + 2) else {
            return Ok(None);
        };
        let (data, line) = chunk.split_at(size);
        if line != b"\r\n" {
            body.zeroize();
            return Err(bad());
        }
        body.extend_from_slice(data);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::{body, text};

    fn complete(answer: &str) -> Option<String> {
        let body = body(answer.as_bytes(), true).unwrap()?;
        Some(text(&body).unwrap().to_string())
    }

    #[test]
    fn a_body_is_found_in_each_of_its_forms() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntoken and more",
            "HTTP/1.0 200 OK\r\n\r\ntoken\n",
            "HTTP/1.1 200 \r\ncontent-type: application/json\r\n\r\n\"token\"",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;x=y\r\ntok\r\n2\r\nen\r\n0\r\n\r\n",
        ] {
            assert_eq!(complete(answer).as_deref(), Some("token"), "{answer}");
        }
    }

    #[test]
    fn an_answer_is_not_taken_before_it_is_whole() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntoken",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ntoken\r\n0\r\n",
        ];
        for answer in answers {
            for cut in 0..answer.len() {
                let part = &answer.as_bytes()[..cut];
                assert!(matches!(body(part, false), Ok(None)), "cut at {cut}");
            }
            assert!(body(answer.as_bytes(), false).unwrap().is_some());
        }
    }

    #[test]
    fn other_answers_are_refused_in_words() {
        let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        for (answer, word) in [
            ("SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
            ("HTTP/2 200\r\n\r\n", "no HTTP"),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", "302"),
            ("HTTP/1.1 500 Oops\r\n\r\nsecret", "500"),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "field"),
            (long.as_str(), "field"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                "more than",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "encoding",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "chunk",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
                "chunk",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
                "chunk",
            ),
        ] {
            let error = body(answer.as_bytes(), true).unwrap_err().to_string();
            assert!(error.contains(word), "{answer}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(text(&[0xff, 0xfe]).is_err());
    }
}
