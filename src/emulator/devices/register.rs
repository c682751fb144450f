//! The registry as the service side writes it: devices and modules with keys, etags and generations.

use super::{Auth, Devices, Module, Record, Unregistered};
use crate::config::secret::Secret;
use crate::emulator::address::Identity;
use crate::emulator::config::{Keys, valid_id};
use crate::emulator::errors::{hex, random};
use std::sync::Arc;

/// Why the registry was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("Device {0} not registered")]
    DeviceNotFound(String),
    #[error("Module {1} of device {0} not registered")]
    ModuleNotFound(String, String),
    #[error("A device with ID '{0}' is already registered.")]
    DeviceExists(String),
    #[error("A module with ID '{0}' is already registered on the device.")]
    ModuleExists(String),
    #[error("A device has at most {0} modules.")]
    TooManyModules(usize),
    #[error("Precondition failed: the etag is not the current one.")]
    Changed,
    #[error("The id is not one the service takes.")]
    BadId,
    #[error("The registry is full.")]
    Full,
}

/// What a device or module is registered with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registration {
    pub(crate) disabled: bool,
    pub(crate) reason: Option<String>,
    pub(crate) auth: Auth,
    /// Keys that are absent are made.
    pub(crate) keys: Keys,
}

fn etag() -> Arc<str> {
    hex(&random::<6>()).into()
}

/// Keys as given; for tokens, what is missing is made.
fn whole(keys: Keys, auth: &Auth) -> Keys {
    if *auth != Auth::Sas {
        return Keys::default();
    }
    let fresh = || Secret::new(random::<32>().to_vec());
    Keys {
        primary: Some(keys.primary.unwrap_or_else(fresh)),
        secondary: Some(keys.secondary.unwrap_or_else(fresh)),
    }
}

fn matches(asked: Option<&str>, current: &str) -> bool {
    asked.is_none_or(|asked| asked == "*" || asked == current)
}

impl Devices {
    /// Registers a device, or with `if_match` changes the one that is there.
    pub(crate) fn put(
        &self,
        id: &str,
        registration: Registration,
        if_match: Option<&str>,
    ) -> Result<Record, RegistryError> {
        if !valid_id(id) {
            return Err(RegistryError::BadId);
        }
        let keys = whole(registration.keys, &registration.auth);
        let record = match (self.get(id), if_match) {
            (Some(_), None) => return Err(RegistryError::DeviceExists(id.to_owned())),
            (None, Some(_)) => return Err(RegistryError::DeviceNotFound(id.to_owned())),
            (Some(record), asked) if !matches(asked, &record.etag) => {
                return Err(RegistryError::Changed);
            }
            (Some(record), _) => record,
            (None, None) if self.listed.len() >= super::ADDED_MAX => {
                return Err(RegistryError::Full);
            }
            (None, None) => Record {
                generation: hex(&random::<8>()).into(),
                ..self.record(Keys::default())
            },
        };
        let record = Record {
            enabled: !registration.disabled,
            reason: registration.reason,
            keys,
            auth: registration.auth,
            etag: etag(),
            ..record
        };
        self.listed.insert(id.to_owned(), Some(record.clone()));
        Ok(record)
    }

    /// Whether a device may be removed by who read it with this etag.
    pub(crate) fn check_etag(&self, id: &str, if_match: Option<&str>) -> Result<(), RegistryError> {
        match self.get(id) {
            None => Err(RegistryError::DeviceNotFound(id.to_owned())),
            Some(record) if matches(if_match, &record.etag) => Ok(()),
            Some(_) => Err(RegistryError::Changed),
        }
    }

    /// Registers a module, or with `if_match` changes the one that is there.
    pub(crate) fn put_module(
        &self,
        identity: &Identity,
        registration: Registration,
        if_match: Option<&str>,
        max: usize,
    ) -> Result<Module, RegistryError> {
        let (device, id) = names(identity)?;
        if !valid_id(id) {
            return Err(RegistryError::BadId);
        }
        let mut record = self.get(device).ok_or_else(|| no_device(device))?;
        let mut modules = record.modules.to_vec();
        let at = modules.iter().position(|module| module.id == id);
        let module = match (at.map(|at| &modules[at]), if_match) {
            (Some(_), None) => return Err(RegistryError::ModuleExists(id.to_owned())),
            (None, Some(_)) => return Err(no_module(device, id)),
            (Some(old), asked) if !matches(asked, &old.etag) => return Err(RegistryError::Changed),
            (None, None) if modules.len() >= max => {
                return Err(RegistryError::TooManyModules(max));
            }
            (old, _) => Module {
                id: id.to_owned(),
                generation: match old {
                    Some(old) => Arc::clone(&old.generation),
                    None => hex(&random::<8>()).into(),
                },
                keys: whole(registration.keys, &registration.auth),
                etag: etag(),
            },
        };
        match at {
            Some(at) => modules[at] = module.clone(),
            None => modules.push(module.clone()),
        }
        record.modules = modules.into();
        self.listed.insert(device.to_owned(), Some(record));
        Ok(module)
    }

    /// Forgets a module and its queue.
    pub(crate) fn remove_module(
        &self,
        identity: &Identity,
        if_match: Option<&str>,
    ) -> Result<(), RegistryError> {
        let (device, id) = names(identity)?;
        let mut record = self.get(device).ok_or_else(|| no_device(device))?;
        let mut modules = record.modules.to_vec();
        let at = modules.iter().position(|module| module.id == id);
        let at = at.ok_or_else(|| no_module(device, id))?;
        if !matches(if_match, &modules[at].etag) {
            return Err(RegistryError::Changed);
        }
        modules.remove(at);
        record.modules = modules.into();
        self.listed.insert(device.to_owned(), Some(record));
        self.queues.remove(identity);
        Ok(())
    }

    /// The module an identity names.
    pub(crate) fn module(&self, identity: &Identity) -> Result<Module, RegistryError> {
        let (device, id) = names(identity)?;
        let record = self.find(identity).map_err(|what| match what {
            Unregistered::Device => no_device(device),
            Unregistered::Module => no_module(device, id),
        })?;
        let mut modules = record.modules.iter();
        let module = modules.find(|module| module.id == id);
        module.cloned().ok_or_else(|| no_module(device, id))
    }

    /// Ids of every device: those listed in order, then those of ranges.
    pub(crate) fn ids(&self) -> impl Iterator<Item = String> + '_ {
        let entries = self.listed.iter();
        let alive = entries.filter(|entry| entry.value().is_some());
        let mut listed: Vec<String> = alive.map(|entry| entry.key().clone()).collect();
        listed.sort_unstable();
        let computed = self
            .ranges
            .iter()
            .flat_map(|range| (0..range.count).map(move |n| format!("{}{n}", range.prefix)))
            .filter(|id| !self.listed.contains_key(id));
        listed.into_iter().chain(computed)
    }
}

fn no_device(device: &str) -> RegistryError {
    RegistryError::DeviceNotFound(device.to_owned())
}

fn no_module(device: &str, module: &str) -> RegistryError {
    RegistryError::ModuleNotFound(device.to_owned(), module.to_owned())
}

fn names(identity: &Identity) -> Result<(&str, &str), RegistryError> {
    match &identity.module {
        Some(module) => Ok((&identity.device, module)),
        None => Err(RegistryError::BadId),
    }
}
