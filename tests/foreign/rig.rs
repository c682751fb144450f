//! A gateway in front of a foreign hub.

use crate::hub::{ForeignHub, Stack};
use crate::support::device::{Device, Transport, Who};
use crate::support::proxy::Proxy;
use crate::support::{Options, files_in, fleet_key, gateway_in, scratch};
use iothub_gateway::gateway::Gateway;
use mqttbytes::QoS;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Both of them, and what stands between if that is wanted.
pub struct Rig {
    pub hub: ForeignHub,
    pub gateway: Gateway,
    pub proxy: Option<Proxy>,
}

/// One hub connection, and these devices.
pub fn options(devices: usize) -> Options {
    Options {
        fleet: devices,
        hub: "connections = 1\n".to_owned(),
        gateway: "[shutdown]\nannounce = \"0s\"\nsettle = \"5s\"\n".to_owned(),
        ..Options::default()
    }
}

impl Rig {
    /// Starts both, and waits until the gateway is ready.
    pub async fn start(name: &str, stack: Stack, options: Options, limits: Value) -> Self {
        if let Ok(filter) = std::env::var("FOREIGN_LOG") {
            let filter: Targets = filter.parse().expect("FOREIGN_LOG is a filter");
            let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
            let _ = registry().with(filter).with(lines).try_init();
        }
        let dir = scratch(&format!("foreign-{name}-{stack:?}"));
        files_in(&dir, &options);
        let mut hub = ForeignHub::start(stack, &dir).await;
        hub.order("limits", limits).await;
        let mut port = hub.port();
        let mut proxy = None;
        if options.proxied {
            let started = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
            port = started.address().port();
            proxy = Some(started);
        }
        let gateway = gateway_in(&dir, &options, port).await;
        Self {
            hub,
            gateway,
            proxy,
        }
    }

    /// Where devices connect.
    pub fn mqtt(&self) -> SocketAddr {
        self.gateway.listener("devices").expect("listener")
    }

    /// Connects `load-{index}`.
    pub async fn device(&self, index: usize) -> Device {
        let name = device_name(index);
        let transport = Transport::Psk {
            identity: name.clone(),
            key: fleet_key(index),
            tls13: true,
        };
        Device::connect(self.mqtt(), &transport, &Who::id(&name)).await
    }

    /// Connects `load-{index}` and subscribes to its commands.
    pub async fn listener(&self, index: usize) -> Device {
        let mut device = self.device(index).await;
        let filter = format!("devices/{}/messages/devicebound/#", device_name(index));
        let granted = device.subscribe(&filter, QoS::AtLeastOnce).await;
        assert!(granted.expect("an answer"), "{filter}");
        device
    }

    /// Stops the gateway, in order, and asserts that the hub saw nothing wrong.
    pub async fn finish(mut self) {
        let stopped = tokio::time::timeout(Duration::from_secs(20), self.gateway.stop()).await;
        assert!(stopped.expect("in time"), "a clean stop");
        self.hub.take("gone", |_| true).await;
        self.hub.no_fault().await;
    }
}

/// The id of a device of the fleet.
pub fn device_name(index: usize) -> String {
    format!("load-{index}")
}

/// Where it publishes.
pub fn topic(index: usize) -> String {
    format!("devices/{}/messages/events/", device_name(index))
}
