//! Reasons from the accepted socket to the end of TLS.

macro_rules! handshake_reasons {
    ($($rows:tt)*) => { connect_reasons! { $($rows)*
        // Before a byte is read.
        LimitConnections "limit_connections" State [Handshake]
            "as many connections as `limits.connections` allows are open";
            "raise `limits.connections`, or add a gateway";
        LimitConnectionsPerSource "limit_connections_per_source" State [Handshake]
            "one address has as many connections as `limits.connections_per_source` allows";
            "raise `limits.connections_per_source` where a NAT hides many devices";
        LimitHandshakes "limit_handshakes" State [Handshake]
            "as many handshakes as `limits.handshakes` allows are under way and the wait was too long";
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
            "no suite, group, signature scheme or PSK exchange mode in common";
            "compare what the device offers with the listener's tls settings";
        TlsTimeout "tls_timeout" Wire [Handshake]
            "the handshake did not end within `limits.tls_timeout`";
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
            "compare both keys; TLS 1.3 uses the key with one hash only";
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
        X509Unsupported "x509_unsupported" Proof [Handshake]
            "the certificate is of a version, algorithm or kind that is not taken";
            "issue an X.509 v3 end-entity certificate with RSA or ECDSA";
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
