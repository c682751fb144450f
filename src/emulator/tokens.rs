//! Who may use which links: a token checked against the registry becomes a [`Grant`], and each
//! connection keeps its own.

use crate::config::secret::Secret;
use crate::emulator::address::{Endpoint, Identity};
use crate::emulator::config::{Keys, Rights};
use crate::emulator::devices::Devices;
use crate::emulator::policies::Policies;
use crate::emulator::sas::SasToken;
use crate::runtime::clock::Unix;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use std::time::Duration;

/// Why a token is refused; the texts are the service's where they are known (wire sheet §3.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("The specified SAS token is malformed.")]
    Malformed,
    #[error("The specified SAS token is expired")]
    Expired,
    #[error(
        "The specified SAS token has an invalid signature. It does not match either the primary \
         or secondary key."
    )]
    Signature,
    #[error("The specified SAS token has a scope that is not of this IotHub.")]
    Scope,
    #[error("Device {device} at IotHub {hub} not registered.")]
    UnknownDevice { device: String, hub: String },
    #[error("The maximum number of tokens per connection ({0}) has been reached.")]
    TooMany(usize),
}

impl TokenError {
    /// The CBS `status-code`.
    pub(crate) const fn status(&self) -> i32 {
        match self {
            Self::Malformed => 400,
            Self::Expired | Self::Signature | Self::Scope => 401,
            Self::UnknownDevice { .. } => 404,
            Self::TooMany(_) => 500,
        }
    }
}

/// Whose key signed the token; `scope` of `iothub-connection-auth-method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    Hub,
    Device,
    Module,
}

impl Signer {
    /// The JSON the service stamps on messages (wire sheet §4.4).
    pub(crate) const fn auth_method(self) -> &'static str {
        match self {
            Self::Hub => r#"{"scope":"hub","type":"sas","issuer":"iothub"}"#,
            Self::Device => r#"{"scope":"device","type":"sas","issuer":"iothub"}"#,
            Self::Module => r#"{"scope":"module","type":"sas","issuer":"iothub"}"#,
        }
    }
}

/// A token that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Scope after the host, split; empty = the whole hub.
    scope: Vec<String>,
    signer: Signer,
    /// Name of the policy that signed, if one did.
    policy: Option<String>,
    rights: Rights,
    /// Last instant it counts, skew included.
    until: Unix,
}

/// What is needed to judge a token.
pub(crate) struct Authority<'a> {
    pub(crate) hosts: [&'a str; 2],
    pub(crate) policies: &'a Policies,
    pub(crate) devices: &'a Devices,
    pub(crate) skew: Duration,
}

impl Authority<'_> {
    /// Checks form, time, scope, signature, in the service's order (wire sheet §1.2).
    pub(crate) fn verify(&self, text: &str, now: Unix) -> Result<Grant, TokenError> {
        let token = SasToken::parse(text).map_err(|_| TokenError::Malformed)?;
        let until = token.valid_until(self.skew);
        if now > until {
            return Err(TokenError::Expired);
        }
        let (scheme, text) = token.scope().split_once("://").unzip();
        let scope = self.scope(text.unwrap_or(token.scope()))?;
        let (signer, rights, keys) = match token.policy() {
            Some(name) => {
                let (rights, keys) = self.policies.get(name).ok_or(TokenError::Signature)?;
                (Signer::Hub, rights, keys)
            }
            None => self.device_keys(&scope)?,
        };
        // Event Hubs clients name a URL, and sign with the key's text instead of its bytes.
        let signed = keys.iter().any(|key| match scheme {
            None | Some("https") => token.signed_by(key),
            Some(_) => token.signed_by(&Secret::new(STANDARD.encode(key.expose()).into_bytes())),
        });
        if !signed {
            return Err(TokenError::Signature);
        }
        let policy = token.policy().map(str::to_owned);
        Ok(Grant {
            scope,
            signer,
            policy,
            rights,
            until,
        })
    }

    fn scope(&self, scope: &str) -> Result<Vec<String>, TokenError> {
        let (authority, path) = scope.split_once('/').unwrap_or((scope, ""));
        let host = authority
            .split_once(':')
            .map_or(authority, |(host, _)| host);
        if !self
            .hosts
            .iter()
            .any(|known| host.eq_ignore_ascii_case(known))
        {
            return Err(TokenError::Scope);
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        Ok(if path.is_empty() {
            Vec::new()
        } else {
            path.split('/').map(str::to_owned).collect()
        })
    }

    /// Keys of the device or module a scope names; C# encodes the id once more.
    fn device_keys(&self, scope: &[String]) -> Result<(Signer, Rights, Keys), TokenError> {
        let [devices, device, tail @ ..] = scope else {
            return Err(TokenError::Scope);
        };
        if !devices.eq_ignore_ascii_case("devices") {
            return Err(TokenError::Scope);
        }
        let record = self
            .devices
            .get(device)
            .or_else(|| self.devices.get(&decoded(device)));
        let Some(record) = record else {
            let hub = self.hosts[0]
                .split('.')
                .next()
                .unwrap_or_default()
                .to_owned();
            return Err(TokenError::UnknownDevice {
                device: device.clone(),
                hub,
            });
        };
        let rights = Rights {
            device_connect: true,
            ..Rights::default()
        };
        match tail {
            [modules, module, ..] if modules.eq_ignore_ascii_case("modules") => {
                let module = record.modules.iter().find(|m| m.id == decoded(module));
                let keys = module.map(|m| m.keys.clone()).unwrap_or_default();
                Ok((Signer::Module, rights, keys))
            }
            _ => Ok((Signer::Device, rights, record.keys.clone())),
        }
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Grant {
    /// Whether the policy `name` signed it.
    pub(crate) fn is_of_policy(&self, name: &str) -> bool {
        self.policy.as_deref() == Some(name)
    }

    /// Whether it is the token of `{d}` or `{d}/modules/{m}`.
    pub(crate) fn is_of_identity(&self, identity: &str) -> bool {
        self.policy.is_none()
            && self
                .scope
                .get(1..)
                .is_some_and(|path| path.join("/") == identity)
    }

    /// Whether the policy that signed it has a right, and its scope covers a path of back ends.
    pub(crate) fn may(&self, has: impl FnOnce(Rights) -> bool, path: &[&str]) -> bool {
        let names = |part: &str, want: &str| {
            part.eq_ignore_ascii_case(want) || decoded(part).eq_ignore_ascii_case(want)
        };
        has(self.rights)
            && self.scope.len() <= path.len()
            && self
                .scope
                .iter()
                .zip(path)
                .all(|(part, want)| names(part, want))
    }

    /// Whole-segment prefix: `/a/b` covers `/a/b/c`, not `/a/bc`.
    fn covers(&self, identity: &Identity, endpoint: Endpoint) -> bool {
        let mut resource: Vec<(&str, bool)> = vec![("devices", false), (&identity.device, true)];
        if let Some(module) = &identity.module {
            resource.extend([("modules", false), (&**module, true)]);
        }
        resource.extend(endpoint.path().iter().map(|part| (*part, false)));
        self.scope.len() <= resource.len()
            && self
                .scope
                .iter()
                .zip(resource)
                .all(|(part, (want, is_id))| {
                    if is_id {
                        part == want || decoded(part) == want
                    } else {
                        part.eq_ignore_ascii_case(want)
                    }
                })
    }
}

/// The tokens of one connection.
#[derive(Debug)]
pub(crate) struct Tokens {
    grants: Vec<Grant>,
    max: usize,
}

impl Tokens {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            grants: Vec::new(),
            max,
        }
    }

    /// Keeps `grant`; one of the same scope and signer is renewed by it.
    pub(crate) fn put(&mut self, grant: Grant) -> Result<(), TokenError> {
        let same = |old: &&mut Grant| old.scope == grant.scope && old.signer == grant.signer;
        if let Some(old) = self.grants.iter_mut().find(same) {
            *old = grant;
            return Ok(());
        }
        if self.grants.len() >= self.max {
            return Err(TokenError::TooMany(self.max));
        }
        self.grants.push(grant);
        Ok(())
    }

    /// Who vouches for a device link at `now`, if anyone.
    pub(crate) fn covering(
        &self,
        identity: &Identity,
        endpoint: Endpoint,
        now: Unix,
    ) -> Option<Signer> {
        let good = |grant: &&Grant| {
            now <= grant.until && grant.rights.device_connect && grant.covers(identity, endpoint)
        };
        self.grants.iter().find(good).map(|grant| grant.signer)
    }

    /// Whether a token vouches for a back end's link at `now`. A node without a path is for every
    /// token with the right.
    pub(crate) fn covering_service(&self, path: &[&str], now: Unix) -> bool {
        self.grants.iter().any(|grant| {
            let covers = path.is_empty() && grant.rights.service_connect
                || grant.may(|rights| rights.service_connect, path);
            now <= grant.until && covers
        })
    }

    /// Forgets ended tokens; whether there were any.
    pub(crate) fn drop_expired(&mut self, now: Unix) -> bool {
        let before = self.grants.len();
        self.grants.retain(|grant| now <= grant.until);
        self.grants.len() != before
    }

    /// When the next token ends.
    pub(crate) fn next_end(&self) -> Option<Unix> {
        self.grants.iter().map(|grant| grant.until).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

#[cfg(test)]
mod tests;
