//! `SSL_CTX_set_psk_find_session_callback`, the one function of OpenSSL's that the `openssl` crate
//! lacks and that TLS 1.3 keys with another hash than SHA-256 need.
//!
//! The callback of the `openssl` crate makes every TLS 1.3 key one for SHA-256. This one answers
//! with a session, whose suite says the hash. All `unsafe` of the gateway is in this file.

use foreign_types::{ForeignType, ForeignTypeRef};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{SslContext, SslContextBuilder, SslRef, SslSession};
use std::os::raw::{c_int, c_uchar};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use zeroize::Zeroizing;

type Find = Box<dyn Fn(&SslRef, &[u8]) -> Option<SslSession> + Send + Sync>;
type Callback = unsafe extern "C" fn(
    *mut openssl_sys::SSL,
    *const c_uchar,
    usize,
    *mut *mut openssl_sys::SSL_SESSION,
) -> c_int;

static INDEX: OnceLock<Index<SslContext, Find>> = OnceLock::new();

/// Asks `find` for the session of an offered TLS 1.3 identity, bytes as sent; without one the
/// identity is passed over. A `find` that panics has none.
///
/// # Errors
/// When OpenSSL has no memory.
pub fn set_find_session(
    builder: &mut SslContextBuilder,
    find: impl Fn(&SslRef, &[u8]) -> Option<SslSession> + Send + Sync + 'static,
) -> Result<(), ErrorStack> {
    let index = match INDEX.get() {
        Some(index) => *index,
        None => {
            let made = SslContext::new_ex_index()?;
            *INDEX.get_or_init(|| made)
        }
    };
    builder.set_ex_data(index, Box::new(find) as Find);
    // SAFETY: the builder owns a live SSL_CTX, and the callback has the signature asked for.
    unsafe { SSL_CTX_set_psk_find_session_callback(builder.as_ptr(), Some(found)) };
    Ok(())
}

unsafe extern "C" fn found(
    ssl: *mut openssl_sys::SSL,
    identity: *const c_uchar,
    length: usize,
    session: *mut *mut openssl_sys::SSL_SESSION,
) -> c_int {
    let ask = AssertUnwindSafe(|| {
        let index = INDEX.get()?;
        // SAFETY: OpenSSL passes the connection it works on, alive during the call, and `length`
        // bytes of its hello.
        let (ssl, identity) = unsafe {
            let identity = match identity.is_null() {
                true => &[][..],
                false => std::slice::from_raw_parts(identity, length),
            };
            (SslRef::from_ptr(ssl), identity)
        };
        ssl.ssl_context().ex_data(*index)?(ssl, identity)
    });
    let answer = catch_unwind(ask).unwrap_or(None);
    let pointer = answer.map_or(std::ptr::null_mut(), |answer| {
        let pointer = answer.as_ptr();
        // The reference becomes OpenSSL's.
        std::mem::forget(answer);
        pointer
    });
    // SAFETY: OpenSSL passes the place of one pointer.
    unsafe { *session = pointer };
    1
}

/// A TLS 1.3 session that stands for the external key `key`, 1 to 256 bytes, with SHA-384.
///
/// # Errors
/// When OpenSSL does not take it.
pub fn sha384_session(key: &[u8]) -> Result<SslSession, ErrorStack> {
    SslSession::from_der(&encoded(key))
}

/// `SSL_SESSION` as OpenSSL encodes it: structure version 1, TLS 1.3, TLS_AES_256_GCM_SHA384, no
/// session id, the key.
fn encoded(key: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEAD: [u8; 13] = [2, 1, 1, 2, 2, 3, 4, 4, 2, 0x13, 0x02, 4, 0];
    let long = |length: usize| [0x82, (length >> 8) as u8, length as u8];
    // Room for all of it, so that no copy is left behind.
    let mut der = Zeroizing::new(Vec::with_capacity(8 + HEAD.len() + key.len()));
    der.push(0x30);
    der.extend(long(HEAD.len() + 4 + key.len()));
    der.extend(HEAD);
    der.push(4);
    der.extend(long(key.len()));
    der.extend_from_slice(key);
    der
}

unsafe extern "C" {
    fn SSL_CTX_set_psk_find_session_callback(
        context: *mut openssl_sys::SSL_CTX,
        callback: Option<Callback>,
    );
}

#[cfg(test)]
mod tests {
    use super::sha384_session;

    #[test]
    fn a_session_holds_the_key_whatever_its_length() {
        for length in [1, 16, 48, 127, 128, 256] {
            let key = vec![7; length];
            let session = sha384_session(&key).unwrap();
            let mut out = vec![0; 300];
            assert_eq!(session.master_key(&mut out), length);
            assert_eq!(out[..length], key);
        }
    }
}
