//! IoT Hub's MQTT user names, `{hub}/{clientId}/?api-version=…` (wire sheet §8.1).
//!
//! The id part is compared with the client id as text, never decoded: ids may hold `%`, `?` and
//! `=`, so only the client id tells where the id ends and the query begins.

use super::denial::{self, Denial};

/// The parts of a user name that fits hub and client id. Values are as sent, not decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserName<'a> {
    /// `api-version`
    pub api_version: Option<&'a str>,
    /// `model-id`
    pub model_id: Option<&'a str>,
    /// `DeviceClientType`
    pub client_type: Option<&'a str>,
}

const KEYS: [&str; 3] = ["api-version", "model-id", "DeviceClientType"];

/// Whether `username` is in IoT Hub's form and names this hub; host names ignore case.
#[must_use]
pub fn names_hub(username: &str, hub_host: &str) -> bool {
    username
        .split_once('/')
        .is_some_and(|(host, _)| host.eq_ignore_ascii_case(hub_host))
}

/// Checks a user name against the hub and the client id (ordinal comparison).
///
/// Accepted after the id: nothing, `/`, `/?query` and, as C and Go devices send it, `/query`.
///
/// # Errors
/// `username_malformed`, `username_hub` or `client_id_mismatch`.
pub fn check<'a>(
    username: &'a str,
    hub_host: &str,
    client_id: &str,
) -> Result<UserName<'a>, Denial> {
    let (host, rest) = username.split_once('/').ok_or(denial::USERNAME_MALFORMED)?;
    if !host.eq_ignore_ascii_case(hub_host) {
        return Err(denial::USERNAME_HUB);
    }
    let tail = rest
        .strip_prefix(client_id)
        .ok_or(denial::CLIENT_ID_MISMATCH)?;
    let query = match tail.strip_prefix('/') {
        None if tail.is_empty() => "",
        None => return Err(denial::CLIENT_ID_MISMATCH),
        Some("") => "",
        Some(query) => match query.strip_prefix('?') {
            Some(query) => query,
            None if starts_with_known_key(query) => query,
            // `{hub}/device/module` sent with client id `device`
            None => return Err(denial::CLIENT_ID_MISMATCH),
        },
    };
    Ok(parse_query(query))
}

fn starts_with_known_key(query: &str) -> bool {
    query
        .split_once('=')
        .is_some_and(|(key, _)| KEYS.iter().any(|known| key.eq_ignore_ascii_case(known)))
}

fn parse_query(query: &str) -> UserName<'_> {
    let mut parsed = UserName::default();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let slot = match KEYS
            .iter()
            .position(|known| key.eq_ignore_ascii_case(known))
        {
            Some(0) => &mut parsed.api_version,
            Some(1) => &mut parsed.model_id,
            Some(_) => &mut parsed.client_type,
            None => continue,
        };
        slot.get_or_insert(value);
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "myhub.azure-devices.net";

    fn run(username: &str, client_id: &str) -> Result<Option<String>, &'static str> {
        check(username, HUB, client_id)
            .map(|u| u.api_version.map(str::to_owned))
            .map_err(|d| d.reason.word())
    }

    #[test]
    fn the_forms_of_all_sdks_are_taken() {
        let some = |v: &str| Ok(Some(v.to_owned()));
        let node = "myhub.azure-devices.net/d1/?api-version=2021-04-12&DeviceClientType=a%2Fb";
        assert_eq!(run(node, "d1"), some("2021-04-12"));
        let turned = "MyHub.Azure-Devices.net/d1/?DeviceClientType=x&api-version=2020-09-30";
        assert_eq!(run(turned, "d1"), some("2020-09-30"));
        assert_eq!(
            run("myhub.azure-devices.net/d1/api-version=2016-11-14", "d1"),
            some("2016-11-14")
        );
        assert_eq!(run("myhub.azure-devices.net/d1", "d1"), Ok(None));
        assert_eq!(run("myhub.azure-devices.net/d1/", "d1"), Ok(None));
        assert_eq!(run("myhub.azure-devices.net/d1/?", "d1"), Ok(None));
        let module = "myhub.azure-devices.net/d1/m1/?api-version=2018-06-30";
        assert_eq!(run(module, "d1/m1"), some("2018-06-30"));
        let odd = "myhub.azure-devices.net/a?b=c%/?api-version=1";
        assert_eq!(run(odd, "a?b=c%"), some("1"));
    }

    #[test]
    fn another_id_or_hub_is_refused() {
        let row = |name: &str, id: &str, reason: &str| assert_eq!(run(name, id), Err(reason));
        row(
            "myhub.azure-devices.net/d2/?api-version=1",
            "d1",
            "client_id_mismatch",
        );
        row(
            "myhub.azure-devices.net/D1/?api-version=1",
            "d1",
            "client_id_mismatch",
        );
        row(
            "myhub.azure-devices.net/d10/?api-version=1",
            "d1",
            "client_id_mismatch",
        );
        row(
            "myhub.azure-devices.net/d1/m1/?api-version=1",
            "d1",
            "client_id_mismatch",
        );
        row(
            "myhub.azure-devices.net/d1?api-version=1",
            "d1",
            "client_id_mismatch",
        );
        row("myhub.azure-devices.net/d%31/", "d1", "client_id_mismatch");
        row(
            "other.azure-devices.net/d1/?api-version=1",
            "d1",
            "username_hub",
        );
        row("localhost/d1/?api-version=1", "d1", "username_hub");
        row("d1", "d1", "username_malformed");
        row("", "d1", "username_malformed");
    }
}
