//! Libraries of small devices: wolfSSL, mbedTLS, GnuTLS and OpenSSL as Debian ships them. Built
//! only with `--features interop`; `tests/run` installs them.
//!
//! What they cannot: mbedTLS 2.28 has no TLS 1.3, and takes no handshake message in two records;
//! Debian's wolfSSL 5.5 has no plain PSK but with ChaCha20, and no CBC with SHA-1; GnuTLS 3.7 uses
//! keys with SHA-256 alone, and crashes after ECDHE-PSK and DHE-PSK in TLS 1.2, on every server.

use crate::outside::outside;
use crate::support::{KEY, LONG_KEY, Site};
use iothub_gateway::tls::{Acceptor, HandshakeError, Peer};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

fn hex(key: &[u8]) -> String {
    key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Compiles `tests/tls/clients/NAME.c`, for one test alone.
fn compiled(name: &str, site: &Site, libraries: &[&str]) -> PathBuf {
    let program = site.folder.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/tls/clients/{name}.c"));
    let libraries = libraries.iter().map(|library| format!("-l{library}"));
    let built = Command::new("cc")
        .args(["-O1", "-Wall", "-o"])
        .args([&program, &source])
        .args(libraries)
        .status();
    assert!(
        built.unwrap().success(),
        "{name}: tests/run installs the library"
    );
    program
}

type Outcome = (Result<Peer, HandshakeError>, String);

async fn run(acceptor: &Arc<Acceptor>, program: &Path, words: &str) -> Outcome {
    outside(acceptor, program, |address| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let words = words.replace("HOST", host).replace("PORT", port);
        words.split_whitespace().map(str::to_owned).collect()
    })
    .await
}

#[track_caller]
fn proved(outcome: Outcome, who: &str, version: &str) {
    match outcome {
        (
            Ok(Peer::Psk {
                identity, session, ..
            }),
            _,
        ) => assert_eq!((&*identity, session.version), (who, version)),
        other => panic!("{who}: {other:?}"),
    }
}

#[track_caller]
fn refused(outcome: Outcome, reason: &str) {
    let (server, output) = outcome;
    assert_eq!(server.expect_err(&output).reason, reason, "{output}");
}

#[tokio::test]
async fn wolfssl_proves_its_key_in_tls_1_2_and_1_3() {
    let mut site = Site::new();
    let client = compiled("wolfssl", &site, &["wolfssl"]);
    site.tls().psk.ffdhe = true;
    let acceptor = site.acceptor();
    let (key, long) = (hex(KEY), hex(LONG_KEY));
    for (version, suite, id, key) in [
        ("1.2", "ECDHE-PSK-CHACHA20-POLY1305", "dev-1", &key),
        ("1.2", "ECDHE-PSK-AES128-CBC-SHA256", "dev-1", &key),
        ("1.2", "DHE-PSK-AES128-GCM-SHA256", "dev-1", &key),
        ("1.2", "DHE-PSK-AES128-CCM", "dev-1", &key),
        ("1.3", "TLS13-AES128-GCM-SHA256", "dev-1", &key),
        ("1.3", "TLS13-CHACHA20-POLY1305-SHA256", "dev-1", &key),
        ("1.3", "TLS13-AES128-CCM-SHA256", "dev-1", &key),
        ("1.3", "TLS13-AES128-CCM-8-SHA256", "dev-1", &key),
        ("1.3", "TLS13-AES256-GCM-SHA384", "sha384", &long),
    ] {
        let words = format!("HOST PORT {version} {suite} {id} {key}");
        let outcome = run(&acceptor, &client, &words).await;
        assert!(!outcome.1.contains("does not know"), "{suite}");
        proved(outcome, id, version);
    }
    let words = format!("HOST PORT 1.3 TLS13-AES256-GCM-SHA384 dev-1 {key}");
    refused(run(&acceptor, &client, &words).await, "psk_wrong_hash");
}

#[tokio::test]
async fn mbedtls_proves_its_key_and_gets_the_records_it_asks_for() {
    let mut site = Site::new();
    let client = compiled("mbedtls", &site, &["mbedtls", "mbedx509", "mbedcrypto"]);
    site.tls().psk.ffdhe = true;
    let acceptor = site.acceptor();
    let key = hex(KEY);
    for suite in [
        "TLS-PSK-WITH-AES-128-CCM-8",
        "TLS-PSK-WITH-AES-128-CCM",
        "TLS-PSK-WITH-AES-128-GCM-SHA256",
        "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256",
        "TLS-ECDHE-PSK-WITH-AES-128-CBC-SHA256",
        "TLS-DHE-PSK-WITH-AES-128-CCM-8",
    ] {
        let words = format!("HOST PORT {suite} 0 dev-1 {key}");
        proved(run(&acceptor, &client, &words).await, "dev-1", "1.2");
    }
    let words = format!("HOST PORT TLS-PSK-WITH-AES-128-CBC-SHA 0 dev-1 {key}");
    let (server, _) = run(&acceptor, &client, &words).await;
    let error = server.unwrap_err();
    assert_eq!(error.reason, "no_shared_suite");
    let named = "offered: TLS_PSK_WITH_AES_128_CBC_SHA; tls.psk_cbc_sha1 = true";
    assert!(error.text.contains(named), "{}", error.text);

    // The same with a certificate of the server's, where the extension is not answered.
    let by_certificate = "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256";
    for (fragment, longest) in [(0, 3000), (512, 512), (1024, 1024)] {
        let psk = format!("HOST PORT TLS-PSK-WITH-AES-128-CCM-8 {fragment} dev-1 {key}");
        let plain = format!("HOST PORT {by_certificate} {fragment}");
        for words in [psk, plain] {
            let (server, output) = run(&acceptor, &client, &words).await;
            assert!(server.is_ok(), "{server:?} {output}");
            let expected = format!("longest={longest} all=3000");
            assert!(output.contains(&expected), "{words}: {output}");
        }
    }
}

#[tokio::test]
async fn gnutls_proves_its_key_in_both_versions_and_without_an_ephemeral_exchange() {
    let mut site = Site::new();
    let closed = site.acceptor();
    site.tls().psk.ke = true;
    let open = site.acceptor();
    let key = hex(KEY);
    let words = |priority: &str| {
        format!(
            "--insecure --pskusername dev-1 --pskkey {key} --port PORT HOST \
             --priority NORMAL:-VERS-ALL:-KX-ALL:{priority}"
        )
    };
    let client = Path::new("gnutls-cli");
    for (priority, version) in [
        ("+VERS-TLS1.2:+PSK", "1.2"),
        ("+VERS-TLS1.2:+PSK:-CIPHER-ALL:+AES-128-CCM-8", "1.2"),
        ("+VERS-TLS1.3:+ECDHE-PSK", "1.3"),
        ("+VERS-TLS1.3:+ECDHE-PSK:-CIPHER-ALL:+AES-128-CCM", "1.3"),
        ("+VERS-TLS1.3:+ECDHE-PSK:-CIPHER-ALL:+AES-128-CCM-8", "1.3"),
    ] {
        proved(
            run(&closed, client, &words(priority)).await,
            "dev-1",
            version,
        );
    }
    let alone = words("+VERS-TLS1.3:+PSK");
    let (server, _) = run(&closed, client, &alone).await;
    let error = server.unwrap_err();
    assert_eq!(error.reason, "no_shared_mode");
    assert!(error.text.contains("offered: psk_ke;"), "{}", error.text);
    proved(run(&open, client, &alone).await, "dev-1", "1.3");
    let group = words("+VERS-TLS1.3:+ECDHE-PSK:-GROUP-ALL:+GROUP-SECP384R1");
    let (server, _) = run(&closed, client, &group).await;
    let error = server.unwrap_err();
    assert_eq!(error.reason, "no_shared_group");
    assert!(error.text.contains("offered: secp384r1;"), "{}", error.text);
}

#[tokio::test]
async fn openssl_s_client_proves_its_key_with_the_suites_of_small_devices() {
    let mut site = Site::new();
    site.tls().psk.cbc_sha1 = true;
    site.tls().psk.ffdhe = true;
    let acceptor = site.acceptor();
    let key = hex(KEY);
    for (version, suite) in [
        ("1.2", "-tls1_2 -cipher PSK-AES128-CCM8:@SECLEVEL=0"),
        ("1.2", "-tls1_2 -cipher PSK-AES128-CBC-SHA"),
        ("1.2", "-tls1_2 -cipher DHE-PSK-AES128-CBC-SHA"),
        ("1.3", "-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256"),
        ("1.3", "-tls1_3 -ciphersuites TLS_AES_128_CCM_8_SHA256"),
    ] {
        let words =
            format!("s_client -quiet -connect HOST:PORT -psk_identity dev-1 -psk {key} {suite}");
        let outcome = run(&acceptor, Path::new("openssl"), &words).await;
        proved(outcome, "dev-1", version);
    }
}
