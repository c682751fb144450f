//! The hub's shared access policies and the rotation of their keys.

use crate::config::secret::Secret;
use crate::emulator::config::{Keys, PolicyConfig, Rights};
use crate::emulator::errors::random;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::{Mutex, PoisonError};

/// Which of two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySlot {
    /// Tried first.
    Primary,
    /// Tried second.
    Secondary,
}

/// At most sixteen, fixed at start; only keys change.
#[derive(Debug)]
pub(crate) struct Policies(Mutex<Vec<PolicyConfig>>);

impl Policies {
    pub(crate) const fn new(policies: Vec<PolicyConfig>) -> Self {
        Self(Mutex::new(policies))
    }

    /// Rights and keys of the policy `name`.
    pub(crate) fn get(&self, name: &str) -> Option<(Rights, Keys)> {
        let policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        policies
            .iter()
            .find(|p| p.name == name)
            .map(|p| (p.rights, p.keys.clone()))
    }

    /// Takes a new key or makes one; its base64 text, `None` for an unknown policy. Tokens already
    /// put stay good until they end, as the service checks a signature only when a token arrives.
    pub(crate) fn rotate(&self, name: &str, slot: KeySlot, key: Option<Vec<u8>>) -> Option<String> {
        let key = match key {
            Some(key) if !key.is_empty() => key,
            _ => random::<32>().to_vec(),
        };
        let mut policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = policies.iter_mut().find(|p| p.name == name)?;
        let secret = Some(Secret::new(key.clone()));
        match slot {
            KeySlot::Primary => policy.keys.primary = secret,
            KeySlot::Secondary => policy.keys.secondary = secret,
        }
        Some(STANDARD.encode(key))
    }
}
