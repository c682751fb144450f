//! Reasons from the accepted socket to the end of TLS.

macro_rules! handshake_reasons {
    ($($rows:tt)*) => { door_reasons! { $($rows)*
        // Before a byte is read.
        LimitConnections "limit_connections" State [Handshake]
            "as many connections as `limits.connections` allows are open";
            "raise `limits.connections`, or add a gateway";
        LimitConnectionsPerSource "limit_connections_per_source" State [Handshake]
            "one address has as many connections as `limits.connections_per_source` allows";
            "raise `limits.connections_per_source` where a NAT hides many devices";
        LimitHandshakes "limit_handshakes" State [Handshake]
            "`limits.handshakes` handshakes are under way, and no place came free";
            "raise `limits.handshakes` as far as the CPU allows";
        LimitHandshakesPerSource "limit_handshakes_per_source" State [Handshake]
            "one address has as many handshakes under way as `limits.handshakes_per_source` allows";
            "raise `limits.handshakes_per_source` where a NAT hides many devices";
        ThrottledSource "throttled_source" State [Handshake Connect]
            "too many failed attempts from this address";
            "correct the devices there, or raise `limits.failures_per_source`";
        ThrottledIdentity "throttled_identity" State [Handshake Connect]
            "too many failed attempts with this identity from this address";
            "correct its credential; it may try again in a minute";
        AcceptFailed "accept_failed" End [Handshake]
            "the system gave the gateway no socket";
            "";

        // The TLS handshake.
        HelloTimeout "hello_timeout" Wire [Handshake]
            "no whole ClientHello within `limits.hello_timeout`";
            "look at the network path, and whether the device speaks TLS first";
        HelloMalformed "hello_malformed" Wire [Handshake]
            "the first TLS record is no ClientHello";
            "look at what the device speaks on this port";
        HelloTooLarge "hello_too_large" Wire [Handshake]
            "the ClientHello is larger than any device's";
            "offer fewer suites, groups or tickets";
        PlainMqtt "plain_mqtt" Wire [Handshake]
            "MQTT without TLS on a TLS listener";
            "turn TLS on in the device";
        NotTls "not_tls" Wire [Handshake]
            "the first byte is not TLS";
            "look at what connects to this port: a health check, a browser, a scanner";
        TlsVersion "tls_version" Wire [Handshake]
            "no TLS version in common";
            "let the device offer TLS 1.2 or 1.3";
        NoSharedSuite "no_shared_suite" Wire [Handshake]
            "no suite or signature scheme in common";
            "compare what the device offers with the listener's `tls` settings";
        NoSharedGroup "no_shared_group" Wire [Handshake]
            "no key exchange group in common";
            "let the device offer X25519 or P-256";
        NoSharedMode "no_shared_mode" Wire [Handshake]
            "no PSK key exchange mode in common";
            "let the device offer psk_dhe_ke, or set `tls.psk_ke = true`";
        TlsTimeout "tls_timeout" Wire [Handshake]
            "the handshake did not end within `limits.tls_timeout`, or its client was silent for \
             1.5 s while others of its address stood in line";
            "look at the network path, or raise `limits.tls_timeout`";
        TlsViolation "tls_violation" Wire [Handshake Session]
            "the peer broke the TLS protocol, or a record does not decrypt";
            "look at the device's TLS library and at what stands between";
        ClientAlert "client_alert" Wire [Handshake]
            "the device ended the handshake with an alert";
            "give the device the CA of `tls.cert`, and connect by the name in it";
        Internal "internal" State [Handshake]
            "the TLS library could not make a connection";
            "give the gateway more memory";
        PskUnknown "psk_unknown" Rules [Handshake Connect]
            "no entry and no PSK file has this identity";
            "add the identity to a [[device]] or PSK file, or correct it in the device";
        PskWrongKey "psk_wrong_key" Proof [Handshake]
            "the device does not hold the key of its PSK identity";
            "compare the key in the device with the configured one";
        PskWrongHash "psk_wrong_hash" Proof [Handshake]
            "the device holds the key of its PSK identity and uses it with another hash";
            "set `hash` of the psk entry or PSK file to sha256 or sha384";
        PskIdentityInvalid "psk_identity_invalid" Wire [Handshake]
            "the PSK identity is not 1 to 128 bytes of UTF-8 without NUL";
            "correct the identity; a ticket of another server looks like this too";
        PskNotProved "psk_not_proved" Proof [Handshake]
            "the handshake ended without proof of a pre-shared key";
            "report it: this should not happen";
        X509Malformed "x509_malformed" Proof [Handshake Connect]
            "the certificate cannot be read";
            "issue an X.509 v3 certificate for the device";
        X509Expired "x509_expired" Proof [Handshake Connect]
            "the certificate, or one of its chain, is past its end";
            "renew it";
        X509NotYetValid "x509_not_yet_valid" Proof [Handshake Connect]
            "the certificate is not valid yet";
            "compare the clocks";
        X509Usage "x509_usage" Proof [Handshake Connect]
            "the certificate is not for clients";
            "issue it with extended key usage clientAuth";
        X509KeyUsage "x509_key_usage" Proof [Handshake Connect]
            "the certificate's key may not sign: key usage lacks digitalSignature";
            "issue it with key usage digitalSignature";
        X509V1 "x509_v1" Proof [Handshake Connect]
            "the certificate is of X.509 version 1 or 2, and what decides does not allow it";
            "issue one of version 3, or set `allow_x509 = [\"v1\"]`";
        X509AnyEku "x509_any_eku" Proof [Handshake Connect]
            "its extended key usage is anyExtendedKeyUsage, and what decides does not allow it";
            "issue it with clientAuth, or set `allow_x509 = [\"any_eku\"]`";
        X509KeyTooSmall "x509_key_too_small" Proof [Handshake]
            "an RSA key of less than 2048 bits, in the certificate or its issuer's";
            "make a larger key";
        X509KeyUnsupported "x509_key_unsupported" Proof [Handshake]
            "a key of a kind that is not served, in the certificate or its issuer's";
            "use ECDSA P-256, P-384 or P-521, Ed25519 or RSA of 2048 to 8192 bits";
        X509SignatureAlgorithm "x509_signature_algorithm" Proof [Handshake]
            "the chain is signed with an algorithm that proves nothing any more";
            "let the CA sign again with SHA-256";
        X509IsCa "x509_is_ca" Proof [Handshake]
            "the certificate is a CA's own";
            "issue one for the device";
        X509Constraints "x509_constraints" Proof [Handshake]
            "a critical extension that is not served, or a broken constraint of the CA";
            "issue the certificate without it";
        X509Unknown "x509_unknown" Rules [Handshake Connect]
            "no entry has the thumbprint, no `client_ca` issued it";
            "add the CA to `tls.client_ca`, or register the thumbprint in a [[device]]";
        X509Thumbprint "x509_thumbprint" Rules [Connect]
            "the device is registered with another certificate";
            "register this certificate too, or use the registered one";
        X509BadSignature "x509_bad_signature" Proof [Handshake]
            "the certificate names a CA of `tls.client_ca` that did not sign it";
            "use the certificate that CA issued, or add the CA that did";
        X509ChainTooLong "x509_chain_too_long" Wire [Handshake]
            "the device sent too many or too large certificates";
            "send the end entity and the intermediates only";
        X509KeyNotProved "x509_key_not_proved" Proof [Handshake]
            "the device did not prove the private key of its certificate";
            "use the private key that belongs to the certificate";
        X509Revoked "x509_revoked" Proof [Handshake Connect]
            "the certificate is on a revocation list, or its CA was removed";
            "issue a new certificate";
        X509CrlExpired "x509_crl_expired" State [Handshake]
            "the revocation list is past its next update";
            "renew `tls.crl`";
        X509CrlInvalid "x509_crl_invalid" State [Handshake]
            "the revocation list was not made by its issuer";
            "renew `tls.crl`";
        X509NotJudged "x509_not_judged" State [Handshake]
            "the certificate was not judged in this handshake";
            "report it: this should not happen";
    } };
}
