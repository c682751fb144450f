//! Which stack a ClientHello goes to. Pure: one hello, one rule, one answer.
//!
//! A connection is routed once and never handed from one stack to the other. No stack here issues
//! tickets, so every `pre_shared_key` identity is taken for an external key.

use crate::config::Mixed;
use crate::telemetry::reason::Reason;
use crate::tls::hello::Hello;
use crate::tls::refusal::Alert;

/// Where a hello goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The PSK stack, TLS 1.3: the binder must verify before the stack sees a byte.
    Psk13,
    /// The PSK stack, TLS 1.2: the identity comes later, in ClientKeyExchange.
    Psk12,
    /// The certificate stack.
    Certificate,
    /// No stack can serve it.
    Refuse(Reason, Alert),
}

/// Decides. `has_certificate`: this listener has a server certificate.
///
/// 1. below TLS 1.2: refused.
/// 2. TLS 1.3 with a `pre_shared_key` identity: PSK.
/// 3. TLS 1.3 without one: certificate. A TLS 1.3 client that has a PSK offers it, and some
///    libraries list PSK suites with no PSK set.
/// 4. TLS 1.2 with suites of one kind: that kind.
/// 5. TLS 1.2 with both kinds: `mixed` decides, unless only PSK can be served.
#[must_use]
pub fn route(hello: &Hello, mixed: Mixed, has_certificate: bool) -> Route {
    const NO_SHARED: Route = Route::Refuse(Reason::NoSharedSuite, Alert::HandshakeFailure);
    if !hello.tls12 && !hello.tls13 {
        return Route::Refuse(Reason::TlsVersion, Alert::ProtocolVersion);
    }
    if hello.tls13 && hello.has_offers() {
        return Route::Psk13;
    }
    if hello.tls13 {
        return if has_certificate {
            Route::Certificate
        } else {
            NO_SHARED
        };
    }
    match (
        hello.psk_suites,
        hello.certificate_suites && has_certificate,
    ) {
        (true, false) => Route::Psk12,
        (false, true) => Route::Certificate,
        (false, false) => NO_SHARED,
        (true, true) => match mixed {
            Mixed::Psk => Route::Psk12,
            Mixed::Certificate => Route::Certificate,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Route, route};
    use crate::config::Mixed;
    use crate::telemetry::reason::Reason;
    use crate::tls::hello::{Hello, Parsed, parse};
    use crate::tls::hello_bytes::Builder;
    use crate::tls::refusal::Alert;

    fn hello(builder: Builder) -> Hello {
        match parse(&builder.raw()) {
            Parsed::Complete(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    const NO_SHARED: Route = Route::Refuse(Reason::NoSharedSuite, Alert::HandshakeFailure);

    #[test]
    fn one_kind_of_suite_decides_alone_in_tls_1_2() {
        let psk = hello(Builder::tls12(&[0x00a8]));
        let certificate = hello(Builder::tls12(&[0xc02b]));
        for mixed in [Mixed::Psk, Mixed::Certificate] {
            assert_eq!(route(&psk, mixed, true), Route::Psk12);
            assert_eq!(route(&psk, mixed, false), Route::Psk12);
            assert_eq!(route(&certificate, mixed, true), Route::Certificate);
            assert_eq!(route(&certificate, mixed, false), NO_SHARED);
        }
    }

    #[test]
    fn a_mixed_tls_1_2_hello_follows_the_setting() {
        let both = hello(Builder::tls12(&[0xc02b, 0x00a8]));
        assert_eq!(route(&both, Mixed::Psk, true), Route::Psk12);
        assert_eq!(route(&both, Mixed::Certificate, true), Route::Certificate);
        assert_eq!(route(&both, Mixed::Certificate, false), Route::Psk12);
    }

    #[test]
    fn tls_1_3_goes_by_the_identity_not_by_the_suites() {
        let suites = &[0x1301, 0x00a8];
        let with = hello(Builder::tls13(suites).psk(&[b"dev"], 32));
        let without = hello(Builder::tls13(suites));
        for mixed in [Mixed::Psk, Mixed::Certificate] {
            assert_eq!(route(&with, mixed, true), Route::Psk13);
            assert_eq!(route(&with, mixed, false), Route::Psk13);
            assert_eq!(route(&without, mixed, true), Route::Certificate);
            assert_eq!(route(&without, mixed, false), NO_SHARED);
        }
    }

    #[test]
    fn versions_below_1_2_are_refused() {
        let old = hello(Builder::tls12(&[0x002f]).version(0x0301));
        let refused = Route::Refuse(Reason::TlsVersion, Alert::ProtocolVersion);
        assert_eq!(route(&old, Mixed::Psk, true), refused);
        // Signalling values and RSA_PSK are no offer at all.
        let nothing = hello(Builder::tls12(&[0x00ff, 0x0a0a, 0x00ac]));
        assert_eq!(route(&nothing, Mixed::Psk, true), NO_SHARED);
    }
}
