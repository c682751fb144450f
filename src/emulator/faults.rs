//! Faults injected by name (the catalogue of Azure's own test hub). Those that only need the
//! directory act now; the others are known by name and refused until they exist.

use crate::emulator::address::Endpoint;
use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::links::ConnectionStop;
use crate::runtime::clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Active faults at once.
const ACTIVE_MAX: usize = 100;
/// A lasting fault strikes again this often, so that what came back falls again.
const REPEAT: Duration = Duration::from_millis(100);

macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {
        /// Names of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub(crate) enum FaultKind { $($kind,)+ }

        impl FaultKind {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind,)+];
        }
    };
}

kinds! {
    KillTcp,
    KillAmqpConnection,
    KillAmqpSession,
    KillAmqpCBSLinkReq,
    KillAmqpCBSLinkResp,
    KillAmqpD2CLink,
    KillAmqpC2DLink,
    KillAmqpTwinLinkReq,
    KillAmqpTwinLinkResp,
    KillAmqpMethodReqLink,
    KillAmqpMethodRespLink,
    InvokeThrottling,
    InvokeMaxMessageQuota,
    InvokeAuthError,
    ShutDownAmqp,
}

impl FaultKind {
    pub(crate) const fn implemented(self) -> bool {
        matches!(
            self,
            Self::KillTcp
                | Self::KillAmqpConnection
                | Self::KillAmqpSession
                | Self::KillAmqpD2CLink
                | Self::KillAmqpC2DLink
        )
    }
}

/// A fault that waits or acts.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ActiveFault {
    pub(crate) id: u64,
    pub(crate) name: FaultKind,
    pub(crate) device: Option<String>,
    #[serde(skip)]
    stop: CancellationToken,
}

/// Every fault that is under way.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    last: AtomicU64,
    active: Mutex<Vec<ActiveFault>>,
}

impl Faults {
    pub(crate) fn active(&self) -> Vec<ActiveFault> {
        self.active
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends all; how many there were.
    pub(crate) fn clear(&self) -> usize {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = std::mem::take(&mut *active);
        ended.iter().for_each(|fault| fault.stop.cancel());
        ended.len()
    }

    fn begin(&self, name: FaultKind, device: Option<String>) -> Option<ActiveFault> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.len() >= ACTIVE_MAX {
            return None;
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = ActiveFault {
            id,
            name,
            device,
            stop: CancellationToken::new(),
        };
        active.push(fault.clone());
        Some(fault)
    }

    fn end(&self, id: u64) {
        self.active
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|fault| fault.id != id);
    }
}

/// Starts `name` after `delay`; it strikes once, or again and again during `duration`. `None`
/// when too many faults are under way.
pub(crate) fn inject(
    hub: &Arc<Hub>,
    name: FaultKind,
    device: Option<String>,
    delay: Duration,
    duration: Duration,
) -> Option<u64> {
    let fault = hub.faults.begin(name, device)?;
    let id = fault.id;
    // Weak, so that a fault under way does not keep a stopped emulator alive.
    let hub = Arc::downgrade(hub);
    tokio::spawn(async move {
        let acting = async {
            tokio::time::sleep(delay).await;
            let started = clock::mono();
            while let Some(hub) = hub.upgrade() {
                strike(&hub, &fault);
                drop(hub);
                if clock::mono().since(started) >= duration {
                    return;
                }
                tokio::time::sleep(REPEAT).await;
            }
        };
        tokio::select! {
            () = fault.stop.cancelled() => {}
            () = acting => {}
        }
        if let Some(hub) = hub.upgrade() {
            hub.faults.end(id);
        }
    });
    Some(id)
}

fn strike(hub: &Hub, fault: &ActiveFault) {
    let (directory, device) = (&hub.directory, fault.device.as_deref());
    let what = format!("{:?}", fault.name);
    let detach = |endpoint: Endpoint| {
        for link in directory.links(device) {
            if link.endpoint == endpoint && link.stop.ask(errors::killed(&what)) {
                hub.stats.detaches_fault.inc();
            }
        }
    };
    let close = |stop: &dyn Fn() -> ConnectionStop| {
        for connection in directory.connections(device) {
            if connection.stop.ask(stop()) {
                hub.stats.connections_fault.inc();
            }
        }
    };
    match fault.name {
        FaultKind::KillTcp => close(&|| ConnectionStop::Kill),
        FaultKind::KillAmqpConnection => {
            close(&|| ConnectionStop::Close(errors::connection_forced("Fault injected.")));
        }
        FaultKind::KillAmqpSession => {
            for session in directory.sessions(device) {
                session.stop.ask(errors::killed(&what));
            }
        }
        FaultKind::KillAmqpD2CLink => detach(Endpoint::Events),
        FaultKind::KillAmqpC2DLink => detach(Endpoint::Commands),
        // Refused before they get here, see `implemented`.
        _ => {}
    }
}
