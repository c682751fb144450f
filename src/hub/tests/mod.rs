//! The upstream against a fake hub on loopback.

use crate::config::secret::Secret;
use crate::config::{Endpoint, HubConfig};
use std::time::Duration;

/// A configuration for a plain endpoint on this loopback port.
pub fn config(port: u16) -> HubConfig {
    HubConfig {
        host: "myhub.azure-devices.net".to_owned(),
        audience: "myhub.azure-devices.net/devices".to_owned(),
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
