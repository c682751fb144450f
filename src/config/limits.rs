//! Every bound of the process: name, default, unit, and the memory it multiplies.

use crate::config::OnDisconnect;
use std::time::Duration;

/// `[limits]`. Memory cost is worst case, per unit of the bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Device connections, all listeners together.
    pub connections: usize,
    /// Connections from one source address.
    pub connections_per_source: usize,
    /// Connections that have not finished TLS and CONNECT.
    pub handshakes: usize,
    /// The same, from one source address.
    pub handshakes_per_source: usize,
    /// Time for a whole ClientHello.
    pub hello_timeout: Duration,
    /// Time for TLS.
    pub tls_timeout: Duration,
    /// Time from the end of TLS to a whole CONNECT.
    pub connect_timeout: Duration,
    /// Time a socket may refuse to take bytes before the device is closed.
    pub write_timeout: Duration,
    /// Time for a packet once its first byte was read.
    pub packet_timeout: Duration,
    /// Largest keep-alive granted, also used for keep-alive 0 (IoT Hub: 1177 s).
    pub keep_alive_max: Duration,
    /// Largest packet before CONNECT is answered, bytes.
    pub connect_bytes: usize,
    /// Largest packet after it, bytes.
    pub packet_bytes: usize,
    /// Uplink messages of a device the hub has not decided about.
    pub uplink_messages: usize,
    /// Their bytes.
    pub uplink_bytes: usize,
    /// Commands sent to a device and not acknowledged; the AMQP credit.
    pub downlink_messages: usize,
    /// Topic length, bytes.
    pub topic_bytes: usize,
    /// Topic levels.
    pub topic_levels: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet: usize,
    /// Properties of one message.
    pub properties: usize,
    /// Password checks running at once.
    pub password_checks: usize,
    /// Pause forced on a device whose holders take it over again and again; doubles up to 60 s.
    pub takeover_damping: Duration,
    /// What becomes of unacknowledged commands when their device leaves.
    pub commands_on_disconnect: OnDisconnect,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 15_000,
            connections_per_source: 15_000,
            handshakes: 1_000,
            handshakes_per_source: 500,
            hello_timeout: Duration::from_secs(5),
            tls_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            packet_timeout: Duration::from_secs(30),
            keep_alive_max: Duration::from_secs(1177),
            connect_bytes: 4 * 1024,
            packet_bytes: 256 * 1024 + 4 * 1024,
            uplink_messages: 32,
            uplink_bytes: 512 * 1024,
            downlink_messages: 8,
            topic_bytes: 2 * 1024,
            topic_levels: 16,
            filters_per_packet: 32,
            properties: 64,
            password_checks: 4,
            takeover_damping: Duration::from_secs(1),
            commands_on_disconnect: OnDisconnect::Release,
        }
    }
}
