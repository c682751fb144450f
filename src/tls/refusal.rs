//! How a connection is refused: an alert of our own, and a close the client can read.
//!
//! A socket closed with unread bytes in it is reset, and the reset takes the alert with it. So
//! the write side is shut first and what the client still sends is read and thrown away, within
//! bounds: a refused peer costs at most [`LINGER`] and holds its handshake permit meanwhile.

use crate::telemetry::log::plain;
use crate::telemetry::reason::Reason;
use crate::tls::HandshakeError;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest time a refused connection stays open.
const LINGER: Duration = Duration::from_millis(250);
/// Bytes of a refused connection that are read and thrown away.
const LINGER_BYTES: usize = 64 * 1024;

/// A fatal alert this side sends before any keys exist (RFC 8446 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// Nothing in common.
    HandshakeFailure = 40,
    /// A binder that does not verify; whose identity does not matter.
    IllegalParameter = 47,
    /// Not a ClientHello.
    DecodeError = 50,
    /// Below TLS 1.2.
    ProtocolVersion = 70,
}

impl Alert {
    /// The alert as a plaintext record.
    const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Why a handshake ended; `mod.rs` adds the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Metric label.
    pub reason: Reason,
    /// `psk`, `x509` or `none`.
    pub credential: &'static str,
    /// One printable line.
    pub text: String,
    /// Whom it concerns.
    pub claimed: Claimed,
}

/// Whom a client claimed to be in a handshake that failed. Nothing of it was proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody, or it was not read.
    #[default]
    Nobody,
    /// A PSK identity.
    Psk(Box<str>),
    /// A certificate, DER.
    Certificate(Box<[u8]>),
}

impl Refusal {
    /// Builds one; `text` must hold no secret and no raw bytes of the peer.
    pub fn new(reason: Reason, credential: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            credential,
            text: text.into(),
            claimed: Claimed::Nobody,
        }
    }

    /// With the PSK identity it is about; bytes that are no text name nobody.
    #[must_use]
    pub fn of_psk(mut self, identity: &[u8]) -> Self {
        match str::from_utf8(identity) {
            Ok("") | Err(_) => {}
            Ok(identity) => self.claimed = Claimed::Psk(identity.into()),
        }
        self
    }

    /// What the listener is told; `version` as far as it was known.
    pub fn into_error(self, version: &'static str) -> HandshakeError {
        let version = if self.reason == Reason::TlsVersion {
            "none"
        } else {
            version
        };
        let Self {
            reason,
            credential,
            text,
            claimed,
        } = self;
        HandshakeError {
            reason,
            credential,
            version,
            text,
            claimed,
        }
    }
}

/// Sends `alert`, if any, then closes so that the client can read what was sent.
pub async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, alert: Option<Alert>) {
    let polite = async {
        if let Some(alert) = alert {
            stream.write_all(&alert.record()).await?;
        }
        stream.shutdown().await?;
        let mut scratch = [0_u8; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            let count = stream.read(&mut scratch).await?;
            if count == 0 {
                break;
            }
            left = left.saturating_sub(count);
        }
        std::io::Result::Ok(())
    };
    // Whatever goes wrong here, the connection is over.
    let _ = tokio::time::timeout(LINGER, polite).await;
}

/// Text of a peer, escaped and capped, fit for a log line.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let mut end = bytes.len().min(SHOWN);
    // Not within a character.
    while end > 0 && bytes.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    let mut text = String::new();
    for chunk in bytes.get(..end).unwrap_or_default().utf8_chunks() {
        for c in chunk.valid().chars() {
            match u8::try_from(c) {
                Ok(b'\'') => text.push('\''),
                Ok(byte) if byte.is_ascii() => {
                    text.extend(byte.escape_ascii().map(char::from));
                }
                _ => text.push_str(&plain(c.encode_utf8(&mut [0; 4]))),
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    let more = if end < bytes.len() { "…" } else { "" };
    format!("\"{text}\"{more}")
}

#[cfg(test)]
mod tests {
    use super::{Alert, farewell, printable};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn what_a_peer_sent_cannot_break_a_log_line() {
        assert_eq!(printable(b"a\n\x1b[31m"), r#""a\n\x1b[31m""#);
        assert_eq!(printable("Дверь it's".as_bytes()), "\"Дверь it's\"");
        assert_eq!(printable("\u{202e}".as_bytes()), r#""\u{202e}""#);
        assert_eq!(printable(b"\xd0 \"\xff"), r#""\xd0 \"\xff""#);
        let cut = printable("Д".repeat(100).as_bytes());
        assert_eq!(cut, format!("\"{}\"…", "Д".repeat(32)));
        let odd = printable(format!("x{}", "Д".repeat(100)).as_bytes());
        assert_eq!(odd, format!("\"x{}\"…", "Д".repeat(31)));
        assert!(printable(&[b'x'; 1000]).chars().count() <= 67);
    }

    #[tokio::test]
    async fn the_alert_arrives_although_the_client_kept_talking() {
        let (mut client, server) = tokio::io::duplex(4096);
        client.write_all(&[0; 2000]).await.unwrap();
        let closing = tokio::spawn(farewell(server, Some(Alert::HandshakeFailure)));
        let mut alert = [0; 7];
        client.read_exact(&mut alert).await.unwrap();
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 40]);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_never_closes_is_left() {
        let (_client, server) = tokio::io::duplex(64);
        let bound = std::time::Duration::from_secs(5);
        tokio::time::timeout(bound, farewell(server, None))
            .await
            .unwrap();
    }
}
