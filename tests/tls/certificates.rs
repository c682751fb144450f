//! Clients with a certificate, and clients with none.

use crate::support::{
    Ca, Leaf, Outcome, Site, attempt, run_rustls, rustls_client, rustls_client_with_key,
    self_signed,
};
use iothub_gateway::tls::{Acceptor, HandshakeError, Peer};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use std::sync::Arc;

async fn connect(
    acceptor: &Arc<Acceptor>,
    config: rustls::ClientConfig,
) -> (Result<Peer, HandshakeError>, Outcome) {
    let config = Arc::new(config);
    attempt(acceptor, async |tcp| run_rustls(&config, tcp).await).await
}

/// Refused in both versions with this label and alert.
async fn assert_refused(
    acceptor: &Arc<Acceptor>,
    site: &Site,
    leaf: &Leaf,
    reason: &str,
    alert: u8,
) {
    for tls13 in [true, false] {
        let (server, client) = connect(acceptor, rustls_client(&site.ca, Some(leaf), tls13)).await;
        let error = server.unwrap_err();
        let version = if tls13 { "1.3" } else { "1.2" };
        assert_eq!(
            (error.reason.word(), error.credential, error.version),
            (reason, "x509", version)
        );
        assert_eq!(client, Err(alert), "{reason} in {version}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_proves_nothing_but_is_served() {
    let site = Site::new();
    for acceptor in [site.acceptor(), site.with_thumbprints(&[])] {
        for (tls13, version) in [(true, "1.3"), (false, "1.2")] {
            let (server, client) = connect(&acceptor, rustls_client(&site.ca, None, tls13)).await;
            assert!(client.is_ok());
            assert!(matches!(server, Ok(Peer::Tls(session)) if session.version == version));
        }
    }
}

#[tokio::test]
async fn a_chain_to_a_configured_ca_is_trusted_and_the_ca_is_named() {
    let mut site = Site::new();
    let (b, b_again) = (Ca::new("plant B"), Ca::new("plant B"));
    let bundle = [site.ca.pem.as_str(), b_again.pem.as_str(), b.pem.as_str()].concat();
    site.tls().client_ca = Some(site.write("bundle.pem", &bundle));
    let acceptor = site.acceptor();
    // Two CAs share a name: the one whose key signed is named, not the first of that name.
    for ca in [&site.ca, &b, &b_again] {
        let leaf = ca.sign(|_| {});
        for tls13 in [true, false] {
            let client = rustls_client(&site.ca, Some(&leaf), tls13);
            let (server, client) = connect(&acceptor, client).await;
            assert!(client.is_ok());
            let Ok(Peer::Certificate {
                chain,
                chain_trusted,
                anchor,
                ..
            }) = server
            else {
                panic!("{server:?}");
            };
            assert!(chain_trusted);
            assert_eq!(chain[0], leaf.chain[0].as_ref());
            assert_eq!(anchor.as_ref(), Some(&ca.der));
        }
    }
}

#[tokio::test]
async fn a_registered_certificate_is_let_through_but_not_trusted() {
    let site = Site::new();
    for is_ca in [false, true] {
        let leaf = self_signed(is_ca, 2100);
        let acceptor = site.with_thumbprints(&[&leaf]);
        let (server, client) = connect(&acceptor, rustls_client(&site.ca, Some(&leaf), true)).await;
        assert!(client.is_ok());
        let Ok(Peer::Certificate {
            chain_trusted,
            anchor,
            ..
        }) = server
        else {
            panic!("{server:?}");
        };
        assert!(!chain_trusted);
        assert_eq!(anchor, None);
        // Nobody registered this one.
        let other = self_signed(is_ca, 2100);
        assert_refused(&acceptor, &site, &other, "x509_unknown", 48).await;
        // Registered, but its time is over.
        let old = self_signed(is_ca, 2020);
        let acceptor = site.with_thumbprints(&[&old]);
        assert_refused(&acceptor, &site, &old, "x509_expired", 45).await;
    }
}

#[tokio::test]
async fn a_thief_of_a_certificate_without_its_key_is_refused() {
    let site = Site::new();
    let (signed, registered) = (site.ca.sign(|_| {}), self_signed(false, 2100));
    let acceptor = site.with_thumbprints(&[&registered]);
    for leaf in [&signed, &registered] {
        for tls13 in [true, false] {
            let key = self_signed(false, 2100).key.serialize_der();
            let thief = rustls_client_with_key(&site.ca, Some((leaf, key)), tls13);
            let (server, client) = connect(&acceptor, thief).await;
            assert_eq!(server.unwrap_err().reason, "x509_key_not_proved");
            assert_eq!(client, Err(51), "decrypt_error");
        }
    }
}

#[tokio::test]
async fn each_flaw_of_a_certificate_has_its_own_reason_and_alert() {
    let site = Site::new();
    let acceptor = site.acceptor();
    let expired = site
        .ca
        .sign(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_refused(&acceptor, &site, &expired, "x509_expired", 45).await;
    let early = site
        .ca
        .sign(|params| params.not_before = date_time_ymd(2100, 1, 1));
    assert_refused(&acceptor, &site, &early, "x509_not_yet_valid", 45).await;
    let server_only = site.ca.sign(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_refused(&acceptor, &site, &server_only, "x509_usage", 43).await;
    let stranger = Ca::new("plant X").sign(|_| {});
    assert_refused(&acceptor, &site, &stranger, "x509_unknown", 48).await;
    // Same name as the configured CA, another key.
    let impostor = Ca::new("plant A").sign(|_| {});
    let (server, _) = connect(&acceptor, rustls_client(&site.ca, Some(&impostor), true)).await;
    assert_eq!(server.unwrap_err().reason, "x509_bad_signature");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_even_if_registered_and_others_are_not() {
    let mut site = Site::new();
    let b = Ca::new("plant B");
    site.tls().client_ca = Some(site.write("bundle.pem", &format!("{}{}", site.ca.pem, b.pem)));
    site.tls().crl = Some(site.write("crl.pem", &site.ca.crl(77, 2100)));
    let revoked = site
        .ca
        .sign(|params| params.serial_number = Some(77_u64.into()));
    let acceptor = site.with_thumbprints(&[&revoked]);
    assert_refused(&acceptor, &site, &revoked, "x509_revoked", 44).await;
    // One of the same CA, and one of a CA without a list.
    for leaf in [
        site.ca
            .sign(|params| params.serial_number = Some(78_u64.into())),
        b.sign(|_| {}),
    ] {
        let (server, _) = connect(&acceptor, rustls_client(&site.ca, Some(&leaf), true)).await;
        assert!(
            matches!(
                server,
                Ok(Peer::Certificate {
                    chain_trusted: true,
                    ..
                })
            ),
            "{server:?}"
        );
    }
}

#[tokio::test]
async fn a_revocation_list_past_its_next_update_is_not_believed() {
    let mut site = Site::new();
    site.tls().crl = Some(site.write("crl.pem", &site.ca.crl(77, 2021)));
    let acceptor = site.acceptor();
    let leaf = site.ca.sign(|_| {});
    let (server, _) = connect(&acceptor, rustls_client(&site.ca, Some(&leaf), true)).await;
    assert_eq!(server.unwrap_err().reason, "x509_crl_expired");
}

#[tokio::test]
async fn a_chain_of_a_hundred_certificates_is_refused_unread() {
    let site = Site::new();
    let acceptor = site.acceptor();
    let mut leaf = site.ca.sign(|_| {});
    let filler = Ca::new("plant A").sign(|_| {}).chain[0].clone();
    leaf.chain.extend(std::iter::repeat_n(filler, 99));
    let (server, client) = connect(&acceptor, rustls_client(&site.ca, Some(&leaf), true)).await;
    assert_eq!(server.unwrap_err().reason, "x509_chain_too_long");
    assert!(client.is_err());
}

#[tokio::test]
async fn no_session_is_resumed_so_that_every_certificate_is_judged_again() {
    let site = Site::new();
    let acceptor = site.acceptor();
    let leaf = site.ca.sign(|_| {});
    for tls13 in [true, false] {
        let config = Arc::new(rustls_client(&site.ca, Some(&leaf), tls13));
        for _ in 0..2 {
            let run = async |tcp| run_rustls(&config, tcp).await;
            let (server, client) = attempt(&acceptor, run).await;
            assert!(matches!(server, Ok(Peer::Certificate { .. })));
            assert!(client.is_ok_and(|kind| kind.starts_with("Full")));
        }
    }
}

#[tokio::test]
async fn a_listener_without_a_certificate_refuses_certificate_clients_with_an_alert() {
    let site = Site::psk_only();
    let acceptor = site.acceptor();
    for tls13 in [true, false] {
        let (server, client) = connect(&acceptor, rustls_client(&site.ca, None, tls13)).await;
        assert_eq!(server.unwrap_err().reason, "no_shared_suite");
        assert_eq!(client, Err(40), "handshake_failure");
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_server_says_so_and_is_told_apart() {
    let site = Site::new();
    let (server, _) = connect(
        &site.acceptor(),
        rustls_client(&Ca::new("plant X"), None, true),
    )
    .await;
    let error = server.unwrap_err();
    assert_eq!(error.reason.word(), "client_alert");
    assert!(
        error.text.contains("does not trust the server certificate"),
        "{}",
        error.text
    );
}

#[tokio::test]
async fn a_reload_takes_all_or_nothing_and_is_used_at_the_next_handshake() {
    let site = Site::new();
    let acceptor = site.acceptor();
    let b = Ca::new("plant B");
    let (of_a, of_b) = (site.ca.sign(|_| {}), b.sign(|_| {}));
    let admitted = async |leaf: &Leaf| {
        connect(&acceptor, rustls_client(&site.ca, Some(leaf), true))
            .await
            .0
            .is_ok()
    };
    assert!(admitted(&of_a).await && !admitted(&of_b).await);
    // Half a set: the CA is new, the key is broken.
    let key = std::fs::read(site.folder.join("server.key")).unwrap();
    site.write("ca.pem", &b.pem);
    site.write("server.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n");
    let problems = acceptor.reload().unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("tls.key") && problems[0].contains("server.key"));
    assert!(admitted(&of_a).await && !admitted(&of_b).await);
    std::fs::write(site.folder.join("server.key"), key).unwrap();
    acceptor.reload().unwrap();
    assert!(!admitted(&of_a).await && admitted(&of_b).await);
}

#[test]
fn every_problem_of_the_files_is_named_with_its_setting_in_one_run() {
    let mut site = Site::new();
    site.tls().cert = Some(site.folder.join("missing.pem"));
    site.tls().key = Some(site.write("empty.key", "nothing here"));
    site.tls().client_ca = Some(site.write("ca.pem", &site.ca.pem.replace("MII", "MIQ")));
    site.tls().crl = Some(site.write("crl.pem", &site.ca.pem));
    let lookup: iothub_gateway::tls::PskLookup = Arc::new(|_| None);
    let problems = Acceptor::new(&site.listener, lookup, site.limits)
        .err()
        .unwrap();
    for key in ["tls.cert", "tls.key", "tls.client_ca", "tls.crl"] {
        let found = problems
            .iter()
            .filter(|problem| problem.contains(key))
            .count();
        assert_eq!(found, 1, "{key}: {problems:#?}");
    }
}

#[test]
fn a_key_of_another_certificate_is_found_at_load() {
    let site = Site::new();
    site.write("server.key", &self_signed(false, 2100).key.serialize_pem());
    let lookup: iothub_gateway::tls::PskLookup = Arc::new(|_| None);
    let problems = Acceptor::new(&site.listener, lookup, site.limits)
        .err()
        .unwrap();
    assert!(
        problems[0].contains("does not belong to the first certificate"),
        "{problems:?}"
    );
}

#[test]
fn the_earliest_end_in_a_file_is_reported() {
    let mut site = Site::new();
    site.tls().crl = Some(site.write("crl.pem", &site.ca.crl(1, 2030)));
    let expiries = site.acceptor().expiries();
    let of = |name: &str| {
        expiries
            .iter()
            .find(|expiry| expiry.file.ends_with(name))
            .map(|expiry| expiry.at.as_secs())
    };
    assert_eq!(of("crl.pem"), Some(1_893_456_000));
    assert!(of("server.pem").is_some() && of("ca.pem").is_some());
}
