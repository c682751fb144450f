//! The hub itself: configuration, registry, ledger and directory, shared by every connection.

use crate::emulator::address::Identity;
use crate::emulator::backend::Feedback;
use crate::emulator::channels::Channels;
use crate::emulator::config::EmulatorConfig;
use crate::emulator::devices::{Devices, RegistryError};
use crate::emulator::errors;
use crate::emulator::faults::{FaultKind, Faults, Place};
use crate::emulator::ledger::Ledger;
use crate::emulator::links::Directory;
use crate::emulator::methods::Calls;
use crate::emulator::policies::Policies;
use crate::emulator::stats::Stats;
use crate::emulator::throttle::Throttle;
use crate::emulator::tokens::Authority;
use crate::emulator::twins::Twins;
use crate::runtime::clock::{self, Unix};
use fe2o3_amqp::types::definitions::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) struct Hub {
    pub(crate) config: EmulatorConfig,
    pub(crate) policies: Policies,
    pub(crate) devices: Devices,
    pub(crate) feedback: Arc<Feedback>,
    /// Where back ends are sent to read events.
    pub(crate) events_port: u16,
    pub(crate) twins: Twins,
    pub(crate) channels: Arc<Channels>,
    pub(crate) calls: Calls,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) faults: Faults,
    pub(crate) attach_throttle: Throttle,
    pub(crate) send_throttle: Throttle,
    /// Cancelled when the emulator stops; long polls end then.
    pub(crate) stopping: CancellationToken,
}

impl Hub {
    pub(crate) fn new(
        config: EmulatorConfig,
        events_port: u16,
        stopping: CancellationToken,
    ) -> Self {
        let stats = Arc::<Stats>::default();
        let limits = &config.limits;
        let feedback = Arc::new(Feedback::new(limits, Arc::clone(&stats)));
        let channels = Arc::new(Channels::new(limits.channel_backlog));
        Self {
            policies: Policies::new(config.policies.clone()),
            devices: Devices::new(&config, Arc::clone(&stats), Arc::clone(&feedback)),
            feedback,
            events_port,
            twins: Twins::new(limits, Arc::clone(&channels), Arc::clone(&stats)),
            calls: Calls::new(limits.method_calls),
            channels,
            ledger: Arc::new(Ledger::new(
                limits.ledger_entries_max,
                limits.ledger_bytes_max,
            )),
            directory: Arc::new(Directory::new(Arc::clone(&stats))),
            faults: Faults::default(),
            attach_throttle: Throttle::new(limits.attach_rate),
            send_throttle: Throttle::new(limits.d2c_rate),
            stats,
            config,
            stopping,
        }
    }

    /// `{hubName}`: the first label of the host.
    pub(crate) fn name(&self) -> &str {
        self.config.host.split('.').next().unwrap_or_default()
    }

    /// Host names this hub answers to: its own, and that of its events.
    pub(crate) fn hosts(&self) -> [&str; 2] {
        [&self.config.host, &self.config.events.host]
    }

    pub(crate) fn authority(&self) -> Authority<'_> {
        Authority {
            hosts: self.hosts(),
            policies: &self.policies,
            devices: &self.devices,
            skew: self.config.limits.token_skew,
        }
    }

    /// The time by which tokens end: this machine's, or what a fault makes of it.
    pub(crate) fn now(&self) -> Unix {
        let nowhere = Place {
            connection: None,
            device: None,
        };
        let ahead = self.faults.at(FaultKind::ClockAhead, nowhere);
        let hours = ahead.and_then(|hours| hours.parse().ok()).unwrap_or(0);
        clock::unix() + Duration::from_secs(hours * 3600)
    }

    /// Detaches every link of `device`, after its registration changed.
    pub(crate) fn detach_device(&self, device: &str, error: impl Fn() -> Error) {
        for link in self.directory.links(Some(device)) {
            if link.stop.ask(error()) {
                self.stats.detaches_device.inc();
            }
        }
    }

    /// Forgets a device with its modules, queues and twins; whether it was there.
    pub(crate) fn remove_device(&self, device: &str) -> bool {
        let existed = self.devices.remove(device);
        if existed {
            self.twins.remove(device);
            self.detach_device(device, || errors::device_not_found(device));
        }
        existed
    }

    /// Forgets a module with its queue and twin.
    pub(crate) fn remove_module(
        &self,
        module: &Identity,
        if_match: Option<&str>,
    ) -> Result<(), RegistryError> {
        self.devices.remove_module(module, if_match)?;
        self.twins.remove_module(module);
        for link in self.directory.links(Some(&module.device)) {
            let name = module.module.as_deref().unwrap_or_default();
            let error = errors::module_not_found(&module.device, name);
            if link.identity == *module && link.stop.ask(error) {
                self.stats.detaches_device.inc();
            }
        }
        Ok(())
    }

    /// Detaches every link of a device that was disabled.
    pub(crate) fn detach_disabled(&self, device: &str) {
        let style = self.config.switches.disabled_device;
        self.detach_device(device, || errors::device_disabled(device, style));
    }
}
