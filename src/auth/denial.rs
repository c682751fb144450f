//! Every way to be refused, in one table: metric label, words for the device, words for operators.
//!
//! Must never hold a secret, and must never tell a device that proved nothing whether the device
//! it names exists: refusals of that kind share `kind` and `text` and differ only in `reason` and
//! `detail`, which stay on this side.

use crate::telemetry::reason::Reason;

/// What a refusal means on the wire; `mqtt` maps it to a CONNACK code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialKind {
    /// The credential is missing, malformed, wrong or expired.
    BadCredentials,
    /// The credential is good, but not for this.
    NotAuthorized,
    /// The client id is malformed or not the credential's.
    ClientId,
    /// Not decided; the device may try again.
    Unavailable,
}

/// Why a device was refused. Never holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// `connects_total{result}` and log word, e.g. `sas_expired`, `client_id_mismatch`.
    pub reason: Reason,
    /// What to fix, for the log and MQTT 5's reason string.
    pub text: &'static str,
    /// What it means on the wire.
    pub kind: DenialKind,
    /// What operators should look at; for logs only, because it may say whether a device exists.
    pub detail: &'static str,
}

impl Denial {
    /// Whether waiting and trying again, unchanged, can help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, DenialKind::Unavailable)
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.text)?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.detail)
    }
}

const fn row(kind: DenialKind, reason: Reason, text: &'static str, detail: &'static str) -> Denial {
    Denial {
        reason,
        text,
        kind,
        detail,
    }
}

const BAD: DenialKind = DenialKind::BadCredentials;
const NO: DenialKind = DenialKind::NotAuthorized;

/// One text for everything a device that proved nothing may hear about a SAS token.
const SAS_TEXT: &str = "the SAS token does not match the device's primary or secondary key; \
                        check the device id and the key, sign again and reconnect";
const X509_TEXT: &str = "thumbprint does not match configuration; \
                         register this certificate for the device or use the registered one";

pub(crate) const NO_CREDENTIALS: Denial = row(
    BAD,
    Reason::NoCredentials,
    "send a SAS token or a user name with a password, or connect with a PSK or a certificate",
    "",
);
pub(crate) const NOT_ACCEPTED: Denial = row(
    NO,
    Reason::CredentialNotAccepted,
    "this listener does not take this kind of credential; use another listener or credential",
    "`accept` of the [[listener]] lists the kinds it takes",
);
pub(crate) const CLIENT_ID_INVALID: Denial = row(
    DenialKind::ClientId,
    Reason::ClientIdInvalid,
    "the client id must be the device id, or device/module",
    "",
);
pub(crate) const CLIENT_ID_MISSING: Denial = row(
    DenialKind::ClientId,
    Reason::ClientIdMissing,
    "CONNECT has no client id; send the device id of the credential",
    "`assign_client_id = true` in the [[rule]], [[device]] or [[psk_file]] gives the device its id",
);
pub(crate) const CLIENT_ID_MISMATCH: Denial = row(
    DenialKind::ClientId,
    Reason::ClientIdMismatch,
    "the client id is not the device this credential belongs to; use the credential's device id",
    "",
);
pub(crate) const USERNAME_MALFORMED: Denial = row(
    BAD,
    Reason::UsernameMalformed,
    "the user name must be <hub host>/<client id>/?api-version=2021-04-12",
    "",
);
pub(crate) const USERNAME_HUB: Denial = row(
    BAD,
    Reason::UsernameHub,
    "the user name names another hub; it must start with the hub's host name, not the gateway's",
    "compare it with [hub] host",
);
pub(crate) const USERNAME_MISSING: Denial = row(
    BAD,
    Reason::UsernameMissing,
    "a password needs its user name",
    "",
);
pub(crate) const SAS_MALFORMED: Denial = row(
    BAD,
    Reason::SasMalformed,
    "the SAS token must read: SharedAccessSignature sr=<scope>&sig=<signature>&se=<expiry>",
    "one blank after the first word, each field once, sig in base64, se in seconds",
);
pub(crate) const SAS_EXPIRED: Denial = row(
    BAD,
    Reason::SasExpired,
    "the SAS token is expired; renew the token and reconnect",
    "if the device renews in time, compare its clock",
);
pub(crate) const SAS_LIFE_TOO_LONG: Denial = row(
    BAD,
    Reason::SasLifeTooLong,
    "the SAS token lives longer than this device's may; sign one that ends sooner",
    "`max_token_life` of the [[rule]] or [[device]] bounds it, from now to the token's end",
);
pub(crate) const SAS_SCOPE: Denial = row(
    BAD,
    Reason::SasScope,
    "the SAS token is for another resource; sign it for <hub host>/devices/<device>",
    "",
);
pub(crate) const SAS_SIGNATURE: Denial = row(
    BAD,
    Reason::SasSignature,
    SAS_TEXT,
    "the device is known; the signature fits neither of its keys",
);
pub(crate) const DEVICE_UNKNOWN: Denial = row(
    BAD,
    Reason::DeviceUnknown,
    SAS_TEXT,
    "no [[device]] with `sas` keys has this id; add one or correct the device",
);
pub(crate) const BAD_PASSWORD: Denial = row(
    BAD,
    Reason::BadPassword,
    "user name or password is wrong",
    "no [[device]] has this user name, or the hash does not fit",
);
pub(crate) const PSK_UNKNOWN: Denial = row(
    NO,
    Reason::PskUnknown,
    "this PSK identity is not registered",
    "no [[device]] and no [[psk_file]] has it; after a handshake: it was removed since",
);
pub(crate) const X509_MALFORMED: Denial = row(
    BAD,
    Reason::X509Malformed,
    "the client certificate cannot be read; use an X.509 v3 certificate",
    "",
);
pub(crate) const X509_EXPIRED: Denial = row(
    BAD,
    Reason::X509Expired,
    "the client certificate is expired; renew the certificate and reconnect",
    "",
);
pub(crate) const X509_NOT_YET_VALID: Denial = row(
    BAD,
    Reason::X509NotYetValid,
    "the client certificate is not valid yet; compare the clocks",
    "",
);
pub(crate) const X509_USAGE: Denial = row(
    BAD,
    Reason::X509Usage,
    "the certificate is not for clients; extended key usage must include clientAuth",
    "",
);
pub(crate) const X509_KEY_USAGE: Denial = row(
    BAD,
    Reason::X509KeyUsage,
    "the certificate's key may not sign; key usage must include digitalSignature",
    "",
);
pub(crate) const X509_V1: Denial = row(
    NO,
    Reason::X509V1,
    "the certificate is of X.509 version 1 or 2; use one of version 3",
    "`allow_x509 = [\"v1\"]` in the [[rule]] or [[device]] admits it",
);
pub(crate) const X509_ANY_EKU: Denial = row(
    NO,
    Reason::X509AnyEku,
    "the certificate is for any use; extended key usage must include clientAuth",
    "`allow_x509 = [\"any_eku\"]` in the [[rule]] or [[device]] admits it",
);
pub(crate) const X509_THUMBPRINT: Denial = row(
    BAD,
    Reason::X509Thumbprint,
    X509_TEXT,
    "the device is registered with another certificate",
);
pub(crate) const X509_UNKNOWN: Denial = row(
    BAD,
    Reason::X509Unknown,
    X509_TEXT,
    "no [[device]] has this thumbprint, and no client_ca of the listener issued the certificate",
);
pub(crate) const RULE_DENIED: Denial = row(
    NO,
    Reason::RuleDenied,
    "a rule refuses this device",
    "`check --as` names the rule",
);
pub(crate) const NO_RULE: Denial = row(
    NO,
    Reason::NoRule,
    "no rule admits this device",
    "`check --as` says why each rule did not fit",
);
pub(crate) const DEVICE_ID_INVALID: Denial = row(
    NO,
    Reason::DeviceIdInvalid,
    "the credential's name makes no device id; letters, digits and - . _ : are safe",
    "the rule fits, its device_id template does not give a valid id",
);
pub(crate) const DEVICE_RESERVED: Denial = row(
    NO,
    Reason::DeviceReserved,
    "this device id belongs to another credential",
    "the id has a [[device]] of its own; add this kind of credential there",
);
pub(crate) const DEVICE_DISABLED: Denial = row(
    NO,
    Reason::DeviceDisabled,
    "this device is disabled",
    "its [[device]] says enabled = false",
);
pub(crate) const PROOFS_DISAGREE: Denial = row(
    NO,
    Reason::CredentialsDisagree,
    "two credentials were sent and they name different devices; send one",
    "",
);

/// For the driver: too many password checks wait already.
pub const BUSY: Denial = row(
    DenialKind::Unavailable,
    Reason::PasswordChecksBusy,
    "too many logins at once; try again later",
    "`limits.password_checks` bounds them",
);

/// The whole table, for documentation and tests.
pub const ALL: &[Denial] = &[
    NO_CREDENTIALS,
    NOT_ACCEPTED,
    CLIENT_ID_INVALID,
    CLIENT_ID_MISSING,
    CLIENT_ID_MISMATCH,
    USERNAME_MALFORMED,
    USERNAME_HUB,
    USERNAME_MISSING,
    SAS_MALFORMED,
    SAS_EXPIRED,
    SAS_LIFE_TOO_LONG,
    SAS_SCOPE,
    SAS_SIGNATURE,
    DEVICE_UNKNOWN,
    BAD_PASSWORD,
    PSK_UNKNOWN,
    X509_MALFORMED,
    X509_EXPIRED,
    X509_NOT_YET_VALID,
    X509_USAGE,
    X509_KEY_USAGE,
    X509_V1,
    X509_ANY_EKU,
    X509_THUMBPRINT,
    X509_UNKNOWN,
    RULE_DENIED,
    NO_RULE,
    DEVICE_ID_INVALID,
    DEVICE_RESERVED,
    DEVICE_DISABLED,
    PROOFS_DISAGREE,
    BUSY,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::reason::Stage;

    #[test]
    fn every_denial_has_a_reason_of_its_own() {
        for (i, a) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|b| a.reason != b.reason), "{a}");
            assert!(
                a.reason.is_said_at(Stage::Connect) && a.reason.refuses(),
                "{a}"
            );
            assert!(!a.text.is_empty() && !a.text.contains("  "), "{a}");
        }
    }

    #[test]
    fn unknown_device_and_wrong_key_look_the_same_outside() {
        let outside = |d: Denial| (d.kind, d.text);
        assert_eq!(outside(DEVICE_UNKNOWN), outside(SAS_SIGNATURE));
        assert_eq!(outside(X509_UNKNOWN), outside(X509_THUMBPRINT));
    }
}
