//! SAS tokens (wire sheet §1): signs and reads, never stores, never logs. Pure.

use crate::config::secret::Secret;
use crate::runtime::clock::Unix;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use zeroize::Zeroize;

/// Characters that stand for themselves in a URI component (RFC 3986 §2.3).
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Signs a token for `scope` (not yet encoded, e.g. `myhub.azure-devices.net/devices`) with the
/// key of `policy`, valid to `expiry` (wire sheet §1.1).
#[must_use]
pub fn mint(scope: &str, policy: &str, key: &Secret, expiry: Unix) -> Secret {
    let sr = encoded(scope);
    let se = expiry.as_secs();
    let mut mac = sign(key.expose(), format!("{sr}\n{se}").as_bytes());
    let mut sig = STANDARD.encode(mac);
    mac.zeroize();
    let sig_encoded = utf8_percent_encode(&sig, COMPONENT);
    let skn = utf8_percent_encode(policy, COMPONENT);
    let token = format!("SharedAccessSignature sr={sr}&sig={sig_encoded}&se={se}&skn={skn}");
    sig.zeroize();
    Secret::new(token.into_bytes())
}

/// `scope` as it stands in a token or in a query.
#[must_use]
pub fn encoded(scope: &str) -> String {
    utf8_percent_encode(scope, COMPONENT).to_string()
}

/// When a token that somebody else made ends. It must be for `audience` or a scope around it;
/// only the hub can judge its signature.
///
/// # Errors
/// A sentence that quotes nothing of the token but its scope.
pub fn read(token: &str, audience: &str) -> Result<Unix, String> {
    let fields = token
        .strip_prefix("SharedAccessSignature ")
        .filter(|fields| !fields.contains(char::is_whitespace))
        .ok_or("it is no SAS token: it must be one line, SharedAccessSignature sr=…&sig=…&se=…")?;
    let field = |name: &str| {
        fields
            .split('&')
            .filter_map(|field| field.split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("it is no SAS token: it has no {name}"))
    };
    field("sig")?;
    let scope = percent_decode_str(field("sr")?).decode_utf8_lossy();
    let inside = audience.strip_prefix(scope.as_ref());
    if !inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let scope: String = scope.escape_debug().take(200).collect();
        return Err(format!("it is for {scope}, not for {audience}"));
    }
    let end = field("se")?.parse();
    end.map(Unix::from_secs)
        .map_err(|_| "it is no SAS token: its se is no number of seconds".to_owned())
}

fn sign(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length (RFC 2104)");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::{COMPONENT, STANDARD, mint, read, sign};
    use crate::config::secret::Secret;
    use crate::runtime::clock::Unix;
    use base64::Engine as _;
    use percent_encoding::utf8_percent_encode;

    fn sig(key: &[u8], text: &str) -> String {
        let base64 = STANDARD.encode(sign(key, text.as_bytes()));
        utf8_percent_encode(&base64, COMPONENT).to_string()
    }

    #[test]
    fn signatures_match_the_published_vectors() {
        let raw = STANDARD.encode(sign(b"password", b"string-to-sign"));
        assert_eq!(raw, "o1n1hiIVgzVA2+krq9ty1Z4xsIJKJZP3dYT8MOi65Y4=");
        assert_eq!(
            sig(b"password", "uri\n12345"),
            "kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D"
        );
        assert_eq!(
            sig(&[0x91, 0xec], "host%2Fdevices%2Fdevice\n12345"),
            "wM3XiP6gD960IxP7J5WHqnxQHEcWC6YaQCtoMT%2BkKHc%3D"
        );
        assert_eq!(
            sig(
                &[0x7d, 0xa9, 0x1e, 0x29, 0xec],
                "fake.host.name%2Fdevices%2FfakeDeviceId\n10"
            ),
            "bYz5R2IFTaejB6pgYOxns2mw6lcuA4VSy8kJbYQp0Sc%3D"
        );
        assert_eq!(
            sig(&[0x91, 0xec], "host\n12345"),
            "88JmrIsVYOGmRSjCO1x1LLbv0K001Gikh1rjfJqbQXA%3D"
        );
        let key = STANDARD
            .decode("NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=")
            .unwrap();
        assert_eq!(
            STANDARD.encode(sign(&key, b"sign this message")),
            "8NJRMT83CcplGrAGaUVIUM/md5914KpWVNngSVoF9/M="
        );
        assert_eq!(
            sig(
                b"secret",
                "test.azure-devices.net%2Fdevices%2Ftest\n1483236061"
            ),
            "IMr3Y5GKbdixQSt96QgIEymAURnu3qzLvEHhGHPLxrU%3D"
        );
    }

    fn minted(scope: &str, policy: &str) -> String {
        let key = STANDARD
            .decode("NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=")
            .unwrap();
        let token = mint(
            scope,
            policy,
            &Secret::new(key),
            Unix::from_secs(1_893_456_000),
        );
        token.expose_str().unwrap().to_owned()
    }

    #[test]
    fn a_gateway_token_is_the_documented_text() {
        assert_eq!(
            minted("myhub.azure-devices.net/devices", "device"),
            "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices\
             &sig=SFklwh13UHqZyBnISox7ZoZSd3AN0AcYF2QqEto7f4Q%3D&se=1893456000&skn=device"
        );
        assert!(
            minted("myhub.azure-devices.net", "service")
                .contains("&sig=zIAG0vYm0x2U5ctNQNgFrrkCliyw5rsvyix53ZkIfrU%3D&")
        );
        assert!(
            minted(
                "myhub.azure-devices.net/devices/dev$a:1/modules/m1",
                "device"
            )
            .contains("&sig=xUUY87lNapSPrMKcydRCJL9l6XMR2d62hrTYi9V1XXQ%3D&")
        );
    }

    #[test]
    fn a_policy_name_is_encoded() {
        assert!(minted("h", "encode('Me')").ends_with("&skn=encode%28%27Me%27%29"));
    }

    #[test]
    fn a_ready_made_token_tells_its_end() {
        let ours = minted("h/devices", "device");
        assert_eq!(read(&ours, "h/devices"), Ok(Unix::from_secs(1_893_456_000)));
        let wider = "SharedAccessSignature se=5&skn=p&sr=h&sig=x";
        assert_eq!(read(wider, "h/devices"), Ok(Unix::from_secs(5)));
    }

    #[test]
    fn what_is_no_token_for_this_hub_is_refused_in_words() {
        for (token, word) in [
            ("", "one line"),
            ("Bearer x", "one line"),
            (
                "SharedAccessSignature sr=h%2Fdevices&sig=x&se=1\nmore",
                "one line",
            ),
            (
                "SharedAccessSignature  sr=h%2Fdevices&sig=x&se=1",
                "one line",
            ),
            ("SharedAccessSignature sr=h%2Fdevices&se=1", "no sig"),
            ("SharedAccessSignature sr=h%2Fdevices&sig=&se=1", "no sig"),
            ("SharedAccessSignature sig=x&se=1", "no sr"),
            ("SharedAccessSignature sr=h%2Fdevices&sig=x", "no se"),
            (
                "SharedAccessSignature sr=h%2Fdevices&sig=x&se=soon",
                "seconds",
            ),
            (
                "SharedAccessSignature sr=other%2Fdevices&sig=x&se=1",
                "not for h/devices",
            ),
            ("SharedAccessSignature sr=h%2Fdev&sig=x&se=1", "not for"),
            (
                "SharedAccessSignature sr=h%2Fdevices%2Fa&sig=x&se=1",
                "not for",
            ),
        ] {
            let message = read(token, "h/devices").unwrap_err();
            assert!(message.contains(word), "{token}: {message}");
        }
    }
}
