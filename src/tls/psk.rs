//! The PSK stack: OpenSSL, for TLS 1.2 and 1.3 clients that hold a pre-shared key.
//!
//! It must never report an identity whose key was not proved by the finished handshake. OpenSSL
//! makes that easy to get wrong: its callback runs before any proof, and in TLS 1.3 it silently
//! drops a PSK whose hash does not fit and completes a certificate handshake instead. So the
//! context holds **no certificate**, no tickets and no session cache; in TLS 1.3 the binder is
//! verified before OpenSSL sees a byte, and the session must be one resumed from the PSK; in
//! TLS 1.2 the suite must be authenticated by PSK. The only files that name OpenSSL are these.

pub mod keys;
mod profile;
mod rotation;
mod select;

use crate::config::PskConfig;
use crate::telemetry::reason::Reason;
use crate::tls::alpn::{self, Names};
use crate::tls::cke::Watch;
use crate::tls::hello::Hello;
use crate::tls::refusal::{Alert, Refusal, farewell, printable};
use crate::tls::replay::Replay;
use crate::tls::x509::explain_io;
use crate::tls::{KeySlot, Peer, PskAttempts, PskHash, PskLookup, Session, Stream};
use keys::{Keyring, Standing};
use openssl::bn::BigNum;
use openssl::dh::Dh;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslVersion,
};
use select::Proved;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// `SSL_OP_ALLOW_NO_DHE_KEX`, which the library's binding does not name.
const ALLOW_NO_DHE_KEX: u64 = 1 << 10;

/// One handshake's state, shared by the tap, the callback and the driver.
struct Attempt {
    /// Who has to wait.
    throttle: Arc<dyn PskAttempts>,
    /// TLS 1.3: proved by the binder.
    proved: Option<Proved>,
    /// TLS 1.3: OpenSSL was given that key.
    given: bool,
    /// TLS 1.2: what the client sends in the clear.
    watch: Watch,
    /// TLS 1.2: the answer to the callback.
    asked: Option<Asked>,
    /// TLS 1.2: the identity has to wait.
    held_back: bool,
}

impl Attempt {
    fn new(throttle: Arc<dyn PskAttempts>, proved: Option<Proved>) -> Self {
        Self {
            throttle,
            proved,
            given: false,
            watch: Watch::default(),
            asked: None,
            held_back: false,
        }
    }
}

struct Asked {
    identity: Vec<u8>,
    standing: Standing,
    slot: KeySlot,
    has_next: bool,
}

type Shared = Arc<Mutex<Attempt>>;

/// The stack of one listener.
pub struct PskStack {
    config: PskConfig,
    context: SslContext,
    /// TLS 1.3 keys with SHA-384: the library drops a key whose hash does not fit the suite it
    /// chose, so here it has one suite to choose.
    sha384: SslContext,
    index: Index<Ssl, Shared>,
    keyring: Arc<Keyring>,
}

impl PskStack {
    /// Sets OpenSSL up.
    ///
    /// # Errors
    /// A sentence, when OpenSSL lacks a suite or the system has no randomness.
    pub fn new(lookup: PskLookup, config: PskConfig, names: Names) -> Result<Self, String> {
        let keyring = Keyring::new(lookup).map_err(|error| {
            format!("the system gives no randomness for PSK ({error}); check getrandom(2)")
        })?;
        let keyring = Arc::new(keyring);
        let setup = Ssl::new_ex_index().and_then(|index| {
            let context = context(index, keyring.clone(), config, names)?.build();
            let sha384 = context_sha384(index, config, names)?.build();
            Ok((context, sha384, index))
        });
        let (context, sha384, index) = setup.map_err(|error| {
            let text = error.to_string().escape_debug().to_string();
            format!("OpenSSL cannot be set up for PSK ({text}); version 3.0 or later is needed")
        })?;
        Ok(Self {
            config,
            context,
            sha384,
            index,
            keyring,
        })
    }

    /// TLS 1.3 with an offered identity. On failure the alert was sent and the socket closed.
    ///
    /// # Errors
    /// Why not.
    pub async fn accept13(
        &self,
        hello: &Hello,
        stream: Replay<TcpStream>,
        throttle: Arc<dyn PskAttempts>,
    ) -> Result<(Box<dyn Stream>, Peer), Refusal> {
        if let Err(refusal) = profile::check13(self.config, hello) {
            farewell(stream, Some(Alert::HandshakeFailure)).await;
            return Err(refusal);
        }
        match select::select(hello, &self.keyring, &*throttle) {
            Ok(proved) => {
                let attempt = Attempt::new(throttle, Some(proved));
                self.drive(attempt, stream).await
            }
            Err(refusal) => {
                farewell(stream, Some(Alert::IllegalParameter)).await;
                Err(refusal)
            }
        }
    }

    /// TLS 1.2: the identity comes in ClientKeyExchange. On failure as [`Self::accept13`].
    ///
    /// # Errors
    /// Why not.
    pub async fn accept12(
        &self,
        hello: &Hello,
        stream: Replay<TcpStream>,
        throttle: Arc<dyn PskAttempts>,
    ) -> Result<(Box<dyn Stream>, Peer), Refusal> {
        if let Err(refusal) = profile::check12(self.config, hello) {
            farewell(stream, Some(Alert::HandshakeFailure)).await;
            return Err(refusal);
        }
        self.drive(Attempt::new(throttle, None), stream).await
    }

    async fn drive(
        &self,
        attempt: Attempt,
        mut stream: Replay<TcpStream>,
    ) -> Result<(Box<dyn Stream>, Peer), Refusal> {
        let tls12 = attempt.proved.is_none();
        let throttle = attempt.throttle.clone();
        let context = match &attempt.proved {
            Some(proved) if proved.hash == PskHash::Sha384 => &self.sha384,
            _ => &self.context,
        };
        let shared: Shared = Arc::new(Mutex::new(attempt));
        if tls12 {
            let tap = shared.clone();
            stream.set_tap(Box::new(move |bytes| lock(&tap).watch.feed(bytes)));
        }
        let internal = |_: ErrorStack| {
            Refusal::new(
                Reason::Internal,
                "psk",
                "OpenSSL has no memory for a connection",
            )
        };
        let mut ssl = Ssl::new(context).map_err(internal)?;
        ssl.set_ex_data(self.index, shared.clone());
        let mut stream = SslStream::new(ssl, stream).map_err(internal)?;
        let result = Pin::new(&mut stream).accept().await;
        stream.get_mut().clear_tap();
        // What is left in the connection's data holds no key from here on.
        let fresh = Attempt::new(throttle.clone(), None);
        let attempt = std::mem::replace(&mut *lock(&shared), fresh);
        match result {
            Ok(()) => {
                let peer = self.finished(stream.ssl(), attempt)?;
                if let Peer::Psk { identity, .. } = &peer {
                    throttle.proved(identity.as_bytes());
                }
                Ok((Box::new(stream), peer))
            }
            Err(error) => {
                let refusal = self.explain(&error, attempt);
                if refusal.reason != Reason::PeerClosed {
                    farewell(stream.get_mut(), None).await;
                }
                Err(refusal)
            }
        }
    }

    /// What a finished handshake proved; nothing is taken from the callback's word alone.
    fn finished(&self, ssl: &SslRef, attempt: Attempt) -> Result<Peer, Refusal> {
        let not_proved = || {
            let text = "the handshake ended without proof of a pre-shared key";
            Refusal::new(Reason::PskNotProved, "psk", text)
        };
        let version = ssl.version2().ok_or_else(not_proved)?;
        match (attempt.proved, attempt.asked) {
            (Some(proved), None)
                if version == SslVersion::TLS1_3 && ssl.session_reused() && attempt.given =>
            {
                let session = Session { version: "1.3" };
                Ok(Peer::Psk {
                    identity: proved.identity,
                    slot: proved.slot,
                    session,
                })
            }
            (None, Some(asked))
                if version == SslVersion::TLS1_2
                    && !ssl.session_reused()
                    && authenticated_by_psk(ssl)
                    && asked.standing == Standing::Known =>
            {
                let identity = Keyring::valid(&asked.identity)
                    .ok_or_else(not_proved)?
                    .to_owned();
                if asked.has_next {
                    self.keyring.worked(&asked.identity, asked.slot);
                }
                Ok(Peer::Psk {
                    identity,
                    slot: asked.slot,
                    session: Session { version: "1.2" },
                })
            }
            _ => Err(not_proved()),
        }
    }

    /// Gives a failed handshake its label, and remembers a key that did not fit.
    fn explain(&self, error: &openssl::ssl::Error, attempt: Attempt) -> Refusal {
        if let Some(error) = error.io_error() {
            return Refusal {
                credential: "psk",
                ..explain_io(error)
            };
        }
        if attempt.held_back {
            let identity = attempt.watch.identity().unwrap_or_default();
            return refused(Standing::HeldBack, identity);
        }
        let code = error.ssl_error().and_then(|stack| stack.errors().last());
        // Reason codes of OpenSSL's sslerr.h; its texts carry file names and line numbers.
        match (code.map_or(0, |error| error.reason_code()), attempt.asked) {
            (0 | 294, _) => Refusal::new(
                Reason::PeerClosed,
                "psk",
                "the client closed during the handshake",
            ),
            (alert @ 1000.., _) => {
                let text = format!("the client ended the handshake (alert {})", alert - 1000);
                Refusal::new(Reason::ClientAlert, "psk", text)
            }
            (_, Some(asked)) => {
                if asked.standing == Standing::Known && asked.has_next {
                    self.keyring.failed(&asked.identity, asked.slot);
                }
                attempt.throttle.failed(&asked.identity);
                refused(asked.standing, &asked.identity)
            }
            (101 | 118 | 193 | 295 | 410, None) => {
                let text = "no PSK suite or group in common";
                Refusal::new(Reason::NoSharedSuite, "psk", text)
            }
            (258 | 267 | 396, None) => Refusal::new(
                Reason::TlsVersion,
                "psk",
                "no TLS version in common; 1.2 and 1.3 are served",
            ),
            (code, None) => {
                let text = format!("the client broke the TLS protocol (OpenSSL reason {code})");
                Refusal::new(Reason::TlsViolation, "psk", text)
            }
        }
    }
}

/// The label and sentence of a key that was not proved. The client sees one alert for all.
fn refused(standing: Standing, identity: &[u8]) -> Refusal {
    let name = printable(identity);
    let refusal = match standing {
        Standing::Known => {
            let text = format!(
                "the client does not hold the key of PSK identity {name}: compare both keys"
            );
            Refusal::new(Reason::PskWrongKey, "psk", text)
        }
        Standing::OtherHash => {
            let text = format!(
                "the client holds the key of PSK identity {name}, but uses it with another hash: \
                 say which by hash = \"sha256\" or \"sha384\" of its psk entry or [[psk_file]]"
            );
            Refusal::new(Reason::PskWrongHash, "psk", text)
        }
        Standing::Unknown => {
            let text = format!("PSK identity {name} is not in the rules: add it or fix the device");
            Refusal::new(Reason::PskUnknown, "psk", text)
        }
        Standing::Invalid => {
            let text = format!(
                "PSK identity {name} is not 1 to 128 bytes of UTF-8 without NUL; a ticket of \
                 another server looks like this too"
            );
            Refusal::new(Reason::PskIdentityInvalid, "psk", text)
        }
        Standing::HeldBack => {
            let text = format!(
                "PSK identity {name} failed too often from this address and has to wait; correct \
                 its key and try again in a minute"
            );
            Refusal::new(Reason::ThrottledIdentity, "psk", text)
        }
    };
    refusal.of_psk(identity)
}

fn authenticated_by_psk(ssl: &SslRef) -> bool {
    ssl.current_cipher().is_some_and(|cipher| {
        cipher
            .description()
            .split_whitespace()
            .any(|word| word == "Au=PSK")
    })
}

fn lock(shared: &Shared) -> MutexGuard<'_, Attempt> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context: see the module's header for what must never be in it.
fn context(
    index: Index<Ssl, Shared>,
    keyring: Arc<Keyring>,
    config: PskConfig,
    names: Names,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = bare_context(config, names)?;
    builder.set_ciphersuites(&profile::tls13_list(PskHash::Sha256))?;
    builder.set_cipher_list(&profile::tls12_list(config))?;
    if config.ffdhe {
        let dh = Dh::from_pqg(
            BigNum::get_rfc3526_prime_2048()?,
            None,
            BigNum::from_u32(2)?,
        )?;
        builder.set_tmp_dh(&dh)?;
    }
    builder.set_psk_server_callback(move |ssl, identity, out| {
        Ok(answer(
            ssl,
            index,
            &keyring,
            identity.unwrap_or_default(),
            out,
        ))
    });
    Ok(builder)
}

/// The context of TLS 1.3 keys with SHA-384.
fn context_sha384(
    index: Index<Ssl, Shared>,
    config: PskConfig,
    names: Names,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = bare_context(config, names)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites(&profile::tls13_list(PskHash::Sha384))?;
    openssl_psk_session::set_find_session(&mut builder, move |ssl, identity| {
        let attempt = &mut *lock(ssl.ex_data(index)?);
        let proved = attempt.proved.as_ref()?;
        if proved.identity.as_bytes() != identity {
            return None;
        }
        let session = openssl_psk_session::sha384_session(proved.key.expose()).ok()?;
        attempt.given = true;
        Some(session)
    })?;
    Ok(builder)
}

/// What both contexts have, and have not.
fn bare_context(config: PskConfig, names: Names) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_options(
        SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION,
    );
    if config.ke {
        builder.set_options(SslOptions::from_bits_retain(ALLOW_NO_DHE_KEX));
    }
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    builder.set_mode(
        SslMode::RELEASE_BUFFERS
            | SslMode::AUTO_RETRY
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    // A record comes in one read instead of three; the buffer is released when it is empty.
    builder.set_read_ahead(true);
    // Later versions rate CCM-8 (RFC 7925's suite) below every level but 0. Nothing is left to
    // the level here: suites, groups and the DH group are all named.
    builder.set_security_level(0);
    builder.set_groups_list(profile::GROUPS)?;
    builder.set_alpn_select_callback(move |_, offered| {
        alpn::agreed(names, alpn::names(offered)).ok_or(AlpnError::NOACK)
    });
    Ok(builder)
}

/// OpenSSL asks for the key of `identity`, which it cut at the first NUL. Answers the key's
/// length; 0 is "no such identity".
fn answer(
    ssl: &SslRef,
    index: Index<Ssl, Shared>,
    keyring: &Keyring,
    identity: &[u8],
    out: &mut [u8],
) -> usize {
    let Some(shared) = ssl.ex_data(index) else {
        return 0;
    };
    let attempt = &mut *lock(shared);
    if let Some(proved) = &attempt.proved {
        if proved.identity.as_bytes() != identity {
            return 0;
        }
        attempt.given = true;
        return put(proved.key.expose(), out);
    }
    if ssl.version2() != Some(SslVersion::TLS1_2) {
        return 0;
    }
    // The bytes as sent; should they disagree with what OpenSSL read, the identity is invalid.
    let sent = attempt.watch.identity().unwrap_or_default();
    let agree = sent.split(|byte| *byte == 0).next() == Some(identity);
    let sent = if agree { sent } else { &[] };
    if !attempt.throttle.may_try(sent) {
        attempt.held_back = true;
        return 0;
    }
    let (keys, slot) = keyring.choose(sent);
    let written = match slot {
        KeySlot::Current => put(keys.current.expose(), out),
        KeySlot::Next => put(keys.next.expose(), out),
    };
    let (identity, standing, has_next) = (sent.to_vec(), keys.standing, keys.has_next);
    attempt.asked = Some(Asked {
        identity,
        standing,
        slot,
        has_next,
    });
    written
}

fn put(key: &[u8], out: &mut [u8]) -> usize {
    match out.get_mut(..key.len()) {
        Some(target) => {
            target.copy_from_slice(key);
            key.len()
        }
        // Longer than OpenSSL takes (512 bytes): such a key admits nobody.
        None => 0,
    }
}

#[cfg(test)]
mod tests;
