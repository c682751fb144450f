//! The upstream against the emulator: a hub that refuses as the service does.

use super::{PATIENCE, config, event, message};
use crate::config::HubConfig;
use crate::config::secret::Secret;
use crate::emulator::{Emulator, EmulatorConfig, EmulatorHandle};
use crate::hub::message::DeviceAddress;
use crate::hub::{Hub, HubEvent};
use crate::telemetry::metrics::Metrics;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// A hub that knows `count` devices, named `load-0` and so on.
pub async fn emulator(count: usize) -> (EmulatorHandle, HubConfig) {
    let text = format!(
        "[amqp]\nplain_bind = \"127.0.0.1:0\"\n[hub]\nhost = \"myhub.azure-devices.net\"\n\
         [[policy]]\nname = \"device\"\nrights = [\"DeviceConnect\"]\n\
         primary_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\n\
         secondary_key = \"MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\n\
         [[device_range]]\nprefix = \"load-\"\ncount = {count}\n"
    );
    let emulated = EmulatorConfig::from_toml(&text, Path::new(".")).unwrap();
    let emulator = Emulator::start(emulated).await.unwrap();
    let mut settings = config(emulator.amqp_addr().unwrap().port());
    settings.key = Secret::from("0123456789abcdef0123456789abcdef");
    (emulator, settings)
}

/// Refusals and attaches of many devices are under way at once in the same two sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_the_hub_does_not_know_do_not_disturb_those_it_knows() {
    let (emulator, mut settings) = emulator(50).await;
    settings.sessions_per_connection = 2;
    let metrics = Arc::new(Metrics::new());
    let hub = Hub::start(Arc::new(settings), Arc::clone(&metrics));
    assert!(hub.ready(PATIENCE).await);
    for round in 0..4u64 {
        let mut devices = JoinSet::new();
        for n in 0..100 {
            let known = n % 2 == 0;
            let name = format!("{}-{}", if known { "load" } else { "ghost" }, n / 2);
            let mut links = hub.links(DeviceAddress::for_test(&name, None));
            devices.spawn(async move {
                links.send(round, message("x"));
                if n % 3 == 0 {
                    links.subscribe(1);
                }
                match event(&mut links).await {
                    HubEvent::Sent(_, Ok(_)) => assert!(known, "{name} was accepted"),
                    HubEvent::Gone(gone) => {
                        assert!(!known, "{name} is gone: {gone:?}");
                        assert_eq!(gone.reason, "device_not_found");
                    }
                    other => panic!("{name}: {other:?}"),
                }
            });
        }
        while let Some(done) = devices.join_next().await {
            done.unwrap();
        }
    }
    let stats = emulator.stats();
    assert!(stats.accepted >= 200, "{stats:?}");
    assert!(stats.connections_total <= 2, "{stats:?}");
    let lost = hub.shared.sessions_lost.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "sessions lost to refusals");
    assert!(hub.shutdown(PATIENCE).await);
}
