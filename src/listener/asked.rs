//! From a transport to a whole CONNECT, or why there is none.

use super::handshake::say_last;
use super::{Site, conn, proxy, websocket};
use crate::auth::Who;
use crate::mqtt::packet::{Connect, Glimpse};
use crate::mqtt::session::{Event, Session};
use crate::runtime::clock;
use crate::telemetry::reason::Reason;
use crate::tls::{Flight, Stream};
use crate::websocket::head;
use bytes::BytesMut;
use std::borrow::Cow;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Read at once while CONNECT is awaited; most CONNECTs are smaller.
const CONNECT_READ_BYTES: usize = 512;

const PROXY_TEXT: &str =
    "a PROXY header on a listener without proxy_protocol: name the proxy there";

const TCP: &str = "tcp";
const WEBSOCKET: &str = "websocket";

/// A transport with a CONNECT on it.
pub(super) struct Asked {
    pub(super) stream: Box<dyn Stream>,
    pub(super) session: Session,
    pub(super) connect: Box<Connect>,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    /// What carries it, for the log.
    pub(super) transport: &'static str,
}

/// Why there is no CONNECT, and what could be read of it.
pub(super) struct Early {
    pub(super) reason: Reason,
    pub(super) text: Cow<'static, str>,
    glimpse: Option<Box<Glimpse>>,
}

impl Early {
    pub(super) fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: text.into(),
            glimpse: None,
        }
    }

    /// Adds the names CONNECT gave, as far as they could be read.
    pub(super) fn name(&self, who: Who) -> Who {
        match &self.glimpse {
            None => who,
            Some(glimpse) => {
                let username = glimpse.username.as_deref();
                let password = glimpse.password.as_deref().unwrap_or_default();
                who.with_login(&glimpse.client_id, username, password)
            }
        }
    }
}

impl Asked {
    /// Reads until CONNECT is whole; the session knows how long and how large it may be.
    pub(super) async fn wait(
        mut stream: Box<dyn Stream>,
        site: &Site,
        flight: &Flight,
    ) -> Result<Self, Early> {
        let setup = site.shared.setup();
        let mut session = Session::new(setup.session_limits(), clock::mono());
        session = session.serving(site.versions);
        let mut input = BytesMut::new();
        let mut out = BytesMut::new();
        let mut transport = TCP;
        loop {
            if session.protocol().is_none() && proxy::header::looks_like(&input) {
                conn::shut(stream, false).await;
                return Err(Early::new(Reason::ProxyUnexpected, PROXY_TEXT));
            }
            if site.websocket && transport == TCP && head::begins(&input) {
                let until = session.deadline();
                stream = websocket::upgrade(stream, &mut input, &setup, until, flight).await?;
                transport = WEBSOCKET;
            }
            let now = clock::mono();
            match session.next(&mut input, &mut out, now) {
                Ok(Some(Event::Connect(connect))) => {
                    return Ok(Self {
                        stream,
                        session,
                        connect,
                        input,
                        out,
                        transport,
                    });
                }
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(violation) => {
                    say_last(stream, &out).await;
                    return Err(Early {
                        glimpse: session.glimpse(),
                        ..Early::new(violation.word(), violation.to_string())
                    });
                }
            }
            if let Some(violation) = session.expired(now) {
                conn::shut(stream, false).await;
                return Err(Early::new(violation.word(), violation.to_string()));
            }
            input.reserve(CONNECT_READ_BYTES);
            // A little late rather than a little early: `expired` decides, not the timer.
            let wait = session.deadline().since(now) + Duration::from_millis(1);
            flight.wait(now);
            let read = tokio::time::timeout(wait, stream.read_buf(&mut input)).await;
            flight.heard(clock::mono());
            match read {
                Ok(Ok(0)) => return Err(Early::new(Reason::PeerClosed, "closed before CONNECT")),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => return Err(failed(stream, &error).await),
            }
        }
    }
}

/// A stream that failed, or was ended for the bytes on it.
async fn failed(stream: Box<dyn Stream>, error: &io::Error) -> Early {
    match websocket::violation(error) {
        None => Early::new(Reason::PeerClosed, "failed before CONNECT"),
        Some(violation) => {
            conn::shut(stream, true).await;
            Early::new(violation.word(), violation.to_string())
        }
    }
}
