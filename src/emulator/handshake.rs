//! Everything before OPEN is answered: protocol headers, SASL, and a look at the client's OPEN.
//!
//! The AMQP library's acceptor wants either SASL or none; the service takes both on one port. So
//! this reads the client's first bytes itself, and the library is given them again.

use crate::emulator::frames::{AMQP_FRAME, AMQP_HEADER, GROWTH, SASL_FRAME, SASL_HEADER, frame};
use crate::emulator::hub::Hub;
use crate::emulator::tokens::Grant;
use fe2o3_amqp::types::performatives::Open;
use fe2o3_amqp::types::sasl::{SaslCode, SaslInit, SaslMechanisms, SaslOutcome};
use serde_amqp::primitives::{Array, Binary, Symbol};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame taken before OPEN is answered, bytes.
const FRAME_MAX: usize = 16 * 1024;
/// Smallest max-frame-size that leaves room for a longer delivery-tag.
const FRAME_ROOM: u32 = 512 + GROWTH;

/// In the order seen on the wire (wire sheet §2.2).
const MECHANISMS: [&str; 4] = ["EXTERNAL", "MSSBCBS", "ANONYMOUS", "PLAIN"];

/// A client that may open.
#[derive(Debug)]
pub(crate) struct Opening {
    /// What the library must read first.
    pub(crate) replay: Vec<u8>,
    /// The client's name for itself, for logs.
    pub(crate) container: String,
    /// What SASL PLAIN proved.
    pub(crate) login: Option<Grant>,
    /// The idle-time-out the client asked for.
    pub(crate) idle_timeout: Option<Duration>,
}

/// Why a client got no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the socket failed or closed: {0}")]
    Io(#[from] io::Error),
    #[error("the client speaks no AMQP 1.0")]
    Header,
    #[error("a frame is malformed, too large, or not the one expected here")]
    Frame,
    #[error("SASL was refused")]
    Sasl,
    #[error("a frame could not be encoded")]
    Encode,
}

impl From<serde_amqp::Error> for HandshakeError {
    fn from(_: serde_amqp::Error) -> Self {
        Self::Encode
    }
}

/// Runs the exchange up to the client's OPEN. The caller bounds its time.
pub(crate) async fn negotiate<S>(stream: &mut S, hub: &Hub) -> Result<Opening, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    let mut login = None;
    if header == SASL_HEADER {
        login = sasl(stream, hub).await?;
        stream.read_exact(&mut header).await?;
    }
    // AMQP §2.2: a peer that cannot go on answers with what it does speak, and closes.
    write(stream, &AMQP_HEADER).await?;
    if header != AMQP_HEADER {
        return Err(HandshakeError::Header);
    }
    let body = read_frame(stream, AMQP_FRAME).await?;
    let mut open: Open = serde_amqp::from_slice(&body).map_err(|_| HandshakeError::Frame)?;
    let idle_timeout = open
        .idle_time_out
        .map(|ms| Duration::from_millis(u64::from(ms)));
    // The library sends heartbeats only once per whole interval; half leaves a margin.
    open.idle_time_out = open
        .idle_time_out
        .map(|ms| if ms > 1 { ms / 2 } else { ms });
    // Frames leave longer than the library writes them.
    if open.max_frame_size.0 >= FRAME_ROOM {
        open.max_frame_size.0 -= GROWTH;
    }
    let mut replay = AMQP_HEADER.to_vec();
    replay.extend(frame(AMQP_FRAME, &open)?);
    let container = open.container_id.chars().take(64).collect();
    Ok(Opening {
        replay,
        container,
        login,
        idle_timeout,
    })
}

async fn sasl<S>(stream: &mut S, hub: &Hub) -> Result<Option<Grant>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let symbols: Vec<Symbol> = MECHANISMS.iter().map(|name| Symbol::from(*name)).collect();
    let mechanisms = SaslMechanisms {
        sasl_server_mechanisms: Array::from(symbols),
    };
    let mut hello = SASL_HEADER.to_vec();
    hello.extend(frame(SASL_FRAME, &mechanisms)?);
    write(stream, &hello).await?;

    let body = read_frame(stream, SASL_FRAME).await?;
    let init: SaslInit = serde_amqp::from_slice(&body).map_err(|_| HandshakeError::Frame)?;
    let (code, login) = match init.mechanism.as_str() {
        "ANONYMOUS" | "MSSBCBS" => (SaslCode::Ok, None),
        "PLAIN" => match plain(init.initial_response.as_ref(), hub) {
            Some(grant) => (SaslCode::Ok, Some(grant)),
            // What the service answers, although `auth` would be the code for it.
            None => (SaslCode::Sys, None),
        },
        // No client certificate is asked for, so EXTERNAL has nothing to go by.
        _ => (SaslCode::Auth, None),
    };
    let ok = code == SaslCode::Ok;
    let additional_data = ok.then(|| Binary::from(b"Welcome!".to_vec()));
    let outcome = frame(
        SASL_FRAME,
        &SaslOutcome {
            code,
            additional_data,
        },
    )?;
    write(stream, &outcome).await?;
    if ok {
        Ok(login)
    } else {
        hub.stats.sasl_refused.inc();
        Err(HandshakeError::Sasl)
    }
}

/// `authzid NUL user NUL token`, the user named as in wire sheet §2.2.
fn plain(response: Option<&Binary>, hub: &Hub) -> Option<Grant> {
    let text = std::str::from_utf8(response?.as_slice()).ok()?;
    let (user, token) = text.split_once('\0')?.1.split_once('\0')?;
    let hub_name = hub.name();
    let named = |suffix: &str| user.strip_suffix(&format!("@sas{suffix}.{hub_name}"));
    let grant = hub.authority().verify(token, hub.now()).ok()?;
    let matches = match (named(".root"), named("")) {
        (Some(policy), _) => grant.is_of_policy(policy),
        (None, Some(identity)) => grant.is_of_identity(identity),
        (None, None) => false,
    };
    matches.then_some(grant)
}

async fn read_frame<S>(stream: &mut S, kind: u8) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let offset = usize::from(head[4]) * 4;
    if size > FRAME_MAX || offset < 8 || offset > size || head[5] != kind {
        return Err(HandshakeError::Frame);
    }
    let mut rest = vec![0; size - 8];
    stream.read_exact(&mut rest).await?;
    rest.drain(..offset - 8);
    Ok(rest)
}

async fn write<S>(stream: &mut S, bytes: &[u8]) -> io::Result<()>
where
    S: AsyncWrite + Unpin + ?Sized,
{
    stream.write_all(bytes).await?;
    stream.flush().await
}
