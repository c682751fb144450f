//! Every metric, declared once: name, unit, labels, help.
//!
//! Names follow Prometheus: base units, `_total` on counters, no device id in any label. Hot
//! paths use the held handles; label look-up happens on connection events only.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics of the gateway. One value per process, shared by `Arc`.
pub struct Metrics {
    registry: Registry,
    /// Live device connections, `{listener, credential}`.
    pub connections: IntGaugeVec,
    /// Finished or failed TLS handshakes, `{credential, tls_version, result}`.
    pub handshakes: IntCounterVec,
    /// Time of a finished handshake, `{credential}`.
    pub handshake_duration: HistogramVec,
    /// CONNECTs by result: `accepted` or the reason of the refusal.
    pub connects: IntCounterVec,
    /// Ended connections by reason; every accepted socket ends in exactly one.
    pub disconnects: IntCounterVec,
    /// Messages, `{direction, qos, result}`.
    pub messages: IntCounterVec,
    /// Held: uplink QoS 0 accepted by the hub.
    pub uplink_qos0_accepted: IntCounter,
    /// Held: uplink QoS 1 accepted by the hub and acknowledged.
    pub uplink_qos1_accepted: IntCounter,
    /// Held: commands acknowledged by the device (QoS 1) or written (QoS 0).
    pub downlink_qos0_accepted: IntCounter,
    /// See `downlink_qos0_accepted`.
    pub downlink_qos1_accepted: IntCounter,
    /// Payload sizes, uplink.
    pub uplink_bytes: Histogram,
    /// Payload sizes, downlink.
    pub downlink_bytes: Histogram,
    /// PUBLISH read → hub accepted → PUBACK written.
    pub uplink_duration: Histogram,
    /// Messages not settled, uplink.
    pub uplink_inflight: IntGauge,
    /// Messages not settled, downlink.
    pub downlink_inflight: IntGauge,
    /// Connections whose socket is not read, `{cause}`.
    pub paused_connections: IntGaugeVec,
    /// AMQP connections, `{state}`.
    pub hub_connections: IntGaugeVec,
    /// Device links, `{role, state}`.
    pub hub_links: IntGaugeVec,
    /// Outcomes of transfers, `{outcome}`.
    pub hub_deliveries: IntCounterVec,
    /// Held: outcome `accepted`.
    pub hub_accepted: IntCounter,
    /// Lost AMQP connections, `{cause}`.
    pub hub_reconnects: IntCounterVec,
    /// Throttling answers of the hub.
    pub hub_throttled: IntCounter,
    /// Links the hub detached, `{condition}`.
    pub hub_detaches: IntCounterVec,
    /// End of the newest accepted token.
    pub token_expiry: Gauge,
    /// Token puts, `{result}`.
    pub token_renewals: IntCounterVec,
    /// 1 for the policy key in use, `{slot}`.
    pub token_key_in_use: IntGaugeVec,
    /// End of a certificate, `{file}`.
    pub certificate_expiry: GaugeVec,
    /// Reloads of configuration, rules, certificates, `{result}`.
    pub config_reloads: IntCounterVec,
    /// PSK handshakes by the key slot used, `{slot}`: `key` or `next_key`.
    pub psk_key_used: IntCounterVec,
    /// Tasks that ended in a panic; must be 0.
    pub panics: IntCounter,
}

/// The common prefix of every metric name.
pub const PREFIX: &str = "iothub_gateway";

fn counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let made = IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), labels)
        .and_then(|c| r.register(Box::new(c.clone())).map(|()| c));
    made.expect("metric names are constants, valid and distinct")
}

fn gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let made = IntGaugeVec::new(Opts::new(name, help).namespace(PREFIX), labels)
        .and_then(|c| r.register(Box::new(c.clone())).map(|()| c));
    made.expect("metric names are constants, valid and distinct")
}

fn float_gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    let made = GaugeVec::new(Opts::new(name, help).namespace(PREFIX), labels)
        .and_then(|c| r.register(Box::new(c.clone())).map(|()| c));
    made.expect("metric names are constants, valid and distinct")
}

fn histogram_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> HistogramVec {
    let opts = HistogramOpts::new(name, help)
        .namespace(PREFIX)
        .buckets(buckets);
    let made =
        HistogramVec::new(opts, labels).and_then(|c| r.register(Box::new(c.clone())).map(|()| c));
    made.expect("metric names are constants, valid and distinct")
}

const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares all metrics in a registry of their own.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let build = gauge_vec(
            r,
            "build_info",
            "1, labelled with the version",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let messages = counter_vec(
            r,
            "messages_total",
            "messages by direction, QoS and what became of them",
            &["direction", "qos", "result"],
        );
        let message_bytes = histogram_vec(
            r,
            "message_bytes",
            "payload size",
            &["direction"],
            BYTES.to_vec(),
        );
        let inflight = gauge_vec(r, "inflight", "messages not yet settled", &["direction"]);
        let deliveries = counter_vec(
            r,
            "hub_deliveries_total",
            "outcomes the hub gave to transfers",
            &["outcome"],
        );
        let uplink_duration = histogram_vec(
            r,
            "uplink_duration_seconds",
            "PUBLISH read, hub accepted, PUBACK written",
            &[],
            SECONDS.to_vec(),
        );
        let token_expiry = float_gauge_vec(
            r,
            "token_expiry_timestamp_seconds",
            "when the newest accepted token ends, seconds since 1970",
            &[],
        );
        let throttled = counter_vec(
            r,
            "hub_throttled_total",
            "throttling answers of the hub",
            &[],
        );
        let panics = counter_vec(r, "panics_total", "tasks that ended in a panic", &[]);
        Self {
            connections: gauge_vec(
                r,
                "connections",
                "live device connections",
                &["listener", "credential"],
            ),
            handshakes: counter_vec(
                r,
                "handshakes_total",
                "TLS handshakes by kind, version and result",
                &["credential", "tls_version", "result"],
            ),
            handshake_duration: histogram_vec(
                r,
                "handshake_duration_seconds",
                "time of a finished TLS handshake",
                &["credential"],
                SECONDS.to_vec(),
            ),
            connects: counter_vec(r, "connects_total", "CONNECTs by result", &["result"]),
            disconnects: counter_vec(
                r,
                "disconnects_total",
                "ended device connections by reason",
                &["reason"],
            ),
            uplink_qos0_accepted: messages.with_label_values(&["uplink", "0", "accepted"]),
            uplink_qos1_accepted: messages.with_label_values(&["uplink", "1", "accepted"]),
            downlink_qos0_accepted: messages.with_label_values(&["downlink", "0", "accepted"]),
            downlink_qos1_accepted: messages.with_label_values(&["downlink", "1", "accepted"]),
            messages,
            uplink_bytes: message_bytes.with_label_values(&["uplink"]),
            downlink_bytes: message_bytes.with_label_values(&["downlink"]),
            uplink_duration: uplink_duration.with_label_values::<&str>(&[]),
            uplink_inflight: inflight.with_label_values(&["uplink"]),
            downlink_inflight: inflight.with_label_values(&["downlink"]),
            paused_connections: gauge_vec(
                r,
                "paused_connections",
                "device connections whose socket is not read",
                &["cause"],
            ),
            hub_connections: gauge_vec(
                r,
                "hub_connections",
                "AMQP connections of the pool by state",
                &["state"],
            ),
            hub_links: gauge_vec(
                r,
                "hub_links",
                "device links by role and state",
                &["role", "state"],
            ),
            hub_accepted: deliveries.with_label_values(&["accepted"]),
            hub_deliveries: deliveries,
            hub_reconnects: counter_vec(
                r,
                "hub_reconnects_total",
                "lost AMQP connections by cause",
                &["cause"],
            ),
            hub_throttled: throttled.with_label_values::<&str>(&[]),
            hub_detaches: counter_vec(
                r,
                "hub_detaches_total",
                "links the hub detached, by AMQP condition",
                &["condition"],
            ),
            token_expiry: token_expiry.with_label_values::<&str>(&[]),
            token_renewals: counter_vec(
                r,
                "token_renewals_total",
                "token puts by result",
                &["result"],
            ),
            token_key_in_use: gauge_vec(
                r,
                "token_key_in_use",
                "1 for the policy key that signs",
                &["slot"],
            ),
            certificate_expiry: float_gauge_vec(
                r,
                "certificate_expiry_timestamp_seconds",
                "when a certificate ends, seconds since 1970",
                &["file"],
            ),
            config_reloads: counter_vec(
                r,
                "config_reloads_total",
                "reloads of configuration, rules and certificates",
                &["result"],
            ),
            psk_key_used: counter_vec(
                r,
                "psk_key_used_total",
                "PSK handshakes by the key that proved the identity",
                &["slot"],
            ),
            panics: panics.with_label_values::<&str>(&[]),
            registry,
        }
    }

    /// The exposition in Prometheus text format, process metrics included.
    #[must_use]
    pub fn render(&self) -> String {
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
    }
}
