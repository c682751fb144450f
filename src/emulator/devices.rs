//! The identity registry: devices listed, devices computed from ranges, and their queues.

mod register;

pub(crate) use register::{Registration, RegistryError};

use crate::emulator::address::Identity;
use crate::emulator::backend::Feedback;
use crate::emulator::config::{
    DeviceConfig, DeviceRange, EmulatorConfig, EmulatorLimits, Keys, Switches, valid_id,
};
use crate::emulator::errors::{hex, random};
use crate::emulator::queue::{Queue, QueueRules};
use crate::emulator::stats::Stats;
use dashmap::DashMap;
use std::sync::Arc;

/// What the registry knows of a device.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) enabled: bool,
    pub(crate) keys: Keys,
    pub(crate) modules: Arc<[Module]>,
    pub(crate) generation: Arc<str>,
    pub(crate) etag: Arc<str>,
    pub(crate) auth: Auth,
    /// `statusReason`: why it is disabled, in somebody's words.
    pub(crate) reason: Option<String>,
}

/// A module of a device.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) id: String,
    pub(crate) keys: Keys,
    pub(crate) generation: Arc<str>,
    pub(crate) etag: Arc<str>,
}

/// How a device proves who it is. Certificates are registered, and no device comes with one here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Auth {
    #[default]
    Sas,
    SelfSigned {
        primary: Option<String>,
        secondary: Option<String>,
    },
    Authority,
}

impl Auth {
    /// As the service spells it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Sas => "sas",
            Self::SelfSigned { .. } => "selfSigned",
            Self::Authority => "certificateAuthority",
        }
    }
}

/// Most devices beyond those of the file that the control API may add.
const ADDED_MAX: usize = 1_000_000;

/// The registry. Reading one device costs the same whatever their number.
pub(crate) struct Devices {
    /// Listed devices, and what changed about ranges; `None` = deleted from a range.
    listed: DashMap<String, Option<Record>>,
    ranges: Vec<DeviceRange>,
    queues: DashMap<Identity, Arc<Queue>>,
    rules: QueueRules,
    stats: Arc<Stats>,
    feedback: Arc<Feedback>,
    generation: Arc<str>,
}

impl Devices {
    pub(crate) fn new(config: &EmulatorConfig, stats: Arc<Stats>, feedback: Arc<Feedback>) -> Self {
        let generation: Arc<str> = hex(&random::<8>()).into();
        let listed = DashMap::new();
        for device in &config.devices {
            listed.insert(
                device.id.clone(),
                Some(Record::from_config(device, &generation)),
            );
        }
        Self {
            listed,
            ranges: config.ranges.clone(),
            queues: DashMap::new(),
            rules: QueueRules::new(&config.limits, &config.switches),
            stats,
            feedback,
            generation,
        }
    }

    /// The device `id`, if it is registered.
    pub(crate) fn get(&self, id: &str) -> Option<Record> {
        if let Some(entry) = self.listed.get(id) {
            return entry.value().clone();
        }
        self.range_of(id)
            .map(|range| self.record(range.keys.clone()))
    }

    fn range_of(&self, id: &str) -> Option<&DeviceRange> {
        self.ranges.iter().find(|range| {
            let Some(number) = id.strip_prefix(range.prefix.as_str()) else {
                return false;
            };
            let canonical = number == "0" || !number.starts_with(['0', '+']);
            canonical && number.parse::<u64>().is_ok_and(|n| n < range.count)
        })
    }

    fn record(&self, keys: Keys) -> Record {
        Record {
            enabled: true,
            keys,
            modules: Arc::default(),
            generation: Arc::clone(&self.generation),
            etag: Arc::clone(&self.generation),
            auth: Auth::Sas,
            reason: None,
        }
    }

    /// Whether the device, and its module if one is named, are registered.
    pub(crate) fn find(&self, identity: &Identity) -> Result<Record, Unregistered> {
        let record = self.get(&identity.device).ok_or(Unregistered::Device)?;
        match &identity.module {
            Some(module) if !record.modules.iter().any(|m| *m.id == **module) => {
                Err(Unregistered::Module)
            }
            _ => Ok(record),
        }
    }

    /// Changes the status, registering the device when it is new.
    pub(crate) fn set(
        &self,
        id: &str,
        enabled: bool,
        keys: Option<Keys>,
    ) -> Result<Record, &'static str> {
        if !valid_id(id) {
            return Err("not a device id");
        }
        let mut record = match self.get(id) {
            Some(record) => record,
            None if self.listed.len() >= ADDED_MAX => return Err("the registry is full"),
            None => Record {
                generation: hex(&random::<8>()).into(),
                ..self.record(Keys::default())
            },
        };
        record.enabled = enabled;
        if let Some(keys) = keys {
            record.keys = keys;
        }
        self.listed.insert(id.to_owned(), Some(record.clone()));
        Ok(record)
    }

    /// Forgets a device and its queues; whether it was there.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let existed = self.get(id).is_some();
        if self.range_of(id).is_some() {
            self.listed.insert(id.to_owned(), None);
        } else {
            self.listed.remove(id);
        }
        self.queues.retain(|identity, _| *identity.device != *id);
        existed
    }

    /// The command queue of a registered identity; made when first asked for, so their number
    /// is bounded by the registry.
    pub(crate) fn queue(&self, identity: &Identity) -> Arc<Queue> {
        let make = || {
            let record = self.get(&identity.device);
            let generation = record.map_or_else(|| "".into(), |record| record.generation);
            Arc::new(Queue::new(
                (identity.clone(), generation),
                self.rules,
                Arc::clone(&self.stats),
                Arc::clone(&self.feedback),
            ))
        };
        Arc::clone(
            self.queues
                .entry(identity.clone())
                .or_insert_with(make)
                .value(),
        )
    }
}

/// What of an identity is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unregistered {
    Device,
    Module,
}

impl Record {
    fn from_config(device: &DeviceConfig, generation: &Arc<str>) -> Self {
        let modules = device.modules.iter().map(|module| Module {
            id: module.id.clone(),
            keys: module.keys.clone(),
            generation: Arc::clone(generation),
            etag: Arc::clone(generation),
        });
        Self {
            enabled: device.enabled,
            keys: device.keys.clone(),
            modules: modules.collect(),
            generation: Arc::clone(generation),
            etag: Arc::clone(generation),
            auth: Auth::Sas,
            reason: None,
        }
    }

    /// As the service spells it.
    pub(crate) const fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }
}

impl QueueRules {
    const fn new(limits: &EmulatorLimits, switches: &Switches) -> Self {
        Self {
            depth: limits.command_queue,
            lock: limits.command_lock,
            max_delivery_count: limits.max_delivery_count,
            lock_expiry_counts: switches.lock_expiry_counts,
            unsettled_waits_for_lock: switches.unsettled_waits_for_lock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let mut config = EmulatorConfig::loopback("h");
        config
            .devices
            .push(DeviceConfig::new("thermo-1", Keys::default()));
        config.ranges.push(DeviceRange {
            prefix: "load-".to_owned(),
            count: 10,
            keys: Keys::default(),
        });
        let feedback = Feedback::new(&config.limits, Arc::default());
        Devices::new(&config, Arc::default(), Arc::new(feedback))
    }

    #[test]
    fn a_range_holds_exactly_its_numbers() {
        let devices = devices();
        for id in ["load-0", "load-9", "thermo-1"] {
            assert!(devices.get(id).is_some(), "{id}");
        }
        for id in [
            "load-10", "load-01", "load-+1", "load-", "load", "LOAD-1", "Thermo-1", "",
        ] {
            assert!(devices.get(id).is_none(), "{id}");
        }
    }

    #[test]
    fn a_device_of_a_range_can_be_disabled_and_deleted() {
        let devices = devices();
        devices.set("load-3", false, None).unwrap();
        assert!(!devices.get("load-3").unwrap().enabled);
        assert!(devices.get("load-4").unwrap().enabled);
        assert!(devices.remove("load-3"));
        assert!(devices.get("load-3").is_none());
        assert!(!devices.remove("load-3"));
        assert!(devices.remove("thermo-1"));
        assert!(devices.get("thermo-1").is_none());
        assert!(devices.set("bad id", true, None).is_err());
    }
}
