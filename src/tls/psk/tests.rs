//! Real hellos of OpenSSL: the parser reads them, the binder verifies them.

use super::keys::Keyring;
use super::select::select;
use super::{Attempt, PskStack};
use crate::config::secret::Secret;
use crate::config::{Mixed, PskConfig};
use crate::tls::alpn::served;
use crate::tls::attempts::Unthrottled;
use crate::tls::binder::Transcript;
use crate::tls::hello::{Hello, Parsed, parse};
use crate::tls::hello_bytes::assert_every_prefix_is_partial;
use crate::tls::replay::Replay;
use crate::tls::route::{Route, route};
use crate::tls::{KeySlot, PskAttempts, PskHash, PskKeys};
use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVersion};
use openssl::x509::X509;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const KEY: &[u8] = b"0123456789abcdef";

/// Keeps what is written and never answers.
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(version: SslVersion, identity: &'static [u8], key: &'static [u8]) -> SslContextBuilder {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder.set_psk_client_callback(move |_, _, name, out| {
        name[..identity.len()].copy_from_slice(identity);
        name[identity.len()] = 0;
        out[..key.len()].copy_from_slice(key);
        Ok(key.len())
    });
    builder
}

fn hello_of(builder: SslContextBuilder) -> Vec<u8> {
    let ssl = Ssl::new(&builder.build()).unwrap();
    let mut stream = SslStream::new(ssl, Sink(Vec::new())).unwrap();
    assert!(stream.connect().is_err(), "nobody answers");
    stream.get_ref().0.clone()
}

fn complete(raw: &[u8]) -> Hello {
    match parse(raw) {
        Parsed::Complete(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn ring() -> Keyring {
    Keyring::new(Arc::new(|identity| {
        let next_key = Some(Secret::new(b"fedcba9876543210".to_vec()));
        (identity == b"dev-1").then(|| PskKeys {
            key: Secret::new(KEY.to_vec()),
            next_key,
            hash: PskHash::Sha256,
        })
    }))
    .unwrap()
}

#[test]
fn openssl_hellos_are_read_and_every_prefix_of_them_is_partial() {
    let raw = hello_of(client(SslVersion::TLS1_3, b"dev-1", KEY));
    let hello = complete(&raw);
    assert!(hello.tls12 && hello.tls13 && hello.psk_suites && hello.certificate_suites);
    assert_eq!(route(&hello, Mixed::Certificate, true), Route::Psk13);
    assert_every_prefix_is_partial(&raw);

    let mut builder = client(SslVersion::TLS1_2, b"dev-1", KEY);
    builder
        .set_cipher_list("PSK-AES128-CCM8:@SECLEVEL=0")
        .unwrap();
    let raw = hello_of(builder);
    assert_eq!(
        route(&complete(&raw), Mixed::Certificate, true),
        Route::Psk12
    );
    assert_every_prefix_is_partial(&raw);
}

#[test]
fn the_binder_of_a_real_hello_verifies_with_its_key_and_no_other() {
    let hello = complete(&hello_of(client(SslVersion::TLS1_3, b"dev-1", KEY)));
    let transcript = Transcript::of(PskHash::Sha256, hello.truncated());
    let (identity, binder) = hello.offers().next().unwrap();
    assert_eq!(identity, b"dev-1");
    assert!(transcript.proves(KEY, binder));
    assert!(!transcript.proves(b"0123456789abcdeF", binder));
    assert!(!Transcript::of(PskHash::Sha256, &hello.truncated()[1..]).proves(KEY, binder));
}

#[test]
fn the_binder_tells_which_of_two_keys_is_used() {
    for (key, slot) in [
        (KEY, KeySlot::Current),
        (&b"fedcba9876543210"[..], KeySlot::Next),
    ] {
        let hello = complete(&hello_of(client(SslVersion::TLS1_3, b"dev-1", key)));
        let proved = select(&hello, &ring(), &Unthrottled).unwrap();
        assert_eq!((proved.identity.as_str(), proved.slot), ("dev-1", slot));
        assert!(proved.key.ct_eq(key));
    }
}

/// Holds everybody back, and counts who was tried all the same.
#[derive(Default)]
struct HoldBack(std::sync::atomic::AtomicUsize);

impl PskAttempts for HoldBack {
    fn may_try(&self, _: &[u8]) -> bool {
        false
    }
    fn failed(&self, _: &[u8]) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn proved(&self, _: &[u8]) {
        self.failed(&[]);
    }
}

#[test]
fn an_identity_that_has_to_wait_is_not_looked_at_whether_it_exists_or_its_key_is_right() {
    let throttle = HoldBack::default();
    for (identity, key) in [
        (&b"dev-1"[..], KEY),
        (b"dev-1", b"wrong key"),
        (b"dev-2", KEY),
    ] {
        let hello = complete(&hello_of(client(SslVersion::TLS1_3, identity, key)));
        let refusal = select(&hello, &ring(), &throttle).unwrap_err();
        assert_eq!(refusal.reason, "throttled_identity");
    }
    assert_eq!(throttle.0.into_inner(), 0, "waiting is no failure");
}

#[test]
fn an_unproved_identity_is_refused_by_cause() {
    let cause = |identity, key| {
        let hello = complete(&hello_of(client(SslVersion::TLS1_3, identity, key)));
        select(&hello, &ring(), &Unthrottled).unwrap_err().reason
    };
    assert_eq!(cause(b"dev-1", b"wrong key"), "psk_wrong_key");
    assert_eq!(cause(b"dev-2", KEY), "psk_unknown");
    assert_eq!(cause(b"\xff\xfe", KEY), "psk_identity_invalid");
    assert_eq!(cause(&[b'x'; 129], KEY), "psk_identity_invalid");
}

#[test]
fn the_context_never_holds_a_certificate_nor_allows_renegotiation_tickets_or_compression() {
    use openssl::ssl::SslOptions;
    let all = PskConfig {
        ke: true,
        cbc_sha1: true,
        ffdhe: true,
    };
    let index = Ssl::new_ex_index().unwrap();
    for builder in [
        super::context(index, Arc::new(ring()), PskConfig::default(), served(true)).unwrap(),
        super::context(index, Arc::new(ring()), all, served(true)).unwrap(),
        super::context_sha384(index, all, served(true)).unwrap(),
    ] {
        let closed =
            SslOptions::NO_RENEGOTIATION | SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION;
        assert!(builder.options().contains(closed));
        assert!(
            !builder
                .options()
                .contains(SslOptions::ALLOW_UNSAFE_LEGACY_RENEGOTIATION)
        );
        let context = builder.build();
        assert!(context.certificate().is_none() && context.private_key().is_none());
    }
}

/// The bypass itself, with every outer lock opened: a certificate in the context, a suite of
/// another hash, and a client that does hold the key, so that the callback names its identity.
/// OpenSSL drops the PSK and completes a certificate handshake; it must not count as a PSK.
#[tokio::test]
async fn a_certificate_handshake_is_never_reported_as_the_identity_the_callback_saw() {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let key = PKey::private_key_from_der(&key.serialize_der()).unwrap();
    let (index, keyring) = (Ssl::new_ex_index().unwrap(), Arc::new(ring()));
    let mut builder =
        super::context(index, keyring.clone(), PskConfig::default(), served(true)).unwrap();
    builder
        .set_certificate(&X509::from_der(cert.der()).unwrap())
        .unwrap();
    builder.set_private_key(&key).unwrap();
    builder.set_ciphersuites("TLS_AES_256_GCM_SHA384").unwrap();
    let context = builder.build();
    let stack = PskStack {
        config: PskConfig::default(),
        sha384: context.clone(),
        context,
        index,
        keyring,
    };

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = tokio::spawn(async move {
        let mut builder = client(SslVersion::TLS1_3, b"dev-1", KEY);
        builder.set_ciphersuites("TLS_AES_256_GCM_SHA384").unwrap();
        let ssl = Ssl::new(&builder.build()).unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = tokio_openssl::SslStream::new(ssl, tcp).unwrap();
        Pin::new(&mut stream).connect().await.is_ok()
    });
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut raw = vec![0; 5];
    tcp.read_exact(&mut raw).await.unwrap();
    raw.resize(5 + usize::from(u16::from_be_bytes([raw[3], raw[4]])), 0);
    tcp.read_exact(&mut raw[5..]).await.unwrap();
    let hello = complete(&raw);
    let proved = select(&hello, &stack.keyring, &Unthrottled).unwrap();
    let attempt = Attempt::new(Arc::new(Unthrottled), Some(proved));
    let refusal = stack
        .drive(attempt, Replay::new(raw, tcp))
        .await
        .err()
        .unwrap();
    assert_eq!(refusal.reason, "psk_not_proved");
    assert!(
        client.await.unwrap(),
        "the client did complete a certificate handshake"
    );
}
