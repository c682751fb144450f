//! The upstream against a fake hub on loopback.

mod driver;
mod fake;
mod fake_links;
mod fake_services;
mod faults;
mod flow;
mod growth;
mod limits;
mod services;
mod sessions;
mod strict;
mod tls;
mod token;

use crate::config::secret::Secret;
use crate::config::{Endpoint, HubConfig};
use crate::hub::message::{Command, DeviceAddress, Telemetry};
use crate::hub::outcome::{HubAccepted, Refusal};
use crate::hub::{DeviceLinks, Hub, HubEvent};
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration for a plain endpoint on this loopback port.
pub fn config(port: u16) -> HubConfig {
    HubConfig {
        host: "myhub.azure-devices.net".to_owned(),
        audience: "myhub.azure-devices.net/devices".to_owned(),
        token_source: Default::default(),
        policy: "device".to_owned(),
        key: Secret::from("primary-key"),
        secondary_key: None,
        endpoint: Endpoint {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port,
        },
        ca: None,
        token_ttl: Duration::from_secs(3600),
        renew_at: 0.85,
        connections: 1,
        max_devices_per_connection: 1000,
        sessions_per_connection: 2,
        attach_rate_per_s: 10_000,
        connect_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(5),
        outcome_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        connection_bytes_max: 2 * 1024 * 1024,
    }
}

async fn start(config: HubConfig) -> Hub {
    let hub = Hub::start(Arc::new(config), Arc::new(Metrics::new()));
    assert!(hub.ready(PATIENCE).await, "{:?}", hub.status());
    hub
}

fn device(hub: &Hub, name: &str) -> DeviceLinks {
    hub.links(DeviceAddress::for_test(name, None))
}

fn message(text: &str) -> Telemetry {
    Telemetry {
        body: Bytes::copy_from_slice(text.as_bytes()),
        ..Telemetry::default()
    }
}

async fn event(links: &mut DeviceLinks) -> HubEvent {
    timeout(PATIENCE, links.next())
        .await
        .expect("an event in time")
}

async fn sent(links: &mut DeviceLinks) -> (u64, Result<HubAccepted, Refusal>) {
    match event(links).await {
        HubEvent::Sent(ticket, result) => (ticket, result),
        other => panic!("{other:?}"),
    }
}

async fn accepted(links: &mut DeviceLinks) -> u64 {
    let (ticket, result) = sent(links).await;
    result.expect("accepted");
    ticket
}

async fn command(links: &mut DeviceLinks) -> Command {
    match event(links).await {
        HubEvent::Command(command) => *command,
        other => panic!("{other:?}"),
    }
}

async fn gone(links: &mut DeviceLinks) -> &'static str {
    match event(links).await {
        HubEvent::Gone(gone) => gone.reason,
        other => panic!("{other:?}"),
    }
}
