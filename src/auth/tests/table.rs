//! The table of CONNECTs: who presents what, and the answer.

use super::*;

/// Proved PSK identity or `-`, client id, user name, password; then the answer.
pub(super) struct Row(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) Option<&'static str>,
    pub(super) Option<Vec<u8>>,
    pub(super) Result<&'static str, &'static str>,
);

const A: Option<&str> = Some("myhub.azure-devices.net/a/?api-version=2021-04-12");
const B: Option<&str> = Some("myhub.azure-devices.net/b/?api-version=2021-04-12");

fn sas(id: &str) -> Option<Vec<u8>> {
    Some(token(id, &SAS_KEY, 60).into_bytes())
}

fn bad_sas(id: &str) -> Option<Vec<u8>> {
    Some(token(id, &[8; 32], 60).into_bytes())
}

fn secret(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

fn right() -> Option<Vec<u8>> {
    Some(PASSWORD.to_vec())
}

/// The whole table.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = nothing_or_malformed();
    rows.extend(passwords());
    rows.extend(tokens());
    rows.extend(keys());
    rows
}

/// What is no credential, and client ids outside the grammar.
#[rustfmt::skip] // one row a line
fn nothing_or_malformed() -> Vec<Row> {
    vec![
        // nothing, or half of something
        Row("-", "a", None, None, Err("no_credentials")),
        Row("-", "a", Some(""), None, Err("no_credentials")),
        Row("-", "a", Some("user-a"), None, Err("no_credentials")),
        Row("-", "a", A, None, Err("no_credentials")),
        Row("-", "a", Some("user-a"), secret(""), Err("no_credentials")),
        Row("-", "a", None, secret(""), Err("no_credentials")),
        Row("-", "a", B, None, Err("client_id_mismatch")),
        Row("-", "a", None, right(), Err("username_missing")),
        Row("-", "a", Some(""), right(), Err("username_missing")),
        // client ids outside the grammar
        Row("-", "", Some("user-a"), right(), Err("client_id_missing")),
        Row("-", "", Some("user-a"), secret("wrong"), Err("bad_password")),
        Row("a", "", None, None, Err("client_id_missing")),
        Row("-", "", None, sas("a"), Err("client_id_missing")),
        Row("-", "", None, bad_sas("a"), Err("sas_signature")),
        Row("-", "a/m/x", Some("user-a"), right(), Err("client_id_invalid")),
        Row("a", "a+", None, None, Err("client_id_invalid")),
        Row("a", "a#", None, None, Err("client_id_invalid")),
        Row("a", "a\0", None, None, Err("client_id_invalid")),
        Row("a", "\u{430}", None, None, Err("client_id_invalid")),
    ]
}

/// User names and passwords.
#[rustfmt::skip] // one row a line
fn passwords() -> Vec<Row> {
    vec![
        Row("-", "a", Some("user-a"), right(), Ok("a")),
        Row("-", "a", Some("user-a"), secret("open sesam"), Err("bad_password")),
        Row("-", "a", Some("user-a"), secret("open sesame\0"), Err("bad_password")),
        Row("-", "a", Some("user-a"), secret("\0"), Err("bad_password")),
        Row("-", "a", Some("user-a\0"), right(), Err("bad_password")),
        Row("-", "a", Some("USER-A"), right(), Err("bad_password")),
        Row("-", "a", Some("nobody"), right(), Err("bad_password")),
        Row("-", "nobody", Some("nobody"), right(), Err("bad_password")),
        Row("-", "a", Some("a"), right(), Err("bad_password")),
        Row("-", "b", Some("user-a"), right(), Err("client_id_mismatch")),
        Row("-", "b", Some("user-a"), secret("wrong"), Err("bad_password")),
        Row("-", "A", Some("user-a"), right(), Err("client_id_mismatch")),
        Row("-", "a/m", Some("user-a"), right(), Err("client_id_mismatch")),
        Row("-", "off", Some("user-off"), right(), Err("device_disabled")),
        Row("-", "off", Some("user-off"), secret("wrong"), Err("bad_password")),
    ]
}

/// SAS tokens.
#[rustfmt::skip] // one row a line
fn tokens() -> Vec<Row> {
    vec![
        Row("-", "a", A, sas("a"), Ok("a")),
        Row("-", "a", None, sas("a"), Ok("a")),
        Row("-", "a", Some("myhub.azure-devices.net/a"), sas("a"), Ok("a")),
        Row("-", "a/m", Some("myhub.azure-devices.net/a/m/"), sas("a/m"), Ok("a/m")),
        Row("-", "a/x", None, sas("a/x"), Err("device_unknown")),
        Row("-", "a", Some("user-a"), sas("a"), Err("username_malformed")),
        Row("-", "a", Some("gateway.local/a/"), sas("a"), Err("username_hub")),
        Row("-", "a", B, sas("a"), Err("client_id_mismatch")),
        Row("-", "b", B, sas("a"), Err("sas_scope")),
        Row("-", "a", A, bad_sas("a"), Err("sas_signature")),
        Row("-", "nobody", None, bad_sas("nobody"), Err("device_unknown")),
        Row("-", "nobody", None, sas("nobody"), Err("device_unknown")),
        Row("-", "off", None, sas("off"), Err("device_disabled")),
        Row("-", "off", None, bad_sas("off"), Err("sas_signature")),
        Row("-", "a", A,
            Some(token("a", &SAS_KEY, -6).into_bytes()),
            Err("sas_expired"),
        ),
        Row("-", "a", A,
            Some(token("a", &SAS_KEY, -4).into_bytes()),
            Ok("a"),
        ),
        Row("-", "a", A,
            secret("SharedAccessSignature sr=a"),
            Err("sas_malformed"),
        ),
        Row("-", "a", A,
            Some(b"SharedAccessSignature \xff".to_vec()),
            Err("sas_malformed"),
        ),
        Row("-", "a", Some("user-a"), secret(" SharedAccessSignature"), Err("username_malformed")),
    ]
}

/// PSK alone, and with a second credential.
#[rustfmt::skip] // one row a line
fn keys() -> Vec<Row> {
    vec![
        Row("a", "a", None, None, Ok("a")),
        Row("a", "a", Some("anything"), None, Ok("a")),
        Row("a", "a", Some("anything"), secret(""), Ok("a")),
        Row("a", "a", A, None, Ok("a")),
        Row("a", "a", B, None, Err("client_id_mismatch")),
        Row("a", "b", None, None, Err("client_id_mismatch")),
        Row("a", "b", B, None, Err("client_id_mismatch")),
        Row("a", "b", Some("user-b"), right(), Err("client_id_mismatch")),
        Row("a", "b", B, sas("b"), Err("client_id_mismatch")),
        Row("a", "a", Some("user-a"), right(), Ok("a")),
        Row("a", "a", Some("user-a"), secret("wrong"), Err("bad_password")),
        Row("a", "a", Some("nobody"), secret("wrong"), Err("bad_password")),
        Row("a", "a", Some("user-b"), right(), Err("client_id_mismatch")),
        Row("a", "a", A, sas("a"), Ok("a")),
        Row("a", "a", A, bad_sas("a"), Err("sas_signature")),
        Row("a", "a", None, secret("SharedAccessSignature"), Err("sas_malformed")),
        Row("off", "off", None, None, Err("device_disabled")),
        Row("gone", "gone", None, None, Err("psk_unknown")),
        Row("", "a", None, None, Err("psk_unknown")),
    ]
}
