//! Every metric, declared once: name, type, labels, help.
//!
//! Names follow Prometheus: base units, `_total` on counters, no device id in any label. Hot
//! paths use the held handles; label look-up happens on connection events only. A test holds the
//! table of the README against this file.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The common prefix of every metric name.
pub const PREFIX: &str = "iothub_gateway";

/// Bucket bounds of `*_seconds`.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Bucket bounds of `*_bytes`.
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0];

/// A metric family that can be made from its declaration.
trait Family: Collector + Clone + Sized + 'static {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;

    fn declare(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Self {
        Self::build(name, help, labels)
            .and_then(|family| registry.register(Box::new(family.clone())).map(|()| family))
            .expect("metric names are constants, valid and distinct")
    }
}

impl Family for IntCounterVec {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(Opts::new(name, help).namespace(PREFIX), labels)
    }
}

impl Family for IntGaugeVec {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(Opts::new(name, help).namespace(PREFIX), labels)
    }
}

impl Family for GaugeVec {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(Opts::new(name, help).namespace(PREFIX), labels)
    }
}

impl Family for HistogramVec {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        let buckets = if name.ends_with("_bytes") {
            BYTES
        } else {
            SECONDS
        };
        let opts = HistogramOpts::new(name, help)
            .namespace(PREFIX)
            .buckets(buckets.to_vec());
        Self::new(opts, labels)
    }
}

/// Turns the declarations into the struct, its constructor, and nothing else.
macro_rules! metrics {
    (
        families { $( $field:ident: $kind:ident = $name:literal $labels:tt $help:literal; )* }
        held { $( $handle:ident: $type:ty = $source:ident $values:tt $doc:literal; )* }
    ) => {
        /// All metrics of the gateway. One value per process, shared by `Arc`.
        pub struct Metrics {
            registry: Registry,
            $( #[doc = concat!("`", $name, "`: ", $help)] pub $field: $kind, )*
            $( #[doc = $doc] pub $handle: $type, )*
        }

        impl Metrics {
            /// Declares all metrics in a registry of their own.
            #[must_use]
            pub fn new() -> Self {
                let registry = Registry::new();
                $( let $field = $kind::declare(&registry, $name, $help, &$labels); )*
                $( let $handle = $source.with_label_values::<&str>(&$values); )*
                let metrics = Self { registry, $( $field, )* $( $handle, )* };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                metrics
            }
        }
    };
}

metrics! {
    families {
        build_info: IntGaugeVec = "build_info" ["version"]
            "1, labelled with the version";
        connections: IntGaugeVec = "connections" ["listener", "credential"]
            "live device connections";
        handshakes: IntCounterVec = "handshakes_total" ["credential", "tls_version", "result"]
            "TLS handshakes by kind, version and result";
        handshake_duration: HistogramVec = "handshake_duration_seconds" ["credential"]
            "time of a finished TLS handshake";
        connects: IntCounterVec = "connects_total" ["result"]
            "CONNECTs: accepted, or the reason of the refusal";
        disconnects: IntCounterVec = "disconnects_total" ["reason"]
            "ended device connections by reason; every accepted socket ends in exactly one";
        messages: IntCounterVec = "messages_total" ["direction", "qos", "result"]
            "messages by direction, QoS and what became of them";
        message_bytes: HistogramVec = "message_bytes" ["direction"]
            "payload size";
        uplink_durations: HistogramVec = "uplink_duration_seconds" []
            "PUBLISH read, hub accepted, PUBACK written";
        inflight: IntGaugeVec = "inflight" ["direction"]
            "messages not yet settled";
        paused_connections: IntGaugeVec = "paused_connections" ["cause"]
            "device connections whose socket is not read";
        hub_connections: IntGaugeVec = "hub_connections" ["state"]
            "AMQP connections of the pool by state";
        hub_links: IntGaugeVec = "hub_links" ["role", "state"]
            "device links by role and state";
        hub_deliveries: IntCounterVec = "hub_deliveries_total" ["outcome"]
            "outcomes the hub gave to transfers";
        hub_reconnects: IntCounterVec = "hub_reconnects_total" ["cause"]
            "lost AMQP connections by cause";
        hub_throttles: IntCounterVec = "hub_throttled_total" []
            "throttling answers of the hub";
        hub_detaches: IntCounterVec = "hub_detaches_total" ["condition"]
            "links the hub detached, by AMQP condition";
        token_expiries: GaugeVec = "token_expiry_timestamp_seconds" []
            "when the newest accepted token ends, seconds since 1970";
        token_renewals: IntCounterVec = "token_renewals_total" ["result"]
            "token puts by result";
        token_key_in_use: IntGaugeVec = "token_key_in_use" ["slot"]
            "1 for the policy key that signs";
        certificate_expiry: GaugeVec = "certificate_expiry_timestamp_seconds" ["file"]
            "when a certificate ends, seconds since 1970";
        config_reloads: IntCounterVec = "config_reloads_total" ["result"]
            "reloads of configuration, rules and certificates";
        psk_key_used: IntCounterVec = "psk_key_used_total" ["slot"]
            "PSK handshakes by the key that proved the identity";
        log_lines_dropped: IntCounterVec = "log_lines_dropped_total" []
            "log lines nobody read in time";
        task_panics: IntCounterVec = "panics_total" []
            "tasks that ended in a panic";
    }
    held {
        uplink_qos0_accepted: IntCounter = messages ["uplink", "0", "accepted"]
            "Uplink QoS 0 the hub accepted.";
        uplink_qos1_accepted: IntCounter = messages ["uplink", "1", "accepted"]
            "Uplink QoS 1 the hub accepted and that was acknowledged.";
        downlink_qos0_accepted: IntCounter = messages ["downlink", "0", "accepted"]
            "Commands written at QoS 0.";
        downlink_qos1_accepted: IntCounter = messages ["downlink", "1", "accepted"]
            "Commands the device acknowledged.";
        uplink_bytes: Histogram = message_bytes ["uplink"] "Payload sizes, uplink.";
        downlink_bytes: Histogram = message_bytes ["downlink"] "Payload sizes, downlink.";
        uplink_duration: Histogram = uplink_durations [] "Observed once per QoS 1 PUBLISH.";
        uplink_inflight: IntGauge = inflight ["uplink"] "Messages not settled, uplink.";
        downlink_inflight: IntGauge = inflight ["downlink"] "Messages not settled, downlink.";
        hub_accepted: IntCounter = hub_deliveries ["accepted"] "Outcome `accepted`.";
        hub_throttled: IntCounter = hub_throttles [] "Throttling answers.";
        token_expiry: Gauge = token_expiries [] "End of the newest accepted token.";
        log_dropped: IntCounter = log_lines_dropped [] "Brought up to date when rendered.";
        panics: IntCounter = task_panics [] "Must stay 0.";
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The exposition in Prometheus text format, process metrics included.
    #[must_use]
    pub fn render(&self) -> String {
        let dropped = super::log::dropped().saturating_sub(self.log_dropped.get());
        self.log_dropped.inc_by(dropped);
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
        let mut text = String::new();
        match TextEncoder::new().encode_utf8(&families, &mut text) {
            Ok(()) => text,
            Err(error) => format!("# encoding failed: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn every_metric_renders_with_the_prefix() {
        let metrics = Metrics::new();
        metrics.disconnects.with_label_values(&["clean"]).inc();
        let text = metrics.render();
        assert!(text.contains("iothub_gateway_build_info"));
        assert!(text.contains("iothub_gateway_disconnects_total{reason=\"clean\"} 1"));
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
