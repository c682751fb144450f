//! Pre-shared keys over TLS 1.2 and 1.3.

use crate::outside::outside;
use crate::support::{KEY, LONG_KEY, NEXT, Outcome, Psk, Site, attempt};
use iothub_gateway::tls::{Acceptor, HandshakeError, KeySlot, Peer, PskHash};
use std::sync::Arc;

const GCM: &str = "PSK-AES128-GCM-SHA256";

async fn connect(acceptor: &Arc<Acceptor>, psk: &Psk) -> (Result<Peer, HandshakeError>, Outcome) {
    attempt(acceptor, async |tcp| psk.run(tcp).await).await
}

fn proved(result: Result<Peer, HandshakeError>) -> (String, KeySlot, &'static str) {
    match result {
        Ok(Peer::Psk {
            identity,
            slot,
            session,
        }) => (identity, slot, session.version),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_suite_of_small_devices_proves_its_identity_in_tls_1_2() {
    let acceptor = Site::new().acceptor();
    for suite in [
        GCM,
        "PSK-AES256-GCM-SHA384",
        "PSK-AES128-CCM",
        "PSK-AES128-CCM8",
        "PSK-AES256-CCM8",
        "PSK-AES128-CBC-SHA256",
        "PSK-CHACHA20-POLY1305",
        "ECDHE-PSK-CHACHA20-POLY1305",
        "ECDHE-PSK-AES128-CBC-SHA256",
    ] {
        let (server, client) = connect(&acceptor, &Psk::tls12(suite, b"dev-1", KEY)).await;
        assert_eq!(client, Ok(suite.to_owned()));
        assert_eq!(
            proved(server),
            ("dev-1".to_owned(), KeySlot::Current, "1.2")
        );
    }
}

#[tokio::test]
async fn an_external_key_proves_its_identity_in_tls_1_3() {
    for acceptor in [Site::new().acceptor(), Site::psk_only().acceptor()] {
        let (server, client) = connect(&acceptor, &Psk::tls13(b"dev-1", KEY)).await;
        assert_eq!(client, Ok("TLS_AES_128_GCM_SHA256".to_owned()));
        assert_eq!(
            proved(server),
            ("dev-1".to_owned(), KeySlot::Current, "1.3")
        );
    }
}

#[tokio::test]
async fn a_client_asked_for_another_key_share_still_proves_its_identity() {
    let acceptor = Site::new().acceptor();
    for (key, slot) in [(KEY, KeySlot::Current), (NEXT, KeySlot::Next)] {
        let mut psk = Psk::tls13(b"two", key);
        psk.groups = "P-521:P-256"; // a share of P-521, answered by HelloRetryRequest
        let (server, client) = connect(&acceptor, &psk).await;
        assert!(client.is_ok());
        assert_eq!(proved(server), ("two".to_owned(), slot, "1.3"));
    }
}

#[tokio::test]
async fn suites_without_encryption_with_sha1_or_rsa_are_not_served() {
    let acceptor = Site::new().acceptor();
    for suite in [
        "PSK-NULL-SHA256",
        "PSK-AES128-CBC-SHA",
        "ECDHE-PSK-AES128-CBC-SHA",
        "DHE-PSK-AES128-GCM-SHA256",
        "RSA-PSK-AES128-GCM-SHA256",
    ] {
        let (server, client) = connect(&acceptor, &Psk::tls12(suite, b"dev-1", KEY)).await;
        assert_eq!(server.unwrap_err().reason, "no_shared_suite", "{suite}");
        assert_eq!(client, Err(40), "{suite}: handshake_failure");
    }
}

#[tokio::test]
async fn dhe_over_a_finite_field_is_served_only_where_it_was_asked_for() {
    let mut site = Site::new();
    site.tls().psk.ffdhe = true;
    let psk = Psk::tls12("DHE-PSK-AES128-GCM-SHA256", b"dev-1", KEY);
    let (server, client) = connect(&site.acceptor(), &psk).await;
    assert!(client.is_ok());
    assert_eq!(proved(server).0, "dev-1");
}

#[tokio::test]
async fn cbc_with_sha1_is_served_only_where_it_was_asked_for() {
    let mut site = Site::new();
    site.tls().psk.cbc_sha1 = true;
    let acceptor = site.acceptor();
    for suite in ["PSK-AES128-CBC-SHA", "ECDHE-PSK-AES128-CBC-SHA"] {
        let (server, client) = connect(&acceptor, &Psk::tls12(suite, b"dev-1", KEY)).await;
        assert_eq!(client, Ok(suite.to_owned()));
        assert_eq!(
            proved(server),
            ("dev-1".to_owned(), KeySlot::Current, "1.2")
        );
        let (server, client) = connect(&acceptor, &Psk::tls12(suite, b"dev-2", KEY)).await;
        assert_eq!(server.unwrap_err().reason, "psk_unknown");
        assert_eq!(client, Err(20), "bad_record_mac");
    }
}

#[tokio::test]
async fn the_suites_of_the_iot_profiles_are_served_in_tls_1_3() {
    let acceptor = Site::new().acceptor();
    for suite in ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"] {
        for (key, proven) in [(KEY, true), (&b"wrong key wrong!"[..], false)] {
            let mut psk = Psk::tls13(b"dev-1", key);
            psk.suites = suite;
            let (server, client) = connect(&acceptor, &psk).await;
            if proven {
                assert_eq!(client, Ok(suite.to_owned()));
                assert_eq!(proved(server).2, "1.3");
            } else {
                assert_eq!(client, Err(47));
                assert_eq!(server.unwrap_err().reason, "psk_wrong_key");
            }
        }
    }
}

#[tokio::test]
async fn psk_ke_is_served_only_where_it_was_asked_for() {
    let mut site = Site::new();
    let mut psk = Psk::tls13(b"dev-1", KEY);
    // No group in common, so that nothing else is left.
    (psk.groups, psk.ke) = ("P-384", true);
    let (server, client) = connect(&site.acceptor(), &psk).await;
    let error = server.unwrap_err();
    assert_eq!((error.reason.word(), client), ("no_shared_group", Err(40)));
    assert!(error.text.contains("offered: secp384r1"), "{}", error.text);
    site.tls().psk.ke = true;
    let acceptor = site.acceptor();
    let (server, client) = connect(&acceptor, &psk).await;
    assert!(client.is_ok());
    assert_eq!(
        proved(server),
        ("dev-1".to_owned(), KeySlot::Current, "1.3")
    );
    psk.key = b"wrong key wrong!".to_vec();
    let (server, client) = connect(&acceptor, &psk).await;
    assert_eq!(server.unwrap_err().reason, "psk_wrong_key");
    assert_eq!(client, Err(47));
}

/// A session file for `s_client`, whose suite says that the key is used with SHA-384.
fn session_file(site: &Site, key: &[u8]) -> std::path::PathBuf {
    use base64::Engine as _;
    let der = openssl_psk_session::sha384_session(key).unwrap();
    let der = der.to_der().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let marks = "SSL SESSION PARAMETERS-----";
    let pem = format!(
        "-----BEGIN {marks}\n{}\n-----END {marks}\n",
        lines.join("\n")
    );
    site.write("session.pem", &pem)
}

#[tokio::test]
async fn a_key_registered_for_sha_384_is_used_with_it_and_with_nothing_else() {
    let site = Site::new();
    for (identity, key, psk_only, reason) in [
        ("sha384", LONG_KEY, false, Ok("sha384")),
        ("sha384", LONG_KEY, true, Ok("sha384")),
        ("sha384", NEXT, false, Err("psk_wrong_key")),
        ("dev-1", KEY, false, Err("psk_wrong_hash")),
        ("dev-2", KEY, false, Err("psk_unknown")),
    ] {
        let session = session_file(&site, key);
        let acceptor = if psk_only {
            Site::psk_only().acceptor()
        } else {
            site.acceptor()
        };
        let (server, output) = outside(&acceptor, "openssl", |address| {
            let mut words = vec![
                "s_client",
                "-tls1_3",
                "-ciphersuites",
                "TLS_AES_256_GCM_SHA384",
            ];
            words.extend([
                "-connect",
                address,
                "-psk_identity",
                identity,
                "-psk_session",
            ]);
            let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
            words.push(session.display().to_string());
            words
        })
        .await;
        match reason {
            Ok(name) => assert_eq!(proved(server), (name.to_owned(), KeySlot::Current, "1.3")),
            Err(reason) => {
                assert_eq!(server.expect_err(&output).reason, reason);
                assert!(output.contains("alert number 47"), "{reason}: {output}");
            }
        }
    }
    // With SHA-256, by a client that would take either.
    let (server, client) = connect(&site.acceptor(), &Psk::tls13(b"sha384", LONG_KEY)).await;
    let error = server.unwrap_err();
    assert_eq!((error.reason.word(), client), ("psk_wrong_hash", Err(47)));
    assert!(error.text.contains("hash = \"sha256\""), "{}", error.text);
    // In TLS 1.2 the suite says the hash.
    let (server, client) = connect(&site.acceptor(), &Psk::tls12(GCM, b"sha384", LONG_KEY)).await;
    assert_eq!(client, Ok(GCM.to_owned()));
    assert_eq!(proved(server).0, "sha384");
}

#[tokio::test]
async fn an_unknown_identity_and_a_wrong_key_look_alike_to_the_client() {
    let acceptor = Site::new().acceptor();
    let cases: [(&[u8], &[u8], &str); 6] = [
        (b"dev-1", b"wrong key wrong!", "psk_wrong_key"),
        (b"dev-1", &[0; 16], "psk_wrong_key"),
        (b"two", b"wrong key wrong!", "psk_wrong_key"),
        (b"nobody", KEY, "psk_unknown"),
        (b"\xff\xfe", KEY, "psk_identity_invalid"),
        (&[b'x'; 129], KEY, "psk_identity_invalid"),
    ];
    for (identity, key, reason) in cases {
        let (server, client) = connect(&acceptor, &Psk::tls12(GCM, identity, key)).await;
        assert_eq!(server.unwrap_err().reason, reason);
        assert_eq!(client, Err(20), "{reason}: bad_record_mac");
        let (server, client) = connect(&acceptor, &Psk::tls13(identity, key)).await;
        let error = server.unwrap_err();
        assert_eq!(
            (error.reason.word(), error.credential, error.version),
            (reason, "psk", "1.3")
        );
        assert_eq!(client, Err(47), "{reason}: illegal_parameter");
    }
}

#[tokio::test]
async fn what_a_refused_identity_holds_is_escaped_and_no_key_is_shown() {
    let acceptor = Site::new().acceptor();
    let psk = Psk::tls12(GCM, b"evil\n\x1b[31m", b"wrong key wrong!");
    let text = connect(&acceptor, &psk).await.0.unwrap_err().text;
    assert!(
        text.contains(r"evil\n\x1b[31m") && !text.chars().any(char::is_control),
        "{text}"
    );
    let psk = Psk::tls13(b"dev-1", b"wrong key wrong!");
    let text = connect(&acceptor, &psk).await.0.unwrap_err().text;
    assert!(
        text.contains("dev-1") && !text.contains("0123456789abcdef"),
        "{text}"
    );
}

/// OpenSSL can finish a certificate handshake when the hash of a PSK does not fit the suites
/// offered, after its callback has seen the identity. From outside: no handshake, whatever the
/// key. The unit tests of `tls::psk` open each of the locks in turn.
#[tokio::test]
async fn a_psk_whose_hash_does_not_fit_never_becomes_a_certificate_handshake() {
    for acceptor in [Site::new().acceptor(), Site::psk_only().acceptor()] {
        for (key, alert, reason) in [
            (KEY, 40, "no_shared_suite"),
            (&b"wrong key wrong!"[..], 40, "no_shared_suite"),
        ] {
            let mut psk = Psk::tls13(b"dev-1", key);
            psk.suites = "TLS_AES_256_GCM_SHA384";
            let (server, client) = connect(&acceptor, &psk).await;
            assert_eq!(client, Err(alert));
            assert_eq!(server.unwrap_err().reason, reason);
        }
    }
}

#[tokio::test]
async fn identities_up_to_128_bytes_of_utf8_are_taken_as_sent() {
    let long = "é".repeat(64);
    let names = [long, "dévicé/日本".to_owned(), "x".to_owned()];
    let site = Site::new();
    let known = names.clone();
    let lookup: iothub_gateway::tls::PskLookup = Arc::new(move |identity| {
        known
            .iter()
            .any(|name| name.as_bytes() == identity)
            .then(|| {
                let key = iothub_gateway::config::secret::Secret::new(KEY.to_vec());
                iothub_gateway::tls::PskKeys {
                    key,
                    next_key: None,
                    hash: PskHash::Sha256,
                }
            })
    });
    let acceptor = Arc::new(Acceptor::new(&site.listener, lookup, site.limits).unwrap());
    for name in names {
        for psk in [
            Psk::tls13(name.as_bytes(), KEY),
            Psk::tls12(GCM, name.as_bytes(), KEY),
        ] {
            let (server, client) = connect(&acceptor, &psk).await;
            assert!(client.is_ok(), "{name}");
            assert_eq!(proved(server).0, name);
        }
    }
}

#[tokio::test]
async fn during_a_rotation_both_keys_work_in_tls_1_3_in_any_order() {
    let acceptor = Site::new().acceptor();
    for (key, slot) in [
        (NEXT, KeySlot::Next),
        (KEY, KeySlot::Current),
        (KEY, KeySlot::Current),
        (NEXT, KeySlot::Next),
    ] {
        let (server, client) = connect(&acceptor, &Psk::tls13(b"two", key)).await;
        assert!(client.is_ok());
        assert_eq!(proved(server), ("two".to_owned(), slot, "1.3"));
    }
}

#[tokio::test]
async fn during_a_rotation_the_other_key_works_at_the_second_attempt_in_tls_1_2() {
    let acceptor = Site::new().acceptor();
    let with = |key| Psk::tls12(GCM, b"two", key);
    // The current key is tried first.
    assert_eq!(
        proved(connect(&acceptor, &with(KEY)).await.0).1,
        KeySlot::Current
    );
    // A device on the next key fails once, then gets in, and from then on at once.
    assert_eq!(
        connect(&acceptor, &with(NEXT)).await.0.unwrap_err().reason,
        "psk_wrong_key"
    );
    for _ in 0..2 {
        assert_eq!(
            proved(connect(&acceptor, &with(NEXT)).await.0).1,
            KeySlot::Next
        );
    }
    // And back.
    assert_eq!(
        connect(&acceptor, &with(KEY)).await.0.unwrap_err().reason,
        "psk_wrong_key"
    );
    assert_eq!(
        proved(connect(&acceptor, &with(KEY)).await.0).1,
        KeySlot::Current
    );
    // A key that is neither never gets in, however often it is tried.
    for _ in 0..4 {
        let psk = with(&b"wrong key wrong!"[..]);
        assert_eq!(
            connect(&acceptor, &psk).await.0.unwrap_err().reason,
            "psk_wrong_key"
        );
    }
}

#[tokio::test]
async fn a_mixed_tls_1_2_hello_follows_the_setting() {
    use iothub_gateway::config::Mixed;
    let suites = "ECDHE-ECDSA-AES128-GCM-SHA256:PSK-AES128-GCM-SHA256";
    let mut site = Site::new();
    let psk = Psk::tls12(suites, b"dev-1", KEY);
    let (server, client) = connect(&site.acceptor(), &psk).await;
    assert_eq!(client, Ok(GCM.to_owned()));
    assert_eq!(proved(server).0, "dev-1");
    site.tls().mixed = Mixed::Certificate;
    let (server, client) = connect(&site.acceptor(), &psk).await;
    assert_eq!(client, Ok("ECDHE-ECDSA-AES128-GCM-SHA256".to_owned()));
    assert!(matches!(server, Ok(Peer::Tls(session)) if session.version == "1.2"));
}
