//! SAS tokens of devices: read, verified and minted as IoT Hub does (wire sheet §1.1–§1.4).
//!
//! The signature covers the scope exactly as it was sent, so `sr` is never re-encoded. Must never
//! print a token, a signature or a key. The hub side mints its own token in `hub::sas`; the two
//! share no code.

use super::denial::{self, Denial};
use super::identity::{DeviceId, ModuleId};
use crate::runtime::clock::Unix;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};

/// The word every token starts with.
pub const SCHEME: &str = "SharedAccessSignature";

/// How long after `se` a token still counts: `MaxClockSkew` of the service's own validator
/// (Azure/azure-iot-sdk-csharp `SharedAccessSignatureConstants`; wire sheet §1.2).
pub const CLOCK_SKEW_DEFAULT: Duration = Duration::from_secs(300);

/// The last second of the year 9999; the service's date type ends there.
const EXPIRY_MAX_S: u64 = 253_402_300_799;

/// Everything but RFC 3986 unreserved characters, as the SDKs' encoders do (wire sheet §1.4).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// How strictly tokens are taken; `[sas]` of the rules files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SasSettings {
    /// Grace after `se`; the session lasts until `se` plus this.
    pub clock_skew: Duration,
}

impl Default for SasSettings {
    fn default() -> Self {
        Self {
            clock_skew: CLOCK_SKEW_DEFAULT,
        }
    }
}

/// A token taken apart, borrowed from its text. Has no `Debug`: the signature is a secret.
pub struct Token<'a> {
    /// Scope as sent, still percent-encoded: what was signed.
    sr: &'a str,
    /// Expiry as sent: what was signed.
    se: &'a str,
    /// `se` in numbers.
    expires: Unix,
    signature: [u8; 32],
    skn: Option<&'a str>,
}

/// Whether a password is meant to be a token, even a malformed one.
#[must_use]
pub fn looks_like_token(password: &[u8]) -> bool {
    let trimmed = password.trim_ascii_start();
    trimmed
        .get(..SCHEME.len())
        .is_some_and(|word| word.eq_ignore_ascii_case(SCHEME.as_bytes()))
}

impl<'a> Token<'a> {
    /// Parses a token. Fields may come in any order, names ignore case, unknown names are
    /// skipped, each known one may come once (wire sheet §1.1, §1.2).
    ///
    /// # Errors
    /// `sas_malformed`.
    pub fn parse(text: &'a str) -> Result<Self, Denial> {
        const MALFORMED: Denial = denial::SAS_MALFORMED;
        let rest = text.strip_prefix(SCHEME).ok_or(MALFORMED)?;
        let mut chars = rest.chars();
        // exactly one white space after the word, none elsewhere
        if !chars.next().is_some_and(char::is_whitespace) {
            return Err(MALFORMED);
        }
        let fields = chars.as_str();
        if fields.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(MALFORMED);
        }
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.split('&').filter(|f| !f.is_empty()) {
            let (name, value) = field.split_once('=').ok_or(MALFORMED)?;
            let slot = match name {
                n if n.eq_ignore_ascii_case("sr") => &mut sr,
                n if n.eq_ignore_ascii_case("sig") => &mut sig,
                n if n.eq_ignore_ascii_case("se") => &mut se,
                n if n.eq_ignore_ascii_case("skn") => &mut skn,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(MALFORMED);
            }
        }
        let se = se.ok_or(MALFORMED)?;
        Ok(Self {
            sr: sr.filter(|sr| !sr.is_empty()).ok_or(MALFORMED)?,
            se,
            expires: parse_expiry(se).ok_or(MALFORMED)?,
            signature: sig.and_then(decode_signature).ok_or(MALFORMED)?,
            skn: skn.filter(|skn| !skn.is_empty()),
        })
    }

    /// The scope, decoded; `None` when it does not decode to text.
    #[must_use]
    pub fn scope(&self) -> Option<String> {
        let decoded = percent_decode_str(self.sr).decode_utf8().ok()?;
        Some(decoded.into_owned())
    }

    /// `se`.
    #[must_use]
    pub fn expires(&self) -> Unix {
        self.expires
    }

    /// The policy name, decoded; absent from tokens of device keys.
    #[must_use]
    pub fn policy(&self) -> Option<String> {
        let decoded = percent_decode_str(self.skn?).decode_utf8_lossy();
        Some(decoded.into_owned())
    }

    /// Whether `key` signed it; constant time in the signature.
    fn signed_by(&self, key: &[u8]) -> Choice {
        mac(key, self.sr, self.se).ct_eq(&self.signature)
    }
}

fn parse_expiry(se: &str) -> Option<Unix> {
    if se.is_empty() || !se.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = se.parse().ok().filter(|s| *s <= EXPIRY_MAX_S)?;
    Some(Unix::from_secs(seconds))
}

/// Plain percent-decoding: a raw `+` stays a `+`, a raw `/` or `=` is what it is.
fn decode_signature(sig: &str) -> Option<[u8; 32]> {
    // a base64 digest has 44 characters, 132 when each is escaped
    if sig.len() > 132 {
        return None;
    }
    let text: Vec<u8> = percent_decode_str(sig).collect();
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn mac(key: &[u8], sr: &str, se: &str) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length, RFC 2104");
    mac.update(sr.as_bytes());
    mac.update(b"\n");
    mac.update(se.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The keys of a device, decoded from base64.
#[derive(Clone, Copy)]
pub struct DeviceKeys<'a> {
    /// `primary_key`
    pub primary: &'a [u8],
    /// `secondary_key`
    pub secondary: Option<&'a [u8]>,
}

/// Stands in for keys that do not exist, so that an unknown device costs what a known one does.
const DUMMY_KEY: [u8; 32] = [0x5a; 32];

/// Verifies a device's token and answers when the session ends.
///
/// The scope must be `{hub}/devices/{d}` or, for a module, that or
/// `{hub}/devices/{d}/modules/{m}`; a last segment `api-version=…` is taken as documented for
/// tokens made by VS Code and the CLI (wire sheet §8.1). Broader scopes are refused, on purpose
/// narrower than the service. Letter case of the scope is ignored, as the service's validator
/// does (`Authorize`, `OrdinalIgnoreCase`): documentation asks signers for lower case. No device
/// gains by it, because the keys are picked by the id in the CONNECT, byte by byte.
///
/// # Errors
/// `sas_malformed`, `sas_scope`, `sas_expired`, `sas_signature`, `device_unknown`. The last two
/// are alike for the device and cost the same work.
pub fn verify(
    token: &str,
    device: (&DeviceId, Option<&ModuleId>),
    hub_host: &str,
    keys: Option<DeviceKeys<'_>>,
    now: Unix,
    settings: SasSettings,
) -> Result<Unix, Denial> {
    let token = Token::parse(token)?;
    let scope = token.scope().ok_or(denial::SAS_MALFORMED)?;
    if !scope_covers(&scope, hub_host, device.0, device.1) {
        return Err(denial::SAS_SCOPE);
    }
    let ends = token.expires + settings.clock_skew;
    if ends <= now {
        return Err(denial::SAS_EXPIRED);
    }
    let primary = keys.map_or(&DUMMY_KEY[..], |k| k.primary);
    let secondary = keys.and_then(|k| k.secondary);
    let by_primary = token.signed_by(primary);
    let by_secondary = token.signed_by(secondary.unwrap_or(&DUMMY_KEY));
    let has_secondary = Choice::from(u8::from(secondary.is_some()));
    let signed: bool = (by_primary | (by_secondary & has_secondary)).into();
    match keys {
        None => Err(denial::DEVICE_UNKNOWN),
        Some(_) if !signed => Err(denial::SAS_SIGNATURE),
        Some(_) => Ok(ends),
    }
}

/// The client id of the device or module a token's scope names; whether it is a good token, and
/// of this hub, is for [`verify`] to say.
///
/// # Errors
/// `sas_malformed`, `sas_scope`.
pub fn device_of(token: &str) -> Result<String, Denial> {
    let scope = Token::parse(token)?.scope().ok_or(denial::SAS_MALFORMED)?;
    let mut segments = scope.trim_end_matches('/').split('/').skip(1);
    let same = |word: Option<&str>, want: &str| word.is_some_and(|w| w.eq_ignore_ascii_case(want));
    if !same(segments.next(), "devices") {
        return Err(denial::SAS_SCOPE);
    }
    let device = segments.next().ok_or(denial::SAS_SCOPE)?;
    match (same(segments.next(), "modules"), segments.next()) {
        (true, Some(module)) => Ok(format!("{device}/{module}")),
        _ => Ok(device.to_owned()),
    }
}

/// Whether a decoded scope is this device's, by whole segments.
fn scope_covers(scope: &str, hub_host: &str, device: &DeviceId, module: Option<&ModuleId>) -> bool {
    let mut segments: Vec<&str> = scope
        .strip_suffix('/')
        .unwrap_or(scope)
        .splitn(7, '/')
        .collect();
    if segments.len() > 3 && segments.last().is_some_and(|s| is_api_version(s)) {
        segments.pop();
    }
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let of_device = |host: &str, word: &str, id: &str| {
        same(host, hub_host) && same(word, "devices") && same(id, device.as_str())
    };
    match (segments.as_slice(), module) {
        ([host, word, id], _) => of_device(host, word, id),
        ([host, word, id, modules, m], Some(module)) => {
            of_device(host, word, id) && same(modules, "modules") && same(m, module.as_str())
        }
        _ => false,
    }
}

fn is_api_version(segment: &str) -> bool {
    const KEY: &str = "api-version=";
    let segment = segment.strip_prefix('?').unwrap_or(segment);
    segment
        .get(..KEY.len())
        .is_some_and(|key| key.eq_ignore_ascii_case(KEY))
}

/// Mints a token for `resource` (not encoded, e.g. `{hub}/devices/{d}`) that ends at `expires`.
/// `policy` is the hub policy that owns `key`; leave it out for a device key.
///
/// The result is a credential: print it only where the operator asked for it.
#[must_use]
pub fn mint(resource: &str, key: &[u8], expires: Unix, policy: Option<&str>) -> String {
    let sr = utf8_percent_encode(resource, ENCODED).to_string();
    let se = expires.as_secs().to_string();
    let signature = STANDARD.encode(mac(key, &sr, &se));
    let sig = utf8_percent_encode(&signature, ENCODED);
    match policy {
        None => format!("{SCHEME} sr={sr}&sig={sig}&se={se}"),
        Some(policy) => {
            let skn = utf8_percent_encode(policy, ENCODED);
            format!("{SCHEME} sr={sr}&sig={sig}&se={se}&skn={skn}")
        }
    }
}

#[cfg(test)]
mod tests;
