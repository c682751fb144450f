//! Certificates as older tools make them, by OpenSSL on both sides of the CA's desk.

use crate::support::{Site, attempt, run_rustls, rustls_client_with_key};
use iothub_gateway::tls::{
    Acceptor, CertificateRules, HandshakeError, OldCertificate, Peer, PskLookup,
};
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVersion};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use openssl::x509::{X509, X509Builder, X509Name};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::AsyncReadExt;

type Key = PKey<Private>;

fn ec(curve: Nid) -> Key {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn p256() -> Key {
    ec(Nid::X9_62_PRIME256V1)
}

fn rsa(bits: u32) -> Key {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// What a certificate is made with.
struct Made {
    version: i32,
    serial: u32,
    days: u32,
    digest: MessageDigest,
}

const V1: i32 = 0;
const V3: i32 = 2;

fn made() -> Made {
    Made {
        version: V3,
        serial: 7,
        days: 30,
        digest: MessageDigest::sha256(),
    }
}

fn name(common: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", common).unwrap();
    name.build()
}

/// A certificate for `key`, signed by `by` or by itself.
fn certificate(
    made: &Made,
    common: &str,
    key: &Key,
    by: Option<&Authority>,
    extend: impl FnOnce(&mut X509Builder),
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(made.version).unwrap();
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(made.serial).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    let start = Asn1Time::from_str("20200101000000Z").unwrap();
    builder.set_not_before(&start).unwrap();
    let end = match made.days {
        0 => Asn1Time::from_str("20210101000000Z").unwrap(),
        days => Asn1Time::days_from_now(days).unwrap(),
    };
    builder.set_not_after(&end).unwrap();
    let subject = name(common);
    builder.set_subject_name(&subject).unwrap();
    let issuer = by.map_or(&subject, |by| &by.name);
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    extend(&mut builder);
    builder
        .sign(by.map_or(key, |by| &by.key), made.digest)
        .unwrap();
    builder.build()
}

struct Authority {
    name: X509Name,
    key: Key,
    certificate: X509,
}

impl Authority {
    fn new(common: &str, key: Key) -> Self {
        let certificate = certificate(&made(), common, &key, None, |builder| {
            let ca = BasicConstraints::new().critical().ca().build().unwrap();
            builder.append_extension(ca).unwrap();
        });
        let name = name(common);
        Self {
            name,
            key,
            certificate,
        }
    }

    fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }
}

/// A listener that trusts `by`, with rules that admit `old` and register `registered`.
fn acceptor(
    site: &mut Site,
    by: &Authority,
    old: &'static [OldCertificate],
    registered: &X509,
) -> Arc<Acceptor> {
    let ca = site.write("old-ca.pem", &by.pem());
    site.tls().client_ca = Some(ca);
    let registered = registered.to_der().unwrap();
    let rules = CertificateRules {
        registered: Arc::new(move |der| der == registered),
        admits: Arc::new(|kind| old.contains(&kind)),
    };
    let nobody: PskLookup = Arc::new(|_| None);
    Arc::new(Acceptor::with_rules(&site.listener, nobody, rules, site.limits).unwrap())
}

/// The device: what the gateway says, and the alert it gets (0 for none).
async fn connect(
    acceptor: &Arc<Acceptor>,
    chain: &X509,
    key: &Key,
    version: SslVersion,
) -> (Result<Peer, HandshakeError>, u8) {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_security_level(0);
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder
        .set_sigalgs_list("ECDSA+SHA256:RSA+SHA256:RSA-PSS+SHA256:ECDSA+SHA1:RSA+SHA1")
        .unwrap();
    builder.set_certificate(chain).unwrap();
    // A thief has another key; the library must not look.
    builder.set_private_key(key).unwrap();
    let ssl = Ssl::new(&builder.build()).unwrap();
    attempt(acceptor, async move |tcp| {
        let mut stream = tokio_openssl::SslStream::new(ssl, tcp).unwrap();
        let alert = |error: &openssl::ssl::Error| {
            let codes = error
                .ssl_error()
                .into_iter()
                .flat_map(|stack| stack.errors());
            let mut codes = codes.filter_map(|code| u8::try_from(code.reason_code() - 1000).ok());
            codes.next().unwrap_or(0)
        };
        if let Err(error) = Pin::new(&mut stream).connect().await {
            return alert(&error);
        }
        use tokio::io::AsyncWriteExt as _;
        let _ = stream.write_u8(42).await;
        match stream.read_u8().await {
            Ok(_) => 0,
            Err(error) => error
                .get_ref()
                .and_then(|inner| inner.downcast_ref())
                .map_or(0, alert),
        }
    })
    .await
}

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_3, SslVersion::TLS1_2];

async fn refused(acceptor: &Arc<Acceptor>, chain: &X509, key: &Key, reason: &str, alert: u8) {
    for version in VERSIONS {
        let (server, got) = connect(acceptor, chain, key, version).await;
        let error = server.unwrap_err();
        assert_eq!(
            (error.reason.word(), got),
            (reason, alert),
            "{}",
            error.text
        );
    }
}

/// Somebody who has the certificate and not its key: a rustls client, because OpenSSL's does not
/// present a certificate with a key that is not its own.
async fn thief(acceptor: &Arc<Acceptor>, site: &Site, chain: &X509) {
    let mut leaf = site.ca.sign(|_| {});
    leaf.chain = vec![chain.to_der().unwrap().into()];
    for tls13 in [true, false] {
        let key = leaf.key.serialize_der();
        let client = rustls_client_with_key(&site.ca, Some((&leaf, key)), tls13);
        let client = Arc::new(client);
        let (server, got) = attempt(acceptor, async |tcp| run_rustls(&client, tcp).await).await;
        assert_eq!(server.unwrap_err().reason, "x509_key_not_proved");
        assert_eq!(got, Err(51), "decrypt_error");
    }
}

/// Admitted in both versions; with the CA that vouches for it, if one does.
async fn admitted(acceptor: &Arc<Acceptor>, chain: &X509, key: &Key, by: Option<&Authority>) {
    for version in VERSIONS {
        let (server, alert) = connect(acceptor, chain, key, version).await;
        let Ok(Peer::Certificate {
            chain_trusted,
            anchor,
            ..
        }) = server
        else {
            panic!("{server:?}");
        };
        assert_eq!((chain_trusted, alert), (by.is_some(), 0));
        assert_eq!(anchor, by.map(|by| by.certificate.to_der().unwrap()));
    }
}

const OLD: &[OldCertificate] = &[OldCertificate::V1, OldCertificate::AnyEku];

#[tokio::test]
async fn a_certificate_of_version_1_is_admitted_only_where_a_rule_says_so() {
    let mut site = Site::new();
    let v1 = Made {
        version: V1,
        ..made()
    };
    for key in [p256(), rsa(2048)] {
        let by = Authority::new("plant A", rsa(2048));
        let leaf = certificate(&v1, "dev-1", &key, Some(&by), |_| {});
        let alone = certificate(&v1, "dev-1", &key, None, |_| {});
        let closed = acceptor(&mut site, &by, &[OldCertificate::AnyEku], &alone);
        let open = acceptor(&mut site, &by, &[OldCertificate::V1], &alone);
        for chain in [&leaf, &alone] {
            refused(&closed, chain, &key, "x509_v1", 43).await;
        }
        admitted(&open, &leaf, &key, Some(&by)).await;
        admitted(&open, &alone, &key, None).await;
    }
}

#[tokio::test]
async fn nothing_else_is_given_up_for_version_1() {
    let mut site = Site::new();
    let key = p256();
    let by = Authority::new("plant A", p256());
    let impostor = Authority::new("plant A", p256());
    let stranger = Authority::new("plant X", p256());
    let old = |serial, days| Made {
        version: V1,
        serial,
        days,
        ..made()
    };
    let good = certificate(&old(7, 30), "dev-1", &key, Some(&by), |_| {});
    let open = acceptor(&mut site, &by, OLD, &impostor.certificate);
    admitted(&open, &good, &key, Some(&by)).await;
    let row = |made: &Made, by: &Authority| certificate(made, "dev-1", &key, Some(by), |_| {});
    let expired = row(&old(7, 0), &by);
    refused(&open, &expired, &key, "x509_expired", 45).await;
    let unknown = row(&old(7, 30), &stranger);
    refused(&open, &unknown, &key, "x509_unknown", 48).await;
    let forged = row(&old(7, 30), &impostor);
    refused(&open, &forged, &key, "x509_bad_signature", 51).await;
    let sha1 = Made {
        digest: MessageDigest::sha1(),
        ..old(7, 30)
    };
    let weak = row(&sha1, &by);
    for version in VERSIONS {
        let (server, _) = connect(&open, &weak, &key, version).await;
        assert_eq!(server.unwrap_err().reason, "x509_signature_algorithm");
    }
}

#[tokio::test]
async fn a_revoked_certificate_of_version_1_is_refused_and_so_is_one_without_its_key() {
    let mut site = Site::new();
    let old = |serial| Made {
        version: V1,
        serial,
        ..made()
    };
    // The CA of the site makes lists; its key signs the certificates here.
    let key = PKey::private_key_from_pem(site.ca.key_pem().as_bytes()).unwrap();
    let by = Authority {
        name: X509::from_der(&site.ca.der)
            .unwrap()
            .subject_name()
            .to_owned()
            .unwrap(),
        key,
        certificate: X509::from_der(&site.ca.der).unwrap(),
    };
    let key = p256();
    let revoked = certificate(&old(77), "dev-1", &key, Some(&by), |_| {});
    let good = certificate(&old(78), "dev-2", &key, Some(&by), |_| {});
    site.tls().crl = Some(site.write("crl.pem", &site.ca.crl(77, 2100)));
    let open = acceptor(&mut site, &by, OLD, &revoked);
    refused(&open, &revoked, &key, "x509_revoked", 44).await;
    admitted(&open, &good, &key, Some(&by)).await;
    thief(&open, &site, &good).await;
    site.tls().crl = Some(site.write("crl.pem", &site.ca.crl(77, 2021)));
    let open = acceptor(&mut site, &by, OLD, &by.certificate);
    for version in VERSIONS {
        let (server, _) = connect(&open, &good, &key, version).await;
        assert_eq!(server.unwrap_err().reason, "x509_crl_expired");
    }
}

#[tokio::test]
async fn any_extended_key_usage_is_admitted_only_where_a_rule_says_so() {
    let mut site = Site::new();
    let (key, by) = (p256(), Authority::new("plant A", p256()));
    let extend = |builder: &mut X509Builder| {
        let usage = ExtendedKeyUsage::new()
            .other("2.5.29.37.0")
            .build()
            .unwrap();
        builder.append_extension(usage).unwrap();
    };
    let leaf = certificate(&made(), "dev-1", &key, Some(&by), extend);
    let alone = certificate(&made(), "dev-1", &key, None, extend);
    let closed = acceptor(&mut site, &by, &[OldCertificate::V1], &alone);
    let open = acceptor(&mut site, &by, &[OldCertificate::AnyEku], &alone);
    for chain in [&leaf, &alone] {
        refused(&closed, chain, &key, "x509_any_eku", 43).await;
    }
    admitted(&open, &leaf, &key, Some(&by)).await;
    admitted(&open, &alone, &key, None).await;
    let server_only = certificate(&made(), "dev-1", &key, Some(&by), |builder| {
        let usage = ExtendedKeyUsage::new().server_auth().build().unwrap();
        builder.append_extension(usage).unwrap();
    });
    refused(&open, &server_only, &key, "x509_usage", 43).await;
}

#[tokio::test]
async fn a_key_that_may_not_sign_proves_nothing() {
    let mut site = Site::new();
    let (key, by) = (rsa(2048), Authority::new("plant A", p256()));
    let with = |may_sign: bool| {
        move |builder: &mut X509Builder| {
            let mut usage = KeyUsage::new();
            usage.critical().key_encipherment();
            if may_sign {
                usage.digital_signature();
            }
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
    };
    for by in [Some(&by), None] {
        let authority = Authority::new("plant A", p256());
        let trusted = by.unwrap_or(&authority);
        let leaf = certificate(&made(), "dev-1", &key, by, with(false));
        let closed = acceptor(&mut site, trusted, OLD, &leaf);
        refused(&closed, &leaf, &key, "x509_key_usage", 43).await;
        let leaf = certificate(&made(), "dev-1", &key, by, with(true));
        let open = acceptor(&mut site, trusted, OLD, &leaf);
        admitted(&open, &leaf, &key, by).await;
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_checked_is_named_as_what_it_is() {
    let mut site = Site::new();
    let good = Authority::new("plant A", p256());
    let small = Authority::new("plant A", rsa(1024));
    for (key, by, reason) in [
        (rsa(1024), Some(&good), "x509_key_too_small"),
        (rsa(1024), None, "x509_key_too_small"),
        (p256(), Some(&small), "x509_key_too_small"),
        (ec(Nid::SECP256K1), Some(&good), "x509_key_unsupported"),
        (ec(Nid::SECP256K1), None, "x509_key_unsupported"),
    ] {
        let leaf = certificate(&made(), "dev-1", &key, by, |_| {});
        let acceptor = acceptor(&mut site, by.unwrap_or(&good), OLD, &leaf);
        // Registered ones, and those of a CA whose key is too small, are let in by thumbprint.
        let (server, _) = connect(&acceptor, &leaf, &key, SslVersion::TLS1_2).await;
        match (server, by) {
            (Ok(Peer::Certificate { .. }), Some(by)) if by.key.bits() == 1024 => {}
            (server, _) => assert_eq!(server.unwrap_err().reason, reason),
        }
    }
    let leaf = certificate(&made(), "dev-1", &p256(), Some(&small), |_| {});
    let key = p256();
    let other = certificate(&made(), "dev-1", &key, Some(&small), |_| {});
    let acceptor = acceptor(&mut site, &small, OLD, &leaf);
    let (server, _) = connect(&acceptor, &other, &key, SslVersion::TLS1_3).await;
    assert_eq!(server.unwrap_err().reason, "x509_key_too_small");
}

#[tokio::test]
async fn sha_1_signatures_and_a_ca_s_own_certificate_have_words_of_their_own() {
    let mut site = Site::new();
    let (key, by) = (p256(), Authority::new("plant A", p256()));
    let none = certificate(&made(), "none", &p256(), None, |_| {});
    let acceptor = acceptor(&mut site, &by, OLD, &none);
    let sha1 = Made {
        digest: MessageDigest::sha1(),
        ..made()
    };
    let leaf = certificate(&sha1, "dev-1", &key, Some(&by), |_| {});
    let (server, _) = connect(&acceptor, &leaf, &key, SslVersion::TLS1_3).await;
    let error = server.unwrap_err();
    assert_eq!(error.reason, "x509_signature_algorithm");
    assert!(error.text.contains("SHA-1"), "{}", error.text);
    let ca = certificate(&made(), "dev-1", &key, Some(&by), |builder| {
        let ca = BasicConstraints::new().critical().ca().build().unwrap();
        builder.append_extension(ca).unwrap();
    });
    let (server, _) = connect(&acceptor, &ca, &key, SslVersion::TLS1_3).await;
    assert_eq!(server.unwrap_err().reason, "x509_is_ca");
}
