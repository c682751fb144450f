//! Which suites, groups and modes a listener serves to PSK clients. Pure.
//!
//! One table for the library's settings and for the judgement about a hello, so that a client
//! with nothing in common is refused by name, before any identity is looked at.

use crate::config::PskConfig;
use crate::telemetry::reason::Reason;
use crate::tls::hello::Hello;
use crate::tls::offer;
use crate::tls::refusal::Refusal;
use crate::tls::{PskHash, hello};

/// How a suite agrees on keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// TLS 1.3: the suite does not say; the number is its hash.
    Any(PskHash),
    /// TLS 1.2, from the PSK alone.
    Plain,
    /// TLS 1.2, with an ephemeral exchange over an elliptic curve.
    Ecdhe,
    /// TLS 1.2, with an ephemeral exchange in a finite field: 27 times the cost of a plain PSK.
    Ffdhe,
}
use Exchange::{Any, Ecdhe, Ffdhe, Plain};

/// A suite that can be served, by OpenSSL's name.
struct Suite(u16, &'static str, Exchange);

/// RFC 8446, 5487, 5489, 6655, 7905; with SHA-1, RFC 4279 and 5489. In TLS 1.2 the client's order
/// decides: a small device knows what it can afford. No NULL, no RSA-PSK; RFC 8442 (ECDHE-PSK
/// with GCM) is not in OpenSSL.
const SUITES: &[Suite] = &[
    Suite(0x1301, "TLS_AES_128_GCM_SHA256", Any(PskHash::Sha256)),
    Suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", Any(PskHash::Sha256)),
    Suite(0x1304, "TLS_AES_128_CCM_SHA256", Any(PskHash::Sha256)),
    Suite(0x1305, "TLS_AES_128_CCM_8_SHA256", Any(PskHash::Sha256)),
    Suite(0x1302, "TLS_AES_256_GCM_SHA384", Any(PskHash::Sha384)),
    Suite(0xccac, "ECDHE-PSK-CHACHA20-POLY1305", Ecdhe),
    Suite(0xc037, "ECDHE-PSK-AES128-CBC-SHA256", Ecdhe),
    Suite(0x00a8, "PSK-AES128-GCM-SHA256", Plain),
    Suite(0x00a9, "PSK-AES256-GCM-SHA384", Plain),
    Suite(0xccab, "PSK-CHACHA20-POLY1305", Plain),
    Suite(0xc0a4, "PSK-AES128-CCM", Plain),
    Suite(0xc0a5, "PSK-AES256-CCM", Plain),
    Suite(0xc0a8, "PSK-AES128-CCM8", Plain),
    Suite(0xc0a9, "PSK-AES256-CCM8", Plain),
    Suite(0x00ae, "PSK-AES128-CBC-SHA256", Plain),
    Suite(0x00aa, "DHE-PSK-AES128-GCM-SHA256", Ffdhe),
    Suite(0x00ab, "DHE-PSK-AES256-GCM-SHA384", Ffdhe),
    Suite(0xccad, "DHE-PSK-CHACHA20-POLY1305", Ffdhe),
    Suite(0xc0a6, "DHE-PSK-AES128-CCM", Ffdhe),
    Suite(0xc0a7, "DHE-PSK-AES256-CCM", Ffdhe),
    Suite(0xc0aa, "DHE-PSK-AES128-CCM8", Ffdhe),
    Suite(0xc0ab, "DHE-PSK-AES256-CCM8", Ffdhe),
    Suite(0xc035, "ECDHE-PSK-AES128-CBC-SHA", Ecdhe),
    Suite(0xc036, "ECDHE-PSK-AES256-CBC-SHA", Ecdhe),
    Suite(0x008c, "PSK-AES128-CBC-SHA", Plain),
    Suite(0x008d, "PSK-AES256-CBC-SHA", Plain),
    Suite(0x0090, "DHE-PSK-AES128-CBC-SHA", Ffdhe),
    Suite(0x0091, "DHE-PSK-AES256-CBC-SHA", Ffdhe),
];

/// Key exchange groups, by number. P-256 first: wolfSSL 5.5 fails TLS 1.2 ECDHE-PSK with X25519.
const GROUP_IDS: [u16; 2] = [23, 29];
/// The same, as OpenSSL names them.
pub const GROUPS: &str = "P-256:X25519";

impl Suite {
    fn is_sha1(&self) -> bool {
        self.1.ends_with("-SHA")
    }

    fn served(&self, config: PskConfig) -> bool {
        (config.cbc_sha1 || !self.is_sha1()) && (config.ffdhe || self.2 != Ffdhe)
    }
}

/// OpenSSL's list of the TLS 1.2 suites.
#[must_use]
pub fn tls12_list(config: PskConfig) -> String {
    let chosen = |suite: &&Suite| !matches!(suite.2, Any(_)) && suite.served(config);
    join(SUITES.iter().filter(chosen))
}

/// OpenSSL's list of the TLS 1.3 suites for keys of `hash`.
#[must_use]
pub fn tls13_list(hash: PskHash) -> String {
    join(SUITES.iter().filter(|suite| suite.2 == Any(hash)))
}

fn join<'a>(suites: impl Iterator<Item = &'a Suite>) -> String {
    let names: Vec<_> = suites.map(|suite| suite.1).collect();
    names.join(":")
}

/// Whether a TLS 1.3 hello has a suite for one of its binders, a mode and a group in common.
///
/// # Errors
/// What is missing, with what was offered.
pub fn check13(config: PskConfig, hello: &Hello) -> Result<(), Refusal> {
    let fits = |hash| {
        let mut served = SUITES.iter().filter(|suite| suite.2 == Any(hash));
        served.any(|suite| hello.suites().any(|id| id == suite.0))
    };
    let mut hashes = hello.offers().map(|(_, binder)| PskHash::of(binder));
    if !hashes.any(|hash| hash.is_some_and(fits)) {
        let offered = offer::suites(hello, |id| id >> 8 == 0x13);
        let made = match hello
            .offers()
            .next()
            .and_then(|(_, binder)| PskHash::of(binder))
        {
            Some(hash) => hash.name(),
            None => "an unknown hash",
        };
        let text = format!(
            "no TLS 1.3 suite in common that fits the client's PSK, which it uses with {made}; \
             offered: {offered}"
        );
        return Err(Refusal::new(Reason::NoSharedSuite, "psk", text));
    }
    let without = config.ke && hello.psk_ke;
    if !hello.psk_dhe_ke && !without {
        let offered = offer::modes(hello);
        let text = format!(
            "no PSK key exchange mode in common; offered: {offered}; let the device do psk_dhe_ke, \
             or set tls.psk_ke = true, which gives forward secrecy up"
        );
        return Err(Refusal::new(Reason::NoSharedMode, "psk", text));
    }
    match shares_group(hello) || without {
        true => Ok(()),
        false => Err(no_group(hello)),
    }
}

/// Whether a TLS 1.2 hello has a suite, and a group where every such suite needs one.
///
/// # Errors
/// What is missing, with what was offered.
pub fn check12(config: PskConfig, hello: &Hello) -> Result<(), Refusal> {
    let offered = |suite: &&Suite| hello.suites().any(|id| id == suite.0);
    let known = || SUITES.iter().filter(|suite| !matches!(suite.2, Any(_)));
    let mut common = known().filter(offered).filter(|suite| suite.served(config));
    let Some(first) = common.next() else {
        let names = offer::suites(hello, hello::is_psk_suite);
        let mut text = format!("no PSK suite in common; offered: {names}");
        let mut refused = known().filter(offered).map(Suite::is_sha1);
        match refused.next() {
            Some(sha1) if refused.all(|other| other == sha1) => text.push_str(match sha1 {
                true => "; tls.psk_cbc_sha1 = true serves CBC with SHA-1 to old devices",
                false => "; tls.psk_ffdhe = true serves DHE-PSK, at 27 times the processor time",
            }),
            Some(_) => text.push_str("; tls.psk_cbc_sha1 and tls.psk_ffdhe would serve them"),
            None => {}
        }
        return Err(Refusal::new(Reason::NoSharedSuite, "psk", text));
    };
    let on_a_curve = |suite: &Suite| suite.2 == Ecdhe;
    match on_a_curve(first) && common.all(on_a_curve) && !shares_group(hello) {
        true => Err(no_group(hello)),
        false => Ok(()),
    }
}

fn shares_group(hello: &Hello) -> bool {
    match hello.groups() {
        Some(mut groups) => groups.any(|id| GROUP_IDS.contains(&id)),
        None => !hello.tls13,
    }
}

fn no_group(hello: &Hello) -> Refusal {
    let offered = offer::groups(hello);
    let text = format!(
        "no key exchange group in common; offered: {offered}; served with a PSK: secp256r1, x25519"
    );
    Refusal::new(Reason::NoSharedGroup, "psk", text)
}

#[cfg(test)]
mod tests {
    use super::{SUITES, Suite, check12, check13, tls12_list, tls13_list};
    use crate::config::PskConfig;
    use crate::tls::PskHash;
    use crate::tls::hello::{Hello, Parsed, parse};
    use crate::tls::hello_bytes::{Builder, vector16};
    use openssl::ssl::{SslContext, SslMethod};

    const NONE: PskConfig = PskConfig {
        ke: false,
        cbc_sha1: false,
        ffdhe: false,
    };
    const ALL: PskConfig = PskConfig {
        ke: true,
        cbc_sha1: true,
        ffdhe: true,
    };
    const P256: [u8; 2] = [0, 23];
    const P384: [u8; 2] = [0, 24];

    fn hello(builder: &Builder) -> Hello {
        match parse(&builder.raw()) {
            Parsed::Complete(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    fn psk13(suites: &[u16], modes: &[u8], groups: &[u8], binder: usize) -> Hello {
        let builder = Builder::tls13(suites).modes(modes);
        hello(
            &builder
                .extension(10, &vector16(groups))
                .psk(&[b"dev"], binder),
        )
    }

    fn refused(result: Result<(), crate::tls::refusal::Refusal>, reason: &str, words: &[&str]) {
        let refusal = result.unwrap_err();
        assert_eq!((refusal.reason.word(), refusal.credential), (reason, "psk"));
        for word in words {
            assert!(refusal.text.contains(word), "{word}: {}", refusal.text);
        }
    }

    #[test]
    fn tls_1_3_needs_a_suite_of_the_binder_s_hash() {
        for id in [0x1301, 0x1303, 0x1304, 0x1305] {
            assert!(
                check13(NONE, &psk13(&[id], &[1], &P256, 32)).is_ok(),
                "{id:x}"
            );
            let result = check13(NONE, &psk13(&[id], &[1], &P256, 48));
            refused(result, "no_shared_suite", &["SHA-384", "offered: TLS"]);
        }
        assert!(check13(NONE, &psk13(&[0x1302], &[1], &P256, 48)).is_ok());
        let result = check13(NONE, &psk13(&[0x1302], &[1], &P256, 32));
        refused(result, "no_shared_suite", &["SHA-256", "SHA384"]);
        let result = check13(NONE, &psk13(&[0x1301], &[1], &P256, 40));
        refused(result, "no_shared_suite", &["unknown hash"]);
    }

    #[test]
    fn a_psk_without_an_ephemeral_exchange_is_served_where_the_listener_says_so() {
        let alone = psk13(&[0x1301], &[0], &P384, 32);
        refused(
            check13(NONE, &alone),
            "no_shared_mode",
            &["psk_ke", "tls.psk_ke"],
        );
        assert!(check13(ALL, &alone).is_ok());
        let both = psk13(&[0x1301], &[0, 1], &P384, 32);
        refused(check13(NONE, &both), "no_shared_group", &["secp384r1"]);
        assert!(check13(ALL, &both).is_ok());
        let none = hello(&Builder::tls13(&[0x1301]).modes(&[9]).psk(&[b"dev"], 32));
        refused(check13(ALL, &none), "no_shared_mode", &["none"]);
    }

    #[test]
    fn a_tls_1_2_client_needs_a_suite_and_for_ecdhe_a_group() {
        let with = |suites: &[u16], groups: &[u8]| {
            hello(&Builder::tls12(suites).extension(10, &vector16(groups)))
        };
        refused(
            check12(NONE, &with(&[0xccac], &P384)),
            "no_shared_group",
            &["secp384r1"],
        );
        assert!(check12(NONE, &with(&[0xccac], &P256)).is_ok());
        assert!(check12(NONE, &with(&[0xccac, 0x00a8], &P384)).is_ok());
        assert!(check12(NONE, &hello(&Builder::tls12(&[0xccac]))).is_ok());
        let result = check12(NONE, &with(&[0xc02b, 0x008c], &P256));
        let words = ["offered: TLS_PSK_WITH_AES_128_CBC_SHA;", "tls.psk_cbc_sha1"];
        refused(result, "no_shared_suite", &words);
        let result = check12(NONE, &with(&[0x00aa], &P256));
        refused(result, "no_shared_suite", &["DHE_PSK", "tls.psk_ffdhe"]);
        for id in [0x008c, 0x00aa, 0x0090] {
            assert!(check12(ALL, &with(&[id], &P256)).is_ok());
        }
        let result = check12(ALL, &with(&[0x008a], &P256));
        refused(result, "no_shared_suite", &["RC4"]);
    }

    #[test]
    fn the_suites_served_are_the_committed_ones() {
        let count = |list: String| list.split(':').count();
        assert_eq!(count(tls13_list(PskHash::Sha256)), 4);
        assert_eq!(tls13_list(PskHash::Sha384), "TLS_AES_256_GCM_SHA384");
        assert_eq!((count(tls12_list(NONE)), count(tls12_list(ALL))), (10, 23));
        assert!(
            !tls12_list(NONE)
                .split(':')
                .any(|name| name.ends_with("-SHA"))
        );
        assert!(
            !tls12_list(NONE)
                .split(':')
                .any(|name| name.starts_with("DHE"))
        );
        for Suite(id, name, _) in SUITES {
            assert!(!name.contains("RSA") && !name.contains("NULL"), "{name}");
            // Each is known to the library by this number: an unknown name would be skipped.
            let mut builder = SslContext::builder(SslMethod::tls_server()).unwrap();
            if name.starts_with("TLS_") {
                builder.set_ciphersuites(name).unwrap();
                continue;
            }
            builder
                .set_cipher_list(&format!("{name}:@SECLEVEL=0"))
                .unwrap();
            let standard = rustls::CipherSuite::from(*id).as_str().unwrap();
            let known = openssl::ssl::cipher_name(standard);
            assert_eq!(known, *name, "{standard}");
        }
    }
}
