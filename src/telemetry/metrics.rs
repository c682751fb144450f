//! Every metric, declared once: name, type, labels, help.
//!
//! Names follow Prometheus: base units, `_total` on counters, no device id in any label. A label
//! whose values are known here is declared with them, and all its series exist from the start, so
//! that the first event of a kind is a step and not a beginning; values only another module knows
//! are made to exist by that module when it starts. Hot paths use the held handles; label look-up
//! happens on connection events only. A test holds the documented table against this file.

pub mod memory;
mod process;

use process::Process;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use std::sync::OnceLock;

/// The common prefix of every metric name.
pub const PREFIX: &str = "iothub_gateway";

/// Bucket bounds of `*_seconds`: from a hub next door to one that was away for two minutes.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
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

/// A family with labels.
trait Labelled {
    fn exist(&self, values: &[&str]);
}

macro_rules! labelled {
    ($($family:ty),*) => { $(
        impl Labelled for $family {
            fn exist(&self, values: &[&str]) {
                let _ = self.with_label_values(values);
            }
        }
    )* };
}

labelled!(IntCounterVec, IntGaugeVec, GaugeVec, HistogramVec);

/// Makes every combination of the values of all labels exist; none while the values of one are
/// not known here.
fn exist(family: &dyn Labelled, labels: &[(&str, &[&str])], chosen: &mut Vec<&str>) {
    match labels.get(chosen.len()) {
        None => family.exist(chosen),
        Some((_, values)) => {
            for value in *values {
                let mut chosen: Vec<&str> = chosen.clone();
                chosen.push(value);
                exist(family, labels, &mut chosen);
            }
        }
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

/// The values of a label, or none.
macro_rules! known {
    () => {
        &[]
    };
    ($values:expr) => {
        &$values
    };
}

/// Turns the declarations into the struct, its constructor, and nothing else.
macro_rules! metrics {
    (
        families { $(
            $field:ident: $kind:ident = $name:literal
            [ $( $label:literal $( = $values:expr )? ),* ] $help:literal;
        )* }
        held { $( $handle:ident: $type:ty = $source:ident $of:tt $doc:literal; )* }
    ) => {
        /// All metrics of the gateway. One value per process, shared by `Arc`.
        pub struct Metrics {
            registry: Registry,
            before: OnceLock<Box<dyn Fn(&Metrics) + Send + Sync>>,
            $( #[doc = concat!("`", $name, "`: ", $help)] pub $field: $kind, )*
            $( #[doc = $doc] pub $handle: $type, )*
        }

        impl Metrics {
            /// Declares all metrics in a registry of their own.
            #[must_use]
            pub fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field = $kind::declare(&registry, $name, $help, &[$( $label ),*]);
                    exist(&$field, &[$( ($label, known!($( $values )?)) ),*], &mut Vec::new());
                )*
                $( let $handle = $source.with_label_values::<&str>(&$of); )*
                registry.register(Box::new(Process::new())).expect("names of its own");
                let before = OnceLock::new();
                let metrics = Self { registry, before, $( $field, )* $( $handle, )* };
                let built = [env!("CARGO_PKG_VERSION"), crate::COMMIT];
                metrics.build_info.with_label_values(&built).set(1);
                metrics
            }
        }
    };
}

const DIRECTIONS: [&str; 2] = ["uplink", "downlink"];

metrics! {
    families {
        build_info: IntGaugeVec = "build_info" ["version", "commit"]
            "1, labelled with version and commit";
        connections: IntGaugeVec = "connections" ["listener", "credential"]
            "live device connections";
        handshakes: IntCounterVec = "handshakes_total" ["credential", "tls_version", "result"]
            "TLS handshakes by kind, version and result";
        handshake_duration: HistogramVec = "handshake_duration_seconds"
            ["credential" = ["none", "psk", "x509"]]
            "time of a finished TLS handshake";
        connects: IntCounterVec = "connects_total" ["result"]
            "CONNECTs: accepted, or the reason of the refusal";
        disconnects: IntCounterVec = "disconnects_total" ["reason"]
            "ended device connections by reason; every accepted socket ends in exactly one";
        messages: IntCounterVec = "messages_total" ["direction", "qos", "result"]
            "messages by direction, QoS and what became of them";
        refused_messages: IntCounterVec = "refused_messages_total"
            ["action" = ["closed", "told", "dropped", "discarded", "filed", "not_filed"]]
            "messages that will never be accepted, by what was done about each";
        properties_mended: IntCounterVec = "properties_mended_total"
            ["how" = ["escape_kept", "repeated", "nameless"]]
            "message properties that could not be sent as they came, by what was done";
        message_bytes: HistogramVec = "message_bytes" ["direction" = DIRECTIONS]
            "payload size";
        uplink_durations: HistogramVec = "uplink_duration_seconds" []
            "PUBLISH read, hub accepted, PUBACK written";
        downlink_durations: HistogramVec = "downlink_duration_seconds" []
            "command taken from the hub, acknowledged by the device, hub told";
        method_calls: IntCounterVec = "method_calls_total"
            ["result" = ["answered", "timed_out", "displaced", "undelivered", "rejected",
                "unsubscribed", "too_large", "repeated", "unreadable", "abandoned"]]
            "direct method calls by what became of them";
        method_durations: HistogramVec = "method_duration_seconds" []
            "call taken from the hub, answered by the device, hub told";
        twin_requests: IntCounterVec = "twin_requests_total"
            ["operation" = ["get", "report"], "result" = ["answered", "refused", "timed_out",
                "unserved", "busy", "too_large", "abandoned"]]
            "requests of devices to their twins by what became of them";
        twin_durations: HistogramVec = "twin_duration_seconds" ["operation" = ["get", "report"]]
            "twin request read, answered by the hub";
        twin_answers_dropped: IntCounterVec = "twin_answers_dropped_total"
            ["reason" = ["late", "repeated", "unknown", "unreadable"]]
            "answers of twins that fit no request, by why";
        desired_changes: IntCounterVec = "desired_changes_total"
            ["result" = ["delivered", "recovered", "repeated", "gap", "unreadable",
                "unsubscribed", "too_large"]]
            "changes of desired properties; recovered: made while no link was subscribed";
        requests_waiting: IntGaugeVec = "requests_waiting"
            ["kind" = ["method", "method_answer", "twin", "desired"]]
            "requests without answer by kind; desired: subscribed devices";
        requests_waiting_bytes: IntGaugeVec = "requests_waiting_bytes"
            ["kind" = ["method_answer", "twin", "desired"]]
            "what they hold; desired: properties as their devices know them";
        inflight: IntGaugeVec = "inflight" ["direction" = DIRECTIONS]
            "messages not yet settled";
        long_keep_alives: IntGaugeVec = "long_keep_alive_connections" []
            "device connections that may be silent for longer than limits.keep_alive_advised";
        websockets: IntGaugeVec = "websocket_connections" []
            "device connections over WebSocket, from the upgrade on";
        paused_connections: IntGaugeVec = "paused_connections" ["cause"]
            "device connections whose socket is not read";
        limits: IntGaugeVec = "limit" ["limit"]
            "a bound of the configuration or the system";
        limits_in_use: IntGaugeVec = "limit_in_use" ["limit"]
            "how much of the bound of the same label is in use";
        hub_connections: IntGaugeVec = "hub_connections" ["state"]
            "AMQP connections of the pool by state";
        hub_links: IntGaugeVec = "hub_links"
            ["role" = ["uplink", "downlink", "methods", "twin"],
                "state" = ["attaching", "attached"]]
            "device links by role and state";
        hub_deliveries: IntCounterVec = "hub_deliveries_total" ["outcome"]
            "outcomes the hub gave to transfers";
        hub_reconnects: IntCounterVec = "hub_reconnects_total" ["cause"]
            "lost AMQP connections by cause";
        hub_refusals: IntCounterVec = "hub_refusals_total" ["cause"]
            "refusals of the hub by cause: connections, tokens, links, messages";
        hub_refusing: IntGaugeVec = "hub_refusing" ["cause"]
            "1 while the hub refuses for this cause";
        hub_throttles: IntCounterVec = "hub_throttled_total" []
            "throttling answers of the hub";
        hub_detaches: IntCounterVec = "hub_detaches_total" ["condition"]
            "links the hub detached, by AMQP condition";
        token_expiries: GaugeVec = "token_expiry_timestamp_seconds" []
            "when the newest accepted token ends, seconds since 1970";
        token_renewals: IntCounterVec = "token_renewals_total"
            ["result" = ["accepted", "refused", "source"]]
            "token puts by result";
        token_key_in_use: IntGaugeVec = "token_key_in_use" ["slot" = ["primary", "secondary"]]
            "1 for the policy key that signs";
        certificate_expiry: GaugeVec = "certificate_expiry_timestamp_seconds" ["file"]
            "when a certificate ends, seconds since 1970";
        config_reloads: IntCounterVec = "config_reloads_total" ["result" = ["ok", "failed"]]
            "reloads of configuration, rules and certificates";
        config_successes: IntGaugeVec = "config_last_reload_successful" []
            "1 when the newest start or reload was taken, 0 when it was refused";
        config_success_times: GaugeVec = "config_last_reload_success_timestamp_seconds" []
            "when what is in force was read, seconds since 1970";
        ready_states: IntGaugeVec = "ready" []
            "1 while /ready answers 200";
        loaded_identities: IntGaugeVec = "loaded_identities"
            ["credential" = ["psk", "x509", "sas", "password"]]
            "identities the rules in force know by name, by kind of credential";
        loaded_rules: IntGaugeVec = "loaded_rules" []
            "[[rule]]s in force";
        short_psk_keys: IntGaugeVec = "psk_short_keys" []
            "PSK identities in force with a key of less than 16 bytes";
        psk_key_used: IntCounterVec = "psk_key_used_total" ["slot" = ["key", "next_key"]]
            "PSK handshakes by the key that proved the identity";
        trace_spans: IntCounterVec = "trace_spans_total"
            ["result" = ["exported", "rejected", "failed", "queue_full"]]
            "spans of sampled messages, by what became of them";
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
        downlink_duration: Histogram = downlink_durations [] "Observed once per QoS 1 command.";
        method_duration: Histogram = method_durations [] "Observed once per answered call.";
        config_success: IntGauge = config_successes [] "Whether the newest reload was taken.";
        config_success_time: Gauge = config_success_times [] "When that was.";
        ready: IntGauge = ready_states [] "Brought up to date when rendered.";
        rules_loaded: IntGauge = loaded_rules [] "Rules in force.";
        long_keep_alive: IntGauge = long_keep_alives [] "Connections with a long keep-alive.";
        websocket: IntGauge = websockets [] "Connections over WebSocket.";
        psk_short_keys: IntGauge = short_psk_keys [] "Identities with a short key.";
        uplink_inflight: IntGauge = inflight ["uplink"] "Messages not settled, uplink.";
        downlink_inflight: IntGauge = inflight ["downlink"] "Messages not settled, downlink.";
        hub_accepted: IntCounter = hub_deliveries ["accepted"] "Outcome `accepted`.";
        hub_throttled: IntCounter = hub_throttles [] "Throttling answers.";
        token_expiry: Gauge = token_expiries [] "End of the newest accepted token.";
        trace_exported: IntCounter = trace_spans ["exported"] "The collector took them.";
        trace_rejected: IntCounter = trace_spans ["rejected"] "It will not take them.";
        trace_failed: IntCounter = trace_spans ["failed"] "Given up after several tries.";
        trace_queue_full: IntCounter = trace_spans ["queue_full"] "No room to wait.";
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
    /// What brings gauges up to date that others hold the truth of; once per gateway. It must
    /// not hold what holds these metrics.
    pub fn before_render(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        let _ = self.before.set(Box::new(refresh));
    }

    /// Shows a bound and its use side by side.
    pub fn show_limit(&self, limit: &str, in_use: usize, bound: usize) {
        let shown = |value| i64::try_from(value).unwrap_or(i64::MAX);
        let limits = self.limits.with_label_values(&[limit]);
        limits.set(shown(bound));
        let uses = self.limits_in_use.with_label_values(&[limit]);
        uses.set(shown(in_use));
    }

    /// The exposition in Prometheus text format, process metrics included.
    #[must_use]
    pub fn render(&self) -> String {
        let dropped = super::log::dropped().saturating_sub(self.log_dropped.get());
        self.log_dropped.inc_by(dropped);
        if let Some(refresh) = self.before.get() {
            refresh(self);
        }
        let (queued, room) = super::log::queued();
        self.show_limit("log_queue_bytes", queued, room);
        if let (Some(resident), Some(bound)) = (memory::resident(), memory::bound()) {
            self.show_limit("memory_bytes", resident, bound);
        }
        let families = self.registry.gather();
        let mut text = String::new();
        match TextEncoder::new().encode_utf8(&families, &mut text) {
            Ok(()) => text,
            Err(error) => format!("# encoding failed: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, SECONDS};

    #[test]
    fn series_with_known_labels_exist_from_the_start_at_zero() {
        let text = Metrics::new().render();
        for series in [
            "config_reloads_total{result=\"failed\"} 0",
            "config_reloads_total{result=\"ok\"} 0",
            "config_last_reload_successful 0",
            "hub_links{role=\"downlink\",state=\"attaching\"} 0",
            "psk_key_used_total{slot=\"next_key\"} 0",
            "token_renewals_total{result=\"refused\"} 0",
            "message_bytes_count{direction=\"downlink\"} 0",
            "downlink_duration_seconds_count 0",
            "handshake_duration_seconds_count{credential=\"x509\"} 0",
            "loaded_identities{credential=\"psk\"} 0",
            "limit{limit=\"log_queue_bytes\"} 4194304",
            "limit_in_use{limit=\"log_queue_bytes\"} 0",
            "log_lines_dropped_total 0",
            "panics_total 0",
            "ready 0",
        ] {
            assert!(
                text.contains(&format!("\niothub_gateway_{series}\n")),
                "{series}\n{text}"
            );
        }
    }

    #[test]
    fn durations_are_told_apart_from_one_millisecond_to_two_minutes() {
        assert_eq!(
            (SECONDS.first(), SECONDS.last()),
            (Some(&0.001), Some(&120.0))
        );
        assert!(SECONDS.windows(2).all(|pair| pair[0] < pair[1]));
        // No bucket is wider than two and a half times the one before, up to a minute.
        assert!(SECONDS.windows(2).all(|pair| pair[1] <= pair[0] * 3.0));
    }

    #[test]
    fn the_process_is_told_with_fractions_of_its_processor_time() {
        let metrics = Metrics::new();
        let value = |name: &str| -> f64 {
            let text = metrics.render();
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")));
            let value = line.and_then(|line| line.split(' ').nth(1));
            value.and_then(|value| value.parse().ok()).expect(name)
        };
        let before = value("process_cpu_seconds_total");
        let mut sum = 0_u64;
        while value("process_cpu_seconds_total") - before < 0.001 {
            sum = sum.wrapping_add(1);
        }
        let used = value("process_cpu_seconds_total");
        assert!(used < before + 60.0, "{sum}");
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        let now = crate::runtime::clock::unix().as_secs() as f64;
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn every_metric_renders_with_the_prefix() {
        let metrics = Metrics::new();
        metrics.disconnects.with_label_values(&["clean"]).inc();
        let text = metrics.render();
        let built = format!(
            "iothub_gateway_build_info{{commit=\"{}\",version=",
            crate::COMMIT
        );
        assert!(text.contains(&built), "{text}");
        assert!(text.contains("iothub_gateway_disconnects_total{reason=\"clean\"} 1"));
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
