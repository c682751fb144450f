//! The gateway of a run: its own listener side and upstream, and what it must look like at the end.

use crate::device::name;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::support::fleet;
use arc_swap::ArcSwap;
use iothub_gateway::auth::CredentialKind;
use iothub_gateway::auth::rules::RuleSet;
use iothub_gateway::config::limits::Limits;
use iothub_gateway::config::secret::Secret;
use iothub_gateway::config::{Endpoint, HubConfig, ListenerConfig};
use iothub_gateway::hub::Hub;
use iothub_gateway::hub::environment::Environment;
use iothub_gateway::listener::{Inlet, Records, Shared};
use iothub_gateway::mqtt::packet::Versions;
use iothub_gateway::telemetry::causes::Causes;
use iothub_gateway::telemetry::metrics::Metrics;
use iothub_gateway::tls::{Accepted, Acceptor, HandshakeLimits, KeySlot, Peer, Session};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::DuplexStream;

/// Commands a device has room for.
pub const ROOM: usize = 4;
/// More devices than any plan has.
const DEVICES: usize = 64;

/// It, as whoever runs it has it in hand.
pub struct Gateway {
    pub hub: Hub,
    shared: Arc<Shared>,
    inlet: Inlet,
    metrics: Arc<Metrics>,
}

impl Gateway {
    pub fn start(plan: &Plan, environment: Environment) -> Self {
        let metrics = Arc::new(Metrics::new());
        let causes = Arc::new(Causes::new(16));
        let config = Arc::new(hub_config(plan));
        let host = config.host.clone();
        let hub = Hub::start_in(environment, config, Arc::clone(&metrics), causes);
        let limits = Limits {
            downlink_messages: ROOM,
            uplink_messages: plan.window,
            ..Limits::default()
        };
        let times = HandshakeLimits {
            hello: limits.hello_timeout,
            total: limits.tls_timeout,
        };
        let records = Records {
            refused: None,
            config: PathBuf::new(),
            causes: Arc::new(Causes::new(16)),
            hub: Some(hub.clone()),
            tracer: None,
        };
        let rules = Arc::new(ArcSwap::new(rules()));
        let shared = Shared::new(
            rules,
            hub.clone(),
            host,
            limits,
            Arc::clone(&metrics),
            records,
        );
        let listener = ListenerConfig {
            name: "devices".to_owned(),
            bind: SocketAddr::from(([127, 0, 0, 1], 1883)),
            tls: None,
            insecure: false,
            accept: vec![CredentialKind::Psk],
            mqtt_versions: Versions::ALL,
            websocket: false,
            proxy_protocol: Default::default(),
        };
        let acceptor = Acceptor::new(&listener, Arc::new(|_| None), times);
        let acceptor = Arc::new(acceptor.unwrap_or_else(|why| panic!("{why:?}")));
        let inlet = Inlet::new(listener, acceptor, Arc::clone(&shared));
        Self {
            hub,
            shared,
            inlet,
            metrics,
        }
    }

    /// Takes the other end of a line from a device that has proved itself.
    pub fn take(&self, device: usize, line: DuplexStream) {
        let peer = Peer::Psk {
            identity: name(device),
            slot: KeySlot::Current,
            session: Session { version: "1.3" },
        };
        let stream = Box::new(line);
        let source = SocketAddr::from(([10, 20, 0, device as u8 + 1], 40_000));
        self.inlet.serve(Accepted { stream, peer }, source);
    }

    /// Sends the devices away, as a stop does; what is left of them is a mistake.
    pub async fn drain(&self, ledger: &std::sync::Mutex<Ledger>) {
        self.shared.drain(Duration::from_secs(5), Duration::ZERO);
        let drained = self.shared.drained(Duration::from_secs(10)).await;
        let mut ledger = ledger.lock().expect("whole");
        if !drained {
            let left = self.shared.tasks();
            ledger.wrong(format!("{left} connections outlived the stop"));
        }
        let live = self
            .metrics
            .connections
            .with_label_values(&["devices", "psk"]);
        for (what, count) in [
            ("sessions", self.shared.registry().len() as i64),
            ("connections", live.get()),
            ("uplink messages", self.metrics.uplink_inflight.get()),
            ("downlink messages", self.metrics.downlink_inflight.get()),
            ("panics", self.metrics.panics.get() as i64),
        ] {
            if count != 0 {
                ledger.wrong(format!("{count} {what} are left after the stop"));
            }
        }
    }
}

/// A key for each device; reading them is the same for all runs.
fn rules() -> Arc<RuleSet> {
    static RULES: OnceLock<Arc<RuleSet>> = OnceLock::new();
    let read = || {
        let keys: String = (0..DEVICES)
            .map(|index| format!("{}:ab{index:062x}\n", name(index)))
            .collect();
        Arc::new(fleet::parse("[[psk_file]]\npath = \"fleet.psk\"\n", &keys))
    };
    Arc::clone(RULES.get_or_init(read))
}

fn hub_config(plan: &Plan) -> HubConfig {
    HubConfig {
        host: "myhub.azure-devices.net".to_owned(),
        audience: "myhub.azure-devices.net/devices".to_owned(),
        token_source: Default::default(),
        policy: "device".to_owned(),
        key: Secret::from("primary-key"),
        secondary_key: None,
        endpoint: Endpoint {
            tls: false,
            host: "model".to_owned(),
            port: 5671,
        },
        ca: None,
        token_ttl: Duration::from_secs(plan.token_ttl),
        renew_at: 0.85,
        connections: plan.connections,
        max_devices_per_connection: 1000,
        sessions_per_connection: plan.sessions,
        attach_rate_per_s: plan.attach_rate,
        connect_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(5),
        outcome_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(20),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(5),
        connection_bytes_max: 2 * 1024 * 1024,
    }
}
