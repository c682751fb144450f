//! The first bytes of a connection: a ClientHello, or the name of what came instead.

use crate::telemetry::reason::Reason;
use crate::tls::hello::{self, Hello, MAX_HELLO_BYTES, Parsed};
use crate::tls::refusal::{Alert, Refusal};
use crate::tls::x509;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Reads until a whole ClientHello is in `raw`, or nothing that can become one.
pub async fn read_hello(
    tcp: &mut TcpStream,
    raw: &mut Vec<u8>,
) -> Result<Hello, (Refusal, Option<Alert>)> {
    let refuse = |reason, alert, text: &str| Err((Refusal::new(reason, "none", text), alert));
    loop {
        let mut room = (&mut *tcp).take((MAX_HELLO_BYTES - raw.len()) as u64);
        match room.read_buf(raw).await {
            Ok(0) => {
                return refuse(
                    Reason::PeerClosed,
                    None,
                    "the client closed before its ClientHello",
                );
            }
            Ok(_) => {}
            Err(error) => return Err((x509::explain_io(&error), None)),
        }
        if raw.first().is_some_and(|byte| *byte != 22) {
            let (reason, text) = name_protocol(raw);
            return refuse(reason, None, text);
        }
        match hello::parse(raw) {
            Parsed::Partial => {}
            Parsed::Complete(hello) => return Ok(hello),
            Parsed::Malformed(field) => {
                let text = format!("not a ClientHello: {field}");
                return refuse(Reason::HelloMalformed, Some(Alert::DecodeError), &text);
            }
            Parsed::TooLarge => {
                let text = format!(
                    "a ClientHello of more than {MAX_HELLO_BYTES} bytes or {} records",
                    hello::MAX_HELLO_RECORDS
                );
                return refuse(Reason::HelloTooLarge, Some(Alert::DecodeError), &text);
            }
        }
    }
}

/// Names what is not TLS, in words of ours: the peer's bytes do not reach the log.
fn name_protocol(raw: &[u8]) -> (Reason, &'static str) {
    const HTTP: [&[u8]; 6] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"PRI "];
    match raw {
        raw if raw.starts_with(b"PROXY ") || raw.starts_with(b"\r\n\r\n\0\r\nQUIT\n") => (
            Reason::ProxyUnexpected,
            "a PROXY header on a listener without proxy_protocol: name the proxy there",
        ),
        [0x10, ..] => (
            Reason::PlainMqtt,
            "MQTT without TLS on a TLS listener: turn TLS on in the device",
        ),
        raw if HTTP.iter().any(|verb| raw.starts_with(verb)) => {
            (Reason::NotTls, "an HTTP request on a TLS listener for MQTT")
        }
        raw if raw.starts_with(b"SSH-") => (Reason::NotTls, "an SSH banner on a TLS listener"),
        raw if raw.starts_with(b"AMQP") => (Reason::NotTls, "AMQP without TLS on a TLS listener"),
        _ => (Reason::NotTls, "the first byte is not TLS"),
    }
}
