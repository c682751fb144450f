//! Real hellos of rustls and hand-made ones; those of OpenSSL are in `psk/tests.rs`.

use super::{Hello, MAX_HELLO_BYTES, MAX_IDENTITIES, Parsed, parse};
use crate::tls::hello_bytes::{Builder, assert_every_prefix_is_partial, vector8, vector16};
use proptest::prelude::*;
use std::sync::Arc;

fn complete(raw: &[u8]) -> Hello {
    match parse(raw) {
        Parsed::Complete(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn malformed(raw: &[u8]) -> &'static str {
    match parse(raw) {
        Parsed::Malformed(field) => field,
        other => panic!("{other:?}"),
    }
}

fn rustls_hello(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "gateway.example".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut raw = Vec::new();
    client.write_tls(&mut raw).unwrap();
    raw
}

#[test]
fn rustls_hellos_are_read_and_every_prefix_of_them_is_partial() {
    let both = rustls_hello(rustls::ALL_VERSIONS);
    let hello = complete(&both);
    assert!(hello.tls12 && hello.tls13 && hello.certificate_suites && !hello.psk_suites);
    assert!(!hello.has_offers());
    assert_eq!(hello.sni(), Some("gateway.example"));
    assert_every_prefix_is_partial(&both);
    let old = rustls_hello(&[&rustls::version::TLS12]);
    let hello = complete(&old);
    assert!(hello.tls12 && !hello.tls13);
    assert_every_prefix_is_partial(&old);
}

#[test]
fn a_hello_in_up_to_sixteen_records_is_the_same_hello() {
    let builder = Builder::tls13(&[0x1301]).psk(&[b"dev-1"], 32);
    let size = builder.message().len();
    for records in 1..=16 {
        let raw = builder.records(size.div_ceil(records));
        let hello = complete(&raw);
        assert_eq!(hello.offers().next(), Some((&b"dev-1"[..], &[7; 32][..])));
        assert_every_prefix_is_partial(&raw);
    }
    assert!(matches!(
        parse(&builder.records((size - 1) / 16)),
        Parsed::TooLarge
    ));
    assert!(matches!(parse(&builder.records(1)), Parsed::TooLarge));
}

#[test]
fn a_hello_beyond_the_limit_is_refused_from_its_header_on() {
    let raw = [22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
    assert!(matches!(parse(&raw), Parsed::TooLarge));
    let big = Builder::tls12(&[0xc02b]).extension(21, &vec![0; MAX_HELLO_BYTES]);
    assert!(matches!(parse(&big.raw()), Parsed::TooLarge));
    let fits = Builder::tls12(&[0xc02b]).extension(21, &vec![0; MAX_HELLO_BYTES - 200]);
    complete(&fits.raw());
}

#[test]
fn versions_are_those_of_the_extension_where_there_is_one() {
    let hello = complete(&Builder::tls12(&[0xc02b, 0x1301]).raw());
    assert!(hello.tls12 && !hello.tls13, "suites alone offer nothing");
    let hello = complete(&Builder::tls12(&[0xc02b]).version(0x0302).raw());
    assert!(!hello.tls12 && !hello.tls13);
    let hello = complete(
        &Builder::tls12(&[0x1301])
            .extension(43, &[4, 3, 4, 3, 3])
            .raw(),
    );
    assert!(hello.tls12 && hello.tls13);
    // TLS 1.3 without any of its suites is not offered.
    let hello = complete(
        &Builder::tls12(&[0xc02b])
            .extension(43, &[4, 3, 4, 3, 3])
            .raw(),
    );
    assert!(hello.tls12 && !hello.tls13);
}

#[test]
fn the_binders_are_cut_off_where_the_specification_says() {
    let builder = Builder::tls13(&[0x1301]).psk(&[b"dev-1", b"dev-2"], 32);
    let hello = complete(&builder.raw());
    let binders = 2 + 2 * 33;
    let message = builder.message();
    assert_eq!(hello.truncated(), &message[..message.len() - binders]);
    let hello = complete(&Builder::tls13(&[0x1301]).raw());
    assert!(hello.truncated().is_empty());
}

#[test]
fn only_the_first_identities_are_kept() {
    let many: Vec<&[u8]> = vec![b"x"; 100];
    let hello = complete(&Builder::tls13(&[0x1301]).psk(&many, 32).raw());
    assert_eq!(hello.offers().count(), MAX_IDENTITIES);
}

#[test]
fn what_the_specification_forbids_is_malformed() {
    let tls13 = || Builder::tls13(&[0x1301]);
    let after = tls13().psk(&[b"dev"], 32).extension(21, &[]);
    assert_eq!(
        malformed(&after.raw()),
        "pre_shared_key is not the last extension"
    );
    let twice = tls13().extension(43, &[2, 3, 4]);
    assert_eq!(malformed(&twice.raw()), "an extension sent twice");
    assert_eq!(malformed(&tls13().psk(&[b""], 32).raw()), "pre_shared_key");
    assert_eq!(
        malformed(&tls13().psk(&[b"dev"], 31).raw()),
        "pre_shared_key"
    );
    assert_eq!(malformed(&tls13().psk(&[], 32).raw()), "pre_shared_key");
    let identities = vector16(&[&vector16(b"dev")[..], &[0; 4]].concat());
    let two_binders = vector16(&[vector8(&[7; 32]), vector8(&[7; 32])].concat());
    let uneven = tls13().extension(41, &[identities, two_binders].concat());
    assert_eq!(malformed(&uneven.raw()), "pre_shared_key");
    assert_eq!(
        malformed(&tls13().trailing(&[0]).raw()),
        "bytes after the extensions"
    );
    assert_eq!(malformed(&Builder::tls12(&[]).raw()), "cipher_suites");
    assert_eq!(
        malformed(&Builder::tls12(&[0xc02b]).extension(43, &[0]).raw()),
        "supported_versions"
    );
    assert_eq!(
        malformed(&tls13().modes(&[]).raw()),
        "psk_key_exchange_modes"
    );
    let mut extra = tls13().message();
    extra.push(0);
    let raw = [vec![22, 3, 1], vector16(&extra)].concat();
    assert_eq!(malformed(&raw), "bytes after the ClientHello in its record");
    assert_eq!(malformed(&[21]), "a record that is not a handshake record");
    assert_eq!(malformed(&[22, 2]), "record version");
    assert_eq!(malformed(&[22, 3, 1, 0, 0]), "record length");
    assert_eq!(
        malformed(&[22, 3, 1, 0, 9, 2]),
        "the first message is not a ClientHello"
    );
}

#[test]
fn a_server_name_that_is_not_printable_or_too_long_is_not_shown() {
    let named = |name: &[u8]| {
        let list = vector16(&[&[0][..], &vector16(name)].concat());
        complete(&Builder::tls12(&[0xc02b]).extension(0, &list).raw())
    };
    assert_eq!(named(b"a.example").sni(), Some("a.example"));
    assert_eq!(named(b"a\n\x1b[31m").sni(), None);
    assert_eq!(named(&[b'a'; 256]).sni(), None);
    assert_eq!(named(b"").sni(), None);
}

proptest! {
    #[test]
    fn mutated_hellos_never_panic(
        which in 0_usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut raw = match which {
            0 => Builder::tls13(&[0x1301]).psk(&[b"dev-1", b"dev-2"], 32).records(40),
            1 => Builder::tls13(&[0x1301]).psk(&[b"dev-1"], 48).raw(),
            _ => Builder::tls12(&[0xc02b, 0x00a8]).extension(0, &[0, 4, 0, 0, 1, b'a']).raw(),
        };
        for (at, byte) in changes {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        let _ = parse(&raw);
        if let Parsed::Complete(hello) = parse(&raw[..cut.index(raw.len())]) {
            let _ = (hello.offers().count(), hello.sni(), hello.truncated().len());
        }
    }

    #[test]
    fn garbage_never_panics(raw in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse(&raw);
        let framed = [&[22, 3, 1, 4, 0, 1, 0, 3, 0xfc][..], &raw].concat();
        let _ = parse(&framed);
    }
}

#[test]
fn a_wish_for_small_records_is_read_and_the_smaller_one_counts() {
    let asked = |extensions: &[(u16, &[u8])]| {
        let start = Builder::tls12(&[0xc02b]);
        let add = |builder: Builder, (kind, body): &(u16, &[u8])| builder.extension(*kind, body);
        complete(&extensions.iter().fold(start, add).raw()).record_bytes
    };
    assert_eq!(asked(&[]), None);
    assert_eq!(asked(&[(1, &[1])]), Some(512));
    assert_eq!(asked(&[(1, &[4])]), Some(4096));
    assert_eq!(asked(&[(28, &[4, 1])]), Some(1024));
    assert_eq!(asked(&[(28, &[0x40, 1]), (1, &[2])]), Some(1024));
    for nothing in [&[(1, &[0][..])], &[(1, &[5][..])], &[(28, &[0, 63][..])]] {
        assert_eq!(asked(nothing), None);
    }
    assert_eq!(asked(&[(1, &[]), (28, &[1])]), None);
}
