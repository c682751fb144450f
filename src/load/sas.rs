//! Device SAS tokens (wire sheet §1), by code of this module's own. Pure.

use crate::config::secret::Secret;
use crate::runtime::clock::Unix;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is: the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The token of device `id` for `hub`, good until `expiry`.
pub fn mint(hub: &str, id: &str, key: &Secret, expiry: Unix) -> Secret {
    let scope = format!("{hub}/devices/{id}");
    let scope = utf8_percent_encode(&scope, ESCAPED);
    let expiry = expiry.as_secs();
    let mut mac =
        Hmac::<sha2::Sha256>::new_from_slice(key.expose()).expect("HMAC takes any key length");
    mac.update(format!("{scope}\n{expiry}").as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    let signature = utf8_percent_encode(&signature, ESCAPED);
    let token = format!("SharedAccessSignature sr={scope}&sig={signature}&se={expiry}");
    Secret::new(token.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::mint;
    use crate::config::secret::Secret;
    use crate::runtime::clock::Unix;

    #[test]
    fn a_token_with_a_known_signature() {
        let token = mint(
            "h.example",
            "d 1",
            &Secret::from("key"),
            Unix::from_secs(10),
        );
        let text = token.expose_str().unwrap();
        // computed with `openssl dgst -sha256 -hmac key -binary | base64`
        let (head, tail) = text.split_once("&sig=").unwrap();
        assert_eq!(head, "SharedAccessSignature sr=h.example%2Fdevices%2Fd%201");
        assert_eq!(tail, "mBBTp8DHaACK07akOsCP4isstLcGtHRdlJM7Sncr3SM%3D&se=10");
    }
}
