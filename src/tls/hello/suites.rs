//! What the numbers of cipher suites say.

/// See [`suite_kind`].
pub(super) enum SuiteKind {
    Tls13,
    Psk,
    Certificate,
    Other,
}

/// Whether a number offers nothing: signalling values, and the reserved values of RFC 8701.
#[must_use]
pub fn is_signal(id: u16) -> bool {
    matches!(id, 0x00ff | 0x5600) || (id & 0x0f0f == 0x0a0a && id >> 8 == id & 0xff)
}

/// Whether a TLS 1.2 suite is authenticated by a PSK.
#[must_use]
pub fn is_psk_suite(id: u16) -> bool {
    matches!(suite_kind(id), SuiteKind::Psk)
}

/// Who authenticates a suite (IANA TLS Cipher Suites). RSA_PSK counts as neither: it needs both
/// a certificate and a PSK and neither stack serves it.
pub(super) fn suite_kind(id: u16) -> SuiteKind {
    match id {
        0x1300..=0x13ff => SuiteKind::Tls13,
        id if is_signal(id) => SuiteKind::Other,
        // RSA_PSK
        0x002e | 0x0092..=0x0095 | 0x00ac | 0x00ad | 0x00b6..=0x00b9 | 0xc068 | 0xc069 => {
            SuiteKind::Other
        }
        0xc06e | 0xc06f | 0xc092 | 0xc093 | 0xc098 | 0xc099 | 0xccae => SuiteKind::Other,
        // PSK, DHE_PSK, ECDHE_PSK
        0x002c | 0x002d | 0x008a..=0x0091 | 0x00a8..=0x00ab | 0x00ae..=0x00b5 => SuiteKind::Psk,
        0xc033..=0xc03b | 0xc064..=0xc067 | 0xc06a..=0xc06d | 0xc070 | 0xc071 => SuiteKind::Psk,
        0xc08e..=0xc091 | 0xc094..=0xc097 | 0xc09a | 0xc09b | 0xc0a4..=0xc0ab => SuiteKind::Psk,
        0xccab..=0xccad | 0xd001..=0xd005 => SuiteKind::Psk,
        _ => SuiteKind::Certificate,
    }
}
