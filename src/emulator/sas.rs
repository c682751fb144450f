//! Shared access signatures as the service reads them: parse, check time, check signature.
//!
//! Written from the wire sheet §1 alone and deliberately not shared with the gateway, so that a
//! mistake in one of the two is seen by the other. The text of `sr` and `se` is signed exactly as
//! it stands in the token; nothing here re-encodes it. Never logs a token or a key.

use crate::config::secret::Secret;
use crate::runtime::clock::Unix;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha2::Sha256;
use std::time::Duration;

const SCHEME: &str = "SharedAccessSignature";
/// Longest token looked at, bytes; a scope of 128 escaped characters needs far less.
const TOKEN_BYTES_MAX: usize = 4096;

/// A token taken apart, not yet checked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SasToken {
    signed: String,
    scope: String,
    signature: Vec<u8>,
    expiry: u64,
    policy: Option<String>,
}

/// The text is not a token at all (wire sheet §1.2 point 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The specified SAS token is malformed.")]
pub(crate) struct Malformed;

impl SasToken {
    /// Parses `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]`, fields in any order.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Malformed);
        }
        let fields = text.strip_prefix(SCHEME).ok_or(Malformed)?;
        let fields = fields.strip_prefix([' ', '\t']).ok_or(Malformed)?;
        if fields.contains(char::is_whitespace) {
            return Err(Malformed);
        }
        let [mut sr, mut sig, mut se, mut skn] = [None; 4];
        for field in fields.split('&') {
            let (name, value) = field.split_once('=').ok_or(Malformed)?;
            let slot = match name.to_ascii_lowercase().as_str() {
                "sr" => &mut sr,
                "sig" => &mut sig,
                "se" => &mut se,
                "skn" => &mut skn,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(Malformed);
            }
        }
        let present = |field: Option<&'_ str>| field.filter(|v| !v.is_empty()).map(str::to_owned);
        let sr = present(sr).ok_or(Malformed)?;
        let sig = present(sig).ok_or(Malformed)?;
        let se = present(se).ok_or(Malformed)?;
        if !se.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed);
        }
        Ok(Self {
            signed: format!("{sr}\n{se}"),
            scope: decode(&sr)?,
            signature: STANDARD.decode(decode(&sig)?).map_err(|_| Malformed)?,
            expiry: se.parse().map_err(|_| Malformed)?,
            policy: present(skn).map(|name| decode(&name)).transpose()?,
        })
    }

    /// `sr`, percent-decoded once: `{hub}[/devices[/…]]`.
    pub(crate) fn scope(&self) -> &str {
        &self.scope
    }

    /// `skn`; absent for keys of devices and modules.
    pub(crate) fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// The last instant the token is taken at.
    pub(crate) fn valid_until(&self, skew: Duration) -> Unix {
        Unix::from_secs(self.expiry.min(u64::from(u32::MAX) * 1000)) + skew
    }

    /// Whether `key` made the signature. Constant time in the signature's content.
    pub(crate) fn signed_by(&self, key: &Secret) -> bool {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose()) else {
            return false;
        };
        mac.update(self.signed.as_bytes());
        mac.verify_slice(&self.signature).is_ok()
    }
}

fn decode(text: &str) -> Result<String, Malformed> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=";

    fn key(base64: &str) -> Secret {
        Secret::new(STANDARD.decode(base64).unwrap())
    }

    fn token(sr: &str, sig: &str, se: &str, skn: &str) -> SasToken {
        let skn = if skn.is_empty() {
            String::new()
        } else {
            format!("&skn={skn}")
        };
        SasToken::parse(&format!(
            "SharedAccessSignature sr={sr}&sig={sig}&se={se}{skn}"
        ))
        .unwrap()
    }

    #[test]
    fn published_vectors_verify() {
        let password = key("cGFzc3dvcmQ=");
        let secret = key("c2VjcmV0");
        let (lenient, fake) = (
            Secret::new(vec![0x91, 0xec]),
            Secret::new(vec![0x7d, 0xa9, 0x1e, 0x29, 0xec]),
        );
        let cases: [(&Secret, &str, &str, &str); 5] = [
            (
                &password,
                "uri",
                "12345",
                "kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D",
            ),
            (
                &lenient,
                "host%2Fdevices%2Fdevice",
                "12345",
                "wM3XiP6gD960IxP7J5WHqnxQHEcWC6YaQCtoMT%2BkKHc%3D",
            ),
            (
                &fake,
                "fake.host.name%2Fdevices%2FfakeDeviceId",
                "10",
                "bYz5R2IFTaejB6pgYOxns2mw6lcuA4VSy8kJbYQp0Sc%3D",
            ),
            (
                &lenient,
                "host",
                "12345",
                "88JmrIsVYOGmRSjCO1x1LLbv0K001Gikh1rjfJqbQXA%3D",
            ),
            (
                &secret,
                "test.azure-devices.net%2Fdevices%2Ftest",
                "1483236061",
                "IMr3Y5GKbdixQSt96QgIEymAURnu3qzLvEHhGHPLxrU%3D",
            ),
        ];
        for (key, sr, se, sig) in cases {
            assert!(token(sr, sig, se, "").signed_by(key), "{sr}");
            assert!(
                !token(sr, sig, "99999", "").signed_by(key),
                "{sr} with another expiry"
            );
            assert!(
                !token(&format!("{sr}x"), sig, se, "").signed_by(key),
                "{sr} with another scope"
            );
        }
    }

    #[test]
    fn own_vectors_verify_with_each_form_of_the_scope() {
        let se = "1893456000";
        let hub = "myhub.azure-devices.net";
        let cases = [
            (
                format!("{hub}%2Fdevices"),
                "device",
                "SFklwh13UHqZyBnISox7ZoZSd3AN0AcYF2QqEto7f4Q%3D",
            ),
            (
                format!("{hub}%2fdevices"),
                "device",
                "VXNK4mpUBCvyOUT7FJpSu6X%2FJ9j%2BU9s2EEehcu%2FEmGg%3D",
            ),
            (
                format!("{hub}/devices"),
                "device",
                "cUF5H839lImjUvIQSYfGodwv1VCeZm4Ahrbci%2BVPNJc%3D",
            ),
            (
                format!("{hub}%2Fdevices%2Fdevice1"),
                "",
                "N8lAED4fWRHDSakXUt%2FkxbE6K2%2FvnU7fbuyc2Y9jGkw%3D",
            ),
            (
                format!("{hub}%2Fdevices%2Fdev%24a%3A1%2Fmodules%2Fm1"),
                "",
                "xUUY87lNapSPrMKcydRCJL9l6XMR2d62hrTYi9V1XXQ%3D",
            ),
            (
                hub.to_owned(),
                "service",
                "zIAG0vYm0x2U5ctNQNgFrrkCliyw5rsvyix53ZkIfrU%3D",
            ),
        ];
        for (sr, skn, sig) in cases {
            let parsed = token(&sr, sig, se, skn);
            assert!(parsed.signed_by(&key(KEY)), "{sr}");
            assert!(!parsed.signed_by(&key("c2VjcmV0")), "{sr} with a wrong key");
        }
    }

    #[test]
    fn the_scope_is_decoded_once_and_the_policy_kept() {
        let parsed = token(
            "myhub.azure-devices.net%2Fdevices%2Fdev%24a%3A1%2Fmodules%2Fm1",
            "xUUY87lNapSPrMKcydRCJL9l6XMR2d62hrTYi9V1XXQ%3D",
            "1893456000",
            "a%20b",
        );
        assert_eq!(
            parsed.scope(),
            "myhub.azure-devices.net/devices/dev$a:1/modules/m1"
        );
        assert_eq!(parsed.policy(), Some("a b"));
    }

    #[test]
    fn a_slash_in_the_signature_may_stand_unencoded() {
        let parsed = token(
            "myhub.azure-devices.net%2fdevices",
            "VXNK4mpUBCvyOUT7FJpSu6X/J9j%2BU9s2EEehcu/EmGg%3D",
            "1893456000",
            "device",
        );
        assert!(parsed.signed_by(&key(KEY)));
    }

    #[test]
    fn field_names_have_no_case_and_fields_no_order() {
        let text = "SharedAccessSignature SE=12345\
                    &Sig=kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D\
                    &skn=&SR=uri";
        let parsed = SasToken::parse(text).unwrap();
        assert!(parsed.signed_by(&key("cGFzc3dvcmQ=")));
        assert_eq!(parsed.policy(), None);
    }

    #[test]
    fn malformed_texts_are_refused() {
        let sig = "kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D";
        let bad = [
            "blah".to_owned(),
            String::new(),
            "SharedAccessSignature".to_owned(),
            format!(" SharedAccessSignature sr=uri&sig={sig}&se=12345"),
            format!("SharedAccessSignature  sr=uri&sig={sig}&se=12345"),
            format!("SharedAccessSignature sr=uri &sig={sig}&se=12345"),
            format!("sharedaccesssignature sr=uri&sig={sig}&se=12345"),
            format!("SharedAccessSignature sig={sig}&se=12345"),
            "SharedAccessSignature sr=uri&se=12345".to_owned(),
            format!("SharedAccessSignature sr=uri&sig={sig}"),
            format!("SharedAccessSignature sr=&sig={sig}&se=12345"),
            format!("SharedAccessSignature sr=uri&sr=uri&sig={sig}&se=12345"),
            format!("SharedAccessSignature sr=uri&sig={sig}&se=-1"),
            format!("SharedAccessSignature sr=uri&sig={sig}&se=tomorrow"),
            format!("SharedAccessSignature sr=uri&sig={sig}&se=99999999999999999999999"),
            "SharedAccessSignature sr=uri&sig=%%%&se=12345".to_owned(),
            format!("SharedAccessSignature sr=%ff%fe&sig={sig}&se=12345"),
            format!(
                "SharedAccessSignature sr={}&sig={sig}&se=12345",
                "x".repeat(5000)
            ),
        ];
        for text in bad {
            assert!(SasToken::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_second_counts_the_skew() {
        let parsed = token(
            "uri",
            "kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D",
            "12345",
            "",
        );
        assert_eq!(
            parsed.valid_until(Duration::from_secs(300)),
            Unix::from_secs(12645)
        );
        let far = token("uri", "AAAA", "18446744073709551615", "");
        assert!(far.valid_until(Duration::from_secs(300)) > Unix::from_secs(12345));
    }
}
