//! The little of an HTTP/1.1 client that reading the emulator's ledger takes: GET over one kept
//! connection, on loopback, answers with a Content-Length.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Largest head of an answer, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Largest body of an answer, bytes.
const BODY_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an HTTP server on this machine.
pub struct Client {
    stream: TcpStream,
    host: String,
    prefix: String,
    input: Vec<u8>,
}

impl Client {
    /// Connects to the server of `url`, `http://HOST:PORT[/PREFIX]`.
    ///
    /// # Errors
    /// A sentence.
    pub async fn open(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url:?} must begin with http://"))?;
        let (host, prefix) = match rest.split_once('/') {
            Some((host, prefix)) => (host, prefix.trim_end_matches('/')),
            None => (rest, ""),
        };
        let found = tokio::net::lookup_host(host).await;
        let addresses: Vec<SocketAddr> = found
            .map_err(|error| format!("{url:?}: {error}; write http://127.0.0.1:PORT"))?
            .filter(|address| address.ip().is_loopback())
            .collect();
        if addresses.is_empty() {
            return Err(format!("{url:?} is not on this machine (loopback)"));
        }
        let stream = TcpStream::connect(addresses.as_slice())
            .await
            .map_err(|error| format!("{url:?}: {error}; is the emulator running?"))?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("/{prefix}"),
            },
            input: Vec::new(),
        })
    }

    /// The body of `GET path`.
    ///
    /// # Errors
    /// A sentence, for anything but a 200.
    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        match timeout(PATIENCE, self.exchange(path)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(problem)) => Err(format!("GET http://{}{path}: {problem}", self.host)),
            Err(_) => Err(format!("GET http://{}{path}: no answer in time", self.host)),
        }
    }

    async fn exchange(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let request = format!(
            "GET {}{path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n",
            self.prefix, self.host
        );
        let written = self.stream.write_all(request.as_bytes()).await;
        written.map_err(|error| error.to_string())?;
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.input.len() > HEAD_MAX {
                return Err("the answer's head has no end".to_owned());
            }
            self.read().await?;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        let length = content_length(&head)?;
        while self.input.len() < end + length {
            self.read().await?;
        }
        let rest = self.input.split_off(end + length);
        let body = std::mem::replace(&mut self.input, rest).split_off(end);
        match head.split(' ').nth(1) {
            Some("200") => Ok(body),
            status => {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                Err(format!("status {}: {text}", status.unwrap_or("none")))
            }
        }
    }

    async fn read(&mut self) -> Result<(), String> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn content_length(head: &str) -> Result<usize, String> {
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim())
    });
    match value.and_then(|value| value.parse().ok()) {
        Some(length) if length <= BODY_MAX => Ok(length),
        Some(_) => Err(format!("the answer is larger than {BODY_MAX} bytes")),
        None => Err("the answer has no Content-Length".to_owned()),
    }
}
